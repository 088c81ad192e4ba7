//! How much a peer may send on a stream before we have consumed it.

use std::time::{Duration, Instant};

/// The largest window of a stream.
const MAX_WINDOW: u64 = 4 * 1024 * 1024;
/// A round trip shorter than this is as good as this: the turns of two loops take their time, too.
const LEAST_ROUND_TRIP: Duration = Duration::from_micros(100);
/// A stream that did not need half of its window for so long starts again with a small one.
const IDLE: Duration = Duration::from_secs(10);

/// What a link may hold for all its streams: credit that was given and not yet consumed.
#[derive(Debug)]
pub(super) struct Budget {
    /// The window that every stream has from its start; the budget holds one for each stream that may be open.
    initial: u64,
    /// What is left of the rest, for windows to grow.
    spare: u64,
}

impl Budget {
    /// `total` bytes, of which every one of `streams` streams has its `initial` window for certain.
    pub(super) fn new(total: u64, streams: u32, initial: u64) -> Self {
        Self { initial, spare: total.saturating_sub(u64::from(streams) * initial) }
    }

    /// No stream takes more than half of what is left, so that there is always something for the next.
    fn take(&mut self, bytes: u64) -> bool {
        let granted = bytes <= self.spare / 2;
        if granted {
            self.spare -= bytes;
        }
        granted
    }
}

/// The receiving side of one stream's flow control. Offsets are bytes since the stream's start.
#[derive(Debug)]
pub(super) struct Window {
    /// The credit that was given.
    limit: u64,
    received: u64,
    consumed: u64,
    /// How far `limit` is to be ahead of `consumed`.
    size: u64,
    /// What was taken from the budget beyond the initial window.
    borrowed: u64,
    /// When half of the window was consumed for the last time.
    measured_at: Instant,
}

impl Window {
    pub(super) fn new(now: Instant, budget: &Budget) -> Self {
        let size = budget.initial;
        Self { limit: size, received: 0, consumed: 0, size, borrowed: 0, measured_at: now }
    }

    /// Takes note of bytes that came; false if there was no credit for them.
    #[must_use]
    pub(super) fn receive(&mut self, now: Instant, bytes: usize, budget: &mut Budget) -> bool {
        let received = self.received + bytes as u64;
        if received > self.limit {
            return false;
        }
        self.received = received;
        if self.size > budget.initial && now.saturating_duration_since(self.measured_at) > IDLE {
            self.size = budget.initial;
            self.settle(budget);
        }
        true
    }

    /// Takes note of bytes that were handed on: whether the peer is to be told a new [`limit`](Self::limit).
    #[must_use]
    pub(super) fn consume(&mut self, now: Instant, bytes: usize, round_trip: Duration, budget: &mut Budget) -> bool {
        self.consumed += bytes as u64;
        debug_assert!(self.consumed <= self.received);
        self.settle(budget);
        let ahead = self.limit - self.consumed;
        if ahead > self.size / 2 {
            return false;
        }
        let quick = now.saturating_duration_since(self.measured_at) < 2 * round_trip.max(LEAST_ROUND_TRIP);
        if quick && self.size < MAX_WINDOW && budget.take(self.size) {
            self.borrowed += self.size;
            self.size *= 2;
        }
        self.measured_at = now;
        self.limit = self.consumed + self.size;
        true
    }

    /// The credit that was given, to be told in CREDIT.
    pub(super) fn limit(&self) -> u64 {
        self.limit
    }

    /// Credit that the peer has not used.
    pub(super) fn unused(&self) -> u64 {
        self.limit - self.received
    }

    /// Whether it ever grew.
    pub(super) fn has_grown(&self) -> bool {
        self.borrowed > 0
    }

    /// The stream is over.
    pub(super) fn give_back(&mut self, budget: &mut Budget) {
        budget.spare += std::mem::take(&mut self.borrowed);
    }

