//! Links that are not in use any more, which hostile peers make one after the other: all of them together hold no more
//! than one that is.
#![cfg(feature = "relay")]
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test ends where its own means fail")]

mod common;

use std::net::SocketAddr;

use common::device::Device;
use common::relay::Relay;
use common::usage::Usage;
use common::wire::{self, HELLO, LISTEN};
use common::wire_v2::{self, code};
use common::{DEADLINE, End, Listener, Peer, eventually};
use socket2::{Domain, Socket, Type};
use tcpremote::connection::Limits;
use tcpremote::device::{Config, EventKind};

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// A socket whose kernel takes little that is not read.
fn small() -> Socket {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket
}

/// A service that reads only where the test does.
fn service() -> Listener {
    let socket = small();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    socket.listen(128).unwrap();
    Listener::new(socket.into())
}

fn client(entrance: SocketAddr) -> Peer {
    let socket = small();
    socket.connect(&entrance.into()).unwrap();
    Peer::new(socket.into())
}

/// A device whose relay is hostile, and a service that reads nothing.
struct Victim {
    relay: Listener,
    service: Listener,
    device: Device,
}

impl Victim {
    fn new(configure: impl FnOnce(&mut Config)) -> Self {
        let (relay, service) = (Listener::bind(), service());
        let device = Device::start_with(relay.address(), |config| {
            config.reconnect = true;
            configure(config);
        });
        Self { relay, service, device }
    }

    /// The next link, in version 2, with so many streams that are connected.
    fn link(&mut self, streams: u32) -> (wire_v2::Link, Vec<Peer>) {
        let mut link = wire_v2::Link { peer: self.relay.accept() };
        link.peer.expect(&[LISTEN, HELLO].concat());
        link.send(&[&HELLO[..], &wire_v2::settings()].concat());
        link.expect(wire_v2::SETTINGS);
        let mut served = Vec::new();
        for stream in 1..=streams {
            link.send(&wire_v2::connect(stream, self.service.address()));
            served.push(self.service.accept());
            assert_eq!(link.expect(wire_v2::CONNECTED).stream, stream);
        }
        self.device.wait_for(EventKind::Listening);
        (link, served)
    }

    /// The device makes its next link beside this one, which drains.
    fn leave(&self, link: &mut wire_v2::Link, streams: u32) {
        link.send(&wire_v2::go_away(code::SHUTDOWN, 0, streams, "for ever"));
        self.device.handle.reconnect().unwrap();
    }

    /// As many bytes have come as the relay has sent in all.
    fn wait_for_bytes(&self, count: usize) {
        self.device.wait_until_status(|status| status.bytes_received, count as u64);
    }
}

/// The link carries bytes from the service of its stream.
fn expect_to_work(link: &mut wire_v2::Link, stream: u32, served: &mut Peer) {
    served.send(b"still here");
    loop {
        let frame = link.next();
        if frame.kind == wire_v2::DATA {
            assert_eq!((frame.stream, &frame.payload[..]), (stream, &b"still here"[..]));
            return;
        }
    }
}

#[test]
fn retired_links_of_a_device_have_no_more_streams_than_one_link() {
    let mut victim = Victim::new(|_| {});
    let (mut links, mut served) = (Vec::new(), Vec::new());
    for _ in 0..4 {
        let (mut link, peers) = victim.link(100);
        victim.leave(&mut link, 100);
        links.push(link);
        served.push(peers);
    }
    let _in_use = victim.link(1);
    // Of these that drain two fit.
    served[..2].iter_mut().flatten().for_each(|peer| peer.expect_end(End::Reset));
    for (link, peers) in links.iter_mut().zip(&mut served).skip(2) {
        expect_to_work(link, 100, &mut peers[99]);
    }
    victim.device.wait_until_status(|status| status.clients, 201);
}

#[test]
fn retired_links_of_a_device_hold_no_more_bytes_than_one_link() {
    let limits = Limits { window: MIB as u32, streams: 16, budget: 16 * MIB as u64, ..Limits::DEVICE };
    let mut victim = Victim::new(|config| config.limits = limits);
    let (mut links, mut served, mut sent) = (Vec::new(), Vec::new(), 0);
    for _ in 0..4 {
        let (mut link, peers) = victim.link(12);
        for stream in 1..=12 {
            (0..16).for_each(|_| link.send(&wire_v2::data(stream, &[b'x'; 64_000])));
            sent += 16 * 64_000;
        }
        victim.wait_for_bytes(sent);
        victim.leave(&mut link, 12);
        links.push(link);
        served.push(peers);
    }
    let _in_use = victim.link(1);
    // The kernel has some of it; of the rest two of these hold too much.
    for peer in served[..2].iter_mut().flatten() {
        assert_eq!(peer.read_to_end().1, End::Reset);
    }
    expect_to_work(&mut links[3], 12, &mut served[3][11]);
}

