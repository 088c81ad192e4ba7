mod acks;
mod cost;
mod credit;
mod hostile;
mod keepalive;
mod opening;
mod order;
#[cfg(feature = "tls")]
mod secured;

use std::time::Duration;

use super::*;
use crate::address::Address;
use crate::connection::{Delivery, Room};
use crate::protocol::v2::{Close, Flags, GoAway, Type};

const KIB: usize = 1024;
const SECOND: Duration = Duration::from_secs(1);

/// Both ends of a link, on a clock that the test moves. Sockets are the test's.
struct Pair {
    device: Mux,
    relay: Mux,
    now: Instant,
    /// What each end got for its sockets, by stream.
    at_device: BTreeMap<StreamKey, Vec<u8>>,
    at_relay: BTreeMap<StreamKey, Vec<u8>>,
    /// Streams whose sockets take nothing.
    stuck: Vec<StreamKey>,
}

/// One client's stream at both ends.
#[derive(Clone, Copy)]
struct Open {
    relay: StreamKey,
    device: StreamKey,
    number: u32,
}

fn limits() -> Limits {
    Limits::DEVICE
}

impl Pair {
    /// Both have introduced themselves.
    fn new() -> Self {
        Self::with_limits(limits())
    }

    fn with_limits(limits: Limits) -> Self {
        let mut pair = Self::unconnected(limits);
        pair.run();
        assert!(matches!(pair.device_outputs()[..], [Output::Introduced(_)]));
        assert!(matches!(pair.relay_outputs()[..], [Output::Introduced(_)]));
        pair
    }

    /// As version 2 was before it had ACK: neither says that it acknowledges.
    fn without_acks(limits: Limits) -> Self {
        let mut pair = Self::unconnected(limits);
        carry(pair.now, &mut pair.device, &mut pair.relay, &mut pair.at_relay, &[]);
        carry(pair.now, &mut pair.relay, &mut pair.device, &mut pair.at_device, &[]);
        pair.forget_acks();
        pair.run();
        pair.device_outputs();
        pair.relay_outputs();
        pair
    }

    /// Neither has said that it acknowledges.
    fn forget_acks(&mut self) {
        for end in [&mut self.device, &mut self.relay] {
            (end.pacing, end.peer.acknowledges) = (None, false);
        }
    }

    fn unconnected(limits: Limits) -> Self {
        let now = Instant::now() + 1000 * SECOND;
        Self {
            device: Mux::new(now, Role::Device, limits, &[]),
            relay: Mux::new(now, Role::Relay, limits, &[]),
            now,
            at_device: BTreeMap::new(),
            at_relay: BTreeMap::new(),
            stuck: Vec::new(),
        }
    }

    /// Carries everything over the link until nothing moves.
    fn run(&mut self) {
        while self.device.has_unsent() || self.relay.has_unsent() {
            carry(self.now, &mut self.device, &mut self.relay, &mut self.at_relay, &self.stuck);
            carry(self.now, &mut self.relay, &mut self.device, &mut self.at_device, &self.stuck);
        }
    }

    fn device_outputs(&mut self) -> Vec<Output> {
        std::iter::from_fn(|| self.device.poll_output()).collect()
    }

    fn relay_outputs(&mut self) -> Vec<Output> {
        std::iter::from_fn(|| self.relay.poll_output()).collect()
    }

    fn arrive(&mut self) -> StreamKey {
        let service: Address = "127.0.0.1:22".parse().expect("an address");
        self.relay.open(self.now, service.into(), None)
    }

    /// A client, its CONNECT at the device, and nothing more.
    fn announce(&mut self) -> Open {
        let relay = self.arrive();
        let Some(Output::Opened { stream, client: number }) = self.relay_outputs().pop() else { panic!("no place") };
        assert_eq!(stream, relay);
        self.run();
        let Some(Output::Connect { stream: device, .. }) = self.device_outputs().pop() else { panic!("no CONNECT") };
        Open { relay, device, number }
    }

