//! What is known of the path: its rate, its length without a queue, and the queues on it.

use std::collections::VecDeque;

use super::round::Measured;

/// Rounds that are remembered.
const ROUNDS: usize = 10;
/// The last of them, of which each may be slow by chance.
const LATE: usize = 3;
/// Acknowledgements in a round from which its means are trusted.
const TRUSTED: u32 = 4;
/// A shorter round trip than this cannot be distinguished from none.
const LEAST_TRIP: f64 = 1e-5;
/// Two measures of the same clocks differ by less than this.
const CLOCK_ERROR: f64 = 1e-3;
/// The shortest way there is remembered for one to two of these.
const REMEMBERED: f64 = 150.0;

/// One direction of the link. What the way there takes includes the offset between the two clocks, here and on the way
/// back: only differences mean something, and sums of the two.
#[derive(Debug)]
pub(super) struct Path {
    /// The way there without a queue.
    pub(super) base: f64,
    /// The round trip without a queue, once known.
    pub(super) trip: Option<f64>,
    /// Time that our bytes wait in a queue, and that acknowledgements wait on their way back.
    pub(super) queue: f64,
    pub(super) queue_back: f64,
    /// What the path moved alone: the best rate since it was last found to be as short as it was known to be, in bytes a
    /// second. 0 before that.
    pub(super) reference: f64,
    /// Since when more would have been sent if the path had taken it.
    pub(super) used_since: f64,
    /// When the queue was seen empty, or the path shorter.
    pub(super) fresh_at: f64,
    rates: VecDeque<f64>,
    backs: VecDeque<f64>,
    /// The shortest round trip of late, in this period and in the one before. That of our own clock, since the offset
    /// between two clocks that differ by 250 ppm grows by 75 ms in this time.
    known: [f64; 2],
    known_at: f64,
}

impl Path {
    pub(super) fn new() -> Self {
        Self {
            base: f64::INFINITY,
            trip: None,
            queue: 0.0,
            queue_back: 0.0,
            reference: 0.0,
            used_since: 0.0,
            fresh_at: 0.0,
            rates: VecDeque::with_capacity(ROUNDS),
            backs: VecDeque::with_capacity(ROUNDS),
            known: [f64::INFINITY; 2],
            known_at: 0.0,
        }
    }

    /// The best rate of the last rounds, in bytes a second; 0 before there is one.
    pub(super) fn rate(&self) -> f64 {
        self.rates.iter().copied().fold(0.0, f64::max)
    }

    /// The best rate of the last three.
    pub(super) fn late_rate(&self) -> f64 {
        self.rates.iter().rev().take(LATE).copied().fold(0.0, f64::max)
    }

    pub(super) fn note_rate(&mut self, rate: f64) {
        push(&mut self.rates, rate);
    }

    pub(super) fn forget_rates(&mut self) {
        self.rates.clear();
    }

    /// A round is over; true if it found the path shorter.
    pub(super) fn note_round(&mut self, now: f64, round: &Measured) -> bool {
        self.forget_old(now);
        push(&mut self.backs, round.back);
        let is_first = self.base.is_infinite();
        // A path that was taken for twice as long is shorter for certain: paced so, no round would have many.
        let is_far_shorter = self.trip.is_some_and(|trip| round.round_trip < trip / 2.0);
        let is_trusted = round.count >= TRUSTED || is_first || is_far_shorter;
        let is_shorter = is_trusted && round.forward < self.base;
        let back = self.back();
        if is_trusted {
            self.known[0] = self.known[0].min(round.forward + back);
        }
        if is_shorter {
            self.base = round.forward;
        }
        self.queue = round.forward - self.base;
        self.queue_back = (round.back - back).max(0.0);
        self.trip = Some((self.base + back).max(LEAST_TRIP));
        is_shorter
    }

    /// Whether one of the clocks has jumped, by what one acknowledgement shows. The way there now and the way back then are
    /// a round trip, in which the offset between the clocks cancels out: that takes no negative time.
    pub(super) fn shows_jump(&self, forward: f64, back: f64) -> bool {
        (forward + self.back()).min(self.base + back) < -CLOCK_ERROR
    }

    /// The offset between the clocks is another. The round trips are our own clock's, and stand.
    pub(super) fn forget_offset(&mut self) {
        self.base = f64::INFINITY;
        self.backs.clear();
    }

    /// The path was seen without a queue of ours.
    pub(super) fn note_drained(&mut self, round: &Measured) {
        push(&mut self.backs, round.back);
        self.base = round.forward;
        self.trip = Some(round.round_trip.max(LEAST_TRIP));
        self.queue = 0.0;
    }

    /// The round trip without a queue in our direction, when the path was drained last.
    pub(super) fn drained_trip(&self) -> f64 {
        self.base + self.back()
    }

    /// Whether that is longer by `margin` than it was known to be.
    pub(super) fn has_risen(&mut self, now: f64, margin: f64) -> bool {
        self.forget_old(now);
        self.drained_trip() > self.known[0].min(self.known[1]) + margin
    }

    /// The period may be over, and after a pause the next, too.
    fn forget_old(&mut self, now: f64) {
        let age = now - self.known_at;
        if age > REMEMBERED {
            self.known_at = now;
            let before = if age > 2.0 * REMEMBERED { f64::INFINITY } else { self.known[0] };
            self.known = [f64::INFINITY, before];
        }
    }

    /// It is as long as it is now, whatever was known.
    pub(super) fn accept(&mut self, now: f64) {
        self.known = [self.drained_trip(), f64::INFINITY];
        self.known_at = now;
    }

    /// It is known to be as short as it is now.
    pub(super) fn confirm(&mut self) {
        self.known[0] = self.known[0].min(self.drained_trip());
    }

    /// The way back without a queue: the lower quartile, since single ones may be wrong in either direction.
    fn back(&self) -> f64 {
        let mut sorted = [f64::INFINITY; ROUNDS];
        for (place, &back) in sorted.iter_mut().zip(&self.backs) {
            *place = back;
        }
        sorted.sort_by(f64::total_cmp);
        sorted[self.backs.len().saturating_sub(1) / 4]
    }
}

fn push(values: &mut VecDeque<f64>, value: f64) {
    if values.len() == ROUNDS {
        values.pop_front();
    }
    values.push_back(value);
}
