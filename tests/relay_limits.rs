//! What the relay does when clients, or descriptors, are many.
#![cfg(feature = "relay")]
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test ends where its own means fail")]

mod common;

use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use common::device::Device;
use common::pairing::Pairing;
use common::relay::Relay;
use common::service::Service;
use common::wire_v2::{self, code};
use common::{DEADLINE, End, Peer, eventually};
use tcpremote::device::EventKind;

/// A relay that may have so many open files, as ulimit(1) sets it.
fn with_open_files(limit: &str, pairs: usize, service: &str) -> Relay {
    let mut command = Command::new("sh");
    let script = format!("ulimit {limit} && exec \"$@\"");
    command.args(["-c", &script, "sh", env!("CARGO_BIN_EXE_tcp-remote-relay"), "--log", "debug", "127.0.0.1:0"]);
    for _ in 0..pairs {
        command.args(["127.0.0.1:0", service]);
    }
    Relay::spawn(command, pairs)
}

fn device(relay: &Relay) -> Device {
    let mut device = Device::start(relay.device_addr());
    device.wait_for(EventKind::Listening);
    device
}

/// A client that is served.
fn echoing(entrance: SocketAddr) -> Peer {
    try_echo(entrance).expect("a client that is served")
}

/// `None` where the client is reset instead of served.
fn try_echo(entrance: SocketAddr) -> Option<Peer> {
    let mut client = Peer::connect(entrance);
    let served = client.try_send(b"x").is_ok() && client.try_read(DEADLINE).is_ok_and(|read| read == b"x");
    served.then_some(client)
}

#[test]
fn the_relay_takes_as_many_descriptors_as_it_may_have() {
    let relay = with_open_files("-S -n 64", 1, "127.0.0.1:9");
    relay.device_addr();
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", relay.process())).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let values: Vec<_> = line.split_whitespace().skip(3).take(2).collect();
    assert!(values[0] == values[1] && values[0] != "64", "{line}");
}

#[test]
fn more_ports_than_descriptors_are_refused_at_start() {
    let mut relay = with_open_files("-n 64", 60, "127.0.0.1:9");
    assert_eq!(relay.wait(), Some(1));
    let log = relay.log().concat();
    assert!(log.contains("61 ports need more than 88 open files, and the limit is 64; raise it (ulimit -n)"), "{log}");
}

#[test]
fn fewer_descriptors_than_clients_may_come_are_a_warning_at_start() {
    let relay = with_open_files("-n 64", 2, "127.0.0.1:9");
    let line = relay.wait_for_log("leaves room for fewer clients");
    assert!(line.contains("limit=64 ports=3 clients=27 wanted=256"), "{line}");
}

#[test]
fn without_descriptors_clients_wait_and_the_next_device_gets_in() {
    let service = Service::echo();
    let relay = with_open_files("-n 64", 1, &service.address().to_string());
    let first = device(&relay);
    let entrance = relay.client_addrs()[0];
    let served: Vec<_> = (0..27).map(|_| echoing(entrance)).collect();
    let mut waiting = Peer::connect(entrance);
    waiting.send(b"x");
    relay.wait_for_log("cannot accept connections");
    assert_eq!(first.status().clients, 27);
    // Silent connections at the device port must not keep a device away either.
    let _strays: Vec<_> = (0..30).map(|_| Peer::connect(relay.device_addr())).collect();

    let second = device(&relay);
    for mut client in served {
        client.read_to_end();
    }
    waiting.expect(b"x");
    assert_eq!(second.status().clients, 1);
    let shortages = relay.log().iter().filter(|line| line.contains("cannot accept")).count();
    assert_eq!(shortages, 1, "it is said once");
}

