//! Peers that are silent, or say what they must not.

use super::super::crediting::MOST_STALE;
use super::*;
use crate::connection::Destination;

#[test]
fn what_a_device_must_not_send_ends_the_link_with_a_reason() {
    let connect = connect_to("127.0.0.1:22");
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
    let connect = connect_to("127.0.0.1:22");
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
    let go_away = GoAway { code: Code::Normal, retry_after: 0, last_stream: 1, reason: String::new() }.frame();
    let credit = v2::credit(1, 32 * KIB as u64);
    for frame in [&ping[..], &v2::ping([9; 8], Flags::ACK), &settings, &unknown, &go_away, &credit, &v2::ack(7, 7)] {
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
        assert!(pair.relay.send_buffer.len() < 64 * KIB && pair.relay.unsent().len() < 100, "one answer is pending");
    }
}

#[test]
fn a_peer_that_does_not_introduce_itself_first_in_time_and_briefly_is_given_up() {
    let mut pair = Pair::unconnected(limits());
    assert_eq!(pair.hand_relay(&v2::ping([0; 8], Flags::NONE)), Err(ProtocolError::NoSettings));
    let mut pair = Pair::unconnected(limits());
    pair.now += 10 * SECOND;
    assert_eq!(pair.relay.handle_timeout(pair.now), Err(ProtocolError::NoSettings));
    let mut pair = Pair::unconnected(limits());
    let endless = Header { size: 4096, kind: Type::Settings, flags: Flags::NONE, stream: 0 }.encode();
    pair.hand_relay(&endless).expect("it may be long");
    assert_eq!(pair.hand_relay(&[0; 4096]), Err(ProtocolError::NoSettings));
}

#[test]
#[cfg(feature = "tls")]
fn a_token_on_a_link_in_the_clear_ends_it() {
    let join =
        v2::Join { token: crate::identity::TokenId([1; 8]), secret: crate::identity::Secret::from_bytes([2; 16]) };
    let mut pair = Pair::unconnected(limits());
    let settings = Settings { join: Some(join), ..Settings::default() };
    assert_eq!(pair.hand_relay(&settings.frame()), Err(ProtocolError::JoinInTheClear));
    assert_eq!(kinds(&mut pair.relay, pair.now).pop(), Some(Type::GoAway.number()));
    assert_eq!(pair.relay_outputs(), []);
}

#[test]
fn a_refusal_introduces_nobody_and_is_followed_by_its_reason() {
    let mut pair = Pair::unconnected(limits());
    let away = GoAway { code: Code::Revoked, retry_after: 60, last_stream: 0, reason: "it was stolen".into() };
    let refusal = Settings { refuses: true, ..Settings::default() };
    pair.hand_device(&[refusal.frame(), away.frame()].concat()).expect("a refusal");
    assert_eq!(pair.device_outputs(), [Output::GoAway(away)]);
}

#[test]
fn a_relay_that_refuses_a_device_and_uses_it_or_never_ends_the_link_is_given_up() {
    let now = Instant::now();
    let refused = || {
        let mut device = Mux::opener(now, Limits::DEVICE, Settings::default());
        let refusal = Settings { refuses: true, ..Settings::default() };
        assert!(device.receive(now, &mut &refusal.frame()[..]).expect("a refusal").is_none());
        device
    };
    let connect = connect_to("127.0.0.1:22");
    let error = refused().receive(now, &mut &connect.frame(1)[..]).expect_err("it is refused");
    assert!(matches!(error, ProtocolError::AfterRefusal), "{error}");
    let mut device = refused();
    let end = device.poll_timeout().expect("an end");
    assert!(end <= now + Duration::from_secs(20), "{:?}", end - now);
    let mut late = None;
    while late.is_none() {
        let due = device.poll_timeout().expect("an end");
        assert!(due <= now + Duration::from_secs(20), "{:?}", due - now);
        late = device.handle_timeout(due).err();
    }
}

#[test]
fn a_service_by_name_is_for_the_devices_owner_to_know_and_another_device_is_denied() {
    let name = |text| crate::identity::Name::device(text).expect("a name");
    let hand = |target| {
        let mut pair = Pair::new();
        pair.arrive();
        pair.relay_outputs();
        kinds(&mut pair.relay, pair.now);
        pair.hand_device(&v2::Connect::to(target).frame(1)).expect("a CONNECT");
        pair.run();
        pair
    };
    let outputs = hand(v2::Target::Service(name("ssh"))).device_outputs();
    let [Output::Connect { service, from: None, .. }] = &outputs[..] else { panic!("{outputs:?}") };
    assert_eq!(*service, Destination::Service(name("ssh")));
    let outputs = hand(v2::Target::Device(Some(name("pump-3")), v2::Part::Port(22))).relay_outputs();
    let [Output::Reset { reason: Reset::Closed(close), .. }] = &outputs[..] else { panic!("{outputs:?}") };
    assert_eq!(close.code, Code::Denied);
}

