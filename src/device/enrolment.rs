//! How a device comes to its identity, as its owner hands it to a tunnel: the directory with its key, and a join string while that is to be
//! used.

use std::path::Path;
use std::sync::Arc;

use super::joining::{Candidate, Joining, Presentation, is_storable};
use super::membership::Membership;
use super::state_dir::{StateDir, Stored};
use crate::Error;
use crate::address::Address;
use crate::identity::{JoinError, JoinString, Kind, Name, Pin, Pins, Secret, TokenId};
use crate::tls::Key;

/// A device's key, and the relay that it belongs to or is to join.
#[derive(Clone, Debug)]
pub struct Enrolment {
    pub(super) directory: Arc<StateDir>,
    /// The key that was in force when the directory was opened.
    pub(super) opened: Option<Pin>,
    pub(super) joining: Joining,
    /// Whether the join string was used here already.
    is_used: bool,
    /// Why the join string is not used, where the device goes on as it was.
    pub(super) complaint: Option<(String, &'static str)>,
}

impl Enrolment {
    /// What lies in `directory`, which is made where it is not there. A join string that has been used already means
    /// nothing, be it the newest or not; another one has a key of its own, and what is there stays in use until it has
    /// succeeded. `wish` is the name to ask for then. This reads and writes files.
    ///
    /// A device that has joined already goes on where the new string is none or has no key: see
    /// [`complaint`](Self::complaint).
    ///
    /// # Errors
    /// The directory cannot be used; or no relay has admitted the device yet, and the join string is missing or none.
    pub fn open(directory: &Path, join: Option<&str>, wish: Option<Name>) -> Result<Self, Error> {
        let (enrolment, failure) = Self::load(directory, join, wish)?;
        let complaint = failure.map(|error| (format!("{error}; this device goes on as it was"), error.code()));
        Ok(Self { complaint, ..enrolment })
    }

    /// The same for somebody who waits for the answer: a join string that cannot be used is an error, too, where the
    /// device has joined.
    ///
    /// # Errors
    /// Those of [`open`](Self::open), and that the join string is none or has no key.
    pub fn open_strictly(directory: &Path, join: Option<&str>, wish: Option<Name>) -> Result<Self, Error> {
        let (enrolment, failure) = Self::load(directory, join, wish)?;
        failure.map_or(Ok(enrolment), Err)
    }

    /// What is there, and why the join string cannot be used beside it.
    fn load(directory: &Path, join: Option<&str>, wish: Option<Name>) -> Result<(Self, Option<Error>), Error> {
        if directory.as_os_str().is_empty() {
            return Err(Error::Usage("state_dir is empty; give it a directory".into()));
        }
        let join = join.map(decode).transpose();
        if !matches!(join, Ok(Some(_))) && !StateDir::is_there(directory)? {
            return Err(join.err().unwrap_or_else(|| not_there(directory)));
        }
        let state_dir = StateDir::open(directory)?;
        let Stored { member, pending } = state_dir.load()?;
        let opened = member.as_ref().map(|(key, _)| key.public().pin());
        let has_used = |join: &JoinString| member.as_ref().is_some_and(|(_, known)| known.has_used(join.token()));
        let is_used = matches!(&join, Ok(Some(join)) if has_used(join));
        let candidate = join.and_then(|join| {
            let Some(join) = join.filter(|_| !is_used) else { return Ok(pending.map(awaiting)) };
            let key = match &member {
                None => state_dir.first_key(join.token(), &join.pins())?,
                Some(_) => state_dir.key_for(join.token())?,
            };
            Ok(Some(Candidate::new(Arc::new(key), &join, wish)))
        });
        let (candidate, failure) = match candidate {
            Ok(candidate) => (candidate, None),
            // A device far away must not be lost for a string that was mistyped.
            Err(error) if member.is_some() => (None, Some(error)),
            Err(error) => return Err(error),
        };
        let member = member.map(|(key, membership)| (Arc::new(key), membership));
        // As many random bytes as a secret has, though they are none.
        let instance = *Secret::random()?.as_bytes();
        let joining = Joining::new(member, candidate, instance).ok_or_else(|| not_joined(directory))?;
        Ok((Self { directory: Arc::new(state_dir), opened, joining, is_used, complaint: None }, failure))
    }

    /// The relay's operator has yet to approve the key of this join string, which was opened here: from now on it is
    /// presented without the string.
    ///
    /// # Errors
    /// It cannot be stored.
    pub fn await_approval(&self) -> Result<(), Error> {
        let membership = self.joining.candidate().map(Candidate::membership);
        membership.map_or(Ok(()), |membership| Ok(self.directory.store_pending(&membership)?))
    }

    /// Why the join string is not used, and the error's code, where the device goes on as it was without it. A tunnel tells
    /// it by an event.
    pub fn complaint(&self) -> Option<(&str, &'static str)> {
        self.complaint.as_ref().map(|(text, code)| (&**text, *code))
    }

    /// The name that the relay gave the device; `None` before it has joined.
    pub fn name(&self) -> Option<&Name> {
        self.joining.member().and_then(|(name, _)| name)
    }

    /// Whether a relay has admitted the device, if perhaps by an earlier join string.
    pub fn has_joined(&self) -> bool {
        self.joining.member().is_some()
    }

    /// Whether the join string that was given is one that this device has used, be it the newest or not.
    pub fn is_used(&self) -> bool {
        self.is_used
    }

    /// The fingerprint of the key that a relay has admitted; `None` before that.
    pub fn member_fingerprint(&self) -> Option<Pin> {
        self.joining.member().map(|(_, fingerprint)| fingerprint)
    }

    /// Whether there is a join string that has not succeeded yet, or a key of one that waits for approval.
    pub fn is_joining(&self) -> bool {
        self.first().is_of_candidate
    }

    /// The fingerprint of the key that is shown to a relay first.
    pub fn fingerprint(&self) -> Pin {
        self.first().identity.key.public().pin()
    }

    /// The keys by which that relay is known.
    pub fn pins(&self) -> Pins {
        self.first().identity.pins
    }

    /// Where a relay is looked for, at least one, in the order in which they are tried.
    pub fn addresses(&self) -> Vec<Address> {
        self.joining.addresses()
    }

    fn first(&self) -> &Presentation {
        self.joining.presentation()
    }
}

/// A key that waits for approval, and the relay that knows it.
fn awaiting((key, membership): (Key, Membership)) -> Candidate {
    let token = membership.tokens.last().copied().unwrap_or(TokenId([0; TokenId::LEN]));
    let (pins, addresses) = (membership.pins, membership.targets());
    Candidate { key: Arc::new(key), pins, addresses, token, secret: None, wish: None }
}

fn decode(text: &str) -> Result<JoinString, Error> {
    let join = JoinString::decode(text, Kind::Device)?;
    if !join.addresses().iter().all(is_storable) {
        return Err(JoinError::Malformed("an address in it is none").into());
    }
    Ok(join)
}

fn not_there(directory: &Path) -> Error {
    not_joined_yet(directory, |shown| format!("there is no state_dir '{shown}', so this device"))
}

fn not_joined(directory: &Path) -> Error {
    not_joined_yet(directory, |shown| format!("state_dir '{shown}'"))
}

fn not_joined_yet(directory: &Path, who: impl FnOnce(&str) -> String) -> Error {
    let shown = directory.display().to_string().escape_debug().to_string();
    Error::Usage(format!(
        "{who} has joined no relay yet; run 'tcpremote join - --state-dir {shown}', or give join, with the string that \
         'tcp-remote-relay token device NAME' prints",
        who = who(&shown)
    ))
}
