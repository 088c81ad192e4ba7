//! How often an end asks whether its peer is there, and what a client gets where it is not.

use super::*;

const MINUTE: Duration = Duration::from_secs(60);

/// Both ends have introduced themselves, with these wishes; their first PINGs are answered.
fn pair(device: Duration, relay: Duration) -> Pair {
    let now = Instant::now() + 1000 * SECOND;
    let end = |role, keepalive| Mux::new(now, role, Limits { keepalive, ..limits() }, &[]);
    let mut pair = Pair { device: end(Role::Device, device), relay: end(Role::Relay, relay), ..Pair::new() };
    pair.now = now;
    pair.run();
    pair.device_outputs();
    pair.relay_outputs();
    pair
}

/// As the first ends of version 2 are: it says nothing of keepalive.
fn with_an_old_relay() -> Pair {
    let mut pair = Pair::unconnected(limits());
    pair.hand_device(&Settings::default().frame()).expect("settings");
    while pair.device.has_unsent() {
        let count = pair.device.unsent().len();
        pair.device.advance_link(pair.now, count);
    }
    pair.hand_device(&v2::ping(1u64.to_be_bytes(), Flags::ACK)).expect("the first PING's answer");
    pair
}

/// After which silence each end asks: neither hears of the other meanwhile.
fn asks_after(pair: &mut Pair) -> [Option<u64>; 2] {
    let started = pair.now;
    let mut after = [None; 2];
    while pair.now < started + 70 * MINUTE && after.contains(&None) {
        pair.now += SECOND;
        for (end, after) in [&mut pair.device, &mut pair.relay].into_iter().zip(&mut after) {
            if after.is_none() {
                end.handle_timeout(pair.now).expect("the peer may still be there");
                *after = end.has_unsent().then(|| (pair.now - started).as_secs());
            }
        }
    }
    after
}

/// After which silence an end gives its peer up.
fn dead_after(end: &mut Mux, mut now: Instant) -> u64 {
    let started = now;
    while end.handle_timeout(now).is_ok() {
        now += SECOND;
    }
    (now - started).as_secs()
}

#[test]
fn the_smaller_wish_holds_but_no_less_than_5_s_and_the_device_asks_first() {
    for (device, relay, holds) in
        [(90, 90, 90), (20, 300, 20), (300, 20, 20), (1, 90, 5), (90, 1, 5), (3600, 90, 90), (60_000, 60_000, 3600)]
    {
        let mut pair = pair(device * SECOND, relay * SECOND);
        assert_eq!(asks_after(&mut pair), [Some(holds), Some(holds + 5)], "{device} and {relay}");
    }
    assert_eq!(dead_after(&mut Pair::new().device, Pair::new().now), 120);
    let mut pair = Pair::new();
    assert_eq!(dead_after(&mut pair.relay, pair.now), 125);
    assert_eq!(pair.relay.link_keepalive(), Some(125 * SECOND), "TCP's probes come when the link is given up");
}

#[test]
fn a_device_cannot_put_off_when_its_relay_finds_that_it_is_gone() {
    let mut pair = pair(3600 * SECOND, 90 * SECOND);
    assert_eq!(pair.relay.link_keepalive(), Some(125 * SECOND));
    assert_eq!(dead_after(&mut pair.relay, pair.now), 125);
}

#[test]
fn a_peer_that_says_nothing_of_it_is_asked_after_15_s_and_dead_after_45() {
    let mut pair = with_an_old_relay();
    assert_eq!(asks_after(&mut pair)[0], Some(15));
    let mut pair = with_an_old_relay();
    assert_eq!(dead_after(&mut pair.device, pair.now), 45);
    assert_eq!(pair.device.link_keepalive(), None);
}

#[test]
fn a_link_with_streams_is_asked_after_15_s_by_both_ends_and_one_without_is_idle_again() {
    let mut pair = Pair::new();
    let open = pair.open();
    assert_eq!(asks_after(&mut pair), [Some(15), Some(15)]);
    pair.run();
    assert_eq!(dead_after(&mut pair.relay, pair.now), 45);
    let mut pair = Pair::new();
    let other = pair.open();
    assert_eq!(other.number, open.number);
    pair.device.handle_failure(pair.now, other.device, Code::Normal, "");
    pair.run();
    assert_eq!(asks_after(&mut pair), [Some(90), Some(95)]);
    let mut often = self::pair(5 * SECOND, 5 * SECOND);
    often.open();
    assert_eq!(asks_after(&mut often), [Some(5), Some(10)], "streams are no reason to ask less often");
}