#[test]
fn links_that_drain_give_way_to_clients_of_the_next_device() {
    let service = Service::echo();
    let relay = with_open_files("-n 64", 1, &service.address().to_string());
    // Each has as many clients as it can get, and ends none of them.
    let (mut links, mut clients) = (Vec::new(), Vec::new());
    for count in [20, 7] {
        let mut link = wire_v2::Link::listen(relay.device_addr());
        let entrance = relay.client_addrs()[0];
        eventually("the client port is open", DEADLINE, || {
            let Ok(stream) = std::net::TcpStream::connect(entrance) else { return false };
            clients.push(Peer::new(stream));
            true
        });
        clients.extend((1..count).map(|_| Peer::connect(entrance)));
        for _ in 0..count {
            assert_eq!(link.next().kind, wire_v2::CONNECT);
        }
        link.send(&wire_v2::go_away(code::SHUTDOWN, 0, count, "drains"));
        links.push(link);
    }
    relay.wait_for_logs("takes no new clients", 2);

    let _honest = device(&relay);
    let mut client = None;
    eventually("a client of the honest device is served", DEADLINE, || {
        client = std::net::TcpStream::connect(relay.client_addrs()[0]).ok().map(Peer::new);
        client.is_some()
    });
    let mut client = client.unwrap();
    client.send(b"served");
    client.expect(b"served");
    let line = relay.wait_for_log("cut a link that drains");
    assert!(line.contains("reason=its descriptors are wanted for new clients"), "{line}");
    assert_eq!(clients[0].read_to_end().1, End::Reset);
}

#[test]
fn one_port_cannot_take_the_descriptors_of_every_place() {
    let service = Service::echo();
    let relay = with_open_files("-n 64", 2, &service.address().to_string());
    let _device = device(&relay);
    let entrances = relay.client_addrs();
    // More than there are descriptors, all at once.
    let _hogs: Vec<_> = (0..60).map(|_| Peer::connect(entrances[0])).collect();
    relay.wait_for_log("refused a client: its port, or its address, has its share of the places");
    echoing(entrances[1]);
}

/// A relay with two ports, of which one is wanted by more clients than there are places.
fn hog(pairing: Pairing) {
    let (hogged, other) = (Service::echo(), Service::echo());
    let services = [hogged.address(), other.address()];
    let (relay, device, entrances) = pairing.start_with(&["--clients", "16"], &services);
    let mut hogs: Vec<_> = (0..20).map(|_| Peer::connect(entrances[0])).collect();
    let served = hogs.iter_mut().filter_map(|client| {
        let served = client.try_send(b"x").is_ok() && client.try_read(DEADLINE).is_ok_and(|read| read == b"x");
        served.then_some(())
    });
    assert_eq!(served.count(), 15, "one place is kept for the other port");
    let line = relay.wait_for_log("refused a client: its port, or its address, has its share of the places");
    assert!(line.contains("connection="), "{line}");
    let mut client = echoing(entrances[1]);
    assert_eq!(device.status().clients, 16);

    let began = Instant::now();
    assert!(try_echo(entrances[1]).is_none(), "now it is full");
    assert!(began.elapsed() >= Duration::from_secs(1), "it has waited");
    relay.wait_for_log("refused a client: the link has no place for more");
    client.send(b"y");
    client.expect(b"y");
}

#[test]
fn one_port_cannot_take_every_place_in_either_version() {
    Pairing::each(&[Pairing::OLD, Pairing::NEW], hog);
}

#[test]
fn a_client_that_waits_for_a_place_gets_the_first_that_is_free() {
    let service = Service::echo();
    let (_relay, _device, entrances) = Pairing::NEW.start_with(&["--clients", "1"], &[service.address()]);
    let first = echoing(entrances[0]);
    let mut next = Peer::connect(entrances[0]);
    next.send(b"x");
    first.reset();
    next.expect(b"x");
}

/// A client that sends something now and then, beside one that does not.
fn idle(pairing: Pairing) {
    let service = Service::echo();
    let (relay, device, entrances) = pairing.start_with(&["--idle", "2"], &[service.address()]);
    let mut idle = echoing(entrances[0]);
    let mut busy = echoing(entrances[0]);
    let began = Instant::now();
    while idle.try_read(Duration::from_millis(200)).is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock) {
        assert!(began.elapsed() < DEADLINE, "it is still there");
        busy.send(b"y");
        busy.expect(b"y");
    }
    assert!(began.elapsed() >= Duration::from_millis(1500), "{:?}", began.elapsed());
    let line = relay.wait_for_log("a client has left");
    assert!(line.contains("code=idle reason=nothing was sent either way for 2 s"), "{line}");
    eventually("the device has ended its service", DEADLINE, || device.status().clients == 1);
    busy.send(b"z");
    busy.expect(b"z");
}

#[test]
fn a_client_for_which_nothing_moves_is_ended_in_either_version() {
    Pairing::each(&[Pairing::OLD, Pairing::NEW], idle);
}
