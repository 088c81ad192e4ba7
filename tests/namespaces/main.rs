//! Half-open links, in network namespaces: nothing arrives any more, and no RST says so.
//!
//! It takes as long as the slowest of its cases, about 80 s, nearly all of it waiting.
#![cfg(target_os = "linux")]
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test ends where its own means fail")]

#[path = "../common/mod.rs"]
mod common;
mod network;

use std::io::{self, Write};
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;
use std::time::{Duration, Instant};

use common::device::Device;
use common::relay::Relay;
use common::service::Service;
use common::{DEADLINE, End, Peer, eventually};
use network::{Network, RELAY, remove_leftovers};
use tcpremote::connection::Protocol;
use tcpremote::device::{EventKind, State};

/// What a busy machine may add to a deadline.
const SLACK: Duration = Duration::from_secs(20);
/// How long a device may take to come back: an attempt of 10 s that began in the outage, and the wait behind it.
const COMES_BACK: Duration = Duration::from_secs(25);
/// An outage that a link survives.
const SHORT: Duration = Duration::from_secs(12);

#[derive(Clone, Copy, PartialEq)]
enum Traffic {
    Idle,
    /// Both ends of a stream send all the time.
    BothWays,
}

/// Returns what is to be printed of it.
type Case = Box<dyn Fn() -> String + Send>;

#[test]
fn a_half_open_link_is_found_in_time_by_both_ends_and_a_short_outage_costs_nothing() {
    remove_leftovers();
    if let Err(reason) = Network::new("try") {
        say(&format!("SKIPPED: the tests in network namespaces, which cannot be made here (are you root?): {reason}"));
        return;
    }
    let found = |name, relay, traffic, limit| move || half_open(name, relay, traffic, Duration::from_secs(limit));
    let cases: [(&str, Case); 6] = [
        ("version 2, idle", Box::new(found("2-idle", Protocol::V2, Traffic::Idle, 45))),
        ("version 2, data in flight", Box::new(found("2-data", Protocol::V2, Traffic::BothWays, 45))),
        ("version 1, idle", Box::new(found("1-idle", Protocol::V1, Traffic::Idle, 45))),
        ("version 1, data in flight", Box::new(found("1-data", Protocol::V1, Traffic::BothWays, 75))),
        ("version 2, a short outage", Box::new(|| short_outage("2-short", Protocol::V2))),
        ("version 1, a short outage", Box::new(|| short_outage("1-short", Protocol::V1))),
    ];
    let running = cases.map(|(name, case)| {
        let run = move || catch_unwind(AssertUnwindSafe(case));
        (name, thread::Builder::new().name(name.into()).spawn(run).unwrap())
    });
    let results = running.map(|(name, case)| (name, case.join().unwrap()));
    for (name, result) in &results {
        say(&format!("{name}: {}", result.as_deref().unwrap_or("FAILED, see below")));
    }
    let failed: Vec<_> = results.iter().filter(|(_, result)| result.is_err()).map(|&(name, _)| name).collect();
    assert!(failed.is_empty(), "{failed:?}");
}

/// A relay and a device in their namespaces, with a client and its service.
struct Tunnel {
    // In the order in which they are to go.
    device: Device,
    relay: Relay,
    network: Network,
}

impl Tunnel {
    /// This thread is where the device is from here on.
    fn start(name: &str, protocol: Protocol, service: impl FnOnce() -> Service) -> (Self, Service) {
        let network = Network::new(name).unwrap();
        network.enter_device_side();
        let service = service();
        let version = if protocol == Protocol::V1 { "1" } else { "2" };
        let mut command = network.relay_command(env!("CARGO_BIN_EXE_tcp-remote-relay"));
        command.args(["--log", "debug", "--protocol", version, &format!("{RELAY}:0"), "127.0.0.1:0"]);
        command.arg(service.address().to_string());
        let relay = Relay::spawn(command, 1);
        let mut device = Device::start_with(relay.device_addr(), |config| config.reconnect = true);
        device.wait_for(EventKind::Listening);
        (Self { device, relay, network }, service)
    }

    fn client(&self) -> Peer {
        let entrance: SocketAddr = *self.relay.client_addrs().last().unwrap();
        self.network.on_relay_side(|| Peer::connect(entrance))
    }

    fn protocol(&self) -> Option<u8> {
        self.device.status().protocol
    }
}

