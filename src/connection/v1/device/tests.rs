mod half_close;

use std::time::Duration;

use early::{EARLY_TIMEOUT, MAX_EARLY, REFUSED_TIMEOUT};

use super::*;
use crate::connection::{Connection, Delivery, QueueRule, Room};
use crate::protocol::v1::Header;
use crate::protocol::v2::Code;

/// A device past its LISTEN, on a clock that the test moves.
struct Bench {
    device: Device,
    now: Instant,
}

impl Bench {
    fn new() -> Self {
        Self::with_rule(QueueRule::DEFAULT)
    }

    fn with_rule(rule: QueueRule) -> Self {
        Self::with_limits(Limits { rule, ..Limits::DEVICE })
    }

    fn with_limits(limits: Limits) -> Self {
        let mut bench = Self { device: Device::new(limits, &Header::LISTEN.encode()), now: Instant::now() };
        let greeting = [Header::LISTEN.encode(), Header::PROBE.encode()].concat();
        assert_eq!(bench.sent(), greeting, "LISTEN is the first frame");
        bench
    }

    /// What came through to services at once, by stream.
    fn receive(&mut self, mut bytes: &[u8]) -> Vec<(StreamKey, Vec<u8>)> {
        let mut deliveries = Vec::new();
        while let Some(Delivery { stream, bytes }) = self.device.receive(self.now, &mut bytes).expect("no violation") {
            deliveries.push((stream, bytes.to_vec()));
        }
        deliveries
    }

    fn sent(&mut self) -> Vec<u8> {
        let bytes = self.device.unsent().to_vec();
        self.device.advance_link(self.now, bytes.len());
        bytes
    }

    fn outputs(&mut self) -> Vec<Output> {
        std::iter::from_fn(|| self.device.poll_output()).collect()
    }

    /// A CONNECT to 127.0.0.1:57847 for `client`.
    fn announce(&mut self, client: u8) -> StreamKey {
        self.receive(&connect(client));
        let output = self.outputs().pop();
        let Some(Output::Connect { stream, client: told, service, from: None }) = output else {
            panic!("no Connect: {output:?}")
        };
        let expected: Address = "127.0.0.1:57847".parse().expect("an address");
        assert_eq!((told, service), (client.into(), expected.into()));
        stream
    }

    /// The same, and the service is there.
    fn open(&mut self, client: u8) -> StreamKey {
        let stream = self.announce(client);
        self.device.handle_connected(self.now, stream);
        stream
    }

    fn service_sends(&mut self, stream: StreamKey, bytes: &[u8]) {
        let Room::Free([mut room, ..]) = self.device.reserve(stream, false) else { panic!("no room") };
        room[..bytes.len()].copy_from_slice(bytes);
        self.device.commit(self.now, stream, bytes.len());
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.device.handle_timeout(self.now).expect("in time");
    }

    fn assert_empty(&mut self) {
        assert_eq!((self.device.streams(), self.device.counters().open), (0, 0));
        assert_eq!(self.device.early_bytes, 0);
        assert!(self.device.link.timers.is_empty());
    }
}

fn connect(client: u8) -> Vec<u8> {
    let mut frame = b"\x00\x0d\x01\x00\x00\x09127.0.0.1\xe1\xf7".to_vec();
    frame[3] = client;
    frame
}

fn data(client: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = Header::data(client, payload.len() as u16).encode().to_vec();
    frame.extend(payload);
    frame
}

fn close(client: u8) -> [u8; 4] {
    Header::close(client).encode()
}

const KIB: usize = 1024;

#[test]
fn a_client_that_closes_is_answered_with_one_close_and_its_service_ended() {
    let mut bench = Bench::new();
    let stream = bench.open(1);
    assert_eq!(bench.receive(b"\x00\x06\x03\x01hello\n"), [(stream, b"hello\n".to_vec())]);
    bench.service_sends(stream, b"world\n");
    assert_eq!(bench.sent(), b"\x00\x06\x03\x01world\n");
    bench.receive(&close(1));
    assert_eq!(bench.sent(), close(1));
    assert_eq!(bench.outputs(), [Output::Finish { stream }]);
    bench.assert_empty();
}

#[test]
fn a_service_that_closes_sends_close_after_its_bytes_and_the_answer_is_not_answered() {
    let mut bench = Bench::new();
    let stream = bench.open(1);
    bench.service_sends(stream, b"bye\n");
    bench.device.handle_end(bench.now, stream);
    assert_eq!(bench.sent(), b"\x00\x04\x03\x01bye\n\x00\x00\x02\x01");
    assert_eq!(bench.outputs(), [Output::Finish { stream }]);
    bench.receive(&close(1));
    assert_eq!(bench.sent(), b"");
    bench.assert_empty();
}

