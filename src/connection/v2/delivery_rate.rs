//! How fast bytes come over a link, for all its streams together: what their windows are made by.
//!
//! One measure for all of them, so that streams which want the same get the same. Each by itself would find its own
//! window confirmed: who has the larger one moves more, and so seems to need it.

use std::time::{Duration, Instant};

use super::round_trip::LEAST_ROUND_TRIP;

/// A window holds what moves in so many round trips. Credit comes when a quarter of it is consumed, so with less than
/// four thirds the peer would wait for it; with more, bytes wait on their way, and a keystroke behind them.
const GAIN: u64 = 2;
/// The same while the rate still grows, by a quarter in three round trips: then it is the windows that hold it back, and
/// the sooner they do not the better.
const START_GAIN: u64 = 4;
const START_ROUNDS: u32 = 3;
/// A shorter time shows how the loops take turns, and not how fast the link is.
const LEAST_SAMPLE: Duration = Duration::from_millis(1);
/// The best rate is forgotten after one to two of these.
const EPOCH: Duration = Duration::from_secs(10);

/// The best rate of late: a link is as fast as it was when it was used best.
#[derive(Debug)]
pub(super) struct DeliveryRate {
    /// The last byte before the sample, its first one, and the last one so far.
    sample_since: Instant,
    sample_began: Instant,
    noted_at: Instant,
    /// In the sample.
    bytes: u64,
    epoch_began: Instant,
    /// Bytes a second, in this epoch and in the one before.
    best: [u64; 2],
    /// The rate that was a quarter more than the one here before, and when it was.
    grown: (u64, Instant),
}

impl DeliveryRate {
    pub(super) fn new(now: Instant) -> Self {
        let (best, grown) = ([0; 2], (0, now));
        let (sample_since, sample_began, noted_at, epoch_began) = (now, now, now, now);
        Self { sample_since, sample_began, noted_at, bytes: 0, epoch_began, best, grown }
    }

    /// Takes note of bytes that came; nothing can be said before the round trip is known. A sample lasts one:
    /// in less, a window that is used up at once and then waited for looks like a fast link. The pause before it counts,
    /// since what was held up in it comes at once behind it.
    pub(super) fn note(&mut self, now: Instant, bytes: usize, round_trip: Option<Duration>) {
        let noted_at = std::mem::replace(&mut self.noted_at, now);
        let Some(round_trip) = round_trip else { return };
        let period = round_trip.max(LEAST_SAMPLE);
        if now.saturating_duration_since(self.sample_began) >= period {
            (self.sample_since, self.sample_began) = (noted_at, now);
            self.bytes = 0;
        }
        let age = now.saturating_duration_since(self.epoch_began);
        if age >= EPOCH {
            self.epoch_began = now;
            self.best = [0, if age < 2 * EPOCH { self.best[0] } else { 0 }];
            self.grown.0 = self.grown.0.min(self.rate());
        }
        self.bytes += bytes as u64;
        // Said before the sample is over, so that a window can grow within the round trip that shows it too small.
        let time = now.saturating_duration_since(self.sample_since).max(period);
        let rate = u128::from(self.bytes) * 1_000_000_000 / time.as_nanos();
        self.best[0] = self.best[0].max(rate.try_into().unwrap_or(u64::MAX));
        if self.rate() > self.grown.0.saturating_add(self.grown.0 / 4) {
            self.grown = (self.rate(), now);
        }
    }

    /// Bytes that a stream needs to have the link to itself.
    pub(super) fn window(&self, now: Instant, round_trip: Duration) -> u64 {
        let grows = now.saturating_duration_since(self.grown.1) < round_trip * START_ROUNDS;
        let gain = if grows { START_GAIN } else { GAIN };
        let in_flight = u128::from(self.rate()) * round_trip.max(LEAST_ROUND_TRIP).as_nanos() / 1_000_000_000;
        u64::try_from(in_flight).unwrap_or(u64::MAX).saturating_mul(gain)
    }

    fn rate(&self) -> u64 {
        self.best[0].max(self.best[1])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: u64 = 1024;
    const RTT: Duration = Duration::from_millis(50);

    /// `bytes` a second for so long, in steps of a millisecond.
    fn pump(rate: &mut DeliveryRate, now: &mut Instant, bytes: u64, seconds: u64) {
        for _ in 0..seconds * 1000 {
            *now += Duration::from_millis(1);
            rate.note(*now, (bytes / 1000) as usize, Some(RTT));
        }
    }

    #[test]
    fn a_window_is_two_round_trips_of_the_best_rate_and_falls_when_that_is_long_ago() {
        let mut now = Instant::now();
        let mut rate = DeliveryRate::new(now);
        pump(&mut rate, &mut now, 1000 * KIB, 5);
        assert_eq!(rate.window(now, RTT) / KIB, 100);
        pump(&mut rate, &mut now, 10 * KIB, 10);
        assert_eq!(rate.window(now, RTT) / KIB, 100);
        pump(&mut rate, &mut now, 10 * KIB, 11);
        assert!(rate.window(now, RTT) < 2 * KIB);
    }

    #[test]
    fn a_window_that_is_used_up_in_each_round_trip_is_found_too_small() {
        let mut now = Instant::now();
        let mut rate = DeliveryRate::new(now);
        let (mut window, mut sizes) = (32 * KIB, Vec::new());
        for _ in 0..6 {
            now += RTT;
            rate.note(now, window as usize, Some(RTT));
            window = rate.window(now, RTT);
            sizes.push(window / KIB);
        }
        assert_eq!(sizes, [128, 512, 2048, 8192, 32_768, 131_072]);
    }

    #[test]
    fn nothing_is_said_before_the_round_trip_is_known() {
        let mut now = Instant::now();
        let mut rate = DeliveryRate::new(now);
        now += Duration::from_secs(1);
        rate.note(now, 1024 * 1024, None);
        assert_eq!(rate.window(now, RTT), 0);
    }

    #[test]
    fn what_comes_at_once_after_a_pause_is_no_fast_link() {
        let mut now = Instant::now();
        let mut rate = DeliveryRate::new(now);
        for _ in 0..15 {
            pump(&mut rate, &mut now, 1000 * KIB, 2);
            now += Duration::from_millis(300);
            for _ in 0..30 {
                now += Duration::from_micros(10);
                rate.note(now, 10 * 1024, Some(RTT));
            }
        }
        assert!(rate.window(now, RTT) <= 120 * KIB, "{} KiB", rate.window(now, RTT) / KIB);
    }

    #[test]
    fn a_rate_of_an_hour_ago_is_forgotten_at_once() {
        let mut now = Instant::now();
        let mut rate = DeliveryRate::new(now);
        pump(&mut rate, &mut now, 10_000 * KIB, 5);
        now += Duration::from_secs(3600);
        pump(&mut rate, &mut now, 10 * KIB, 1);
        assert!(rate.window(now, RTT) <= 4 * KIB, "{} KiB", rate.window(now, RTT) / KIB);
    }
}
