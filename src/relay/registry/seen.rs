//! When principals were last there, and by which keys they know the relay; written late, since nobody is let in or refused
//! by it. What a join string says of it is written when a key joins by that.

use std::collections::{HashMap, HashSet};

use super::principal::PrincipalId;
use crate::identity::Pins;

/// What the links of a principal have shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Last {
    /// When one was last there.
    pub(super) seen: Option<u64>,
    /// By which keys the principal knows the relay.
    pub(super) pins: Option<Pins>,
}

/// The same of all principals, and what of that is not on the disk.
#[derive(Debug, Default)]
pub(super) struct Seen {
    all: HashMap<PrincipalId, Last>,
    unwritten: HashSet<PrincipalId>,
}

impl Seen {
    pub(super) fn new(all: HashMap<PrincipalId, Last>) -> Self {
        Self { all, unwritten: HashSet::new() }
    }

    pub(super) fn note_seen(&mut self, principal: PrincipalId, now: u64) {
        self.note(principal, |last| last.seen = Some(now));
    }

    /// A device that knows the relay by the key that this proves keeps to the next one that it was told of first.
    pub(super) fn note_told(&mut self, principal: PrincipalId, announced: Pins) {
        self.note(principal, |last| {
            if last.pins.is_none_or(|pins| pins.current != announced.current) {
                last.pins = Some(announced);
            }
        });
    }

    /// This is on the disk.
    pub(super) fn note_written(&mut self, principal: PrincipalId, last: Last) {
        self.all.insert(principal, last);
        self.unwritten.remove(&principal);
    }

    fn note(&mut self, principal: PrincipalId, change: impl FnOnce(&mut Last)) {
        let last = self.all.entry(principal).or_default();
        let before = *last;
        change(last);
        if *last != before {
            self.unwritten.insert(principal);
        }
    }

    pub(super) fn last(&self, principal: PrincipalId) -> Last {
        self.all.get(&principal).copied().unwrap_or_default()
    }

    /// What is to be written now.
    pub(super) fn take_unwritten(&mut self) -> Vec<(PrincipalId, Last)> {
        let taken = std::mem::take(&mut self.unwritten);
        taken.into_iter().map(|id| (id, self.last(id))).collect()
    }

    /// It could not be written, and is to be tried again.
    pub(super) fn put_back(&mut self, unwritten: &[(PrincipalId, Last)]) {
        self.unwritten.extend(unwritten.iter().map(|(id, _)| id));
    }
}
