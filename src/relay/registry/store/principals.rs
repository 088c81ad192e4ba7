//! What an operator does to principals.

use std::collections::HashSet;
use std::sync::Arc;

use super::super::RegistryError;
use super::super::import::Newcomer;
use super::super::knocks::Knock;
use super::super::principal::{Principal, PrincipalId, PrincipalName, State};
use super::super::seen::Last;
use super::{Change, Fault, Store};
use crate::identity::{Label, Pin};

impl Store {
    /// Lets in the key of a principal that waits, or a key that knocked; under another name, if one is given.
    pub(in super::super) fn approve(
        &mut self,
        pin: Pin,
        knock: Option<&Knock>,
        name: Option<&PrincipalName>,
        now: u64,
    ) -> Result<Arc<Principal>, RegistryError> {
        let id = self.change(|change| match change.snapshot.by_key(&pin).cloned() {
            Some(principal) if principal.state != State::Removed => change.approve_pending(&principal, pin, name, now),
            Some(_) | None => {
                let unknown = "no such key waits or has knocked; compare the fingerprint with what the device prints";
                let knock = knock.ok_or_else(|| Fault::usage(unknown))?;
                let claimed = || PrincipalName::new(knock.kind, knock.claimed.as_ref()?.as_str()).ok();
                let name = name.cloned().or_else(claimed);
                let name = name.ok_or_else(|| Fault::usage("this key claimed no valid name; give it one (--name)"))?;
                let id = change.add(&Newcomer { name, key: knock.key, labels: Default::default() }, now)?;
                change.write_seen(&[(id, Last { seen: Some(knock.last), pins: None })])?;
                Ok(id)
            }
        })?;
        self.principal(id)
    }

    pub(in super::super) fn add(&mut self, newcomer: &Newcomer, now: u64) -> Result<Arc<Principal>, RegistryError> {
        let id = self.change(|change| change.add(newcomer, now))?;
        self.principal(id)
    }

    /// Sets labels, and removes those of the keys in `without`.
    pub(in super::super) fn label(
        &mut self,
        name: &PrincipalName,
        with: &[Label],
        without: &[String],
    ) -> Result<Arc<Principal>, RegistryError> {
        self.with_principal(name, |change, principal| {
            let kept = without.iter().fold(principal.labels.clone(), |labels, key| labels.without(key));
            Ok(change.set_labels(principal.id, &kept.with(with.iter().cloned())?)?)
        })
    }

    /// Its keys are refused from now on; its name stays taken.
    pub(in super::super) fn revoke(&mut self, name: &PrincipalName, now: u64) -> Result<Arc<Principal>, RegistryError> {
        self.with_principal(name, |change, principal| match principal.state {
            State::Pending => Err(Fault::usage(format!("{name} was never approved; remove it instead"))),
            State::Active => {
                change.void_replacing(name, now)?;
                Ok(change.set_state(principal.id, State::Revoked, now)?)
            }
            State::Revoked | State::Removed => Ok(change.void_replacing(name, now)?),
        })
    }

    /// Undoes [`revoke`](Self::revoke), for the keys that it had then.
    pub(in super::super) fn unrevoke(
        &mut self,
        name: &PrincipalName,
        now: u64,
    ) -> Result<Arc<Principal>, RegistryError> {
        self.with_principal(name, |change, principal| match principal.state {
            State::Revoked => Ok(change.set_state(principal.id, State::Active, now)?),
            State::Pending | State::Active | State::Removed => {
                Err(Fault::usage(format!("{name} is not revoked, but {}", principal.state)))
            }
        })
    }

    /// Frees its name. Its keys are unknown then; those that were revoked stay so.
    pub(in super::super) fn remove(&mut self, name: &PrincipalName, now: u64) -> Result<Arc<Principal>, RegistryError> {
        self.with_principal(name, |change, principal| {
            if principal.state == State::Revoked {
                change.revoke_keys(principal.id, now)?;
            }
            change.void_replacing(name, now)?;
            Ok(change.set_state(principal.id, State::Removed, now)?)
        })
    }

