//! What no device may send to our relay. Whatever it is, the relay says why, ends the link, and serves the next device.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::common::relay::Relay;
use crate::common::wire::{HELLO, LISTEN};
use crate::common::wire_v2::{self as wire, Link, WINDOW, code};
use crate::common::{End, Peer};

/// No connection is made to it: the device is scripted.
const SERVICE: &str = "127.0.0.1:57847";

/// A relay that survives every device of its test.
struct Victim {
    relay: Relay,
}

impl Victim {
    fn new() -> Self {
        Self { relay: Relay::start(&[SERVICE]) }
    }

    /// A device, and where its clients connect.
    fn device(&self) -> (Link, SocketAddr) {
        let (link, clients) = self.relay.listen_v2();
        (link, clients[0])
    }

    /// A device with stream 1, which is connected, and its client.
    fn open(&self) -> (Link, Peer) {
        let (mut link, clients) = self.device();
        let client = Peer::connect(clients);
        let connect = link.expect(wire::CONNECT);
        assert_eq!((connect.stream, connect.flags), (1, 0));
        link.send(&wire::connected(1));
        (link, client)
    }

    /// These frames of a device with one open stream end its link, with this code and such a reason, and the client is
    /// cut.
    #[track_caller]
    fn expect_to_end(&self, frames: &[u8], code: u16, reason: &str) {
        let (mut link, mut client) = self.open();
        link.send(frames);
        self.expect_goodbye(link, code, reason);
        assert_eq!(client.read_to_end().1, End::Reset, "{reason}");
    }

    #[track_caller]
    fn expect_goodbye(&self, mut link: Link, code: u16, reason: &str) {
        let goodbye = link.expect_goodbye(code);
        assert!(goodbye.reason().contains(reason), "{}", goodbye.reason());
        self.relay.wait_for_log(&format!("reason={}", goodbye.reason()));
        self.expect_service();
    }

    /// The next device is served.
    fn expect_service(&self) {
        let (mut link, mut client) = self.open();
        client.send(b"are you there?");
        link.expect_data(1, b"are you there?");
        link.send(&wire::data(1, b"I am"));
        client.expect(b"I am");
    }
}

#[test]
fn a_frame_of_a_stream_that_was_never_opened_ends_the_link() {
    let victim = Victim::new();
    let never = "a frame for stream 7, which was never opened";
    victim.expect_to_end(&wire::data(7, b"x"), code::PROTOCOL, never);
    victim.expect_to_end(&wire::connected(7), code::PROTOCOL, never);
    victim.expect_to_end(&wire::credit(7, 1 << 20), code::PROTOCOL, never);
    victim.expect_to_end(&wire::close(7, code::REFUSED, ""), code::PROTOCOL, never);
    victim.expect_to_end(&wire::fin(7), code::PROTOCOL, never);
}

#[test]
fn a_frame_out_of_order_ends_the_link() {
    let victim = Victim::new();
    victim.expect_to_end(&wire::connected(1), code::PROTOCOL, "CONNECTED twice");
    victim.expect_to_end(&wire::data(1, b""), code::PROTOCOL, "DATA without a byte and without FIN");
    let (mut link, _client) = victim.open();
    link.send(&[wire::fin(1), wire::data(1, b"x")].concat());
    victim.expect_goodbye(link, code::PROTOCOL, "DATA behind FIN");
    let (mut link, clients) = victim.device();
    let _client = Peer::connect(clients);
    link.expect(wire::CONNECT);
    link.send(&wire::data(1, b"too early"));
    victim.expect_goodbye(link, code::PROTOCOL, "DATA before CONNECTED");
}

