//! Which key, which pins and which address a device presents next, and what a relay's welcome changes. No file, no socket.
//!
//! A device has at most two identities: the **member**, which a relay has admitted, and the **candidate**, a join string
//! that has not succeeded yet. The candidate is tried first, and the member is there while that fails.

use std::fmt;
use std::mem;
use std::sync::Arc;

use super::identity::{Announcement, Identity};
use super::membership::Membership;
use crate::address::Address;
use crate::identity::{JoinString, Name, Pin, Pins, Secret, TokenId};
use crate::protocol::v2::{Code, Join};
use crate::tls::Key;

/// Whom to try, and as whom.
#[derive(Clone, Debug)]
pub(super) struct Presentation {
    /// Where the relay may be.
    pub(super) address: Address,
    pub(super) identity: Identity,
    /// Whether it is the candidate's.
    pub(super) is_of_candidate: bool,
}

/// What the owner is to hear of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Notice {
    /// The relay has admitted the device for the first time.
    Joined { name: Option<Name>, fingerprint: Pin },
    /// The relay has given the device another name.
    Renamed(Name),
    /// The relay uses the key that it had announced.
    KeyChanged(Pins),
    /// The relay announces another next key, and has proved the one that is known: that may be a thief.
    AnnouncementIgnored(Pin),
    /// It proves the next key, and does not say which one follows it.
    NoAnnouncement,
    /// It announces other addresses.
    Moved(Vec<Address>),
    /// Another program by the same key has learnt more of the relay.
    Learnt(Pins),
    /// Another program has joined anew.
    Adopted { name: Option<Name>, fingerprint: Pin },
    /// The join string is not used any more.
    JoinGivenUp(Code),
}

/// What becomes of a round of attempts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Round {
    /// There is something else to try at once.
    GoesOn,
    /// All was tried: it is time to wait.
    IsOver,
}

/// A device's identities, and how far the round is.
#[derive(Clone, Debug)]
pub(super) struct Joining {
    member: Option<(Arc<Key>, Membership)>,
    candidate: Option<Candidate>,
    /// Random bytes of this process.
    instance: [u8; 16],
    /// What this round tries, in this order; never empty.
    targets: Vec<Presentation>,
    /// Which of these is next.
    next: usize,
}

/// What a join string said that has not succeeded yet.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    pub(super) key: Arc<Key>,
    pub(super) pins: Pins,
    pub(super) addresses: Vec<Address>,
    pub(super) token: TokenId,
    /// `None` of a key that waits for approval: the relay has bound it, and wants its token no more.
    pub(super) secret: Option<Secret>,
    pub(super) wish: Option<Name>,
}

impl Candidate {
    /// Of a join string.
    pub(super) fn new(key: Arc<Key>, join: &JoinString, wish: Option<Name>) -> Self {
        let (pins, addresses) = (join.pins(), join.addresses().to_vec());
        Self { key, pins, addresses, token: join.token(), secret: Some(join.secret().clone()), wish }
    }

    fn identity(&self, instance: [u8; 16]) -> Identity {
        let join = self.secret.clone().map(|secret| Join { token: self.token, secret });
        Identity { key: Arc::clone(&self.key), pins: self.pins, name: self.wish.clone(), join, instance }
    }

    /// What is known of the relay that is to admit it.
    pub(super) fn membership(&self) -> Membership {
        Membership {
            name: None,
            device_key: self.key.public().pin(),
            pins: self.pins,
            addresses: Vec::new(),
            join_addresses: self.addresses.clone(),
            tokens: vec![self.token],
        }
    }
}

impl Joining {
    /// Of one identity or both; `None` if there is neither. `instance` is random.
    pub(super) fn new(
        member: Option<(Arc<Key>, Membership)>,
        candidate: Option<Candidate>,
        instance: [u8; 16],
    ) -> Option<Self> {
        let mut joining = Self { member, candidate, instance, targets: Vec::new(), next: 0 };
        joining.begin_round();
        (!joining.targets.is_empty()).then_some(joining)
    }

    fn begin_round(&mut self) {
        (self.next, self.targets) = (0, Vec::new());
        if let Some(candidate) = &self.candidate {
            let identity = candidate.identity(self.instance);
            self.targets.extend(presentations(&candidate.addresses, &identity, true));
        }
        if let Some((key, membership)) = &self.member {
            let Membership { pins, name, .. } = membership;
            let (key, name) = (Arc::clone(key), name.clone());
            let identity = Identity { key, pins: *pins, name, join: None, instance: self.instance };
            self.targets.extend(presentations(&membership.targets(), &identity, false));
        }
    }

