//! Why the registry did not do what it was asked.

use std::io;
use std::path::{Path, PathBuf};

use rusqlite::ErrorCode;

use crate::identity::NameError;
use crate::tls::PublicKeyTextError;

/// Why the registry did not do what it was asked. Nothing is changed then, on disk or in memory.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// What was asked makes no sense, or cannot be done as things are. The text says why, and what to do.
    #[error("{0}")]
    Usage(String),
    /// Lines of a file to import are wrong; none of it was taken.
    #[error("nothing was imported: {}", .0.join("; "))]
    Import(Vec<String>),
    /// More is asked of the registry at once than it queues.
    #[error("the registry has too much to do; try again")]
    Busy,
    /// It has not answered in time, and may still do what it was asked.
    #[error(
        "the registry has not answered within 50 s, and may still do what was asked; the relay's log says when, so look there \
         before you ask again"
    )]
    Late,
    /// The registry has ended.
    #[error("the registry is closed")]
    Closed,
    /// The state directory, or a file in it, is not as it must be.
    #[error("{0}")]
    Directory(String),
    /// Another process has the state directory.
    #[error("{path} is in use by another process{holder}; there is one relay for a state directory: stop that one first", path = .path.display())]
    InUse {
        /// The state directory.
        path: PathBuf,
        /// Its process id, in parentheses, if it is known.
        holder: String,
    },
    /// A later version of the relay wrote the registry.
    #[error("{path} has schema {found}, and this relay knows {known} at most; install the version that wrote it, or a later one", path = .path.display())]
    Newer {
        /// The registry.
        path: PathBuf,
        /// Its schema.
        found: i64,
        /// The newest that is known here.
        known: i64,
    },
    /// A file to restore is not what a backup is.
    #[error("{path} is no backup: {found}; give a file that 'tcp-remote-relay backup' wrote", path = .path.display())]
    NoBackup {
        /// The file.
        path: PathBuf,
        /// What it is.
        found: String,
    },
    /// A backup would let in devices that are refused by now. Each is named, with what was done to it.
    #[error(
        "since the backup was made these were revoked or removed, and it lets them in again: {}; restore it with --force, and \
         revoke or remove them once more as soon as the relay runs",
        .0.join(", ")
    )]
    Undone(Vec<String>),
    /// The disk is full.
    #[error("no space is left for {path}, so nothing was changed; free some and try again", path = .path.display())]
    Full {
        /// The registry.
        path: PathBuf,
    },
    /// Another program has locked the registry.
    #[error("{path} is locked by another program, so nothing was changed; end it (is sqlite3 open?) and try again", path = .path.display())]
    Locked {
        /// The registry.
        path: PathBuf,
    },
    /// Its disk takes nothing, or gives nothing.
    #[error("{path}: {reason}, so nothing was changed; check its disk, and whether that may be written to", path = .path.display())]
    Disk {
        /// The registry.
        path: PathBuf,
        /// What the database said.
        reason: String,
    },
    /// The registry cannot be read.
    #[error("{path} is damaged: {reason}; stop the relay and restore a backup", path = .path.display())]
    Damaged {
        /// The registry.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The system, or the database, refused it.
    #[error("{what}: {reason}")]
    System {
        /// What was attempted.
        what: String,
        /// What the system said.
        reason: String,
    },
}

impl RegistryError {
    /// Whether what was asked is at fault, and not the system.
    pub fn is_usage(&self) -> bool {
        matches!(self, Self::Usage(_) | Self::Import(_) | Self::NoBackup { .. } | Self::Undone(_) | Self::Newer { .. })
    }

    /// Of a database in the file `path`.
    pub(super) fn of_database(path: &Path, error: &rusqlite::Error) -> Self {
        use rusqlite::Error::{FromSqlConversionFailure, IntegralValueOutOfRange, InvalidColumnType};
        let path = path.to_owned();
        // The tables allow no value that is read otherwise.
        if matches!(error, FromSqlConversionFailure(..) | IntegralValueOutOfRange(..) | InvalidColumnType(..)) {
            return Self::Damaged { path, reason: error.to_string() };
        }
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Self::Full { path },
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Locked { path },
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                Self::Damaged { path, reason: error.to_string() }
            }
            Some(ErrorCode::ReadOnly | ErrorCode::SystemIoFailure) => Self::Disk { path, reason: error.to_string() },
            _ => Self::System { what: path.display().to_string(), reason: error.to_string() },
        }
    }

    pub(super) fn system(what: impl Into<String>, reason: &io::Error) -> Self {
        Self::System { what: what.into(), reason: reason.to_string() }
    }
}

impl From<PublicKeyTextError> for RegistryError {
    fn from(error: PublicKeyTextError) -> Self {
        Self::Usage(error.to_string())
    }
}

impl From<NameError> for RegistryError {
    fn from(error: NameError) -> Self {
        Self::Usage(error.to_string())
    }
}
