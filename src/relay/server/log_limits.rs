//! How many lines a peer can cause: a token bucket for each kind of them, and the number of those that were left out.

use std::time::{Duration, Instant};

use tracing::info;

use crate::connection::Bucket;

/// How long after the first line that was left out their number is logged.
const REPORT_AFTER: Duration = Duration::from_secs(10);

/// Lines that a peer can cause, by what they say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A connection on the device port is no device.
    Stray,
    /// A device has come.
    Arrival,
    /// A link has ended, or ends.
    Departure,
    /// A client could not be served.
    Refusal,
    /// A client's connection is over.
    ClientEnd,
}

/// Each kind, its name, and its lines: so many at once, and so many a second.
const KINDS: [(Kind, &str, u32, u32); 5] = [
    (Kind::Stray, "a connection on the device port was dropped", 20, 1),
    (Kind::Arrival, "a device has come", 100, 2),
    (Kind::Departure, "a link has ended", 100, 2),
    (Kind::Refusal, "a client could not be served", 50, 5),
    (Kind::ClientEnd, "a client has left", 1000, 100),
];

/// The buckets of all kinds.
#[derive(Debug)]
pub(super) struct LogLimits {
    kinds: [Limit; KINDS.len()],
}

#[derive(Debug)]
struct Limit {
    name: &'static str,
    bucket: Bucket,
    left_out: u64,
    /// When their number is due.
    report_at: Option<Instant>,
}

impl LogLimits {
    pub(super) fn new(now: Instant) -> Self {
        let limit = |(_, name, burst, rate)| Limit {
            name,
            bucket: Bucket::new(now, burst, rate),
            left_out: 0,
            report_at: None,
        };
        Self { kinds: KINDS.map(limit) }
    }

    /// Takes a line of this kind, which may then be logged; false if it may not, and is counted.
    pub(super) fn admit(&mut self, now: Instant, kind: Kind) -> bool {
        let Some(place) = KINDS.iter().position(|&(of, ..)| of == kind) else { return true };
        let limit = &mut self.kinds[place];
        let permitted = limit.bucket.take(now);
        if !permitted {
            limit.left_out += 1;
            limit.report_at.get_or_insert(now + REPORT_AFTER);
        }
        permitted
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.kinds.iter().filter_map(|limit| limit.report_at).min()
    }

    /// Logs how many lines were left out, where it is time.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        for limit in &mut self.kinds {
            if limit.report_at.is_some_and(|at| at <= now) {
                limit.report();
            }
        }
    }

    /// Logs how many lines were left out: the relay ends.
    pub(super) fn finish(&mut self) {
        self.kinds.iter_mut().filter(|limit| limit.left_out > 0).for_each(Limit::report);
    }
}

impl Limit {
    fn report(&mut self) {
        info!(lines = self.left_out, like = self.name, "and {} more like it", self.left_out);
        (self.left_out, self.report_at) = (0, None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_one_kind_is_cut_and_counted_and_takes_no_line_from_another() {
        let start = Instant::now() + Duration::from_secs(1000);
        let mut limits = LogLimits::new(start);
        let lines = (0..10_000).filter(|_| limits.admit(start, Kind::Stray)).count();
        assert_eq!((lines, limits.poll_timeout()), (20, Some(start + REPORT_AFTER)));
        assert_eq!(limits.kinds[0].left_out, 9980);
        assert!(limits.admit(start, Kind::Refusal));
        limits.handle_timeout(start + REPORT_AFTER);
        assert_eq!((limits.kinds[0].left_out, limits.poll_timeout()), (0, None));
    }

    #[test]
    fn every_kind_has_its_bucket() {
        for (place, (kind, ..)) in KINDS.into_iter().enumerate() {
            assert_eq!(kind as usize, place);
        }
    }
}