    /// The next round begins, whatever this one has left.
    pub(super) fn end_round(&mut self) {
        self.begin_round();
    }

    /// How many there are to be tried in this round, with the next one.
    pub(super) fn targets_left(&self) -> u32 {
        (self.targets.len() - self.next) as u32
    }

    /// Where a relay is looked for in one round.
    pub(super) fn addresses(&self) -> Vec<Address> {
        self.targets.iter().map(|target| target.address.clone()).collect()
    }

    /// Whom to try next, and with what.
    pub(super) fn presentation(&self) -> &Presentation {
        &self.targets[self.next]
    }

    /// The relay could not be reached there, or did not prove one of its keys, or the link was lost before its welcome.
    pub(super) fn handle_failure(&mut self) -> Round {
        self.next += 1;
        if self.next < self.targets.len() {
            return Round::GoesOn;
        }
        self.begin_round();
        Round::IsOver
    }

    /// The relay has refused what was presented. A join string that it will never take is given up where there is
    /// another identity; `None` of a notice is that nothing is.
    pub(super) fn handle_refusal(&mut self, code: Code) -> (Round, Option<Notice>) {
        if !self.presentation().is_of_candidate || self.member.is_none() {
            // All addresses are of one relay, which has spoken.
            self.begin_round();
            return (Round::IsOver, None);
        }
        if matches!(code, Code::Token | Code::Revoked | Code::UnknownDevice) {
            self.candidate = None;
            self.begin_round();
            return (Round::GoesOn, Some(Notice::JoinGivenUp(code)));
        }
        // It may be approved later: until then the member goes on.
        while self.presentation().is_of_candidate {
            self.next += 1;
        }
        (Round::GoesOn, None)
    }

    /// The relay has admitted the device: what is to be stored now, if anything is.
    pub(super) fn handle_welcome(&mut self, welcome: &Announcement) -> (Option<Membership>, Vec<Notice>) {
        let mut notices = Vec::new();
        let candidate = if self.presentation().is_of_candidate { self.candidate.take() } else { None };
        let is_new = candidate.is_some();
        if let Some(candidate) = candidate {
            let mut membership = Membership { name: welcome.name.clone(), ..candidate.membership() };
            if let Some((_, before)) = &self.member {
                membership.remember(&before.tokens);
            }
            notices.push(Notice::Joined { name: membership.name.clone(), fingerprint: membership.device_key });
            self.member = Some((candidate.key, membership));
        }
        let Some((_, membership)) = &mut self.member else { return (None, notices) };
        let before = notices.len();
        learn(membership, welcome, &mut notices);
        let changes = notices[before..].iter().any(Notice::is_change);
        let store = (is_new || changes).then(|| membership.clone());
        self.begin_round();
        (store, notices)
    }

    /// The identity that the directory has now: where that is not the one that is known here, it takes its place, and is
    /// tried at once. A join string that was used for it meanwhile is none any more, and neither is a key that waits for
    /// approval: the device has joined later than that. Where it is the same, what another
    /// program has stored of its relay takes the place of what is known.
    pub(super) fn adopt(&mut self, key: Key, membership: Membership) -> Option<Notice> {
        let fingerprint = membership.device_key;
        if let Some((_, known)) = self.member.as_mut().filter(|(_, known)| known.device_key == fingerprint) {
            let known = mem::replace(known, membership.clone());
            if known.pins == membership.pins && known.targets() == membership.targets() {
                return None;
            }
            self.begin_round();
            return Some(Notice::Learnt(membership.pins));
        }
        self.candidate.take_if(|candidate| candidate.secret.is_none() || membership.has_used(candidate.token));
        let notice = Notice::Adopted { name: membership.name.clone(), fingerprint };
        self.member = Some((Arc::new(key), membership));
        self.begin_round();
        Some(notice)
    }

    /// The join string that has not succeeded yet.
    pub(super) fn candidate(&self) -> Option<&Candidate> {
        self.candidate.as_ref()
    }

    /// The key that was admitted, and what is known of the relay that did.
    pub(super) fn known(&self) -> Option<&(Arc<Key>, Membership)> {
        self.member.as_ref()
    }

    /// The name of the identity that has been admitted, and the fingerprint of its key.
    pub(super) fn member(&self) -> Option<(Option<&Name>, Pin)> {
        self.member.as_ref().map(|(_, membership)| (membership.name.as_ref(), membership.device_key))
    }
}

