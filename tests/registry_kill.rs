//! The relay's registry, killed at random moments while it changes all the time: what was answered is there, and nothing
//! is there by half.
//!
//! It takes some seconds; `REGISTRY_KILLS=2000` makes it longer, `REGISTRY_SEED` plays the same operations again.
#![cfg(all(feature = "relay", unix))]
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test ends where its own means fail")]

use std::collections::HashMap;
use std::env;
use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;
use tcpremote::identity::{Kind, Label, Pin, Pins, TokenId};
use tcpremote::relay::registry::{
    Answer, Candidate, ClaimedName, Decision, Labels, NewToken, Newcomer, PresentedToken, PrincipalName, Refusal,
    Registry, RegistryError, SecretDigest, SqliteRegistry, Standing, State, TokenFault, TokenSubject,
};
use tcpremote::tls::PublicKey;

/// In the child: where its registry is, and from which number on its keys, tokens and names are new.
const DIRECTORY: &str = "REGISTRY_KILL_DIRECTORY";
const FIRST: &str = "REGISTRY_KILL_FIRST";
const SEED: &str = "REGISTRY_SEED";
const KILLS: &str = "REGISTRY_KILLS";
const DEFAULT_KILLS: u64 = 30;
/// However long the machine takes to start a process.
const DEADLINE: Duration = Duration::from_secs(60);
/// The longest that a child works until it is killed.
const MAX_WORK: Duration = Duration::from_millis(60);
const NOW: u64 = 1_800_000_000;
const SECRET: SecretDigest = SecretDigest([7; 32]);
/// More numbers than a child uses.
const NUMBERS: u64 = 100_000;

/// What a device was when that was last answered.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Fact {
    /// It has a name, and is let in or waits.
    Named(String, State),
    Revoked(String),
    /// Its place was taken by another key.
    Replaced,
    Removed,
}

#[test]
fn nothing_answered_is_lost_and_nothing_is_there_by_half_whenever_the_relay_is_killed() {
    if let Ok(directory) = env::var(DIRECTORY) {
        return work(Path::new(&directory), number(FIRST).expect("a number"), number(SEED).expect("a seed"));
    }
    let seed = number(SEED).unwrap_or_else(|| fastrand::u64(..1 << 32));
    let kills = number(KILLS).unwrap_or(DEFAULT_KILLS);
    say(&format!("{kills} kills; {SEED}={seed} plays the operations again"));
    let mut random = Rng::with_seed(seed);
    let directory = tempfile::tempdir().expect("a directory");
    let state = directory.path().join("state");
    let mut facts: HashMap<u64, Fact> = HashMap::new();
    let mut unanswered = 0;
    for kill in 0..kills {
        let first = kill * NUMBERS;
        let lines = run_and_kill(&state, first, random.u64(..), random.u64(..=MAX_WORK.as_micros() as u64));
        // "begin KEY", and when it was answered "KEY FACT".
        let mut begun = None;
        for line in lines {
            let (key, text) = line.split_once(' ').expect("two words");
            match key {
                "begin" => begun = Some(text.parse().expect("a key")),
                key => {
                    begun = None;
                    facts.insert(key.parse().expect("a key"), Fact::read(text));
                }
            }
        }
        unanswered += u64::from(begun.is_some());
        check(&state, &mut facts, begun);
    }
    say(&format!("{} devices; {unanswered} operations were cut", facts.len()));
    assert!(!facts.is_empty(), "the registry did nothing");
    check_cut_logs(&state, &mut random);
}

