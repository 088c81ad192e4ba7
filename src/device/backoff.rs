//! When to try again, so that a thousand devices that lost their relay do not come back in one second.

use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

/// The longest first wait; it doubles with each failure up to [`MAX`].
const MIN: Duration = Duration::from_secs(1);
const MAX: Duration = Duration::from_secs(60);
/// The longest that a relay may ask for: whatever it is up to, the device looks after it again.
const MAX_ASKED: Duration = Duration::from_secs(300);
/// The longest wait of a device that the relay does not admit.
const MAX_BARRED: Duration = Duration::from_secs(15 * 60);
/// A link that lasted for so long once the relay had answered was a good one: the waits start anew. A relay that dies
/// of the devices that come back does so earlier; one that dies later is not sought more often than this by each.
const STABLE: Duration = Duration::from_secs(10);

/// How long a relay that said that it is about to end may take to come back, once its last client is gone.
const RESTART: Duration = Duration::from_secs(60);
/// The waits of that time are about as long as the relay asked for, but within these.
const RESTART_PACE: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(2);

/// Waits with full jitter: each is drawn between nothing and a bound that grows. While a relay is being restarted they
/// do not grow.
#[derive(Debug)]
pub(super) struct Backoff {
    bound: Duration,
    restart: Option<Restart>,
    /// The relay did not admit the device, the last time that it said anything.
    is_barred: bool,
    random: fastrand::Rng,
}

/// A relay is expected back.
#[derive(Debug)]
struct Restart {
    pace: Duration,
    until: Instant,
}

impl Backoff {
    pub(super) fn new() -> Self {
        Self::with_random(fastrand::Rng::new())
    }

    fn with_random(random: fastrand::Rng) -> Self {
        Self { bound: MIN, restart: None, is_barred: false, random }
    }

    /// How long to wait now that an attempt failed, or a link is lost on which the relay answered at `answered_at`.
    pub(super) fn next_wait(&mut self, now: Instant, answered_at: Option<Instant>) -> Duration {
        if answered_at.is_some_and(|since| now.saturating_duration_since(since) >= STABLE) {
            (self.bound, self.is_barred) = (MIN, false);
        }
        if let Some(restart) = self.restart.as_ref().filter(|restart| now < restart.until) {
            return restart.pace.mul_f64(0.5 + self.random.f64());
        }
        let wait = self.draw(self.bound);
        self.bound = (self.bound * 2).min(MAX);
        wait
    }

    /// How long to wait where the relay has asked for `seconds`: those, up to five minutes, and what is waited without it.
    pub(super) fn wait_as_asked(&mut self, now: Instant, answered_at: Option<Instant>, seconds: u16) -> Duration {
        Duration::from_secs(seconds.into()).min(MAX_ASKED) + self.next_wait(now, answered_at)
    }

    /// How long to wait where the relay is about to end, is expected back, and has asked for `seconds`. The waits that
    /// follow are about as long, for a minute more.
    pub(super) fn wait_for_restart(&mut self, now: Instant, answered_at: Option<Instant>, seconds: u16) -> Duration {
        self.restart = None;
        let wait = self.wait_as_asked(now, answered_at, seconds);
        let pace = Duration::from_secs(seconds.into()).clamp(*RESTART_PACE.start(), *RESTART_PACE.end());
        self.restart = Some(Restart { pace, until: now + wait + RESTART });
        wait
    }

    /// The relay that is about to end still has clients: the one that follows it may not be there for as long.
    pub(super) fn restart_goes_on(&mut self, now: Instant) {
        if let Some(restart) = &mut self.restart {
            restart.until = restart.until.max(now + RESTART);
        }
    }

    /// The owner knows better than the waits so far.
    pub(super) fn reset(&mut self) {
        (self.bound, self.is_barred) = (MIN, false);
    }

    /// A relay has answered.
    pub(super) fn restart_is_over(&mut self) {
        self.restart = None;
    }

    /// How long to wait after another device took this one's place: so long that the two do not fight.
    pub(super) fn wait_replaced(&mut self) -> Duration {
        self.bound = MAX;
        MAX + self.draw(MAX / 2)
    }

