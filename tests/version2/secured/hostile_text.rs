//! Text of peers that would move a terminal's cursor, turn letters around, or not be seen: wherever a person reads it, it
//! is harmless.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;

use tcpremote::device::{Enrolment, EventKind};
use tcpremote::identity::{JoinString, Kind, Pins, Secret, TokenId};
use tcpremote::tls::{Acceptor, Key, Scratch, Tls};

use super::peer::{TlsPeer, connect_from, hello};
use super::relay::{Place, SecureRelay, echo_at, new_key};
use super::{Neighbour, assert_harmless};
use crate::common::device::Device;
use crate::common::wire_v2::{self as wire, field, frame};
use crate::common::{DEADLINE, Peer, eventually};

/// All that is not to be seen as it is.
const EVIL: &str =
    "a\u{1b}[2J\u{1b}]0;x\u{7}\r\nlink=1.2.3.4:5 \u{202e}lave\u{200b}\u{2066}\u{feff}\u{9b}31m\u{0}\u{7f}";
/// The same in a host's name, which has no spaces or control characters.
const EVIL_HOSTS: [&str; 4] =
    ["moc.\u{202e}elpmaxe", "relay\u{200b}.example.com", "\u{feff}relay", "a\u{2066}b\u{2069}"];

/// Tags of fields in SETTINGS.
mod tag {
    pub(super) const NAME: u16 = 1;
    pub(super) const SOFTWARE: u16 = 3;
    pub(super) const SERVICES: u16 = 7;
    pub(super) const ADDRESSES: u16 = 16;
}

fn settings(fields: &[(u16, &[u8])]) -> Vec<u8> {
    let fields: Vec<u8> = fields.iter().flat_map(|(tag, value)| field(*tag, value)).collect();
    frame(wire::SETTINGS, 0, 0, &fields)
}

fn assert_log_is_harmless(relay: &SecureRelay) {
    for line in relay.relay.log() {
        assert_harmless(&line);
    }
}

#[test]
fn what_devices_say_is_harmless_in_the_log_and_in_lists() {
    let relay = SecureRelay::start_at(Place::new(&[Neighbour::NAME, "talker"], "debug"), 1, "true");
    let mut neighbour = Neighbour::of(&relay);
    let (port, host) = (relay.port(), Ipv4Addr::LOCALHOST);

    // The name of the server that a ClientHello asks for.
    let (hello, name) = (hello(&new_key()), &b"relay.example.com"[..]);
    let at = hello.windows(name.len()).position(|part| part == name).unwrap();
    for evil in [&b"\x1b[2J\x1b[31m evil\r\n\x00"[..], "\u{202e}\u{202e}\u{202e}\u{202e}\u{202e}ab".as_bytes()] {
        let mut tcp = connect_from(host, port);
        tcp.write_all(&[&hello[..at], &evil[..name.len()], &hello[at + name.len()..]].concat()).unwrap();
        tcp.shutdown(std::net::Shutdown::Write).unwrap();
        let _ = tcp.read_to_end(&mut Vec::new());
    }
    // Wishes, and what software it is, of a key that nobody knows.
    let software = (tag::SOFTWARE, EVIL.as_bytes());
    for wish in [EVIL.as_bytes(), b"\xff\xfe", b"Pump", b"pump-3"] {
        let mut peer = TlsPeer::connect(host, port, &new_key());
        peer.send(&settings(&[software, (tag::NAME, wish)]));
        let _ = peer.tcp.read_to_end(&mut Vec::new());
    }
    eventually("the last of them is listed", DEADLINE, || relay.done(&["devices"]).contains("pump-3"));

    // Reasons of a device that is admitted.
    let mut talker = TlsPeer::connect(host, port, &relay.add("talker"));
    let services = (tag::SERVICES, &b"\x04echo\0\x07\0"[..]);
    talker.send(&settings(&[software, services, (99, EVIL.as_bytes())]));
    talker.expect(wire::SETTINGS);
    let before = relay.relay.wait_for_logs("clients may connect", 2);
    let mut client = Peer::connect(crate::common::relay::address_in(&before[1]));
    client.send(b"x");
    let (stream, _) = talker.expect(wire::CONNECT);
    talker.send(&wire::close(stream, wire::code::REFUSED, EVIL));
    relay.relay.wait_for_log("code=refused");
    for output in [&["devices"][..], &["devices", "--json"], &["token", "list"]] {
        relay.done(output).lines().for_each(assert_harmless);
    }
    talker.send(&wire::go_away(wire::code::SHUTDOWN, 0, 1, EVIL));
    relay.relay.wait_for_log("the device takes no new clients");
    relay.relay.wait_for_log("\\u{1b}]0;x");
    assert_log_is_harmless(&relay);
    neighbour.assert_untouched();
}

/// A relay whose key is the right one, and which says what it likes.
struct Talker {
    tcp: TcpStream,
    tls: Tls,
    scratch: Scratch,
    opened: Vec<u8>,
}