/// Starts a child on the registry, kills it, and returns what it wrote.
fn run_and_kill(state: &Path, first: u64, seed: u64, micros: u64) -> Vec<String> {
    let mut child = Command::new(env::current_exe().expect("this program"))
        .args(["--exact", "--nocapture", "--test-threads=1"])
        .arg("nothing_answered_is_lost_and_nothing_is_there_by_half_whenever_the_relay_is_killed")
        .env(DIRECTORY, state)
        .env(FIRST, first.to_string())
        .env(SEED, seed.to_string())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("a child");
    let output = child.stderr.take().expect("a pipe");
    let (sender, started) = mpsc::channel();
    let reader = thread::spawn(move || {
        let mut lines = Vec::new();
        let mut output = BufReader::new(output);
        let mut line = String::new();
        while output.read_line(&mut line).is_ok_and(|length| length > 0) {
            // A line that was cut is no answer.
            if let Some(whole) = line.strip_suffix('\n') {
                lines.push(whole.to_owned());
                let _ = sender.send(());
            }
            line.clear();
        }
        lines
    });
    let _ = started.recv_timeout(DEADLINE);
    let until = Instant::now() + Duration::from_micros(micros);
    while Instant::now() < until {
        thread::yield_now();
    }
    child.kill().expect("killed");
    child.wait().expect("ended");
    reader.join().expect("read")
}

/// The child: changes the registry until it is killed, and writes what it begins and what was answered.
fn work(state: &Path, first: u64, seed: u64) {
    let registry = SqliteRegistry::open(state).expect("a registry");
    let mut random = Rng::with_seed(seed);
    let mut devices: Vec<(u64, String)> = Vec::new();
    for key in first..first + NUMBERS {
        say(&format!("begin {key}"));
        let name = format!("pump-{key}");
        let fact = match random.u8(..4) {
            0 => {
                let newcomer = Newcomer { name: device(&name), key: public_key(key), labels: Labels::default() };
                ask(|answer| registry.add(newcomer, NOW, answer)).expect("added");
                Fact::Named(name, State::Active)
            }
            1 => join_pending(&registry, key, &name, random.bool()),
            _ => {
                join(&registry, key, key, &name, token(key, &name));
                Fact::Named(name, State::Active)
            }
        };
        answered(key, &fact, &mut random);
        if let Fact::Named(name, State::Active) = fact {
            devices.push((key, name));
        }
        if let Some(index) = (!devices.is_empty()).then(|| random.usize(..devices.len())) {
            let (key, name) = devices.swap_remove(index);
            say(&format!("begin {key}"));
            let fact = change(&registry, key, &name, &mut random);
            answered(key, &fact, &mut random);
            if let Fact::Named(name, _) = fact {
                devices.push((key, name));
            }
        }
    }
}

/// Writes what was answered. It waits a moment, so that many are killed with an answer as the last that they did.
fn answered(key: u64, fact: &Fact, random: &mut Rng) {
    say(&format!("{key} {}", fact.write()));
    thread::sleep(Duration::from_micros(random.u64(..2000)));
}

fn join(registry: &SqliteRegistry, key: u64, id: u64, name: &str, token: NewToken) {
    ask(|answer| registry.create_token(token, answer)).expect("a token");
    let decision = ask(|answer| registry.admit(candidate(key, Some(id)), answer)).expect("a decision");
    assert!(
        matches!(&decision, Decision::Admitted { principal, joined: true } if principal.name.as_str() == name),
        "{decision:?}"
    );
}

/// Joins, and is approved under another name.
fn join_pending(registry: &SqliteRegistry, key: u64, name: &str, approve: bool) -> Fact {
    ask(|answer| registry.create_token(NewToken { pending: true, ..token(key, name) }, answer)).expect("a token");
    let decision = ask(|answer| registry.admit(candidate(key, Some(key)), answer)).expect("a decision");
    assert!(matches!(decision, Decision::Pending(_)), "{decision:?}");
    if !approve {
        return Fact::Named(name.into(), State::Pending);
    }
    // It is pending for sure, and then it has the other name.
    say(&format!("{key} {}", Fact::Named(name.into(), State::Pending).write()));
    say(&format!("begin {key}"));
    let renamed = format!("press-{key}");
    ask(|answer| registry.approve(public_key(key).pin(), Some(device(&renamed)), NOW, answer)).expect("approved");
    Fact::Named(renamed, State::Active)
}