#[test]
fn a_frame_that_only_a_relay_sends_or_that_misuses_stream_0_ends_the_link() {
    let victim = Victim::new();
    let service: SocketAddr = SERVICE.parse().unwrap();
    victim.expect_to_end(&wire::connect(2, service), code::PROTOCOL, "CONNECT is not for this side to send");
    victim.expect_to_end(&wire::data(0, b"x"), code::PROTOCOL, "a frame that must name a stream has none");
    victim.expect_to_end(&wire::close(0, code::REFUSED, ""), code::PROTOCOL, "a frame that must name a stream");
    for kind in [wire::SETTINGS, wire::PING, wire::GOAWAY] {
        let frame = wire::frame(kind, 0, 1, &[0; 8]);
        victim.expect_to_end(&frame, code::PROTOCOL, "or the other way round");
    }
}

#[test]
fn a_payload_that_is_too_short_or_too_long_ends_the_link() {
    let victim = Victim::new();
    for frame in [
        wire::frame(wire::CREDIT, 0, 1, &[0; 7]),
        wire::frame(wire::CREDIT, 0, 1, &[0; 9]),
        wire::frame(wire::CREDIT, 0, 1, &[]),
        wire::frame(wire::PING, 0, 0, &[0; 3]),
        wire::frame(wire::CLOSE, 0, 1, &[0]),
        wire::frame(wire::GOAWAY, 0, 0, &[0; 7]),
    ] {
        victim.expect_to_end(&frame, code::PROTOCOL, "a payload is cut short");
    }
    for kind in [wire::CLOSE, wire::CREDIT, wire::CONNECTED] {
        victim.expect_to_end(&wire::frame(kind, 0, 1, &[0; 5000]), code::PROTOCOL, "a control frame is too long");
    }
}

#[test]
fn an_unknown_frame_is_skipped_by_its_size_unless_it_is_critical() {
    let victim = Victim::new();
    let (mut link, mut client) = victim.open();
    for (kind, stream) in [(4, 0), (5, 1), (99, 7), (255, u32::MAX)] {
        // Its payload would be a frame that ends the link.
        link.send(&wire::frame(kind, 0x7f, stream, &wire::data(77, b"x")));
        link.send(&wire::frame(kind, 0, stream, &[0x55; 65_535]));
    }
    // Flags without a meaning are ignored.
    link.send(&wire::frame(wire::DATA, 0x7e, 1, b"still here"));
    client.expect(b"still here");
    let critical = wire::frame(99, wire::CRITICAL, 0, &[]);
    Victim::new().expect_to_end(&critical, code::PROTOCOL, "a critical frame of a type that is not known here");
}

#[test]
fn more_bytes_than_the_credit_end_the_link() {
    let victim = Victim::new();
    let (mut link, _client) = victim.open();
    // The client reads nothing. What the kernel and the largest window take is less than this.
    let chunk = wire::data(1, &[b'x'; 65_535]);
    let sent = (0..1024).take_while(|_| link.peer.try_send(&chunk).is_ok()).count();
    assert!(sent < 1024, "64 MiB were taken from a sender that was given no credit for them");
    victim.expect_goodbye(link, code::FLOW_CONTROL, "more was sent on stream 1 than it had credit for");
}

#[test]
fn credit_that_goes_backwards_or_often_gives_nothing_ends_the_link() {
    let victim = Victim::new();
    let backwards = [wire::credit(1, 2 << 20), wire::credit(1, (2 << 20) - 1)].concat();
    victim.expect_to_end(&backwards, code::FLOW_CONTROL, "the credit of stream 1 went backwards");
    victim.expect_to_end(&wire::credit(1, 5), code::FLOW_CONTROL, "went backwards");
    let nothing = wire::credit(1, u64::MAX).repeat(300);
    victim.expect_to_end(&nothing, code::OVERLOAD, "too many frames that are of no use");
}

