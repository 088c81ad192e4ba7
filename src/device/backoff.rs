//! When to try again, so that a thousand devices that lost their relay do not come back in one second.

use std::time::{Duration, Instant};

/// The longest first wait; it doubles with each failure up to [`MAX`].
const MIN: Duration = Duration::from_secs(1);
const MAX: Duration = Duration::from_secs(60);
/// The longest that a relay may ask for: whatever it is up to, the device looks after it again.
const MAX_TOLD: Duration = Duration::from_secs(300);
/// A link that lasted for so long was a good one: the waits start anew.
const STABLE: Duration = Duration::from_secs(60);

/// Waits with full jitter: each is drawn between nothing and a bound that grows.
#[derive(Debug)]
pub(super) struct Backoff {
    bound: Duration,
    random: fastrand::Rng,
}

impl Backoff {
    pub(super) fn new() -> Self {
        Self::with_random(fastrand::Rng::new())
    }

    fn with_random(random: fastrand::Rng) -> Self {
        Self { bound: MIN, random }
    }

    /// How long to wait now that an attempt failed, or a link that was up since `up_since` is lost.
    pub(super) fn next_wait(&mut self, now: Instant, up_since: Option<Instant>) -> Duration {
        if up_since.is_some_and(|since| now.saturating_duration_since(since) >= STABLE) {
            self.bound = MIN;
        }
        let wait = self.draw(self.bound);
        self.bound = (self.bound * 2).min(MAX);
        wait
    }

    /// How long to wait where the relay has asked for `seconds`: those, up to five minutes, and what is waited without it.
    pub(super) fn wait_as_told(&mut self, now: Instant, up_since: Instant, seconds: u16) -> Duration {
        Duration::from_secs(seconds.into()).min(MAX_TOLD) + self.next_wait(now, Some(up_since))
    }

    /// How long to wait after another device took this one's place: so long that the two do not fight.
    pub(super) fn wait_replaced(&mut self) -> Duration {
        self.bound = MAX;
        MAX + self.draw(MAX / 2)
    }

    fn draw(&mut self, bound: Duration) -> Duration {
        bound.mul_f64(self.random.f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_drawn_below_a_bound_that_doubles_from_1_s_to_60_s() {
        let now = Instant::now();
        let mut longest = [Duration::ZERO; 10];
        for seed in 0..500 {
            let mut backoff = Backoff::with_random(fastrand::Rng::with_seed(seed));
            for longest in &mut longest {
                *longest = backoff.next_wait(now, None).max(*longest);
            }
        }
        for (longest, bound) in longest.iter().zip([1, 2, 4, 8, 16, 32, 60, 60, 60, 60]) {
            let bound = Duration::from_secs(bound);
            assert!(*longest <= bound && *longest > bound.mul_f64(0.95), "{longest:?} of {bound:?}");
        }
    }

    #[test]
    fn a_stable_minute_starts_the_waits_anew_and_a_shorter_one_does_not() {
        let start = Instant::now();
        let mut backoff = Backoff::with_random(fastrand::Rng::with_seed(1));
        for _ in 0..8 {
            backoff.next_wait(start, None);
        }
        backoff.next_wait(start + Duration::from_secs(59), Some(start));
        assert_eq!(backoff.bound, MAX);
        assert!(backoff.next_wait(start + Duration::from_secs(60), Some(start)) <= MIN);
        assert_eq!(backoff.bound, MIN * 2);
    }

    #[test]
    fn what_the_relay_asks_for_is_obeyed_and_a_replaced_device_stays_away_for_a_minute() {
        for seed in 0..100 {
            let mut backoff = Backoff::with_random(fastrand::Rng::with_seed(seed));
            let now = Instant::now();
            let told = backoff.wait_as_told(now, now, 7);
            assert!(told >= Duration::from_secs(7) && told <= Duration::from_secs(8), "{told:?}");
            let told = Backoff::new().wait_as_told(now, now, u16::MAX);
            assert!(told >= MAX_TOLD && told <= MAX_TOLD + MIN, "18 hours are no restart: {told:?}");
            assert!(backoff.wait_replaced() >= MAX);
        }
    }

    #[test]
    fn links_that_the_relay_ends_at_once_are_made_ever_more_slowly_and_after_a_stable_one_the_waits_start_anew() {
        let start = Instant::now();
        let mut backoff = Backoff::with_random(fastrand::Rng::with_seed(1));
        for _ in 0..8 {
            backoff.wait_as_told(start, start, 0);
        }
        assert_eq!(backoff.bound, MAX);
        assert!(backoff.wait_as_told(start + STABLE, start, 0) <= MIN);
        assert_eq!(backoff.bound, MIN * 2, "the relay may take a moment until it is there again");
    }
}
