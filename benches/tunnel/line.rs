//! What is between the two halves of a contestant.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::OnceLock;
use std::time::Duration;

use crate::fifo::{self, Shape};
use crate::proxy::Proxy;

/// 100 Mbit/s over a round trip of 100 ms, whose bytes the queue has room for.
pub(crate) const LONG: Shape = Shape { rate: 12_500_000, round_trip: Duration::from_millis(100), queue: 1_250_000 };

/// What the queue of a slow line holds.
const QUEUE: usize = 256 * 1024;

/// A line that one download fills.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Slow {
    Mbit1,
    Mbit10,
}

impl Slow {
    pub(crate) fn shape(self) -> Shape {
        let (rate, round_trip) = match self {
            Self::Mbit1 => (125_000, 50),
            Self::Mbit10 => (1_250_000, 40),
        };
        Shape { rate, round_trip: Duration::from_millis(round_trip), queue: QUEUE }
    }

    /// How long it takes until its queue is as long as it gets.
    pub(crate) fn warm_up(self) -> Duration {
        Duration::from_secs(match self {
            Self::Mbit1 => 4,
            Self::Mbit10 => 2,
        })
    }
}

pub(crate) enum Line {
    Loopback,
    /// Holds its senders back when it is full, as their own kernels see it.
    Proxy(Proxy),
    /// Loses packets when it is full, as a router does.
    Fifo(fifo::Line),
}

impl Line {
    pub(crate) fn long() -> io::Result<Self> {
        Proxy::open(LONG).map(Self::Proxy)
    }

    /// With a real queue where that can be made.
    pub(crate) fn slow(slow: Slow) -> io::Result<Self> {
        match no_fifo() {
            None => fifo::Line::open(slow.shape()).map(Self::Fifo),
            Some(_) => Proxy::open(slow.shape()).map(Self::Proxy),
        }
    }

    /// Where a server listens, so that the line can lead to it.
    pub(crate) fn server_host(&self) -> Ipv4Addr {
        match self {
            Self::Loopback | Self::Proxy(_) => Ipv4Addr::LOCALHOST,
            Self::Fifo(_) => fifo::RELAY,
        }
    }

    /// Lets the line lead to `server`, and returns where that is for a device.
    pub(crate) fn toward(&self, server: SocketAddr) -> io::Result<SocketAddr> {
        match self {
            Self::Loopback | Self::Fifo(_) => Ok(server),
            Self::Proxy(proxy) => proxy.toward(server),
        }
    }

    /// Starts or opens something where the device is.
    pub(crate) fn on_device_side<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        match self {
            Self::Loopback | Self::Proxy(_) => work(),
            Self::Fifo(line) => line.on_device_side(work),
        }
    }

    /// Starts or opens something where the server and its clients are.
    pub(crate) fn on_server_side<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        match self {
            Self::Loopback | Self::Proxy(_) => work(),
            Self::Fifo(line) => line.on_relay_side(work),
        }
    }
}

/// What a slow line is on this machine, for the reader of the table.
pub(crate) fn describe_slow() -> String {
    let kib = QUEUE / 1024;
    match no_fifo() {
        None => {
            format!("a FIFO of {kib} KiB each way, by the kernel (tbf), between network namespaces, and headers count")
        }
        Some(reason) => {
            format!("a proxy that holds {kib} KiB each way and loses nothing, since a FIFO needs root ({reason})")
        }
    }
}

/// If no line with a FIFO can be made on this machine: why.
fn no_fifo() -> Option<&'static str> {
    static REASON: OnceLock<Option<String>> = OnceLock::new();
    REASON.get_or_init(|| fifo::Line::open(Slow::Mbit1.shape()).err().map(|error| error.to_string())).as_deref()
}
