//! What no relay may send to our device. Whatever it is, the device says why, ends the link, and makes the next one.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};
use tcpremote::device::EventKind;

use crate::common::device::Device;
use crate::common::wire::{HELLO, LISTEN};
use crate::common::wire_v2::{self as wire, Link, WINDOW, code};
use crate::common::{DEADLINE, End, Listener, Peer, eventually};

/// A device, the end of its link, and a service.
struct Victim {
    relay: Listener,
    service: Listener,
    device: Device,
    link: Link,
}

impl Victim {
    fn new() -> Self {
        let (relay, service) = (Listener::bind(), Listener::bind());
        let mut device = Device::start_with(relay.address(), |config| config.reconnect = true);
        let link = Link::accept(&relay);
        device.wait_for(EventKind::Listening);
        Self { relay, service, device, link }
    }

    /// The device with stream 1, which is connected, and its service.
    fn open() -> (Self, Peer) {
        let mut victim = Self::new();
        victim.link.send(&wire::connect(1, victim.service.address()));
        let served = victim.service.accept();
        assert_eq!(victim.link.expect(wire::CONNECTED).stream, 1);
        (victim, served)
    }

    /// The device ends the link, with this code and such a reason, and has the next one.
    #[track_caller]
    fn expect_goodbye(mut self, code: u16, reason: &str) {
        let goodbye = self.link.expect_goodbye(code);
        assert!(goodbye.reason().contains(reason), "{}", goodbye.reason());
        let waiting = self.device.wait_for(EventKind::Waiting);
        assert_eq!(waiting.code, Some("lost"));
        assert!(waiting.message.contains(&goodbye.reason()), "{}", waiting.message);
        let mut link = Link::accept(&self.relay);
        link.send(&wire::connect(1, self.service.address()));
        self.service.accept().send(b"served");
        link.expect(wire::CONNECTED);
        link.expect_data(1, b"served");
    }
}

/// These frames to a device with one open stream end its link, and the service is cut.
#[track_caller]
fn expect_to_end(frames: &[u8], code: u16, reason: &str) {
    let (mut victim, mut served) = Victim::open();
    victim.link.send(frames);
    assert_eq!(served.read_to_end().1, End::Reset, "{reason}");
    victim.expect_goodbye(code, reason);
}

/// A service whose connections hang, since its queue is full and the kernel drops what comes.
fn hanging_service() -> (Socket, Peer) {
    let service = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    service.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    service.listen(0).unwrap();
    let full = Peer::connect(service.local_addr().unwrap().as_socket().unwrap());
    (service, full)
}

#[test]
fn a_frame_of_a_stream_that_was_never_opened_ends_the_link() {
    let never = "a frame for stream 7, which was never opened";
    expect_to_end(&wire::data(7, b"x"), code::PROTOCOL, never);
    expect_to_end(&wire::credit(7, 1 << 20), code::PROTOCOL, never);
    expect_to_end(&wire::close(7, code::REFUSED, ""), code::PROTOCOL, never);
    expect_to_end(&wire::fin(7), code::PROTOCOL, never);
}

#[test]
fn a_connect_with_any_number_but_the_next_ends_the_link() {
    let service = SocketAddr::from(([127, 0, 0, 1], 9));
    expect_to_end(&wire::connect(1, service), code::PROTOCOL, "CONNECT for stream 1, where 2 is the next");
    expect_to_end(&wire::connect(3, service), code::PROTOCOL, "CONNECT for stream 3, where 2 is the next");
    expect_to_end(&wire::connect(0, service), code::PROTOCOL, "a frame that must name a stream has none");
}

#[test]
fn a_frame_out_of_order_or_that_only_a_device_sends_ends_the_link() {
    let (mut victim, _served) = Victim::open();
    victim.link.send(&[wire::fin(1), wire::data(1, b"x")].concat());
    victim.expect_goodbye(code::PROTOCOL, "DATA behind FIN");
    expect_to_end(&wire::data(1, b""), code::PROTOCOL, "DATA without a byte and without FIN");
    expect_to_end(&wire::connected(1), code::PROTOCOL, "CONNECTED is not for this side to send");
}