/// Cuts the line, and returns when the device and the relay have found it.
fn half_open(name: &str, protocol: Protocol, traffic: Traffic, limit: Duration) -> String {
    let service = || if traffic == Traffic::Idle { Service::echo() } else { Service::start(talk) };
    let (tunnel, _service) = Tunnel::start(name, protocol, service);
    let mut client = tunnel.client();
    match traffic {
        Traffic::Idle => {
            echo(&mut client, b"before");
            // The last acknowledgement is delayed, and with it lost the link would not be idle.
            thread::sleep(Duration::from_secs(1));
        }
        Traffic::BothWays => {
            let talker = client.try_clone();
            thread::spawn(|| talk(talker));
            eventually("the client's bytes arrive", DEADLINE, || tunnel.device.status().bytes_received > 100_000);
            eventually("the service's bytes arrive", DEADLINE, || tunnel.device.status().bytes_sent > 100_000);
        }
    }
    assert_eq!(tunnel.protocol(), Some(if protocol == Protocol::V1 { 1 } else { 2 }));

    tunnel.network.cut();
    let cut_at = Instant::now();
    let (mut by_device, mut by_relay) = (None, None);
    while (by_device.is_none() || by_relay.is_none()) && cut_at.elapsed() < limit + SLACK {
        thread::sleep(Duration::from_millis(20));
        if tunnel.device.status().state != State::Listening {
            by_device.get_or_insert_with(|| cut_at.elapsed());
        }
        if tunnel.relay.log().iter().any(|line| line.contains("the link to the device is lost")) {
            by_relay.get_or_insert_with(|| cut_at.elapsed());
        }
    }
    let (Some(by_device), Some(by_relay)) = (by_device, by_relay) else {
        panic!("not within {limit:?}: found by the device after {by_device:.1?}, by the relay after {by_relay:.1?}");
    };
    let found = format!("found by the device after {by_device:.1?}, by the relay after {by_relay:.1?}");
    if traffic == Traffic::Idle {
        client.expect_end(End::Reset);
    }

    tunnel.network.heal();
    let healed_at = Instant::now();
    eventually("the device comes back", COMES_BACK + SLACK, || tunnel.device.is_listening());
    let back = healed_at.elapsed();
    assert_eq!(tunnel.device.status().reconnects, 1);
    tunnel.relay.wait_for_logs("clients may connect", 2);
    let mut client = tunnel.client();
    if traffic == Traffic::Idle {
        echo(&mut client, b"after");
    } else {
        assert!(!client.read(1000).is_empty());
    }
    format!("{found}; back {back:.1?} after the outage")
}

/// An outage in which bytes are sent both ways, and all arrive once it is over.
fn short_outage(name: &str, protocol: Protocol) -> String {
    let (tunnel, _service) = Tunnel::start(name, protocol, Service::echo);
    let mut client = tunnel.client();
    echo(&mut client, b"before");
    let mut other = tunnel.client();
    echo(&mut other, b"before");
    tunnel.network.cut();
    client.send(b"meanwhile");
    thread::sleep(SHORT);
    tunnel.network.heal();
    let healed_at = Instant::now();
    client.expect_within(b"meanwhile", 2 * SHORT + DEADLINE);
    let late = healed_at.elapsed();
    echo(&mut other, b"after");
    assert_eq!((tunnel.device.status().reconnects, tunnel.device.is_listening()), (0, true));
    format!("survived; what was sent in {SHORT:?} without a network arrived {late:.1?} after it")
}

fn echo(client: &mut Peer, bytes: &[u8]) {
    client.send(bytes);
    client.expect(bytes);
}

/// Sends and reads, both without an end, until the connection breaks.
fn talk(mut peer: Peer) {
    let mut reader = peer.try_clone();
    let reading = thread::spawn(move || while reader.try_read(10 * DEADLINE).is_ok_and(|bytes| !bytes.is_empty()) {});
    while peer.try_send(&[b'x'; 8 * 1024]).is_ok() {
        thread::sleep(Duration::from_millis(10));
    }
    drop(peer);
    reading.join().unwrap();
}

/// Past the capture of the test harness: a skipped test and the figures are to be seen.
fn say(line: &str) {
    let mut stderr = io::stderr();
    writeln!(stderr, "{line}").unwrap();
}
