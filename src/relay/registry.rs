//! Facts about principals: who there is, by which keys, and which tokens let others in.
//!
//! What a connection asks is answered from an immutable [`Snapshot`]. Each change is one durable transaction, made
//! before it is answered: an answer is never ahead of the disk, and a snapshot never ahead of an answer's transaction.
//! There is no clock in here: times are seconds since 1970, given by the caller.
//!
//! | file | what lives there |
//! | --- | --- |
//! | `admission.rs`, `store/admission.rs` | whether a key is let in |
//! | `principal.rs`, `token.rs` | what is stored |
//! | `snapshot.rs`, `knocks.rs`, `seen.rs` | what is in memory |
//! | `sqlite.rs` | the registry in a file, and its thread |
//! | `store.rs` | one transaction; in `store/`, each operation |
//! | `schema.rs` | tables and migrations |
//! | `directory.rs` | the state directory |

mod admission;
mod directory;
mod error;
mod import;
mod knocks;
mod principal;
mod schema;
mod seen;
mod snapshot;
mod sqlite;
mod store;
mod token;

#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, TrySendError, sync_channel};
use std::time::Duration;

use tracing::warn;

use crate::identity::{Label, Pin, Pins, TokenId};

pub use admission::{Candidate, ClaimedName, Decision, PresentedToken, Refusal, TokenFault, Use};
pub use directory::StateDirectory;
pub use error::RegistryError;
pub use import::Newcomer;
pub use knocks::{Knock, MAX_KNOCKS};
pub use principal::{Key, Labels, Principal, PrincipalId, PrincipalName, State};
pub use snapshot::{Snapshot, Standing};
pub use sqlite::SqliteRegistry;
pub use store::{Lost, Restored, restore};
pub use token::{NewToken, OpenToken, SecretDigest, TokenSubject};

/// What is called with the result of an operation, once, when it is durable and in the snapshot.
///
/// It is called by the registry's thread, which waits for it, or before the operation's method returns if that can tell
/// already. It is to leave the result somewhere and wake the one that asked.
pub type Answer<T> = Box<dyn FnOnce(Result<T, RegistryError>) + Send>;

/// How long the registry may take for an answer that a thread waits for.
const TIMEOUT: Duration = Duration::from_secs(50);

/// The registry's answer to an operation, for a thread that may wait for a disk.
///
/// # Errors
/// That of the operation; or [`RegistryError::Late`], and then it may still be done.
pub fn wait<T: Send + 'static>(ask: impl FnOnce(Answer<T>)) -> Result<T, RegistryError> {
    wait_within(TIMEOUT, ask)
}

fn wait_within<T: Send + 'static>(within: Duration, ask: impl FnOnce(Answer<T>)) -> Result<T, RegistryError> {
    let (sender, receiver) = sync_channel(1);
    ask(Box::new(move |result| match sender.try_send(result) {
        Ok(()) | Err(TrySendError::Full(_)) => {}
        Err(TrySendError::Disconnected(Ok(_))) => warn!("what was asked of the registry is done now, after its time"),
        Err(TrySendError::Disconnected(Err(error))) => {
            warn!(%error, "what was asked of the registry is not done, after its time");
        }
    }));
    receiver.recv_timeout(within).unwrap_or_else(|error| {
        Err(match error {
            RecvTimeoutError::Timeout => RegistryError::Late,
            RecvTimeoutError::Disconnected => RegistryError::Closed,
        })
    })
}

/// What is called when the snapshot has changed. It is to wake the one that looks at it.
pub type Watcher = Box<dyn Fn() + Send + Sync>;

/// A principal in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// The principal.
    pub principal: Arc<Principal>,
    /// When a link of it was last there, in seconds since 1970.
    pub seen: Option<u64>,
    /// By which keys it knows the relay, if that is known.
    pub pins: Option<Pins>,
}

impl Listed {
    /// Whether it would know the relay no more if that had this key, the next, from now on. One that was added by its key
    /// and was never there does not count: it knows what its join string will say.
    pub fn lacks(&self, next: Pin) -> bool {
        self.principal.state == State::Active
            && self.pins.map_or_else(|| self.seen.is_some(), |pins| !pins.contains(next))
    }
}

/// Facts about principals, wherever they are stored. No method waits for a disk.
///
/// The registry does not decide who may call it: operations but [`admit`](Self::admit) are the operator's.
pub trait Registry: Send + Sync {
    /// What is true now.
    fn snapshot(&self) -> Arc<Snapshot>;

    /// Has `watcher` called after each change of the snapshot, by the thread that made it, which waits for it.
    fn watch(&self, watcher: Watcher);

    /// Decides whether a key that TLS has proven is let in. Its state comes first; a token is looked at, and used, only
    /// for a key that is unknown.
    fn admit(&self, candidate: Candidate, answer: Answer<Decision>);

    /// Principals that are not removed, devices first, by name.
    fn list(&self) -> Vec<Listed>;

    /// Unknown keys that came, the last one first; [`MAX_KNOCKS`] at most.
    fn knocks(&self) -> Vec<Knock>;

    /// A link of the principal is there. It is written some time later, and may be lost in a crash.
    fn note_seen(&self, principal: PrincipalId, now: u64);

    /// The principal has read what the relay that it knows announces: the key that this proves, and the one to follow. It
    /// is written as late.
    fn note_told(&self, principal: PrincipalId, announced: Pins);

    /// Has no principal be given these names from here on, be it by a token, by approval or by the operator; those that were
    /// reserved before are free then. The answer is which of them principals have already, who keep them.
    fn reserve(&self, names: Vec<PrincipalName>, answer: Answer<Vec<PrincipalName>>);

    /// Makes a token.
    fn create_token(&self, token: NewToken, answer: Answer<()>);

    /// Makes a token useless.
    fn delete_token(&self, id: TokenId, now: u64, answer: Answer<()>);

    /// Tokens that somebody could still use.
    fn open_tokens(&self, now: u64, answer: Answer<Vec<OpenToken>>);

    /// Lets in a key that waits for approval, or that knocked; as `name`, or by the name that it has or claims.
    fn approve(&self, pin: Pin, name: Option<PrincipalName>, now: u64, answer: Answer<Arc<Principal>>);

    /// Adds a principal with its key.
    fn add(&self, newcomer: Newcomer, now: u64, answer: Answer<Arc<Principal>>);

    /// Adds the devices of a table, lines of `name,key,labels`; all, or none. The answer is how many.
    fn import(&self, table: String, now: u64, answer: Answer<usize>);

    /// Sets labels, and removes those with a key of `without`.
    fn label(&self, name: PrincipalName, with: Vec<Label>, without: Vec<String>, answer: Answer<Arc<Principal>>);

    /// Refuses the principal's keys from now on. Its name stays taken, and tokens that would replace its key are void.
    fn revoke(&self, name: PrincipalName, now: u64, answer: Answer<Arc<Principal>>);

    /// Undoes [`revoke`](Self::revoke).
    fn unrevoke(&self, name: PrincipalName, now: u64, answer: Answer<Arc<Principal>>);

    /// Frees the principal's name. Its keys are unknown then, but revoked ones stay revoked and tokens stay used.
    fn remove(&self, name: PrincipalName, now: u64, answer: Answer<Arc<Principal>>);

    /// Writes all to a new file.
    fn backup(&self, file: PathBuf, answer: Answer<()>);

    /// Ends it, whoever still refers to it: operations that wait are done, later ones are refused, and all is on the disk
    /// when this returns.
    fn close(&self);
}
