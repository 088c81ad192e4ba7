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
/// What is known of a relay whose operator has yet to approve a key, as in [`RELAY`].
const PENDING: &str = "pending.toml";
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

/// What lies in it.
#[derive(Debug, Default)]
pub(super) struct Stored {
    /// The membership, and its key.
    pub(super) member: Option<(Key, Membership)>,
    /// A key that waits for the approval of a relay's operator, and that relay.
    pub(super) pending: Option<(Key, Membership)>,
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
            return Ok(Stored { member: None, pending: self.pending()? });
        };
        // What is amiss there is no reason to lose the device. One that began to wait before the device joined with the key
        // in force was not removed then, as where the power was cut.
        let is_later = |pending: &Membership| match pending.tokens.as_slice() {
            // An earlier program has stored no other token. Beside an identity a key that waits has a file of its own, and
            // where there was none it seldom has.
            [own] => self.path.join(key_of_token(own)).exists(),
            tokens => tokens.iter().rev().nth(1) == membership.tokens.last(),
        };
        let pending = self
            .pending()
            .unwrap_or_default()
            .filter(|(_, pending)| pending.device_key != membership.device_key && is_later(pending));
        let wanted = membership.device_key;
        let is_wanted = |key: &Key| key.public().pin() == wanted;
        if let Some(key) = self.key(KEY)?.filter(is_wanted) {
            return Ok(Stored { member: Some((key, membership)), pending });
        }
        let name = membership.tokens.last().map(key_of_token);
        let key = name.as_deref().map_or(Ok(None), |name| self.key(name))?.filter(is_wanted);
        let (Some(name), Some(key)) = (name, key) else {
            return Err(StateDirError::KeyMissing { path: self.shown(KEY), wanted });
        };
        // Where it cannot be written the key is found under its other name each time.
        if self.rename_key(&name).is_ok() {
            self.remove_candidates();
            return Ok(Stored { member: Some((key, membership)), pending: None });
        }
        Ok(Stored { member: Some((key, membership)), pending })
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

    /// Stores what a join string said whose key waits for approval, but for the secret, which is of no more use. The tokens
    /// before its own are those of the identity beside which it waits.
    pub(super) fn store_pending(&self, membership: &Membership) -> Result<(), StateDirError> {
        let _lock = self.lock()?;
        let mut membership = membership.clone();
        membership.remember(&self.membership()?.map(|present| present.tokens).unwrap_or_default());
        let text = format!("# Its operator has yet to approve the key of this device.\n{membership}");
        self.replace(PENDING, text.as_bytes())
    }

    /// The key of a device that no relay has admitted yet, for a join string of the relay with these keys; to be there
    /// before that relay sees it, and of another process if that was faster. Where it was made for another relay the string
    /// has a key of its own; one that its owner has put there is for any.
    pub(super) fn first_key(&self, token: TokenId, relay: &Pins) -> Result<Key, StateDirError> {
        let _lock = self.lock()?;
        let Some(key) = self.key(KEY)? else {
            let key = Key::generate().map_err(StateDirError::NoKey)?;
            self.replace(JOINING, joining_text(&key.public().pin(), relay).as_bytes())?;
            self.replace(KEY, &key.to_pkcs8())?;
            return Ok(key);
        };
        let made_for = match self.membership()? {
            // Another process has joined a moment ago.
            Some(membership) => Some(membership.pins),
            None => self.made_for(&key)?,
        };
        if made_for.is_some_and(|other| !other.are_of_relay(relay)) {
            return self.make_key(&key_of_token(&token));
        }
        Ok(key)
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
        let is_new = present.as_ref().is_none_or(|present| present.device_key != membership.device_key);
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
        if is_new {
            self.remove_candidates();
        }
        Ok(())
    }

    /// Takes the key of another join string over.
    fn rename_key(&self, name: &str) -> io::Result<()> {
        fs::rename(self.path.join(name), self.path.join(KEY))?;
        File::open(&self.path)?.sync_all()
    }

    /// Removes what earlier join strings have left, now that a later one has succeeded: a key that is approved behind that
    /// does not take the device away. What cannot be removed now is removed the next time.
    fn remove_candidates(&self) {
        let _ = fs::remove_file(self.path.join(PENDING));
        for entry in fs::read_dir(&self.path).into_iter().flatten().flatten() {
            if entry.file_name().to_str().is_some_and(|name| name.starts_with("key.")) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    /// The key does not wait for approval any more: its relay has refused it for good.
    pub(super) fn forget_pending(&self, key: Pin) -> Result<(), StateDirError> {
        let _lock = self.lock()?;
        if self.membership_in(PENDING)?.is_none_or(|pending| pending.device_key != key) {
            return Ok(());
        }
        fs::remove_file(self.path.join(PENDING)).map_err(|reason| system("remove", &self.path.join(PENDING), reason))
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

    /// The keys of the relay for which this key of a device was made that none has admitted yet; `None` of one that its
    /// owner has put there.
    fn made_for(&self, key: &Key) -> Result<Option<Pins>, StateDirError> {
        let made = self.read(JOINING)?.and_then(|bytes| parse_joining(&String::from_utf8_lossy(&bytes)));
        Ok(made.filter(|(made, _)| *made == key.public().pin()).map(|(_, relay)| relay))
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
    let (owner, mode, user) = (metadata.uid(), metadata.mode() & 0o777, geteuid().as_raw());
    if owner == user && mode & 0o077 == 0 {
        return Ok(());
    }
    let other = other_things_in(path);
    let path = path.display().to_string();
    Err(match other {
        Some(other) => StateDirError::Shared { path, other },
        None if owner != user => StateDirError::OtherOwner { path, owner, user },
        None => StateDirError::OpenToOthers { path, mode, wanted },
    })
}

/// The name of something in a directory that has nothing of a device, and was made for another purpose.
fn other_things_in(directory: &Path) -> Option<String> {
    if [KEY, RELAY].iter().any(|name| directory.join(name).exists()) {
        return None;
    }
    let names = fs::read_dir(directory).ok()?.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    // What a crash may have left before there was a key, and what a disk of its own has.
    let mut others = names.filter(|name| !(name == JOINING || name == "lost+found" || name.ends_with(".new")));
    others.next()
}

#[cfg(test)]
pub(crate) mod tests;
