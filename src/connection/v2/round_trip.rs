//! How long the way to the peer and back is, and how long it would be without our own bytes on it.
//!
//! Windows are made from the second. Beside a download every PING waits behind bytes that the windows let in, so the
//! two can be told apart only when credit is withheld until those bytes are through: a drain.

use std::time::{Duration, Instant};

/// How often the round trip is measured while bytes come.
const MEASURE_EVERY: Duration = Duration::from_secs(1);
/// A least round trip that no later one came near to is doubted after this time.
const LEAST_LASTS: Duration = Duration::from_secs(10);
/// A shorter round trip than this is taken as this: the turns of two loops take their time, too.
pub(super) const LEAST_ROUND_TRIP: Duration = Duration::from_micros(400);
/// A PING had the way to itself if no more than this came between it and its answer.
const QUIET: u64 = 4 * 1024;
/// PINGs of one drain: new streams bring bytes for which no credit has to be given.
const MOST_PINGS: u32 = 4;

/// The round trips of one link.
#[derive(Debug)]
pub(super) struct RoundTrip {
    smoothed: Option<Duration>,
    least: Option<Least>,
    /// When the last PING was sent, and the bytes of DATA that came since.
    asked_at: Instant,
    received: u64,
    drain: Option<Drain>,
}

/// The least round trip.
#[derive(Clone, Copy, Debug)]
struct Least {
    round_trip: Duration,
    /// When one near to it was measured last; `None` while all were measured beside our own bytes.
    confirmed_at: Option<Instant>,
}

/// A drain: its answers so far, and the shortest of them.
#[derive(Clone, Copy, Debug)]
struct Drain {
    answers: u32,
    shortest: Duration,
}

/// What follows from a round trip.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    Nothing,
    /// Another PING is to be sent at once.
    Ask,
    /// The drain is over: streams may have credit again.
    Resume,
}

impl RoundTrip {
    pub(super) fn new(now: Instant) -> Self {
        Self { smoothed: None, least: None, asked_at: now, received: 0, drain: None }
    }

    /// The smoothed round trip, once measured.
    pub(super) fn smoothed(&self) -> Option<Duration> {
        self.smoothed
    }

    /// The round trip without what our own bytes add.
    pub(super) fn least(&self) -> Option<Duration> {
        self.least.map(|least| least.round_trip)
    }

    /// Whether credit is to be withheld.
    pub(super) fn is_draining(&self) -> bool {
        self.drain.is_some()
    }