#[test]
fn a_service_that_cannot_be_reached_is_a_close() {
    let mut bench = Bench::new();
    let stream = bench.announce(1);
    bench.device.handle_failure(bench.now, stream, Code::Refused, "");
    assert_eq!(bench.sent(), close(1));
    assert_eq!(bench.outputs(), [Output::Gone { stream }]);
    bench.receive(&close(1));
    assert_eq!(bench.sent(), b"");
    bench.assert_empty();
}

#[test]
fn a_service_that_does_not_answer_in_ten_seconds_is_a_close() {
    let mut bench = Bench::new();
    let stream = bench.announce(1);
    bench.pass(Duration::from_millis(9_999));
    assert_eq!(bench.sent(), b"");
    bench.pass(Duration::from_millis(1));
    assert_eq!(bench.sent(), close(1));
    assert_eq!(bench.outputs(), [Output::Reset { stream, reason: Reset::ConnectTimeout }]);
    bench.assert_empty();
}

#[test]
fn bytes_for_a_service_that_is_being_connected_wait_for_it() {
    let mut bench = Bench::new();
    let stream = bench.announce(1);
    assert_eq!(bench.receive(&data(1, b"hello")), []);
    assert_eq!(bench.device.pending(stream), b"", "not before it is connected");
    bench.device.handle_connected(bench.now, stream);
    assert_eq!(bench.device.pending(stream), b"hello");
    assert_eq!(bench.receive(&data(1, b" you")), [], "order is kept");
    assert_eq!(bench.device.pending(stream), b"hello you");
}

#[test]
fn data_before_connect_is_kept_and_delivered_after_it() {
    let mut bench = Bench::new();
    bench.receive(&data(1, b"early "));
    bench.receive(&data(1, b"bird"));
    let stream = bench.open(1);
    assert_eq!(bench.device.pending(stream), b"early bird");
    bench.device.advance(bench.now, stream, 10);
    assert_eq!(bench.receive(&data(1, b"!")), [(stream, b"!".to_vec())]);
    assert_eq!(bench.sent(), b"", "nothing was answered");
    assert_eq!(bench.device.early_bytes, 0);
}

#[test]
fn a_close_behind_early_data_is_applied_after_connect_and_delivery() {
    let mut bench = Bench::new();
    bench.receive(&data(1, b"early"));
    bench.receive(&close(1));
    assert_eq!(bench.sent(), b"");
    let stream = bench.announce_and_take_close(1);
    bench.device.handle_connected(bench.now, stream);
    assert_eq!(bench.outputs(), []);
    assert_eq!(bench.device.pending(stream), b"early");
    bench.device.advance(bench.now, stream, 5);
    assert_eq!(bench.outputs(), [Output::Finish { stream }]);
    bench.assert_empty();
}

impl Bench {
    fn announce_and_take_close(&mut self, client: u8) -> StreamKey {
        let stream = self.announce(client);
        assert_eq!(self.sent(), close(client), "the remembered CLOSE is answered");
        stream
    }
}

#[test]
fn early_data_without_a_connect_within_five_seconds_is_dropped_with_a_close() {
    let mut bench = Bench::new();
    bench.receive(&data(9, b"abc"));
    bench.pass(Duration::from_millis(4_999));
    assert_eq!(bench.sent(), b"");
    bench.pass(Duration::from_millis(1));
    assert_eq!(bench.sent(), close(9));
    assert_eq!(bench.outputs(), [Output::EarlyDropped { client: 9 }]);
    bench.receive(&data(9, b"still the old client's"));
    bench.receive(&close(9));
    bench.pass(REFUSED_TIMEOUT);
    bench.assert_empty();
    bench.open(9);
}

#[test]
fn an_unread_link_may_hold_the_connect_that_early_data_waits_for() {
    let mut bench = Bench::new();
    let slow = bench.open(1);
    bench.device.delivered(bench.now, slow, &vec![0; KIB * KIB], 0);
    bench.receive(&data(9, b"abc"));
    bench.pass(Duration::from_secs(20));
    bench.device.advance(bench.now, slow, KIB);
    assert!(bench.device.wants_input());
    bench.pass(Duration::from_millis(4_999));
    assert_eq!((bench.outputs(), bench.sent()), (vec![], vec![]));
    bench.pass(Duration::from_millis(1));
    assert_eq!(bench.outputs(), [Output::EarlyDropped { client: 9 }]);
}

