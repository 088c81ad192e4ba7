//! When something of a link is due. What is the link's own lies here: only streams need memory beside it.

use std::time::Instant;

use super::Timer;
use crate::connection::Timers;

/// The timers of the link itself.
const OF_LINK: [Timer; 6] = [Timer::Settings, Timer::Liveness, Timer::Ack, Timer::OpenRate, Timer::Sign, Timer::Rest];

/// At most one deadline for each timer.
#[derive(Debug)]
pub(super) struct Deadlines {
    of_link: [Option<Instant>; OF_LINK.len()],
    of_streams: Timers<Timer>,
}

impl Deadlines {
    pub(super) fn new() -> Self {
        Self { of_link: [None; OF_LINK.len()], of_streams: Timers::new() }
    }

    /// Sets the deadline of a timer, in place of an earlier one.
    pub(super) fn set(&mut self, timer: Timer, at: Instant) {
        match place(timer) {
            Some(place) => self.of_link[place] = Some(at),
            None => self.of_streams.set(timer, at),
        }
    }

    pub(super) fn cancel(&mut self, timer: Timer) {
        match place(timer) {
            Some(place) => self.of_link[place] = None,
            None => self.of_streams.cancel(timer),
        }
    }

    pub(super) fn is_set(&self, timer: Timer) -> bool {
        match place(timer) {
            Some(place) => self.of_link[place].is_some(),
            None => self.of_streams.is_set(timer),
        }
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.of_link.into_iter().flatten().chain(self.of_streams.next()).min()
    }

    /// Takes the earliest deadline that has passed.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<Timer> {
        let first = self.next().filter(|&at| at <= now)?;
        let Some(place) = self.of_link.iter().position(|&at| at == Some(first)) else {
            return self.of_streams.pop_due(now);
        };
        self.of_link[place] = None;
        Some(OF_LINK[place])
    }

    /// Frees what streams have used, if there is none.
    pub(super) fn give_back(&mut self) {
        if self.of_streams.next().is_none() {
            self.of_streams = Timers::new();
        }
    }
}

fn place(timer: Timer) -> Option<usize> {
    OF_LINK.iter().position(|&other| other == timer)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::connection::StreamKey;

    #[test]
    fn what_is_due_comes_in_its_order_be_it_the_links_or_a_streams() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let stream = Timer::Place(StreamKey { index: 0, generation: 0 });
        let mut deadlines = Deadlines::new();
        for (timer, seconds) in
            [(Timer::Rest, 1), (Timer::Liveness, 7), (stream, 3), (Timer::Liveness, 5), (Timer::Rest, 4)]
        {
            deadlines.set(timer, at(seconds));
        }
        deadlines.set(Timer::Ack, at(2));
        deadlines.cancel(Timer::Ack);
        assert!(deadlines.is_set(stream) && !deadlines.is_set(Timer::Ack));
        assert_eq!((deadlines.next(), deadlines.pop_due(at(2))), (Some(at(3)), None));
        let due: Vec<Timer> = std::iter::from_fn(|| deadlines.pop_due(at(5))).collect();
        assert_eq!((due, deadlines.next()), (vec![stream, Timer::Rest, Timer::Liveness], None));
    }
}
