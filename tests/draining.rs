//! GOAWAY: a link that takes no new clients finishes those it has, beside the link that takes its place.

mod common;

use std::net::{SocketAddr, TcpListener};

use common::device::Device;
use common::relay::{Relay, address_in, command};
use common::service::Service;
use common::wire::{HELLO, LISTEN};
use common::{DEADLINE, End, Peer, eventually};
use tcpremote::device::EventKind;

/// A device of version 2 that the test drives, byte for byte.
struct Link {
    peer: Peer,
}

const SETTINGS: u8 = 6;
const CONNECT: u8 = 1;
const DATA: u8 = 3;

impl Link {
    fn listen(relay: SocketAddr) -> Self {
        let mut peer = Peer::connect(relay);
        peer.send(&[LISTEN, HELLO].concat());
        peer.expect(&HELLO);
        let mut link = Self { peer };
        link.send("00 00 06 00 00000000");
        assert_eq!(link.read().0, SETTINGS, "the relay's first frame");
        link
    }

    /// A frame in hexadecimal digits.
    fn send(&mut self, frame: &str) {
        let digits: Vec<u8> = frame.chars().filter_map(|digit| digit.to_digit(16)).map(|digit| digit as u8).collect();
        self.peer.send(&digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect::<Vec<_>>());
    }

    /// The next frame that is about a stream: type, flags, stream and payload.
    fn read(&mut self) -> (u8, u8, u32, Vec<u8>) {
        loop {
            let header = self.peer.read(8);
            let payload = self.peer.read(usize::from(u16::from_be_bytes([header[0], header[1]])));
            let stream = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
            if stream > 0 || header[2] == SETTINGS {
                return (header[2], header[3], stream, payload);
            }
        }
    }

    fn expect_data(&mut self, stream: u32, bytes: &[u8]) {
        let (kind, flags, on, payload) = self.read();
        assert_eq!((kind, flags, on, &payload[..]), (DATA, 0, stream, bytes));
    }
}

#[test]
fn a_device_that_goes_away_keeps_its_clients_beside_its_successor() {
    let relay = Relay::start(&["127.0.0.1:7"]);
    let mut leaving = Link::listen(relay.device_addr());
    let mut old = Peer::connect(relay.client_addrs()[0]);
    let (kind, _, stream, _) = leaving.read();
    assert_eq!((kind, stream), (CONNECT, 1));
    leaving.send("00 00 07 00 00000001");
    // GOAWAY: SHUTDOWN, no wait, the last stream is 1.
    leaving.send("00 08 0a 00 00000000 000b 0000 00000001");
    relay.wait_for_log("the device takes no new clients on this link");

    let mut successor = Link::listen(relay.device_addr());
    let entrance = address_in(&relay.wait_for_logs("clients may connect", 2).pop().expect("two lines"));
    let mut new = Peer::connect(entrance);
    let (kind, _, stream, _) = successor.read();
    assert_eq!((kind, stream), (CONNECT, 1));
    successor.send("00 00 07 00 00000001");
    successor.send("00 03 03 00 00000001 6e6577");
    new.expect(b"new");

    old.send(b"still");
    leaving.expect_data(1, b"still");
    leaving.send("00 03 03 01 00000001 6f6c64");
    old.expect(b"old");
    old.expect_end(End::Finished);
    drop(leaving);
    new.send(b"here");
    successor.expect_data(1, b"here");
    assert!(!relay.log().iter().any(|line| line.contains("takes the place")), "no device was replaced");
}

#[test]
fn a_relay_that_drains_keeps_its_clients_while_the_next_relay_takes_the_new_ones() {
    let service = Service::echo();
    let service_address = service.address().to_string();
    let mut ending = Relay::start_with(&["--drain", "30"], &[&service_address]);
    let device_port = ending.device_addr();
    let mut device = Device::start_with(device_port, |config| config.reconnect = true);
    device.wait_for(EventKind::Listening);
    let mut old = Peer::connect(ending.client_addrs()[0]);
    old.send(b"before");
    old.expect(b"before");

    ending.signal("TERM");
    ending.wait_for_log("waiting for clients to end");
    let mut next = command();
    next.args([&device_port.to_string(), "127.0.0.1:0", &service_address]);
    let next = Relay::spawn(next, 1);
    let mut new = Peer::connect(next.client_addrs()[0]);
    new.send(b"new");
    new.expect(b"new");
    old.send(b"still");
    old.expect(b"still");
    assert_eq!((device.status().clients, device.status().reconnects), (2, 1));

    old.finish();
    old.expect_end(End::Finished);
    assert_eq!(ending.wait(), Some(0), "no client had to be cut");
    eventually("the device has forgotten the client", DEADLINE, || device.status().clients == 1);
    new.send(b"after");
    new.expect(b"after");
}

#[test]
fn a_connection_that_has_not_sent_listen_ends_when_draining_begins() {
    let service = Service::echo();
    let mut relay = Relay::start_with(&["--drain", "30"], &[&service.address().to_string()]);
    let mut device = Device::start(relay.device_addr());
    device.wait_for(EventKind::Listening);
    let entrance = relay.client_addrs()[0];
    let mut client = Peer::connect(entrance);
    client.send(b"before");
    client.expect(b"before");
    let mut late = Peer::connect(relay.device_addr());
    relay.wait_for_logs("a connection on the device port", 2);
    relay.signal("TERM");
    relay.wait_for_log("waiting for clients to end");
    // The reset may be seen by either.
    assert!(late.try_send(&LISTEN).is_err() || late.read_to_end() == (Vec::new(), End::Reset));
    client.send(b"after");
    client.expect(b"after");
    assert!(TcpListener::bind(entrance).is_ok(), "the successor can have the port");
    assert_eq!(relay.log().iter().filter(|line| line.contains("a device is here")).count(), 1);
    client.finish();
    client.expect_end(End::Finished);
    assert_eq!(relay.wait(), Some(0));
}

#[test]
fn clients_finish_when_the_relays_terminal_is_closed() {
    let service = Service::echo();
    let mut relay = Relay::start_with(&["--drain", "30"], &[&service.address().to_string()]);
    let mut device = Device::start(relay.device_addr());
    device.wait_for(EventKind::Listening);
    let mut client = Peer::connect(relay.client_addrs()[0]);
    client.send(b"before");
    client.expect(b"before");
    // The user's shell and the system each send one.
    for _ in 0..2 {
        relay.signal("HUP");
        relay.wait_for_log("waiting for clients to end");
    }
    client.send(b"after");
    client.expect(b"after");
    client.finish();
    client.expect_end(End::Finished);
    assert_eq!(relay.wait(), Some(0), "no client had to be cut");
}

#[test]
fn a_device_that_is_closed_sends_goaway_before_it_ends() {
    let service = Service::echo();
    let relay = Relay::start(&[&service.address().to_string()]);
    let mut device = Device::start(relay.device_addr());
    device.wait_for(EventKind::Listening);
    let mut client = Peer::connect(relay.client_addrs()[0]);
    client.send(b"x");
    client.expect(b"x");
    device.handle.close().expect("our process");
    let line = relay.wait_for_log("takes no new clients");
    assert!(line.contains("shutdown") && line.contains("the device closed the tunnel"), "{line}");
    client.expect_end(End::Reset);
}
