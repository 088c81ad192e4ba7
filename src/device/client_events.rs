//! What the owner hears of clients. A relay that sends many of them, or nonsense, fills neither the queue of events nor the
//! log of the host: past a bound events are counted, and their number is reported.

use std::time::{Duration, Instant};

use super::event::{Event, EventKind, Severity};
use super::shared::Shared;
use crate::connection::Bucket;

/// Events of a kind at once: all clients of a link may come or go together.
const BURST: u32 = 128;
/// How long after the first event that was left out their number is reported.
const REPORT_AFTER: Duration = Duration::from_secs(10);

/// Each kind that clients cause, how grave it is, and how many of it there may be a second for long.
const KINDS: [(EventKind, Severity, u32); 6] = [
    (EventKind::Connect, Severity::Detail, 10),
    (EventKind::Disconnect, Severity::Detail, 10),
    (EventKind::Failed, Severity::Warning, 1),
    (EventKind::Denied, Severity::Warning, 1),
    (EventKind::Stalled, Severity::Warning, 1),
    (EventKind::Protocol, Severity::Warning, 1),
];

/// The events of clients, on their way to the owner.
#[derive(Debug)]
pub(super) struct ClientEvents<'a> {
    shared: &'a Shared,
    limits: [Limit; KINDS.len()],
}

#[derive(Debug)]
struct Limit {
    bucket: Bucket,
    left_out: u64,
    /// When that number is reported.
    report_at: Option<Instant>,
}

impl<'a> ClientEvents<'a> {
    pub(super) fn new(now: Instant, shared: &'a Shared) -> Self {
        let limit = |(_, _, rate)| Limit { bucket: Bucket::new(now, BURST, rate), left_out: 0, report_at: None };
        Self { shared, limits: KINDS.map(limit) }
    }

    /// Tells the owner, or counts it.
    pub(super) fn tell(&mut self, now: Instant, event: Event) {
        let place = KINDS.iter().position(|(kind, ..)| *kind == event.kind);
        if let Some(limit) = place.map(|place| &mut self.limits[place])
            && !limit.bucket.take(now)
        {
            limit.left_out += 1;
            limit.report_at.get_or_insert(now + REPORT_AFTER);
            return;
        }
        self.shared.event(event);
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.limits.iter().filter_map(|limit| limit.report_at).min()
    }

    /// Tells how many were left out, where it is time.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        self.report(|at| at <= now);
    }

    /// Tells how many were left out: the tunnel ends.
    pub(super) fn finish(&mut self) {
        self.report(|_| true);
    }

    fn report(&mut self, is_due: impl Fn(Instant) -> bool) {
        for ((kind, severity, _), limit) in KINDS.into_iter().zip(&mut self.limits) {
            if limit.report_at.take_if(|at| is_due(*at)).is_some() {
                let count = std::mem::take(&mut limit.left_out);
                let text = format!("{count} more events of the kind '{}' were left out", kind.as_str());
                self.shared.event(Event::new(kind, severity, text));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use mio::{Poll, Token, Waker};

    use super::*;
    use crate::address::Address;

    #[test]
    fn a_flood_of_one_kind_is_counted_and_takes_no_event_from_another() -> Result<(), Box<dyn std::error::Error>> {
        let poll = Poll::new()?;
        let shared = Shared::new(Address::new("relay", 2065)?, Arc::new(Waker::new(poll.registry(), Token(0))?))?;
        let start = Instant::now();
        let mut events = ClientEvents::new(start, &shared);
        let told = || std::iter::from_fn(|| shared.next_event()).map(|event| event.message).collect::<Vec<_>>();
        let flood = |events: &mut ClientEvents<'_>, now| {
            for _ in 0..10_000 {
                events.tell(now, Event::new(EventKind::Denied, Severity::Warning, "denied".into()));
            }
        };
        flood(&mut events, start);
        assert_eq!(told().len(), BURST as usize);
        events.tell(start, Event::new(EventKind::Failed, Severity::Warning, "failed".into()));
        assert_eq!(told(), ["failed"]);
        let later = start + REPORT_AFTER;
        assert_eq!(events.poll_timeout(), Some(later));
        events.handle_timeout(later);
        assert_eq!(told(), ["9872 more events of the kind 'denied' were left out"]);
        assert_eq!(events.poll_timeout(), None);
        flood(&mut events, later);
        events.finish();
        let told = told();
        assert_eq!(told.len(), 11, "one a second, and the number");
        assert_eq!(told[10], "9990 more events of the kind 'denied' were left out");
        Ok(())
    }
}