#[test]
fn a_connect_for_a_client_that_is_gone_reaches_no_service() {
    let mut bench = Bench::new();
    bench.receive(&[data(9, b"abc"), close(9).to_vec()].concat());
    bench.pass(EARLY_TIMEOUT);
    bench.outputs();
    assert_eq!(bench.sent(), close(9));
    bench.pass(REFUSED_TIMEOUT - Duration::from_millis(1));
    bench.receive(&connect(9));
    bench.assert_empty();
    assert_eq!((bench.outputs(), bench.sent()), (vec![], close(9).to_vec()));
    bench.open(9);
}

#[test]
fn early_data_is_bounded_to_one_mebibyte_a_client_and_four_a_link() {
    let mut bench = Bench::new();
    let frame = vec![0; 64 * KIB - 1];
    for _ in 0..16 {
        bench.receive(&data(9, &frame));
    }
    assert_eq!(bench.sent(), b"");
    bench.receive(&data(9, &frame));
    assert_eq!(bench.sent(), close(9), "past its mebibyte");
    bench.receive(&data(9, &frame));
    assert_eq!((bench.device.early_bytes, bench.sent()), (0, vec![]));
    for client in 1..=5 {
        for _ in 0..16 {
            bench.receive(&data(client, &frame));
        }
        assert!(bench.device.early_bytes <= MAX_EARLY);
    }
    assert_eq!(bench.sent(), close(5), "past four mebibytes");
}

#[test]
fn a_client_whose_early_data_was_dropped_reaches_no_service_with_the_rest() {
    let mut bench = Bench::new();
    bench.receive(&data(9, b"the beginning"));
    bench.pass(EARLY_TIMEOUT);
    assert_eq!(bench.sent(), close(9));
    bench.outputs();
    bench.receive(&[connect(9), data(9, b" and the rest")].concat());
    assert_eq!((bench.outputs(), bench.sent()), (vec![], close(9).to_vec()));
    bench.receive(&close(9));
    bench.open(9);
}

#[test]
fn a_close_for_a_client_it_does_not_know_gets_no_answer() {
    let mut bench = Bench::new();
    bench.receive(&close(9));
    assert_eq!(bench.sent(), b"");
}

#[test]
fn after_its_own_close_data_is_the_old_clients_until_a_close_or_a_connect_comes() {
    for closed in [true, false] {
        let mut bench = Bench::new();
        let old = bench.open(1);
        bench.device.handle_end(bench.now, old);
        bench.outputs();
        assert_eq!(bench.receive(&data(1, b"in flight")), []);
        if closed {
            bench.receive(&close(1));
        }
        let new = bench.open(1);
        assert_eq!(bench.device.pending(new), b"", "never taken for early bytes of the next one");
        assert_eq!(bench.receive(&data(1, b"new")), [(new, b"new".to_vec())]);
    }
}

#[test]
fn connect_on_an_open_number_ends_the_old_service_silently() {
    let mut bench = Bench::new();
    let old = bench.open(1);
    let new = bench.receive(&connect(1));
    assert_eq!(new, []);
    let outputs = bench.outputs();
    assert_eq!(outputs[0], Output::Finish { stream: old });
    let Output::Connect { stream: new, .. } = outputs[1] else { panic!("no Connect") };
    bench.device.handle_connected(bench.now, new);
    assert_eq!(bench.sent(), b"", "a CLOSE would hit the new client");
    assert_eq!(bench.receive(&data(1, b"x")), [(new, b"x".to_vec())]);
}

#[test]
fn connect_on_an_open_number_resets_a_service_with_pending_bytes() {
    let mut bench = Bench::new();
    let old = bench.open(1);
    bench.device.delivered(bench.now, old, b"undelivered", 0);
    bench.receive(&connect(1));
    assert_eq!(bench.outputs()[0], Output::Reset { stream: old, reason: Reset::Replaced });
}

#[test]
fn client_number_zero_is_a_client_like_any_other() {
    let mut bench = Bench::new();
    let stream = bench.open(0);
    assert_eq!(bench.receive(&data(0, b"x")), [(stream, b"x".to_vec())]);
}

#[test]
fn a_connect_that_cannot_be_read_is_answered_with_close() {
    let mut bench = Bench::new();
    bench.receive(b"\x00\x06\x01\x03\x00\x091274");
    assert_eq!(bench.sent(), close(3));
    let Some(Output::Malformed { client, reason }) = bench.outputs().pop() else { panic!("not told") };
    assert_eq!(client, 3);
    assert_eq!(reason.to_string(), "CONNECT is cut short (payload 00 09 31 32 37 34)");
    bench.receive(&close(3));
    bench.assert_empty();
}

