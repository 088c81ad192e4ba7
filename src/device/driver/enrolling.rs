//! As whom the device presents itself, and what becomes of what its relay says.

use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::Waker;

use super::Driver;
use crate::Error;
use crate::address::Address;
use crate::device::enrolment::Enrolment;
use crate::device::event::{Event, EventKind, Severity};
use crate::device::identity::{Announcement, Identity};
use crate::device::joining::{Joining, Notice, Round};
use crate::device::keeper::{Answer, Keeper};
use crate::device::membership::Membership;
use crate::device::state_dir::StateDirError;
use crate::protocol::v2::GoAway;
use crate::tls::Key;

/// How long after there is no link the directory is looked at for the second time; the next time after twice as long.
/// The program that joins anew has stored that a moment after the relay has barred the old key.
const FIRST_LOOK: Duration = Duration::from_secs(1);
const LONGEST_LOOK: Duration = Duration::from_secs(30);

/// How long the end of a tunnel may take while what the relay said is being stored, which waits for a lock and a disk.
/// Whoever closes it waits for longer.
const STORE_TIMEOUT: Duration = Duration::from_millis(2500);

/// The device's identities, and where they are stored.
pub(super) struct Enrolling {
    joining: Joining,
    keeper: Keeper,
    /// What came of the addresses that this round has tried.
    failures: Vec<(Address, Error)>,
    /// Said once it is stored: one of each kind, the newest.
    untold: Vec<Notice>,
    /// Until when the owner, who waits for the first event, is shown none, since the device joins and that is not stored.
    withheld_until: Option<Instant>,
    /// What was to be stored last could not be, so it is again at the next welcome.
    is_unstored: bool,
    /// While there is no link: when the directory is looked at next, and how long it was since the last time.
    look: Option<(Instant, Duration)>,
}

impl Enrolling {
    pub(super) fn new(enrolment: &Enrolment, waker: Arc<Waker>) -> Self {
        let keeper = Keeper::new(Arc::clone(&enrolment.directory), enrolment.opened, waker);
        Self {
            joining: enrolment.joining.clone(),
            keeper,
            failures: Vec::new(),
            untold: Vec::new(),
            withheld_until: None,
            is_unstored: false,
            look: None,
        }
    }

    /// Whether a join string is presented next.
    fn is_joining(&self) -> bool {
        self.joining.presentation().is_of_candidate
    }

    /// Where the relay is tried next.
    pub(super) fn address(&self) -> &Address {
        &self.joining.presentation().address
    }

    /// How many addresses this round has still, with the one that is tried next.
    pub(super) fn targets_left(&self) -> u32 {
        self.joining.targets_left()
    }

    /// Whether the device has joined, and that is not stored.
    fn has_joined_unstored(&self) -> bool {
        self.untold.iter().any(Notice::is_of_joining)
    }

    /// Whether to go on by what was found in the directory.
    fn takes(&self, found: &Membership) -> bool {
        match self.joining.known() {
            // What could not be stored is newer.
            Some((_, known)) if known.device_key == found.device_key => !self.is_unstored,
            // This program has joined another relay, and could not store that in a directory that is not its own.
            Some((_, known)) if self.has_joined_unstored() && !known.pins.are_of_relay(&found.pins) => false,
            // What the directory had all the time is no news, least of all to a device that could not store anew.
            Some(_) | None => self.keeper.opened() != Some(found.device_key),
        }
    }

    /// There is no link: another program may have joined anew, by a key that the relay takes.
    pub(super) fn begin_to_look(&mut self, now: Instant) {
        self.look.get_or_insert((now, FIRST_LOOK));
    }

    /// The tunnel ends: nothing is looked for any more.
    pub(super) fn end(&mut self) {
        (self.look, self.withheld_until) = (None, None);
    }

    /// When [`Driver::poll_directory`] is due without an answer.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.look.map(|(at, _)| at).into_iter().chain(self.withheld_until).min()
    }
}

