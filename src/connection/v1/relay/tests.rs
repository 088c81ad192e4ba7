use super::*;
use crate::connection::{Connection, Delivery, Room};
use crate::protocol::v1::Header;
use crate::protocol::v2::Code;

/// A relay whose device has sent LISTEN, on a clock that the test moves.
struct Bench {
    relay: Relay,
    now: Instant,
}

impl Bench {
    fn new() -> Self {
        let now = Instant::now();
        Self { relay: Relay::new(Duration::from_secs(1), Limits::RELAY), now }
    }

    fn receive(&mut self, mut bytes: &[u8]) -> Vec<(StreamKey, Vec<u8>)> {
        let mut deliveries = Vec::new();
        while let Some(Delivery { stream, bytes }) = self.relay.receive(self.now, &mut bytes).expect("no violation") {
            deliveries.push((stream, bytes.to_vec()));
        }
        deliveries
    }

    fn sent(&mut self) -> Vec<u8> {
        let bytes = self.relay.unsent().to_vec();
        self.relay.advance_link(self.now, bytes.len());
        bytes
    }

    fn outputs(&mut self) -> Vec<Output> {
        std::iter::from_fn(|| self.relay.poll_output()).collect()
    }

    /// A client that may get its number, or may have to wait.
    fn arrive(&mut self) -> StreamKey {
        self.relay.open(self.now, Arc::new("127.0.0.1:57847".parse().expect("an address")))
    }

    /// A client that got `number`.
    fn open(&mut self, number: u8) -> StreamKey {
        let stream = self.arrive();
        assert_eq!(self.outputs(), [Output::Opened { stream, client: number.into() }]);
        let mut connect = b"\x00\x0d\x01\x00\x00\x09127.0.0.1\xe1\xf7".to_vec();
        connect[3] = number;
        assert_eq!(self.sent(), connect);
        stream
    }

    /// 256 clients, numbers 1 to 255 and 0.
    fn fill(&mut self) -> Vec<StreamKey> {
        (1..=u8::MAX).chain([0]).map(|number| self.open(number)).collect()
    }

    fn client_sends(&mut self, stream: StreamKey, bytes: &[u8]) {
        let Room::Free([mut room, ..]) = self.relay.reserve(stream, false) else { panic!("no room") };
        room[..bytes.len()].copy_from_slice(bytes);
        self.relay.commit(self.now, stream, bytes.len());
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.relay.handle_timeout(self.now).expect("in time");
    }

    fn violation(&mut self, mut bytes: &[u8]) -> String {
        self.relay.receive(self.now, &mut bytes).expect_err("a violation").to_string()
    }
}

fn close(client: u8) -> [u8; 4] {
    Header::close(client).encode()
}

const MS: Duration = Duration::from_millis(1);

#[test]
fn a_client_that_ends_is_closed_when_its_service_has_been_silent_for_the_half_close_time() {
    let mut bench = Bench::new();
    let stream = bench.open(1);
    bench.client_sends(stream, b"hello\n");
    bench.relay.handle_end(bench.now, stream);
    assert_eq!(bench.sent(), b"\x00\x06\x03\x01hello\n");
    bench.pass(900 * MS);
    assert_eq!(bench.receive(b"\x00\x06\x03\x01world\n"), [(stream, b"world\n".to_vec())], "it gets its answer");
    bench.pass(999 * MS);
    assert_eq!(bench.sent(), b"", "the answer began the time anew");
    bench.pass(MS);
    assert_eq!(bench.sent(), close(1));
    assert_eq!(bench.outputs(), [Output::Finish { stream }]);
    bench.receive(&close(1));
    assert_eq!(bench.sent(), b"", "the echo ends it");
    assert_eq!(bench.relay.poll_timeout(), None);
}

#[test]
fn a_request_that_the_link_has_not_taken_is_not_left_unanswered() {
    let mut bench = Bench::new();
    let stream = bench.open(1);
    bench.client_sends(stream, b"hello\n");
    bench.relay.handle_end(bench.now, stream);
    bench.pass(20 * 1000 * MS);
    assert_eq!(bench.relay.unsent(), b"\x00\x06\x03\x01hello\n");
    bench.relay.advance_link(bench.now, 9);
    bench.pass(20 * 1000 * MS);
    assert_eq!(bench.sent(), b"\n", "its last byte goes out now");
    bench.pass(999 * MS);
    assert_eq!(bench.sent(), b"");
    bench.pass(MS);
    assert_eq!(bench.sent(), close(1));
}

#[test]
fn without_a_half_close_time_a_client_that_ends_is_closed_at_once_as_in_2012() {
    let now = Instant::now();
    let mut bench = Bench { relay: Relay::new(Duration::ZERO, Limits::RELAY), now };
    bench.outputs();
    let stream = bench.open(1);
    bench.relay.handle_end(bench.now, stream);
    assert_eq!(bench.sent(), close(1));
}

