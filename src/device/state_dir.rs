//! The directory in which a device keeps who it is: `key`, and `relay.toml` once a relay has admitted it.
//!
//! A join string that follows an earlier one has a key of its own, `key.TOKEN`, until it has succeeded. Which key is in
//! force is said by `relay.toml`, so that renaming that file takes both over at once; renaming the key comes behind it,
//! and is made up for where it was missed. So the key in force stays as it is until another is admitted.
//!
//! Two processes may have the directory open. Each reads and writes under a lock, and none writes over what another has
//! joined or learnt of the relay's keys since. On the relay their links take turns, as those of any two devices with one key.

mod holder;
mod replace;

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::process::geteuid;
use zeroize::Zeroizing;

use super::membership::{Membership, MembershipError};
use crate::identity::{Pin, TokenId};
use crate::tls::{Key, KeyError};

/// The key in force.
const KEY: &str = "key";
/// The membership.
const RELAY: &str = "relay.toml";
/// What is known of a relay whose operator has yet to approve a key, as in [`RELAY`].
const PENDING: &str = "pending.toml";
/// How long another process may hold the lock, which it needs for milliseconds: a host waits for so long.
const LOCK_TIME: Duration = Duration::from_secs(2);
const LOCK_RETRY: Duration = Duration::from_millis(10);
/// The longest file that is read. A key has 48 bytes, and `relay.toml` less than 4 KiB.
const MAX_FILE: u64 = 16 * 1024;

/// A directory that belongs to this process's user alone.
#[derive(Debug)]
pub(super) struct StateDir {
    path: PathBuf,
}

/// What lies in it.
#[derive(Debug, Default)]
pub(super) struct Stored {
    /// The membership, and its key.
    pub(super) member: Option<(Key, Membership)>,
    /// The key of a device that no relay has admitted yet.
    pub(super) unused_key: Option<Key>,
    /// A key that waits for the approval of a relay's operator, and that relay.
    pub(super) pending: Option<(Key, Membership)>,
}

/// Why a directory cannot be used, or something not be stored in it. Each text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StateDirError {
    /// It, or a file in it, is open to others.
    #[error(
        "state_dir: '{path}' can be read or written by others (mode {mode:03o}); type: chmod {wanted:03o} '{path}'"
    )]
    OpenToOthers {
        /// The directory or file.
        path: String,
        /// Its permissions.
        mode: u32,
        /// What they are to be.
        wanted: u32,
    },
    /// It, or a file in it, belongs to another user.
    #[error(
        "state_dir: '{path}' belongs to user {owner}, and this program runs as user {user}; run it as that user, or \
         type: chown {user} '{path}'"
    )]
    OtherOwner {
        /// The directory or file.
        path: String,
        /// Whose it is.
        owner: u32,
        /// Who asks.
        user: u32,
    },
    /// The system refused something.
    #[error("state_dir: cannot {what} '{path}': {reason}{}", remedy(.reason))]
    System {
        /// What was attempted.
        what: &'static str,
        /// With which directory or file.
        path: String,
        /// What the system said.
        reason: io::Error,
    },
    /// The lock of another process did not end.
    #[error("state_dir: '{path}' is locked by {holder}; end that process, if it hangs")]
    Locked {
        /// The directory.
        path: String,
        /// Which process that is, as far as it is known.
        holder: String,
    },
    /// `relay.toml` is not what it must be.
    #[error("state_dir: '{path}', {problem}; correct it, or move it away and join anew with another join string")]
    Membership {
        /// The file.
        path: String,
        /// What is wrong.
        problem: MembershipError,
    },
    /// A file is no key.
    #[error(
        "state_dir: '{path}': {problem}; put the right file back, or move it away and join anew with another join string"
    )]
    Key {
        /// The file.
        path: String,
        /// What is wrong.
        problem: KeyError,
    },
    /// The key that `relay.toml` names is not there.
    #[error(
        "state_dir: '{path}' is not the key {wanted}, which relay.toml names; put that key back, or move relay.toml away \
         and join anew with another join string"
    )]
    KeyMissing {
        /// The file.
        path: String,
        /// The fingerprint that is wanted.
        wanted: Pin,
    },
    /// Another process has joined with another key.
    #[error("state_dir: another program has joined anew in '{path}'; start this one again")]
    Superseded {
        /// The directory.
        path: String,
    },
    /// No key can be made.
    #[error("state_dir: no key can be made: {0}; is /dev/urandom there?")]
    NoKey(KeyError),
}

/// What to do about the system's refusal.
fn remedy(reason: &io::Error) -> &'static str {
    let is_one_of = |kinds: &[io::ErrorKind]| kinds.contains(&reason.kind());
    if is_one_of(&[io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded]) {
        "; make room on that disk"
    } else if is_one_of(&[io::ErrorKind::ReadOnlyFilesystem]) {
        "; give state_dir a place that can be written to"
    } else if is_one_of(&[io::ErrorKind::PermissionDenied]) {
        "; run the program as the owner, or give it another state_dir"
    } else if is_one_of(&[io::ErrorKind::NotFound]) {
        "; make the directory above it first"
    } else if is_one_of(&[io::ErrorKind::NotADirectory, io::ErrorKind::AlreadyExists]) {
        "; give state_dir a directory"
    } else {
        ""
    }
}

