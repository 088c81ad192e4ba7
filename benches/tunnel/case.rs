//! What is measured, and the figures it gives.

use std::cell::Cell;
use std::fmt;
use std::io;
use std::iter;
use std::thread;
use std::time::Duration;

use crate::contestant::{Contestant, Tunnel};
use crate::haproxy;
use crate::line::{self, Line, Slow};
use crate::links;
use crate::load::{self, Traffic};
use crate::service::{Service, Wish};
use crate::syscalls;
use crate::target::Target;

const MIB: f64 = (1u64 << 20) as f64;
const GIB: f64 = (1u64 << 30) as f64;

/// How much time is spent.
#[derive(Clone, Copy)]
pub(crate) struct Effort {
    pub(crate) rounds: usize,
    /// Measured time of each sample.
    pub(crate) window: Duration,
    /// Of a transfer on the long line, from its first byte on.
    pub(crate) transfer: Duration,
    /// On the slowest line, once that is full.
    pub(crate) slow: Duration,
}

impl Effort {
    pub(crate) const FULL: Self = Self {
        rounds: 5,
        window: Duration::from_millis(500),
        transfer: Duration::from_secs(10),
        slow: Duration::from_secs(5),
    };
    pub(crate) const QUICK: Self = Self {
        rounds: 2,
        window: Duration::from_millis(100),
        transfer: Duration::from_secs(2),
        slow: Duration::from_secs(2),
    };
}

/// One load, which gives one or more figures.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Case {
    Down {
        clients: usize,
    },
    Up {
        clients: usize,
    },
    Echo {
        clients: usize,
    },
    EchoBesideDownload,
    EchoBesidePaced,
    EchoBesideStalled,
    Connects {
        parallel: usize,
    },
    IdleMemory {
        clients: usize,
    },
    LongLine {
        wish: Wish,
    },
    Syscalls,
    /// One of the loads above, for those that encrypt.
    Encrypted(Load),
    /// So many devices with keys at one relay, which are idle.
    Links {
        devices: usize,
    },
    /// Echoes beside so many transfers without end.
    SlowLine {
        slow: Slow,
        uploads: usize,
        downloads: usize,
    },
}

/// What is measured of those that encrypt.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Load {
    Down { clients: usize },
    Up { clients: usize },
    Echo,
    Connects,
    IdleMemory,
}

/// A row of the table.
#[derive(Clone, Copy)]
pub(crate) struct Figure {
    pub(crate) name: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) more_is_better: bool,
    pub(crate) target: Target,
}

const THROUGHPUT: Figure =
    Figure { name: "throughput", unit: "MB/s", more_is_better: true, target: Target::OfPeer(haproxy::PLAIN, 1.15) };
const SHARED_THROUGHPUT: Figure = Figure { target: Target::OfPeer(haproxy::PLAIN, 1.3), ..THROUGHPUT };
const CPU: Figure = Figure {
    name: "CPU of the tunnel",
    unit: "s/GiB",
    more_is_better: false,
    target: Target::OfPeer(haproxy::PLAIN, 0.8),
};
const P50: Figure = Figure { name: "p50", unit: "µs", more_is_better: false, target: Target::OfBestPeer(1.0) };
const P99: Figure = Figure { name: "p99", ..P50 };
/// Beside bytes that share a link with it.
const DOUBLE_P50: Figure = Figure { target: Target::OfBestPeer(2.0), ..P50 };
const RATE: Figure = Figure { name: "rate", unit: "1/s", more_is_better: true, target: Target::OfBestPeer(1.2) };
const MEMORY: Figure = Figure { name: "memory of each", unit: "KiB", more_is_better: false, target: Target::Of(1.0) };
const SHARE: Figure =
    Figure { name: "share of the line's rate", unit: "%", more_is_better: true, target: Target::Of(90.0) };
const CALLS: Figure = Figure { name: "system calls", unit: "1/MiB", more_is_better: false, target: Target::Of(40.0) };
const STALLED_P50: Figure = Figure { target: Target::None, ..P50 };
const STALLED_P99: Figure = Figure { target: Target::None, ..P99 };
/// The same but for noise: with peers that give each client a connection of its own, it is up to 1.24 by chance.
const GROWTH_P50: Figure =
    Figure { name: "p50 by p50 without it", unit: "ratio", more_is_better: false, target: Target::Of(1.25) };
