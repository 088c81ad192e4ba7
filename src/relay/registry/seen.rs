//! When principals were last there, and which key of the relay's they were told of; written late, since nobody is let in or
//! refused by it.

use std::collections::{HashMap, HashSet};

use super::principal::PrincipalId;
use crate::identity::Pin;

/// What the links of a principal have shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Last {
    /// When one was last there.
    pub(super) seen: Option<u64>,
    /// The key to follow the relay's of which the principal was told last.
    pub(super) told: Option<Pin>,
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

    pub(super) fn note_told(&mut self, principal: PrincipalId, next: Pin) {
        self.note(principal, |last| last.told = Some(next));
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
