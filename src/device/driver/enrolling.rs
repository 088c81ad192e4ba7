//! As whom the device presents itself, and what becomes of what its relay says.

use std::sync::Arc;

use mio::Waker;

use super::Driver;
use crate::Error;
use crate::address::Address;
use crate::device::enrolment::Enrolment;
use crate::device::event::{Event, EventKind, Severity};
use crate::device::identity::{Announcement, Identity};
use crate::device::joining::{Joining, Notice, Round};
use crate::device::keeper::Keeper;
use crate::protocol::v2::GoAway;

/// The device's identities, and where they are stored.
pub(super) struct Enrolling {
    joining: Joining,
    keeper: Keeper,
    /// Said once it is stored.
    joined: Option<Notice>,
    /// What was to be stored last could not be, so it is again at the next welcome.
    is_unstored: bool,
}

impl Enrolling {
    pub(super) fn new(enrolment: &Enrolment, waker: Arc<Waker>) -> Self {
        let keeper = Keeper::new(Arc::clone(&enrolment.directory), enrolment.opened, waker);
        Self { joining: enrolment.joining.clone(), keeper, joined: None, is_unstored: false }
    }

    /// Whether a join string is presented next.
    fn is_joining(&self) -> bool {
        self.joining.presentation().identity.join.is_some()
    }

    /// Where the relay is tried next.
    pub(super) fn address(&self) -> &Address {
        &self.joining.presentation().address
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

    /// Who the device is on the link that is made next; `None` where it has no identity.
    pub(super) fn identity(&self) -> Option<&Identity> {
        let enrolled = self.enrolling.as_ref().map(|enrolling| &enrolling.joining.presentation().identity);
        enrolled.or(self.config.identity.as_ref())
    }

    /// What was tried last came to nothing, or was refused: whether there is something else to be tried at once.
    pub(super) fn has_other_target(&mut self, error: &Error, refusal: Option<&GoAway>) -> bool {
        let Some(enrolling) = &mut self.enrolling else { return false };
        let was_joining = enrolling.is_joining();
        let (round, notice) = match refusal {
            Some(go_away) if go_away.code.bars_key() => enrolling.joining.handle_refusal(go_away.code),
            Some(_) | None => (enrolling.joining.handle_failure(), None),
        };
        let is_member_next = was_joining && !enrolling.is_joining();
        if let Some(notice) = notice {
            self.warn(notice.to_string(), error);
        } else if is_member_next {
            self.warn(format!("{error}; this device goes on as it was, and tries to join with its next link"), error);
        }
        round == Round::GoesOn
    }

    /// The relay has admitted the device on a link that presented [`identity`](Self::identity).
    pub(super) fn handle_announcement(&mut self, announcement: &Announcement) {
        let Some(enrolling) = &mut self.enrolling else { return };
        let (membership, notices) = enrolling.joining.handle_welcome(announcement);
        let again = enrolling.joining.membership().filter(|_| enrolling.is_unstored).cloned();
        if let Some(membership) = membership.or(again) {
            enrolling.keeper.store(membership);
        }
        if let Some((name, fingerprint)) = enrolling.joining.member() {
            self.context.shared.identified(name.cloned(), fingerprint);
        }
        for notice in notices {
            match (&notice, &mut self.enrolling) {
                (Notice::Joined { .. }, Some(enrolling)) => enrolling.joined = Some(notice),
                _ => self.tell(&notice),
            }
        }
    }

    /// Tells the owner what has been stored, or could not be.
    pub(super) fn poll_stored(&mut self) {
        let Some(enrolling) = &mut self.enrolling else { return };
        let Some(result) = enrolling.keeper.poll() else { return };
        enrolling.is_unstored = result.is_err();
        match result {
            Ok(()) => {
                if let Some(notice) = enrolling.joined.take() {
                    self.tell(&notice);
                }
            }
            Err(error) => {
                let error = Error::from(error);
                let text =
                    format!("{error}; what the relay said is not stored, which is tried again with the next link");
                let event = Event::new(EventKind::Identity, Severity::Warning, text).with_code(error.code());
                self.context.shared.event(event);
            }
        }
    }

    fn warn(&self, text: String, error: &Error) {
        let event = Event::new(EventKind::Identity, Severity::Warning, text).with_code(error.code());
        self.context.shared.event(event);
    }

    fn tell(&self, notice: &Notice) {
        let kind = if matches!(notice, Notice::Joined { .. }) { EventKind::Joined } else { EventKind::Identity };
        let severity = if notice.is_warning() { Severity::Warning } else { Severity::Info };
        self.context.shared.event(Event::new(kind, severity, notice.to_string()));
    }
}