    /// Whether bytes that come are reason for another PING.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.asked_at) >= MEASURE_EVERY
    }

    /// A PING is sent.
    pub(super) fn handle_ping(&mut self, now: Instant) {
        self.asked_at = now;
        self.received = 0;
    }

    /// Bytes of DATA came.
    pub(super) fn note_received(&mut self, bytes: usize) {
        self.received += bytes as u64;
    }

    /// A PING took so long, and nothing is to follow from it.
    pub(super) fn smooth(&mut self, sample: Duration) {
        // As TCP smooths it (RFC 6298).
        self.smoothed = Some(self.smoothed.map_or(sample, |smooth| (smooth * 7 + sample) / 8));
    }

    /// A PING took `sample` there and back.
    pub(super) fn handle_sample(&mut self, now: Instant, sample: Duration) -> Next {
        self.smooth(sample);
        let is_quiet = self.received <= QUIET;
        let before = self.least.unwrap_or(Least { round_trip: sample, confirmed_at: None });
        let is_near = sample <= before.round_trip.max(LEAST_ROUND_TRIP) * 5 / 4;
        let confirms = is_near && (is_quiet || before.confirmed_at.is_some());
        let confirmed_at = if confirms { Some(now) } else { before.confirmed_at };
        self.least = Some(Least { round_trip: before.round_trip.min(sample), confirmed_at });
        let is_doubtful = confirmed_at.is_none_or(|at| now.saturating_duration_since(at) >= LEAST_LASTS);
        match &mut self.drain {
            None if is_doubtful => {
                self.drain = Some(Drain { answers: 0, shortest: sample });
                Next::Ask
            }
            None => Next::Nothing,
            Some(drain) => {
                drain.answers += 1;
                drain.shortest = drain.shortest.min(sample);
                let Drain { answers, shortest } = *drain;
                if !confirms && !is_quiet && answers < MOST_PINGS {
                    return Next::Ask;
                }
                self.drain = None;
                if !confirms {
                    self.least = Some(Least { round_trip: shortest, confirmed_at: Some(now) });
                }
                Next::Resume
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Answers at the given times, in milliseconds since the start, each with its round trip and the bytes beside it.
    fn answers(steps: &[(u32, u32, usize)]) -> (RoundTrip, Vec<(Next, u128)>) {
        let start = Instant::now();
        let mut round_trip = RoundTrip::new(start);
        let mut nexts = Vec::new();
        for &(at, sample, bytes) in steps {
            round_trip.handle_ping(start + MS * at - MS * sample);
            round_trip.note_received(bytes);
            let next = round_trip.handle_sample(start + MS * at, MS * sample);
            nexts.push((next, round_trip.least().expect("measured").as_millis()));
        }
        (round_trip, nexts)
    }

    #[test]
    fn a_longer_way_is_believed_after_ten_seconds_and_a_drain() {
        let megabyte = 1 << 20;
        let steps = [(100, 20, 0), (9_000, 800, megabyte), (10_099, 800, megabyte), (10_900, 800, megabyte)];
        let (round_trip, nexts) = answers(&steps);
        assert_eq!(nexts, [(Next::Nothing, 20), (Next::Nothing, 20), (Next::Nothing, 20), (Next::Ask, 20)]);
        assert!(round_trip.is_draining());
        let drain = [(11_700, 800, megabyte), (12_200, 500, megabyte), (12_600, 400, 0), (13_000, 390, 0)];
        let (round_trip, nexts) = answers(&[&steps[..], &drain].concat());
        assert_eq!(nexts[4..], [(Next::Ask, 20), (Next::Ask, 20), (Next::Resume, 400), (Next::Nothing, 390)]);
        assert!(!round_trip.is_draining());
    }

    #[test]
    fn a_drain_that_finds_the_way_as_long_as_before_leaves_the_least_as_it_was() {
        let (round_trip, nexts) = answers(&[(100, 20, 0), (20_000, 60, 9999), (20_024, 24, 9999), (29_000, 60, 0)]);
        assert_eq!(nexts, [(Next::Nothing, 20), (Next::Ask, 20), (Next::Resume, 20), (Next::Nothing, 20)]);
        assert!(!round_trip.is_draining(), "ten seconds begin anew");
    }

    #[test]
    fn a_drain_ends_though_bytes_never_cease() {
        let drain: Vec<_> = (0..5).map(|index| (20_100 + index * 100, 90 - index, 1 << 20)).collect();
        let (_, nexts) = answers(&[&[(100, 20, 0)], &drain[..]].concat());
        let ask = (Next::Ask, 20);
        assert_eq!(nexts, [(Next::Nothing, 20), ask, ask, ask, ask, (Next::Resume, 86)]);
    }

    #[test]
    fn a_first_round_trip_beside_bytes_is_not_trusted() {
        let (_, nexts) =
            answers(&[(2_000, 1_900, 1 << 18), (3_900, 1_900, 1 << 18), (3_950, 20, 0), (5_000, 2_000, 0)]);
        assert_eq!(nexts, [(Next::Ask, 1_900), (Next::Ask, 1_900), (Next::Resume, 20), (Next::Nothing, 20)]);
    }

    #[test]
    fn a_shorter_way_is_believed_at_once() {
        let (_, nexts) = answers(&[(500, 400, 0), (1_500, 20, 1 << 20)]);
        assert_eq!(nexts, [(Next::Nothing, 400), (Next::Nothing, 20)]);
    }

    #[test]
    fn round_trips_that_are_all_short_differ_by_chance() {
        let start = Instant::now();
        let mut round_trip = RoundTrip::new(start);
        for (second, micros) in [(0, 50), (20, 490), (40, 510)] {
            let next = round_trip.handle_sample(start + Duration::from_secs(second), Duration::from_micros(micros));
            assert_eq!(next == Next::Ask, micros > 500);
        }
    }
}
