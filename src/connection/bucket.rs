//! How often something may happen.

use std::time::{Duration, Instant};

/// A token bucket: it fills at a steady rate, and everything that happens takes one token.
#[derive(Debug)]
pub(crate) struct Bucket {
    capacity: u32,
    /// Tokens a second.
    rate: u32,
    /// When the bucket was, or would have been, empty: what has passed since then are its tokens.
    empty_at: Instant,
}

impl Bucket {
    /// A full bucket.
    pub(crate) fn new(now: Instant, capacity: u32, rate: u32) -> Self {
        let mut bucket = Self { capacity, rate, empty_at: now };
        bucket.set_rate(now, capacity, rate);
        bucket
    }

    /// A full bucket of another size.
    pub(crate) fn set_rate(&mut self, now: Instant, capacity: u32, rate: u32) {
        (self.capacity, self.rate) = (capacity.max(1), rate.max(1));
        // The clock may not reach back so far; then the bucket starts with less.
        self.empty_at = now.checked_sub(self.time_of(self.capacity)).unwrap_or(now);
    }

    /// Takes a token, if there is one.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        let full = now.checked_sub(self.time_of(self.capacity)).unwrap_or(now);
        let taken = self.empty_at.max(full) + self.time_of(1);
        let there = taken <= now;
        if there {
            self.empty_at = taken;
        }
        there
    }

    /// Whether nothing was taken for as long as it needs to fill.
    #[cfg(feature = "relay")]
    pub(crate) fn is_full(&self, now: Instant) -> bool {
        now.checked_sub(self.time_of(self.capacity)).is_none_or(|full| self.empty_at <= full)
    }

    /// Takes a token, be it there or not; if not, until when nothing more should happen.
    pub(crate) fn spend(&mut self, now: Instant) -> Option<Instant> {
        let full = now.checked_sub(self.time_of(self.capacity)).unwrap_or(now);
        self.empty_at = self.empty_at.max(full) + self.time_of(1);
        (self.empty_at > now).then_some(self.empty_at)
    }

    /// When the next token is there.
    pub(crate) fn next_at(&self) -> Instant {
        self.empty_at + self.time_of(1)
    }

    fn time_of(&self, tokens: u32) -> Duration {
        Duration::from_nanos(u64::from(tokens) * 1_000_000_000 / u64::from(self.rate))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_and_then_the_rate() {
        let start = Instant::now() + Duration::from_secs(1000);
        let mut bucket = Bucket::new(start, 100, 10);
        assert_eq!((0..200).filter(|_| bucket.take(start)).count(), 100);
        assert_eq!(bucket.next_at(), start + Duration::from_millis(100));
        assert!(!bucket.take(start + Duration::from_millis(99)) && bucket.take(start + Duration::from_millis(100)));
        let later = start + Duration::from_secs(3600);
        assert_eq!((0..200).filter(|_| bucket.take(later)).count(), 100, "it holds no more than its capacity");
    }

    #[test]
    #[cfg(feature = "relay")]
    fn a_bucket_is_full_again_when_what_was_taken_has_come() {
        let start = Instant::now() + Duration::from_secs(1000);
        let mut bucket = Bucket::new(start, 100, 10);
        assert!(bucket.is_full(start));
        assert_eq!((0..100).filter(|_| bucket.take(start)).count(), 100);
        let later = |millis| start + Duration::from_millis(millis);
        assert!(!bucket.is_full(later(9999)) && bucket.is_full(later(10_000)));
    }

    #[test]
    fn what_is_spent_beyond_the_burst_is_waited_for() {
        let start = Instant::now() + Duration::from_secs(1000);
        let mut bucket = Bucket::new(start, 100, 10);
        assert_eq!((0..120).filter_map(|_| bucket.spend(start)).count(), 20);
        let until = start + Duration::from_secs(2);
        assert!(!bucket.take(until) && bucket.take(until + Duration::from_millis(100)));
    }
}
