//! The files of the relay's keys: its own, and the public part of the one that follows it.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use zeroize::Zeroizing;

use super::permissions::hint;
use crate::identity::{Pin, Pins};
use crate::tls::{Key, KeyError, PublicKey};

/// Nobody but the owner.
const PRIVATE: u32 = 0o600;
/// Of root's, which a service reads as its group.
const SHARED: u32 = 0o640;
const PUBLIC: u32 = 0o644;
/// A group may read a private key, so that a service's user can have it from root. Nothing more.
const FORBIDDEN: u32 = 0o137;
/// The longest file of a key.
const MAX_SIZE: u64 = 4096;
/// What is put behind the name of a file that is not whole yet.
const PARTIAL: &str = ".partial";

/// The keys of a relay that runs.
#[derive(Clone, Debug)]
pub struct Keys {
    /// Its own.
    pub key: Arc<Key>,
    /// The pin of the one that follows.
    pub next: Pin,
}

/// Why a key cannot be had, or kept. The text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// The file is not there.
    #[error("there is no {what} {path}; make keys with 'tcp-remote-relay init DIR', or correct the path", path = .path.display())]
    Missing {
        /// Which key.
        what: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// The file cannot be read or written.
    #[error("{path}: {reason}{hint}", path = .path.display(), hint = hint(.reason))]
    System {
        /// The file.
        path: PathBuf,
        /// What the system said.
        reason: io::Error,
    },
    /// Others could read the private key.
    #[error("{path} may be read or written by others (mode {mode:04o}); run: chmod {right:o} {path}", path = .path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
        /// What they should be.
        right: u32,
    },
    /// The file holds no private key.
    #[error("{path}: {reason}", path = .path.display())]
    NoKey {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: KeyError,
    },
    /// The file holds no public key.
    #[error("{path} holds no public key; it is one line, which 'tcp-remote-relay init' or 'rotate-key' wrote", path = .0.display())]
    NoPublicKey(PathBuf),
    /// The two keys are one.
    #[error(
        "{key} and {next} are one key, so that none could follow it; a change of the key was interrupted: finish it with \
         'tcp-remote-relay rotate-key'",
        key = .key.display(), next = .next.display()
    )]
    Same {
        /// The file of the key.
        key: PathBuf,
        /// The file of the next.
        next: PathBuf,
    },
    /// Another program changes keys there.
    #[error(
        "another 'rotate-key' or 'init' is at work in {path}, so nothing was changed; look at what that one prints before you \
         run this again",
        path = .0.display()
    )]
    InUse(PathBuf),
    /// The system gave no key.
    #[error(transparent)]
    Generate(#[from] KeyError),
}

/// Held while the keys of a directory are changed: two programs that did so at once would leave keys that no device knows.
#[derive(Debug)]
pub struct KeysLock {
    /// Locked, until it is closed.
    _directory: File,
}

impl KeysLock {
    /// Of the directory of this file.
    ///
    /// # Errors
    /// [`KeysError::InUse`], or the directory cannot be locked.
    pub fn take(beside: &Path) -> Result<Self, KeysError> {
        let path = directory_of(beside);
        let directory = File::open(path).map_err(|reason| system(path, reason))?;
        match flock(&directory, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { _directory: directory }),
            Err(Errno::WOULDBLOCK) => Err(KeysError::InUse(path.to_owned())),
            Err(reason) => Err(system(path, reason.into())),
        }
    }
}

impl Keys {
    /// Reads both.
    ///
    /// # Errors
    /// One is not there, is none, or may be read by others; or they are the same.
    pub fn read(key: &Path, next: &Path) -> Result<Self, KeysError> {
        let read = Self { key: Arc::new(read_private(key)?), next: read_public(next)?.pin() };
        if read.key.public().pin() == read.next {
            return Err(KeysError::Same { key: key.to_owned(), next: next.to_owned() });
        }
        Ok(read)
    }

    /// What devices are told.
    pub fn pins(&self) -> Pins {
        Pins { current: self.key.public().pin(), next: self.next }
    }
}

/// Reads a private key.
///
/// # Errors
/// It is not there, is none, or may be read by others.
pub fn read_private(path: &Path) -> Result<Key, KeysError> {
    let (file, der) = read(path, "private key")?;
    let metadata = file.metadata().map_err(|reason| system(path, reason))?;
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & FORBIDDEN != 0 {
        let right = if metadata.uid() == 0 && metadata.gid() != 0 { SHARED } else { PRIVATE };
        return Err(KeysError::Open { path: path.to_owned(), mode, right });
    }
    Key::from_pkcs8(&der).map_err(|reason| KeysError::NoKey { path: path.to_owned(), reason })
}

