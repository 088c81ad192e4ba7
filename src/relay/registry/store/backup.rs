//! The whole registry as a file, and back.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OpenFlags, params};

use super::super::RegistryError;
use super::super::directory::{StateDirectory, open_private};
use super::super::schema::{self, Empty};
use super::rows::seconds;
use super::{Store, connect};

/// What a backup brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restored {
    /// Devices and users that are there now.
    pub principals: u64,
    /// Tokens that were open when the backup was made, and are void now: they may have been used since.
    pub voided: u64,
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
/// The file is no backup, or the registry cannot be written; it is as it was then.
pub fn restore(directory: &StateDirectory, file: &Path, now: u64) -> Result<Restored, RegistryError> {
    let of_file = |error: rusqlite::Error| RegistryError::of_database(file, &error);
    let (memory, restored) = load(file, now)?;
    let path = directory.database()?;
    let mut connection = match connect(&path) {
        Err(RegistryError::Damaged { .. }) => {
            set_aside(&path).map_err(|error| RegistryError::system(path.display().to_string(), &error))?;
            connect(&directory.database()?)?
        }
        other => other?,
    };
    copy(&memory, &mut connection).map_err(of_file)?;
    Ok(restored)
}

/// The backup in memory, checked, with the schema of today, and without open tokens.
fn load(file: &Path, now: u64) -> Result<(Connection, Restored), RegistryError> {
    let of_file = |error: rusqlite::Error| RegistryError::of_database(file, &error);
    let read = || {
        let source = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        let mut memory = Connection::open_in_memory()?;
        copy(&source, &mut memory)?;
        let found: String = memory.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))?;
        Ok((memory, found))
    };
    let (mut memory, found) = read().map_err(of_file)?;
    if found != "ok" {
        return Err(RegistryError::Damaged { path: file.to_owned(), reason: found });
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
        Ok(Restored { principals: principals.unsigned_abs(), voided: voided as u64 })
    };
    let restored = void().map_err(of_file)?;
    Ok((memory, restored))
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