    fn open(&mut self) -> Open {
        let open = self.announce();
        self.device.handle_connected(self.now, open.device);
        self.run();
        assert!(matches!(self.relay_outputs()[..], [Output::Connected { .. }]));
        open
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.device.handle_timeout(self.now).expect("the relay is there");
        self.relay.handle_timeout(self.now).expect("the device is there");
        self.device.handle_pacing(self.now);
        self.relay.handle_pacing(self.now);
    }

    /// Frames by hand, for the device.
    fn hand_device(&mut self, frame: &[u8]) -> Result<(), ProtocolError> {
        receive(self.now, &mut self.device, frame, &mut self.at_device, &self.stuck)
    }

    /// Frames by hand, for the relay.
    fn hand_relay(&mut self, frame: &[u8]) -> Result<(), ProtocolError> {
        receive(self.now, &mut self.relay, frame, &mut self.at_relay, &self.stuck)
    }

    fn assert_empty(&mut self) {
        self.run();
        for end in [&self.device, &self.relay] {
            assert_eq!((end.streams(), end.counters().open, end.waiting.len()), (0, 0, 0));
            assert_eq!((end.delivering.len(), end.held()), (0, 0));
            assert_eq!((end.closes.len(), end.closes.is_due(u64::MAX), end.numbers.len()), (0, false, 0));
        }
    }
}

/// One write of the link and what follows.
fn carry(now: Instant, from: &mut Mux, to: &mut Mux, sockets: &mut BTreeMap<StreamKey, Vec<u8>>, stuck: &[StreamKey]) {
    let bytes = from.unsent().to_vec();
    from.advance_link(now, bytes.len());
    receive(now, to, &bytes, sockets, stuck).expect("no violation");
}

fn receive(
    now: Instant,
    end: &mut Mux,
    mut bytes: &[u8],
    sockets: &mut BTreeMap<StreamKey, Vec<u8>>,
    stuck: &[StreamKey],
) -> Result<(), ProtocolError> {
    while let Some(Delivery { stream, bytes }) = end.receive(now, &mut bytes)? {
        let taken = if stuck.contains(&stream) { 0 } else { bytes.len() };
        sockets.entry(stream).or_default().extend(&bytes[..taken]);
        end.delivered(now, stream, bytes, taken);
    }
    Ok(())
}

/// The frames that an end has to send, until it has none.
fn take_all(end: &mut Mux, now: Instant) -> Vec<u8> {
    let mut sent = Vec::new();
    while end.has_unsent() {
        let bytes = end.unsent().to_vec();
        end.advance_link(now, bytes.len());
        sent.extend(bytes);
    }
    sent
}

/// The stream's socket has these bytes for the link; how many it took.
fn send(now: Instant, end: &mut Mux, key: StreamKey, bytes: &[u8]) -> usize {
    let mut sent = 0;
    while sent < bytes.len() {
        let Room::Free([mut room, ..]) = end.reserve(key, false) else { break };
        let count = room.len().min(bytes.len() - sent);
        room[..count].copy_from_slice(&bytes[sent..sent + count]);
        end.commit(now, key, count);
        sent += count;
    }
    sent
}

fn data(stream: u32, bytes: &[u8], fin: bool) -> Vec<u8> {
    [&Header::data(stream, bytes.len() as u16, fin).encode()[..], bytes].concat()
}

fn connect_to(service: &str) -> v2::Connect {
    v2::Connect::to(v2::Target::Address(service.parse().expect("an address")))
}

fn bare(kind: Type, stream: u32) -> [u8; Header::LEN] {
    Header { size: 0, kind, flags: Flags::NONE, stream }.encode()
}

/// The kinds of the frames that an end has to send, in their order.
fn kinds(end: &mut Mux, now: Instant) -> Vec<u8> {
    let mut kinds = Vec::new();
    let mut bytes = Vec::new();
    while end.has_unsent() {
        bytes.extend(end.unsent());
        let count = end.unsent().len();
        end.advance_link(now, count);
    }
    let mut rest = &bytes[..];
    while let Some((&header, more)) = rest.split_first_chunk::<8>() {
        kinds.push(header[2]);
        rest = &more[usize::from(Header::decode(header).size)..];
    }
    kinds
}

