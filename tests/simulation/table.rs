//! What the flow control of version 2 is to reach, line by line, with both cores. Nothing is lost on these lines: what TCP
//! does about loss is not here.

use std::time::Duration;

use crate::busy::Load::{Download, SlowDownload, Upload};
use crate::busy::{Busy, DEVICE, Load, RELAY};
use crate::path::Line;
use crate::random::Random;

/// Millionths by which the two clocks differ.
const SKEW: f64 = 100.0;

/// Kbit a second, milliseconds there and back, KiB in the queue.
fn line(rate: f64, round_trip: u64, queue: f64) -> Line {
    let delay = Duration::from_millis(round_trip) / 2;
    Line { rate: rate * 125.0, delay, queue: queue * 1024.0, jitter: Duration::ZERO, is_shared: false }
}

fn busy(line: Line, loads: &[(Load, usize)]) -> Busy {
    Busy::new([line; 2], SKEW, loads)
}

impl Busy {
    fn change(&mut self, change: impl Fn(&mut Line)) {
        for path in &mut self.paths {
            change(&mut path.line);
        }
    }

    /// Percent of the line to the client that downloads have for so many seconds, and the echo in milliseconds.
    fn watch(&mut self, seconds: f64) -> (f64, f64) {
        let seen = self.pass(seconds);
        (100.0 * seen.down / self.paths[DEVICE].line.rate, seen.echo)
    }
}

#[test]
fn eight_downloads_on_a_slow_line_leave_a_keystroke_its_time_however_long_the_queue_could_be() {
    for queue in [16.0, 64.0, 256.0] {
        for line in [[line(1000.0, 50, queue); 2], [line(128.0, 50, queue), line(1000.0, 50, queue)]] {
            let mut busy = Busy::new(line, SKEW, &[(Download, 8)]);
            busy.pass(10.0);
            let (share, echo) = busy.watch(30.0);
            assert!(share >= 95.0 && echo <= 100.0, "{share} %, {echo} ms, {line:?}");
        }
    }
}

#[test]
fn clocks_that_differ_by_250_millionths_make_no_difference_to_a_slow_line() {
    for skew in [-250.0, 250.0] {
        let mut busy = Busy::new([line(1000.0, 50, 256.0); 2], skew, &[(Download, 8)]);
        busy.pass(10.0);
        let (share, echo) = busy.watch(300.0);
        assert!(share >= 95.0 && echo <= 100.0, "{share} %, {echo} ms");
    }
}

#[test]
fn both_ways_are_busy_at_once_and_a_keystroke_crosses_both_queues() {
    let mut busy = busy(line(10_000.0, 40, 256.0), &[(Download, 8), (Upload, 8)]);
    busy.pass(2.0);
    for _ in 0..10 {
        let seen = busy.pass(3.3);
        let [down, up] = [seen.down, seen.up].map(|rate| 100.0 * rate / 1.25e6);
        assert!(down >= 90.0 && up >= 90.0 && seen.echo <= 80.0, "{down} and {up} %, {} ms", seen.echo);
    }
}

#[test]
fn one_stream_fills_a_long_fast_line_within_three_seconds() {
    let mut busy = busy(line(100_000.0, 100, 1250.0), &[(Download, 1)]);
    busy.pass(2.0);
    let (share, _) = busy.watch(1.0);
    assert!(share >= 90.0, "{share} % in the third second");
    let (share, _) = busy.watch(10.0);
    assert!(share >= 95.0, "{share} %");
}

#[test]
fn a_round_trip_that_changes_costs_a_download_a_few_seconds() {
    let mut busy = busy(line(16_000.0, 20, 1024.0), &[(Download, 1)]);
    busy.pass(15.0);
    for round_trip in [400, 20, 40, 100, 20] {
        busy.change(|line| line.delay = Duration::from_millis(round_trip) / 2);
        busy.pass(10.0);
        let (share, _) = busy.watch(10.0);
        assert!(share >= 70.0, "{share} % at {round_trip} ms");
    }
    busy.pass(15.0);
    let (_, echo) = busy.watch(5.0);
    assert!(echo <= 70.0, "{echo} ms");
}