#[test]
fn a_client_whose_socket_fails_is_closed_at_once() {
    let mut bench = Bench::new();
    let stream = bench.open(1);
    bench.relay.handle_end(bench.now, stream);
    bench.relay.handle_failure(bench.now, stream, Code::Normal, "");
    assert_eq!(bench.sent(), close(1));
    assert_eq!(bench.outputs(), [Output::Gone { stream }]);
}

#[test]
fn a_service_that_closes_is_answered_with_exactly_one_close() {
    let mut bench = Bench::new();
    let stream = bench.open(1);
    assert_eq!(bench.receive(b"\x00\x04\x03\x01bye\n\x00\x00\x02\x01"), [(stream, b"bye\n".to_vec())]);
    assert_eq!(bench.sent(), close(1));
    assert_eq!(bench.outputs(), [Output::Finish { stream }]);
    bench.receive(&close(1));
    assert_eq!(bench.sent(), b"");
}

#[test]
fn a_client_gets_all_of_the_answer_before_its_end() {
    let mut bench = Bench::new();
    let stream = bench.open(1);
    bench.receive(b"\x00\x04\x03\x01bye\n");
    bench.relay.delivered(bench.now, stream, b"bye\n", 0);
    bench.receive(&close(1));
    assert_eq!(bench.outputs(), []);
    assert_eq!(bench.relay.pending(stream), b"bye\n");
    bench.relay.advance(bench.now, stream, 4);
    assert_eq!(bench.outputs(), [Output::Finish { stream }]);
}

#[test]
fn a_client_that_takes_none_of_its_last_bytes_is_reset_after_the_stall_time_though_it_ends_meanwhile() {
    let mut bench = Bench::new();
    let stream = bench.open(1);
    bench.receive(b"\x00\x04\x03\x01bye\n");
    bench.relay.delivered(bench.now, stream, b"bye\n", 0);
    bench.receive(&close(1));
    bench.pass(29_999 * MS);
    bench.relay.handle_end(bench.now, stream);
    assert_eq!(bench.outputs(), []);
    bench.pass(MS);
    assert_eq!(bench.outputs(), [Output::Reset { stream, reason: Reset::Stalled }]);
}

#[test]
fn connect_goes_out_before_anything_a_client_says() {
    let mut bench = Bench::new();
    bench.fill();
    bench.sent();
    let waiting = bench.arrive();
    assert!(matches!(bench.relay.reserve(waiting, false), Room::Unwanted), "a client without a number is not read");
}

#[test]
fn numbers_go_from_1_to_255_and_0_and_the_least_recently_used_is_next() {
    let mut bench = Bench::new();
    let clients = bench.fill();
    assert_eq!(bench.relay.counters().open, 256);
    for number in [7, 3] {
        bench.receive(&close(number));
        bench.sent();
        bench.outputs();
    }
    bench.open(7);
    bench.open(3);
    assert_eq!(clients.len(), 256);
}

#[test]
fn a_number_is_free_when_both_closes_have_passed_or_thirty_seconds_after_ours() {
    let mut bench = Bench::new();
    let clients = bench.fill();
    bench.relay.handle_failure(bench.now, clients[4], Code::Normal, "");
    bench.outputs();
    assert_eq!(bench.sent(), close(5));
    let waiting = bench.arrive();
    assert_eq!(bench.outputs(), [], "the echo is not here");
    bench.receive(&close(5));
    assert_eq!(bench.outputs(), [Output::Opened { stream: waiting, client: 5 }]);

    bench.sent();
    bench.relay.handle_failure(bench.now, waiting, Code::Normal, "");
    bench.pass(Duration::from_secs(60));
    assert_eq!(bench.sent(), close(5), "the link had not taken it: the time begins now");
    bench.outputs();
    let refused = bench.arrive();
    bench.pass(Duration::from_secs(29));
    assert_eq!(bench.outputs(), [Output::Reset { stream: refused, reason: Reset::NoPlace }]);
    bench.pass(Duration::from_secs(1));
    bench.open(5);
}

#[test]
fn when_all_numbers_are_taken_a_client_waits_a_second_and_is_refused() {
    let mut bench = Bench::new();
    bench.fill();
    let waiting = bench.arrive();
    bench.pass(999 * MS);
    assert_eq!((bench.outputs(), bench.sent()), (vec![], vec![]), "no open client suffers");
    bench.pass(MS);
    assert_eq!(bench.outputs(), [Output::Reset { stream: waiting, reason: Reset::NoPlace }]);
    assert_eq!(bench.relay.streams(), 256);
}

