//! The database, and the transactions that change it. One thread has it.

mod admission;
mod backup;
mod import;
mod principals;
mod rows;
mod tokens;

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, Transaction, TransactionBehavior, params};

use super::principal::{Labels, PrincipalId, PrincipalName, State};
use super::schema::{self, Empty};
use super::seen::Last;
use super::snapshot::Snapshot;
use super::{RegistryError, Watcher};
use crate::tls::PublicKey;
pub use backup::{Lost, Restored, restore};
use rows::{kind_text, pin_bytes, seconds};

/// How long another program may have the database locked.
const BUSY: Duration = Duration::from_secs(1);

/// The snapshot that is true now, and who is told when another one is.
pub(super) struct Published {
    /// The lock is held for as long as a reference is copied.
    snapshot: Mutex<Arc<Snapshot>>,
    watchers: Mutex<Vec<Watcher>>,
}

impl fmt::Debug for Published {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Published").field("number", &self.latest().number()).finish_non_exhaustive()
    }
}

/// The database.
#[derive(Debug)]
pub(super) struct Store {
    pub(super) connection: Connection,
    path: PathBuf,
    published: Arc<Published>,
    /// The same as `published`: nobody else publishes.
    snapshot: Arc<Snapshot>,
}

/// A change in the making: what it does, and which principals are others then.
pub(super) struct Change<'a> {
    transaction: Transaction<'a>,
    /// What was true before.
    snapshot: &'a Snapshot,
    touched: BTreeSet<PrincipalId>,
}

/// Why a change is not made.
pub(super) enum Fault {
    Database(rusqlite::Error),
    Registry(RegistryError),
}

impl Published {
    pub(super) fn latest(&self) -> Arc<Snapshot> {
        Arc::clone(&lock(&self.snapshot))
    }

    pub(super) fn watch(&self, watcher: Watcher) {
        lock(&self.watchers).push(watcher);
    }

