//! Lets a key in by its token.

use std::fmt::Write;
use std::sync::Arc;

use super::super::RegistryError;
use super::super::admission::{Candidate, Decision, PresentedToken, Refusal};
use super::super::principal::{Principal, PrincipalId, PrincipalName, State};
use super::super::seen::Last;
use super::super::snapshot::Snapshot;
use super::super::token::{NewToken, TokenSubject};
use super::tokens::Grant;
use super::{Change, Fault, Store};
use crate::identity::{Kind, Name, Pattern, Pin};

/// A principal to whom a key was just bound, and what is on the disk of what its links have shown.
pub(in super::super) type Joined = (PrincipalId, Last);

impl Store {
    /// Decides, and says who has joined by that.
    pub(in super::super) fn admit(
        &mut self,
        candidate: &Candidate,
    ) -> Result<(Decision, Option<Joined>), RegistryError> {
        if let Some(decision) = candidate.decide_by_key(&self.snapshot) {
            return Ok((decision, None));
        }
        let Some(token) = candidate.token else { return Ok((Decision::Refused(Refusal::Unknown), None)) };
        match self.change(|change| change.join(candidate, &token))? {
            Err(refusal) => Ok((Decision::Refused(refusal), None)),
            Ok(joined) => {
                let principal = self.principal(joined.0)?;
                let decision = match principal.state {
                    State::Pending => Decision::Pending(principal),
                    State::Active | State::Revoked | State::Removed => Decision::Admitted { principal, joined: true },
                };
                Ok((decision, Some(joined)))
            }
        }
    }

    /// A principal that was just changed.
    pub(super) fn principal(&self, id: PrincipalId) -> Result<Arc<Principal>, RegistryError> {
        self.snapshot.by_id(id).cloned().ok_or(RegistryError::Closed)
    }
}

impl Change<'_> {
    /// Binds the key and burns the token. Nothing is written if it is refused.
    fn join(&mut self, candidate: &Candidate, token: &PresentedToken) -> Result<Result<Joined, Refusal>, Fault> {
        let (pin, now) = (candidate.key.pin(), candidate.now);
        let grant = match self.inspect_token(token, pin, candidate.kind, now)? {
            Ok(grant) => grant,
            Err(fault) => return Ok(Err(Refusal::Token(fault))),
        };
        let name = match name_for(&grant.subject, candidate, self.snapshot) {
            Ok(name) => name,
            Err(refusal) => return Ok(Err(refusal)),
        };
        if self.snapshot.is_reserved(&name) {
            return Ok(Err(Refusal::NameReserved(name)));
        }
        let id = match self.snapshot.by_name(&name).cloned() {
            None => self.insert(&name, grant.state(), &grant.labels, now)?,
            Some(holder) if may_join(&grant, &holder) => self.add_to(&grant, &holder, now)?,
            Some(_) => return Ok(Err(Refusal::NameTaken(name))),
        };
        self.bind(id, &candidate.key, now)?;
        self.burn(token.id, pin, candidate.address, now)?;
        // The new key's device knows the relay by the join string, whatever one with an older key was told.
        let joined = (id, Last { seen: Some(now), pins: grant.pins });
        self.write_seen(&[joined])?;
        Ok(Ok(joined))
    }

    /// Makes the principal ready for a key more, or for one in place of the old.
    fn add_to(&mut self, grant: &Grant, holder: &Principal, now: u64) -> Result<PrincipalId, Fault> {
        if grant.replace {
            self.revoke_keys(holder.id, now)?;
            self.set_state(holder.id, State::Active, now)?;
        }
        self.set_labels(holder.id, &holder.labels.with(grant.labels.iter().cloned())?)?;
        Ok(holder.id)
    }
}

/// Whether a token that is good gives a key to a principal who is there already.
fn may_join(grant: &Grant, holder: &Principal) -> bool {
    match holder.name.kind() {
        Kind::Device => grant.replace,
        Kind::User => holder.state == State::Active && !grant.pending,
    }
}

/// The name that the token gives to the key.
fn name_for(subject: &TokenSubject, candidate: &Candidate, snapshot: &Snapshot) -> Result<PrincipalName, Refusal> {
    let wish = match &candidate.wish {
        Some(wish) => Some(PrincipalName::new(candidate.kind, wish.as_str()).map_err(|_| Refusal::Wish)?),
        None => None,
    };
    let is_given = |wish: &PrincipalName| match (subject, wish) {
        (TokenSubject::Device(pattern), PrincipalName::Device(name)) => pattern.matches(name),
        (TokenSubject::User(user), PrincipalName::User(name)) => user == name,
        (TokenSubject::Device(_), PrincipalName::User(_)) | (TokenSubject::User(_), PrincipalName::Device(_)) => false,
    };
    match (wish, subject) {
        (Some(wish), _) if !is_given(&wish) => Err(Refusal::Wish),
        (Some(wish), _) => Ok(wish),
        (None, TokenSubject::User(name)) => Ok(PrincipalName::User(name.clone())),
        (None, TokenSubject::Device(Pattern::Name(name))) => Ok(PrincipalName::Device(name.clone())),
        (None, TokenSubject::Device(Pattern::Beginning(beginning))) => derive(beginning, candidate.key.pin(), snapshot),
    }
}

/// The name that a pattern and a key make: `line7-4f2a9c01`, or longer where another has that.
fn derive(beginning: &str, pin: Pin, snapshot: &Snapshot) -> Result<PrincipalName, Refusal> {
    // A name begins with a letter, and a fingerprint need not.
    let mut text = if beginning.is_empty() { "device-".into() } else { beginning.to_owned() };
    let mut taken = Refusal::Wish;
    for (index, byte) in (1..).zip(pin.0) {
        let _ = write!(text, "{byte:02x}");
        if index * 2 < NewToken::DERIVED {
            continue;
        }
        let Ok(name) = Name::device(&text) else { break };
        let name = PrincipalName::Device(name);
        if snapshot.is_reserved(&name) {
            taken = Refusal::NameReserved(name);
        } else if snapshot.by_name(&name).is_some() {
            taken = Refusal::NameTaken(name);
        } else {
            return Ok(name);
        }
    }
    Err(taken)
}
