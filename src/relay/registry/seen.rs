//! When principals were last there; written late, since nothing is decided by it.

use std::collections::{HashMap, HashSet};

use super::principal::PrincipalId;

/// When principals were last seen, and what of that is not on the disk.
#[derive(Debug, Default)]
pub(super) struct Seen {
    times: HashMap<PrincipalId, u64>,
    unwritten: HashSet<PrincipalId>,
}

impl Seen {
    pub(super) fn new(times: HashMap<PrincipalId, u64>) -> Self {
        Self { times, unwritten: HashSet::new() }
    }

    pub(super) fn note(&mut self, principal: PrincipalId, now: u64) {
        if self.times.insert(principal, now) != Some(now) {
            self.unwritten.insert(principal);
        }
    }

    pub(super) fn last(&self, principal: PrincipalId) -> Option<u64> {
        self.times.get(&principal).copied()
    }

    /// What is to be written now.
    pub(super) fn take_unwritten(&mut self) -> Vec<(PrincipalId, u64)> {
        let taken = std::mem::take(&mut self.unwritten);
        taken.into_iter().filter_map(|id| Some((id, self.last(id)?))).collect()
    }

    /// It could not be written, and is to be tried again.
    pub(super) fn put_back(&mut self, unwritten: &[(PrincipalId, u64)]) {
        self.unwritten.extend(unwritten.iter().map(|(id, _)| id));
    }
}