    fn publish(&self, snapshot: Arc<Snapshot>) {
        let old = std::mem::replace(&mut *lock(&self.snapshot), snapshot);
        // Not under the lock: it may be the last reference, and there is much to free.
        drop(old);
        lock(&self.watchers).iter().for_each(|watcher| watcher());
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Store {
    /// Opens the database in the file, which is empty at first.
    pub(super) fn open(path: PathBuf) -> Result<Self, RegistryError> {
        let connection = connect(&path)?;
        let principals = rows::principals(&connection, None).map_err(|fault| fault.at(&path))?;
        let snapshot = Arc::new(Snapshot::of(principals));
        let published = Arc::new(Published { snapshot: Mutex::new(Arc::clone(&snapshot)), watchers: Mutex::default() });
        Ok(Self { connection, path, published, snapshot })
    }

    pub(super) fn published(&self) -> Arc<Published> {
        Arc::clone(&self.published)
    }

    /// Makes a change in one transaction. It is on the disk, and in the snapshot, when this returns; or it is nowhere.
    fn change<T>(&mut self, make: impl FnOnce(&mut Change<'_>) -> Result<T, Fault>) -> Result<T, RegistryError> {
        let made = change(&mut self.connection, &self.snapshot, make);
        let (result, next) = made.map_err(|fault| fault.at(&self.path))?;
        if let Some(next) = next {
            self.snapshot = Arc::new(next);
            self.published.publish(Arc::clone(&self.snapshot));
        }
        Ok(result)
    }

    /// Has no principal be given these names from here on; those that principals have already.
    pub(super) fn reserve(&mut self, names: Vec<PrincipalName>) -> Vec<PrincipalName> {
        let taken = names.iter().filter(|name| self.snapshot.by_name(name).is_some()).cloned().collect();
        self.snapshot = Arc::new(self.snapshot.reserving(names));
        self.published.publish(Arc::clone(&self.snapshot));
        taken
    }

    /// When principals were last seen, and by which keys they know the relay.
    pub(super) fn last_seen(&self) -> Result<HashMap<PrincipalId, Last>, RegistryError> {
        rows::last_seen(&self.connection).map_err(|error| Fault::from(error).at(&self.path))
    }

    /// Writes when principals were last seen, and by which keys they know the relay.
    pub(super) fn write_seen(&mut self, all: &[(PrincipalId, Last)]) -> Result<(), RegistryError> {
        self.change(|change| Ok(change.write_seen(all)?))
    }
}

fn change<T>(
    connection: &mut Connection,
    snapshot: &Snapshot,
    make: impl FnOnce(&mut Change<'_>) -> Result<T, Fault>,
) -> Result<(T, Option<Snapshot>), Fault> {
    if !connection.is_autocommit() {
        // The last transaction could not even be rolled back, which a full disk can do.
        connection.execute_batch("ROLLBACK")?;
    }
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut change = Change { transaction, snapshot, touched: BTreeSet::new() };
    let result = make(&mut change)?;
    // Read before the commit, after which nothing may fail any more.
    let mut changed = Vec::with_capacity(change.touched.len());
    for id in &change.touched {
        changed.append(&mut rows::principals(&change.transaction, Some(*id))?);
    }
    change.transaction.commit()?;
    Ok((result, (!changed.is_empty()).then(|| snapshot.next(changed))))
}

/// Opens a database for this process alone, so that nothing needs to be shared with others.
fn connect(path: &Path) -> Result<Connection, RegistryError> {
    let failed = |error: rusqlite::Error| RegistryError::of_database(path, &error);
    let open = || {
        let connection = Connection::open(path)?;
        connection.busy_timeout(BUSY)?;
        connection.execute_batch(
            "PRAGMA locking_mode = EXCLUSIVE;
             PRAGMA journal_mode = WAL;
             PRAGMA synchronous = FULL;
             PRAGMA foreign_keys = ON;
             PRAGMA trusted_schema = OFF;
             PRAGMA temp_store = MEMORY;",
        )?;
        Ok(connection)
    };
    let mut connection = open().map_err(failed)?;
    schema::migrate(&mut connection, path, Empty::BecomesOne)?;
    Ok(connection)
}

impl Change<'_> {
    fn insert(
        &mut self,
        name: &PrincipalName,
        state: State,
        labels: &Labels,
        now: u64,
    ) -> Result<PrincipalId, rusqlite::Error> {
        let insert =
            "INSERT INTO principals (kind, name, state, labels, created, changed) VALUES (?1, ?2, ?3, ?4, ?5, ?5)";
        let (kind, state) = (kind_text(name.kind()), state.as_str());
        self.transaction.execute(insert, params![kind, name.as_str(), state, labels.to_string(), seconds(now)])?;
        let id = PrincipalId(self.transaction.last_insert_rowid());
        self.touch(id);
        Ok(id)
    }

    fn set_state(&mut self, id: PrincipalId, state: State, now: u64) -> Result<(), rusqlite::Error> {
        self.touch(id);
        let update = "UPDATE principals SET state = ?2, changed = ?3 WHERE id = ?1";
        self.transaction.execute(update, params![id.0, state.as_str(), seconds(now)]).map(drop)
    }

    fn set_name(&mut self, id: PrincipalId, name: &PrincipalName) -> Result<(), rusqlite::Error> {
        self.touch(id);
        let update = "UPDATE principals SET name = ?2 WHERE id = ?1";
        self.transaction.execute(update, params![id.0, name.as_str()]).map(drop)
    }

    fn set_labels(&mut self, id: PrincipalId, labels: &Labels) -> Result<(), rusqlite::Error> {
        self.touch(id);
        let update = "UPDATE principals SET labels = ?2 WHERE id = ?1";
        self.transaction.execute(update, params![id.0, labels.to_string()]).map(drop)
    }

    /// Gives a key to the principal: one that is unknown, or whose principal is removed.
    fn bind(&mut self, id: PrincipalId, key: &PublicKey, now: u64) -> Result<(), rusqlite::Error> {
        self.touch(id);
        let pin = key.pin();
        if let Some(old) = self.snapshot.by_key(&pin) {
            self.touch(old.id);
        }
        let insert = "INSERT INTO keys (pin, key, principal, added) VALUES (?1, ?2, ?3, ?4)
            ON CONFLICT (pin) DO UPDATE SET principal = excluded.principal, added = excluded.added";
        self.transaction.execute(insert, params![pin.0, key.to_spki(), id.0, seconds(now)]).map(drop)
    }

    /// Revokes the keys that the principal has; for ever.
    fn revoke_keys(&mut self, id: PrincipalId, now: u64) -> Result<(), rusqlite::Error> {
        self.touch(id);
        let update = "UPDATE keys SET revoked = ?2 WHERE principal = ?1 AND revoked IS NULL";
        self.transaction.execute(update, params![id.0, seconds(now)]).map(drop)
    }

    fn write_seen(&mut self, all: &[(PrincipalId, Last)]) -> Result<(), rusqlite::Error> {
        let mut update = self.transaction.prepare("UPDATE principals SET seen = ?2, pins = ?3 WHERE id = ?1")?;
        for (id, Last { seen, pins }) in all {
            update.execute(params![id.0, seen.map(seconds), pins.map(pin_bytes)])?;
        }
        Ok(())
    }

    fn touch(&mut self, id: PrincipalId) {
        self.touched.insert(id);
    }
}

impl Fault {
    fn at(self, path: &Path) -> RegistryError {
        match self {
            Self::Database(error) => RegistryError::of_database(path, &error),
            Self::Registry(error) => error,
        }
    }

    fn usage(text: impl Into<String>) -> Self {
        Self::Registry(RegistryError::Usage(text.into()))
    }
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        Self::Database(error)
    }
}

impl From<RegistryError> for Fault {
    fn from(error: RegistryError) -> Self {
        Self::Registry(error)
    }
}