#[test]
fn an_idle_link_costs_less_than_10_mb_a_month_on_ipv6_and_in_tls() {
    let mut pair = Pair::new();
    let month = 31 * 24 * 60 * MINUTE;
    let (started, mut exchanges) = (pair.now, 0);
    while pair.now < started + month {
        pair.pass(SECOND);
        let is_asked = pair.device.has_unsent();
        assert!(!pair.relay.has_unsent(), "it leaves that to the device");
        if is_asked {
            exchanges += 1;
            assert_eq!(pair.device.unsent().len(), 16);
            carry(pair.now, &mut pair.device, &mut pair.relay, &mut pair.at_relay, &[]);
            assert_eq!(pair.relay.unsent().len(), 16);
            carry(pair.now, &mut pair.relay, &mut pair.device, &mut pair.at_device, &[]);
        }
    }
    // PING, its answer, and the acknowledgement of that: headers of IPv6 and of TCP with timestamps; a record of TLS.
    let (headers, record) = (40 + 32, 5 + 1 + 16);
    let bytes = exchanges * (3 * headers + 2 * (16 + record));
    assert!(exchanges > 29_000 && bytes < 9_000_000, "{exchanges} exchanges, {bytes} bytes");
}

#[test]
fn a_client_on_a_silent_link_brings_a_ping_and_one_on_a_link_that_was_heard_does_not() {
    let mut pair = Pair::new();
    pair.pass(60 * SECOND);
    pair.arrive();
    let ping = Type::Ping.number();
    assert_eq!(kinds(&mut pair.relay, pair.now), [Type::Connect.number(), ping]);
    let mut pair = Pair::new();
    pair.pass(SECOND / 2);
    pair.arrive();
    assert_eq!(kinds(&mut pair.relay, pair.now), [Type::Connect.number()]);
    let mut pair = Pair::new();
    pair.pass(60 * SECOND);
    pair.open();
    pair.pass(60 * SECOND);
    pair.run();
    pair.pass(2 * SECOND);
    pair.arrive();
    assert_eq!(kinds(&mut pair.relay, pair.now), [Type::Connect.number()], "a link with streams is asked in any case");
}

#[test]
fn many_clients_one_after_the_other_are_no_flood_of_pings() {
    let mut pair = Pair::new();
    for _ in 0..1000 {
        pair.pass(SECOND);
        let open = pair.open();
        pair.device.handle_failure(pair.now, open.device, Code::Normal, "");
        pair.run();
        pair.relay_outputs();
    }
}

#[test]
fn a_client_of_a_device_that_gives_no_sign_of_life_has_its_answer_after_3_s() {
    let mut pair = Pair::new();
    pair.pass(60 * SECOND);
    let (first, second) = (pair.arrive(), pair.arrive());
    kinds(&mut pair.relay, pair.now);
    pair.relay_outputs();
    pair.now += 2999 * SECOND / 1000;
    pair.relay.handle_timeout(pair.now).expect("it may still be there");
    assert_eq!(pair.relay_outputs(), []);
    pair.now += SECOND / 1000;
    pair.relay.handle_timeout(pair.now).expect("it may still be there");
    let unanswered = |stream| Output::Reset { stream, reason: Reset::Unanswered };
    assert_eq!(pair.relay_outputs(), [unanswered(first), unanswered(second)]);
    assert_eq!(kinds(&mut pair.relay, pair.now), [Type::Close.number(); 2], "the device is not to serve them any more");

    let late = pair.arrive();
    pair.now += SECOND;
    pair.relay.handle_timeout(pair.now).expect("it may still be there");
    assert_eq!(pair.relay_outputs(), [unanswered(late)], "it is like a device that is not there");
    assert!(!pair.relay.has_unsent());

    let served = pair.arrive();
    pair.hand_relay(&v2::ping([7; 8], Flags::NONE)).expect("a PING");
    assert!(matches!(pair.relay_outputs()[..], [Output::Opened { stream, .. }] if stream == served), "it is back");
}

#[test]
fn a_device_that_is_there_may_take_its_time_for_the_service() {
    let mut pair = Pair::new();
    pair.pass(60 * SECOND);
    pair.announce();
    for _ in 0..9 {
        pair.pass(SECOND);
        assert_eq!(pair.relay_outputs(), []);
    }
}