#[test]
fn bytes_pass_both_ways_and_a_half_closed_client_gets_its_whole_answer() {
    let mut pair = Pair::new();
    let open = pair.open();
    assert_eq!(send(pair.now, &mut pair.relay, open.relay, b"request"), 7);
    pair.relay.handle_end(pair.now, open.relay);
    pair.run();
    assert_eq!(pair.at_device[&open.device], b"request");
    assert!(matches!(pair.device_outputs()[..], [Output::ShutdownWrite { .. }]));
    pair.pass(100 * SECOND);
    pair.run();
    assert_eq!(send(pair.now, &mut pair.device, open.device, b"answer"), 6);
    pair.device.handle_end(pair.now, open.device);
    pair.run();
    assert_eq!(pair.at_relay[&open.relay], b"answer");
    assert!(matches!(pair.relay_outputs()[..], [Output::Finish { .. }]));
    assert!(matches!(pair.device_outputs()[..], [Output::Finish { .. }]));
    pair.assert_empty();
}

#[test]
fn a_client_that_sends_at_once_loses_nothing_while_its_service_is_connected() {
    let mut pair = Pair::new();
    let open = pair.announce();
    assert_eq!(send(pair.now, &mut pair.relay, open.relay, b"at once"), 7);
    pair.relay.handle_end(pair.now, open.relay);
    pair.run();
    assert!(pair.device.pending(open.device).is_empty() && pair.device_outputs().is_empty(), "there is no socket yet");
    pair.device.handle_connected(pair.now, open.device);
    assert_eq!(pair.device.pending(open.device), b"at once");
    pair.device.advance(pair.now, open.device, 7);
    assert!(matches!(pair.device_outputs()[..], [Output::ShutdownWrite { .. }]));
}

#[test]
fn a_service_that_is_connected_and_over_in_one_turn_was_connected_first() {
    let mut pair = Pair::new();
    let finished = pair.announce();
    pair.relay.handle_end(pair.now, finished.relay);
    pair.run();
    let failed = pair.announce();
    for open in [finished, failed] {
        pair.device.handle_connected(pair.now, open.device);
        send(pair.now, &mut pair.device, open.device, b"hello");
    }
    pair.device.handle_end(pair.now, finished.device);
    pair.device.handle_failure(pair.now, failed.device, Code::Normal, "reset");
    pair.run();
    assert_eq!(
        (&pair.at_relay[&finished.relay][..], &pair.at_relay[&failed.relay][..]),
        (&b"hello"[..], &b"hello"[..])
    );
    let outputs = pair.relay_outputs();
    assert_eq!(outputs.iter().filter(|output| matches!(output, Output::Connected { .. })).count(), 2, "{outputs:?}");
    pair.assert_empty();
}

#[test]
fn a_failed_service_is_a_close_with_code_and_reason_that_has_no_answer() {
    let mut pair = Pair::new();
    let open = pair.announce();
    pair.device.handle_failure(pair.now, open.device, Code::Refused, "no listener");
    pair.run();
    let Some(Output::Reset { reason: Reset::Closed(close), .. }) = pair.relay_outputs().pop() else {
        panic!("not told")
    };
    assert_eq!(close, Close { code: Code::Refused, reason: "no listener".into() });
    pair.assert_empty();
}

#[test]
fn what_was_read_goes_before_close_and_is_delivered_before_the_reset() {
    let mut pair = Pair::new();
    let open = pair.open();
    pair.stuck.push(open.relay);
    send(pair.now, &mut pair.device, open.device, b"the last words");
    pair.device.handle_failure(pair.now, open.device, Code::Normal, "reset");
    pair.run();
    assert!(pair.relay_outputs().is_empty(), "bytes are left for its socket");
    assert_eq!(pair.relay.pending(open.relay), b"the last words");
    pair.relay.advance(pair.now, open.relay, 14);
    assert!(matches!(pair.relay_outputs()[..], [Output::Reset { reason: Reset::Closed(_), .. }]));
    pair.device_outputs();
    pair.assert_empty();
}