#[test]
fn when_all_numbers_are_taken_the_longest_half_closed_client_gives_its_own() {
    let mut bench = Bench::new();
    let clients = bench.fill();
    for place in [9, 2] {
        bench.relay.handle_end(bench.now, clients[place]);
        bench.now += 10 * MS;
    }
    let waiting = bench.arrive();
    assert_eq!(bench.sent(), close(10));
    assert_eq!(bench.outputs(), [Output::Finish { stream: clients[9] }]);
    bench.receive(&close(10));
    assert_eq!(bench.outputs(), [Output::Opened { stream: waiting, client: 10 }]);
}

#[test]
fn a_client_that_ends_while_another_waits_for_a_number_gives_its_own() {
    let mut bench = Bench::new();
    let clients = bench.fill();
    bench.arrive();
    bench.relay.handle_end(bench.now, clients[0]);
    bench.relay.handle_end(bench.now, clients[1]);
    assert_eq!(bench.sent(), close(1), "one for one");
}

#[test]
fn only_so_many_clients_may_wait_for_a_number() {
    let mut bench = Bench::new();
    bench.fill();
    for _ in 0..MAX_WAITING {
        bench.arrive();
    }
    assert_eq!(bench.outputs(), []);
    let stream = bench.arrive();
    assert_eq!(bench.outputs(), [Output::Reset { stream, reason: Reset::NoPlace }]);
}

#[test]
fn a_client_that_waits_for_the_link_is_not_refused_for_want_of_a_number_and_takes_none_from_another() {
    let mut bench = Bench::new();
    let [half_closed, busy] = [bench.open(1), bench.open(2)];
    bench.relay.handle_end(bench.now, half_closed);
    while let Room::Free([room, ..]) = bench.relay.reserve(busy, false) {
        let count = room.len();
        bench.relay.commit(bench.now, busy, count);
    }
    let mut streams = vec![];
    while streams.is_empty() || !bench.outputs().is_empty() {
        streams.push(bench.arrive());
    }
    bench.pass(999 * MS);
    assert_eq!(bench.outputs(), []);
    bench.pass(100 * ID_TIMEOUT);
    assert_eq!(bench.outputs(), [Output::Finish { stream: half_closed }], "only its own time is up");
    bench.sent();
    let opened = Output::Opened { stream: streams[streams.len() - 1], client: 2 + streams.len() as u32 };
    assert_eq!(bench.outputs(), [opened]);
}

#[test]
fn data_for_a_client_that_is_not_open_is_skipped_and_counted() {
    let mut bench = Bench::new();
    // The relay of 2012 executes the payload and answers three CLOSEs.
    bench.receive(b"\x00\x08\x03\x09\x00\x00\x04\x0b\x00\x00\x04\x0c");
    bench.receive(b"\x00\x00\x07\x09");
    bench.receive(&close(9));
    let stream = bench.open(1);
    bench.receive(b"\x00\x00\x03\x01");
    bench.receive(b"\x00\x03\x07\x01abc");
    assert_eq!((bench.sent(), bench.relay.counters().ignored), (vec![], 5));
    assert_eq!(bench.receive(b"\x00\x01\x03\x01x"), [(stream, b"x".to_vec())]);
}

#[test]
fn data_behind_the_devices_close_is_skipped() {
    let mut bench = Bench::new();
    bench.open(1);
    assert_eq!(bench.receive(b"\x00\x00\x02\x01\x00\x04\x03\x01abcd"), []);
    assert_eq!(bench.sent(), close(1));
}

#[test]
fn an_impossible_frame_ends_the_link_with_an_error_that_shows_its_bytes() {
    assert_eq!(Bench::new().violation(&[0, 0, 4, 0]), "LISTEN came twice (00 00 04 00)");
    assert!(
        Bench::new()
            .violation(b"\x00\x05\x01\x01\x00\x01a\x00\x16")
            .starts_with("the device sent CONNECT (00 05 01 01)")
    );
}

#[test]
fn a_client_that_takes_nothing_is_reset_after_the_stall_time_and_the_others_go_on() {
    let mut bench = Bench::new();
    let slow = bench.open(1);
    let other = bench.open(2);
    bench.relay.delivered(bench.now, slow, &vec![0; 1024 * 1024], 0);
    assert!(!bench.relay.wants_input());
    bench.pass(Duration::from_secs(30));
    assert_eq!(bench.outputs(), [Output::Reset { stream: slow, reason: Reset::TooSlow }]);
    assert_eq!(bench.sent(), close(1));
    assert_eq!(bench.receive(b"\x00\x01\x03\x02x"), [(other, b"x".to_vec())]);
}

