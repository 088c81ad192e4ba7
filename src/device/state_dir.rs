//! The directory in which a device keeps who it is: `key`, and `relay.toml` once a relay has admitted it.
//!
//! A join string that follows an earlier one has a key of its own, `key.TOKEN`, until it has succeeded. Which key is in
//! force is said by `relay.toml`, so that renaming that file takes both over at once; renaming the key comes behind it,
//! and is made up for where it was missed. So the key in force stays as it is until another is admitted.
//!
//! While a device joins its first relay, `joining` says for which one `key` was made: a string of another relay has a key of
//! its own from the beginning, so that no relay is shown what belongs to another.
//!
//! Two processes may have the directory open. Each reads and writes under a lock, and none writes over what another has
//! joined or learnt of the relay's keys since. On the relay their links take turns, as those of any two devices with one key.

mod error;
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

use super::membership::{Membership, joining_text, parse_joining};
use crate::identity::{Pin, Pins, TokenId};
use crate::tls::Key;
pub use error::StateDirError;
use error::{refused, system};

/// The key in force.
const KEY: &str = "key";
/// The membership.
const RELAY: &str = "relay.toml";
/// For which relay the key of a device was made that none has admitted yet.
const JOINING: &str = "joining";
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

    /// The membership that lies in it, and its key. A change of keys that was interrupted is completed.
    pub(super) fn load(&self) -> Result<Option<(Key, Membership)>, StateDirError> {
        let _lock = self.lock()?;
        self.load_locked()
    }

    fn load_locked(&self) -> Result<Option<(Key, Membership)>, StateDirError> {
        let Some(membership) = self.membership()? else { return Ok(None) };
        let wanted = membership.device_key;
        let is_wanted = |key: &Key| key.public().pin() == wanted;
        if let Some(key) = self.key(KEY)?.filter(is_wanted) {
            return Ok(Some((key, membership)));
        }
        let name = membership.tokens.last().map(key_of_token);
        let key = name.as_deref().map_or(Ok(None), |name| self.key(name))?.filter(is_wanted);
        let (Some(name), Some(key)) = (name, key) else {
            return Err(StateDirError::KeyMissing { path: self.shown(KEY), wanted });
        };
        // Where it cannot be written the key is found under its other name each time.
        let _ = self.rename_key(&name);
        Ok(Some((key, membership)))
    }

    /// The key of a device that no relay has admitted yet, for a join string of the relay with these keys; to be there
    /// before that relay sees it, and of another process if that was faster. Where it was made for another relay the string
    /// has a key of its own; one that its owner has put there is for any.
    pub(super) fn first_key(&self, token: TokenId, relay: &Pins) -> Result<Key, StateDirError> {
        let _lock = self.lock()?;
        let made_for = match self.membership()? {
            // Another process has joined a moment ago.
            Some(membership) => Some(membership.pins),
            None => self.joining()?,
        };
        match made_for {
            Some(other) if !other.are_of_relay(relay) => return self.make_key(&key_of_token(&token)),
            None if self.key(KEY)?.is_none() => self.replace(JOINING, joining_text(relay).as_bytes())?,
            Some(_) | None => {}
        }
        self.make_key(KEY)
    }

    /// The key for another join string, beside the one in use. A string that was tried before has its key already.
    pub(super) fn key_for(&self, token: TokenId) -> Result<Key, StateDirError> {
        let _lock = self.lock()?;
        self.make_key(&key_of_token(&token))
    }

    /// Under the lock.
    fn make_key(&self, name: &str) -> Result<Key, StateDirError> {
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
            let is_same_key = device_key == membership.device_key;
            // What it says was joined by the key with which this process began is of the same relay, however often that has
            // changed its own.
            let is_other_relay = opened != Some(membership.device_key) && !pins.are_of_relay(&membership.pins);
            if if is_same_key { is_other_relay } else { Some(device_key) != opened } {
                let path = self.path.display().to_string();
                return Err(if is_other_relay {
                    StateDirError::OtherRelay { path }
                } else {
                    StateDirError::Superseded { path }
                });
            }
            // Another process has seen the relay change its key, and this one has not yet.
            if is_same_key && pins.follow(&membership.pins) {
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
        // From here on the new key is in force, and the other file means nothing beside this one.
        let _ = fs::remove_file(self.path.join(JOINING));
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
        let Some(bytes) = self.read(RELAY)? else { return Ok(None) };
        let text = String::from_utf8_lossy(&bytes);
        let wrong = |problem| StateDirError::Membership { path: self.shown(RELAY), problem };
        text.parse().map(Some).map_err(wrong)
    }

    /// The keys of the relay for which the key of a device was made that none has admitted yet.
    fn joining(&self) -> Result<Option<Pins>, StateDirError> {
        Ok(self.read(JOINING)?.and_then(|bytes| parse_joining(&String::from_utf8_lossy(&bytes))))
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
            file => file.map_err(|reason| refused("read", &path, reason))?,
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
        let directory = File::open(&self.path).map_err(|reason| refused("open", &self.path, reason))?;
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