#[test]
fn retired_links_of_a_device_hold_no_more_bytes_than_one_link_in_version_1() {
    let mut victim = Victim::new(|config| config.limits.budget = MIB as u64);
    let (mut served, mut sent) = (Vec::new(), 0);
    for _ in 0..4 {
        let mut link = wire::Link::accept(&victim.relay);
        link.send(&wire::connect(1, "127.0.0.1", victim.service.port()));
        served.push(victim.service.accept());
        (0..15).for_each(|_| link.send(&wire::data(1, &[b'x'; 60_000])));
        sent += 15 * 60_000;
        victim.wait_for_bytes(sent);
        // The stream is complete, and the link is gone.
        link.send(&wire::close(1));
        link.peer.finish();
        victim.device.wait_for(EventKind::Waiting);
        victim.device.handle.reconnect().unwrap();
    }
    for peer in &mut served[..2] {
        assert_eq!(peer.read_to_end().1, End::Reset);
    }
    let (bytes, end) = served[3].read_to_end();
    assert_eq!((bytes.len(), end), (15 * 60_000, End::Finished));
}

#[test]
fn only_four_lost_links_of_a_device_deliver_last_bytes() {
    let mut victim = Victim::new(|_| {});
    let mut served = Vec::new();
    for _ in 0..6 {
        let mut link = wire::Link::accept(&victim.relay);
        link.send(&wire::connect(1, "127.0.0.1", victim.service.port()));
        served.push(victim.service.accept());
        (0..10).for_each(|_| link.send(&wire::data(1, &[b'x'; 60_000])));
        link.send(&wire::close(1));
        link.peer.finish();
        victim.device.wait_for(EventKind::Waiting);
        victim.device.handle.reconnect().unwrap();
    }
    let ends: Vec<_> = served.iter_mut().map(|peer| peer.read_to_end().1).collect();
    assert_eq!(ends, [&[End::Reset; 2][..], &[End::Finished; 4]].concat());
}

/// So many clients of the device that is the `count`th to be here.
fn clients_of(relay: &Relay, count: usize, clients: usize) -> Vec<Peer> {
    // The ports of the one before are closed by now, and about to open again.
    relay.wait_for_logs("a device is here", count);
    let entrance = relay.client_addrs()[0];
    let mut first = small();
    eventually("the client port is open", DEADLINE, || {
        let connected = first.connect(&entrance.into()).is_ok();
        if !connected {
            first = small();
        }
        connected
    });
    let mut all = vec![Peer::new(first.into())];
    all.extend((1..clients).map(|_| client(entrance)));
    all
}

#[test]
fn retired_links_of_a_relay_have_no_more_clients_than_one_link() {
    let relay = Relay::start(&["127.0.0.1:9"]);
    relay.device_addr();
    let before = Usage::of(relay.process()).descriptors;
    let (mut links, mut clients) = (Vec::new(), Vec::new());
    for _ in 0..6 {
        let mut link = wire_v2::Link::listen(relay.device_addr());
        clients.push(clients_of(&relay, links.len() + 1, 128));
        for count in 1..=128 {
            assert_eq!(link.expect(wire_v2::CONNECT).stream, count);
        }
        link.send(&wire_v2::go_away(code::SHUTDOWN, 0, 128, "for ever"));
        relay.wait_for_logs("takes no new clients", links.len() + 1);
        links.push(link);
    }
    clients[..4].iter_mut().flatten().for_each(|client| client.expect_end(End::Reset));
    let line = relay.wait_for_log("cut a link that is not in use any more: all of these together hold too much");
    assert!(line.contains("clients=128"), "{line}");
    // Those of two links, and the links.
    let descriptors = Usage::of(relay.process()).descriptors - before;
    assert!((256..=256 + 4).contains(&descriptors), "{descriptors}");
    clients[5][127].send(b"still here");
    links[5].expect_data(128, b"still here");
}

#[test]
fn retired_links_of_a_relay_hold_no_more_bytes_than_one_link() {
    let relay = Relay::start(&["127.0.0.1:9"]);
    relay.device_addr();
    let before = Usage::of(relay.process()).kib;
    let mut clients = Vec::new();
    let mut most = 0;
    for count in 1..=5 {
        let mut link = wire::Link::listen(relay.device_addr());
        clients.extend(clients_of(&relay, count, 50));
        for number in [(); 50].map(|()| link.read_frame()).map(|(_, number, _)| number) {
            (0..13).for_each(|_| link.send(&wire::data(number, &[b'x'; 60_000])));
            link.send(&wire::close(number));
        }
        link.peer.finish();
        relay.wait_for_logs("the link to the device is lost", count);
        most = most.max(Usage::of(relay.process()).kib.saturating_sub(before));
    }
    // Each holds 26 MiB, so that there is room for one beside the one in use; without a sum there were five.
    assert!(most < 85 * KIB, "the relay has grown by {most} KiB");
    relay.wait_for_logs("cut a link that is not in use any more", 3);
    let (bytes, end) = clients.last_mut().unwrap().read_to_end();
    assert_eq!((bytes.len(), end), (13 * 60_000, End::Finished));
}
