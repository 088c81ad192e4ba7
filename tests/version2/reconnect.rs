//! A link that is lost is made anew, once there was one.

use std::time::{Duration, Instant};

use tcpremote::connection::Protocol;
use tcpremote::device::{EventKind, State};

use crate::common::device::Device;
use crate::common::relay::{self, Relay};
use crate::common::service::{Service, expect_echo};
use crate::common::wire::{HELLO, LISTEN};
use crate::common::wire_v2::{self, Link, code};
use crate::common::{DEADLINE, End, Listener, Peer, eventually, shortest_of_five};

/// A relay at an address that is to be the same the next time. No other process has this one, so its port stays free.
fn start(address: &str, options: &[&str], service: &Service) -> Relay {
    let mut command = relay::command();
    let service = service.address().to_string();
    command.args(["--log", "debug"]).args(options).args([address, "127.0.0.1:0", &service]);
    Relay::spawn(command, 1)
}

fn reconnecting(relay: &Relay) -> Device {
    let mut device = Device::start_with(relay.device_addr(), |config| config.reconnect = true);
    device.wait_for(EventKind::Listening);
    device
}

/// The device tries often at first; by its jitter it may take some tries until the relay is there.
fn wait_until_back(device: &mut Device) {
    while device.wait_for_either(EventKind::Listening, EventKind::Waiting, DEADLINE * 4).kind != EventKind::Listening {}
}

#[test]
fn a_relay_that_is_killed_and_comes_back_is_found_again() {
    let echo = Service::echo();
    let mut relay = start("127.77.1.1:0", &[], &echo);
    let address = relay.device_addr().to_string();
    let mut device = reconnecting(&relay);
    let mut client = Peer::connect(relay.client_addrs()[0]);
    client.send(b"before");
    client.expect(b"before");
    relay.signal("KILL");
    relay.wait();
    client.read_to_end();
    let waiting = device.wait_for(EventKind::Waiting);
    assert_eq!(waiting.code, Some("lost"), "{}", waiting.message);
    assert!(waiting.message.contains("; trying again in "), "{}", waiting.message);
    let status = device.status();
    assert_ne!(status.state, State::Closed);
    assert_eq!((status.clients, status.protocol, status.round_trip), (0, None, None), "{status:?}");
    let relay = start(&address, &[], &echo);
    wait_until_back(&mut device);
    expect_echo(relay.client_addrs()[0]);
    // What passed before is counted too.
    device.wait_until_status(|status| (status.clients_total, status.bytes_received), (2, 6 + 14));
    let status = device.status();
    assert_eq!((status.state, status.reconnects, status.protocol), (State::Listening, 1, Some(2)));
    assert_eq!(status.next_attempt, None);
    eventually("what passed before is counted too", DEADLINE, || {
        let status = device.status();
        (status.clients_total, status.bytes_received) == (2, 6 + 14)
    });
    assert_eq!(status.last_error.unwrap().1, waiting_code(&device), "the last error stays in the status");
}

/// The code of the last event that the device waits.
fn waiting_code(device: &Device) -> &'static str {
    let waiting = device.events.iter().rev().find(|event| event.kind == EventKind::Waiting);
    waiting.unwrap().code.unwrap()
}

#[test]
fn a_relay_that_drains_and_comes_back_in_version_1_is_spoken_to_in_version_1() {
    let echo = Service::echo();
    let mut relay = start("127.77.1.2:0", &[], &echo);
    let address = relay.device_addr().to_string();
    let mut device = reconnecting(&relay);
    relay.client_addrs();
    relay.signal("TERM");
    assert_eq!(relay.wait(), Some(0));
    let relay = start(&address, &["--protocol", "1"], &echo);
    wait_until_back(&mut device);
    expect_echo(relay.client_addrs()[0]);
    assert_eq!((device.status().protocol, device.status().reconnects), (Some(1), 1));
}

