//! The newest device is the one that is served, whatever the one before it is up to.

use std::time::{Duration, Instant};

use tcpremote::device::{EventKind, State};

use crate::common::device::Device;
use crate::common::pairing::Pairing;
use crate::common::relay::Relay;
use crate::common::service::{Service, expect_echo};
use crate::common::wire_v2::{CONNECT, Link, code};
use crate::common::{DEADLINE, End, Listener, Peer, eventually};

#[test]
fn a_newer_device_takes_over_at_once_and_the_old_one_gets_the_reason() {
    let (service, echo) = (Listener::bind(), Service::echo());
    let (relay, mut old, clients) = Pairing::NEW.start(&[service.address(), echo.address()]);
    let mut client = Peer::connect(clients[0]);
    let mut served = service.accept();
    let _new = Pairing::NEW.listening(relay.device_addr());
    // No peer takes a cut stream for a complete one.
    assert_eq!(client.read_to_end(), (Vec::new(), End::Reset));
    assert_eq!(served.read_to_end(), (Vec::new(), End::Reset));
    let closed = old.wait_for(EventKind::Closed);
    assert_eq!(closed.code, Some("replaced"), "{}", closed.message);
    assert!(closed.message.contains("let each device have a relay, or a port, of its own"), "{}", closed.message);
    assert_eq!(old.status().last_error.unwrap().1, "replaced");
    expect_echo(clients[1]);
}

#[test]
fn a_device_that_was_replaced_stays_away_for_a_minute() {
    let echo = Service::echo();
    let relay = Relay::start(&[&echo.address().to_string()]);
    let mut first = Device::start_with(relay.device_addr(), |config| config.reconnect = true);
    first.wait_for(EventKind::Listening);
    let mut second = Device::start_with(relay.device_addr(), |config| config.reconnect = true);
    second.wait_for(EventKind::Listening);
    let waiting = first.wait_for(EventKind::Waiting);
    assert_eq!(waiting.code, Some("replaced"), "{}", waiting.message);
    let status = first.status();
    let next_attempt = status.next_attempt.unwrap();
    assert_eq!(status.state, State::Waiting);
    assert!(next_attempt > Duration::from_secs(60) - DEADLINE && next_attempt <= Duration::from_secs(90));
    expect_echo(relay.client_addrs()[0]);
    assert_eq!((second.status().state, second.status().reconnects), (State::Listening, 0));
}

#[test]
fn an_old_device_that_reads_nothing_does_not_lock_out_the_next() {
    let echo = Service::echo();
    let relay = Relay::start(&[&echo.address().to_string()]);
    let (_old, clients) = relay.listen_v2();
    // Its client may send what it likes.
    let mut client = Peer::connect(clients[0]);
    client.send(&[b'x'; 16_384]);
    let began = Instant::now();
    let _device = Pairing::NEW.listening(relay.device_addr());
    assert_eq!(client.read_to_end(), (Vec::new(), End::Reset));
    // That a peer is gone which acknowledges what it does not read is found after 45 s.
    assert!(began.elapsed() < Duration::from_secs(40), "{:?}", began.elapsed());
    expect_echo(clients[0]);
}

#[test]
fn the_old_link_gets_goaway_with_the_reason_and_is_cut() {
    let relay = Relay::start(&["127.0.0.1:9"]);
    let (mut old, _clients) = relay.listen_v2();
    let _new = Link::listen(relay.device_addr());
    let goodbye = old.expect_goodbye(code::REPLACED);
    assert_eq!(goodbye.reason(), "a newer link took the place of this one");
}

#[test]
fn the_client_ports_stay_where_they_are_for_the_newer_device() {
    let relay = Relay::start(&["127.0.0.1:9", "127.0.0.1:10"]);
    let (_old, before) = relay.listen_v2();
    let (mut new, after) = relay.listen_v2();
    assert_eq!(before, after);
    let _client = Peer::connect(after[1]);
    new.expect(CONNECT);
}

#[test]
fn devices_of_either_version_replace_each_other() {
    let echo = Service::echo();
    let relay = Relay::start(&[&echo.address().to_string()]);
    let mut devices = vec![Pairing::NEW.listening(relay.device_addr())];
    let clients = relay.client_addrs();
    for pairing in [Pairing::OLD_DEVICE, Pairing::NEW, Pairing::OLD_DEVICE] {
        let device = pairing.listening(relay.device_addr());
        let version = pairing.version();
        eventually("the version is agreed", DEADLINE, || device.status().protocol == Some(version));
        let mut old = devices.pop().unwrap();
        let code = if version == 1 { "replaced" } else { "lost" };
        assert_eq!(old.wait_for(EventKind::Closed).code, Some(code));
        eventually("clients are served by the new device", DEADLINE, || {
            expect_echo(clients[0]);
            device.status().clients_total > 0
        });
        devices.push(device);
    }
}