impl Talker {
    /// The device is there, and waits for SETTINGS.
    fn accept(listener: &TcpListener, key: &Key) -> Self {
        loop {
            let (tcp, _) = listener.accept().unwrap();
            tcp.set_read_timeout(Some(DEADLINE)).unwrap();
            let tls = Acceptor::new(key).and_then(|acceptor| acceptor.start()).unwrap();
            let mut talker = Self { tcp, tls, scratch: Scratch::new(64 * 1024), opened: Vec::new() };
            while talker.opened.is_empty() && talker.read() {}
            // A link that is begun when another is asked for makes room for that.
            if !talker.opened.is_empty() {
                return talker;
            }
        }
    }

    /// False at the end.
    fn read(&mut self) -> bool {
        let mut buffer = [0; 4096];
        let Ok(count @ 1..) = self.tcp.read(&mut buffer) else { return false };
        let opened = self.tls.open(&mut buffer[..count], &mut self.opened, &mut self.scratch);
        self.flush();
        opened.is_ok()
    }

    fn flush(&mut self) {
        let unsent = self.tls.unsent(&self.scratch).to_vec();
        self.tls.advance(&mut self.scratch, unsent.len());
        // The device may have gone.
        let _ = self.tcp.write_all(&unsent);
    }

    fn send(&mut self, bytes: &[u8]) {
        assert_eq!(self.tls.seal(bytes, &mut self.scratch).unwrap(), bytes.len());
        self.flush();
    }
}

fn assert_device_is_harmless(device: &Device) {
    for event in &device.events {
        assert_harmless(&event.message);
        event.service.iter().for_each(|service| assert_harmless(service));
    }
    if let Some((text, _)) = device.status().last_error {
        assert_harmless(&text);
    }
}

#[test]
fn what_a_relay_says_is_harmless_in_events_status_and_the_file_of_the_device() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address: SocketAddr = listener.local_addr().unwrap();
    let (key, place) = (Arc::new(Key::generate().unwrap()), tempfile::tempdir().unwrap());
    let pins = Pins { current: key.public().pin(), next: new_key().public().pin() };
    let at = vec![address.to_string().parse().unwrap()];
    let join = JoinString::new(Kind::Device, at, pins, TokenId([1; 8]), Secret::random().unwrap()).unwrap();
    let enrolment = Enrolment::open(&place.path().join("state"), Some(&join.encode()), None).unwrap();
    let mut device = Device::start_with(address, |config| {
        config.enrolment = Some(enrolment);
        config.reconnect = true;
        config.keep_trying = true;
        config.offer(echo_at(address));
    });

    // Where it is to be found, and how it calls itself and the device.
    let software = (tag::SOFTWARE, EVIL.as_bytes());
    for host in EVIL_HOSTS {
        let host = format!("{host}:443");
        let addresses = [&[host.len() as u8][..], host.as_bytes()].concat();
        let mut talker = Talker::accept(&listener, &key);
        talker.send(&settings(&[software, (tag::NAME, b"pump-3"), (tag::ADDRESSES, &addresses)]));
        device.wait_for(EventKind::Waiting);
        device.handle.reconnect().unwrap();
    }
    let mut talker = Talker::accept(&listener, &key);
    talker.send(&settings(&[(tag::NAME, EVIL.as_bytes())]));
    device.wait_for(EventKind::Waiting);
    device.handle.reconnect().unwrap();

    // What clients are to reach, and why they are gone; then why the link is.
    let mut talker = Talker::accept(&listener, &key);
    talker.send(&settings(&[software, (tag::NAME, b"pump-3")]));
    device.wait_for(EventKind::Joined);
    let long = "\u{202e}".repeat(300);
    let hosts = EVIL_HOSTS.into_iter().chain([EVIL, "a b", &long]);
    for (host, stream) in hosts.zip(1..) {
        let length = u16::try_from(host.len()).unwrap().to_be_bytes();
        talker.send(&frame(wire::CONNECT, 0, stream, &[&length[..], host.as_bytes(), &[0, 22]].concat()));
        device.wait_for(EventKind::Protocol);
    }
    let named = frame(wire::CONNECT, 0, 8, &[&[0, 0, 0, 0][..], &field(1, b"echo")].concat());
    talker.send(&[named, wire::close(8, wire::code::REFUSED, EVIL)].concat());
    device.wait_for(EventKind::Disconnect);
    talker.send(&wire::go_away(wire::code::OVERLOAD, 1, 8, EVIL));
    while talker.read() {}
    device.wait_for(EventKind::Waiting);
    assert_device_is_harmless(&device);
    for code in [15, 16, 17, 19, 9999] {
        device.handle.reconnect().unwrap();
        let mut talker = Talker::accept(&listener, &key);
        talker.send(&[frame(wire::SETTINGS, 0, 0, &[]), wire::go_away(code, 1, 0, EVIL)].concat());
        while talker.read() {}
        device.wait_for(EventKind::Waiting);
    }
    assert_device_is_harmless(&device);
    let file = std::fs::read_to_string(place.path().join("state/relay.toml")).unwrap();
    file.lines().for_each(assert_harmless);
}
