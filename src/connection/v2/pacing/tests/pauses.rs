//! Pauses, long and short, and what is known of the path after them.

use super::*;

impl Run {
    /// There is no bulk for so many seconds: keys are typed, or nothing is sent at all.
    fn rest(&mut self, seconds: f64, types: bool) {
        self.bulk = false;
        self.pass(if types { seconds } else { 2.0 });
        if !types {
            self.now += Duration::from_secs_f64(seconds);
        }
        self.bulk = true;
    }
}

#[test]
fn a_path_that_has_become_longer_in_a_pause_is_not_taken_for_cross_traffic() {
    // A line of half the rate brings less than the path moved alone: after so long all of that is forgotten.
    for (pause, types, factor) in [(15.0, false, 1.0), (15.0, true, 1.0), (3600.0, false, 0.5), (350.0, true, 0.5)] {
        for (line, round_trip) in [(line(1000.0, 50, 256.0), 200), (line(10_000.0, 20, 256.0), 100)] {
            let mut run = Run::new(line);
            run.tcp = Some(Tcp::new());
            run.pass(15.0);
            run.line.round_trip = Duration::from_millis(round_trip);
            run.line.rate *= factor;
            run.rest(pause, types);
            run.pass(4.0);
            for _ in 0..5 {
                let (share, echo) = run.pass(3.0);
                let most = round_trip as f64 + 60.0;
                let figures = format!("{share} %, {echo} ms, {pause} s, {types}, {:?}", run.line);
                assert!(share >= 70.0 && echo <= most, "{figures}");
            }
        }
    }
}

#[test]
fn short_pauses_beside_cross_traffic_do_not_begin_everything_anew() {
    let mut run = Run::new(line(10_000.0, 40, 256.0));
    run.pass(15.0);
    run.begin_download();
    run.pass(10.0);
    let mut shares = Vec::new();
    for _ in 0..8 {
        run.rest(0.3, true);
        shares.push(run.pass(3.0).0);
    }
    assert!(shares[2..].iter().all(|&share| share >= 20.0), "{shares:?}");
}

#[test]
fn a_clock_that_jumps_while_the_path_is_drained_makes_it_no_longer_or_shorter() {
    for line in [line(10_000.0, 40, 256.0), line(1000.0, 50, 64.0)] {
        for jump in [0.3, 40_000.0, -0.3, -3.0, -40_000.0] {
            let mut run = Run::new(line);
            while !matches!(run.pacing.state, State::Drain { .. }) {
                run.pass(0.001);
            }
            assert_survives_jump(run, jump);
        }
    }
}
