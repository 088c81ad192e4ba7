//! A path whose delay and rate change while links use it.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// What the path does to what travels one way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Path {
    /// Half of the round trip.
    delay: Duration,
    /// Bytes a second of each link.
    rate: u64,
}

const fn step(seconds: u64, round_trip: u64, rate: u64) -> (Duration, Path) {
    (Duration::from_secs(seconds), Path { delay: Duration::from_millis(round_trip / 2), rate })
}

/// How long each stage lasts, its round trip in milliseconds, and its rate; then it begins anew.
const STAGES: [(Duration, Path); 4] =
    [step(2, 20, 40_000_000), step(3, 400, 40_000_000), step(1, 20, 40_000_000), step(2, 20, 20_000_000)];

impl Path {
    /// What holds so long after the changes began.
    pub(crate) fn after(elapsed: Duration) -> Self {
        let round: Duration = STAGES.iter().map(|(time, _)| time).sum();
        let mut rest = Duration::from_nanos((elapsed.as_nanos() % round.as_nanos()) as u64);
        for (time, path) in STAGES {
            if rest < time {
                return path;
            }
            rest -= time;
        }
        STAGES[0].1
    }
}

/// Bytes on their way from one end of a link to the other.
#[derive(Debug)]
pub(crate) struct Travelling {
    /// With the time at which they arrive.
    chunks: VecDeque<(Instant, Vec<u8>)>,
    bytes: usize,
    /// When the path has taken all that was sent.
    taken_at: Instant,
}

/// A path takes no more than this, which is twice what the longest holds at its rate.
const MOST: usize = 16 * 1024 * 1024;

impl Travelling {
    pub(crate) fn new(now: Instant) -> Self {
        Self { chunks: VecDeque::new(), bytes: 0, taken_at: now }
    }

    /// Sends bytes on their way; at once, where there is no path.
    pub(crate) fn push(&mut self, now: Instant, path: Option<Path>, chunk: &[u8]) {
        let delay = path.map_or(Duration::ZERO, |path| {
            let nanos = chunk.len() as u64 * 1_000_000_000 / path.rate;
            self.taken_at = self.taken_at.max(now) + Duration::from_nanos(nanos);
            self.taken_at + path.delay - now
        });
        // What was sent before arrives before.
        let arrival = self.chunks.back().map_or(now + delay, |&(last, _)| last.max(now + delay));
        self.bytes += chunk.len();
        self.chunks.push_back((arrival, chunk.to_vec()));
    }

    /// What has arrived.
    pub(crate) fn pop(&mut self, now: Instant) -> Option<Vec<u8>> {
        if self.chunks.front()?.0 > now {
            return None;
        }
        let (_, chunk) = self.chunks.pop_front()?;
        self.bytes -= chunk.len();
        Some(chunk)
    }

    /// How long until something arrives.
    pub(crate) fn wait(&self, now: Instant) -> Option<Duration> {
        self.chunks.front().map(|(arrival, _)| arrival.saturating_duration_since(now))
    }

    pub(crate) fn is_full(&self) -> bool {
        self.bytes >= MOST
    }
}
