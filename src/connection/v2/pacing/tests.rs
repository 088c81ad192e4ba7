//! The controller alone, over lines of any kind.

mod hostile;
mod line;
mod pauses;
mod tcp;

use line::{Line, Run, line};
use tcp::Tcp;

use super::round::Measured;
use super::state::{Agreement, Cause};
use super::*;

#[test]
fn a_slow_line_is_busy_and_its_queue_short_however_long_that_could_be() {
    for queue in [16.0, 64.0, 256.0] {
        let mut run = Run::new(line(1000.0, 50, queue));
        run.pass(10.0);
        let (share, echo) = run.pass(30.0);
        assert!(share >= 95.0 && echo <= 100.0, "{share} %, {echo} ms beside {queue} KiB");
    }
}

#[test]
fn a_long_fast_line_is_used_within_three_seconds() {
    let mut run = Run::new(line(100_000.0, 100, 1250.0));
    run.pass(2.0);
    let (share, _) = run.pass(1.0);
    assert!(share >= 90.0, "{share} % in the third second");
    let (share, echo) = run.pass(20.0);
    assert!(share >= 95.0 && echo <= 130.0, "{share} %, {echo} ms");
}

/// The line has changed: fifteen seconds later it is used again, and its queue is short some drains later.
fn assert_follows(run: &mut Run, drains: u32) {
    run.pass(15.0);
    let (share, _) = run.pass(5.0);
    assert!(share >= 70.0, "{share} %, {:?}", run.line);
    run.pass(11.0 * f64::from(drains));
    let (share, echo) = run.pass(5.0);
    let most = run.line.round_trip.as_secs_f64() * 1250.0 + 30.0;
    assert!(share >= 70.0 && echo <= most, "{share} %, {echo} ms, {:?}", run.line);
}

#[test]
fn a_round_trip_that_changes_is_followed() {
    let mut run = Run::new(line(80_000.0, 20, 1024.0));
    run.pass(15.0);
    for (round_trip, drains) in [(400, 4), (20, 1), (40, 4), (100, 4), (20, 1)] {
        run.line.round_trip = Duration::from_millis(round_trip);
        assert_follows(&mut run, drains);
    }
}

#[test]
fn a_rate_that_halves_and_comes_back_is_followed_and_a_keystroke_does_not_notice() {
    let mut run = Run::new(line(10_000.0, 40, 256.0));
    run.pass(15.0);
    for factor in [0.5, 2.0] {
        run.line.rate *= factor;
        run.pass(1.0);
        let (share, echo) = run.pass(14.0);
        assert!(share >= 90.0 && echo <= 70.0, "{share} %, {echo} ms");
    }
}

#[test]
fn beside_cross_traffic_the_line_is_shared_and_after_it_the_queue_is_short_again() {
    // Where both begin at once it is TCP that shares the line, and slowly.
    for (alone, together, least) in [(15.0, 60.0, 30.0), (0.0, 15.0, 10.0)] {
        let mut run = Run::new(line(10_000.0, 40, 256.0));
        run.pass(alone);
        run.begin_download();
        run.pass(10.0);
        let (share, _) = run.pass(together);
        assert!(share >= least, "{share} %");
        run.neighbour = None;
        run.pass(25.0);
        let (share, echo) = run.pass(5.0);
        assert!(share >= 90.0 && echo <= 70.0, "{share} %, {echo} ms, after {alone} s alone");
    }
}

#[test]
fn beside_cross_traffic_on_a_slow_line_there_is_a_share_too() {
    let mut run = Run::new(line(1000.0, 50, 256.0));
    run.pass(15.0);
    run.begin_download();
    run.pass(20.0);
    let (share, _) = run.pass(60.0);
    assert!(share >= 25.0, "{share} %");
    run.neighbour = None;
    run.pass(45.0);
    let (share, echo) = run.pass(5.0);
    assert!(share >= 90.0 && echo <= 300.0, "{share} %, {echo} ms");
}

/// A round or a drain in which more would have been sent.
fn round(forward: f64, rate: f64) -> Measured {
    let (back, count) = (0.025, DRAINED);
    Measured { rate, forward, back, round_trip: forward + back, count, held_back: true, kernel_full: false }
}