#[test]
fn a_socket_that_takes_nothing_of_its_last_bytes_is_reset_after_the_stall_time() {
    let mut pair = Pair::new();
    let open = pair.open();
    pair.stuck.push(open.relay);
    send(pair.now, &mut pair.device, open.device, b"the last words");
    pair.device.handle_end(pair.now, open.device);
    pair.relay.handle_end(pair.now, open.relay);
    pair.run();
    pair.device_outputs();
    pair.pass(29 * SECOND);
    assert!(pair.relay_outputs().is_empty());
    pair.pass(SECOND);
    assert!(matches!(pair.relay_outputs()[..], [Output::Reset { reason: Reset::Stalled, .. }]));
    pair.assert_empty();
}

#[test]
fn a_client_that_reads_nothing_holds_no_more_than_its_window_and_the_others_go_on() {
    let mut pair = Pair::without_acks(limits());
    let [stuck, other] = [pair.open(), pair.open()];
    pair.stuck.push(stuck.relay);
    let endless = vec![b'x'; 1024 * KIB];
    assert_eq!(send(pair.now, &mut pair.device, stuck.device, &endless), 32 * KIB);
    assert!(matches!(pair.device.reserve(stuck.device, false), Room::Blocked));
    for _ in 0..1000 {
        pair.pass(SECOND);
        pair.run();
        assert_eq!(send(pair.now, &mut pair.device, other.device, b"tick"), 4);
        pair.run();
    }
    assert_eq!(pair.at_relay[&other.relay].len(), 4000);
    assert_eq!(pair.relay.pending(stuck.relay).len(), 32 * KIB);
    // It reads again: so does its service.
    pair.relay.advance(pair.now, stuck.relay, 20 * KIB);
    pair.run();
    assert_eq!(pair.device.poll_unblocked(), Some(stuck.device));
    assert!(matches!(pair.device.reserve(stuck.device, false), Room::Free(_)));
}

#[test]
fn control_frames_pass_the_bytes_that_are_queued_and_close_does_not() {
    let mut pair = Pair::new();
    let [bulk, other] = [pair.open(), pair.open()];
    send(pair.now, &mut pair.device, bulk.device, &[b'x'; 20 * KIB]);
    pair.hand_device(&v2::ping(*b"anything", Flags::NONE)).expect("a PING");
    pair.device.handle_failure(pair.now, bulk.device, Code::Normal, "");
    pair.device.handle_end(pair.now, other.device);
    let (ping, data, close) = (Type::Ping.number(), Type::Data.number(), Type::Close.number());
    assert_eq!(kinds(&mut pair.device, pair.now), [ping, data, data, close]);
}

#[test]
fn a_stream_puts_16_kib_on_the_link_at_a_time_while_others_wait() {
    let mut pair = Pair::without_acks(limits());
    let open = pair.open();
    let room = |room: Room<'_>| if let Room::Free([room, ..]) = room { room.len() } else { 0 };
    assert_eq!(Header::LEN + room(pair.device.reserve(open.device, true)), 16 * KIB);
    assert_eq!(room(pair.device.reserve(open.device, false)), 32 * KIB, "all of its credit");
}

#[test]
fn one_read_fills_frames_that_follow_each_other() {
    let mut pair = Pair::without_acks(Limits { window: 160 * KIB as u32, streams: 16, ..limits() });
    let open = pair.open();
    let Room::Free(room) = pair.device.reserve(open.device, false) else { panic!("no room") };
    let payload = MAX_FRAME - Header::LEN;
    assert_eq!(room.each_ref().map(|payload| payload.len()), [payload, payload, 160 * KIB - 2 * payload, 0]);
    for (mut part, fill) in room.into_iter().zip([b'a', b'b', b'c', b'd']) {
        part.fill(fill);
    }
    pair.device.commit(pair.now, open.device, 2 * payload + 3);
    assert_eq!(pair.device.counters().sent, (2 * payload + 3) as u64);
    pair.run();
    let came = &pair.at_relay[&open.relay];
    assert!(
        came[..payload].iter().all(|&byte| byte == b'a') && came[payload..2 * payload].iter().all(|&byte| byte == b'b')
    );
    assert_eq!(came[2 * payload..], *b"ccc");
}

