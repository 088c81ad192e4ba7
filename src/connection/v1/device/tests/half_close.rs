//! What a service may still say to a client whose CLOSE is here, where the relay is one of 2012.

use super::*;

const SECOND: Duration = Duration::from_secs(1);

impl Bench {
    /// A device whose relay has answered the probe.
    fn behind_relay_of_2012() -> Self {
        let mut bench = Self::new();
        bench.receive(&close(255));
        assert_eq!((bench.sent(), bench.device.counters().ignored), (vec![], 0));
        bench
    }

    /// A client that has said `request`, and no more.
    fn half_closed(&mut self, client: u8, request: &[u8]) -> StreamKey {
        let stream = self.open(client);
        assert_eq!(self.receive(&data(client, request)), [(stream, request.to_vec())]);
        self.receive(&close(client));
        assert_eq!(self.outputs(), [Output::ShutdownWrite { stream }]);
        assert_eq!(self.sent(), [0; 0], "the CLOSE waits");
        stream
    }

    fn assert_closed(&mut self, client: u8, stream: StreamKey) {
        assert_eq!(self.sent(), close(client));
        assert_eq!(self.outputs(), [Output::Finish { stream }]);
    }
}

#[test]
fn a_client_that_sends_no_more_gets_the_answer_and_then_the_close() {
    let mut bench = Bench::behind_relay_of_2012();
    let stream = bench.half_closed(1, b"GET");
    bench.service_sends(stream, b"answer");
    assert_eq!(bench.sent(), data(1, b"answer"));
    bench.device.handle_end(bench.now, stream);
    bench.assert_closed(1, stream);
    assert!(matches!(bench.device.ids[1], Id::Idle), "the relay's CLOSE was the first");
    bench.assert_empty();
}

#[test]
fn a_relay_that_passes_over_the_probe_gets_its_close_at_once() {
    let mut bench = Bench::new();
    let stream = bench.open(1);
    bench.receive(&close(1));
    bench.assert_closed(1, stream);
    // Nor is the CLOSE of a client that has the probe's number an answer to it.
    let streams: Vec<_> = (2..=255).map(|client| (client, bench.open(client))).collect();
    for (client, stream) in streams {
        bench.receive(&close(client));
        bench.assert_closed(client, stream);
    }
    bench.receive(&close(255));
    let stream = bench.open(0);
    bench.receive(&close(0));
    bench.assert_closed(0, stream);
}

#[test]
fn a_service_may_be_silent_for_a_second_and_speak_for_ten() {
    let mut bench = Bench::behind_relay_of_2012();
    let stream = bench.half_closed(1, b"GET");
    assert_eq!(bench.device.poll_timeout(), Some(bench.now + SECOND));
    bench.pass(SECOND);
    bench.assert_closed(1, stream);
    let stream = bench.half_closed(2, b"GET");
    for _ in 0..12 {
        bench.pass(SECOND * 4 / 5);
        bench.service_sends(stream, b"tick");
        assert_eq!(bench.sent(), data(2, b"tick"));
    }
    bench.pass(SECOND / 5);
    assert_eq!(bench.sent(), [0; 0]);
    bench.pass(SECOND / 5);
    bench.assert_closed(2, stream);
    bench.assert_empty();
}

#[test]
fn a_service_is_not_silent_while_the_link_stands_still() {
    let mut bench = Bench::behind_relay_of_2012();
    let stream = bench.half_closed(1, b"GET");
    bench.service_sends(stream, b"answer");
    for _ in 0..9 {
        bench.pass(SECOND);
    }
    assert_eq!(bench.sent(), data(1, b"answer"));
    bench.pass(SECOND);
    bench.assert_closed(1, stream);
    bench.assert_empty();
}

#[test]
fn a_service_may_say_a_mebibyte() {
    let mut bench = Bench::behind_relay_of_2012();
    let stream = bench.half_closed(1, b"GET");
    for _ in 0..16 {
        bench.service_sends(stream, &[b'x'; 60 * KIB]);
        assert_eq!(bench.sent().len(), 60 * KIB + 4);
    }
    bench.service_sends(stream, &[b'x'; 60 * KIB]);
    assert_eq!(bench.sent().len(), 60 * KIB + 4);
    bench.service_sends(stream, &[b'x'; 4 * KIB]);
    assert!(bench.sent().ends_with(&close(1)));
    assert_eq!(bench.outputs(), [Output::Finish { stream }]);
    assert!(matches!(bench.device.reserve(stream, false), Room::Unwanted));
    bench.assert_empty();
}

