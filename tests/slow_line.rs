//! A keystroke on a slow line that downloads fill, between the relay's program and a device.
#![cfg(all(feature = "relay", target_os = "linux"))]
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test ends where its own means fail")]

#[path = "common/mod.rs"]
mod common;
#[path = "common/line/mod.rs"]
mod line;

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use common::device::Device;
use common::relay::Relay;
use common::service::Service;
use common::{DEADLINE, Peer};
use line::{Line, RELAY, Shape};
use tcpremote::device::EventKind;

/// 1 Mbit/s, as a line in the country has it, with the queue of a usual router.
const SHAPE: Shape = Shape { rate: 125_000, round_trip: Duration::from_millis(50), queue: 256 * 1024 };
const DOWNLOADS: usize = 8;
/// Until the downloads have the line and its queue is as long as it gets.
const WARM_UP: Duration = Duration::from_secs(6);
const WINDOW: Duration = Duration::from_secs(12);
/// One key after the other, whether or not the echo of the last is back.
const KEY: Duration = Duration::from_millis(100);
const ECHO_SIZE: usize = 64;

/// Half of the echoes are back after so long. On a quiet machine it is 75 ms; it was 1.8 s when the queue was the line's.
const P50_AT_MOST: Duration = Duration::from_millis(400);
/// What the downloads have of the line together, in %. On a quiet machine it is 91; TCP's headers take 4 of the rest.
const SHARE_AT_LEAST: f64 = 70.0;
/// Echoes that make a median.
const ENOUGH: usize = 30;

#[test]
fn a_key_comes_back_beside_eight_downloads_that_fill_a_line_of_1_mbit() {
    let line = match Line::open(SHAPE) {
        Ok(line) => line,
        Err(reason) => {
            return say(&format!("SKIPPED: a line with a FIFO cannot be made here (are you root?): {reason}"));
        }
    };
    let (latencies, share) = line.on_device_side(|| beside_downloads(&line));
    let at = |percent: usize| latencies.get(latencies.len() * percent / 100).copied().unwrap_or(Duration::MAX);
    let figures = format!(
        "beside {DOWNLOADS} downloads on 1 Mbit/s an echo takes {:.1?} (p50), {:.1?} (p99); they have {share:.1} % of the line",
        at(50),
        at(99),
    );
    say(&figures);
    assert!(latencies.len() >= ENOUGH, "only {} echoes came back: {figures}", latencies.len());
    assert!(at(50) <= P50_AT_MOST && share >= SHARE_AT_LEAST, "{figures}");
}

/// How long each echo took, ascending, and the downloads' share of the line, in %. This thread is where the device is.
fn beside_downloads(line: &Line) -> (Vec<Duration>, f64) {
    let echo = Service::echo();
    let endless = Service::start(|mut peer| while peer.try_send(&[b'x'; 16 * 1024]).is_ok() {});
    let relay = line.on_relay_side(|| {
        let mut command = common::relay::command();
        command.args(["--log", "debug", &format!("{RELAY}:0")]);
        for service in [&echo, &endless] {
            command.args(["127.0.0.1:0", &service.address().to_string()]);
        }
        Relay::spawn(command, 2)
    });
    let mut device = Device::start(relay.device_addr());
    device.wait_for(EventKind::Listening);
    let entrances = relay.client_addrs();
    let connect = |entrance: usize| line.on_relay_side(|| Peer::connect(entrances[entrance]));

    let mut keys = connect(0);
    keys.send(&[b'k'; ECHO_SIZE]);
    keys.expect(&[b'k'; ECHO_SIZE]);
    let bytes = Arc::new(AtomicU64::new(0));
    for _ in 0..DOWNLOADS {
        let (mut download, bytes) = (connect(1), Arc::clone(&bytes));
        // It ends with the tunnel, however that ends.
        thread::spawn(move || {
            while let Ok(read @ 1..) = download.try_read(DEADLINE).map(|read| read.len() as u64) {
                bytes.fetch_add(read, Relaxed);
            }
        });
    }
    thread::sleep(WARM_UP);
    let (began, before) = (Instant::now(), bytes.load(Relaxed));
    let latencies = type_keys(keys);
    let rate = (bytes.load(Relaxed) - before) as f64 / began.elapsed().as_secs_f64();
    (latencies, rate / f64::from(SHAPE.rate) * 100.0)
}

/// Sends keys for the time of the window. Gives how long the echo of each took, ascending.
fn type_keys(keys: Peer) -> Vec<Duration> {
    let (mut writer, mut reader) = (keys.try_clone(), keys);
    let (sent, typed) = mpsc::channel();
    let end = Instant::now() + WINDOW;
    let mut latencies: Vec<Duration> = thread::scope(|scope| {
        scope.spawn(move || {
            while Instant::now() < end {
                sent.send(Instant::now()).unwrap();
                writer.send(&[b'k'; ECHO_SIZE]);
                thread::sleep(KEY);
            }
        });
        let echoes = typed.into_iter().map(|sent| {
            reader.expect(&[b'k'; ECHO_SIZE]);
            sent.elapsed()
        });
        echoes.collect()
    });
    latencies.sort_unstable();
    latencies
}

/// Past the capture of the test harness: a skipped test and the figures are to be seen.
fn say(line: &str) {
    let mut stderr = io::stderr();
    writeln!(stderr, "{line}").unwrap();
}
