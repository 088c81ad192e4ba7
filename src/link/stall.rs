//! For how long a stream's full queue kept the link unread.

use std::time::{Duration, Instant};

use super::QueueRule;

/// Adds up the time during which a stream's queue was full, since its socket last took a good part of it.
#[derive(Debug)]
pub(super) struct StallMeter {
    stall: Duration,
    /// So many bytes taken are progress, and the time begins anew: a full queue of a reader that is only slower than
    /// the link is how TCP slows down a sender.
    enough: usize,
    taken: usize,
    counted: Duration,
    /// Since when the queue is full, where it is.
    full_since: Option<Instant>,
}

impl StallMeter {
    pub(super) fn new(rule: QueueRule) -> Self {
        let enough = rule.progress();
        Self { stall: rule.stall, enough, taken: 0, counted: Duration::ZERO, full_since: None }
    }

    /// The queue is full from now on.
    pub(super) fn begin(&mut self, now: Instant) {
        self.full_since.get_or_insert(now);
    }

    /// The queue has room again.
    pub(super) fn end(&mut self, now: Instant) {
        self.counted = self.total(now);
        self.full_since = None;
    }

    /// The stream's socket took bytes.
    pub(super) fn note_taken(&mut self, now: Instant, bytes: usize) {
        self.taken += bytes;
        if self.taken >= self.enough {
            (self.taken, self.counted) = (0, Duration::ZERO);
            self.full_since = self.full_since.map(|_| now);
        }
    }

    /// When this stream is stalled if its socket takes nothing more.
    pub(super) fn due(&self) -> Option<Instant> {
        self.full_since.map(|since| since + self.stall.saturating_sub(self.counted))
    }

    fn total(&self, now: Instant) -> Duration {
        self.counted + self.full_since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STALL: Duration = Duration::from_secs(30);
    const RULE: QueueRule = QueueRule { queue: 8 * 1000, stall: STALL };

    #[test]
    fn thirty_seconds_in_a_row_are_a_stall() {
        let start = Instant::now();
        let mut meter = StallMeter::new(RULE);
        assert_eq!(meter.due(), None);
        meter.begin(start);
        assert_eq!(meter.due(), Some(start + STALL));
    }

    #[test]
    fn pauses_add_up_while_little_is_taken_between_them() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut meter = StallMeter::new(RULE);
        for cycle in 0..9 {
            meter.begin(at(cycle * 500));
            meter.note_taken(at(cycle * 500 + 3), 100);
            meter.end(at(cycle * 500 + 3));
        }
        meter.begin(at(5000));
        assert_eq!(meter.due(), Some(at(5003)));
    }

    #[test]
    fn an_eighth_of_the_queue_that_is_taken_is_progress() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut meter = StallMeter::new(RULE);
        meter.begin(start);
        for second in 1..1000 {
            meter.note_taken(at(second), 40);
            assert!(meter.due() > Some(at(second)), "25 s for an eighth, after {second} s");
        }
        meter.note_taken(at(1000), 1000);
        meter.note_taken(at(1010), 999);
        assert_eq!(meter.due(), Some(at(1030)));
    }
}