#[test]
fn a_payload_that_is_too_short_or_too_long_ends_the_link() {
    for frame in [
        wire::frame(wire::CREDIT, 0, 1, &[0; 7]),
        wire::frame(wire::PING, 0, 0, &[0; 9]),
        wire::frame(wire::CLOSE, 0, 1, &[0]),
        wire::frame(wire::GOAWAY, 0, 0, &[0; 7]),
    ] {
        expect_to_end(&frame, code::PROTOCOL, "a payload is cut short");
    }
    let long = wire::frame(wire::CONNECT, 0, 2, &[0; 5000]);
    expect_to_end(&long, code::PROTOCOL, "a control frame is too long");
}

#[test]
fn an_unknown_frame_is_skipped_by_its_size_unless_it_is_critical() {
    let (mut victim, mut served) = Victim::open();
    for (kind, stream) in [(4, 0), (5, 1), (99, 7), (255, u32::MAX)] {
        victim.link.send(&wire::frame(kind, 0x7f, stream, &wire::data(77, b"x")));
        victim.link.send(&wire::frame(kind, 0, stream, &[0x55; 65_535]));
    }
    victim.link.send(&wire::data(1, b"still here"));
    served.expect(b"still here");
    eventually("they are counted", DEADLINE, || victim.device.status().ignored_frames == 8);
    let critical = wire::frame(99, wire::CRITICAL, 0, &[]);
    expect_to_end(&critical, code::PROTOCOL, "a critical frame of a type that is not known here");
}

#[test]
fn a_connect_that_cannot_be_read_ends_its_stream_alone() {
    let (mut victim, mut served) = Victim::open();
    let garbage: [&[u8]; 4] = [b"", b"\0\x091274", b"\0\x09127.0.0.1\0\0", b"\0\x09127.0.0.1\0\x16\0\x02\0\xff"];
    for (payload, stream) in garbage.into_iter().zip(2..) {
        victim.link.send(&wire::frame(wire::CONNECT, 0, stream, payload));
        let close = victim.link.expect(wire::CLOSE);
        assert_eq!((close.stream, close.code()), (stream, code::PROTOCOL), "{}", close.reason());
        victim.device.wait_for(EventKind::Protocol);
    }
    served.send(b"still here");
    victim.link.expect_data(1, b"still here");
}

#[test]
fn more_bytes_than_the_credit_end_the_link() {
    let mut victim = Victim::new();
    // A service that is not connected yet takes nothing, so there is the window and no more.
    let (service, _full) = hanging_service();
    victim.link.send(&wire::connect(1, service.local_addr().unwrap().as_socket().unwrap()));
    victim.link.send(&wire::data(1, &[b'x'; WINDOW]));
    victim.link.send(&wire::ping(0, *b"all fine"));
    while victim.link.read_frame().payload != b"all fine" {}
    victim.link.send(&wire::data(1, b"x"));
    victim.expect_goodbye(code::FLOW_CONTROL, "more was sent on stream 1 than it had credit for");
}

#[test]
fn bytes_for_a_service_that_is_gone_are_skipped_up_to_the_credit() {
    let (mut victim, served) = Victim::open();
    served.reset();
    assert_eq!(victim.link.expect(wire::CLOSE).stream, 1);
    victim.link.send(&wire::data(1, &[b'x'; WINDOW]));
    victim.link.send(&wire::connect(2, victim.service.address()));
    let _served = victim.service.accept();
    victim.link.expect(wire::CONNECTED);
    // The first of these may end the link before the second is written.
    let _ = victim.link.peer.try_send(&wire::data(1, &[b'x'; WINDOW]).repeat(2));
    victim.expect_goodbye(code::FLOW_CONTROL, "more was sent on stream 1 than it had credit for");
}

#[test]
fn credit_that_goes_backwards_or_often_gives_nothing_ends_the_link() {
    let backwards = [wire::credit(1, 2 << 20), wire::credit(1, (2 << 20) - 1)].concat();
    expect_to_end(&backwards, code::FLOW_CONTROL, "the credit of stream 1 went backwards");
    let nothing = wire::credit(1, u64::MAX).repeat(300);
    expect_to_end(&nothing, code::OVERLOAD, "too many frames that are of no use");
}