impl Driver<'_> {
    /// Tells the owner why the join string is not used, where that is so.
    pub(super) fn complain(&self) {
        if let Some((text, code)) = self.config.enrolment.as_ref().and_then(Enrolment::complaint) {
            let event = Event::new(EventKind::Identity, Severity::Warning, text.to_owned()).with_code(code);
            self.context.shared.event(event);
        }
    }

    /// The owner waits for the first round, in which each address has a part of the time.
    pub(super) fn prepare_names(&mut self, now: Instant) {
        if let Some(enrolling) = self.enrolling.as_ref().filter(|_| self.config.proxy.is_none()) {
            let addresses = enrolling.joining.addresses();
            self.relay_names.prepare(now, addresses.iter().filter(|address| address.ip().is_none()).map(Address::host));
        }
    }

    /// Who the device is on the link that is made next; `None` where it has no identity.
    pub(super) fn identity(&self) -> Option<&Identity> {
        let enrolled = self.enrolling.as_ref().map(|enrolling| &enrolling.joining.presentation().identity);
        enrolled.or(self.config.identity.as_ref())
    }

    /// What was tried last came to nothing, or was refused. Where there is something else to be tried at once this is kept;
    /// else the error tells of all that was tried.
    pub(super) fn find_other_target(
        &mut self,
        now: Instant,
        error: Error,
        refusal: Option<&GoAway>,
    ) -> Result<(), Error> {
        let is_late = self.first_until.is_some_and(|until| until <= now);
        let Some(enrolling) = &mut self.enrolling else { return Err(error) };
        let (was_joining, address) = (enrolling.is_joining(), enrolling.address().clone());
        let candidate = enrolling.joining.candidate().map(|candidate| candidate.key.public().pin());
        let (round, notice) = match refusal {
            Some(go_away) if go_away.code.bars_key() => enrolling.joining.handle_refusal(go_away.code),
            Some(_) | None => (enrolling.joining.handle_failure(), None),
        };
        let is_member_next = was_joining && !enrolling.is_joining();
        if notice.is_some()
            && let Some(key) = candidate
        {
            enrolling.keeper.forget(key);
        }
        if is_late {
            enrolling.joining.end_round();
        }
        let goes_on = round == Round::GoesOn && !is_late;
        if goes_on && notice.is_none() && !is_member_next {
            enrolling.failures.push((address, error));
            return Ok(());
        }
        let error = Error::everywhere(mem::take(&mut enrolling.failures), (address, error));
        if let Some(notice) = notice {
            self.warn(notice.to_string(), &error);
        } else if is_member_next {
            self.warn(format!("{error}; this device goes on as it was, and tries to join with its next link"), &error);
        }
        if goes_on { Ok(()) } else { Err(error) }
    }

    /// The relay has admitted the device on a link that presented [`identity`](Self::identity).
    pub(super) fn handle_announcement(&mut self, announcement: &Announcement) {
        let Some(enrolling) = &mut self.enrolling else { return };
        enrolling.look = None;
        enrolling.failures.clear();
        let (change, notices) = enrolling.joining.handle_welcome(announcement);
        let is_to_store = change.is_some() || enrolling.is_unstored;
        if let Some((key, membership)) = enrolling.joining.known().filter(|_| is_to_store) {
            enrolling.keeper.store(Arc::clone(key), membership.clone());
        }
        if let Some((name, fingerprint)) = enrolling.joining.member() {
            self.context.shared.identified(name.cloned(), fingerprint);
        }
        let (changes, warnings): (Vec<_>, Vec<_>) = notices.into_iter().partition(|notice| !notice.is_warning());
        if let Some(enrolling) = &mut self.enrolling {
            for change in changes {
                enrolling.untold.retain(|notice| mem::discriminant(notice) != mem::discriminant(&change));
                enrolling.untold.push(change);
            }
            // An owner may wait for that alone.
            enrolling.untold.sort_by_key(Notice::is_of_joining);
            if enrolling.has_joined_unstored() && self.first_until.is_some() {
                enrolling.withheld_until = self.first_until;
                self.context.shared.withhold();
            }
        }
        warnings.iter().for_each(|notice| self.tell(notice));
    }

    /// Looks at the directory when it is time, and takes what has come of that and of storing.
    pub(super) fn poll_directory(&mut self, now: Instant) {
        let Some(enrolling) = &mut self.enrolling else { return };
        if enrolling.withheld_until.take_if(|until| *until <= now).is_some() {
            self.context.shared.show();
        }
        if let Some((at, wait)) = &mut enrolling.look
            && *at <= now
        {
            (*at, *wait) = (now + *wait, (*wait * 2).min(LONGEST_LOOK));
            if enrolling.is_unstored
                && let Some((key, membership)) = enrolling.joining.known()
            {
                enrolling.keeper.store(Arc::clone(key), membership.clone());
            }
            enrolling.keeper.look();
        }
        match enrolling.keeper.poll() {
            Some(Answer::Stored(result)) => self.handle_stored(result),
            Some(Answer::Found(Some(found))) if enrolling.look.is_some() => self.adopt(now, *found),
            Some(Answer::Found(_)) | None => {}
        }
    }

    /// Tells the owner what has been stored, or could not be.
    fn handle_stored(&mut self, result: Result<(), StateDirError>) {
        let Some(enrolling) = &mut self.enrolling else { return };
        let was_unstored = mem::replace(&mut enrolling.is_unstored, result.is_err());
        // A newer word may be on its way.
        let is_last = !enrolling.keeper.is_storing();
        let told: Vec<_> = match result {
            Ok(()) if is_last => mem::take(&mut enrolling.untold),
            // The device goes on by it, but has joined once that is stored.
            Err(_) => enrolling.untold.extract_if(.., |notice| !notice.is_of_joining()).collect(),
            Ok(()) => Vec::new(),
        };
        let is_withheld = enrolling.withheld_until.take_if(|_| is_last).is_some();
        // Where it was so before that has been reported.
        if let Err(error) = result.map_err(Error::from)
            && !was_unstored
        {
            let text = format!("{error}; what the relay said is not stored, which is tried again with the next link");
            self.warn(text, &error);
        }
        told.iter().for_each(|notice| self.tell(notice));
        if is_withheld {
            self.context.shared.show();
        }
    }

    /// What the relay has said is stored before the tunnel ends, if the disk lets it.
    pub(super) fn finish_storing(&mut self, since: Instant) {
        let deadline = since + STORE_TIMEOUT;
        while let Some(enrolling) = self.enrolling.as_mut().filter(|enrolling| enrolling.keeper.is_storing()) {
            if let Some(answer) = enrolling.keeper.poll() {
                if let Answer::Stored(result) = answer {
                    self.handle_stored(result);
                }
            } else if Instant::now() >= deadline || self.context.io.event_loop.wait(Some(deadline)).is_err() {
                let text =
                    "the tunnel ends, and what the relay said is not stored yet; does the disk of state_dir hang?";
                let event = Event::new(EventKind::Identity, Severity::Warning, text.into()).with_code("state_dir");
                return self.context.shared.event(event);
            }
        }
    }

    /// The directory has this identity: where it is new, or what it says of the relay is, the next link is made by that, at
    /// once.
    fn adopt(&mut self, now: Instant, (key, membership): (Key, Membership)) {
        let Some(enrolling) = self.enrolling.as_mut().filter(|enrolling| enrolling.takes(&membership)) else { return };
        let (pin, name) = (membership.device_key, membership.name.clone());
        let Some(notice) = enrolling.joining.adopt(key, membership) else { return };
        enrolling.keeper.adopt(pin);
        // What could not be stored was of the identity before.
        enrolling.is_unstored = false;
        enrolling.untold.clear();
        enrolling.failures.clear();
        self.tell(&notice);
        self.context.shared.identified(name, pin);
        self.reconnect(now);
    }

    fn warn(&self, text: String, error: &Error) {
        let event = Event::new(EventKind::Identity, Severity::Warning, text).with_code(error.code());
        self.context.shared.event(event);
    }

    fn tell(&self, notice: &Notice) {
        let kind = if notice.is_of_joining() { EventKind::Joined } else { EventKind::Identity };
        let severity = if notice.is_warning() { Severity::Warning } else { Severity::Info };
        self.context.shared.event(Event::new(kind, severity, notice.to_string()));
    }
}