#[test]
fn somebody_elses_queue_is_told_from_a_longer_path_however_little_has_been_sent() {
    for (rate, is_path) in [(900.0, true), (500.0, false)] {
        let mut pacing = Pacing::new(Instant::now());
        // Keystrokes alone: by this rate three small frames would be allowed to wait for seconds on a path of two.
        pacing.handle_round(1.0, &round(0.025, 900.0));
        pacing.settle();
        pacing.handle_drained(10.0, &round(0.025, 900.0), Cause::Stale);
        pacing.handle_drained(20.0, &round(2.0, 900.0), Cause::Stale);
        assert!(matches!(pacing.state, State::Try { .. }), "{:?}", pacing.state);
        for seconds in 1..10 {
            pacing.handle_round(20.0 + f64::from(seconds), &round(2.0, rate));
        }
        assert_eq!(matches!(pacing.state, State::Drain { cause: Cause::Alone, .. }), is_path, "{:?}", pacing.state);
        assert_eq!(matches!(pacing.state, State::Compete { .. }), !is_path, "{:?}", pacing.state);
    }
}

#[test]
fn a_round_trip_that_grows_beyond_what_is_tried_is_somebody_elses_at_once() {
    let mut pacing = Pacing::new(Instant::now());
    pacing.handle_round(1.0, &round(0.025, 1e6));
    pacing.handle_drained(10.0, &round(0.025, 1e6), Cause::Stale);
    pacing.handle_drained(20.0, &round(0.4, 1e6), Cause::Stale);
    pacing.handle_round(20.5, &round(0.4, 1e5));
    assert!(matches!(pacing.state, State::Try { .. }), "{:?}", pacing.state);
    pacing.handle_round(21.0, &round(0.8, 5e5));
    assert!(matches!(pacing.state, State::Compete { .. }), "{:?}", pacing.state);
}

#[test]
fn a_path_that_was_never_drained_is_drained_before_it_is_called_crowded() {
    let mut pacing = Pacing::new(Instant::now());
    pacing.handle_round(0.1, &round(0.025, 1e6));
    pacing.settle();
    for number in 0..10 {
        pacing.handle_round(0.2 + f64::from(number) / 10.0, &round(0.5, 1e6));
    }
    assert!(matches!(pacing.state, State::Drain { cause: Cause::Stale, .. }), "{:?}", pacing.state);
}

#[test]
fn acknowledgements_that_wait_on_their_way_back_make_no_line_slower_and_the_window_larger() {
    let mut pacing = Pacing::new(Instant::now());
    pacing.handle_round(0.1, &round(0.025, 1e6));
    pacing.settle();
    let before = pacing.window;
    for number in 0..3 {
        // The peer's own bytes fill a queue, for a short time.
        let late = Measured { back: 0.1, round_trip: 0.125, ..round(0.025, 4e5) };
        pacing.handle_round(0.2 + f64::from(number) / 10.0, &late);
    }
    assert_eq!(
        (pacing.path.rate(), pacing.window),
        (1e6, before + (1e6 * pacing.allowed_queue()) as u64),
        "{pacing:?}"
    );
}

#[test]
fn while_somebody_else_is_there_for_certain_no_drain_gives_way_for_half_a_minute() {
    // The part of the path's rate that a round brings, and when it is drained for which cause.
    for (part, seconds, is_alone) in [(0.5, 30, false), (0.8, 10, false), (0.95, 10, true)] {
        let mut pacing = Pacing::new(Instant::now());
        pacing.path.reference = 1e6;
        pacing.handle_round(0.0, &round(0.025, part * 1e6));
        pacing.compete(0.0, 0.3, Agreement { trip: f64::INFINITY, count: 0 });
        let drained = (1..60).find(|&second| {
            pacing.handle_round(f64::from(second), &round(0.3, part * 1e6));
            matches!(pacing.state, State::Drain { cause, .. } if (cause == Cause::Alone) == is_alone)
        });
        assert_eq!(drained, Some(seconds + 1), "{part}: {:?}", pacing.state);
    }
}

#[test]
fn clocks_may_differ_by_250_millionths() {
    for skew in [-250.0, 250.0] {
        for (line, least, most) in [(line(1000.0, 50, 256.0), 95.0, 100.0), (line(100_000.0, 20, 1024.0), 80.0, 40.0)] {
            let mut run = Run::new(Line { skew, ..line });
            run.pass(10.0);
            let (share, echo) = run.pass(200.0);
            assert!(share >= least && echo <= most, "{share} %, {echo} ms, {line:?}");
        }
    }
}

#[test]
fn clocks_may_differ_for_ten_minutes_where_the_round_trip_is_short() {
    for skew in [-250.0, 250.0] {
        for (line, most) in [(line(2000.0, 15, 64.0), 50.0), (line(10_000.0, 5, 64.0), 20.0)] {
            let mut run = Run::new(Line { skew, ..line });
            run.pass(10.0);
            for _ in 0..6 {
                let (share, echo) = run.pass(100.0);
                assert!(share >= 90.0 && echo <= most, "{share} %, {echo} ms, {:?}", run.line);
            }
        }
    }
}