const GROWTH_P99: Figure = Figure { name: "p99 by p99 without it", ..GROWTH_P50 };
const SLOW_P50: Figure = Figure { unit: "ms", target: Target::None, ..P50 };
const SLOW_P99: Figure = Figure { unit: "ms", target: Target::None, ..P99 };
const DOWN_SHARE: Figure = Figure { name: "downloads, share of the line's rate", ..SHARE };
const UP_SHARE: Figure = Figure { name: "uploads, share of the line's rate", ..SHARE };
const UNJUDGED_SHARE: Figure = Figure { target: Target::None, ..DOWN_SHARE };
const ENCRYPTED_THROUGHPUT: Figure = Figure { target: Target::OfPeer(haproxy::TLS, 1.0), ..THROUGHPUT };
const ENCRYPTED_CPU: Figure = Figure { target: Target::OfPeer(haproxy::TLS, 1.2), ..CPU };
const ENCRYPTED_P50: Figure = Figure { target: Target::OfOurs(1.15), ..P50 };
const ENCRYPTED_P99: Figure = Figure { target: Target::None, ..P99 };
/// One handshake for a link, where the peers have one for each client.
const ENCRYPTED_RATE: Figure = Figure { target: Target::OfPeer(haproxy::TLS, 8.0), ..RATE };
const ENCRYPTED_MEMORY: Figure = Figure { target: Target::None, ..MEMORY };
const LINK_MEMORY: Figure = Figure { name: "memory of the relay for each", target: Target::Of(6.0), ..MEMORY };
const LINK_RATE: Figure =
    Figure { name: "links made by a core of the relay", unit: "1/s", more_is_better: true, target: Target::None };
const CUT: Figure =
    Figure { name: "until a revoked one is cut", unit: "ms", more_is_better: false, target: Target::Of(1000.0) };
const BACK: Figure = Figure {
    name: "until all are back after a restart of the relay",
    unit: "s",
    more_is_better: false,
    target: Target::Of(20.0),
};
/// Bytes that share a link with an echo may cost it so much.
const TRIPLE_P99: Figure = Figure { name: "p99 by p99 alone", target: Target::Of(3.0), ..GROWTH_P50 };

impl Case {
    pub(crate) const ALL: [Self; 30] = [
        Self::Down { clients: 1 },
        Self::Down { clients: 8 },
        Self::Up { clients: 1 },
        Self::Up { clients: 8 },
        Self::Echo { clients: 1 },
        Self::Echo { clients: 32 },
        Self::EchoBesideDownload,
        Self::EchoBesidePaced,
        Self::EchoBesideStalled,
        Self::Connects { parallel: 1 },
        Self::Connects { parallel: 8 },
        Self::IdleMemory { clients: 200 },
        Self::LongLine { wish: Wish::Download },
        Self::LongLine { wish: Wish::Upload },
        Self::Syscalls,
        Self::Encrypted(Load::Down { clients: 1 }),
        Self::Encrypted(Load::Down { clients: 8 }),
        Self::Encrypted(Load::Up { clients: 1 }),
        Self::Encrypted(Load::Up { clients: 8 }),
        Self::Encrypted(Load::Echo),
        Self::Encrypted(Load::Connects),
        Self::Encrypted(Load::IdleMemory),
        Self::Links { devices: 1000 },
        Self::SlowLine { slow: Slow::Mbit1, uploads: 0, downloads: 0 },
        Self::SlowLine { slow: Slow::Mbit1, uploads: 0, downloads: 1 },
        Self::SlowLine { slow: Slow::Mbit1, uploads: 0, downloads: 8 },
        Self::SlowLine { slow: Slow::Mbit10, uploads: 0, downloads: 0 },
        Self::SlowLine { slow: Slow::Mbit10, uploads: 0, downloads: 1 },
        Self::SlowLine { slow: Slow::Mbit10, uploads: 0, downloads: 8 },
        Self::SlowLine { slow: Slow::Mbit10, uploads: 8, downloads: 8 },
    ];