    fn with_principal(
        &mut self,
        name: &PrincipalName,
        make: impl FnOnce(&mut Change<'_>, &Principal) -> Result<(), Fault>,
    ) -> Result<Arc<Principal>, RegistryError> {
        let principal = self.snapshot.by_name(name).cloned();
        let principal =
            principal.ok_or_else(|| RegistryError::Usage(format!("there is no {name}; list those there are")))?;
        self.change(|change| make(change, &principal))?;
        self.principal(principal.id)
    }
}

impl Change<'_> {
    fn approve_pending(
        &mut self,
        principal: &Principal,
        pin: Pin,
        name: Option<&PrincipalName>,
        now: u64,
    ) -> Result<PrincipalId, Fault> {
        if principal.is_key_revoked(&pin) || principal.state != State::Pending {
            let state = if principal.is_key_revoked(&pin) { State::Revoked } else { principal.state };
            return Err(Fault::usage(format!("this key is {}'s and does not wait; it is {state}", principal.name)));
        }
        if let Some(name) = name.filter(|&name| *name != principal.name) {
            if name.kind() != principal.name.kind() {
                return Err(Fault::usage(format!("this key is not of the kind of which {name} is")));
            }
            self.check_name(name)?;
            self.set_name(principal.id, name)?;
        } else {
            self.check_reserved(&principal.name)?;
        }
        self.set_state(principal.id, State::Active, now)?;
        Ok(principal.id)
    }

    fn add(&mut self, newcomer: &Newcomer, now: u64) -> Result<PrincipalId, Fault> {
        self.check_newcomer(newcomer)?;
        self.insert_newcomer(newcomer, now)
    }

    /// Adds all, or none.
    pub(super) fn add_all(&mut self, newcomers: &[(usize, Newcomer)], now: u64) -> Result<(), Fault> {
        let (mut names, mut keys, mut mistakes) = (HashSet::new(), HashSet::new(), Vec::new());
        for (line, newcomer) in newcomers {
            let twice = |what: &str| Fault::usage(format!("{what} stands in an earlier line too"));
            let checked = if !names.insert(&newcomer.name) {
                Err(twice(newcomer.name.as_str()))
            } else if !keys.insert(newcomer.key.pin()) {
                Err(twice("the key"))
            } else {
                self.check_newcomer(newcomer)
            };
            match checked {
                Ok(()) => {}
                Err(Fault::Registry(error)) => mistakes.push((*line, error)),
                Err(fault @ Fault::Database(_)) => return Err(fault),
            }
        }
        if !mistakes.is_empty() {
            return Err(super::import::mistakes(mistakes).into());
        }
        for (_, newcomer) in newcomers {
            self.insert_newcomer(newcomer, now)?;
        }
        Ok(())
    }

    fn insert_newcomer(&mut self, newcomer: &Newcomer, now: u64) -> Result<PrincipalId, Fault> {
        let id = self.insert(&newcomer.name, State::Active, &newcomer.labels, now)?;
        self.bind(id, &newcomer.key, now)?;
        Ok(id)
    }

    fn check_newcomer(&self, newcomer: &Newcomer) -> Result<(), Fault> {
        self.check_name(&newcomer.name)?;
        let pin = newcomer.key.pin();
        match self.snapshot.by_key(&pin) {
            Some(owner) if owner.is_key_revoked(&pin) => {
                Err(Fault::usage(format!("the key was {}'s and is revoked; make another", owner.name)))
            }
            Some(owner) if owner.state != State::Removed => {
                Err(Fault::usage(format!("the key is {}'s already ({})", owner.name, owner.state)))
            }
            Some(owner) if owner.name.kind() != newcomer.name.kind() => {
                Err(Fault::usage("the key was one of the other kind; make another"))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Whether the name may be given to a principal.
    fn check_name(&self, name: &PrincipalName) -> Result<(), Fault> {
        self.check_reserved(name)?;
        match self.snapshot.by_name(name) {
            Some(holder) => Err(Fault::usage(format!(
                "{name} is there already ({}); give another name, or remove it first",
                holder.state
            ))),
            None => Ok(()),
        }
    }

    pub(super) fn check_reserved(&self, name: &PrincipalName) -> Result<(), Fault> {
        if self.snapshot.is_reserved(name) {
            return Err(Fault::usage(format!("{name} comes by the plain listener, and has no key; give another name")));
        }
        Ok(())
    }
}
