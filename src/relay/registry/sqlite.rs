//! The registry in a file, of which one thread writes.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::admission::{Candidate, Decision, Refusal};
use super::directory::StateDirectory;
use super::import::Newcomer;
use super::knocks::{Knock, Knocks};
use super::principal::{Principal, PrincipalId, PrincipalName};
use super::seen::{Last, Seen};
use super::snapshot::Snapshot;
use super::store::{Published, Store};
use super::token::{NewToken, OpenToken};
use super::{Answer, Listed, Registry, RegistryError, Watcher};
use crate::identity::{Label, Pin, Pins, TokenId};

/// Operations that may wait. More are refused: who comes by the network comes again.
const MAX_QUEUE: usize = 1024;
/// How late it is written when a principal was last seen.
const WRITE_SEEN_EVERY: Duration = Duration::from_secs(60);

/// The registry in a state directory, in SQLite.
///
/// When it is dropped, operations that wait are still done; the directory is free after that.
#[derive(Debug)]
pub struct SqliteRegistry {
    published: Arc<Published>,
    memory: Arc<Memory>,
    /// `None` once it is closed. The lock is held for as long as something is put in, which waits for nothing.
    queue: RwLock<Option<SyncSender<Job>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// An operation and its answer, or only that with the reason why it is not done.
type Job = Box<dyn FnOnce(Result<&mut Store, RegistryError>) + Send>;

/// What is written late, or never. Locks are held for no longer than it takes to look something up.
#[derive(Debug)]
struct Memory {
    knocks: Mutex<Knocks>,
    seen: Mutex<Seen>,
}

impl SqliteRegistry {
    /// Opens the registry of the directory, which is made if it is not there.
    ///
    /// # Errors
    /// Others could look into the directory, another process has it, or the registry in it cannot be read or written.
    pub fn open(directory: &Path) -> Result<Self, RegistryError> {
        Self::open_with(directory, MAX_QUEUE)
    }

    pub(super) fn open_with(directory: &Path, max_queue: usize) -> Result<Self, RegistryError> {
        let directory = StateDirectory::open(directory)?;
        let store = Store::open(directory.database()?)?;
        let seen = Mutex::new(Seen::new(store.last_seen()?));
        let memory = Arc::new(Memory { knocks: Mutex::default(), seen });
        let published = store.published();
        let (queue, jobs) = sync_channel(max_queue);
        let writer = Writer { store, memory: Arc::clone(&memory), is_failing: false, _directory: directory };
        let thread = thread::Builder::new().name("registry".into()).spawn(move || writer.run(&jobs));
        let thread = thread.map_err(|error| RegistryError::system("the registry's thread", &error))?;
        let (queue, thread) = (RwLock::new(Some(queue)), Mutex::new(Some(thread)));
        Ok(Self { published, memory, queue, thread })
    }

    /// Has the thread do it.
    fn submit<T: 'static>(
        &self,
        operation: impl FnOnce(&mut Store) -> Result<T, RegistryError> + Send + 'static,
        answer: Answer<T>,
    ) {
        let job: Job = Box::new(move |store| answer(store.and_then(operation)));
        let submitted = match self.queue.read().unwrap_or_else(PoisonError::into_inner).as_ref() {
            Some(queue) => queue.try_send(job),
            None => Err(TrySendError::Disconnected(job)),
        };
        match submitted {
            Err(TrySendError::Full(job)) => job(Err(RegistryError::Busy)),
            Err(TrySendError::Disconnected(job)) => job(Err(RegistryError::Closed)),
            Ok(()) => {}
        }
    }
}

impl Registry for SqliteRegistry {
    fn snapshot(&self) -> Arc<Snapshot> {
        self.published.latest()
    }

    fn watch(&self, watcher: Watcher) {
        self.published.watch(watcher);
    }

    fn admit(&self, candidate: Candidate, answer: Answer<Decision>) {
        let memory = Arc::clone(&self.memory);
        if let Some(decision) = candidate.decide_by_key(&self.snapshot()) {
            memory.note_decision(&candidate, &decision);
            return answer(Ok(decision));
        }
        let admit = move |store: &mut Store| {
            let (decision, joined) = store.admit(&candidate)?;
            if let Some((id, last)) = joined {
                lock(&memory.seen).note_written(id, last);
            }
            memory.note_decision(&candidate, &decision);
            Ok(decision)
        };
        self.submit(admit, answer);
    }

    fn list(&self) -> Vec<Listed> {
        let snapshot = self.snapshot();
        let seen = lock(&self.memory.seen);
        let listed = |principal: &Arc<Principal>| {
            let Last { seen, pins } = seen.last(principal.id);
            Listed { principal: Arc::clone(principal), seen, pins }
        };
        snapshot.principals().map(listed).collect()
    }

    fn knocks(&self) -> Vec<Knock> {
        lock(&self.memory.knocks).list()
    }

    fn note_seen(&self, principal: PrincipalId, now: u64) {
        if self.snapshot().by_id(principal).is_some() {
            lock(&self.memory.seen).note_seen(principal, now);
        }
    }

    fn note_told(&self, principal: PrincipalId, announced: Pins) {
        if self.snapshot().by_id(principal).is_some() {
            lock(&self.memory.seen).note_told(principal, announced);
        }
    }

