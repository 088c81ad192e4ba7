//! Whether the peer is there.

use std::time::{Duration, Instant};

use super::Role;

/// Silence after which the peer of a link with streams is asked; of one without, too, if it has not said what it wants.
const ASK_AFTER: Duration = Duration::from_secs(15);
/// How long it may then stay silent.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// On a link without streams the relay leaves it to the device to ask, unless that is late by this. If both asked, each
/// would send as much again.
const RELAY_WAITS: Duration = Duration::from_secs(5);
/// A link on which nothing came for so long is silent: few enough PINGs for a client to send one each time.
const SILENT_AFTER: Duration = Duration::from_secs(1);
/// A process that looks later than this may have been stopped, and the peer's bytes may wait to be read.
pub(super) const LATE: Duration = Duration::from_secs(1);

/// The clock of one link.
#[derive(Debug)]
pub(super) struct Liveness {
    last_byte_at: Instant,
    /// The silence after which the peer of a link without streams is asked.
    keepalive: Duration,
    has_streams: bool,
    /// The peer was asked for a sign of life, which is yet to come. No change of the times above moves that.
    awaited: Option<Awaited>,
    sign: Sign,
    /// The PING that is out: when it was sent, and the number that it carries.
    asked: Option<(Instant, u64)>,
    next_number: u64,
}

/// Until when something must come, and how long that was given for it.
#[derive(Clone, Copy, Debug)]
struct Awaited {
    until: Instant,
    within: Duration,
}

impl Awaited {
    fn new(now: Instant, within: Duration) -> Self {
        Self { until: now + within, within }
    }
}

/// What is known of a peer from which a sign of life is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sign {
    /// Something came since, or none was wanted.
    Here,
    /// It may take so long, until then.
    Awaited(Duration, Instant),
    /// It was not there in time.
    Missing,
}

/// What is to be done when the time has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    Nothing,
    Ping([u8; 8]),
    Dead,
}