    /// Gives back what neither the window nor credit that was given once needs any more.
    fn settle(&mut self, budget: &mut Budget) {
        let needed = self.size.max(self.limit - self.consumed).saturating_sub(budget.initial);
        if needed < self.borrowed {
            budget.spare += self.borrowed - needed;
            self.borrowed = needed;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KIB: u64 = 1024;
    const RTT: Duration = Duration::from_millis(50);

    fn budget() -> Budget {
        Budget::new(16 * KIB * KIB, 256, 32 * KIB)
    }

    /// A peer that always uses all its credit, and a socket that takes everything at once.
    fn pump(window: &mut Window, budget: &mut Budget, now: Instant) {
        let unused = window.unused() as usize;
        assert!(window.receive(now, unused, budget));
        let _ = window.consume(now, unused, RTT, budget);
    }

    #[test]
    fn a_window_that_is_used_up_within_two_round_trips_doubles_as_far_as_the_budget_goes() {
        let (mut budget, mut now) = (budget(), Instant::now());
        let mut window = Window::new(now, &budget);
        let mut sizes = vec![window.size / KIB];
        for _ in 0..9 {
            now += RTT;
            pump(&mut window, &mut budget, now);
            sizes.push(window.size / KIB);
        }
        assert_eq!(sizes, [32, 64, 128, 256, 512, 1024, 2048, 4096, 4096, 4096]);
        let mut second = Window::new(now, &budget);
        for _ in 0..9 {
            now += RTT;
            pump(&mut second, &mut budget, now);
        }
        assert_eq!(second.size / KIB, 2048, "half of the 4 MiB that are left, and no more");
    }

    #[test]
    fn a_window_of_a_slow_reader_stays() {
        let (mut budget, mut now) = (budget(), Instant::now());
        let mut window = Window::new(now, &budget);
        for _ in 0..20 {
            now += 3 * RTT;
            pump(&mut window, &mut budget, now);
        }
        assert_eq!((window.size, window.has_grown()), (32 * KIB, false));
    }

    #[test]
    fn credit_is_told_when_half_of_the_window_is_consumed() {
        let (mut budget, now) = (budget(), Instant::now());
        let mut window = Window::new(now, &budget);
        assert!(window.receive(now, 20 * 1024, &mut budget));
        let slow = now + Duration::from_secs(1);
        assert!(!window.consume(slow, 16 * 1024 - 1, RTT, &mut budget));
        assert!(window.consume(slow, 1, RTT, &mut budget));
        assert_eq!(window.limit(), 48 * KIB);
    }

    #[test]
    fn a_byte_beyond_the_credit_is_refused() {
        let (mut budget, now) = (budget(), Instant::now());
        let mut window = Window::new(now, &budget);
        assert!(window.receive(now, 32 * 1024, &mut budget));
        assert!(!window.receive(now, 1, &mut budget));
    }

    #[test]
    fn a_window_that_shrinks_stays_charged_until_its_credit_is_used() {
        let (mut budget, mut now) = (budget(), Instant::now());
        let mut window = Window::new(now, &budget);
        for _ in 0..4 {
            now += RTT;
            pump(&mut window, &mut budget, now);
        }
        let (size, spare) = (window.size, budget.spare);
        assert_eq!(size, 512 * KIB);
        now += IDLE * 2;
        assert!(window.receive(now, 1, &mut budget));
        assert_eq!((window.size, budget.spare), (32 * KIB, spare), "the peer may still send 512 KiB");
        now += Duration::from_secs(1);
        let unused = window.unused() as usize;
        assert!(window.receive(now, unused, &mut budget));
        let _ = window.consume(now, unused + 1, RTT, &mut budget);
        assert_eq!((window.borrowed, budget.spare), (0, spare + 480 * KIB));
    }

    proptest! {
        #[test]
        fn credit_that_is_out_never_exceeds_the_budget(
            steps in prop::collection::vec((0usize..8, 0usize..3, 0u64..30_000, any::<prop::sample::Index>()), 0..400)
        ) {
            let total = 2 * 1024 * KIB;
            let mut budget = Budget::new(total, 8, 32 * KIB);
            let mut now = Instant::now();
            let mut windows: Vec<Window> = (0..8).map(|_| Window::new(now, &budget)).collect();
            for (place, step, millis, part) in steps {
                let window = &mut windows[place];
                match step {
                    0 => now += Duration::from_millis(millis),
                    1 => {
                        let bytes = part.index(window.unused() as usize + 1);
                        prop_assert!(window.receive(now, bytes, &mut budget));
                    }
                    _ => {
                        let bytes = part.index((window.received - window.consumed) as usize + 1);
                        let before = window.limit();
                        let told = window.consume(now, bytes, RTT, &mut budget);
                        prop_assert!(window.limit() >= before && (told || window.limit() == before));
                    }
                }
                let out: u64 = windows.iter().map(|window| window.limit - window.consumed).sum();
                prop_assert!(out <= total, "{out} bytes of credit are out");
                let borrowed: u64 = windows.iter().map(|window| window.borrowed).sum();
                prop_assert_eq!(borrowed + budget.spare, total - 8 * 32 * KIB);
            }
            for window in &mut windows {
                window.give_back(&mut budget);
            }
            prop_assert_eq!(budget.spare, total - 8 * 32 * KIB);
        }
    }
}