#[test]
fn the_second_begins_when_the_service_has_all_that_the_client_sent() {
    let mut bench = Bench::behind_relay_of_2012();
    let stream = bench.announce(1);
    bench.receive(&data(1, b"GET"));
    bench.receive(&close(1));
    bench.pass(5 * SECOND);
    bench.device.handle_connected(bench.now, stream);
    assert_eq!((bench.outputs(), bench.device.pending(stream)), (vec![], &b"GET"[..]));
    bench.pass(5 * SECOND);
    bench.device.advance(bench.now, stream, 3);
    assert_eq!(bench.outputs(), [Output::ShutdownWrite { stream }]);
    bench.pass(SECOND);
    bench.assert_closed(1, stream);
    bench.assert_empty();
}

#[test]
fn a_service_that_takes_nothing_of_the_request_is_reset_after_30_s() {
    let mut bench = Bench::behind_relay_of_2012();
    let stream = bench.open(1);
    bench.device.delivered(bench.now, stream, b"GET", 0);
    bench.receive(&close(1));
    bench.pass(30 * SECOND);
    assert_eq!(bench.sent(), close(1));
    assert_eq!(bench.outputs(), [Output::Reset { stream, reason: Reset::Stalled }]);
    bench.assert_empty();
}

#[test]
fn a_close_behind_early_data_leaves_time_for_the_answer_too() {
    let mut bench = Bench::behind_relay_of_2012();
    bench.receive(&[data(1, b"GET"), close(1).to_vec()].concat());
    let stream = bench.open(1);
    bench.device.advance(bench.now, stream, 3);
    assert_eq!(bench.outputs(), [Output::ShutdownWrite { stream }]);
    bench.service_sends(stream, b"answer");
    bench.device.handle_end(bench.now, stream);
    assert_eq!(bench.sent(), [&data(1, b"answer")[..], &close(1)].concat());
}

#[test]
fn a_service_that_fails_in_its_answer_is_a_close() {
    let mut bench = Bench::behind_relay_of_2012();
    let stream = bench.half_closed(1, b"GET");
    bench.device.handle_failure(bench.now, stream, Code::Normal, "reset");
    assert_eq!((bench.sent(), bench.outputs()), (close(1).to_vec(), vec![Output::Gone { stream }]));
    bench.assert_empty();
}

#[test]
fn no_answer_is_on_its_way_when_the_number_is_given_anew() {
    let mut bench = Bench::behind_relay_of_2012();
    let stream = bench.half_closed(1, b"GET");
    for client in 2..129 {
        bench.open(client);
    }
    assert_eq!(bench.sent(), [0; 0]);
    bench.receive(&connect(129));
    assert_eq!((bench.sent(), bench.outputs().first()), (close(1).to_vec(), Some(&Output::Finish { stream })));
    // One that has been open for so long is given no time at all.
    for client in 130..=140 {
        bench.open(client);
    }
    let Id::Open(old) = bench.device.ids[12] else { panic!("number 12 is open") };
    bench.receive(&close(12));
    bench.assert_closed(12, old);
}

#[test]
fn data_or_connect_for_the_number_is_the_next_clients_and_gets_no_close() {
    for next in [data(1, b"next"), connect(1)] {
        let mut bench = Bench::behind_relay_of_2012();
        let old = bench.half_closed(1, b"GET");
        assert_eq!(bench.receive(&next), []);
        assert_eq!((bench.sent(), bench.outputs().first()), (vec![], Some(&Output::Finish { stream: old })));
    }
}

#[test]
fn a_link_that_is_lost_in_an_answer_lets_the_service_have_the_whole_request() {
    let mut bench = Bench::behind_relay_of_2012();
    let answering = bench.half_closed(1, b"GET");
    let slow = bench.open(2);
    bench.device.delivered(bench.now, slow, b"GET", 0);
    bench.receive(&close(2));
    bench.device.handle_link_lost(bench.now);
    assert_eq!(bench.outputs(), [Output::Finish { stream: answering }]);
    bench.device.advance(bench.now, slow, 3);
    assert_eq!(bench.outputs(), [Output::Finish { stream: slow }]);
    bench.assert_empty();
}

#[test]
fn a_tunnel_that_is_closed_waits_for_no_answer() {
    let mut bench = Bench::behind_relay_of_2012();
    let stream = bench.half_closed(1, b"GET");
    bench.device.close(bench.now);
    bench.assert_closed(1, stream);
    bench.assert_empty();
}

#[test]
fn a_connect_that_cannot_be_read_is_the_next_clients_and_gets_the_one_close() {
    let mut bench = Bench::behind_relay_of_2012();
    let old = bench.half_closed(1, b"GET");
    bench.receive(b"\x00\x01\x01\x01x");
    assert_eq!(bench.sent(), close(1));
    assert_eq!(bench.outputs().first(), Some(&Output::Finish { stream: old }));
    bench.receive(&close(1));
    bench.pass(SECOND);
    assert_eq!(bench.sent(), [0; 0]);
    bench.assert_empty();
}
