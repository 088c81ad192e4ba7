//! An end that insists on version 2 does not speak version 1.

use tcpremote::connection::Protocol;
use tcpremote::device::{Config, EventKind};

use crate::common::device::Device;
use crate::common::relay::Relay;
use crate::common::service::{Service, expect_echo};
use crate::common::wire::{self, HELLO, HELLO_V1, LISTEN};
use crate::common::wire_v2::{self, Link};
use crate::common::{End, Listener, Peer};

fn insists(config: &mut Config) {
    config.min_protocol = Protocol::V2;
}

/// A relay takes the device, and `answer` says that it speaks version 1.
fn accept_as_version_1(relay: &Listener, answer: &[u8]) -> Peer {
    let mut link = relay.accept();
    link.expect(&[LISTEN, HELLO].concat());
    link.send(answer);
    link
}

#[test]
fn a_device_gives_up_a_relay_of_version_1_and_says_what_to_do() {
    for answer in [wire::close(HELLO[3]), wire::connect(1, "127.0.0.1", 9), HELLO_V1.to_vec()] {
        let relay = Listener::bind();
        let mut device = Device::start_with(relay.address(), insists);
        let mut link = accept_as_version_1(&relay, &answer);
        let closed = device.wait_for(EventKind::Closed);
        let text = format!(
            "the link to {} was given up: the relay speaks version 1 of the protocol, and min_protocol is 2; update the \
             relay, or leave min_protocol off",
            relay.address()
        );
        assert!(closed.message.contains(&text), "{closed:?}");
        assert_eq!(closed.code, Some("version"));
        assert_eq!(device.status().last_error, Some((text, "version")));
        assert!(!device.events.iter().any(|event| event.kind == EventKind::Listening), "{:?}", device.events);
        link.expect_end(End::Reset);
    }
}

#[test]
fn a_device_that_comes_back_looks_for_a_newer_relay() {
    let relay = Listener::bind();
    let mut device = Device::start_with(relay.address(), |config| {
        insists(config);
        config.reconnect = true;
    });
    let _old = accept_as_version_1(&relay, &wire::close(HELLO[3]));
    assert_eq!(device.wait_for(EventKind::Waiting).code, Some("version"));
    let _updated = Link::accept(&relay);
    device.wait_for(EventKind::Listening);
}

#[test]
fn a_device_keeps_its_link_of_version_2_where_the_next_would_be_of_version_1() {
    let (relay, service) = (Listener::bind(), Service::echo());
    let mut device = Device::start_with(relay.address(), |config| {
        insists(config);
        config.reconnect = true;
    });
    let mut link = Link::accept(&relay);
    device.wait_for(EventKind::Listening);
    device.handle.reconnect().unwrap();
    let _older = accept_as_version_1(&relay, &wire::close(HELLO[3]));
    assert_eq!(device.wait_for(EventKind::Kept).code, Some("version"));
    link.send(&wire_v2::connect(1, service.address()));
    assert_eq!(link.expect(wire_v2::CONNECTED).stream, 1);
}

#[test]
fn a_relay_refuses_devices_of_version_1_and_none_of_them_takes_a_place() {
    let echo = Service::echo();
    let relay = Relay::start_with(&["--min-protocol", "2"], &[&echo.address().to_string()]);
    let mut device = Device::start_with(relay.device_addr(), insists);
    device.wait_for(EventKind::Listening);
    let entrance = relay.client_addrs()[0];
    let reason =
        "it speaks version 1 of the protocol, and --min-protocol wants 2; update the device, or leave that off";
    // One that is held to version 1 says so; one of 2012 says nothing.
    for (count, greeting) in [&[LISTEN, HELLO_V1].concat()[..], &LISTEN].into_iter().enumerate() {
        let mut old = Peer::connect(relay.device_addr());
        old.send(greeting);
        old.expect_end(End::Reset);
        let line = relay.wait_for_logs("dropped a connection on the device port", count + 1).remove(count);
        assert!(line.contains(&format!("reason={reason}")), "{line}");
    }
    expect_echo(entrance);
    assert!(!relay.log().iter().any(|line| line.contains("takes the place")), "{:?}", relay.log());
    // And where no device is there none of them opens the ports.
    device.handle.close().unwrap();
    relay.wait_for_log("has ended, as was announced");
    let mut old = Device::start_with(relay.device_addr(), |config| config.protocol = Protocol::V1);
    assert_eq!(old.wait_for(EventKind::Closed).code, Some("lost"));
    assert_eq!(relay.log().iter().filter(|line| line.contains("a device is here")).count(), 1);
}