#[test]
fn streams_that_are_over_do_not_add_up_to_leave_for_anything() {
    let mut pair = Pair::new();
    let streams = MOST_STALE / u64::from(limits().window) + 100;
    for _ in 0..streams {
        let open = pair.open();
        pair.relay.handle_failure(pair.now, open.relay, Code::Normal, "");
        pair.run();
        pair.relay_outputs();
        pair.device_outputs();
    }
    let frame = data(1, &[b'x'; 32 * KIB], false);
    for _ in 0..MOST_STALE / (32 * KIB as u64) {
        pair.hand_relay(&frame).expect("it may have been on its way");
    }
    assert_eq!(pair.hand_relay(&frame), Err(ProtocolError::FlowControl(1)));
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
fn streams_that_come_and_go_while_the_device_cannot_write_leave_nothing_behind() {
    let mut pair = Pair::new();
    let connect = connect_to("127.0.0.1:22");
    let close = Close { code: Code::Normal, reason: String::new() };
    for number in 1..=5_000 {
        pair.hand_device(&connect.frame(number)).expect("a CONNECT");
        let outputs = pair.device_outputs();
        let [Output::Connect { stream, .. }] = outputs[..] else { panic!("{outputs:?}") };
        pair.device.handle_connected(pair.now, stream);
        pair.hand_device(&data(number, &[b'x'; 9 * KIB], false)).expect("DATA for which there is credit");
        pair.hand_device(&close.frame(number)).expect("a CLOSE");
        pair.device_outputs();
    }
    assert!(pair.device.pending_control.is_empty(), "{} keys", pair.device.pending_control.len());
    assert!(!pair.device.has_unsent() || pair.device.unsent().len() < 64 * KIB);
}

#[test]
fn what_streams_that_are_over_hold_is_within_the_budget_of_all() {
    let limits = Limits { streams: 16, budget: 512 * KIB as u64, ..limits() };
    let mut pair = Pair::with_limits(limits);
    let connect = connect_to("127.0.0.1:22");
    let mut reset = Vec::new();
    let mut streams = Vec::new();
    for number in 1..=40 {
        pair.hand_device(&connect.frame(number)).expect("a CONNECT");
        let Some(Output::Connect { stream, .. }) = pair.device_outputs().pop() else { panic!("no CONNECT") };
        pair.device.handle_connected(pair.now, stream);
        pair.stuck.push(stream);
        streams.push(stream);
        pair.hand_device(&data(number, &[b'x'; 32 * KIB], true)).expect("DATA for which there is credit");
        assert!(pair.device.held <= limits.budget, "{} bytes wait for sockets", pair.device.held);
        pair.device.handle_end(pair.now, stream);
        pair.pass(SECOND / 10);
        for output in pair.device_outputs() {
            let Output::Reset { stream, reason: Reset::Stalled } = output else { panic!("{output:?}") };
            reset.push(stream);
        }
    }
    assert_eq!(reset, streams[..40 - 16], "those that took nothing for the longest time");
}

#[test]
fn a_peer_that_announced_acknowledgements_and_sends_none_for_a_minute_loses_its_link() {
    for answers in [false, true] {
        let mut pair = Pair::new();
        let open = pair.open();
        let mut ended = None;
        for second in 0..200 {
            send(pair.now, &mut pair.relay, open.relay, b"a keystroke");
            while pair.relay.has_unsent() {
                let bytes = pair.relay.unsent().to_vec();
                pair.relay.advance_link(pair.now, bytes.len());
                pair.hand_device(&bytes).expect("frames");
            }
            // The device acknowledges all or nothing, and lives.
            while pair.device.has_unsent() {
                let bytes = pair.device.unsent().to_vec();
                pair.device.advance_link(pair.now, bytes.len());
                let is_ack = bytes.get(2) == Some(&Type::Ack.number());
                if answers || !is_ack {
                    pair.hand_relay(&bytes).expect("frames");
                }
            }
            pair.hand_relay(&data(open.number, b"it lives", false)).expect("within the credit");
            pair.now += SECOND;
            pair.device.handle_timeout(pair.now).expect("the relay is there");
            if let Err(error) = pair.relay.handle_timeout(pair.now) {
                ended = Some((second, error));
                break;
            }
        }
        assert_eq!(ended, (!answers).then_some((59, ProtocolError::Unacknowledged)));
        if !answers {
            assert_eq!(kinds(&mut pair.relay, pair.now).pop(), Some(Type::GoAway.number()));
        }
    }
}

#[test]
fn an_end_that_was_stopped_for_long_gives_its_peer_another_minute_to_acknowledge() {
    let mut pair = Pair::new();
    let open = pair.open();
    send(pair.now, &mut pair.relay, open.relay, b"a question");
    let bytes = pair.relay.unsent().to_vec();
    pair.relay.advance_link(pair.now, bytes.len());
    pair.now += 1000 * SECOND;
    pair.relay.handle_timeout(pair.now).expect("it was stopped");
    pair.hand_relay(&data(open.number, b"it lives", false)).expect("DATA");
    pair.now += 40 * SECOND;
    pair.relay.handle_timeout(pair.now).expect("it has time");
    pair.hand_relay(&data(open.number, b"it lives", false)).expect("DATA");
    pair.now += 20 * SECOND;
    assert_eq!(pair.relay.handle_timeout(pair.now), Err(ProtocolError::Unacknowledged));
}