    fn reserve(&self, names: Vec<PrincipalName>, answer: Answer<Vec<PrincipalName>>) {
        self.submit(move |store| Ok(store.reserve(names)), answer);
    }

    fn create_token(&self, token: NewToken, answer: Answer<()>) {
        self.submit(move |store| store.create_token(&token), answer);
    }

    fn delete_token(&self, id: TokenId, now: u64, answer: Answer<()>) {
        self.submit(move |store| store.delete_token(id, now), answer);
    }

    fn open_tokens(&self, now: u64, answer: Answer<Vec<OpenToken>>) {
        self.submit(move |store| store.open_tokens(now), answer);
    }

    fn approve(&self, pin: Pin, name: Option<PrincipalName>, now: u64, answer: Answer<Arc<Principal>>) {
        let memory = Arc::clone(&self.memory);
        let approve = move |store: &mut Store| {
            let knock = lock(&memory.knocks).find(&pin).cloned();
            let principal = store.approve(pin, knock.as_ref(), name.as_ref(), now)?;
            if let Some(knock) = knock {
                lock(&memory.seen).note_seen(principal.id, knock.last);
            }
            lock(&memory.knocks).forget(&pin);
            Ok(principal)
        };
        self.submit(approve, answer);
    }

    fn add(&self, newcomer: Newcomer, now: u64, answer: Answer<Arc<Principal>>) {
        let memory = Arc::clone(&self.memory);
        let add = move |store: &mut Store| {
            let principal = store.add(&newcomer, now)?;
            lock(&memory.knocks).forget(&newcomer.key.pin());
            Ok(principal)
        };
        self.submit(add, answer);
    }

    fn import(&self, table: String, now: u64, answer: Answer<usize>) {
        self.submit(move |store| store.import(&table, now), answer);
    }

    fn label(&self, name: PrincipalName, with: Vec<Label>, without: Vec<String>, answer: Answer<Arc<Principal>>) {
        self.submit(move |store| store.label(&name, &with, &without), answer);
    }

    fn revoke(&self, name: PrincipalName, now: u64, answer: Answer<Arc<Principal>>) {
        self.submit(move |store| store.revoke(&name, now), answer);
    }

    fn unrevoke(&self, name: PrincipalName, now: u64, answer: Answer<Arc<Principal>>) {
        self.submit(move |store| store.unrevoke(&name, now), answer);
    }

    fn remove(&self, name: PrincipalName, now: u64, answer: Answer<Arc<Principal>>) {
        self.submit(move |store| store.remove(&name, now), answer);
    }

    fn backup(&self, file: PathBuf, answer: Answer<()>) {
        self.submit(move |store| store.backup(&file), answer);
    }

    fn close(&self) {
        let queue = self.queue.write().unwrap_or_else(PoisonError::into_inner).take();
        // The thread ends when it has done all that was put in.
        drop(queue);
        let thread = lock(&self.thread).take();
        if let Some(thread) = thread {
            // It has panicked if this fails, and said so.
            let _ = thread.join();
        }
    }
}

impl Drop for SqliteRegistry {
    fn drop(&mut self) {
        self.close();
    }
}

/// The thread.
struct Writer {
    store: Store,
    memory: Arc<Memory>,
    /// The disk did not take what was written last, which is logged once.
    is_failing: bool,
    /// Dropped last, so that nobody else opens a database that is still open here.
    _directory: StateDirectory,
}

impl Writer {
    fn run(mut self, jobs: &Receiver<Job>) {
        let mut due = Instant::now() + WRITE_SEEN_EVERY;
        loop {
            match jobs.recv_timeout(due.saturating_duration_since(Instant::now())) {
                Ok(job) => job(Ok(&mut self.store)),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if Instant::now() >= due {
                self.write_seen();
                due = Instant::now() + WRITE_SEEN_EVERY;
            }
        }
        self.write_seen();
    }

    fn write_seen(&mut self) {
        let unwritten = lock(&self.memory.seen).take_unwritten();
        if unwritten.is_empty() {
            return;
        }
        let result = self.store.write_seen(&unwritten);
        let was_failing = std::mem::replace(&mut self.is_failing, result.is_err());
        match result {
            Ok(()) if was_failing => info!("when devices were last seen can be written again"),
            Ok(()) => {}
            Err(error) => {
                if !was_failing {
                    warn!(%error, "cannot write when devices were last seen; trying again each minute");
                }
                lock(&self.memory.seen).put_back(&unwritten);
            }
        }
    }
}

impl Memory {
    /// Keeps an unknown key for the operator to see; one that is known is none any more.
    fn note_decision(&self, candidate: &Candidate, decision: &Decision) {
        match decision {
            Decision::Refused(
                Refusal::Unknown | Refusal::Token(_) | Refusal::Wish | Refusal::NameTaken(_) | Refusal::NameReserved(_),
            ) => {
                lock(&self.knocks).note(candidate);
            }
            Decision::Admitted { joined: true, .. } | Decision::Pending(_) => {
                lock(&self.knocks).forget(&candidate.key.pin());
            }
            Decision::Admitted { joined: false, .. } | Decision::Refused(Refusal::Revoked(_)) => {}
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