#[test]
fn what_it_does_not_know_is_skipped_by_its_size_and_counted() {
    let mut bench = Bench::new();
    let stream = bench.open(5);
    // Each of the first three made the device of 2012 execute their payload: DATA for client 5.
    bench.receive(b"\x00\x05\x07\x09\x00\x01\x03\x05A");
    bench.receive(b"\x00\x05\x02\x09\x00\x01\x03\x05A");
    bench.receive(b"\x00\x00\x03\x09");
    bench.receive(b"\x00\x00\x04\x00");
    bench.receive(b"\x00\x00\x07\x09");
    assert_eq!(bench.device.pending(stream), b"");
    assert_eq!((bench.sent(), bench.device.counters().ignored), (vec![], 5));
}

#[test]
fn a_service_that_takes_nothing_holds_up_the_link_for_the_stall_time_and_is_reset() {
    let mut bench = Bench::new();
    let slow = bench.open(1);
    let other = bench.open(2);
    bench.device.delivered(bench.now, slow, &vec![0; 1024 * KIB - 1], 0);
    assert!(bench.device.wants_input());
    bench.device.delivered(bench.now, slow, b"x", 0);
    assert!(!bench.device.wants_input(), "a full queue stops the reading");
    bench.pass(Duration::from_millis(29_999));
    assert_eq!(bench.outputs(), []);
    bench.pass(Duration::from_millis(1));
    assert_eq!(bench.outputs(), [Output::Reset { stream: slow, reason: Reset::TooSlow }]);
    assert_eq!(bench.sent(), close(1));
    assert!(bench.device.wants_input());
    assert_eq!(bench.receive(&data(2, b"x")), [(other, b"x".to_vec())]);
}

#[test]
fn a_service_that_reads_little_now_and_then_is_reset_where_another_waits_for_an_answer() {
    for waits in [false, true] {
        let mut bench = Bench::new();
        let other = bench.open(1);
        let slow = bench.open(2);
        bench.device.delivered(bench.now, slow, &vec![0; 1024 * KIB], 0);
        bench.pass(Duration::from_secs(10));
        if waits {
            bench.service_sends(other, b"?");
        }
        bench.pass(Duration::from_secs(19));
        bench.device.advance(bench.now, slow, 128 * KIB);
        bench.receive(&data(2, &[b'x'; 64 * KIB - 1]));
        bench.receive(&data(2, &[b'x'; 64 * KIB - 1]));
        bench.receive(&data(2, b"xx"));
        assert!(!bench.device.wants_input());
        bench.pass(Duration::from_secs(1));
        let expected = waits.then_some(Output::Reset { stream: slow, reason: Reset::TooSlow });
        assert_eq!(bench.outputs(), Vec::from_iter(expected));
    }
}

#[test]
fn connects_beyond_the_rate_wait_in_the_link_and_none_is_refused() {
    let mut bench = Bench::with_limits(Limits { open_rate: 20, ..Limits::DEVICE });
    let burst: Vec<u8> = (0..20).flat_map(connect).collect();
    bench.receive(&burst);
    assert!(bench.device.wants_input(), "as many as in a second may come at once");
    bench.receive(&[connect(20), connect(21)].concat());
    assert!(!bench.device.wants_input());
    assert_eq!(bench.device.poll_timeout(), Some(bench.now + Duration::from_millis(100)));
    bench.pass(Duration::from_millis(100));
    assert!(bench.device.wants_input());
    assert_eq!((bench.outputs().len(), bench.sent()), (22, vec![]));
    bench.receive(&connect(22));
    bench.device.handle_link_lost(bench.now);
    assert!(bench.device.wants_input());
}

#[test]
fn data_whose_connect_waits_for_the_rate_is_kept() {
    let mut bench = Bench::with_limits(Limits { open_rate: 1, ..Limits::DEVICE });
    bench.receive(&(0..7).flat_map(connect).collect::<Vec<_>>());
    bench.outputs();
    bench.receive(&data(9, b"early"));
    bench.pass(Duration::from_millis(5_999));
    assert!(!bench.device.wants_input());
    bench.pass(Duration::from_secs(4));
    let stream = bench.open(9);
    assert_eq!(bench.device.pending(stream), b"early");
}

#[test]
fn pending_bytes_of_a_service_are_delivered_after_the_client_has_closed() {
    let mut bench = Bench::new();
    let stream = bench.open(1);
    bench.device.delivered(bench.now, stream, b"the last words", 0);
    bench.receive(&close(1));
    assert_eq!(bench.sent(), close(1), "the number is free at once");
    assert_eq!(bench.outputs(), []);
    let next = bench.open(1);
    assert_eq!(bench.device.pending(stream), b"the last words");
    bench.device.advance(bench.now, stream, 14);
    assert_eq!(bench.outputs(), [Output::Finish { stream }]);
    assert_ne!(next, stream);
}