    /// The rows that it fills, in the order of the values that `measure` returns.
    pub(crate) fn figures(self) -> &'static [Figure] {
        match self {
            Self::Down { clients: 1 } | Self::Up { clients: 1 } => &[THROUGHPUT, CPU],
            Self::Down { .. } | Self::Up { .. } => &[SHARED_THROUGHPUT, CPU],
            Self::Echo { .. } => &[P50, P99],
            Self::EchoBesideDownload => &[DOUBLE_P50, P99],
            Self::EchoBesidePaced => &[P50, P99, TRIPLE_P99],
            Self::EchoBesideStalled => &[STALLED_P50, STALLED_P99, GROWTH_P50, GROWTH_P99],
            Self::Connects { .. } => &[RATE],
            Self::IdleMemory { .. } => &[MEMORY],
            Self::LongLine { .. } => &[SHARE],
            Self::Syscalls => &[CALLS],
            Self::Encrypted(Load::Down { .. } | Load::Up { .. }) => &[ENCRYPTED_THROUGHPUT, ENCRYPTED_CPU],
            Self::Encrypted(Load::Echo) => &[ENCRYPTED_P50, ENCRYPTED_P99],
            Self::Encrypted(Load::Connects) => &[ENCRYPTED_RATE],
            Self::Encrypted(Load::IdleMemory) => &[ENCRYPTED_MEMORY],
            Self::Links { .. } => &[LINK_MEMORY, LINK_RATE, CUT, BACK],
            Self::SlowLine { slow, uploads, downloads } => slow_figures(slow, uploads, downloads),
        }
    }

    /// Whether it is measured after all rounds, once: it is steady, or takes long.
    pub(crate) fn is_measured_once(self) -> bool {
        matches!(self, Self::LongLine { .. } | Self::Syscalls | Self::Links { .. } | Self::SlowLine { .. })
    }

    /// Whether it is about lines that are slow, which have a table of their own.
    pub(crate) fn is_slow_line(self) -> bool {
        matches!(self, Self::SlowLine { .. })
    }

    /// Whether it is about those that encrypt, which have a table of their own.
    pub(crate) fn is_encrypted(self) -> bool {
        matches!(self, Self::Encrypted(_) | Self::Links { .. })
    }

    /// If it cannot be measured on this machine: why.
    pub(crate) fn missing(self) -> Option<String> {
        if self == Self::Syscalls { syscalls::missing() } else { None }
    }

    /// One sample: a value for each figure, none where the contestant has no such thing.
    pub(crate) fn measure(
        self,
        contestant: &dyn Contestant,
        tunnel: &Tunnel,
        service: &Service,
        effort: Effort,
    ) -> io::Result<Vec<Option<f64>>> {
        let traffic_for = |wishes: &[Wish], window| load::traffic(tunnel, service, wishes, window);
        let traffic = |wishes: &[Wish]| traffic_for(wishes, effort.window);
        match self {
            Self::Down { clients } => traffic(&vec![Wish::Download; clients]).map(bulk),
            Self::Up { clients } => traffic(&vec![Wish::Upload; clients]).map(bulk),
            Self::Echo { clients } => {
                Ok(percentiles(&traffic(&vec![Wish::Echo; clients])?.latencies).map(Some).to_vec())
            }
            Self::EchoBesideDownload => {
                // Echoes may take long here: more time, so that their 99th percentile is more than the greatest of few.
                let traffic = traffic_for(&[Wish::Download, Wish::Echo], effort.window * 3)?;
                Ok(percentiles(&traffic.latencies).map(Some).to_vec())
            }
            Self::EchoBesidePaced => {
                let alone = percentiles(&traffic_for(&[Wish::Echo], effort.window)?.latencies);
                let wishes = [Wish::PacedDownload, Wish::Echo];
                let beside = percentiles(&traffic_for(&wishes, effort.window * 3)?.latencies);
                Ok([beside[0], beside[1], beside[1] / alone[1]].map(Some).to_vec())
            }
            Self::EchoBesideStalled => {
                let fresh = contestant.start(service.address())?;
                let echoes = load::beside_stalled(fresh, service, effort.window)?;
                let [alone, beside] = [percentiles(&echoes.alone), percentiles(&echoes.beside)];
                Ok([beside[0], beside[1], beside[0] / alone[0], beside[1] / alone[1]].map(Some).to_vec())
            }
            Self::Connects { parallel } => {
                load::connects(tunnel, service, parallel, effort.window).map(|rate| vec![Some(rate)])
            }
            Self::IdleMemory { clients } => {
                // Processes that have had 200 clients before would reuse that memory.
                let fresh = contestant.start(service.address())?;
                service.settle()?;
                load::idle_memory(&fresh, service, clients).map(|bytes| vec![bytes.map(|bytes| bytes / 1024.0)])
            }
            Self::LongLine { wish } => {
                let line = Line::long()?;
                let across = contestant.start_across(service.address(), &line)?;
                let traffic = load::traffic_from_start(&across, service, wish, effort.transfer)?;
                Ok(vec![Some(traffic.bytes() / traffic.elapsed.as_secs_f64() / f64::from(line::LONG.rate) * 100.0)])
            }
            Self::Syscalls => {
                let (pids, calls) = (tunnel.pids()?, Cell::new(0.0));
                let traffic = load::traffic_during(tunnel, service, &[Wish::Download], load::WARM_UP, || {
                    calls.set(syscalls::count(&pids, effort.window)?);
                    Ok(())
                })?;
                Ok(vec![Some(calls.get() * traffic.elapsed.as_secs_f64() / (traffic.bytes() / MIB))])
            }
            Self::Encrypted(load) => load.case().measure(contestant, tunnel, service, effort),
            Self::Links { devices } => {
                let links = links::measure(devices)?;
                let memory = links.memory / 1024.0;
                let [cut, back] = [links.cut, links.back].map(|time| time.as_secs_f64());
                Ok([memory, links.rate, cut * 1000.0, back].map(Some).to_vec())
            }
            Self::SlowLine { slow, uploads, downloads } => {
                on_slow_line(contestant, slow, uploads, downloads, effort.slow)
            }
        }
    }
}

