//! A keystroke on a slow line that others fill, between the relay's program and a device.
#![cfg(all(feature = "relay", target_os = "linux"))]
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test ends where its own means fail")]

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/line/mod.rs"]
mod line;

mod changes;
mod downloads;
mod interrupted;
mod keys;
mod neighbours;
mod slow_readers;

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant};

use portable_atomic::AtomicU64;

use common::device::Device;
use common::relay::Relay;
use common::service::Service;
use common::{DEADLINE, Peer};
use line::{Line, RELAY, Shape};
use tcpremote::device::EventKind;

/// 1 Mbit/s, as a line in the country has it, with the queue of a usual router.
const SHAPE: Shape = Shape { rate: 125_000, round_trip: Duration::from_millis(50), queue: 256 * 1024 };

/// Does `test` where the device is on such a line; says so where there can be none.
fn on_a_line(shape: Shape, test: impl FnOnce(&Line) + Send) {
    match Line::open(shape) {
        Ok(line) => line.on_device_side(|| test(&line)),
        Err(reason) => say(&format!("SKIPPED: a line with a FIFO cannot be made here (are you root?): {reason}")),
    }
}

/// A relay and its device at the two ends of the line, with an entrance for each service.
struct Tunnel<'a> {
    line: &'a Line,
    relay: Relay,
    _device: Device,
    _services: Vec<Service>,
}

impl<'a> Tunnel<'a> {
    /// This thread is where the device is.
    fn open(line: &'a Line, services: Vec<Service>) -> Self {
        let relay = line.on_relay_side(|| {
            let mut command = common::relay::command();
            command.args(["--log", "debug", &format!("{RELAY}:0")]);
            for service in &services {
                command.args(["127.0.0.1:0", &service.address().to_string()]);
            }
            Relay::spawn(command, services.len())
        });
        let mut device = Device::start(relay.device_addr());
        device.wait_for(EventKind::Listening);
        Self { line, relay, _device: device, _services: services }
    }

    /// With an echo, and a service that sends for ever.
    fn with_endless(line: &'a Line) -> Self {
        let endless = Service::start(|mut peer| while peer.try_send(&[b'x'; 16 * 1024]).is_ok() {});
        Self::open(line, vec![Service::echo(), endless])
    }

    fn connect(&self, place: usize) -> Peer {
        let entrance = self.relay.client_addrs()[place];
        self.line.on_relay_side(|| Peer::connect(entrance))
    }

    /// A client of the first service, which is an echo.
    fn keys(&self) -> Peer {
        let mut keys = self.connect(0);
        keys::begin(&mut keys);
        keys
    }

    /// Starts so many downloads from the second service, and gives the number of bytes that they have brought.
    fn download(&self, count: usize) -> Arc<AtomicU64> {
        let bytes = Arc::new(AtomicU64::new(0));
        for _ in 0..count {
            let (mut download, bytes) = (self.connect(1), Arc::clone(&bytes));
            // It ends with the tunnel, however that ends.
            thread::spawn(move || {
                while let Ok(read @ 1..) = download.try_read(DEADLINE).map(|read| read.len() as u64) {
                    bytes.fetch_add(read, Relaxed);
                }
            });
        }
        bytes
    }
}

/// What `work` gives, and how many bytes a second each of these counters grew by meanwhile.
fn rates_while<const N: usize, T>(counters: [&AtomicU64; N], work: impl FnOnce() -> T) -> (T, [f64; N]) {
    let (began, before) = (Instant::now(), counters.map(|counter| counter.load(Relaxed)));
    let result = work();
    let mut rates = [0.0; N];
    for ((rate, counter), before) in rates.iter_mut().zip(counters).zip(before) {
        *rate = (counter.load(Relaxed) - before) as f64 / began.elapsed().as_secs_f64();
    }
    (result, rates)
}

/// Of the line, in %.
fn share_of(shape: Shape, rate: f64) -> f64 {
    rate / f64::from(shape.rate) * 100.0
}

/// Past the capture of the test harness: a skipped test and the figures are to be seen.
fn say(line: &str) {
    let mut stderr = io::stderr();
    writeln!(stderr, "{line}").unwrap();
}
