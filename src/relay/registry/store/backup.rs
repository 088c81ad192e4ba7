//! The whole registry as a file, and back.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OpenFlags, params};

use super::super::RegistryError;
use super::super::directory::{StateDirectory, open_private};
use super::super::principal::{Principal, State};
use super::super::schema::{self, Empty};
use super::super::snapshot::{Snapshot, Standing};
use super::rows::{self, seconds};
use super::{Store, connect};

/// How every SQLite database begins.
const MAGIC: &[u8; 16] = b"SQLite format 3\0";

/// What a backup brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    /// Devices and users that are there now.
    pub principals: u64,
    /// Tokens that were open when the backup was made, and are void now: they may have been used since.
    pub voided: u64,
    /// How the registry before it differs.
    pub lost: Lost,
}

/// What a registry knows, and a backup that takes its place does not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lost {
    /// That registry was damaged, so nobody can tell.
    Unknown,
    /// These principals.
    Known {
        /// Those that are let in again, each with what was done to it since.
        undone: Vec<String>,
        /// Those that have joined since, whose keys are unknown now.
        joined: Vec<String>,
        /// Those that have joined and were revoked since, whose keys are unknown now as if nobody had refused them.
        forgotten: Vec<String>,
    },
}

impl Store {
    /// Writes the registry to a new file, for the owner alone. It is whole once it has its name.
    pub(in super::super) fn backup(&self, file: &Path) -> Result<(), RegistryError> {
        let system = |error: &io::Error| RegistryError::system(format!("backup {}", file.display()), error);
        if file.exists() {
            return Err(RegistryError::Usage(format!("{} is there already; give another name", file.display())));
        }
        let partial = with_suffix(file, ".partial");
        let written = self.write_backup(&partial).and_then(|()| {
            fs::rename(&partial, file).and_then(|()| sync_directory_of(file)).map_err(|error| system(&error))
        });
        if written.is_err() {
            // What is left of it has another name than a backup, if even this fails.
            let _ = fs::remove_file(&partial);
        }
        written
    }

    fn write_backup(&self, partial: &Path) -> Result<(), RegistryError> {
        let system = |error: io::Error| RegistryError::system(format!("backup {}", partial.display()), &error);
        // SQLite writes into an empty file, which has its permissions before it has anything in it.
        let made = open_private(partial).map_err(system)?;
        made.set_len(0).map_err(system)?;
        let path = partial.to_str().ok_or_else(|| RegistryError::Usage("the file's name must be UTF-8".into()))?;
        let vacuum = self.connection.execute("VACUUM INTO ?1", [path]);
        vacuum.map_err(|error| RegistryError::of_database(partial, &error))?;
        made.sync_all().map_err(system)
    }
}

/// Puts a backup in the place of the registry, in one transaction; its open tokens are void then. A registry that cannot
/// be read is kept beside it, with `.damaged` behind its name.
///
/// # Errors
/// The file is no backup, or the registry cannot be written; or the backup would let in devices again that were revoked or
/// removed since, unless that is wanted. The registry is as it was then.
pub fn restore(
    directory: &StateDirectory,
    file: &Path,
    now: u64,
    lets_in_again: bool,
) -> Result<Restored, RegistryError> {
    check_file(file)?;
    let (memory, (principals, voided)) = load(file, now)?;
    let backup = rows::principals(&memory, None).map_err(|fault| no_backup(file, fault.at(file)))?;
    let path = directory.database()?;
    // Much of a damaged registry may be whole: only who reads all of it sees that it is not.
    let opened = connect(&path).and_then(|connection| {
        let registry = rows::principals(&connection, None).map_err(|fault| fault.at(&path))?;
        Ok((connection, compare(&registry, &Snapshot::of(backup))))
    });
    let (mut connection, lost) = match opened {
        Err(RegistryError::Damaged { .. }) => {
            set_aside(&path).map_err(|error| RegistryError::system(path.display().to_string(), &error))?;
            (connect(&directory.database()?)?, Lost::Unknown)
        }
        other => other?,
    };
    if let Lost::Known { undone, .. } = &lost
        && !undone.is_empty()
        && !lets_in_again
    {
        return Err(RegistryError::Undone(undone.clone()));
    }
    copy(&memory, &mut connection).map_err(|error| RegistryError::of_database(&path, &error))?;
    Ok(Restored { principals, voided, lost })
}