#[cfg(test)]
mod tests {
    use mio::Poll;

    use super::*;
    use crate::device::state_dir::StateDir;
    use crate::device::state_dir::tests::{first_key, membership};
    use crate::identity::{JoinString, Kind, Pin, Pins, Secret, TokenId};

    #[test]
    fn what_another_program_has_stored_is_taken_where_it_is_newer_and_not_another_relays() {
        let place = tempfile::tempdir().expect("a directory");
        let directory = StateDir::open(&place.path().join("state")).expect("opened");
        let (key, pins) = (first_key(&directory), Pins { current: Pin([7; 32]), next: Pin([8; 32]) });
        let poll = Poll::new().expect("poll");
        let waker = Arc::new(Waker::new(poll.registry(), mio::Token(0)).expect("a waker"));
        let open = |join: Option<&str>| {
            let enrolment = Enrolment::open(&place.path().join("state"), join, None).expect("an identity");
            Enrolling::new(&enrolment, Arc::clone(&waker))
        };
        let address = vec!["relay:443".parse().expect("an address")];
        let join = JoinString::new(Kind::Device, address, pins, TokenId([9; 8]), Secret::from_bytes([1; 16]));
        let join = join.expect("a string").encode().to_string();
        let found = membership(&key, 1);

        let mut other = open(Some(&join));
        assert!(other.takes(&found), "it has no identity itself");
        let welcome = Announcement { proven: pins.current, name: None, pins: None, addresses: Vec::new(), time: None };
        let (stored, mut notices) = other.joining.handle_welcome(&welcome);
        assert!(stored.is_some());
        other.untold.append(&mut notices);
        other.is_unstored = true;
        assert!(!other.takes(&found), "it belongs to another relay");
        assert!(other.takes(&Membership { pins, ..found.clone() }), "the same relay has admitted both");

        directory.store(&key, &found, None).expect("stored");
        let mut same = open(None);
        let newer = Membership { pins, ..found };
        assert!(same.takes(&newer));
        same.is_unstored = true;
        assert!(!same.takes(&newer), "what is known here is newer");
    }
}
