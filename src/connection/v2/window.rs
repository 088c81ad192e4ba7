//! How much a peer may send on a stream before we have consumed it.

use std::time::{Duration, Instant};

use super::budget::Budget;

/// The largest window of a stream that is given what the link wants.
const MAX_WINDOW: u64 = 4 * 1024 * 1024;
/// The largest of one whose sender says what it needs.
const MAX_LIMITED: u64 = 8 * 1024 * 1024;
/// A window is at most so many times what the stream has brought so far.
const TRUST: u64 = 3;
/// A stream that did not need a quarter of its window for so long starts again with a small one.
const IDLE: Duration = Duration::from_secs(10);

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
    /// When a quarter of the window was consumed for the last time.
    measured_at: Instant,
    /// The sender has said that credit holds it back.
    limited: bool,
}

/// How a window is to grow.
#[derive(Clone, Copy, Debug)]
pub(super) enum Growth {
    /// To what a stream needs on this link.
    To(u64),
    /// Fourfold where credit holds the sender back, which bounds what is in flight by itself and doubles that in each
    /// round trip while it starts: it is not to be credit that it waits for.
    WhenLimited,
}

impl Window {
    pub(super) fn new(now: Instant, budget: &Budget) -> Self {
        let size = budget.initial;
        Self { limit: size, received: 0, consumed: 0, size, borrowed: 0, measured_at: now, limited: false }
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

    /// Takes note of bytes that were handed on.
    pub(super) fn consume(&mut self, bytes: usize, budget: &mut Budget) {
        self.consumed += bytes as u64;
        debug_assert!(self.consumed <= self.received);
        self.settle(budget);
    }

    /// The sender has no credit left.
    pub(super) fn note_limited(&mut self) {
        self.limited = true;
    }

    /// Whether the peer is to be sent a new [`limit`](Self::limit).
    #[must_use]
    pub(super) fn renew(&mut self, now: Instant, growth: Growth, budget: &mut Budget) -> bool {
        // A quarter of it is consumed, or half where nothing else waits for credit.
        let left = match growth {
            Growth::To(_) => self.size / 4 * 3,
            Growth::WhenLimited => self.size / 2,
        };
        if self.limit - self.consumed > left {
            return false;
        }
        self.measured_at = now;
        // Where bytes wait it is the socket that is slow: a larger window would only make more of them wait.
        let is_slow = self.consumed < self.received;
        match growth {
            // Others need what it has: less credit is given than is consumed.
            _ if budget.is_over_share() => self.resize(self.size / 2, budget),
            Growth::To(wanted) if is_slow => self.resize(wanted.min(self.size).min(MAX_WINDOW), budget),
            // A stream that has brought little may never bring more, and its credit is gone from the budget until it does.
            Growth::To(wanted) => self.resize(wanted.min(TRUST * self.consumed).min(MAX_WINDOW), budget),
            Growth::WhenLimited if self.limited && !is_slow => {
                self.limited = false;
                self.resize((4 * self.size).min(MAX_LIMITED), budget);
            }
            Growth::WhenLimited => {}
        }
        let before = self.limit;
        self.limit = before.max(self.consumed + self.size);
        self.limit > before
    }

    /// As near to `wanted` as the budget allows.
    fn resize(&mut self, wanted: u64, budget: &mut Budget) {
        let beyond = wanted.saturating_sub(budget.initial);
        self.borrowed += budget.take(beyond.saturating_sub(self.borrowed));
        self.size = budget.initial + beyond.min(self.borrowed);
    }

    /// The credit that was given, as CREDIT says it.
    pub(super) fn limit(&self) -> u64 {
        self.limit
    }

    /// Credit that the peer has not used.
    pub(super) fn unused(&self) -> u64 {
        self.limit - self.received
    }

    /// The stream is over.
    pub(super) fn give_back(&mut self, budget: &mut Budget) {
        budget.put(std::mem::take(&mut self.borrowed));
    }

    /// Gives back what neither the window nor credit that was given once needs any more.
    fn settle(&mut self, budget: &mut Budget) {
        let needed = self.size.max(self.limit - self.consumed).saturating_sub(budget.initial);
        if needed < self.borrowed {
            budget.put(self.borrowed - needed);
            self.borrowed = needed;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    #[cfg(feature = "relay")]
    use crate::connection::WindowPool;

    const KIB: u64 = 1024;

    fn budget() -> Budget {
        Budget::new(16 * KIB * KIB, 256, 32 * KIB)
    }

    /// A window of a stream that has brought much.
    fn trusted(now: Instant, budget: &Budget) -> Window {
        let past = 8 * 1024 * KIB;
        let window = Window::new(now, budget);
        Window { limit: window.limit + past, received: past, consumed: past, ..window }
    }

    /// Bytes are handed on, and credit is given where it is due.
    fn consume(window: &mut Window, now: Instant, bytes: usize, wanted: u64, budget: &mut Budget) -> bool {
        window.consume(bytes, budget);
        window.renew(now, Growth::To(wanted), budget)
    }

    /// A peer that uses all its credit, and a socket that takes everything at once, on a link that would like `wanted`.
    fn pump(window: &mut Window, budget: &mut Budget, now: Instant, wanted: u64) {
        let unused = window.unused() as usize;
        assert!(window.receive(now, unused, budget));
        let _ = consume(window, now, unused, wanted, budget);
    }

    #[test]
    fn a_window_is_what_the_link_wants_as_far_as_the_budget_goes() {
        let (mut budget, now) = (budget(), Instant::now());
        let mut windows: Vec<Window> = (0..4).map(|_| trusted(now, &budget)).collect();
        let mut sizes = Vec::new();
        for (window, wanted) in windows.iter_mut().zip([0, 1000 * KIB, u64::MAX, u64::MAX]) {
            pump(window, &mut budget, now, wanted);
            sizes.push(window.size / KIB);
        }
        let spare = (16 * 1024 - 256 * 32 - (1000 - 32) - (4096 - 32)) / 2;
        assert!(spare < 4096 - 32, "half of what is left, and no more");
        assert_eq!(sizes, [32, 1000, 4096 - 452, 32 + spare + 226]);
    }

    #[test]
    fn a_window_follows_the_link_down_as_its_credit_is_used() {
        let (mut budget, now) = (budget(), Instant::now());
        let mut window = trusted(now, &budget);
        pump(&mut window, &mut budget, now, 1024 * KIB);
        let limit = window.limit();
        assert!(window.receive(now, 512 * 1024, &mut budget));
        assert!(!consume(&mut window, now, 512 * 1024, 64 * KIB, &mut budget), "credit that was given stays");
        assert_eq!((window.limit(), window.size), (limit, 64 * KIB));
        pump(&mut window, &mut budget, now, 64 * KIB);
        assert_eq!((window.limit(), window.borrowed), (limit + 64 * KIB, 32 * KIB));
    }

    #[test]
    fn a_stream_that_has_brought_little_gets_a_small_window() {
        let (mut budget, now) = (budget(), Instant::now());
        let mut window = Window::new(now, &budget);
        assert!(window.receive(now, 9 * 1024, &mut budget));
        assert!(consume(&mut window, now, 9 * 1024, u64::MAX, &mut budget));
        assert_eq!((window.size, window.borrowed > 0), (32 * KIB, false));
        let mut sizes = Vec::new();
        for _ in 0..4 {
            pump(&mut window, &mut budget, now, u64::MAX);
            sizes.push(window.size / KIB);
        }
        assert_eq!(sizes, [123, 492, 1968, 4096]);
    }

    #[test]
    fn a_window_of_a_slow_reader_stays() {
        let (mut budget, now) = (budget(), Instant::now());
        let mut window = trusted(now, &budget);
        for _ in 0..20 {
            let unused = window.unused() as usize;
            assert!(window.receive(now, unused, &mut budget));
            let _ = consume(&mut window, now, 20 * 1024, u64::MAX, &mut budget);
            let rest = (window.received - window.consumed) as usize - 1;
            let _ = consume(&mut window, now, rest, u64::MAX, &mut budget);
        }
        assert_eq!((window.size, window.borrowed > 0), (32 * KIB, false));
    }

    #[test]
    fn credit_is_sent_when_a_quarter_of_the_window_is_consumed() {
        let (mut budget, now) = (budget(), Instant::now());
        let mut window = Window::new(now, &budget);
        assert!(window.receive(now, 20 * 1024, &mut budget));
        assert!(!consume(&mut window, now, 8 * 1024 - 1, 0, &mut budget));
        assert!(consume(&mut window, now, 1, 0, &mut budget));
        assert_eq!(window.limit(), 40 * KIB);
    }

    #[test]
    fn a_window_grows_fourfold_where_credit_holds_the_sender_back_and_nothing_waits() {
        let (mut budget, now) = (budget(), Instant::now());
        let mut window = Window::new(now, &budget);
        let mut sizes = Vec::new();
        for step in 0..12 {
            let unused = window.unused() as usize;
            assert!(window.receive(now, unused, &mut budget));
            if step > 1 {
                window.note_limited();
            }
            window.consume(unused / 2 - 1, &mut budget);
            assert!(!window.renew(now, Growth::WhenLimited, &mut budget), "less than half is consumed");
            window.consume(unused - unused / 2 + 1, &mut budget);
            assert!(window.renew(now, Growth::WhenLimited, &mut budget));
            sizes.push(window.size / KIB);
        }
        assert_eq!(sizes[..5], [32, 32, 128, 512, 2048]);
        assert!(sizes[11] > 4096 && sizes[11] <= 8192, "{sizes:?}");
        let mut slow = Window::new(now, &budget);
        let unused = slow.unused() as usize;
        assert!(slow.receive(now, unused, &mut budget));
        slow.note_limited();
        slow.consume(unused - 1, &mut budget);
        assert!(slow.renew(now, Growth::WhenLimited, &mut budget));
        assert_eq!(slow.size, 32 * KIB);
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
        let mut window = trusted(now, &budget);
        pump(&mut window, &mut budget, now, 512 * KIB);
        let (size, spare) = (window.size, budget.parts().0);
        assert_eq!(size, 512 * KIB);
        now += IDLE * 2;
        assert!(window.receive(now, 1, &mut budget));
        assert_eq!((window.size, budget.parts().0), (32 * KIB, spare), "the peer may still send 512 KiB");
        now += Duration::from_secs(1);
        let unused = window.unused() as usize;
        assert!(window.receive(now, unused, &mut budget));
        let _ = consume(&mut window, now, unused + 1, 0, &mut budget);
        assert_eq!((window.borrowed, budget.parts().0), (0, spare + 480 * KIB));
    }

    #[test]
    #[cfg(feature = "relay")]
    fn a_window_of_a_link_that_has_more_than_its_part_shrinks_as_its_credit_is_used() {
        let (pool, now) = (WindowPool::new(10 * KIB * KIB), Instant::now());
        let mut links = [(); 5].map(|()| budget());
        links.iter_mut().for_each(|budget| budget.share(&pool));
        let [mut budget, mut others @ ..] = links;
        let mut window = trusted(now, &budget);
        pump(&mut window, &mut budget, now, 4096 * KIB);
        let before = window.size;
        assert!(before > 2048 * KIB, "{before}");
        pump(&mut window, &mut budget, now, 4096 * KIB);
        assert!(window.size >= before, "nobody else wants any");
        let before = window.size;
        for other in &mut others {
            while other.take(u64::MAX) > 0 {}
        }
        pump(&mut window, &mut budget, now, 4096 * KIB);
        assert_eq!(window.size, before / 2);
    }

    proptest! {
        #[test]
        fn credit_that_is_out_never_exceeds_the_budget(
            steps in prop::collection::vec((0usize..8, 0usize..3, 0u64..30_000, any::<prop::sample::Index>()), 0..400),
            wanted in prop::collection::vec(0..6 * 1024 * KIB, 8)
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
                        let told = consume(window, now, bytes, wanted[step], &mut budget);
                        prop_assert!(window.limit() >= before && (told || window.limit() == before));
                    }
                }
                let out: u64 = windows.iter().map(|window| window.limit - window.consumed).sum();
                prop_assert!(out <= total, "{out} bytes of credit are out");
                let borrowed: u64 = windows.iter().map(|window| window.borrowed).sum();
                prop_assert_eq!(borrowed + budget.parts().0, total - 8 * 32 * KIB);
            }
            for window in &mut windows {
                window.give_back(&mut budget);
            }
            prop_assert_eq!(budget.parts().0, total - 8 * 32 * KIB);
        }
    }
}