fn change(registry: &SqliteRegistry, key: u64, name: &str, random: &mut Rng) -> Fact {
    match random.u8(..5) {
        0 => {
            ask(|answer| registry.revoke(device(name), NOW, answer)).expect("revoked");
            Fact::Revoked(name.into())
        }
        1 => {
            ask(|answer| registry.remove(device(name), NOW, answer)).expect("removed");
            Fact::Removed
        }
        2 => {
            let (other, id) = (key + NUMBERS / 2, key + NUMBERS / 2);
            join(registry, other, id, name, NewToken { replace: true, ..token(id, name) });
            Fact::Replaced
        }
        3 => {
            ask(|answer| registry.revoke(device(name), NOW, answer)).expect("revoked");
            say(&format!("{key} {}", Fact::Revoked(name.into()).write()));
            say(&format!("begin {key}"));
            ask(|answer| registry.unrevoke(device(name), NOW, answer)).expect("unrevoked");
            Fact::Named(name.into(), State::Active)
        }
        _ => {
            let label: Label = format!("n={key}").parse().expect("a label");
            ask(|answer| registry.label(device(name), vec![label], Vec::new(), answer)).expect("labelled");
            Fact::Named(name.into(), State::Active)
        }
    }
}

/// Whether the registry is what was answered. Of the key in `begun` an operation was cut: it was done, or it was not.
fn check(state: &Path, facts: &mut HashMap<u64, Fact>, begun: Option<u64>) {
    let registry = SqliteRegistry::open(state).expect("a registry");
    let snapshot = registry.snapshot();
    for (key, fact) in facts.iter().filter(|(key, _)| Some(**key) != begun) {
        assert_eq!(Fact::now(&registry, *key).as_ref(), Some(fact), "key {key}");
        // The key that took its place has its name.
        if *fact == Fact::Replaced {
            let other = snapshot.standing(Kind::Device, &public_key(key + NUMBERS / 2).pin());
            assert!(matches!(other, Standing::Active(_)), "key {key}: {other:?}");
        }
    }
    if let Some(key) = begun {
        match Fact::now(&registry, key) {
            Some(fact) => facts.insert(key, fact),
            None => facts.remove(&key),
        };
    }
    for principal in snapshot.principals() {
        assert!(principal.keys.iter().any(|key| !key.is_revoked), "a name without a key: {principal:?}");
    }
    drop(registry);
    check_whole(state);
}

/// No used token without its key, no key without its principal, no name twice.
fn check_whole(state: &Path) {
    let database = rusqlite::Connection::open(state.join("registry.db")).expect("a database");
    let count = |what: &str| database.query_row(what, [], |row| row.get::<_, i64>(0)).expect("a count");
    let uses_without_key = "SELECT count(*) FROM uses WHERE pin NOT IN (SELECT pin FROM keys)";
    let keys_without_principal = "SELECT count(*) FROM keys WHERE principal NOT IN (SELECT id FROM principals)";
    let principals_without_key = "SELECT count(*) FROM principals WHERE id NOT IN (SELECT principal FROM keys)";
    let too_many_uses = "SELECT count(*) FROM tokens WHERE uses < (SELECT count(*) FROM uses WHERE token = id)";
    // A key that joined has used its token; those that were added have none.
    for what in [uses_without_key, keys_without_principal, principals_without_key, too_many_uses] {
        assert_eq!(count(what), 0, "{what}");
    }
    let whole: String = database.query_row("PRAGMA integrity_check", [], |row| row.get(0)).expect("checked");
    assert_eq!(whole, "ok");
}

/// What a loss of power can leave: a log of changes that ends anywhere. Earlier changes are whole then.
fn check_cut_logs(state: &Path, random: &mut Rng) {
    // A child that is killed leaves its log.
    let deadline = Instant::now() + DEADLINE;
    let mut first = u64::from(u32::MAX);
    let log = loop {
        run_and_kill(state, first, random.u64(..), 200_000);
        let log = fs::read(state.join("registry.db-wal")).unwrap_or_default();
        if log.len() > 100_000 {
            break log;
        }
        assert!(Instant::now() < deadline, "the log has only {} bytes", log.len());
        first += NUMBERS;
    };
    let copy = tempfile::tempdir().expect("a directory");
    for _ in 0..20 {
        let cut = copy.path().join(random.u64(..).to_string());
        fs::create_dir(&cut).expect("made");
        fs::set_permissions(&cut, std::os::unix::fs::PermissionsExt::from_mode(0o700)).expect("set");
        fs::copy(state.join("registry.db"), cut.join("registry.db")).expect("copied");
        fs::write(cut.join("registry.db-wal"), &log[..random.usize(..log.len())]).expect("written");
        drop(SqliteRegistry::open(&cut).expect("a registry"));
        check_whole(&cut);
    }
}