/// Reads a public key.
///
/// # Errors
/// It is not there, or is none.
pub fn read_public(path: &Path) -> Result<PublicKey, KeysError> {
    let (_, text) = read(path, "public key")?;
    let key = str::from_utf8(&text).ok().and_then(|text| text.trim().parse().ok());
    key.ok_or_else(|| KeysError::NoPublicKey(path.to_owned()))
}

fn read(path: &Path, what: &'static str) -> Result<(File, Zeroizing<Vec<u8>>), KeysError> {
    let mut file = File::open(path).map_err(|reason| {
        if reason.kind() == io::ErrorKind::NotFound {
            KeysError::Missing { what, path: path.to_owned() }
        } else {
            system(path, reason)
        }
    })?;
    // As much as is needed at once: what grows leaves copies of a secret behind.
    let mut content = Zeroizing::new(Vec::with_capacity(MAX_SIZE as usize));
    (&mut file).take(MAX_SIZE).read_to_end(&mut content).map_err(|reason| system(path, reason))?;
    Ok((file, content))
}

/// Writes a private key in the place of the file, for the owner alone. It is whole and on the disk when it has its name.
/// Where there was no file, the owner is that of `beside`.
///
/// # Errors
/// It cannot be written; the file is as it was then.
pub fn write_private(path: &Path, key: &Key, beside: &Path) -> Result<(), KeysError> {
    write(path, &key.to_pkcs8(), PRIVATE, beside)
}

/// Writes a public key, likewise, for all to read.
///
/// # Errors
/// It cannot be written; the file is as it was then.
pub fn write_public(path: &Path, key: &PublicKey, beside: &Path) -> Result<(), KeysError> {
    write(path, format!("{key}\n").as_bytes(), PUBLIC, beside)
}

fn write(path: &Path, content: &[u8], mode: u32, beside: &Path) -> Result<(), KeysError> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(PARTIAL);
    let partial = PathBuf::from(partial);
    let written = (|| {
        // One that was left behind has whatever permissions it has.
        match fs::remove_file(&partial) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&partial)?;
        // Whoever reads the file before is to read this one, though root may write it for the relay's user.
        if let Ok(before) = fs::metadata(path) {
            let now = file.metadata()?;
            if (now.uid(), now.gid()) != (before.uid(), before.gid()) {
                fchown(&file, Some(before.uid()), Some(before.gid()))?;
            }
            file.set_permissions(Permissions::from_mode((before.mode() & 0o777 & !FORBIDDEN) | mode))?;
        } else if let Ok(beside) = fs::metadata(beside)
            && beside.uid() != file.metadata()?.uid()
        {
            fchown(&file, Some(beside.uid()), None)?;
        }
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&partial, path)?;
        File::open(directory_of(path))?.sync_all()
    })();
    if written.is_err() {
        // The error that is given back is the one that matters.
        let _ = fs::remove_file(&partial);
    }
    written.map_err(|reason| system(path, reason))
}

fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."))
}

