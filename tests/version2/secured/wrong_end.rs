//! Plain links at the port for TLS, TLS at the plain one, and other protocols: both ends say what is wrong.

use std::io::{Read, Write};
use std::net::Ipv4Addr;

use tcpremote::device::EventKind;

use super::Neighbour;
use super::peer::{TlsPeer, connect_from};
use super::relay::{SecureRelay, new_key};
use crate::common::device::Device;
use crate::common::wire_v2 as wire;

#[test]
fn a_plain_device_at_the_port_for_tls_and_one_in_tls_at_the_plain_port_are_told_and_so_is_the_log() {
    let relay = SecureRelay::start(&[Neighbour::NAME]);
    let mut neighbour = Neighbour::of(&relay);
    let mut plain = Device::start(relay.port());
    let text = plain.wait_for(EventKind::Closed).message;
    assert!(text.contains("this port is for devices with an identity: join the relay, or use its port for"), "{text}");
    let line = relay.relay.wait_for_log("the other end speaks no TLS; it sent a link without TLS");
    assert!(line.contains("looks_like=a link without TLS"), "{line}");

    let key = relay.add("pump-3");
    let mut secure = relay.device_at(relay.plain_port(), relay.identity(&key, None), |config| {
        config.keep_trying = false;
    });
    let closed = secure.wait_for(EventKind::Closed);
    assert_eq!(closed.code, Some("tls"));
    assert!(closed.message.contains("closed it in the handshake; is it a port for TLS?"), "{}", closed.message);
    relay.relay.wait_for_log("looks_like=TLS");
    neighbour.assert_untouched();
}

/// Such as one that is ended while it asks whether it is let in, and one that leaves when it is refused.
#[test]
fn a_device_that_leaves_before_it_is_let_in_is_not_logged_as_one_that_was_dropped() {
    let relay = SecureRelay::start(&[]);
    let left = || relay.relay.wait_for_logs("a device has left before it was let in", 1);
    let mut known = TlsPeer::connect(Ipv4Addr::LOCALHOST, relay.port(), &relay.add("pump-3"));
    let away = wire::go_away(wire::code::SHUTDOWN, 0, 0, "the device closed the tunnel");
    known.leave_with(&[wire::settings(), away].concat());
    assert!(left()[0].contains(&known.tcp.local_addr().unwrap().to_string()));

    let mut unknown = TlsPeer::connect(Ipv4Addr::LOCALHOST, relay.port(), &new_key());
    let (join, no_token) = (8, [7; 24]);
    unknown.send(&wire::frame(wire::SETTINGS, 0, 0, &wire::field(join, &no_token)));
    relay.relay.wait_for_log("a token is good for nothing");
    unknown.leave_with(&[]);
    let line = relay.relay.wait_for_log("refused a device");
    assert!(line.contains("code=token reason=the token is unknown, expired or used"), "{line}");
    relay.relay.wait_for_logs("a device has left before it was let in", 2);
    let log = relay.relay.log().concat();
    assert!(!log.contains("dropped a connection"), "{log}");
}

#[test]
fn other_protocols_at_the_port_for_tls_are_named_in_the_log() {
    let relay = SecureRelay::start(&[Neighbour::NAME]);
    let mut neighbour = Neighbour::of(&relay);
    for (bytes, name) in [
        (&b"GET / HTTP/1.1\r\n\r\n"[..], "HTTP"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "SSH"),
        (b"\x05\x01\x00\x00", "bytes of no protocol that it knows"),
    ] {
        let mut other = connect_from(Ipv4Addr::LOCALHOST, relay.port());
        other.write_all(bytes).unwrap();
        // However it is ended.
        let _ = other.read_to_end(&mut Vec::new());
        let line = relay.relay.wait_for_log(&format!("looks_like={name}"));
        assert!(line.contains(&other.local_addr().unwrap().to_string()), "{line}");
    }
    neighbour.assert_untouched();
}