#[test]
fn a_stream_goes_on_where_nothing_lies_between_its_bytes() {
    let mut pair = Pair::new();
    let [one, other] = [pair.open(), pair.open()];
    let piece = |open: Open, fin| data(open.number, b"more", fin);
    let close = Close { code: Code::Normal, reason: String::new() };
    let goes_on = |pair: &Pair, between: &[u8]| pair.relay.goes_on(one.relay, &[between, &piece(one, false)].concat());
    assert!(goes_on(&pair, b""));
    assert!(!pair.relay.goes_on(one.relay, b"") && !pair.relay.goes_on(one.relay, &piece(one, true)), "an end");
    assert!(!pair.relay.goes_on(other.relay, &piece(one, false)), "another's");
    assert!(!goes_on(&pair, &piece(other, false)) && !goes_on(&pair, &close.frame(one.number)));
    // Neither a stream that is over nor one whose key is void does.
    pair.relay.handle_failure(pair.now, one.relay, Code::Normal, "");
    assert!(!goes_on(&pair, b""));
}

#[test]
fn a_pending_close_is_dropped_when_the_peers_comes_first() {
    let mut pair = Pair::new();
    let open = pair.announce();
    pair.device.handle_failure(pair.now, open.device, Code::Refused, "");
    pair.relay.handle_failure(pair.now, open.relay, Code::Normal, "");
    let close = pair.relay.unsent().to_vec();
    pair.relay.advance_link(pair.now, close.len());
    pair.hand_device(&close).expect("a CLOSE");
    assert!(!pair.device.has_unsent());
    pair.device_outputs();
    pair.relay_outputs();
    pair.assert_empty();
}

#[test]
fn closes_leave_behind_what_was_read_in_the_order_of_their_streams_ends() {
    let mut pair = Pair::without_acks(limits());
    let clients: Vec<_> = (0..3).map(|_| pair.open()).collect();
    pair.device.handle_failure(pair.now, clients[2].device, Code::Normal, "");
    send(pair.now, &mut pair.device, clients[0].device, b"last words");
    pair.device.handle_failure(pair.now, clients[0].device, Code::Normal, "");
    pair.device.handle_failure(pair.now, clients[1].device, Code::Normal, "");
    let close = Close { code: Code::Normal, reason: String::new() };
    pair.hand_device(&close.frame(clients[1].number)).expect("it crossed ours");
    let mut sent = Vec::new();
    while pair.device.has_unsent() {
        let bytes = pair.device.unsent().to_vec();
        pair.device.advance_link(pair.now, bytes.len());
        sent.extend(bytes);
    }
    let expected = [close.frame(clients[2].number), data(clients[0].number, b"last words", false)].concat();
    assert_eq!(sent, [expected, close.frame(clients[0].number)].concat());
}

#[test]
fn closing_an_end_ends_every_stream_behind_what_was_read() {
    let mut pair = Pair::new();
    let open = pair.open();
    send(pair.now, &mut pair.device, open.device, b"read before");
    pair.device.close(pair.now);
    pair.run();
    assert_eq!(pair.at_relay[&open.relay], b"read before");
    assert!(matches!(pair.device_outputs()[..], [Output::Reset { reason: Reset::Shutdown, .. }]));
    let outputs = pair.relay_outputs();
    let Some(Output::Reset { reason: Reset::Closed(close), .. }) = outputs.last() else { panic!("{outputs:?}") };
    assert_eq!(close.code, Code::Shutdown);
    pair.assert_empty();
}

#[test]
fn a_lost_link_cuts_what_was_on_it_and_lets_the_rest_be_delivered() {
    let mut pair = Pair::new();
    let [cut, complete] = [pair.open(), pair.open()];
    pair.stuck.push(complete.relay);
    send(pair.now, &mut pair.device, complete.device, b"all of it");
    pair.device.handle_end(pair.now, complete.device);
    pair.relay.handle_end(pair.now, complete.relay);
    pair.run();
    pair.relay_outputs();
    pair.relay.handle_link_lost(pair.now);
    let outputs = pair.relay_outputs();
    assert!(matches!(outputs[..], [Output::Reset { stream, reason: Reset::LinkLost }] if stream == cut.relay));
    pair.relay.advance(pair.now, complete.relay, 9);
    assert!(matches!(pair.relay_outputs()[..], [Output::Finish { .. }]));
    assert_eq!((pair.relay.streams(), pair.relay.poll_timeout()), (0, None));
}