#[test]
fn without_reconnect_a_lost_link_is_the_end() {
    for protocol in [Protocol::V1, Protocol::V2] {
        let echo = Service::echo();
        let mut relay = Relay::start(&[&echo.address().to_string()]);
        let mut device = Device::start_with(relay.device_addr(), |config| config.protocol = protocol);
        device.wait_for(EventKind::Listening);
        relay.client_addrs();
        relay.signal("KILL");
        relay.wait();
        let closed = device.wait_for(EventKind::Closed);
        assert_eq!(closed.code, Some("lost"), "{}", closed.message);
        assert_eq!((device.status().state, device.status().reconnects), (State::Closed, 0));
    }
}

#[test]
fn a_first_link_that_cannot_be_made_is_an_error_even_with_reconnect() {
    let refusing = crate::common::Refusing::bind();
    let mut device = Device::start_with(refusing.address(), |config| config.reconnect = true);
    assert_eq!(device.wait_for(EventKind::Closed).code, Some("refused"));
}

#[test]
fn a_relay_says_how_long_to_stay_away_and_is_obeyed_while_the_old_link_finishes() {
    let (relay, service) = (Listener::bind(), Listener::bind());
    let mut device = Device::start_with(relay.address(), |config| config.reconnect = true);
    let mut old = Link::accept(&relay);
    device.wait_for(EventKind::Listening);
    old.send(&wire_v2::connect(1, service.address()));
    let mut served = service.accept();
    old.expect(wire_v2::CONNECTED);
    let began = Instant::now();
    old.send(&wire_v2::go_away(code::SHUTDOWN, 2, 1, "for repairs"));
    let waiting = device.wait_for(EventKind::Waiting);
    assert!(waiting.message.contains("the relay ended it (shutdown, for repairs)"), "{}", waiting.message);
    // The client goes on, with the next link beside it.
    let mut new = Link::accept(&relay);
    let waited = began.elapsed();
    assert!(waited >= Duration::from_secs(2), "{waited:?}");
    device.wait_for(EventKind::Listening);
    served.send(b"over the old link");
    old.expect_data(1, b"over the old link");
    new.send(&wire_v2::connect(1, service.address()));
    let mut second = service.accept();
    new.expect(wire_v2::CONNECTED);
    second.send(b"over the new link");
    new.expect_data(1, b"over the new link");
    eventually("both are counted", DEADLINE, || device.status().clients == 2);
    // With its last client the old link goes.
    old.send(&wire_v2::fin(1));
    served.expect_end(End::Finished);
    drop(served);
    assert_eq!((old.expect(wire_v2::DATA).flags, old.try_next(DEADLINE)), (wire_v2::FIN, Err(End::Finished)));
    eventually("one is left", DEADLINE, || device.status().clients == 1);
    assert_eq!((device.status().state, device.status().reconnects), (State::Listening, 1));
}

#[test]
fn a_device_is_listening_when_the_relay_has_answered_and_not_before() {
    for protocol in [Protocol::V1, Protocol::V2] {
        let relay = Listener::bind();
        let mut device = Device::start_with(relay.address(), |config| config.protocol = protocol);
        let mut peer = relay.accept();
        let greeting = device.wait_for(EventKind::Greeting);
        assert_eq!(
            greeting.message,
            format!("the link to {} is made, waiting for the relay's answer", relay.address())
        );
        assert_eq!((device.status().state, device.status().protocol), (State::Greeting, None));
        let hello = peer.read(8);
        peer.send(&[0, 0, 2, hello[7]]);
        let listening = device.wait_for(EventKind::Listening);
        assert_eq!(listening.message, format!("the link to {} is up, waiting for clients", relay.address()));
        assert_eq!((device.status().state, device.status().protocol), (State::Listening, Some(1)));
    }
}

