//! A slow line between a device and its relay, each in a network namespace of its own (Linux only, as root).
//!
//! ```text
//! device: line == delay, in this process == line :router: uplink -- veth -- uplink :relay
//! ```
//!
//! The router has a FIFO toward each side, the kernel's own (`tbf`): packets wait there, and those that find it full are
//! lost. The kernels that this runs on have no `netem`, so packets are delayed by a thread that holds them. The FIFOs are
//! one hop away from both ends: a sender's own TCP would not let a FIFO on its own machine fill up.
//!
//! The namespaces have no names. They vanish with the last thread, process and socket in them, however this process ends.

mod delay;
mod namespace;
mod tun;

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::time::Duration;

use delay::Delay;
use namespace::{Namespace, run};
use tun::Tun;

/// The relay's address, as the device sees it.
pub(crate) const RELAY: Ipv4Addr = Ipv4Addr::new(10, 213, 2, 2);

/// Bytes that may leave a FIFO at once: two packets with their headers, or no rate is reached.
const BURST: usize = 3100;

/// What holds for each direction of a line.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    /// Bytes a second.
    pub(crate) rate: u32,
    /// There and back again, through empty queues.
    pub(crate) round_trip: Duration,
    /// Bytes that wait at most.
    pub(crate) queue: usize,
}

/// One line; it carries nothing more once it is dropped.
#[derive(Debug)]
pub(crate) struct Line {
    device: Namespace,
    relay: Namespace,
    _router: Namespace,
    _delay: Delay,
}

impl Line {
    /// # Errors
    /// Such a line cannot be made here, and why.
    pub(crate) fn open(shape: Shape) -> io::Result<Self> {
        let [device, router, relay] = [Namespace::new()?, Namespace::new()?, Namespace::new()?];
        let (near, far) = (device.run(|| Tun::open("line"))?, router.run(|| Tun::open("line"))?);
        let fifo = |interface: &str| {
            let Shape { rate, queue, .. } = shape;
            run("tc", &format!("qdisc add dev {interface} root tbf rate {rate}bps burst {BURST} limit {queue}"))
        };
        device.run(|| {
            up("lo")?;
            address("line", "10.213.1.2/30")?;
            run("ip", "route add default via 10.213.1.1")
        })?;
        router.run(|| {
            let peer = relay.path();
            run("ip", &format!("link add uplink type veth peer name uplink netns {}", peer.display()))?;
            address("line", "10.213.1.1/30")?;
            address("uplink", "10.213.2.1/30")?;
            fifo("line")?;
            fifo("uplink")?;
            fs::write("/proc/sys/net/ipv4/ip_forward", "1")
        })?;
        relay.run(|| {
            up("lo")?;
            address("uplink", &format!("{RELAY}/30"))?;
            run("ip", "route add default via 10.213.2.1")
        })?;
        let delay = Delay::start(near, far, shape.round_trip / 2)?;
        Ok(Self { device, relay, _router: router, _delay: delay })
    }

    /// What is opened or started in `work` is where the device is, and stays there.
    pub(crate) fn on_device_side<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.device.run(work)
    }

    /// What is opened or started in `work` is where the relay is, and stays there.
    pub(crate) fn on_relay_side<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.relay.run(work)
    }
}

fn address(interface: &str, address: &str) -> io::Result<()> {
    run("ip", &format!("address add {address} dev {interface}"))?;
    // A segment that is cut into packets only by the driver would pass the FIFO as one.
    run("ip", &format!("link set {interface} gso_max_segs 1"))?;
    up(interface)
}

fn up(interface: &str) -> io::Result<()> {
    run("ip", &format!("link set {interface} up"))
}
