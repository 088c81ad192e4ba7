//! The directory in which the relay keeps its state: nobody else may look into it, and one process has it at a time.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::RegistryError;

/// The process that has the directory holds a lock on this.
const LOCK: &str = "lock";
const DATABASE: &str = "registry.db";
/// Nobody but the owner.
const PRIVATE_FILE: u32 = 0o600;
const PRIVATE_DIRECTORY: u32 = 0o700;
const OTHERS: u32 = 0o077;

/// A state directory that this process has, until this is dropped or the process ends in any way.
#[derive(Debug)]
pub struct StateDirectory {
    path: PathBuf,
    /// Locked.
    _lock: File,
}

impl StateDirectory {
    /// Takes the directory, which is made if it is not there.
    ///
    /// # Errors
    /// It cannot be made or written, others could look into it, or another process has it.
    pub fn open(path: &Path) -> Result<Self, RegistryError> {
        let failed = |reason: &io::Error| RegistryError::system(format!("state directory {}", path.display()), reason);
        match DirBuilder::new().mode(PRIVATE_DIRECTORY).create(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed(&error)),
            Ok(()) | Err(_) => {}
        }
        check(path, &fs::metadata(path).map_err(|error| failed(&error))?)?;
        let mut lock = open_private(&path.join(LOCK)).map_err(|error| failed(&error))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                let mut holder = String::new();
                let known =
                    Read::by_ref(&mut lock).take(20).read_to_string(&mut holder).is_ok_and(|_| is_number(&holder));
                let holder = if known { format!(" ({holder})") } else { String::new() };
                return Err(RegistryError::InUse { path: path.to_owned(), holder });
            }
            Err(error @ (Errno::NOLCK | Errno::OPNOTSUPP)) => {
                return Err(RegistryError::Directory(no_locks(path, error)));
            }
            Err(error) => return Err(failed(&error.into())),
        }
        // For the message of a second one alone, so that a full disk is no reason to fail.
        let _ = lock.set_len(0).and_then(|()| lock.rewind()).and_then(|()| write!(lock, "{}", std::process::id()));
        Ok(Self { path: path.to_owned(), _lock: lock })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file of the database, for the owner alone; made if it is not there. SQLite makes its other files alike.
    pub(super) fn database(&self) -> Result<PathBuf, RegistryError> {
        let path = self.path.join(DATABASE);
        let made = open_private(&path).and_then(|file| {
            file.set_permissions(Permissions::from_mode(PRIVATE_FILE))?;
            // The name of a new file is on disk when its directory is.
            File::open(&self.path)?.sync_all()
        });
        made.map_err(|error| RegistryError::system(path.display().to_string(), &error))?;
        Ok(path)
    }
}

/// A file system of another machine may know no locks.
fn no_locks(path: &Path, error: Errno) -> String {
    let (path, error) = (path.display(), io::Error::from(error));
    format!("state directory {path} is on a file system without locks ({error}); give one on a disk of this machine")
}

/// Opens a file for the owner alone, to read and write. What is in it stays.
pub(super) fn open_private(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(PRIVATE_FILE).open(path)
}

fn check(path: &Path, metadata: &fs::Metadata) -> Result<(), RegistryError> {
    let path = path.display();
    let mode = metadata.permissions().mode() & 0o7777;
    let own = rustix::process::geteuid().as_raw();
    let message = if !metadata.is_dir() {
        format!("{path} is no directory; give one for the relay's state")
    } else if metadata.uid() != own {
        let owner = metadata.uid();
        format!("state directory {path} belongs to user {owner}, and this is user {own}; run this as its owner")
    } else if mode & OTHERS != 0 {
        format!("state directory {path} is open to others (mode {mode:04o}); run: chmod 700 {path}")
    } else {
        return Ok(());
    };
    Err(RegistryError::Directory(message))
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_without_locks_is_named_with_what_to_do() {
        let text = no_locks(Path::new("/state"), Errno::NOLCK);
        assert!(
            text.starts_with("state directory /state is on a file system without locks (No locks available"),
            "{text}"
        );
        assert!(text.ends_with("give one on a disk of this machine"), "{text}");
    }
}