#[test]
fn a_flood_of_useless_frames_ends_the_link() {
    for frame in [
        wire::ping(0, *b"flooding"),
        wire::ping(wire::ACK, *b"an echo!"),
        wire::settings(),
        wire::frame(99, 0, 0, b"unknown"),
    ] {
        expect_to_end(&frame.repeat(300), code::OVERLOAD, "too many frames that are of no use");
    }
}

#[test]
fn more_streams_than_the_device_takes_are_refused_one_by_one() {
    let mut victim = Victim::new();
    let service = victim.service.address();
    let mut served = Vec::new();
    for stream in 1..=256 {
        victim.link.send(&wire::connect(stream, service));
        served.push(victim.service.accept());
        assert_eq!(victim.link.expect(wire::CONNECTED).stream, stream);
    }
    for stream in 257..1000 {
        victim.link.send(&wire::connect(stream, service));
        let close = victim.link.expect(wire::CLOSE);
        assert_eq!((close.stream, close.code()), (stream, code::OVERLOAD), "{}", close.reason());
    }
    served[7].send(b"still here");
    victim.link.expect_data(8, b"still here");
}

#[test]
fn a_flood_of_clients_causes_a_bounded_number_of_events_and_their_number_is_told() {
    let mut victim = Victim::new();
    let began = Instant::now();
    for stream in 1..=2000 {
        victim.link.send(&wire::connect(stream, SocketAddr::from(([192, 0, 2, 1], 22))));
        let close = victim.link.expect(wire::CLOSE);
        assert_eq!(close.stream, stream, "{}", close.reason());
    }
    let seconds = began.elapsed().as_secs() as usize + 1;
    victim.device.handle.close().unwrap();
    victim.device.wait_for(EventKind::Closed);
    let of = |kind| victim.device.events.iter().filter(move |event| event.kind == kind);
    let (denied, asked) = (of(EventKind::Denied).count(), of(EventKind::Connect).count());
    assert!(denied <= 256 + seconds + 1 + seconds / 10, "{denied}");
    assert!(asked <= 256 + 10 * seconds + 1 + seconds / 10, "{asked}");
    let last = &of(EventKind::Denied).next_back().unwrap().message;
    assert!(last.ends_with(" more events of the kind 'denied' were left out"), "{last}");
    assert_eq!(victim.device.status().events_dropped, 0);
}

#[test]
fn settings_that_do_not_come_first_or_in_time_end_the_link() {
    for first in [
        wire::ping(0, *b"too soon"),
        wire::connect(1, SocketAddr::from(([127, 0, 0, 1], 9))),
        wire::frame(wire::SETTINGS, 0, 0, &[0; 4097]),
        wire::frame(wire::SETTINGS, 0, 0, &wire::field(3, b"cut")[..6]),
    ] {
        let relay = Listener::bind();
        let mut device = Device::start(relay.address());
        let mut link = Link { peer: relay.accept() };
        link.peer.expect(&[LISTEN, HELLO].concat());
        link.send(&[&HELLO[..], &first].concat());
        link.expect_settings();
        link.expect_goodbye(code::PROTOCOL);
        assert_eq!(device.wait_for(EventKind::Closed).code, Some("lost"));
    }
    let relay = Listener::bind();
    let mut device = Device::start(relay.address());
    let mut link = Link { peer: relay.accept() };
    link.peer.expect(&[LISTEN, HELLO].concat());
    let began = Instant::now();
    link.send(&HELLO);
    link.expect_settings();
    let goodbye = link.expect_goodbye(code::PROTOCOL);
    assert!(goodbye.reason().contains("did not come within 10 s"), "{}", goodbye.reason());
    let waited = began.elapsed();
    assert!(waited >= Duration::from_secs(10), "{waited:?}");
    assert_eq!(device.wait_for(EventKind::Closed).code, Some("lost"));
}

#[test]
fn a_hello_for_a_version_that_was_not_offered_means_version_1() {
    let relay = Listener::bind();
    let device = Device::start(relay.address());
    let mut peer = relay.accept();
    peer.expect(&[LISTEN, HELLO].concat());
    peer.send(&[0, 0, 5, 0xf3]);
    eventually("the version is decided", DEADLINE, || device.status().protocol == Some(1));
}