#[test]
fn a_fast_line_of_one_millisecond_is_busy_and_its_queue_short() {
    for skew in [-250.0, 0.0, 250.0] {
        let mut run = Run::new(Line { skew, ..line(50_000.0, 1, 256.0) });
        run.pass(2.0);
        let (share, echo) = run.pass(60.0);
        assert!(share >= 90.0 && echo <= 10.0, "{share} %, {echo} ms, {:?}", run.line);
    }
}

#[test]
fn ten_minutes_of_keystrokes_with_clocks_that_differ_make_no_path_longer_or_shorter() {
    for skew in [-250.0, 250.0] {
        for line in [line(10_000.0, 15, 64.0), line(50_000.0, 1, 256.0)] {
            let mut run = Run::new(Line { skew, ..line });
            run.bulk = false;
            run.pass(600.0);
            run.bulk = true;
            run.pass(2.0);
            // The way there was last measured within a thousand round trips; a drain finds out by how much it is wrong.
            for least in [70.0, 90.0, 90.0] {
                let (share, echo) = run.pass(10.0);
                assert!(share >= least && echo <= 40.0, "{share} %, {echo} ms, {:?}", run.line);
            }
        }
    }
}

/// One of the hosts was suspended: its clock stood still. Soon all is as before, and the path no longer.
fn assert_survives_jump(mut run: Run, jump: f64) {
    let line = run.line;
    run.suspend(jump);
    run.pass(1.0);
    for _ in 0..4 {
        let (share, echo) = run.pass(10.0);
        let most = line.round_trip.as_secs_f64() * 1250.0 + 30.0;
        let competes = matches!(run.pacing.state, State::Compete { .. });
        assert!(share >= 90.0 && echo <= most && !competes, "{share} %, {echo} ms, {jump} s, {line:?}");
        let trip = run.pacing.path.trip.unwrap_or_default() / line.round_trip.as_secs_f64();
        assert!((0.9..1.6).contains(&trip), "{trip} of the round trip, {jump} s, {line:?}");
    }
}

#[test]
fn a_clock_that_jumps_since_a_host_was_suspended_makes_no_path_longer_or_shorter() {
    for line in [line(10_000.0, 40, 256.0), line(1000.0, 50, 64.0), line(50_000.0, 5, 256.0)] {
        for jump in [0.3, 3.0, 3000.0, 40_000.0, -0.3, -3.0, -3000.0] {
            let mut run = Run::new(line);
            run.pass(15.0);
            assert_survives_jump(run, jump);
        }
    }
}

#[test]
fn a_clock_that_jumps_beside_cross_traffic_ends_no_competition() {
    for jump in [-3.0, 3.0] {
        let mut run = Run::new(line(10_000.0, 40, 256.0));
        run.pass(15.0);
        run.begin_download();
        run.pass(20.0);
        run.suspend(jump);
        run.pass(10.0);
        let (share, _) = run.pass(40.0);
        assert!(share >= 30.0, "{share} %, {jump} s");
    }
}

#[test]
fn a_long_round_trip_is_no_reason_to_compete_for_hours() {
    let now = Instant::now();
    for (round_trip, lasts) in [(0.05, 10.0), (4.0, 20.0), (12.0, 60.0), (4e6, 60.0)] {
        let mut pacing = Pacing::new(now);
        pacing.compete(7.0, round_trip, Agreement { trip: round_trip, count: 0 });
        assert!(matches!(pacing.state, State::Compete { until, .. } if until == 7.0 + lasts), "{pacing:?}");
    }
}

#[test]
fn what_comes_at_once_behind_a_hole_is_no_fast_path() {
    let mut run = Run::new(line(10_000.0, 40, 256.0));
    run.pass(10.0);
    for _ in 0..5 {
        run.hole = run.now + Duration::from_millis(300);
        run.pass(2.0);
        let rate = run.pacing.path.rate() / run.line.rate;
        assert!(rate <= 1.1, "{rate} times the line");
    }
}

#[test]
fn after_a_pause_the_window_is_small_again() {
    let mut run = Run::new(line(10_000.0, 40, 256.0));
    run.pass(5.0);
    assert!(run.pacing.window > 2 * FIRST);
    run.bulk = false;
    run.pass(11.0);
    assert_eq!((run.pacing.window, run.pacing.path.rate() < 100.0 * KIB), (FIRST, true));
    run.bulk = true;
    run.pass(2.0);
    let (share, _) = run.pass(2.0);
    assert!(share >= 90.0, "{share} %");
}