#[test]
fn a_rate_that_halves_and_comes_back_is_followed_and_a_keystroke_does_not_notice() {
    let mut busy = busy(line(10_000.0, 40, 256.0), &[(Download, 8)]);
    busy.pass(15.0);
    for factor in [0.5, 2.0] {
        busy.change(|line| line.rate *= factor);
        busy.pass(1.0);
        let (share, echo) = busy.watch(14.0);
        assert!(share >= 90.0 && echo <= 70.0, "{share} %, {echo} ms");
    }
}

#[test]
fn cross_traffic_leaves_us_a_share_and_25_s_after_it_the_queue_is_short() {
    let mut busy = busy(line(10_000.0, 40, 256.0), &[(Download, 8)]);
    busy.pass(20.0);
    busy.paths[DEVICE].line.is_shared = true;
    busy.pass(10.0);
    let (share, _) = busy.watch(50.0);
    assert!(share >= 30.0, "{share} %");
    busy.paths[DEVICE].line.is_shared = false;
    busy.pass(25.0);
    let (share, echo) = busy.watch(10.0);
    assert!(share >= 90.0 && echo <= 70.0, "{share} %, {echo} ms");
}

#[test]
fn a_host_that_was_suspended_leaves_the_queue_short_though_its_clock_stood_still() {
    for (end, seconds) in [(RELAY, 0.5), (DEVICE, 0.5), (RELAY, 20.0), (DEVICE, 20.0)] {
        let mut busy = busy(line(10_000.0, 40, 256.0), &[(Download, 4), (Upload, 4)]);
        busy.pass(15.0);
        busy.suspend(end, seconds);
        busy.pass(3.0);
        let seen = busy.pass(15.0);
        let [down, up] = [seen.down, seen.up].map(|rate| 100.0 * rate / 1.25e6);
        let lines = format!("{down} and {up} %, {} ms, {end} was suspended for {seconds} s", seen.echo);
        assert!(down >= 85.0 && up >= 85.0 && seen.echo <= 80.0, "{lines}");
    }
}

#[test]
fn a_slow_reader_leaves_the_line_to_the_others() {
    let mut busy = busy(line(10_000.0, 40, 256.0), &[(SlowDownload, 1), (Download, 7)]);
    busy.pass(10.0);
    let seen = busy.pass(20.0);
    let share = 100.0 * seen.down / 1.25e6;
    assert!(share >= 97.0 && (19e3..21e3).contains(&seen.slow), "{share} %, {} B/s", seen.slow);
}

#[test]
fn nine_of_ten_lines_of_any_kind_are_used_well() {
    let mut random = Random::new(7);
    let mut chance = || random.below(1_000_000) as f64 / 1e6;
    let mut shares = Vec::new();
    for _ in 0..30 {
        let (rate, round_trip) = (8e3 * 300f64.powf(chance()), 0.002 * 250f64.powf(chance()));
        let queue = (rate * round_trip * (0.5 + 7.5 * chance())).max(12e3 + 60e3 * chance());
        let jitter = Duration::from_secs_f64(if chance() < 0.3 { 0.3 * chance() * round_trip } else { 0.0 });
        let delay = Duration::from_secs_f64(round_trip / 2.0);
        let down = Line { rate, delay, queue, jitter, is_shared: false };
        let up = Line { rate: if chance() < 0.3 { rate / 5.0 } else { rate }, ..down };
        let uploads = if chance() < 0.5 { 0 } else { 1 + (8.0 * chance()) as usize };
        let mut busy = Busy::new([up, down], SKEW, &[(Download, 1 + (8.0 * chance()) as usize), (Upload, uploads)]);
        busy.pass(15.0);
        let seen = busy.pass(15.0);
        let up_share = if uploads == 0 { 1.0 } else { seen.up / up.rate };
        shares.push(((seen.down / rate).min(up_share), down, up.rate, uploads));
    }
    shares.sort_by(|one, other| one.0.total_cmp(&other.0));
    assert!(shares[3].0 >= 0.7, "{:?}", &shares[..5]);
}