#[test]
fn on_a_long_way_a_sign_of_life_may_take_four_round_trips() {
    let mut pair = Pair::new();
    for _ in 0..60 {
        // A way of 2 s, until that is all that the smoothed round trip knows of.
        pair.pass(90 * SECOND);
        carry(pair.now, &mut pair.device, &mut pair.relay, &mut pair.at_relay, &[]);
        pair.relay.round_trip.smooth(2 * SECOND);
        carry(pair.now, &mut pair.relay, &mut pair.device, &mut pair.at_device, &[]);
    }
    assert!(pair.relay.counters().round_trip.expect("measured") > 1999 * SECOND / 1000);
    pair.pass(60 * SECOND);
    let client = pair.arrive();
    pair.relay_outputs();
    pair.now += 7 * SECOND;
    pair.relay.handle_timeout(pair.now).expect("it may still be there");
    assert_eq!(pair.relay_outputs(), []);
    pair.now += SECOND;
    pair.relay.handle_timeout(pair.now).expect("it may still be there");
    assert_eq!(pair.relay_outputs(), [Output::Reset { stream: client, reason: Reset::Unanswered }]);
}

#[test]
fn a_clients_end_leaves_no_doubt_behind() {
    let mut pair = Pair::new();
    pair.pass(60 * SECOND);
    let client = pair.arrive();
    pair.relay.handle_failure(pair.now, client, Code::Normal, "");
    pair.now += 3 * SECOND;
    pair.relay.handle_timeout(pair.now).expect("it may still be there");
    assert!(pair.relay.liveness.is_suspect(), "nothing came");
    pair.run();
    assert!(!pair.relay.liveness.is_suspect());
    pair.relay_outputs();
    pair.device_outputs();
    pair.open();
}

/// A client has come to a link that was silent for a minute, and CONNECT and PING are on their way.
fn doubtful() -> (Pair, StreamKey) {
    let mut pair = Pair::new();
    pair.pass(60 * SECOND);
    let client = pair.arrive();
    kinds(&mut pair.relay, pair.now);
    pair.relay_outputs();
    (pair, client)
}

#[test]
fn a_link_whose_clients_were_refused_is_given_up_30_s_after_they_came() {
    let (mut pair, client) = doubtful();
    assert_eq!(dead_after(&mut pair.relay, pair.now), 30);
    assert_eq!(pair.relay_outputs()[0], Output::Reset { stream: client, reason: Reset::Unanswered });
}

#[test]
fn a_device_of_which_a_sign_is_required_gives_it_within_3_s_or_is_dead() {
    for (silence, answers) in [(0, false), (15, false), (0, true), (15, true)] {
        let mut pair = Pair::new();
        pair.open();
        // After 15 s the link asks of itself.
        pair.now += silence * SECOND;
        pair.relay.handle_timeout(pair.now).expect("it may still be there");
        pair.relay.require_sign(pair.now);
        if answers {
            pair.run();
        } else {
            assert_eq!(kinds(&mut pair.relay, pair.now), [Type::Ping.number()], "one is out at a time");
        }
        let lasts = if answers { 45 } else { 3 };
        assert_eq!(dead_after(&mut pair.relay, pair.now), lasts, "after {silence} s, {answers}");
    }
}

#[test]
fn a_link_that_was_asked_is_given_up_30_s_later_though_its_last_client_has_left() {
    let mut pair = Pair::new();
    let open = pair.open();
    pair.now += 15 * SECOND;
    pair.relay.handle_timeout(pair.now).expect("it may still be there");
    assert_eq!(kinds(&mut pair.relay, pair.now), [Type::Ping.number()]);
    pair.relay.handle_failure(pair.now, open.relay, Code::Normal, "");
    assert_eq!(dead_after(&mut pair.relay, pair.now), 30);
}

#[test]
fn a_relay_that_was_stopped_gives_the_sign_of_life_its_time_once_more() {
    let (mut pair, client) = doubtful();
    pair.now += 10 * SECOND;
    pair.relay.handle_timeout(pair.now).expect("it may still be there");
    assert_eq!(pair.relay_outputs(), [], "what came meanwhile may not be read yet");
    pair.now += 3 * SECOND;
    pair.relay.handle_timeout(pair.now).expect("it may still be there");
    assert_eq!(pair.relay_outputs(), [Output::Reset { stream: client, reason: Reset::Unanswered }]);
}

#[test]
fn a_client_that_waits_for_a_silent_device_is_refused_though_the_link_takes_nothing() {
    let (mut pair, client) = doubtful();
    pair.now += 3 * SECOND;
    pair.relay.handle_timeout(pair.now).expect("it may still be there");
    assert_eq!(pair.relay_outputs(), [Output::Reset { stream: client, reason: Reset::Unanswered }]);
    while pair.relay.send_buffer.control_len() < CONTROL_FULL {
        pair.relay.send_buffer.push_control(&v2::ping([7; 8], Flags::NONE));
    }
    let late = pair.arrive();
    pair.now += SECOND;
    pair.relay.handle_timeout(pair.now).expect("it may still be there");
    assert_eq!(pair.relay_outputs(), [Output::Reset { stream: late, reason: Reset::Unanswered }]);
}
