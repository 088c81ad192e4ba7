//! Which link follows which: what becomes of the tunnel when an attempt fails, a link is lost or sent away, or another
//! is to take its place.

use std::time::{Duration, Instant};

use super::super::backoff::Backoff;
use super::super::link::{Link, Stage};
use super::Driver;
use crate::Error;
use crate::address::Address;
use crate::connection::Connection;
use crate::io::retired::{self, MAX_DRAINING, MAX_LOST};
use crate::io::session::LinkLost;
use crate::protocol::ProtocolError;
use crate::protocol::v2::{Code, GoAway};
#[cfg(feature = "tls")]
use crate::tls::TlsError;

/// The longest that a GOAWAY is taken to be on its way to the relay, and what the relay is given to read it.
const MAX_ON_ITS_WAY: Duration = Duration::from_secs(1);
const MARGIN: Duration = Duration::from_millis(100);

impl Driver<'_> {
    /// The owner wants a new link now: a wait is over, and an attempt or a link that the relay has not answered begins
    /// anew. A link in use stays until the relay has answered on the next one.
    pub(super) fn reconnect(&mut self, now: Instant) {
        self.drop_attempt();
        (self.retry_at, self.first_until) = (None, None);
        self.backoff.reset();
        let unanswered = |number: &usize| self.links.get(*number).is_some_and(|link| link.stage != Stage::Listening);
        for number in [self.successor.take(), self.current.take_if(|number| unanswered(number))].into_iter().flatten() {
            self.abort_link(now, number);
        }
        self.begin_attempt(now);
        if self.current.is_none() {
            self.context.shared.connecting(&self.server);
        }
    }

    /// A link is made. The clients of one that is in use may finish there, where the protocol has a word for that. In TLS
    /// there is time for it until the relay has admitted the new one: it knows whose link that is, and does not cut the old.
    pub(super) fn add_link(&mut self, now: Instant, mut link: Link, number: usize) {
        link.sequence = self.made;
        self.made += 1;
        let is_secure = self.is_secure();
        if let Some(old) = self.current {
            self.successor = Some(number);
            if let Some(old) = self.links.get_mut(old).filter(|old| !is_secure && old.version == Some(2))
                && old.go_away.is_none()
                && old.session.connection().streams() > 0
            {
                retire(now, old);
                // A relay that reads LISTEN first cuts the old link.
                let on_its_way = old.counters().round_trip.unwrap_or_default().min(MAX_ON_ITS_WAY);
                link.silent_until = Some(now + on_its_way + MARGIN);
            }
        } else {
            self.current = Some(number);
        }
        self.links.insert(number, link);
    }

    /// Lets the link send, LISTEN first; false if it may not yet: not while the relay is to read something else before, nor while the owner
    /// holds the tunnel back, nor once it has closed it.
    pub(super) fn try_announce(&mut self, now: Instant, number: usize) -> bool {
        let Some(link) = self.links.get_mut(number) else { return false };
        if link.stage == Stage::Silent {
            if link.silent_until.is_some_and(|until| now < until) {
                return false;
            }
            link.silent_until = None;
            let peer = (self.current == Some(number)).then_some(link.peer);
            if !self.context.shared.announce(now, peer) {
                return false;
            }
            link.stage = Stage::Announced;
        }
        true
    }

    /// Tells the owner how far the link is, in the order that it learns to know.
    pub(super) fn note_stage(&mut self, now: Instant, number: usize) {
        let is_secure = self.is_secure();
        let Some(link) = self.links.get_mut(number) else { return };
        let (peer, server) = (link.peer, link.server.clone());
        // An answer may come before the last of what was sent has left.
        let has_left = link.version.is_some() || !link.session.has_unsent();
        if link.stage == Stage::Announced && link.session.has_link() && has_left {
            link.stage = Stage::Greeting;
            // In TLS the relay's answer alone says that the device may come.
            if !is_secure {
                (self.was_connected, self.first_until) = (true, None);
                if self.current == Some(number) {
                    self.context.shared.greeting(&server, peer);
                }
            }
        }
        // A relay that wants no device without TLS says nothing of itself, and at once why. Others may say as little.
        let is_refused = link.session.connection().peer().is_some_and(|said| said.refuses)
            && link.go_away.as_ref().is_some_and(|go_away| go_away.code == Code::Protocol);
        if let (Stage::Greeting, Some(version), false) = (link.stage, link.version, is_refused) {
            link.stage = Stage::Listening;
            (link.answered_at, link.answer_within) = (Some(now), None);
            self.was_connected = true;
            self.backoff.restart_is_over();
            if self.successor.take_if(|successor| *successor == number).is_some() {
                self.succeed(now, number);
            }
            #[cfg(feature = "tls")]
            if let Some(announcement) = self.links.get(number).and_then(Link::announcement) {
                self.handle_announcement(&announcement);
                self.context.shared.admitted(announcement);
            }
            self.first_until = None;
            self.context.shared.listening(&server, peer, version);
        }
    }

    /// The relay has answered on the link that follows: the old one finishes what it has.
    fn succeed(&mut self, now: Instant, number: usize) {
        let is_secure = self.is_secure();
        if let Some(old) = self.current.replace(number).and_then(|old| self.links.get_mut(old)) {
            if is_secure && old.go_away.is_none() {
                retire(now, old);
            }
            old.go_away.get_or_insert_with(replaced_by_owner);
            self.cut_oldest_draining(now);
        }
    }

    /// The link in use is no more; the one that was to take its place, or the attempt to make it, is there already.
    fn promote(&mut self) -> bool {
        if let Some(number) = self.successor.take() {
            self.current = Some(number);
            match self.links.get(number) {
                Some(link) if link.stage == Stage::Greeting && !self.is_secure() => {
                    self.context.shared.greeting(&link.server, link.peer);
                }
                Some(_) | None => self.context.shared.connecting(&self.server),
            }
            return true;
        }
        if self.attempt.is_some() {
            self.context.shared.connecting(&self.server);
        }
        self.attempt.is_some()
    }

    /// Whether there is a link on which clients may come.
    fn takes_clients(&self) -> bool {
        self.current.and_then(|number| self.links.get(number)).is_some_and(|link| link.go_away.is_none())
    }

    /// Whether a link that is lost, or could not be made, is followed by another.
    fn keeps_trying(&self) -> bool {
        if self.was_connected { self.config.reconnect } else { self.config.keep_trying }
    }

    /// The attempt is over: the next one is planned, unless there is a link or this was to be the only one.
    pub(super) fn fail_attempt(&mut self, now: Instant, error: Error) -> Result<(), Error> {
        self.drop_attempt();
        let Err(error) = self.try_another(now, error, None) else { return Ok(()) };
        if self.takes_clients() {
            self.context.shared.kept(&error);
            return Ok(());
        }
        self.current = None;
        if !self.keeps_trying() {
            return Err(error);
        }
        let drains = |link: &Link| {
            link.session.has_link() && link.go_away.as_ref().is_some_and(|go_away| go_away.code == Code::Shutdown)
        };
        if self.links.iter().any(|(_, link)| drains(link)) {
            self.backoff.restart_goes_on(now);
        }
        let wait = self.wait_after_failure(now, None, &error);
        self.plan(now, wait, error);
        Ok(())
    }

    /// What was tried last came to nothing, for this reason. If there is another address or identity its attempt begins;
    /// else the error tells of all that was tried.
    #[cfg(feature = "tls")]
    fn try_another(&mut self, now: Instant, error: Error, refusal: Option<&GoAway>) -> Result<(), Error> {
        self.find_other_target(now, error, refusal)?;
        self.begin_attempt(now);
        if self.current.is_none() {
            self.context.shared.connecting(&self.server);
        }
        Ok(())
    }

    /// Without identities the relay has one address.
    #[cfg(not(feature = "tls"))]
    fn try_another(&mut self, _: Instant, error: Error, _: Option<&GoAway>) -> Result<(), Error> {
        Err(error)
    }

    /// How long to wait where the relay itself has said nothing of it; of several addresses what the owner is told of counts.
    fn wait_after_failure(&mut self, now: Instant, answered_at: Option<Instant>, error: &Error) -> Duration {
        // It is refused, if by the device.
        if error.code() == "pin" { self.backoff.wait_barred(0) } else { self.backoff.next_wait(now, answered_at) }
    }

    fn plan(&mut self, now: Instant, wait: Duration, reason: Error) {
        (self.retry_at, self.first_until) = (Some(now + wait), None);
        #[cfg(feature = "tls")]
        if let Some(enrolling) = &mut self.enrolling {
            enrolling.begin_to_look(now);
        }
        // An owner that is notified of it and asks for the status sees nothing of the link that is gone.
        self.count();
        self.context.shared.waiting(reason, now + wait, wait);
    }

    /// The relay wants no more of this link: the next one is made beside it.
    pub(super) fn leave(&mut self, now: Instant, number: usize) {
        let Some(link) = self.links.get(number) else { return };
        let Some(go_away) = link.go_away.clone() else { return };
        let (answered_at, link_server) = (link.answered_at, link.server.clone());
        // A link that was replaced is about to be cut, and one that was refused is closed at once: what follows is decided
        // then.
        let goes_on = go_away.code != Code::Replaced && answered_at.is_some();
        if goes_on && self.current == Some(number) && self.config.reconnect {
            self.current = None;
            if !self.promote() {
                let wait = wait_after(&mut self.backoff, now, answered_at, &go_away);
                let error = gone_away(&link_server, &go_away, self.is_secure());
                self.plan(now, wait, error);
            }
            self.cut_oldest_draining(now);
        }
    }

    /// A relay that never ends the last clients of its links must not fill the device with them.
    fn cut_oldest_draining(&mut self, now: Instant) {
        let draining = self.links.iter().filter(|(_, link)| link.go_away.is_some() && link.session.has_link());
        let oldest = draining.clone().min_by_key(|(_, link)| link.sequence).map(|(number, _)| number);
        if let Some(oldest) = oldest.filter(|_| draining.count() > MAX_DRAINING) {
            self.abort_link(now, oldest);
        }
    }

    /// Links that are not in use any more hold no more than one that is, all together: else the oldest is cut.
    pub(super) fn bound_retired(&mut self, now: Instant) {
        let in_use = [self.current, self.successor];
        loop {
            let retired = self.links.iter().filter(|(number, _)| !in_use.contains(&Some(*number)));
            let lost = retired.clone().filter(|(_, link)| !link.session.has_link());
            let oldest = lost.clone().min_by_key(|(_, link)| link.sequence).map(|(number, _)| number);
            let oldest = oldest.filter(|_| lost.count() > MAX_LOST);
            let sessions = retired.map(|(number, link)| (link.sequence, number, &link.session));
            let excess = || retired::excess(sessions, self.config.limits.budget);
            let Some(number) = oldest.or_else(excess) else { return };
            if let Some(link) = self.links.get_mut(number) {
                link.cut(now, &mut self.context);
            }
            self.forget(number);
        }
    }

    /// A link for whose answer the owner waits is given up when that does not come in time.
    pub(super) fn give_up_if_late(&mut self, now: Instant, number: usize) -> Result<(), Error> {
        let Some(link) = self.links.get_mut(number) else { return Ok(()) };
        let Some((time, _)) = link.answer_within.take_if(|(_, until)| *until <= now) else { return Ok(()) };
        let error = Error::timeout(link.server.clone(), time);
        self.abort_link(now, number);
        self.lose_if_needed(now, number, error)
    }

    /// A link that takes no more clients is closed once its last one is gone; and at once where the relay has admitted none.
    pub(super) fn finish_link(&mut self, now: Instant, number: usize) -> Result<(), Error> {
        let Some(link) = self.links.get_mut(number) else { return Ok(()) };
        let sent_all = link.session.connection().streams() == 0 && !link.session.has_unsent();
        let is_refused = link.answered_at.is_none();
        if link.go_away.is_some() && (sent_all || is_refused) && link.session.has_link() {
            link.session.close_link(now, &mut self.context.io);
            let (address, reason) = (link.server.clone(), "its last client is gone".into());
            self.lose_if_needed(now, number, Error::Lost { address, reason })?;
        }
        Ok(())
    }

    pub(super) fn lose(&mut self, now: Instant, number: usize, reason: &LinkLost) -> Result<(), Error> {
        self.abort_link(now, number);
        let Some(link) = self.links.get(number) else { return Ok(()) };
        let address = link.server.clone();
        let error = match reason {
            LinkLost::Protocol(ProtocolError::OldRelay) => Error::OldRelay(address),
            #[cfg(feature = "tls")]
            LinkLost::Tls(error) => of_tls(address, error),
            LinkLost::Ended | LinkLost::Failed(_) | LinkLost::Protocol(_) => {
                Error::Lost { address, reason: reason.to_string() }
            }
        };
        self.lose_if_needed(now, number, error)
    }

    fn abort_link(&mut self, now: Instant, number: usize) {
        if let Some(link) = self.links.get_mut(number) {
            link.session.abort_link(now, &mut self.context.io);
            link.carry_out_all(now, &mut self.context);
        }
    }

    /// A link is gone: decides what follows if it was the one in use, or was to be.
    fn lose_if_needed(&mut self, now: Instant, number: usize, error: Error) -> Result<(), Error> {
        let Some(link) = self.links.get(number) else { return Ok(()) };
        let (go_away, answered_at) = (link.go_away.clone(), link.answered_at);
        // The relay may have given a better reason before.
        let is_secure = self.is_secure();
        let error = go_away.as_ref().map_or(error, |go_away| gone_away(&link.server, go_away, is_secure));
        let is_successor = self.successor.take_if(|successor| *successor == number).is_some();
        if !is_successor {
            if self.current != Some(number) {
                return Ok(());
            }
            self.current = None;
            if self.promote() {
                return Ok(());
            }
        }
        let error = if answered_at.is_none() {
            let Err(error) = self.try_another(now, error, go_away.as_ref()) else { return Ok(()) };
            error
        } else {
            error
        };
        if is_successor && self.takes_clients() {
            self.context.shared.kept(&error);
            return Ok(());
        }
        self.current = None;
        if !self.keeps_trying() {
            return Err(error);
        }
        let wait = match &go_away {
            Some(go_away) => wait_after(&mut self.backoff, now, answered_at, go_away),
            None => self.wait_after_failure(now, answered_at, &error),
        };
        self.plan(now, wait, error);
        Ok(())
    }
}

