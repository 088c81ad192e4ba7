//! All principals at one moment; what connections are answered from.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::principal::{Principal, PrincipalId, PrincipalName, State};
use crate::identity::{Kind, Pin};

/// All principals at one moment. It never changes; each change of a principal makes another with the next number.
///
/// The principals themselves are shared between snapshots, so that another one costs little.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    number: u64,
    principals: HashMap<PrincipalId, Arc<Principal>>,
    /// Without those that are removed.
    names: BTreeMap<PrincipalName, Arc<Principal>>,
    keys: HashMap<Pin, Arc<Principal>>,
    /// Names that none of them is given: those of devices without a key.
    reserved: Arc<[PrincipalName]>,
}

/// What a key is, before any token is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing<'a> {
    /// Of nobody, or of a principal that was removed.
    Unknown,
    /// Of a principal of the other kind.
    OtherKind,
    /// The key or its principal is revoked.
    Revoked(&'a Arc<Principal>),
    /// Its principal waits for approval.
    Pending(&'a Arc<Principal>),
    /// It is let in.
    Active(&'a Arc<Principal>),
}

impl Snapshot {
    /// Grows with each change while the relay runs; it begins anew when the relay does.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// What the key is, presented as one of that kind.
    pub fn standing(&self, kind: Kind, pin: &Pin) -> Standing<'_> {
        let Some(principal) = self.keys.get(pin) else { return Standing::Unknown };
        if principal.state == State::Revoked || principal.is_key_revoked(pin) {
            Standing::Revoked(principal)
        } else if principal.name.kind() != kind {
            Standing::OtherKind
        } else {
            match principal.state {
                State::Active => Standing::Active(principal),
                State::Pending => Standing::Pending(principal),
                State::Removed | State::Revoked => Standing::Unknown,
            }
        }
    }

    /// The principal of that name, which is not removed.
    pub fn by_name(&self, name: &PrincipalName) -> Option<&Arc<Principal>> {
        self.names.get(name)
    }

    /// Whether nobody may be given the name, since a device without a key is called so.
    pub(super) fn is_reserved(&self, name: &PrincipalName) -> bool {
        self.reserved.contains(name)
    }

    /// The principal that has, or last had, the key; removed or not.
    pub fn by_key(&self, pin: &Pin) -> Option<&Arc<Principal>> {
        self.keys.get(pin)
    }

    /// The principal, removed or not.
    pub fn by_id(&self, id: PrincipalId) -> Option<&Arc<Principal>> {
        self.principals.get(&id)
    }

    /// Those that are not removed: devices, then users, by name.
    pub fn principals(&self) -> impl Iterator<Item = &Arc<Principal>> {
        self.names.values()
    }

    pub(super) fn of(principals: Vec<Principal>) -> Self {
        Self { number: 1, ..Self::default() }.with(principals)
    }

    /// The next one, in which these principals are so.
    pub(super) fn next(&self, changed: Vec<Principal>) -> Self {
        Self { number: self.number + 1, ..self.clone() }.with(changed)
    }

    /// The next one, in which these names are reserved, and no others.
    pub(super) fn reserving(&self, names: Vec<PrincipalName>) -> Self {
        Self { number: self.number + 1, reserved: names.into(), ..self.clone() }
    }

    fn with(mut self, changed: Vec<Principal>) -> Self {
        for principal in changed {
            self.put(Arc::new(principal));
        }
        self
    }

    fn put(&mut self, principal: Arc<Principal>) {
        if let Some(old) = self.principals.insert(principal.id, Arc::clone(&principal)) {
            // A name or a key may have gone to another principal in the same change, before this one.
            let is_old = |other: &Arc<Principal>| other.id == old.id;
            if self.names.get(&old.name).is_some_and(is_old) {
                self.names.remove(&old.name);
            }
            for key in &old.keys {
                if self.keys.get(&key.pin).is_some_and(is_old) {
                    self.keys.remove(&key.pin);
                }
            }
        }
        for key in &principal.keys {
            self.keys.insert(key.pin, Arc::clone(&principal));
        }
        if principal.state != State::Removed {
            self.names.insert(principal.name.clone(), principal);
        }
    }
}