/// Held while files are read or written together.
#[derive(Debug)]
struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        // A child that was forked meanwhile has a copy of the descriptor, which would keep the lock.
        let _ = flock(&self.0, FlockOperation::Unlock);
    }
}

impl StateDir {
    /// Whether there is something at this place, be it a directory or not.
    pub(super) fn is_there(path: &Path) -> Result<bool, StateDirError> {
        path.try_exists().map_err(|reason| system("open", path, reason))
    }

    /// Opens the directory, and makes it where it is not there.
    pub(super) fn open(path: &Path) -> Result<Self, StateDirError> {
        match DirBuilder::new().mode(0o700).create(path) {
            // One that is there counts, whatever making it would say.
            Err(reason) if !path.is_dir() => return Err(system("make", path, reason)),
            Ok(()) | Err(_) => {}
        }
        // The host may change its directory later.
        let path = fs::canonicalize(path).map_err(|reason| system("open", path, reason))?;
        let directory = Self { path };
        directory.open_checked()?;
        Ok(directory)
    }

    /// What lies in it. A change of keys that was interrupted is completed.
    pub(super) fn load(&self) -> Result<Stored, StateDirError> {
        let _lock = self.lock()?;
        self.load_locked()
    }

    fn load_locked(&self) -> Result<Stored, StateDirError> {
        let Some(membership) = self.membership()? else {
            return Ok(Stored { member: None, unused_key: self.key(KEY)?, pending: self.pending()? });
        };
        // What is amiss there is no reason to lose the device.
        let pending = self.pending().unwrap_or_default().filter(|(_, other)| other.device_key != membership.device_key);
        let wanted = membership.device_key;
        let is_wanted = |key: &Key| key.public().pin() == wanted;
        if let Some(key) = self.key(KEY)?.filter(is_wanted) {
            return Ok(Stored { member: Some((key, membership)), unused_key: None, pending });
        }
        let name = membership.tokens.last().map(key_of_token);
        let key = name.as_deref().map_or(Ok(None), |name| self.key(name))?.filter(is_wanted);
        let (Some(name), Some(key)) = (name, key) else {
            return Err(StateDirError::KeyMissing { path: self.shown(KEY), wanted });
        };
        // Where it cannot be written the key is found under its other name each time.
        let _ = self.rename_key(&name);
        Ok(Stored { member: Some((key, membership)), unused_key: None, pending })
    }

    /// A key that waits for approval, while it is there.
    fn pending(&self) -> Result<Option<(Key, Membership)>, StateDirError> {
        let Some(membership) = self.membership_in(PENDING)? else { return Ok(None) };
        let names = [Some(KEY.into()), membership.tokens.last().map(key_of_token)];
        for name in names.into_iter().flatten() {
            if let Some(key) = self.key(&name)?.filter(|key| key.public().pin() == membership.device_key) {
                return Ok(Some((key, membership)));
            }
        }
        Ok(None)
    }

    /// Stores what a join string said whose key waits for approval, but for the secret, which is of no more use.
    pub(super) fn store_pending(&self, membership: &Membership) -> Result<(), StateDirError> {
        let _lock = self.lock()?;
        self.replace(
            PENDING,
            format!("# Its operator has yet to approve the key of this device.\n{membership}").as_bytes(),
        )
    }

    /// The key of a device that has none, to be there before any relay sees it; of another process if that was faster.
    pub(super) fn first_key(&self) -> Result<Key, StateDirError> {
        self.make_key(KEY)
    }

    /// The key for another join string, beside the one in use. A string that was tried before has its key already.
    pub(super) fn key_for(&self, token: TokenId) -> Result<Key, StateDirError> {
        self.make_key(&key_of_token(&token))
    }

    fn make_key(&self, name: &str) -> Result<Key, StateDirError> {
        let _lock = self.lock()?;
        if let Some(key) = self.key(name)? {
            return Ok(key);
        }
        let key = Key::generate().map_err(StateDirError::NoKey)?;
        self.replace(name, &key.to_pkcs8())?;
        Ok(key)
    }

    /// Stores what a relay has said to the device with this key, whose key was `opened` when it started, or which had none.
    /// Nothing of it is there until all is.
    pub(super) fn store(&self, key: &Key, membership: &Membership, opened: Option<Pin>) -> Result<(), StateDirError> {
        let _lock = self.lock()?;
        let present = self.membership()?;
        let mut membership = membership.clone();
        if let Some(Membership { device_key, pins, tokens, .. }) = present {
            if device_key != membership.device_key && Some(device_key) != opened {
                return Err(StateDirError::Superseded { path: self.path.display().to_string() });
            }
            // Another process has seen the relay change its key, and this one has not yet.
            let is_ahead = pins.current == membership.pins.next && pins.current != membership.pins.current;
            if is_ahead && device_key == membership.device_key {
                membership.pins = pins;
            }
            membership.remember(&tokens);
        }
        let is_wanted = |found: Option<Key>| found.is_some_and(|found| found.public() == key.public());
        let name = membership.tokens.last().map(key_of_token);
        let name = if is_wanted(self.key(KEY)?) { None } else { name };
        if let Some(name) = &name
            && !is_wanted(self.key(name)?)
        {
            // Another process has joined meanwhile, and removed it.
            self.replace(name, &key.to_pkcs8())?;
        }
        self.replace(RELAY, membership.to_string().as_bytes())?;
        // From here on the new key is in force.
        if self
            .pending()
            .is_ok_and(|pending| pending.is_some_and(|(_, pending)| pending.device_key == membership.device_key))
        {
            // Where it stays it means nothing beside the membership.
            let _ = fs::remove_file(self.path.join(PENDING));
        }
        if let Some(name) = name {
            self.rename_key(&name).map_err(|reason| system("rename", &self.path.join(name), reason))?;
        }
        Ok(())
    }