/// A GOAWAY, as the end of a link to this relay.
fn gone_away(address: &Address, go_away: &GoAway, is_secure: bool) -> Error {
    let address = address.clone();
    if go_away.code == Code::Replaced {
        return if is_secure { Error::KeyTakenOver(address) } else { Error::Replaced(address) };
    }
    if go_away.code.bars_key() {
        return Error::NotAdmitted { address, code: go_away.code, reason: go_away.reason.clone() };
    }
    let why = if go_away.reason.is_empty() { String::new() } else { format!(", {}", go_away.reason) };
    Error::Lost { address, reason: format!("the relay ended it ({}{why})", go_away.code) }
}

/// What ended a link in TLS, for its owner.
#[cfg(feature = "tls")]
fn of_tls(address: Address, error: &TlsError) -> Error {
    let reason = error.to_string();
    match error {
        TlsError::WrongPin { .. } | TlsError::Key(_) | TlsError::SeveralKeys | TlsError::BadSignature => {
            Error::Pin { address, reason }
        }
        TlsError::NoRawKey => Error::Intercepted(address),
        TlsError::Cut | TlsError::Exhausted => Error::Lost { address, reason },
        TlsError::NoAlpn
        | TlsError::NotTls(_)
        | TlsError::HandshakeTooLong
        | TlsError::RecordTooLong
        | TlsError::EndInHandshake
        | TlsError::Alert(_)
        | TlsError::Tls(_) => Error::Tls { address, reason },
    }
}

/// The clients of a link that its owner replaces finish there.
fn retire(now: Instant, old: &mut Link) {
    old.session.go_away(now, Code::Normal, 0, "the device makes a new link");
    old.go_away = Some(replaced_by_owner());
}

/// What a link that its owner replaces has in place of the relay's GOAWAY.
fn replaced_by_owner() -> GoAway {
    GoAway { code: Code::Normal, retry_after: 0, last_stream: 0, reason: "another was to take its place".into() }
}

/// How long to wait after a GOAWAY.
fn wait_after(backoff: &mut Backoff, now: Instant, answered_at: Option<Instant>, go_away: &GoAway) -> Duration {
    if go_away.code == Code::Replaced {
        backoff.wait_replaced()
    } else if go_away.code.bars_key() {
        backoff.wait_barred(go_away.retry_after)
    } else if go_away.code == Code::Shutdown {
        backoff.wait_for_restart(now, answered_at, go_away.retry_after)
    } else {
        backoff.wait_as_asked(now, answered_at, go_away.retry_after)
    }
}

#[cfg(test)]
mod tests;