#[test]
fn a_flood_of_useless_frames_ends_the_link() {
    let victim = Victim::new();
    for frame in [
        wire::ping(0, *b"flooding"),
        wire::ping(wire::ACK, *b"an echo!"),
        wire::settings(),
        wire::frame(99, 0, 0, b"unknown"),
    ] {
        victim.expect_to_end(&frame.repeat(300), code::OVERLOAD, "too many frames that are of no use");
    }
    // A few do not end the link.
    let (mut link, mut client) = victim.open();
    link.send(&[wire::ping(0, *b"politely"), wire::settings()].concat().repeat(30));
    link.send(&wire::data(1, b"still here"));
    client.expect(b"still here");
}

#[test]
fn settings_that_do_not_come_first_or_in_time_end_the_link() {
    let victim = Victim::new();
    let reason = "SETTINGS is not the first frame";
    for first in [
        wire::ping(0, *b"too soon"),
        wire::data(1, b"x"),
        wire::frame(99, 0, 0, &[]),
        wire::frame(wire::SETTINGS, 0, 0, &[0; 4097]),
        wire::frame(wire::SETTINGS, 0, 0, &wire::field(3, b"cut")[..6]),
        wire::frame(wire::SETTINGS, 0, 0, &wire::field(4, &[1, 2])),
        wire::frame(wire::SETTINGS, 0, 0, &[wire::field(1, &[0; 4000]), wire::field(2, &[0; 88])].concat()),
    ] {
        let mut link = Link::greet(victim.relay.device_addr());
        link.expect_settings();
        link.send(&first);
        let goodbye = link.expect_goodbye(code::PROTOCOL);
        let is_named =
            ["not the first frame", "cut short", "too long"].iter().any(|why| goodbye.reason().contains(why));
        assert!(is_named, "{}", goodbye.reason());
    }
    let began = Instant::now();
    let mut slow = Link::greet(victim.relay.device_addr());
    slow.expect_settings();
    slow.send(&wire::settings()[..20]);
    victim.expect_goodbye(slow, code::PROTOCOL, reason);
    let waited = began.elapsed();
    assert!(waited >= Duration::from_secs(10), "{waited:?}");
}

#[test]
fn before_its_settings_a_device_is_sent_no_more_than_16_kib_of_a_client() {
    let relay = Relay::start(&[SERVICE]);
    let mut link = Link::greet(relay.device_addr());
    link.expect_settings();
    let mut client = Peer::connect(relay.client_addrs()[0]);
    client.send(&[b'x'; 3 * WINDOW]);
    link.expect(wire::CONNECT);
    link.expect_data(1, &[b'x'; 16 * 1024]);
    // Its SETTINGS permit more.
    link.send(&wire::settings());
    link.expect_data(1, &[b'x'; 3 * WINDOW - 16 * 1024]);
}

#[test]
fn a_device_that_floods_pings_and_reads_nothing_is_cut() {
    let victim = Victim::new();
    let (mut link, _client) = victim.open();
    // Each asks for an answer. It is one answer at a time, and soon too many.
    let pings = wire::ping(0, *b"answer!!").repeat(1000);
    while link.peer.try_send(&pings).is_ok() {}
    victim.relay.wait_for_log("too many frames that are of no use");
    victim.expect_service();
}

#[test]
fn a_device_of_a_later_version_is_answered_with_version_2() {
    let relay = Relay::start(&[SERVICE]);
    for hello in [[0, 0, 5, 0xf2], [0, 0, 5, 0xf3], [0, 0, 5, 0xff]] {
        let mut device = Peer::connect(relay.device_addr());
        device.send(&[LISTEN, hello].concat());
        device.expect(&HELLO);
    }
}

#[test]
fn frames_of_version_1_behind_hello_end_the_link_and_the_next_device_is_served() {
    let relay = Relay::start(&[SERVICE]);
    let mut link = Link::greet(relay.device_addr());
    link.expect_settings();
    link.send(&[0, 0, 2, 1, 0, 0, 2, 2]);
    link.expect_goodbye(code::PROTOCOL);
    let (mut link, clients) = relay.listen_v2();
    let _client = Peer::connect(clients[0]);
    link.expect(wire::CONNECT);
}
