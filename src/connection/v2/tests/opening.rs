//! Which clients get a stream, and until when.

use super::*;

#[test]
fn before_settings_a_peer_is_given_what_any_can_take_and_more_once_it_has_said_so() {
    let mut pair = Pair::unconnected(limits());
    let hello = pair.relay.unsent().to_vec();
    pair.relay.advance_link(pair.now, hello.len());
    let clients: Vec<_> = (0..17).map(|_| pair.arrive()).collect();
    assert_eq!(pair.relay_outputs().len(), 16, "sixteen streams");
    assert_eq!(send(pair.now, &mut pair.relay, clients[0], &[0; 64 * KIB]), 16 * KIB);
    pair.hand_device(&hello).expect("SETTINGS");
    pair.run();
    assert_eq!(pair.relay_outputs().len(), 2, "SETTINGS, and the seventeenth");
    assert_eq!(pair.relay.poll_unblocked(), Some(clients[0]));
    pair.relay.pacing = None;
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
    assert!(matches!(outputs[..], [Output::Gone { .. }, Output::Opened { client: 17, .. }]), "{outputs:?}");
    let refused = pair.arrive();
    pair.pass(SECOND);
    let outputs = pair.relay_outputs();
    assert!(matches!(outputs[..], [Output::Reset { stream, reason: Reset::NoPlace }] if stream == refused));
    assert_ne!(waiting, refused);
}

#[test]
fn a_client_that_waits_for_a_slow_device_is_not_refused_for_want_of_a_place() {
    let mut pair = Pair::unconnected(limits());
    let clients: Vec<_> = (0..17).map(|_| pair.arrive()).collect();
    pair.pass(SECOND);
    assert_eq!(pair.relay_outputs().len(), 16, "nobody knows how many the device takes, and none is refused");
    pair.run();
    let outputs = pair.relay_outputs();
    assert!(matches!(outputs[..], [Output::Introduced(_), Output::Opened { stream, .. }] if stream == clients[16]));

    let mut pair = Pair::with_limits(Limits { streams: 10_000, ..limits() });
    let mut waiting = pair.arrive();
    while !pair.relay_outputs().is_empty() {
        waiting = pair.arrive();
    }
    pair.pass(3 * SECOND);
    assert!(pair.relay_outputs().is_empty(), "the link takes nothing, and the device has places");
    pair.run();
    let outputs = pair.relay_outputs();
    assert!(matches!(outputs[..], [Output::Opened { stream, .. }] if stream == waiting), "{outputs:?}");
}

#[test]
fn a_relay_opens_no_more_streams_than_its_budget_is_made_for() {
    let mut pair = Pair::unconnected(limits());
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
    let connect = connect_to("127.0.0.1:22");
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
    assert!(matches!(pair.relay_outputs()[..], [Output::Opened { client: 17, .. }]));
}

#[test]
fn after_goaway_open_streams_finish_and_no_new_ones_come() {
    let mut pair = Pair::new();
    let open = pair.open();
    pair.relay.go_away(pair.now, Code::Shutdown, 7, "restarting");
    pair.run();
    let Some(Output::GoAway(go_away)) = pair.device_outputs().pop() else { panic!("not told") };
    assert_eq!((go_away.code, go_away.retry_after, go_away.last_stream), (Code::Shutdown, 7, 1));
    let refused = pair.arrive();
    let outputs = pair.relay_outputs();
    assert!(matches!(outputs[..], [Output::Reset { stream, reason: Reset::Shutdown }] if stream == refused));
    send(pair.now, &mut pair.device, open.device, b"still here");
    pair.run();
    assert_eq!(pair.at_relay[&open.relay], b"still here");
}

#[test]
fn a_connect_that_crosses_the_devices_goaway_is_not_taken_and_its_client_gets_the_reason() {
    let mut pair = Pair::new();
    pair.open();
    pair.device.go_away(pair.now, Code::Shutdown, 0, "");
    let late = pair.arrive();
    pair.relay_outputs();
    send(pair.now, &mut pair.relay, late, b"too late");
    pair.run();
    assert!(pair.device_outputs().is_empty());
    let outputs = pair.relay_outputs();
    let [Output::Reset { stream, reason: Reset::PeerLeaves }, Output::GoAway(_)] = outputs[..] else {
        panic!("{outputs:?}")
    };
    assert_eq!(stream, late);
}

#[test]
fn clients_that_wait_when_the_device_leaves_or_come_later_get_that_as_reason() {
    let mut pair = Pair::with_limits(Limits { open_rate: 20, ..limits() });
    let clients: Vec<_> = (0..21).map(|_| pair.arrive()).collect();
    assert_eq!(pair.relay_outputs().len(), 20, "the last one waits");
    pair.run();
    pair.device.go_away(pair.now, Code::Shutdown, 0, "");
    pair.run();
    let later = pair.arrive();
    let reset = |output| {
        if let Output::Reset { stream, reason: Reset::PeerLeaves } = output { Some(stream) } else { None }
    };
    let reset: Vec<_> = pair.relay_outputs().into_iter().filter_map(reset).collect();
    assert_eq!(reset, [clients[20], later]);
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
