//! When the next bulk frame may leave: frames are spread over the round trip, so that they are no burst in a queue.

use std::time::{Duration, Instant};

/// A frame is not kept for less: timers are no finer.
const GRAIN: Duration = Duration::from_millis(1);
/// What was late may catch up by so much: loops take turns, and timers are late.
const CATCH_UP: Duration = Duration::from_millis(2);
/// However long a peer makes its round trips.
const MOST: f64 = 10.0;

/// Closed from a frame until the next may follow.
#[derive(Debug)]
pub(super) struct Gate {
    opens_at: Instant,
    is_open: bool,
}

impl Gate {
    pub(super) fn new(now: Instant) -> Self {
        Self { opens_at: now, is_open: true }
    }

    pub(super) fn is_open(&self) -> bool {
        self.is_open
    }

    /// It has passed where the gate is open.
    pub(super) fn opens_at(&self) -> Instant {
        self.opens_at
    }

    /// Time has passed.
    pub(super) fn handle_time(&mut self, now: Instant) {
        self.is_open |= self.opens_at <= now;
    }

    /// A frame leaves that has this share of so many seconds for itself. They are a round trip: after it a whole window may
    /// be sent again, so that the gate is never shut for longer, however much has left at once.
    pub(super) fn spend(&mut self, now: Instant, share: f64, seconds: f64) {
        let from = now.checked_sub(CATCH_UP).map_or(self.opens_at, |past| self.opens_at.max(past));
        let all = Duration::from_secs_f64(seconds.clamp(0.0, MOST));
        self.opens_at = (from + all.mul_f64(share.clamp(0.0, 1.0))).min(now + all);
        self.is_open = self.opens_at <= now + GRAIN;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_spread_and_late_ones_catch_up_by_two_milliseconds() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut gate = Gate::new(start);
        gate.spend(at(0), 0.1, 0.04);
        assert!(!gate.is_open());
        assert_eq!(gate.opens_at(), at(4));
        gate.handle_time(at(3));
        assert!(!gate.is_open());
        gate.handle_time(at(5));
        assert!(gate.is_open());
        gate.spend(at(5), 0.1, 0.04);
        assert_eq!(gate.opens_at(), at(8), "a timer that is late costs nothing");
        gate.spend(at(100), 0.1, 0.04);
        assert_eq!(gate.opens_at(), at(102), "but a pause is no credit for a burst");
        gate.handle_time(at(102));
        gate.spend(at(102), 0.025, 0.04);
        assert!(gate.is_open(), "no timer is worth a millisecond");
    }

    #[test]
    fn however_much_leaves_at_once_the_gate_opens_a_round_trip_later() {
        let now = Instant::now();
        for (share, seconds, most) in [(0.3, 0.04, 0.04), (70.0, 0.04, 0.04), (0.3, 4e9, MOST)] {
            let mut gate = Gate::new(now);
            for _ in 0..10 {
                gate.spend(now, share, seconds);
            }
            assert_eq!(gate.opens_at(), now + Duration::from_secs_f64(most));
        }
    }
}