impl Load {
    fn case(self) -> Case {
        match self {
            Self::Down { clients } => Case::Down { clients },
            Self::Up { clients } => Case::Up { clients },
            Self::Echo => Case::Echo { clients: 1 },
            Self::Connects => Case::Connects { parallel: 8 },
            Self::IdleMemory => Case::IdleMemory { clients: 200 },
        }
    }
}

impl fmt::Display for Case {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = |count: &usize| if *count == 1 { "" } else { "s" };
        match self {
            Self::Down { clients } => write!(formatter, "down, {clients} client{}", plural(clients)),
            Self::Up { clients } => write!(formatter, "up, {clients} client{}", plural(clients)),
            Self::Echo { clients } => write!(formatter, "echo of 64 bytes, {clients} client{}", plural(clients)),
            Self::EchoBesideDownload => write!(formatter, "echo of 64 bytes beside a download"),
            Self::EchoBesidePaced => write!(formatter, "echo of 64 bytes beside a download of 50 MB/s"),
            Self::EchoBesideStalled => write!(formatter, "echo of 64 bytes beside a stalled download"),
            Self::Connects { parallel: 1 } => write!(formatter, "connects, one at a time"),
            Self::Connects { parallel } => write!(formatter, "connects, {parallel} at a time"),
            Self::IdleMemory { clients } => write!(formatter, "{clients} idle clients"),
            Self::LongLine { wish: Wish::Upload } => write!(formatter, "up on a line of 100 ms and 100 Mbit/s"),
            Self::LongLine { .. } => write!(formatter, "down on a line of 100 ms and 100 Mbit/s"),
            Self::Syscalls => write!(formatter, "down, 1 client"),
            Self::Encrypted(load) => write!(formatter, "encrypted: {}", load.case()),
            Self::Links { devices } => write!(formatter, "encrypted: {devices} idle devices"),
            Self::SlowLine { slow, uploads, downloads } => {
                let line = match slow {
                    Slow::Mbit1 => "1 Mbit/s, 50 ms",
                    Slow::Mbit10 => "10 Mbit/s, 40 ms",
                };
                write!(formatter, "slow line of {line}: echo ")?;
                match (uploads, downloads) {
                    (0, 0) => write!(formatter, "alone"),
                    (0, downloads) => write!(formatter, "beside {downloads} download{}", plural(downloads)),
                    (uploads, downloads) => write!(formatter, "beside {uploads} uploads and {downloads} downloads"),
                }
            }
        }
    }
}

