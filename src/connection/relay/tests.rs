use super::*;

const MS: Duration = Duration::from_millis(1);
const LISTEN: [u8; 4] = [0, 0, 4, 0];
const HELLO: [u8; 4] = [0, 0, 5, 0xf2];

/// A relay's end of a connection that was just made, on a clock that the test moves.
struct Bench {
    relay: Relay,
    now: Instant,
}

impl Bench {
    fn new(protocol: Protocol) -> Self {
        Self::with_least(Protocol::V1, protocol)
    }

    fn with_least(min_protocol: Protocol, protocol: Protocol) -> Self {
        let now = Instant::now();
        let half_close = Duration::from_secs(1);
        let settings = Settings { protocol, min_protocol, half_close, limits: Limits::RELAY };
        Self { relay: Relay::new(now, settings), now }
    }

    fn receive(&mut self, mut bytes: &[u8]) -> Vec<Output> {
        assert_eq!(self.relay.receive(self.now, &mut bytes).expect("no violation"), None);
        assert!(bytes.is_empty());
        self.outputs()
    }

    fn violation(&mut self, mut bytes: &[u8]) -> String {
        self.relay.receive(self.now, &mut bytes).expect_err("a violation").to_string()
    }

    fn pass(&mut self, time: Duration) -> Vec<Output> {
        self.now += time;
        self.relay.handle_timeout(self.now).expect("in time");
        self.outputs()
    }

    fn outputs(&mut self) -> Vec<Output> {
        std::iter::from_fn(|| self.relay.poll_output()).collect()
    }

    fn sent(&mut self) -> Vec<u8> {
        let mut sent = Vec::new();
        while self.relay.has_unsent() {
            let bytes = self.relay.unsent().to_vec();
            self.relay.advance_link(self.now, bytes.len());
            sent.extend(bytes);
        }
        sent
    }
}

#[test]
fn a_relay_that_insists_on_version_2_takes_no_device_before_its_hello() {
    let bench = || Bench::with_least(Protocol::V2, Protocol::V2);
    let mut new = bench();
    assert_eq!(new.receive(&LISTEN), []);
    assert!(!new.relay.is_listening());
    assert_eq!(new.receive(&HELLO), [Output::Listening, Output::Version(2)]);
    assert!(new.relay.is_listening());
    for second in [[0, 0, 5, 0xf1], [0, 0, 2, 1], [0, 0, 9, 9]] {
        let mut old = bench();
        assert_eq!(old.violation(&[LISTEN, second].concat()), ProtocolError::OldDevice.to_string());
        assert_eq!((old.relay.is_listening(), old.outputs()), (false, vec![]));
    }
    let mut silent = bench();
    silent.receive(&LISTEN);
    assert_eq!(silent.relay.handle_timeout(silent.now + HELLO_TIMEOUT), Err(ProtocolError::OldDevice));
    assert_eq!((silent.relay.is_listening(), silent.outputs()), (false, vec![]));
}

#[test]
fn a_frame_that_cannot_be_the_first_ends_the_link_with_an_error_that_shows_its_bytes() {
    for protocol in [Protocol::V1, Protocol::V2] {
        assert_eq!(
            Bench::new(protocol).violation(b"GET / HTTP/1.0"),
            "the first frame is not LISTEN but 'GET '; is this a device?"
        );
        assert_eq!(
            Bench::new(protocol).violation(b"\x00\x02\x04\x00ab"),
            "LISTEN carries no payload and is for client 0 (got 00 02 04 00)"
        );
    }
}

#[test]
fn a_connection_without_listen_is_given_five_seconds() {
    let mut bench = Bench::new(Protocol::V2);
    bench.receive(&[0, 0]);
    assert_eq!(bench.pass(Duration::from_millis(4_999)), []);
    bench.now += MS;
    let error = bench.relay.handle_timeout(bench.now).expect_err("too late");
    assert_eq!(error.to_string(), "it sent no LISTEN within 5 s");
}

#[test]
fn hello_behind_listen_is_answered_first_and_with_settings_at_once() {
    for cut in 0..=8 {
        let mut bench = Bench::new(Protocol::V2);
        let both = [LISTEN, HELLO].concat();
        let mut outputs = bench.receive(&both[..cut]);
        outputs.extend(bench.receive(&both[cut..]));
        assert_eq!(outputs, [Output::Listening, Output::Version(2)], "cut after {cut} bytes");
        let sent = bench.sent();
        assert_eq!(sent[..4], HELLO);
        assert_eq!(sent[4 + 2], 6, "SETTINGS is the first frame of version 2");
        assert!(bench.relay.is_ready());
    }
}

#[test]
fn a_device_that_sends_no_hello_within_250_ms_is_one_of_2012() {
    for early in [&[][..], &[0], &[0, 0, 5]] {
        let mut bench = Bench::new(Protocol::V2);
        assert_eq!(bench.receive(&LISTEN), [Output::Listening]);
        assert_eq!(bench.receive(early), []);
        assert!(!bench.relay.is_ready() && bench.pass(249 * MS).is_empty());
        assert_eq!(bench.pass(MS), [Output::Version(1)]);
        assert_eq!(bench.sent(), b"", "a device of 2012 is sent nothing");
        bench.receive(&HELLO[early.len()..]);
        assert_eq!(bench.sent(), [0, 0, 2, 0xf2], "a late HELLO has the answer of 2012");
        assert!(bench.relay.is_ready());
    }
}

#[test]
fn any_other_frame_behind_listen_means_version_1_and_counts() {
    let mut bench = Bench::new(Protocol::V2);
    assert_eq!(bench.receive(&[LISTEN, [0, 0, 2, 9]].concat()), [Output::Listening, Output::Version(1)]);
    assert_eq!(bench.relay.counters().ignored, 1);
    assert_eq!(Bench::new(Protocol::V2).violation(&[LISTEN, LISTEN].concat()), "LISTEN came twice (00 00 04 00)");
}

#[test]
fn a_relay_held_to_version_1_answers_hello_as_one_of_2012() {
    let mut bench = Bench::new(Protocol::V1);
    assert_eq!(bench.receive(&[LISTEN, HELLO].concat()), [Output::Listening, Output::Version(1)]);
    assert_eq!(bench.sent(), [0, 0, 2, 0xf2]);
}

#[test]
fn a_newer_device_is_answered_with_what_both_speak_and_an_older_one_in_version_1() {
    let mut bench = Bench::new(Protocol::V2);
    bench.receive(&[LISTEN, [0, 0, 5, 0xf7]].concat());
    assert_eq!(bench.sent()[..4], HELLO);
    let mut bench = Bench::new(Protocol::V2);
    assert_eq!(bench.receive(&[LISTEN, [0, 0, 5, 0xf1]].concat()), [Output::Listening, Output::Version(1)]);
}
