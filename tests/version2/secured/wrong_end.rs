//! Plain links at the port for TLS, TLS at the plain one, and other protocols: both ends say what is wrong.

use std::io::{Read, Write};
use std::net::Ipv4Addr;

use tcpremote::device::EventKind;

use super::Neighbour;
use super::peer::connect_from;
use super::relay::SecureRelay;
use crate::common::device::Device;

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