fn slow_figures(slow: Slow, uploads: usize, downloads: usize) -> &'static [Figure] {
    const fn p50(most: f64) -> Figure {
        Figure { target: Target::Of(most), ..SLOW_P50 }
    }
    match (slow, uploads, downloads) {
        (Slow::Mbit1, _, 0) => const { &[p50(52.0), SLOW_P99] },
        (Slow::Mbit1, _, 1) => const { &[p50(100.0), SLOW_P99, UNJUDGED_SHARE] },
        (Slow::Mbit1, ..) => const { &[p50(120.0), SLOW_P99, DOWN_SHARE] },
        (Slow::Mbit10, _, 0) => &[SLOW_P50, SLOW_P99],
        (Slow::Mbit10, 0, _) => &[SLOW_P50, SLOW_P99, UNJUDGED_SHARE],
        (Slow::Mbit10, ..) => const { &[p50(80.0), SLOW_P99, DOWN_SHARE, UP_SHARE] },
    }
}

/// On a line of its own, which is new.
fn on_slow_line(
    contestant: &dyn Contestant,
    slow: Slow,
    uploads: usize,
    downloads: usize,
    window: Duration,
) -> io::Result<Vec<Option<f64>>> {
    let (line, transfers) = (Line::slow(slow)?, uploads + downloads);
    // Enough for the bytes that say that a contestant is ready.
    let service = line.on_device_side(|| Service::start(2 * (transfers + 2)))?;
    let wishes: Vec<Wish> = [(Wish::Keys, 1), (Wish::Download, downloads), (Wish::Upload, uploads)]
        .into_iter()
        .flat_map(|(wish, count)| iter::repeat_n(wish, count))
        .collect();
    let (warm_up, window) = match (slow, transfers) {
        (_, 0) => (load::WARM_UP, window / 2),
        (Slow::Mbit1, _) => (slow.warm_up(), window),
        (Slow::Mbit10, _) => (slow.warm_up(), window * 2 / 3),
    };
    let traffic = line.on_server_side(|| {
        let tunnel = contestant.start_across(service.address(), &line)?;
        load::traffic_of_clients(&tunnel, &service, &wishes, warm_up, || {
            thread::sleep(window);
            Ok(())
        })
    })?;
    let share = |bytes: f64| bytes / traffic.elapsed.as_secs_f64() / f64::from(slow.shape().rate) * 100.0;
    let [p50, p99] = percentiles(&traffic.latencies).map(|microseconds| microseconds / 1000.0);
    let shares = [(downloads, traffic.downloaded), (uploads, traffic.uploaded)];
    let shares = shares.into_iter().filter(|&(count, _)| count > 0).map(|(_, bytes)| share(bytes));
    Ok([p50, p99].into_iter().chain(shares).map(Some).collect())
}

fn bulk(traffic: Traffic) -> Vec<Option<f64>> {
    let cpu = traffic.cpu.map(|cpu| cpu.as_secs_f64() / (traffic.bytes() / GIB));
    vec![Some(traffic.bytes() / traffic.elapsed.as_secs_f64() / 1e6), cpu]
}

/// The median and the 99th percentile, in µs, of an ascending list; without end where no echo came back at all.
fn percentiles(latencies: &[Duration]) -> [f64; 2] {
    let at = |percent: usize| latencies.get(latencies.len() * percent / 100);
    [50, 99].map(|percent| at(percent).map_or(f64::INFINITY, |time| time.as_secs_f64() * 1e6))
}