    /// How long to wait where the relay does not admit the device and has asked for `seconds`: those, a minute at least,
    /// the first time; then it is sought with full jitter up to a quarter of an hour, for ever.
    pub(super) fn wait_barred(&mut self, seconds: u16) -> Duration {
        let asked = Duration::from_secs(seconds.into()).clamp(MAX, MAX_BARRED);
        self.bound = MAX;
        let jitter = if std::mem::replace(&mut self.is_barred, true) { MAX_BARRED - asked } else { MIN };
        asked + self.draw(jitter)
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
    fn a_link_of_ten_seconds_starts_the_waits_anew_and_one_that_was_shorter_or_never_answered_does_not() {
        let start = Instant::now();
        let mut backoff = Backoff::with_random(fastrand::Rng::with_seed(1));
        for _ in 0..8 {
            backoff.next_wait(start, None);
        }
        backoff.next_wait(start + Duration::from_secs(9), Some(start));
        assert_eq!(backoff.bound, MAX);
        backoff.next_wait(start + Duration::from_secs(100), None);
        assert_eq!(backoff.bound, MAX);
        assert!(backoff.next_wait(start + Duration::from_secs(10), Some(start)) <= MIN);
        assert_eq!(backoff.bound, MIN * 2);
    }

    #[test]
    fn a_relay_that_is_killed_again_within_a_minute_is_found_again_as_soon_as_the_first_time() {
        let mut late = Duration::ZERO;
        for seed in 0..200 {
            let mut backoff = Backoff::with_random(fastrand::Rng::with_seed(seed));
            let mut now = Instant::now();
            // The first time it is away for long: the bound of the waits is at 32 s or more.
            for _ in 0..6 {
                now += backoff.next_wait(now, None);
            }
            // Then it is back for 15 s, and away for 2 s.
            let (answered_at, lost_at) = (now, now + Duration::from_secs(15));
            let there = lost_at + Duration::from_secs(2);
            now = lost_at + backoff.next_wait(lost_at, Some(answered_at));
            while now < there {
                now += backoff.next_wait(now, None);
            }
            late += now - there;
        }
        assert!(late / 200 <= Duration::from_secs(3), "{:?} late in the mean", late / 200);
    }

    #[test]
    fn what_the_relay_asks_for_is_obeyed_and_a_replaced_device_stays_away_for_a_minute() {
        for seed in 0..100 {
            let mut backoff = Backoff::with_random(fastrand::Rng::with_seed(seed));
            let now = Instant::now();
            let wait = backoff.wait_as_asked(now, Some(now), 7);
            assert!(wait >= Duration::from_secs(7) && wait <= Duration::from_secs(8), "{wait:?}");
            let wait = Backoff::new().wait_as_asked(now, Some(now), u16::MAX);
            assert!(wait >= MAX_ASKED && wait <= MAX_ASKED + MIN, "18 hours are no restart: {wait:?}");
            assert!(backoff.wait_replaced() >= MAX);
        }
    }

    #[test]
    fn a_device_that_is_not_admitted_waits_as_asked_and_then_up_to_a_quarter_of_an_hour_for_ever() {
        let mut longest = Duration::ZERO;
        for seed in 0..200 {
            let mut backoff = Backoff::with_random(fastrand::Rng::with_seed(seed));
            let first = backoff.wait_barred(0);
            assert!(first >= MAX && first <= MAX + MIN, "{first:?}");
            for _ in 0..5 {
                let next = backoff.wait_barred(90);
                assert!(next >= Duration::from_secs(90) && next <= MAX_BARRED, "{next:?}");
                longest = longest.max(next);
            }
            assert!(backoff.wait_barred(u16::MAX) <= MAX_BARRED, "18 hours are too long");
            backoff.reset();
            assert!(backoff.wait_barred(0) <= MAX + MIN, "the owner has asked");
        }
        assert!(longest > MAX_BARRED.mul_f64(0.95), "{longest:?}");
    }

    /// How long after the next relay is there the device is back, if its attempts before are refused at once. The relay
    /// that ended let its clients go on for `drain`.
    fn back_after(seed: u64, drain: f64, there: f64) -> Duration {
        let start = Instant::now();
        let after = |seconds: f64| start + Duration::from_secs_f64(seconds);
        let mut backoff = Backoff::with_random(fastrand::Rng::with_seed(seed));
        let mut now = start + backoff.wait_for_restart(start, Some(start - STABLE), 1);
        while now < after(there) {
            if now < after(drain) {
                backoff.restart_goes_on(now);
            }
            now += backoff.next_wait(now, None);
        }
        now - after(there)
    }

    #[test]
    fn a_device_is_back_within_3_s_of_a_relay_that_was_restarted_however_long_the_old_one_drained() {
        for seed in 0..200 {
            for (drain, there) in [(0.0, 0.1), (0.0, 5.0), (10.0, 10.5), (10.0, 60.0), (3600.0, 3000.0), (300.0, 355.0)]
            {
                let late = back_after(seed, drain, there);
                assert!(late <= Duration::from_secs(3), "{late:?} late, {there} s after the relay's end");
            }
        }
    }

    #[test]
    fn a_relay_that_is_not_back_after_the_drain_and_a_minute_is_looked_for_ever_more_slowly() {
        let longest = (0..200).map(|seed| back_after(seed, 10.0, 400.0)).max().expect("some");
        assert!(longest > Duration::from_secs(30) && longest <= MAX, "{longest:?}");
    }

    #[test]
    fn when_a_relay_has_answered_the_waits_grow_again() {
        let start = Instant::now();
        let mut backoff = Backoff::with_random(fastrand::Rng::with_seed(1));
        backoff.wait_for_restart(start, Some(start), 1);
        for _ in 0..8 {
            backoff.next_wait(start, None);
        }
        assert_eq!(backoff.bound, MIN * 2, "during the restart they do not");
        backoff.restart_is_over();
        backoff.next_wait(start, Some(start));
        assert_eq!(backoff.bound, MIN * 4);
    }

    #[test]
    fn a_relay_that_says_at_each_link_that_it_is_about_to_end_is_left_alone_more_and_more() {
        let start = Instant::now();
        let mut backoff = Backoff::with_random(fastrand::Rng::with_seed(1));
        for _ in 0..8 {
            backoff.wait_for_restart(start, Some(start), 0);
        }
        assert_eq!(backoff.bound, MAX);
    }

    #[test]
    fn links_that_the_relay_ends_at_once_are_made_ever_more_slowly_and_after_a_stable_one_the_waits_start_anew() {
        let start = Instant::now();
        let mut backoff = Backoff::with_random(fastrand::Rng::with_seed(1));
        for _ in 0..8 {
            backoff.wait_as_asked(start, Some(start), 0);
        }
        assert_eq!(backoff.bound, MAX);
        assert!(backoff.wait_as_asked(start + STABLE, Some(start), 0) <= MIN);
        assert_eq!(backoff.bound, MIN * 2, "the relay may take a moment until it is there again");
    }
}
