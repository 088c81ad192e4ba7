//! How long one stream has kept the link unread, within a sliding window.

use std::time::{Duration, Instant};

/// The window is cut into this many slices; the sum is exact to one slice.
const SLICES: usize = 60;

/// Adds up the time during which a stream's queue was full, over the last two `stall`s.
#[derive(Debug)]
pub(super) struct StallMeter {
    stall: Duration,
    slice: Duration,
    origin: Instant,
    /// Time per slice, a ring; `newest` counts slices since `origin`.
    slices: [Duration; SLICES],
    newest: usize,
    /// Since when the queue is full, where it is.
    full_since: Option<Instant>,
}

impl StallMeter {
    pub(super) fn new(now: Instant, stall: Duration) -> Self {
        let slice = (stall * 2 / SLICES as u32).max(Duration::from_nanos(1));
        Self { stall, slice, origin: now, slices: [Duration::ZERO; SLICES], newest: 0, full_since: None }
    }

    /// The queue is full from now on.
    pub(super) fn begin(&mut self, now: Instant) {
        self.settle(now);
        self.full_since = Some(now);
    }

    /// The queue has room again.
    pub(super) fn end(&mut self, now: Instant) {
        self.settle(now);
        self.full_since = None;
    }

    /// When this stream is to be looked at again if its queue stays full: not later than its time is up.
    pub(super) fn due(&mut self, now: Instant) -> Option<Instant> {
        self.settle(now);
        self.full_since?;
        Some(now + self.stall.saturating_sub(self.total()))
    }

    pub(super) fn is_stalled(&mut self, now: Instant) -> bool {
        self.settle(now);
        self.full_since.is_some() && self.total() >= self.stall
    }

    fn total(&self) -> Duration {
        self.slices.iter().sum()
    }

    /// Books the time up to `now`, slice by slice, and forgets what left the window.
    fn settle(&mut self, now: Instant) {
        let position = self.position(now);
        if position - self.newest.min(position) >= SLICES {
            self.slices = [Duration::ZERO; SLICES];
            self.newest = position - SLICES + 1;
        }
        let mut from = self.full_since.map(|since| since.max(self.start(self.newest)));
        while self.newest < position {
            let end = self.start(self.newest + 1);
            if let Some(from) = &mut from {
                self.slices[self.newest % SLICES] += end.saturating_duration_since(*from);
                *from = end;
            }
            self.newest += 1;
            self.slices[self.newest % SLICES] = Duration::ZERO;
        }
        if let Some(from) = from {
            self.slices[self.newest % SLICES] += now.saturating_duration_since(from);
            self.full_since = Some(now);
        }
    }

    fn position(&self, now: Instant) -> usize {
        (now.saturating_duration_since(self.origin).as_nanos() / self.slice.as_nanos()) as usize
    }

    fn start(&self, position: usize) -> Instant {
        self.origin + Duration::from_nanos(self.slice.as_nanos() as u64 * position as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STALL: Duration = Duration::from_secs(30);

    #[test]
    fn thirty_seconds_in_a_row_are_a_stall() {
        let start = Instant::now();
        let mut meter = StallMeter::new(start, STALL);
        meter.begin(start);
        assert_eq!(meter.due(start), Some(start + STALL));
        assert!(!meter.is_stalled(start + Duration::from_millis(29_999)));
        assert!(meter.is_stalled(start + STALL));
    }

    #[test]
    fn pauses_add_up_within_the_window_and_are_forgotten_after_it() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut meter = StallMeter::new(start, STALL);
        for cycle in 0..9 {
            meter.begin(at(cycle * 5));
            meter.end(at(cycle * 5 + 3));
        }
        meter.begin(at(45));
        assert_eq!(meter.due(at(45)), Some(at(48)));
        assert!(meter.is_stalled(at(48)));

        let mut meter = StallMeter::new(start, STALL);
        meter.begin(start);
        meter.end(at(20));
        meter.begin(at(200));
        assert_eq!(meter.due(at(200)), Some(at(230)));
    }

    #[test]
    fn a_stream_that_is_full_two_seconds_in_five_goes_on_for_ever() {
        let start = Instant::now();
        let mut meter = StallMeter::new(start, STALL);
        for cycle in 0..1000 {
            let begin = start + Duration::from_secs(cycle * 5);
            meter.begin(begin);
            assert!(!meter.is_stalled(begin + Duration::from_secs(2)));
            meter.end(begin + Duration::from_secs(2));
        }
    }
}
