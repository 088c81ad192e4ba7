mod credit;
mod order;

use super::*;
use crate::protocol::v2::{Close, Flags, Type};

const KIB: usize = 1024;
const SECOND: Duration = Duration::from_secs(1);

/// Both ends of a link, on a clock that only moves when told. Sockets are the test's.
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
        let mut pair = Self::strangers(limits);
        pair.run();
        assert!(matches!(pair.device_outputs()[..], [Output::Settings]));
        assert!(matches!(pair.relay_outputs()[..], [Output::Settings]));
        pair
    }

    fn strangers(limits: Limits) -> Self {
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
        self.relay.open(self.now, "127.0.0.1:22".parse().expect("an address"), None)
    }

    /// A client, its CONNECT at the device, and nothing more.
    fn announce(&mut self) -> Open {
        let relay = self.arrive();
        let Some(Output::Opened { stream, number }) = self.relay_outputs().pop() else { panic!("no place") };
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
            assert_eq!((end.lingering.progress.len(), end.lingering.bytes), (0, 0));
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

/// The stream's socket has these bytes for the link; how many it took.
fn send(now: Instant, end: &mut Mux, key: StreamKey, bytes: &[u8]) -> usize {
    let mut sent = 0;
    while sent < bytes.len() {
        let Room::Free(room) = end.reserve(key, false) else { break };
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
fn a_service_that_cannot_be_had_is_told_with_code_and_reason_and_nothing_is_answered() {
    let mut pair = Pair::new();
    let open = pair.announce();
    pair.device.handle_failure(pair.now, open.device, Code::Refused, "nobody listens there");
    pair.run();
    let Some(Output::Reset { reason: Reset::Closed(close), .. }) = pair.relay_outputs().pop() else {
        panic!("not told")
    };
    assert_eq!(close, Close { code: Code::Refused, reason: "nobody listens there".into() });
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
    assert!(pair.relay_outputs().is_empty(), "its socket is owed something");
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
fn a_client_that_reads_nothing_holds_up_nobody_and_holds_no_more_than_its_window() {
    let mut pair = Pair::new();
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
    pair.hand_device(&v2::ping(*b"somebody", Flags::NONE)).expect("a PING");
    pair.device.handle_failure(pair.now, bulk.device, Code::Normal, "");
    pair.device.handle_end(pair.now, other.device);
    let (ping, data, close) = (Type::Ping.number(), Type::Data.number(), Type::Close.number());
    assert_eq!(kinds(&mut pair.device, pair.now), [ping, data, data, close]);
}

#[test]
fn a_stream_puts_16_kib_on_the_link_at_a_time_while_others_wait() {
    let mut pair = Pair::new();
    let open = pair.open();
    let room = |room: Room<'_>| if let Room::Free(room) = room { room.len() } else { 0 };
    assert_eq!(room(pair.device.reserve(open.device, true)), 16 * KIB);
    assert_eq!(room(pair.device.reserve(open.device, false)), 32 * KIB, "all of its credit");
}

#[test]
fn before_settings_a_peer_is_given_what_any_can_take_and_more_once_it_has_said_so() {
    let mut pair = Pair::strangers(limits());
    let hello = pair.relay.unsent().to_vec();
    pair.relay.advance_link(pair.now, hello.len());
    let clients: Vec<_> = (0..17).map(|_| pair.arrive()).collect();
    assert_eq!(pair.relay_outputs().len(), 16, "sixteen streams");
    assert_eq!(send(pair.now, &mut pair.relay, clients[0], &[0; 64 * KIB]), 16 * KIB);
    pair.hand_device(&hello).expect("SETTINGS");
    pair.run();
    assert_eq!(pair.relay_outputs().len(), 2, "SETTINGS, and the seventeenth");
    assert_eq!(pair.relay.poll_unblocked(), Some(clients[0]));
    assert_eq!(send(pair.now, &mut pair.relay, clients[0], &[0; 64 * KIB]), 16 * KIB);
}

#[test]
fn a_client_without_a_place_waits_a_second_and_others_are_untouched() {
    let mut pair = Pair::with_limits(Limits { streams: 16, ..limits() });
    let clients: Vec<_> = (0..16).map(|_| pair.open()).collect();
    let waiting = pair.arrive();
    pair.pass(SECOND / 2);
    assert!(pair.relay_outputs().is_empty());
    pair.relay.handle_failure(pair.now, clients[3].relay, Code::Normal, "");
    pair.run();
    let outputs = pair.relay_outputs();
    assert!(matches!(outputs[..], [Output::Gone { .. }, Output::Opened { number: 17, .. }]), "{outputs:?}");
    let refused = pair.arrive();
    pair.pass(SECOND);
    let outputs = pair.relay_outputs();
    assert!(matches!(outputs[..], [Output::Reset { stream, reason: Reset::NoPlace }] if stream == refused));
    assert_ne!(waiting, refused);
}

#[test]
fn a_relay_opens_no_more_streams_than_its_budget_is_made_for() {
    let mut pair = Pair::strangers(limits());
    let boundless = Settings { streams: u32::MAX, open_rate: u32::MAX, ..Settings::default() };
    pair.hand_relay(&boundless.frame()).expect("SETTINGS");
    for _ in 0..300 {
        pair.arrive();
    }
    let opened = pair.relay_outputs().into_iter().filter(|output| matches!(output, Output::Opened { .. }));
    assert_eq!(opened.count(), 256);
}

#[test]
fn streams_are_opened_no_faster_than_the_device_wants() {
    let mut pair = Pair::with_limits(Limits { open_rate: 20, ..limits() });
    let clients: Vec<_> = (0..30).map(|_| pair.arrive()).collect();
    assert_eq!(pair.relay_outputs().len(), 20, "a burst");
    for opened in 1..=10 {
        pair.now += SECOND / 20;
        pair.relay.handle_timeout(pair.now).expect("the device is there");
        assert_eq!(pair.relay_outputs().len(), 1, "{opened}");
    }
    assert_eq!(clients.len(), 30);
}

#[test]
fn a_relay_that_opens_more_than_it_may_is_answered_with_overload() {
    let mut pair = Pair::with_limits(Limits { open_rate: 20, streams: 1000, ..limits() });
    let connect = v2::Connect { service: "127.0.0.1:22".parse().expect("an address"), client: None };
    for number in 1..=205 {
        pair.hand_device(&connect.frame(number)).expect("a CONNECT");
    }
    assert_eq!(pair.device_outputs().len(), 200, "ten seconds' worth may come at once");
    let overload = Close { code: Code::Overload, reason: "more streams than this device takes".into() };
    let expected: Vec<u8> = (201..=205).flat_map(|number| overload.frame(number)).collect();
    assert_eq!(pair.device.unsent(), expected);
}

#[test]
fn a_connect_that_passes_an_end_on_its_way_takes_no_place_before_that_is_there() {
    for fails in [true, false] {
        let mut pair = Pair::with_limits(Limits { streams: 16, ..limits() });
        let clients: Vec<_> = (0..16).map(|_| pair.open()).collect();
        let leaving = clients[0];
        pair.device.handle_end(pair.now, leaving.device);
        pair.run();
        pair.relay_outputs();
        send(pair.now, &mut pair.relay, clients[1].relay, &[0; 16 * KIB]);
        if fails {
            pair.relay.handle_failure(pair.now, leaving.relay, Code::Normal, "");
        } else {
            pair.relay.handle_end(pair.now, leaving.relay);
        }
        pair.relay_outputs();
        let waiting = pair.arrive();
        assert!(pair.relay_outputs().is_empty(), "the device still counts sixteen");
        pair.run();
        let outputs = pair.relay_outputs();
        assert!(matches!(outputs[..], [Output::Opened { stream, .. }] if stream == waiting), "{outputs:?}");
    }
}

#[test]
fn streams_that_the_device_ends_leave_their_places_at_once() {
    let mut pair = Pair::with_limits(Limits { streams: 16, ..limits() });
    let clients: Vec<_> = (0..16).map(|_| pair.open()).collect();
    for open in &clients {
        pair.relay.handle_end(pair.now, open.relay);
    }
    pair.run();
    for open in &clients {
        pair.device.handle_end(pair.now, open.device);
    }
    let fins = pair.device.unsent().to_vec();
    pair.hand_relay(&fins).expect("16 times FIN");
    assert!(!pair.relay.has_unsent(), "nothing will make the relay write");
    assert_eq!(pair.relay_outputs().len(), 16);
    pair.arrive();
    assert!(matches!(pair.relay_outputs()[..], [Output::Opened { number: 17, .. }]));
}

#[test]
fn a_close_that_is_owed_is_dropped_when_the_peers_comes_first() {
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
    let mut pair = Pair::new();
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
fn bytes_in_flight_for_a_stream_that_is_over_are_passed_over_as_far_as_their_credit_went() {
    let mut pair = Pair::new();
    let open = pair.open();
    pair.device.handle_failure(pair.now, open.device, Code::Normal, "");
    for _ in 0..32 {
        pair.hand_device(&data(open.number, &[0; KIB], false)).expect("it had credit for these");
    }
    let error = pair.hand_device(&data(open.number, &[0; 1], false)).expect_err("and for no more");
    assert_eq!(error, ProtocolError::FlowControl(open.number));
}

#[test]
fn what_a_device_must_not_send_ends_the_link_with_a_reason() {
    let connect = v2::Connect { service: "127.0.0.1:22".parse().expect("an address"), client: None };
    let cases: [(Vec<u8>, ProtocolError); 8] = [
        (connect.frame(2), ProtocolError::WrongDirection("CONNECT")),
        (data(9, b"x", false), ProtocolError::NeverOpened(9)),
        (v2::credit(9, 1 << 40).to_vec(), ProtocolError::NeverOpened(9)),
        (v2::credit(1, 1).to_vec(), ProtocolError::CreditBackwards(1)),
        (data(1, &[0; 33 * KIB], false), ProtocolError::FlowControl(1)),
        ([data(1, b"x", true), data(1, b"y", false)].concat(), ProtocolError::AfterFin(1)),
        (bare(Type::Connected, 1).to_vec(), ProtocolError::NotConnected(1)),
        (
            Header { size: 0, kind: Type::Other(99), flags: Flags::CRITICAL, stream: 0 }.encode().to_vec(),
            ProtocolError::Critical(Header { size: 0, kind: Type::Other(99), flags: Flags::CRITICAL, stream: 0 }),
        ),
    ];
    for (frames, expected) in cases {
        let mut pair = Pair::new();
        pair.open();
        let error = pair.hand_relay(&frames).expect_err("a violation");
        assert_eq!(error, expected);
        assert_eq!(kinds(&mut pair.relay, pair.now).pop(), Some(Type::GoAway.number()), "{error}");
    }
    let mut pair = Pair::new();
    pair.announce();
    assert_eq!(pair.hand_relay(&data(1, b"x", false)), Err(ProtocolError::NotConnected(1)));
}

#[test]
fn what_a_relay_must_not_send_ends_the_link() {
    let connect = v2::Connect { service: "127.0.0.1:22".parse().expect("an address"), client: None };
    let mut pair = Pair::new();
    pair.open();
    assert_eq!(pair.hand_device(&connect.frame(3)), Err(ProtocolError::BadNumber { got: 3, expected: 2 }));
    let mut pair = Pair::new();
    pair.open();
    assert_eq!(pair.hand_device(&connect.frame(1)), Err(ProtocolError::BadNumber { got: 1, expected: 2 }));
    let mut pair = Pair::new();
    pair.device.newest = u32::MAX;
    let again = ProtocolError::BadNumber { got: u32::MAX, expected: u32::MAX };
    assert_eq!(pair.hand_device(&connect.frame(u32::MAX)), Err(again), "no number is used twice");
    assert_eq!(Pair::new().hand_device(&bare(Type::Connected, 1)), Err(ProtocolError::WrongDirection("CONNECTED")));
}

#[test]
fn frames_of_no_use_are_forgiven_a_hundred_times_and_ten_times_a_second() {
    let ping = v2::ping([0; 8], Flags::NONE);
    let settings = Settings::default().frame();
    let unknown = Header { size: 0, kind: Type::Other(77), flags: Flags::NONE, stream: 5 }.encode();
    let away = GoAway { code: Code::Normal, retry_after: 0, last_stream: 1, reason: String::new() }.frame();
    let credit = v2::credit(1, 32 * KIB as u64);
    for frame in [&ping[..], &v2::ping([9; 8], Flags::ACK), &settings, &unknown, &away, &credit] {
        let mut pair = Pair::new();
        pair.open();
        let error = (0..200).find_map(|count| pair.hand_relay(frame).err().map(|error| (count, error)));
        assert_eq!(error, Some((99, ProtocolError::Flood)), "the first PING was the device's own");
        let mut pair = Pair::new();
        pair.open();
        for _ in 0..1000 {
            pair.now += SECOND / 10;
            pair.hand_relay(frame).expect("ten a second are endured");
        }
        assert!(pair.relay.outbox.len() < 64 * KIB && pair.relay.unsent().len() < 100, "one answer is owed");
    }
}

#[test]
fn a_peer_that_does_not_introduce_itself_first_in_time_and_briefly_is_given_up() {
    let mut pair = Pair::strangers(limits());
    assert_eq!(pair.hand_relay(&v2::ping([0; 8], Flags::NONE)), Err(ProtocolError::NoSettings));
    let mut pair = Pair::strangers(limits());
    pair.now += 10 * SECOND;
    assert_eq!(pair.relay.handle_timeout(pair.now), Err(ProtocolError::NoSettings));
    let mut pair = Pair::strangers(limits());
    let endless = Header { size: 4096, kind: Type::Settings, flags: Flags::NONE, stream: 0 }.encode();
    pair.hand_relay(&endless).expect("it may be long");
    assert_eq!(pair.hand_relay(&[0; 4096]), Err(ProtocolError::NoSettings));
}

#[test]
fn a_silent_peer_is_dead_after_45_s_and_one_that_answers_is_measured() {
    let mut pair = Pair::new();
    for _ in 0..20 {
        pair.pass(15 * SECOND);
        pair.run();
    }
    assert_eq!(pair.relay.counters().round_trip, Some(Duration::ZERO));
    pair.now += 15 * SECOND;
    pair.relay.handle_timeout(pair.now).expect("it is only asked");
    pair.now += 30 * SECOND;
    assert_eq!(pair.relay.handle_timeout(pair.now), Err(ProtocolError::Silent));
}

#[test]
fn after_goaway_open_streams_finish_and_no_new_ones_come() {
    let mut pair = Pair::new();
    let open = pair.open();
    pair.relay.go_away(pair.now, Code::Shutdown, 7, "restarting");
    pair.run();
    let Some(Output::GoAway(away)) = pair.device_outputs().pop() else { panic!("not told") };
    assert_eq!((away.code, away.retry_after, away.last_stream), (Code::Shutdown, 7, 1));
    let refused = pair.arrive();
    assert!(matches!(pair.relay_outputs()[..], [Output::Reset { stream, .. }] if stream == refused));
    send(pair.now, &mut pair.device, open.device, b"still here");
    pair.run();
    assert_eq!(pair.at_relay[&open.relay], b"still here");
}

#[test]
fn a_connect_that_crosses_the_devices_goaway_is_not_taken_and_its_client_is_told() {
    let mut pair = Pair::new();
    pair.open();
    pair.device.go_away(pair.now, Code::Shutdown, 0, "");
    let late = pair.arrive();
    pair.relay_outputs();
    send(pair.now, &mut pair.relay, late, b"too late");
    pair.run();
    assert!(pair.device_outputs().is_empty());
    let outputs = pair.relay_outputs();
    assert!(matches!(outputs[..], [Output::Reset { stream, .. }, Output::GoAway(_)] if stream == late), "{outputs:?}");
}

#[test]
fn a_link_that_runs_out_of_numbers_says_goodbye() {
    let mut pair = Pair::new();
    pair.relay.newest = u32::MAX - 1;
    pair.device.newest = u32::MAX - 1;
    let last = pair.open();
    assert_eq!(last.number, u32::MAX);
    pair.arrive();
    assert!(pair.relay.is_going_away());
    pair.run();
    assert!(matches!(pair.device_outputs()[..], [Output::GoAway(_)]));
    send(pair.now, &mut pair.relay, last.relay, b"goes on");
    pair.run();
    assert_eq!(pair.at_device[&last.device], b"goes on");
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