/// What is seen of a file before SQLite looks at it, which tells less.
fn check_file(file: &Path) -> Result<(), RegistryError> {
    let no_backup = |found: String| RegistryError::NoBackup { path: file.to_owned(), found };
    let metadata = match fs::metadata(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(no_backup("there is no such file".into())),
        other => other.map_err(|error| no_backup(error.to_string()))?,
    };
    if metadata.is_dir() {
        return Err(no_backup("it is a directory".into()));
    }
    if metadata.len() == 0 {
        return Err(no_backup("it is empty".into()));
    }
    let mut magic = [0; MAGIC.len()];
    let read = File::open(file).and_then(|mut file| file.read_exact(&mut magic));
    match read {
        Ok(()) if magic == *MAGIC => Ok(()),
        Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => Err(no_backup(error.to_string())),
        Ok(()) | Err(_) => Err(no_backup("it is no SQLite database".into())),
    }
}

/// How a registry differs from a backup, in what matters when the one takes the other's place.
fn compare(registry: &[Principal], backup: &Snapshot) -> Lost {
    let (mut undone, mut joined, mut forgotten) = (Vec::new(), Vec::new(), Vec::new());
    for principal in registry {
        let Principal { name, state, keys, .. } = principal;
        for key in keys {
            let is_revoked = key.is_revoked || *state == State::Revoked;
            let is_refused = is_revoked || *state == State::Removed;
            let text = || format!("{name} ({})", key.pin);
            match backup.standing(name.kind(), &key.pin) {
                Standing::Active(before) | Standing::Pending(before) => {
                    let since = if *state == State::Removed { "removed" } else { "revoked" };
                    undone.extend(is_refused.then(|| format!("{} ({since}, {})", before.name, key.pin)));
                }
                Standing::Unknown if is_revoked => forgotten.push(text()),
                Standing::Unknown | Standing::Revoked(_) | Standing::OtherKind => {
                    joined.extend((!is_refused).then(text));
                }
            }
        }
    }
    Lost::Known { undone, joined, forgotten }
}

/// The backup in memory, checked, with the schema of today, and without open tokens; how many principals it has, and how
/// many tokens were open.
fn load(file: &Path, now: u64) -> Result<(Connection, (u64, u64)), RegistryError> {
    let of_file = |error: rusqlite::Error| no_backup(file, RegistryError::of_database(file, &error));
    let read = || {
        let source = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        let mut memory = Connection::open_in_memory()?;
        copy(&source, &mut memory)?;
        let found: String = memory.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))?;
        Ok((memory, found))
    };
    let (mut memory, found) = read().map_err(of_file)?;
    if found != "ok" {
        return Err(RegistryError::NoBackup { path: file.to_owned(), found: format!("it is damaged, {found}") });
    }
    schema::migrate(&mut memory, file, Empty::IsNone)?;
    let void = || {
        let update = "UPDATE tokens SET void = ?1
            WHERE void IS NULL AND (SELECT count(*) FROM uses WHERE token = id) < uses AND expires > ?1";
        let voided = memory.execute(update, params![seconds(now)])?;
        // An expired one too: the clock may be set back.
        memory.execute("UPDATE tokens SET void = ?1 WHERE void IS NULL", params![seconds(now)])?;
        let count = "SELECT count(*) FROM principals WHERE state <> 'removed'";
        let principals: i64 = memory.query_row(count, [], |row| row.get(0))?;
        Ok((principals.unsigned_abs(), voided as u64))
    };
    let counts = void().map_err(of_file)?;
    Ok((memory, counts))
}

/// A damaged file is no registry that a backup could mend.
fn no_backup(file: &Path, error: RegistryError) -> RegistryError {
    let RegistryError::Damaged { reason, .. } = error else { return error };
    RegistryError::NoBackup { path: file.to_owned(), found: format!("it is damaged, {reason}") }
}

/// All of one database in place of all of another, in one transaction.
fn copy(from: &Connection, to: &mut Connection) -> rusqlite::Result<()> {
    if matches!(Backup::new(from, to)?.step(-1)?, StepResult::Done) {
        return Ok(());
    }
    // Another program has one of them locked.
    Err(rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_BUSY), None))
}

/// The log first: without it the database is as damaged as before.
fn set_aside(path: &Path) -> io::Result<()> {
    for suffix in ["-wal", ""] {
        match fs::rename(with_suffix(path, suffix), with_suffix(&with_suffix(path, ".damaged"), suffix)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
    }
    sync_directory_of(path)
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut text = path.as_os_str().to_owned();
    text.push(suffix);
    text.into()
}

fn sync_directory_of(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(parent.unwrap_or_else(|| Path::new(".")))?.sync_all()
}