fn presentations(
    addresses: &[Address],
    identity: &Identity,
    is_of_candidate: bool,
) -> impl Iterator<Item = Presentation> {
    let of =
        move |address: &Address| Presentation { address: address.clone(), identity: identity.clone(), is_of_candidate };
    addresses.iter().map(of)
}

/// Takes over what the relay may say.
fn learn(membership: &mut Membership, welcome: &Announcement, notices: &mut Vec<Notice>) {
    if let Some(name) = &welcome.name
        && membership.name.as_ref() != Some(name)
    {
        membership.name = Some(name.clone());
        notices.push(Notice::Renamed(name.clone()));
    }
    let proven = welcome.proven;
    match welcome.pins {
        // The next key is in no relay that was stolen, so its word counts.
        Some(announced) if proven == membership.pins.next && announced.current == proven => {
            if mem::replace(&mut membership.pins, announced) != announced {
                notices.push(Notice::KeyChanged(announced));
            }
        }
        // Without a key that follows the old one stays, or a second change would find none.
        _ if proven == membership.pins.next && proven != membership.pins.current => {
            notices.push(Notice::NoAnnouncement);
        }
        Some(announced) if announced != membership.pins => {
            notices.push(Notice::AnnouncementIgnored(announced.next));
        }
        Some(_) | None => {}
    }
    let addresses: Vec<_> = welcome.addresses.iter().filter(|address| is_storable(address)).cloned().collect();
    if !addresses.is_empty() && addresses != membership.addresses {
        membership.addresses.clone_from(&addresses);
        notices.push(Notice::Moved(addresses));
    }
}

/// Whether the address can stand in `relay.toml`. Those of relays can.
pub(super) fn is_storable(address: &Address) -> bool {
    !address.host().contains(['"', '\\', ',', '[', ']'])
}

impl Notice {
    /// Whether it tells of something to be stored.
    fn is_change(&self) -> bool {
        match self {
            Self::Joined { .. }
            | Self::Renamed(_)
            | Self::KeyChanged(_)
            | Self::Moved(_)
            | Self::Learnt(_)
            | Self::Adopted { .. } => true,
            Self::AnnouncementIgnored(_) | Self::NoAnnouncement | Self::JoinGivenUp(_) => false,
        }
    }

    /// Whether it tells that the device has joined.
    pub(super) fn is_of_joining(&self) -> bool {
        matches!(self, Self::Joined { .. })
    }

    /// Whether somebody should look at it.
    pub(super) fn is_warning(&self) -> bool {
        !self.is_change()
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Joined { name: Some(name), fingerprint } => {
                write!(f, "this device has joined the relay as {name}; its key is {fingerprint}")
            }
            Self::Joined { name: None, fingerprint } => {
                write!(f, "this device has joined the relay; its key is {fingerprint}")
            }
            Self::Renamed(name) => write!(f, "the relay calls this device {name} now"),
            Self::KeyChanged(pins) => write!(
                f,
                "the relay uses the key that it had announced, {}; its old key is not taken any more, and the one after \
                 it is to be {}",
                pins.current, pins.next
            ),
            Self::AnnouncementIgnored(next) => write!(
                f,
                "the relay announces {next} as its next key, and this device keeps to the one that it knows: a relay may \
                 name another only once it proves that one; ask its operator whether relay.key was stolen"
            ),
            Self::NoAnnouncement => f.write_str(
                "the relay uses its next key and does not say which one follows it, so its old key is still taken; \
                 update the relay",
            ),
            Self::Moved(addresses) => {
                let addresses: Vec<_> = addresses.iter().map(Address::to_string).collect();
                write!(f, "the relay is to be found at {} now", addresses.join(", "))
            }
            Self::Learnt(pins) => write!(
                f,
                "another program has stored more of the relay, and this device goes on by that: its key is {}, and the \
                 one after it is to be {}",
                pins.current, pins.next
            ),
            Self::Adopted { name, fingerprint } => {
                let name = name.as_ref().map_or_else(String::new, |name| format!(" as {name}"));
                write!(
                    f,
                    "another program has joined a relay{name}, and this device goes on by that key, {fingerprint}"
                )
            }
            Self::JoinGivenUp(code) => write!(
                f,
                "the relay does not take the new join string ({code}), so this device goes on as it was; ask the relay's \
                 operator for another"
            ),
        }
    }
}

#[cfg(test)]
mod tests;