    /// Takes the key of another join string over, and removes those of strings that have come to nothing.
    fn rename_key(&self, name: &str) -> io::Result<()> {
        fs::rename(self.path.join(name), self.path.join(KEY))?;
        File::open(&self.path)?.sync_all()?;
        for entry in fs::read_dir(&self.path)?.flatten() {
            if entry.file_name().to_str().is_some_and(|name| name.starts_with("key.")) {
                // It does no harm there.
                let _ = fs::remove_file(entry.path());
            }
        }
        Ok(())
    }

    fn membership(&self) -> Result<Option<Membership>, StateDirError> {
        self.membership_in(RELAY)
    }

    fn membership_in(&self, name: &str) -> Result<Option<Membership>, StateDirError> {
        let Some(bytes) = self.read(name)? else { return Ok(None) };
        let text = String::from_utf8_lossy(&bytes);
        let wrong = |problem| StateDirError::Membership { path: self.shown(name), problem };
        text.parse().map(Some).map_err(wrong)
    }

    fn key(&self, name: &str) -> Result<Option<Key>, StateDirError> {
        let Some(bytes) = self.read(name)? else { return Ok(None) };
        let wrong = |problem| StateDirError::Key { path: self.shown(name), problem };
        Key::from_pkcs8(&bytes).map(Some).map_err(wrong)
    }

    /// A file's content; `None` if there is no such file.
    fn read(&self, name: &str) -> Result<Option<Zeroizing<Vec<u8>>>, StateDirError> {
        let path = self.path.join(name);
        // Opening what is no file, such as a pipe, must not wait.
        let file = OpenOptions::new().read(true).custom_flags(OFlags::NONBLOCK.bits() as i32).open(&path);
        let file = match file {
            Err(reason) if reason.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file.map_err(|reason| system("read", &path, reason))?,
        };
        check(&file, &path, 0o600)?;
        let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_FILE as usize));
        file.take(MAX_FILE).read_to_end(&mut bytes).map_err(|reason| system("read", &path, reason))?;
        Ok(Some(bytes))
    }

    fn replace(&self, name: &str, content: &[u8]) -> Result<(), StateDirError> {
        let failed = |reason| system("write", &self.path.join(name), reason);
        replace::replace(&self.path, name, content, &mut replace::no_fault).map_err(failed)
    }

    fn open_checked(&self) -> Result<File, StateDirError> {
        let directory = File::open(&self.path).map_err(|reason| system("open", &self.path, reason))?;
        check(&directory, &self.path, 0o700)?;
        Ok(directory)
    }

    fn lock(&self) -> Result<Lock, StateDirError> {
        self.lock_within(LOCK_TIME)
    }

    fn lock_within(&self, time: Duration) -> Result<Lock, StateDirError> {
        let directory = self.open_checked()?;
        let deadline = Instant::now() + time;
        loop {
            match flock(&directory, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Lock(directory)),
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < deadline => thread::sleep(LOCK_RETRY),
                Err(rustix::io::Errno::WOULDBLOCK) => {
                    let holder = holder::of(&directory).unwrap_or_else(|| "another process".into());
                    return Err(StateDirError::Locked { path: self.path.display().to_string(), holder });
                }
                Err(errno) => return Err(system("lock", &self.path, errno.into())),
            }
        }
    }

    fn shown(&self, name: &str) -> String {
        self.path.join(name).display().to_string()
    }
}

fn key_of_token(token: &TokenId) -> String {
    format!("{KEY}.{token}")
}

fn system(what: &'static str, path: &Path, reason: io::Error) -> StateDirError {
    StateDirError::System { what, path: path.display().to_string(), reason }
}

/// Whether it belongs to this process's user alone.
fn check(file: &File, path: &Path, wanted: u32) -> Result<(), StateDirError> {
    let metadata = file.metadata().map_err(|reason| system("read", path, reason))?;
    let (path, user) = (path.display().to_string(), geteuid().as_raw());
    let (owner, mode) = (metadata.uid(), metadata.mode() & 0o777);
    if owner != user {
        return Err(StateDirError::OtherOwner { path, owner, user });
    }
    if mode & 0o077 != 0 {
        return Err(StateDirError::OpenToOthers { path, mode, wanted });
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests;