fn system(path: &Path, reason: io::Error) -> KeysError {
    KeysError::System { path: path.to_owned(), reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Files {
        directory: tempfile::TempDir,
    }

    impl Files {
        fn new() -> Self {
            Self { directory: tempfile::tempdir().expect("a directory") }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.directory.path().join(name)
        }

        fn read(&self) -> Result<Keys, String> {
            Keys::read(&self.path("key"), &self.path("next")).map_err(|error| error.to_string())
        }
    }

    #[test]
    fn keys_read_back_as_they_were_written_and_only_the_owner_may_read_the_private_one() {
        let files = Files::new();
        let (key, next) = (Key::generate().expect("a key"), Key::generate().expect("a key"));
        for _ in 0..2 {
            write_private(&files.path("key"), &key, files.directory.path()).expect("written");
            write_public(&files.path("next"), next.public(), files.directory.path()).expect("written");
        }
        let mode = fs::metadata(files.path("key")).expect("a file").permissions().mode();
        assert_eq!(mode & 0o7777, 0o600);
        let keys = files.read().expect("keys");
        assert_eq!(keys.pins(), Pins { current: key.public().pin(), next: next.public().pin() });
        assert_eq!(fs::read_dir(files.directory.path()).expect("files").count(), 2, "nothing is left beside them");
    }

    #[test]
    fn what_is_no_key_or_is_open_to_others_is_an_error_that_says_what_to_do() {
        let files = Files::new();
        let key = Key::generate().expect("a key");
        let error = files.read().expect_err("none");
        assert!(error.starts_with(&format!("there is no private key {}", files.path("key").display())), "{error}");
        fs::write(files.path("key"), "no key").expect("written");
        fs::set_permissions(files.path("key"), fs::Permissions::from_mode(0o644)).expect("permissions");
        let error = files.read().expect_err("open");
        assert!(error.ends_with(&format!("(mode 0644); run: chmod 600 {}", files.path("key").display())), "{error}");
        fs::set_permissions(files.path("key"), fs::Permissions::from_mode(0o640)).expect("permissions");
        let error = files.read().expect_err("no key");
        assert!(error.contains("this is no Ed25519 key in PKCS#8"), "{error}");
        write_private(&files.path("key"), &key, files.directory.path()).expect("written");
        assert!(files.read().expect_err("none").starts_with("there is no public key "));
        fs::write(files.path("next"), key.to_pkcs8()).expect("written");
        assert!(files.read().expect_err("none").contains(" holds no public key; it is one line"));
        write_public(&files.path("next"), key.public(), files.directory.path()).expect("written");
        assert!(files.read().expect_err("one").contains(" are one key, so that none could follow it;"));
    }

    #[test]
    fn a_key_that_takes_the_place_of_another_is_for_those_that_may_read_that_one() {
        let (files, key) = (Files::new(), Key::generate().expect("a key"));
        let path = files.path("key");
        write_private(&path, &key, files.directory.path()).expect("written");
        fs::set_permissions(&path, Permissions::from_mode(0o640)).expect("permissions");
        // Root alone can give a file away; for others it stays theirs.
        let _ = std::os::unix::fs::chown(&path, Some(1), Some(1));
        let of = |path: &Path| fs::metadata(path).map(|file| (file.uid(), file.gid(), file.mode())).expect("a file");
        let before = of(&path);
        write_private(&path, &Key::generate().expect("a key"), files.directory.path()).expect("written");
        assert_eq!(of(&path), before);
        assert_ne!(read_private(&path).expect("a key").public(), key.public());
    }

    #[test]
    fn the_key_of_a_service_that_is_open_to_others_stays_open_to_its_group() {
        let (files, key) = (Files::new(), Key::generate().expect("a key"));
        let path = files.path("key");
        write_private(&path, &key, files.directory.path()).expect("written");
        fs::set_permissions(&path, Permissions::from_mode(0o644)).expect("permissions");
        // Root alone can give a file away.
        if std::os::unix::fs::chown(&path, Some(0), Some(12_346)).is_ok() {
            let error = read_private(&path).expect_err("open").to_string();
            assert!(error.ends_with(&format!("(mode 0644); run: chmod 640 {}", path.display())), "{error}");
        }
    }

    #[test]
    fn what_this_user_may_not_read_is_told_with_who_says_what_to_do() {
        let error = system(Path::new("/x"), io::ErrorKind::PermissionDenied.into()).to_string();
        assert!(
            error.ends_with(
                "; run this as root; where the relay says so, 'tcp-remote-relay check' tells root what to do"
            ),
            "{error}"
        );
        let error = system(Path::new("/x"), io::ErrorKind::StorageFull.into()).to_string();
        assert!(!error.contains("root"), "{error}");
    }

    #[test]
    fn a_key_that_takes_the_place_of_none_is_for_the_owner_of_what_is_beside_it() {
        let (files, key) = (Files::new(), Key::generate().expect("a key"));
        // Root alone can give a file away; for others it stays theirs.
        let _ = std::os::unix::fs::chown(files.directory.path(), Some(1), None);
        let owner = |path: &Path| fs::metadata(path).map(|file| file.uid()).expect("a file");
        write_private(&files.path("key"), &key, files.directory.path()).expect("written");
        assert_eq!(owner(&files.path("key")), owner(files.directory.path()));
    }

    #[test]
    fn one_program_changes_the_keys_of_a_directory_at_a_time() {
        let files = Files::new();
        let lock = KeysLock::take(&files.path("key")).expect("free");
        let error = KeysLock::take(&files.path("next")).expect_err("taken").to_string();
        let text = format!("another 'rotate-key' or 'init' is at work in {}, so", files.directory.path().display());
        assert!(error.starts_with(&text), "{error}");
        drop(lock);
        assert!(KeysLock::take(&files.path("key")).is_ok());
    }

    #[test]
    fn a_key_that_cannot_be_written_leaves_the_one_that_is_there() {
        let files = Files::new();
        let (key, other) = (Key::generate().expect("a key"), Key::generate().expect("a key"));
        write_private(&files.path("key"), &key, files.directory.path()).expect("written");
        fs::create_dir(files.path("key.partial")).expect("a directory in the way");
        assert!(write_private(&files.path("key"), &other, files.directory.path()).is_err());
        assert_eq!(read_private(&files.path("key")).expect("a key").public(), key.public());
    }
}