/// What becomes of a client that takes an eighth of its full queue each 29 s, for ten times, if `meanwhile` happens
/// between.
fn read_now_and_then(mut meanwhile: impl FnMut(&mut Bench, StreamKey)) -> Vec<Output> {
    let mut bench = Bench::new();
    let other = bench.open(1);
    let slow = bench.open(2);
    let eighth = vec![[&[2, 0, 3, 2][..], &[b'x'; 512]].concat(); 256].concat();
    bench.relay.delivered(bench.now, slow, &vec![0; 1024 * 1024], 0);
    for _ in 0..10 {
        bench.pass(Duration::from_secs(10));
        meanwhile(&mut bench, other);
        bench.pass(Duration::from_secs(19));
        bench.relay.advance(bench.now, slow, 128 * 1024);
        bench.receive(&eighth);
    }
    bench.outputs()
}

#[test]
fn a_client_that_reads_little_now_and_then_is_reset_where_another_waits_for_an_answer_or_gets_one() {
    assert_eq!(read_now_and_then(|_, _| {}), [], "no other waits");
    let asks = read_now_and_then(|bench, other| bench.client_sends(other, b"?"));
    assert!(matches!(asks[..], [Output::Reset { reason: Reset::TooSlow, .. }]), "{asks:?}");
    let gets = read_now_and_then(|bench, other| bench.relay.delivered(bench.now, other, b"!", 1));
    assert!(matches!(gets[..], [Output::Reset { reason: Reset::TooSlow, .. }]), "{gets:?}");
    let comes = read_now_and_then(|bench, _| _ = bench.arrive());
    let reset = comes.iter().filter(|output| matches!(output, Output::Reset { reason: Reset::TooSlow, .. }));
    assert_eq!(reset.count(), 1, "{comes:?}");
}

#[test]
fn no_client_that_still_reads_is_reset_for_the_number_of_the_others_that_have_ended() {
    let mut bench = Bench::new();
    let streams = bench.fill();
    for (number, &stream) in (1..=u8::MAX).chain([0]).zip(&streams) {
        bench.relay.delivered(bench.now, stream, &[b'x'; 8 * 1024], 0);
        bench.receive(&close(number));
    }
    assert!(bench.relay.wants_input(), "the others go on");
    for _ in 0..8 {
        bench.pass(Duration::from_secs(20));
        assert_eq!(bench.outputs(), []);
        streams.iter().for_each(|&stream| bench.relay.advance(bench.now, stream, 1024));
    }
    let finished: Vec<_> = streams.iter().map(|&stream| Output::Finish { stream }).collect();
    assert_eq!(bench.outputs(), finished);
}

#[test]
fn a_link_that_stands_still_is_not_a_silent_service() {
    let mut bench = Bench::new();
    let slow = bench.open(1);
    let ended = bench.open(2);
    bench.relay.handle_end(bench.now, ended);
    bench.relay.delivered(bench.now, slow, &vec![0; 1024 * 1024], 0);
    bench.pass(Duration::from_secs(10));
    assert_eq!(bench.sent(), b"");
    bench.now += 900 * MS;
    bench.relay.advance(bench.now, slow, 1);
    bench.pass(999 * MS);
    assert_eq!(bench.sent(), b"", "its answer may have waited in the link");
    bench.pass(MS);
    assert_eq!(bench.sent(), close(2));
}

#[test]
fn an_echo_that_waits_in_an_unread_link_closes_no_client() {
    let mut bench = Bench::new();
    let clients = bench.fill();
    bench.relay.handle_failure(bench.now, clients[4], Code::Normal, "");
    bench.pass(Duration::from_secs(20));
    bench.relay.delivered(bench.now, clients[0], &vec![0; 1024 * 1024], 0);
    bench.pass(Duration::from_secs(20));
    bench.relay.advance(bench.now, clients[0], 1);
    bench.outputs();
    bench.sent();
    let waiting = bench.arrive();
    assert_eq!(bench.outputs(), [], "the number is not free");
    bench.receive(&close(5));
    assert_eq!(bench.outputs(), [Output::Opened { stream: waiting, client: 5 }]);
}

#[test]
fn a_lost_link_resets_its_clients_and_those_that_wait() {
    let mut bench = Bench::new();
    let clients = bench.fill();
    let waiting = bench.arrive();
    bench.relay.handle_link_lost(bench.now);
    let outputs = bench.outputs();
    assert_eq!(outputs.len(), 257);
    for stream in clients.into_iter().chain([waiting]) {
        assert!(outputs.contains(&Output::Reset { stream, reason: Reset::LinkLost }));
    }
    assert_eq!((bench.relay.streams(), bench.relay.clients(), bench.relay.poll_timeout()), (0, 0, None));
}