impl Fact {
    fn write(&self) -> String {
        match self {
            Self::Named(name, State::Pending) => format!("pending {name}"),
            Self::Named(name, _) => format!("active {name}"),
            Self::Revoked(name) => format!("revoked {name}"),
            Self::Replaced => "replaced".into(),
            Self::Removed => "removed".into(),
        }
    }

    fn read(text: &str) -> Self {
        match text.split_once(' ').unwrap_or((text, "")) {
            ("pending", name) => Self::Named(name.into(), State::Pending),
            ("active", name) => Self::Named(name.into(), State::Active),
            ("revoked", name) => Self::Revoked(name.into()),
            ("replaced", _) => Self::Replaced,
            ("removed", _) => Self::Removed,
            _ => panic!("not a fact: {text}"),
        }
    }

    /// What the registry answers; `None` if it has never heard of the key.
    fn now(registry: &SqliteRegistry, key: u64) -> Option<Self> {
        let pin = public_key(key).pin();
        let snapshot = registry.snapshot();
        let fact = match snapshot.standing(Kind::Device, &pin) {
            Standing::Active(principal) => Self::Named(principal.name.to_string(), State::Active),
            Standing::Pending(principal) => Self::Named(principal.name.to_string(), State::Pending),
            Standing::Revoked(principal) if principal.state == State::Revoked => {
                Self::Revoked(principal.name.to_string())
            }
            Standing::Revoked(_) => Self::Replaced,
            Standing::OtherKind => panic!("key {key} is a user's"),
            Standing::Unknown => {
                snapshot.by_key(&pin)?;
                Self::Removed
            }
        };
        // Whatever became of the key, another gets nothing by its token. Where it was added there is none.
        let other = ask(|answer| registry.admit(candidate(u64::MAX, Some(key)), answer)).expect("a decision");
        let is_refused = matches!(other, Decision::Refused(Refusal::Token(TokenFault::Used(_) | TokenFault::Unknown)));
        assert!(is_refused, "key {key}, {fact:?}: {other:?}");
        Some(fact)
    }
}

fn ask<T: Send + 'static>(operation: impl FnOnce(Answer<T>)) -> Result<T, RegistryError> {
    let (sender, receiver) = mpsc::channel();
    operation(Box::new(move |result| sender.send(result).expect("somebody waits")));
    receiver.recv_timeout(DEADLINE).expect("an answer")
}

fn public_key(number: u64) -> PublicKey {
    let mut der = [0x5a; 44];
    der[..12].copy_from_slice(&[0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00]);
    der[12..20].copy_from_slice(&number.to_be_bytes());
    PublicKey::from_spki(&der).expect("a key")
}

fn device(text: &str) -> PrincipalName {
    PrincipalName::new(Kind::Device, text).expect("a name")
}

fn token(id: u64, name: &str) -> NewToken {
    NewToken {
        id: TokenId(id.to_be_bytes()),
        secret: SECRET,
        subject: TokenSubject::Device(name.parse().expect("a pattern")),
        uses: 1,
        expires: NOW + 3600,
        labels: Labels::default(),
        pending: false,
        replace: false,
        pins: Pins { current: Pin([1; 32]), next: Pin([2; 32]) },
        creator: "root".into(),
        created: NOW - 60,
    }
}

fn candidate(key: u64, token: Option<u64>) -> Candidate {
    Candidate {
        kind: Kind::Device,
        key: public_key(key),
        wish: None::<ClaimedName>,
        token: token.map(|id| PresentedToken { id: TokenId(id.to_be_bytes()), secret: SECRET }),
        address: [192, 0, 2, 1].into(),
        now: NOW,
    }
}

fn number(variable: &str) -> Option<u64> {
    env::var(variable).ok().map(|text| text.parse().expect("a number"))
}

/// One write for a line, so that a kill cuts between lines.
fn say(text: &str) {
    let _ = io::stderr().write_all(format!("{text}\n").as_bytes());
}