#[test]
fn nine_of_ten_lines_of_any_kind_are_used_well() {
    let mut random = 88_172_645_463_325_252_u64;
    let mut chance = || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random >> 11) as f64 / (1u64 << 53) as f64
    };
    let mut shares: Vec<(f64, Line)> = Vec::new();
    for _ in 0..40 {
        let (rate, round_trip) = (8e3 * 2500f64.powf(chance()), 0.002 * 250f64.powf(chance()));
        let queue = (rate * round_trip * (0.5 + 7.5 * chance())).max(12e3 + 60e3 * chance());
        let jitter = if chance() < 0.3 { 0.3 * chance() * round_trip } else { 0.0 };
        let [round_trip, jitter] = [round_trip, jitter].map(Duration::from_secs_f64);
        let line = Line { rate, round_trip, queue, jitter, skew: 50.0 };
        let mut run = Run::new(line);
        run.pass(15.0);
        shares.push((run.pass(15.0).0, line));
    }
    shares.sort_by(|one, other| one.0.total_cmp(&other.0));
    assert!(shares[4].0 >= 70.0, "{:?}", &shares[..5]);
}

#[test]
fn an_acknowledgement_that_was_not_asked_for_is_recognised() {
    let now = Instant::now();
    let mut pacing = Pacing::new(now);
    assert!(!pacing.handle_ack(now, 0, 0));
    assert!(pacing.handle_cut(now, 3000, 3000, true, true), "with nothing outstanding there is an ask");
    assert!(!pacing.handle_ack(now, 3100, 7), "it has not left");
    pacing.handle_left(now, 3000, 3100);
    assert!(!pacing.handle_ack(now, 3099, 7) && !pacing.handle_ack(now, 3101, 7), "that is no end of an ask");
    assert!(pacing.handle_cut(now, 3000, 6000, true, true));
    pacing.handle_left(now, 6000, 6100);
    assert!(pacing.handle_ack(now, 6100, 7), "the newest stands for those before it");
    assert!(!pacing.handle_ack(now, 3100, 7), "backwards");
}

#[test]
fn a_peer_that_was_held_up_at_first_is_no_long_path() {
    for (line, hole) in [(line(10_000.0, 40, 256.0), 5), (line(10_000.0, 40, 256.0), 30), (line(1000.0, 40, 64.0), 30)]
    {
        let mut run = Run::new(line);
        run.hole = run.now + Duration::from_secs(hole);
        run.pass(hole as f64 + 5.0);
        let (share, echo) = run.pass(5.0);
        assert!(share >= 90.0 && echo <= 100.0, "{share} %, {echo} ms, after {hole} s, {line:?}");
    }
}

#[test]
fn two_tunnels_on_one_line_share_it_and_its_queue_is_short_though_their_loops_are_late() {
    for (line, late, most) in [(line(2000.0, 20, 128.0), 20, 250.0), (line(1000.0, 50, 256.0), 100, 400.0)] {
        for alone in [2.3, 11.5] {
            let mut run = Run::new(line);
            run.late = Duration::from_millis(late);
            run.pass(alone);
            let mut other = run.second();
            run.pass_both(&mut other, 10.0);
            for _ in 0..3 {
                let seen = run.pass_both(&mut other, 20.0);
                let are_good = seen.iter().all(|&(share, echo)| share >= 30.0 && echo <= most);
                assert!(are_good, "{seen:?} after {alone} s alone, {line:?}");
            }
        }
    }
}

#[test]
fn a_rate_that_falls_to_a_tenth_is_followed_whenever_that_is() {
    // Among these are moments just before a drain.
    for alone in 8..16 {
        let mut run = Run::new(line(10_000.0, 50, 256.0));
        run.tcp = Some(Tcp::new());
        run.pass(f64::from(alone) * 0.9 + 0.4);
        run.line.rate /= 10.0;
        run.pass(6.0);
        let (share, echo) = run.pass(3.0);
        assert!(share >= 80.0 && echo <= 150.0, "{share} %, {echo} ms after {alone}");
    }
}

#[test]
fn a_path_that_becomes_longer_is_not_taken_for_cross_traffic() {
    for line in [line(1000.0, 50, 256.0), line(10_000.0, 40, 256.0), line(2000.0, 20, 64.0)] {
        let mut run = Run::new(line);
        run.tcp = Some(Tcp::new());
        run.pass(12.0);
        run.line.round_trip = Duration::from_millis(300);
        run.pass(15.0);
        for _ in 0..4 {
            let (share, echo) = run.pass(5.0);
            assert!(share >= 70.0 && echo <= 400.0, "{share} %, {echo} ms, {line:?}");
        }
    }
}
