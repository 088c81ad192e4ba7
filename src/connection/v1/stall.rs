//! For how long a stream's full queue kept the link unread.

use std::time::{Duration, Instant};

use crate::connection::QueueRule;

/// Adds up the time during which a stream's queue was full, since its socket last took a good part of it.
#[derive(Debug)]
pub(super) struct StallMeter {
    rule: QueueRule,
    /// When the time began anew.
    began: Instant,
    /// Bytes that the socket took since then.
    taken: usize,
    counted: Duration,
    queue: Queue,
}

/// Since when the stream's queue is as it is.
#[derive(Clone, Copy, Debug)]
enum Queue {
    Full(Instant),
    Free(Instant),
}

impl StallMeter {
    pub(super) fn new(now: Instant, rule: QueueRule) -> Self {
        Self { rule, began: now, taken: 0, counted: Duration::ZERO, queue: Queue::Free(now) }
    }

    /// The queue is full from now on.
    pub(super) fn begin(&mut self, now: Instant) {
        let Queue::Free(since) = self.queue else { return };
        // The link was read for as long as a stall: what waited before waits no more.
        if now.saturating_duration_since(since) >= self.rule.stall && self.taken >= self.rule.progress() {
            self.restart(now);
        }
        self.queue = Queue::Full(now);
    }

    /// The queue has room again.
    pub(super) fn end(&mut self, now: Instant) {
        if let Queue::Full(since) = self.queue {
            self.counted += now.saturating_duration_since(since);
            self.queue = Queue::Free(now);
        }
    }

    /// The stream's socket took bytes.
    pub(super) fn note_taken(&mut self, now: Instant, bytes: usize) {
        self.taken += bytes;
        let was_never_full = self.counted.is_zero() && matches!(self.queue, Queue::Free(_));
        if was_never_full || self.taken >= self.rule.progress_beside_others() {
            self.restart(now);
        }
    }

    /// Where the socket took enough for a stream that holds up no other: the time may [begin anew](Self::restart) unless
    /// others wait since then. A full queue of a reader that is only slower than the link is how TCP slows down a
    /// sender.
    pub(super) fn progress_since(&self) -> Option<Instant> {
        (self.taken >= self.rule.progress()).then_some(self.began)
    }

    /// The time begins anew.
    pub(super) fn restart(&mut self, now: Instant) {
        (self.began, self.taken, self.counted) = (now, 0, Duration::ZERO);
        if let Queue::Full(since) = &mut self.queue {
            *since = now;
        }
    }

    /// When this stream is stalled if its socket takes nothing more.
    pub(super) fn due(&self) -> Option<Instant> {
        match self.queue {
            Queue::Full(since) => Some(since + self.rule.stall.saturating_sub(self.counted)),
            Queue::Free(_) => None,
        }
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
        let mut meter = StallMeter::new(start, RULE);
        assert_eq!(meter.due(), None);
        meter.begin(start);
        assert_eq!(meter.due(), Some(start + STALL));
    }

    #[test]
    fn pauses_add_up_while_little_is_taken_between_them() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut meter = StallMeter::new(start, RULE);
        for cycle in 0..9 {
            meter.begin(at(cycle * 500));
            meter.note_taken(at(cycle * 500 + 3), 100);
            meter.end(at(cycle * 500 + 3));
        }
        meter.begin(at(5000));
        assert_eq!(meter.due(), Some(at(5003)));
    }

    #[test]
    fn an_eighth_of_the_queue_is_progress_where_no_other_waits_and_four_queues_are_in_any_case() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut meter = StallMeter::new(start, RULE);
        meter.begin(start);
        meter.note_taken(at(10), 999);
        assert_eq!(meter.progress_since(), None);
        meter.note_taken(at(11), 1);
        assert_eq!((meter.progress_since(), meter.due()), (Some(start), Some(at(30))));
        meter.restart(at(12));
        assert_eq!((meter.progress_since(), meter.due()), (None, Some(at(42))));
        meter.note_taken(at(20), 4 * 8000);
        assert_eq!((meter.progress_since(), meter.due()), (None, Some(at(50))));
    }

    #[test]
    fn a_link_that_was_read_for_as_long_as_a_stall_makes_earlier_pauses_good() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut meter = StallMeter::new(start, RULE);
        meter.begin(start);
        meter.note_taken(at(20), 1000);
        meter.end(at(20));
        meter.begin(at(49));
        assert_eq!(meter.due(), Some(at(59)), "29 s");
        meter.end(at(50));
        meter.begin(at(80));
        assert_eq!(meter.due(), Some(at(110)), "30 s");
    }
}
