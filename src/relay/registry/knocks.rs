//! Keys that came and that nobody knows, so that an operator can approve one.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use super::admission::{Candidate, ClaimedName};
use crate::identity::{Kind, Pin};
use crate::tls::PublicKey;

/// How many are kept.
pub const MAX_KNOCKS: usize = 1000;

/// An unknown key that came. Times are seconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Knock {
    /// As what it came.
    pub kind: Kind,
    /// The key.
    pub key: PublicKey,
    /// Its fingerprint, by which it is approved.
    pub pin: Pin,
    /// Where it came from, the last time.
    pub address: IpAddr,
    /// Which name it claimed, the last time. It proves nothing.
    pub claimed: Option<ClaimedName>,
    /// When it first came.
    pub first: u64,
    /// When it last came.
    pub last: u64,
    /// How often it came.
    pub count: u64,
}

/// The keys that came last; in memory alone.
#[derive(Debug, Default)]
pub(super) struct Knocks {
    keys: HashMap<Pin, (u64, Knock)>,
    /// The order of their last coming.
    order: BTreeMap<u64, Pin>,
    next: u64,
}

impl Knocks {
    /// An unknown key came. The one that has not come for longest makes room.
    pub(super) fn note(&mut self, candidate: &Candidate) {
        let pin = candidate.key.pin();
        let (first, count) = self.forget(&pin).map_or((candidate.now, 0), |knock| (knock.first, knock.count));
        if self.keys.len() == MAX_KNOCKS
            && let Some((_, oldest)) = self.order.pop_first()
        {
            self.keys.remove(&oldest);
        }
        let knock = Knock {
            kind: candidate.kind,
            key: candidate.key,
            pin,
            address: candidate.address,
            claimed: candidate.wish.clone(),
            first,
            last: candidate.now,
            count: count + 1,
        };
        self.keys.insert(pin, (self.next, knock));
        self.order.insert(self.next, pin);
        self.next += 1;
    }

    pub(super) fn find(&self, pin: &Pin) -> Option<&Knock> {
        self.keys.get(pin).map(|(_, knock)| knock)
    }

    /// The key is known now.
    pub(super) fn forget(&mut self, pin: &Pin) -> Option<Knock> {
        let (place, knock) = self.keys.remove(pin)?;
        self.order.remove(&place);
        Some(knock)
    }

    /// All; the one that came last is first.
    pub(super) fn list(&self) -> Vec<Knock> {
        self.order.values().rev().filter_map(|pin| self.find(pin)).cloned().collect()
    }
}
