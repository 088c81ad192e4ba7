mod admission;
mod backup;
mod cost;
mod directory;
mod operator;
mod races;
mod storage;

use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use super::*;
use crate::identity::{Kind, Pin, Pins, TokenId, UserName};
use crate::tls::PublicKey;

const DEADLINE: Duration = Duration::from_secs(60);
/// When all of it happens, in seconds since 1970.
const NOW: u64 = 1_800_000_000;
const SECRET: SecretDigest = SecretDigest([7; 32]);

/// A registry in a directory of its own.
struct Bench {
    directory: tempfile::TempDir,
    registry: Option<SqliteRegistry>,
}

impl Bench {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let registry = SqliteRegistry::open(&directory.path().join("state")).expect("a registry");
        Self { directory, registry: Some(registry) }
    }

    fn state(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    fn database(&self) -> PathBuf {
        self.state().join("registry.db")
    }

    fn registry(&self) -> &SqliteRegistry {
        self.registry.as_ref().expect("open")
    }

    /// Ends the registry, has something done to its files, and opens it again.
    fn reopen(&mut self, meanwhile: impl FnOnce(&Path)) {
        self.registry = None;
        meanwhile(&self.state());
        self.registry = Some(SqliteRegistry::open(&self.state()).expect("a registry"));
    }

    fn admit(&self, candidate: Candidate) -> Decision {
        ask(|answer| self.registry().admit(candidate, answer)).expect("a decision")
    }

    /// The key with the token.
    fn join(&self, key: u32, token: u8) -> Decision {
        self.admit(candidate(key, None, Some(token)))
    }

    /// The key alone.
    fn come(&self, key: u32) -> Decision {
        self.admit(candidate(key, None, None))
    }

    fn token(&self, token: NewToken) {
        ask(|answer| self.registry().create_token(token, answer)).expect("a token");
    }

    fn refused_token(&self, token: NewToken) -> String {
        ask(|answer| self.registry().create_token(token, answer)).expect_err("no token").to_string()
    }

    fn add(&self, text: &str, key: u32) -> Result<Arc<Principal>, RegistryError> {
        ask(|answer| self.registry().add(newcomer(text, key), NOW, answer))
    }

    fn approve(&self, key: u32, name: Option<&str>) -> Result<Arc<Principal>, RegistryError> {
        let name = name.map(device);
        ask(|answer| self.registry().approve(public_key(key).pin(), name, NOW, answer))
    }

    fn label(&self, name: &str, with: &[&str], without: &[&str]) -> Result<Arc<Principal>, RegistryError> {
        let with = with.iter().map(|label| label.parse().expect("a label")).collect();
        let without = without.iter().map(|&key| key.into()).collect();
        ask(|answer| self.registry().label(device(name), with, without, answer))
    }

    fn import(&self, table: &str) -> Result<usize, RegistryError> {
        ask(|answer| self.registry().import(table.into(), NOW, answer))
    }

    fn revoke(&self, name: &str) -> Result<Arc<Principal>, RegistryError> {
        ask(|answer| self.registry().revoke(device(name), NOW, answer))
    }

    fn unrevoke(&self, name: &str) -> Result<Arc<Principal>, RegistryError> {
        ask(|answer| self.registry().unrevoke(device(name), NOW, answer))
    }

    fn remove(&self, name: &str) -> Result<Arc<Principal>, RegistryError> {
        ask(|answer| self.registry().remove(device(name), NOW, answer))
    }

    fn open_tokens(&self) -> Vec<OpenToken> {
        ask(|answer| self.registry().open_tokens(NOW, answer)).expect("a list")
    }

    fn backup(&self, file: &Path) -> Result<(), RegistryError> {
        ask(|answer| self.registry().backup(file.into(), answer))
    }

    /// Name and state of all, and what their keys are.
    fn contents(&self) -> Vec<String> {
        let all = self.registry().list().into_iter();
        all.map(|Listed { principal, .. }| {
            let Principal { name, state, labels, keys, .. } = &*principal;
            format!("{name} {state} [{labels}] {}", keys.iter().filter(|key| !key.is_revoked).count())
        })
        .collect()
    }
}

/// Waits for the answer.
fn ask<T: Send + 'static>(operation: impl FnOnce(Answer<T>)) -> Result<T, RegistryError> {
    let (sender, receiver) = mpsc::channel();
    operation(Box::new(move |result| sender.send(result).expect("somebody waits")));
    receiver.recv_timeout(DEADLINE).expect("an answer")
}

fn public_key(number: u32) -> PublicKey {
    let mut der = [0x5a; 44];
    der[..12].copy_from_slice(&[0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00]);
    der[12..16].copy_from_slice(&number.to_be_bytes());
    PublicKey::from_spki(&der).expect("a key")
}

fn device(text: &str) -> PrincipalName {
    PrincipalName::new(Kind::Device, text).expect("a name")
}

fn newcomer(text: &str, key: u32) -> Newcomer {
    Newcomer { name: device(text), key: public_key(key), labels: Labels::default() }
}

fn candidate(key: u32, wish: Option<&str>, token: Option<u8>) -> Candidate {
    Candidate {
        kind: Kind::Device,
        key: public_key(key),
        wish: wish.map(ClaimedName::new),
        token: token.map(|id| PresentedToken { id: TokenId([id; 8]), secret: SECRET }),
        address: [192, 0, 2, 1].into(),
        now: NOW,
    }
}

fn pins(current: u8, next: u8) -> Pins {
    Pins { current: Pin([current; 32]), next: Pin([next; 32]) }
}

/// A token for a device, or for devices by a pattern.
fn token(id: u8, pattern: &str) -> NewToken {
    NewToken {
        id: TokenId([id; 8]),
        secret: SECRET,
        subject: TokenSubject::Device(pattern.parse().expect("a pattern")),
        uses: 1,
        expires: NOW + 3600,
        labels: Labels::default(),
        pending: false,
        replace: false,
        pins: pins(1, 2),
        creator: "root".into(),
        created: NOW - 60,
    }
}

/// The name by which the key is let in; `None` if it is not.
fn name_of(decision: &Decision) -> Option<&str> {
    match decision {
        Decision::Admitted { principal, .. } => Some(principal.name.as_str()),
        Decision::Pending(_) | Decision::Refused(_) => None,
    }
}

fn refusal(decision: Decision) -> Refusal {
    match decision {
        Decision::Refused(refusal) => refusal,
        Decision::Admitted { .. } | Decision::Pending(_) => panic!("not refused: {decision:?}"),
    }
}

fn fault(decision: Decision) -> TokenFault {
    let refusal = refusal(decision);
    let Refusal::Token(fault) = refusal else { panic!("{refusal:?}") };
    fault
}
