//! How many lines peers can cause: for each device a token bucket of each kind of them, and the number of those that were
//! left out; and buckets for all devices together.

use std::collections::{BTreeMap, VecDeque};
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

/// Each kind, its name, and its lines for each device: so many at once, and so many a second.
const KINDS: [(Kind, &str, u32, u32); 5] = [
    (Kind::Stray, "a connection on the device port was dropped", 20, 1),
    (Kind::Arrival, "a device has come", 100, 2),
    (Kind::Departure, "a link has ended", 100, 2),
    (Kind::Refusal, "a client could not be served", 50, 5),
    (Kind::ClientEnd, "a client has left", 1000, 100),
];

/// How often it is logged that something is so still.
const LASTING_EVERY: Duration = Duration::from_secs(600);
/// Buckets of single devices that are always kept: to look at each line for those that are not needed would cost too much.
const KEPT: usize = 64;
/// So many devices may cause all their lines; what more of them cause is left out.
const DEVICES: u32 = 8;

/// The buckets of all kinds.
#[derive(Debug)]
pub(super) struct LogLimits {
    /// Of the devices that have caused a line of late, by device and kind.
    by_device: BTreeMap<(usize, usize), Limit>,
    /// With so many of these, those that are as new are forgotten.
    most: usize,
    /// Of all devices together.
    all: [Bucket; KINDS.len()],
    /// When it is to be logged how many lines of a device, and of which kind, were left out: the first is due first.
    reports: VecDeque<(Instant, usize, usize)>,
}

#[derive(Debug)]
struct Limit {
    bucket: Bucket,
    left_out: u64,
}

impl LogLimits {
    pub(super) fn new(now: Instant) -> Self {
        let all = KINDS.map(|(_, _, burst, rate)| Bucket::new(now, DEVICES * burst, DEVICES * rate));
        Self { by_device: BTreeMap::new(), most: KEPT, all, reports: VecDeque::new() }
    }

    /// Takes a line of this kind that a device has caused, and that may then be logged; false if it may not, and is counted.
    pub(super) fn admit(&mut self, now: Instant, device: usize, kind: Kind) -> bool {
        let place = kind as usize;
        if self.by_device.len() >= self.most {
            self.by_device.retain(|_, limit| limit.left_out > 0 || !limit.bucket.is_full(now));
            self.most = KEPT.max(2 * self.by_device.len());
        }
        let (_, _, burst, rate) = KINDS[place];
        let new = || Limit { bucket: Bucket::new(now, burst, rate), left_out: 0 };
        let limit = self.by_device.entry((device, place)).or_insert_with(new);
        let permitted = limit.bucket.take(now) && self.all[place].take(now);
        if !permitted {
            if limit.left_out == 0 {
                self.reports.push_back((now + REPORT_AFTER, device, place));
            }
            limit.left_out += 1;
        }
        permitted
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.reports.front().map(|&(at, ..)| at)
    }

    /// Logs how many lines were left out, where it is time.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        while self.poll_timeout().is_some_and(|at| at <= now) {
            self.report();
        }
    }

    /// Logs how many lines were left out: the relay ends.
    pub(super) fn finish(&mut self) {
        while !self.reports.is_empty() {
            self.report();
        }
    }

    /// Logs the number that is due first.
    fn report(&mut self) {
        let Some((_, device, place)) = self.reports.pop_front() else { return };
        let Some(limit) = self.by_device.get_mut(&(device, place)) else { return };
        let lines = std::mem::take(&mut limit.left_out);
        info!(lines, like = KINDS[place].1, "and {lines} more like it");
    }
}

/// A line about something that lasts: it is logged when it begins, and then once in a while with how often it was so.
#[derive(Debug, Default)]
pub(super) struct Lasting {
    logged_at: Option<Instant>,
    left_out: u64,
}

impl Lasting {
    /// It is so again: how often it was since the last line, if there is to be another.
    pub(super) fn note(&mut self, now: Instant) -> Option<u64> {
        if self.logged_at.is_some_and(|at| now.saturating_duration_since(at) < LASTING_EVERY) {
            self.left_out += 1;
            return None;
        }
        self.logged_at = Some(now);
        Some(std::mem::take(&mut self.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(10);

    fn lines(limits: &mut LogLimits, now: Instant, device: usize, kind: Kind) -> usize {
        (0..10_000).filter(|_| limits.admit(now, device, kind)).count()
    }

    #[test]
    fn a_flood_of_one_kind_is_cut_and_counted_and_takes_no_line_from_another() {
        let start = Instant::now() + Duration::from_secs(1000);
        let mut limits = LogLimits::new(start);
        assert_eq!(lines(&mut limits, start, 3, Kind::Stray), 20);
        assert_eq!(limits.poll_timeout(), Some(start + REPORT_AFTER));
        assert_eq!(limits.by_device[&(3, Kind::Stray as usize)].left_out, 9980);
        assert!(limits.admit(start, 3, Kind::Refusal));
        limits.handle_timeout(start + REPORT_AFTER);
        assert_eq!(limits.by_device[&(3, Kind::Stray as usize)].left_out, 0);
        assert_eq!(limits.poll_timeout(), None);
    }

    #[test]
    fn a_flood_of_one_device_takes_no_line_from_another_and_all_of_them_have_a_bound() {
        let start = Instant::now() + Duration::from_secs(1000);
        let mut limits = LogLimits::new(start);
        for device in 0..8 {
            assert_eq!(lines(&mut limits, start, device, Kind::Departure), 100, "device {device}");
        }
        assert_eq!(lines(&mut limits, start, 8, Kind::Departure), 0);
        assert_eq!(limits.reports.len(), 9, "each has a number of its own");
        assert_eq!(lines(&mut limits, start + Duration::from_secs(1), 9, Kind::Departure), 16);
        limits.finish();
        assert!(limits.poll_timeout().is_none() && limits.by_device.values().all(|limit| limit.left_out == 0));
    }

    #[test]
    fn a_device_that_has_caused_few_lines_is_forgotten_and_one_that_is_cut_is_not() {
        let start = Instant::now() + Duration::from_secs(1000);
        let mut limits = LogLimits::new(start);
        assert_eq!(lines(&mut limits, start, 0, Kind::Stray), 20);
        for device in 1..10_000 {
            assert!(limits.admit(start + MS * device, device as usize, Kind::ClientEnd));
        }
        assert!(limits.by_device.len() <= 2 * KEPT, "{} are kept", limits.by_device.len());
        assert_eq!(limits.by_device[&(0, Kind::Stray as usize)].left_out, 9980);
    }

    #[test]
    fn what_lasts_is_logged_at_once_and_then_once_in_ten_minutes_with_a_number() {
        let start = Instant::now();
        let mut lasting = Lasting::default();
        let logged: Vec<_> = (0..=20).map(|minute| lasting.note(start + Duration::from_secs(60) * minute)).collect();
        let lines: Vec<_> = logged.iter().enumerate().filter_map(|(minute, line)| Some((minute, (*line)?))).collect();
        assert_eq!(lines, [(0, 0), (10, 9), (20, 9)]);
    }

    #[test]
    fn every_kind_has_its_bucket() {
        for (place, (kind, ..)) in KINDS.into_iter().enumerate() {
            assert_eq!(kind as usize, place);
        }
    }
}