#[test]
fn a_service_that_stands_still_after_its_client_has_closed_is_reset_in_the_end() {
    let mut bench = Bench::new();
    let stream = bench.open(1);
    bench.device.delivered(bench.now, stream, b"the last words", 0);
    bench.receive(&close(1));
    bench.pass(Duration::from_secs(20));
    bench.device.advance(bench.now, stream, 1);
    bench.pass(Duration::from_secs(29));
    assert_eq!(bench.outputs(), [], "a byte is progress");
    bench.pass(Duration::from_secs(1));
    assert_eq!(bench.outputs(), [Output::Reset { stream, reason: Reset::Stalled }]);
    bench.assert_empty();
}

#[test]
fn no_stream_that_still_delivers_is_reset_for_the_number_of_the_others() {
    let mut bench = Bench::new();
    let streams: Vec<_> = (0..=u8::MAX).map(|client| bench.open(client)).collect();
    for (client, &stream) in (0..=u8::MAX).zip(&streams) {
        bench.device.delivered(bench.now, stream, &[b'x'; 8 * KIB], 0);
        bench.receive(&close(client));
    }
    assert!(bench.device.wants_input(), "the others go on");
    for _ in 0..8 {
        bench.pass(Duration::from_secs(20));
        assert_eq!(bench.outputs(), []);
        streams.iter().for_each(|&stream| bench.device.advance(bench.now, stream, KIB));
    }
    let finished: Vec<_> = streams.iter().map(|&stream| Output::Finish { stream }).collect();
    assert_eq!(bench.outputs(), finished);
    bench.assert_empty();
}

#[test]
fn more_streams_than_two_for_a_number_are_refused() {
    let mut bench = Bench::new();
    for client in (0..=u8::MAX).chain(0..=u8::MAX) {
        let stream = bench.open(client);
        bench.device.delivered(bench.now, stream, b"x", 0);
        bench.receive(&close(client));
    }
    bench.sent();
    assert!(!bench.device.wants_input() && bench.device.streams() == MAX_STREAMS);
    bench.receive(&connect(7));
    assert_eq!((bench.outputs(), bench.sent()), (vec![], close(7).to_vec()));
    assert_eq!(bench.receive(&data(7, b"lost")), []);
}

#[test]
fn a_lost_link_resets_what_was_on_it_and_lets_complete_streams_finish() {
    let mut bench = Bench::new();
    let open = bench.open(1);
    let complete = bench.open(2);
    bench.device.delivered(bench.now, complete, b"all of it", 0);
    bench.receive(&close(2));
    bench.receive(&data(3, b"early"));
    bench.device.handle_link_lost(bench.now);
    assert_eq!(bench.outputs(), [Output::Reset { stream: open, reason: Reset::LinkLost }]);
    bench.device.advance(bench.now, complete, 9);
    assert_eq!(bench.outputs(), [Output::Finish { stream: complete }]);
    bench.assert_empty();
}

#[test]
fn closing_the_tunnel_sends_close_for_every_client_behind_their_bytes() {
    let mut bench = Bench::new();
    let first = bench.open(1);
    let second = bench.open(2);
    bench.service_sends(first, b"last");
    bench.device.close(bench.now);
    assert_eq!(bench.sent(), [&b"\x00\x04\x03\x01last"[..], &close(1), &close(2)].concat());
    assert_eq!(bench.outputs(), [Output::Finish { stream: first }, Output::Finish { stream: second }]);
    bench.assert_empty();
}

#[test]
fn a_relay_that_asks_for_answers_and_reads_none_loses_the_link() {
    let mut bench = Bench::new();
    let frames = b"\x00\x00\x01\x03".repeat(1024);
    let result = (0..1024).find_map(|_| bench.device.receive(bench.now, &mut &frames[..]).err());
    assert!(matches!(result, Some(ProtocolError::Backlog(_))), "{result:?}");
    assert!(bench.device.unsent().len() < 512 * KIB);
}

#[test]
fn one_read_brings_no_more_than_a_slow_reader_must_take_within_a_stall() {
    let mut bench = Bench::new();
    assert_eq!(bench.device.read_size(256 * 1024), QueueRule::DEFAULT.progress());
    bench.open(7);
    bench.receive(&[&Header::data(7, 16).encode()[..], b"x"].concat());
    assert_eq!(bench.device.read_size(256 * 1024), 15 + 64 * 1024, "it ends with a frame");
}