impl Liveness {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            last_byte_at: now,
            keepalive: ASK_AFTER,
            has_streams: false,
            awaited: None,
            sign: Sign::Here,
            asked: None,
            next_number: 1,
        }
    }

    /// Both ends know that the device asks after this silence, while there are no streams.
    pub(super) fn agree(&mut self, role: Role, keepalive: Duration) {
        self.keepalive = match role {
            Role::Device => keepalive,
            Role::Relay => keepalive + RELAY_WAITS,
        };
    }

    /// The link has streams, or none.
    pub(super) fn set_streams(&mut self, has_streams: bool) {
        self.has_streams = has_streams;
    }

    /// Something came.
    pub(super) fn note_input(&mut self, now: Instant) {
        self.last_byte_at = now;
        (self.awaited, self.sign) = (None, Sign::Here);
    }

    /// Whether nothing came of late.
    pub(super) fn is_silent(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.last_byte_at) >= SILENT_AFTER
    }

    /// A sign of life is wanted, and may take so long; until when.
    pub(super) fn doubt(&mut self, now: Instant, within: Duration) -> Instant {
        self.sign = Sign::Awaited(within, now + within);
        self.awaited.get_or_insert_with(|| Awaited::new(now, ANSWER_WITHIN));
        now + within
    }

    /// Something must come within this time, unless it must sooner.
    pub(super) fn require(&mut self, now: Instant, within: Duration) {
        let required = Awaited::new(now, within.min(ANSWER_WITHIN));
        self.awaited = Some(self.awaited.filter(|before| before.until <= required.until).unwrap_or(required));
    }

    /// Whether the peer was asked, and nothing has come since.
    pub(super) fn is_awaited(&self) -> bool {
        self.awaited.is_some()
    }

    /// The time for it may be over: until when it may take still, if it was not.
    pub(super) fn handle_sign_timeout(&mut self, now: Instant) -> Option<Instant> {
        let Sign::Awaited(within, until) = self.sign else { return None };
        if now > until + LATE {
            self.sign = Sign::Awaited(within, now + within);
            return Some(now + within);
        }
        self.sign = Sign::Missing;
        None
    }

    /// Whether a sign of life was wanted and did not come in time.
    pub(super) fn is_suspect(&self) -> bool {
        self.sign == Sign::Missing
    }

    /// The silence after which the link is given up while it has no streams.
    pub(super) fn longest_silence(&self) -> Duration {
        self.keepalive + ANSWER_WITHIN
    }

    fn ask_after(&self) -> Duration {
        if self.has_streams { self.keepalive.min(ASK_AFTER) } else { self.keepalive }
    }

    /// The answer to a PING came: how long it took; `None` if no PING was out.
    #[must_use]
    pub(super) fn handle_answer(&mut self, now: Instant, payload: [u8; 8]) -> Option<Duration> {
        let (asked_at, _) = self.asked.take_if(|(_, number)| payload == number.to_be_bytes())?;
        Some(now.saturating_duration_since(asked_at))
    }

    /// A PING to be sent now, unless one is out.
    pub(super) fn ask(&mut self, now: Instant) -> Option<[u8; 8]> {
        if self.asked.is_some() {
            return None;
        }
        let number = self.next_number;
        self.next_number += 1;
        self.asked = Some((now, number));
        Some(number.to_be_bytes())
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    pub(super) fn poll_timeout(&self) -> Instant {
        self.awaited.map_or_else(|| self.last_byte_at + self.ask_after(), |awaited| awaited.until)
    }

    /// The time may have come. A peer is asked before it counts as dead, and has its time from then on: a clock that jumped
    /// must not end a link that was never asked.
    pub(super) fn handle_timeout(&mut self, now: Instant) -> Due {
        let due = self.poll_timeout();
        if now < due {
            return Due::Nothing;
        }
        let Some(Awaited { within, .. }) = self.awaited else {
            self.awaited = Some(Awaited::new(now, ANSWER_WITHIN));
            return self.ask(now).map_or(Due::Nothing, Due::Ping);
        };
        if now <= due + LATE {
            return Due::Dead;
        }
        self.awaited = Some(Awaited::new(now, within));
        Due::Nothing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_peer_is_asked_after_15_s_and_dead_after_45() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut liveness = Liveness::new(start);
        assert_eq!(liveness.poll_timeout(), at(15));
        assert_eq!(liveness.handle_timeout(at(14)), Due::Nothing);
        assert_eq!(liveness.handle_timeout(at(15)), Due::Ping(1u64.to_be_bytes()));
        assert_eq!((liveness.poll_timeout(), liveness.handle_timeout(at(44))), (at(45), Due::Nothing));
        assert_eq!(liveness.handle_timeout(at(45)), Due::Dead);
    }

    #[test]
    fn any_byte_is_life_and_an_answer_measures_the_way() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut liveness = Liveness::new(start);
        let ping = liveness.ask(start).expect("a PING");
        assert_eq!(liveness.ask(start), None, "one at a time");
        liveness.note_input(at(40_000));
        assert_eq!(
            (liveness.poll_timeout(), liveness.handle_timeout(at(55_000))),
            (at(55_000), Due::Nothing),
            "it is out"
        );
        assert_eq!(liveness.poll_timeout(), at(85_000), "45 s of silence, though the question is older");
        assert_eq!(liveness.handle_answer(at(41_000), [0; 8]), None, "not what was asked");
        assert_eq!(liveness.handle_answer(at(80), ping), Some(Duration::from_millis(80)));
        assert_eq!(liveness.handle_answer(at(90), ping), None);
    }

    #[test]
    fn a_clock_that_jumps_leads_to_a_question_first() {
        let start = Instant::now();
        let mut liveness = Liveness::new(start);
        let later = start + Duration::from_secs(100_000);
        assert!(matches!(liveness.handle_timeout(later), Due::Ping(_)));
        assert_eq!(liveness.poll_timeout(), later + Duration::from_secs(30));
    }

    #[test]
    fn a_process_that_was_stopped_gives_the_answer_its_time_once_more() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut liveness = Liveness::new(start);
        let ping = liveness.ask(start).expect("a PING");
        assert_eq!((liveness.handle_timeout(at(50)), liveness.poll_timeout()), (Due::Nothing, at(80)));
        assert_eq!(liveness.handle_timeout(at(80)), Due::Dead, "it was there, and nothing came");
        let mut liveness = Liveness::new(start);
        assert_eq!(liveness.ask(start), Some(ping));
        assert_eq!(liveness.handle_timeout(at(50)), Due::Nothing);
        liveness.note_input(at(51));
        assert!(liveness.handle_answer(at(51), ping).is_some());
        assert_eq!(liveness.poll_timeout(), at(66));
    }

    #[test]
    fn a_peer_that_has_another_link_has_no_longer_than_it_was_given_where_the_process_was_stopped() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut liveness = Liveness::new(start);
        assert!(liveness.ask(start).is_some());
        liveness.require(start, Duration::from_secs(3));
        assert_eq!((liveness.handle_timeout(at(10)), liveness.poll_timeout()), (Due::Nothing, at(13)));
        assert_eq!(liveness.handle_timeout(at(13)), Due::Dead);
    }
}
