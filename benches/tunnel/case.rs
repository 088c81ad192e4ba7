//! What is measured, and the figures it gives.

use std::fmt;
use std::io;
use std::time::Duration;

use crate::contestant::{Contestant, Tunnel};
use crate::load;
use crate::service::{Service, Wish};
use crate::target::Target;

const GIB: f64 = (1u64 << 30) as f64;

/// How much time is spent.
#[derive(Clone, Copy)]
pub(crate) struct Effort {
    pub(crate) rounds: usize,
    /// Measured time of each sample.
    pub(crate) window: Duration,
}

impl Effort {
    pub(crate) const FULL: Self = Self { rounds: 7, window: Duration::from_millis(500) };
    pub(crate) const QUICK: Self = Self { rounds: 3, window: Duration::from_millis(150) };
}

/// One load, which gives one or two figures.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Case {
    Down { clients: usize },
    Up { clients: usize },
    Echo { clients: usize },
    EchoBesideDownload,
    Connects { parallel: usize },
    IdleMemory { clients: usize },
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
    Figure { name: "throughput", unit: "MB/s", more_is_better: true, target: Target::OfHaproxy(1.25) };
const CPU: Figure =
    Figure { name: "CPU of the tunnel", unit: "s/GiB", more_is_better: false, target: Target::OfHaproxy(0.65) };
const P50: Figure = Figure { name: "p50", unit: "µs", more_is_better: false, target: Target::OfBestPeer(1.0) };
const P99: Figure = Figure { name: "p99", ..P50 };
const RATE: Figure = Figure { name: "rate", unit: "1/s", more_is_better: true, target: Target::OfBestPeer(1.2) };
const MEMORY: Figure = Figure { name: "memory of each", unit: "KiB", more_is_better: false, target: Target::Of(1.0) };

impl Case {
    pub(crate) const ALL: [Self; 10] = [
        Self::Down { clients: 1 },
        Self::Down { clients: 8 },
        Self::Up { clients: 1 },
        Self::Up { clients: 8 },
        Self::Echo { clients: 1 },
        Self::Echo { clients: 32 },
        Self::EchoBesideDownload,
        Self::Connects { parallel: 1 },
        Self::Connects { parallel: 8 },
        Self::IdleMemory { clients: 200 },
    ];

    /// The rows that it fills, in the order of the values that `measure` returns.
    pub(crate) fn figures(self) -> &'static [Figure] {
        match self {
            Self::Down { .. } | Self::Up { .. } => &[THROUGHPUT, CPU],
            Self::Echo { .. } | Self::EchoBesideDownload => &[P50, P99],
            Self::Connects { .. } => &[RATE],
            Self::IdleMemory { .. } => &[MEMORY],
        }
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
            Self::Down { clients } => {
                let traffic = traffic(&vec![Wish::Download; clients])?;
                Ok(bulk(traffic.downloaded, traffic.elapsed, traffic.cpu))
            }
            Self::Up { clients } => {
                let traffic = traffic(&vec![Wish::Upload; clients])?;
                Ok(bulk(traffic.uploaded, traffic.elapsed, traffic.cpu))
            }
            Self::Echo { clients } => Ok(percentiles(&traffic(&vec![Wish::Echo; clients])?.latencies)),
            Self::EchoBesideDownload => {
                // Echoes may take long here: more time, so that their 99th percentile is more than the greatest of few.
                let traffic = traffic_for(&[Wish::Download, Wish::Echo], effort.window * 3)?;
                Ok(percentiles(&traffic.latencies))
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
            Self::Connects { parallel: 1 } => write!(formatter, "connects, one at a time"),
            Self::Connects { parallel } => write!(formatter, "connects, {parallel} at a time"),
            Self::IdleMemory { clients } => write!(formatter, "{clients} idle clients"),
        }
    }
}

fn bulk(bytes: u64, elapsed: Duration, cpu: Option<Duration>) -> Vec<Option<f64>> {
    let bytes = bytes as f64;
    vec![Some(bytes / elapsed.as_secs_f64() / 1e6), cpu.map(|cpu| cpu.as_secs_f64() / (bytes / GIB))]
}

/// The median and the 99th percentile, in µs, of an ascending list.
fn percentiles(latencies: &[Duration]) -> Vec<Option<f64>> {
    let at = |percent: usize| latencies.get(latencies.len() * percent / 100).map(|time| time.as_secs_f64() * 1e6);
    vec![at(50), at(99)]
}