#[test]
fn a_server_of_another_kind_is_no_relay() {
    let server = Listener::bind();
    // It may speak before LISTEN has left, and then there never was a link.
    let mut device = Device::start_with(server.address(), |config| {
        (config.reconnect, config.keep_trying) = (true, true);
    });
    server.accept().send(b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n");
    let waiting = device.wait_for(EventKind::Waiting);
    assert_eq!(waiting.code, Some("lost"));
    assert!(waiting.message.contains("does not answer as a relay (its first bytes are 'SSH-')"), "{waiting:?}");
    assert!(device.events.iter().all(|event| event.kind != EventKind::Listening), "{:?}", device.events);
    assert_eq!(device.status().reconnects, 0);
}

#[test]
fn a_tunnel_that_waits_for_its_next_attempt_is_closed_at_once() {
    let waited = shortest_of_five(|_| {
        let relay = Listener::bind();
        let mut device = Device::start_with(relay.address(), |config| config.reconnect = true);
        let mut link = Link::accept(&relay);
        link.send(&wire_v2::go_away(code::SHUTDOWN, u16::MAX, 0, "for repairs"));
        device.wait_for(EventKind::Waiting);
        assert_eq!(link.try_next(DEADLINE), Err(End::Finished), "no client is left on it");
        drop(link);
        let next_attempt = device.status().next_attempt.unwrap();
        let longest = Duration::from_secs(300);
        assert!(next_attempt > longest - DEADLINE && next_attempt < longest + DEADLINE, "{next_attempt:?}");
        let began = Instant::now();
        device.handle.close().unwrap();
        let waited = began.elapsed();
        device.wait_until_status(|status| status.state, State::Closed);
        waited
    });
    assert!(waited < Duration::from_millis(500), "{waited:?}");
}

/// A device with a link of version 2, and a client on it.
fn with_client(relay: &Listener, service: &Listener) -> (Device, Link, Peer) {
    let mut device = Device::start_with(relay.address(), |config| config.reconnect = true);
    let mut link = Link::accept(relay);
    device.wait_for(EventKind::Listening);
    link.send(&wire_v2::connect(1, service.address()));
    let served = service.accept();
    link.expect(wire_v2::CONNECTED);
    (device, link, served)
}

#[test]
fn a_link_that_the_owner_replaces_keeps_its_clients_beside_the_next() {
    let (relay, service) = (Listener::bind(), Listener::bind());
    let (mut device, mut old, mut served) = with_client(&relay, &service);
    device.handle.reconnect().unwrap();
    let away = old.expect(wire_v2::GOAWAY);
    assert_eq!((away.code(), away.reason()), (0, "the device makes a new link".to_owned()));
    let mut peer = relay.accept();
    peer.expect(&[LISTEN, HELLO].concat());
    assert_eq!(device.status().state, State::Listening, "on the old link, until the relay has answered on the new one");
    let mut new = Link { peer };
    new.send(&[&HELLO[..], &wire_v2::settings()].concat());
    new.expect_settings();
    device.wait_for(EventKind::Listening);
    assert_eq!(device.status().reconnects, 1);
    served.send(b"over the old link");
    old.expect_data(1, b"over the old link");
    new.send(&wire_v2::connect(1, service.address()));
    service.accept().send(b"over the new link");
    new.expect(wire_v2::CONNECTED);
    new.expect_data(1, b"over the new link");
    old.send(&wire_v2::close(1, 0, "enough"));
    assert_eq!(old.try_next(DEADLINE), Err(End::Finished));
    assert!(device.is_listening());
}

#[test]
fn with_our_relay_clients_outlive_a_link_that_the_owner_replaces() {
    let echo = Service::echo();
    let relay = start("127.77.1.3:0", &[], &echo);
    let mut device = reconnecting(&relay);
    let mut clients = Vec::new();
    for round in 1..=5 {
        // The client ports open anew with each link.
        let lines = relay.wait_for_logs("clients may connect", round);
        clients.push(Peer::connect(relay::address_in(&lines[round - 1])));
        clients[round - 1].send(b"before");
        clients[round - 1].expect(b"before");
        device.handle.reconnect().unwrap();
        device.wait_for(EventKind::Listening);
        for client in &mut clients {
            client.send(b"after");
            client.expect(b"after");
        }
        assert_eq!(device.status().reconnects, round as u64);
    }
}

#[test]
fn a_link_of_version_1_is_replaced_too() {
    let echo = Service::echo();
    let relay = start("127.77.1.4:0", &["--protocol", "1"], &echo);
    let mut device = reconnecting(&relay);
    device.handle.reconnect().unwrap();
    device.wait_for(EventKind::Listening);
    expect_echo(relay.client_addrs()[0]);
    assert_eq!((device.status().reconnects, device.status().protocol), (1, Some(1)));
}

#[test]
fn where_no_new_link_can_be_made_the_old_one_stays() {
    let (relay, service) = (Listener::bind(), Listener::bind());
    let address = relay.address();
    let (mut device, mut link, mut served) = with_client(&relay, &service);
    drop(relay);
    device.handle.reconnect().unwrap();
    let kept = device.wait_for(EventKind::Kept);
    assert_eq!(kept.code, Some("refused"), "{}", kept.message);
    assert!(kept.message.ends_with("; the link before it stays in use"), "{}", kept.message);
    // What answers there now is no relay; this time the old link is one of version 2, and was to be the last.
    let other = Listener::bind_to(&address.to_string());
    served.send(b"still here");
    link.expect_data(1, b"still here");
    assert_eq!((device.status().state, device.status().reconnects), (State::Listening, 0));
    device.handle.reconnect().unwrap();
    other.accept().send(b"SSH-2.0");
    assert_eq!(device.wait_for(EventKind::Waiting).code, Some("lost"));
    served.send(b"still here");
    link.expect(wire_v2::GOAWAY);
    link.expect_data(1, b"still here");
}

#[test]
fn the_owner_can_end_a_wait() {
    let relay = Listener::bind();
    let mut device = Device::start_with(relay.address(), |config| config.reconnect = true);
    let mut link = Link::accept(&relay);
    link.send(&wire_v2::go_away(code::SHUTDOWN, 300, 0, "for repairs"));
    device.wait_for(EventKind::Waiting);
    device.handle.reconnect().unwrap();
    let _new = Link::accept(&relay);
    device.wait_for(EventKind::Listening);
    assert_eq!((device.status().next_attempt, device.status().reconnects), (None, 1));
    device.handle.close().unwrap();
    assert_eq!(device.handle.reconnect().unwrap_err().code(), "closed");
}

#[test]
fn the_owner_can_end_a_wait_for_an_answer() {
    let relay = Listener::bind();
    let mut device = Device::start_with(relay.address(), |_| {});
    device.wait_for(EventKind::Greeting);
    let mut silent = relay.accept();
    device.handle.reconnect().unwrap();
    let _new = Link::accept(&relay);
    device.wait_for(EventKind::Listening);
    silent.read_to_end();
}

#[test]
fn with_keep_trying_the_first_link_is_tried_for_until_there_is_one() {
    let relay = Listener::bind_to("127.77.1.5:0");
    let address = relay.address();
    drop(relay);
    let mut device = Device::start_with(address, |config| config.keep_trying = true);
    assert_eq!(device.wait_for(EventKind::Waiting).code, Some("refused"));
    assert_eq!(device.status().state, State::Waiting);
    device.wait_for(EventKind::Waiting);
    let relay = Listener::bind_to(&address.to_string());
    let link = Link::accept(&relay);
    device.wait_for(EventKind::Listening);
    assert_eq!(device.status().reconnects, 0);
    // What comes after is for `reconnect` to say.
    drop(link);
    assert_eq!(device.wait_for(EventKind::Closed).code, Some("lost"));
}
