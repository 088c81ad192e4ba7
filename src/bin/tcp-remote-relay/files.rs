//! Commands on the relay's files, for which it need not run.

use std::fs::{self, File as Open, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};

use nix::unistd::{Gid, Uid, geteuid, setegid, seteuid};
use rustix::fs::{CWD, OFlags, RenameFlags, renameat_with};
use tcpremote::relay::control::Request;
use tcpremote::relay::file::File;
use tcpremote::relay::file_system;
use tcpremote::relay::permissions;
use tcpremote::relay::registry::{
    Listed, Lost, Registry, RegistryError, Restored, SqliteRegistry, StateDirectory, restore as put_back, wait,
};
use tcpremote::relay::reloader::read_keys;

use super::ask;
use super::commands::Place;
use super::output::{Done, Failure, now, say, warn};

pub(crate) fn check(config: &Path) -> Done {
    let (file, text) = File::read_with_text(config).map_err(|error| Failure::Usage(error.to_string()))?;
    let mut mistakes = permissions::mistakes(config, &file);
    mistakes.extend(read_keys(&file).err());
    if !mistakes.is_empty() {
        return Err(Failure::Usage(mistakes.join("\n")));
    }
    for text in ask::warnings(&file.state, text)
        .into_iter()
        .chain(next_key_beside(&file))
        .chain(file_system::warning(&file.state))
    {
        warn(&text);
    }
    say(&format!("{} is right", config.display()))
}

/// What is wrong where the next key lies beside the key that it is to replace.
pub(crate) fn next_key_beside(file: &File) -> Option<String> {
    let next = file.next_key.with_extension("key");
    let is_there = file.tls.is_some() && next.exists();
    is_there.then(|| {
        format!(
            "{} lies beside the relay's key: whoever takes one takes both; keep it elsewhere until 'rotate-key' needs it",
            next.display()
        )
    })
}

/// The registry is written to the state directory first, by the relay if it runs: a service may write nowhere else. If it
/// does not, nobody else may have the registry meanwhile.
pub(crate) fn backup(place: &Place, file: &Path) -> Done {
    let path = std::path::absolute(file).map_err(|reason| Failure::Usage(format!("{}: {reason}", file.display())))?;
    if path.exists() {
        return Err(Failure::Usage(format!("{} is there already; give another name", path.display())));
    }
    // The relay that runs has another working directory.
    let state = ask::state(place)?;
    let state =
        std::path::absolute(&state).map_err(|reason| Failure::Usage(format!("{}: {reason}", state.display())))?;
    let copy = Temporary(state.join(format!("backup-{}", std::process::id())));
    let text = copy.0.to_str().ok_or_else(|| Failure::Usage("the state directory's name must be UTF-8".into()))?;
    let is_written = ask::is_done_if_running(&state, &Request::Backup { file: text.into() })?;
    if !is_written && !state.is_dir() {
        return Err(Failure::Usage(format!("there is no state directory {}", state.display())));
    }
    let owner = Owner::of(&state)?;
    if !is_written {
        let registry = SqliteRegistry::open(&state).map_err(failure)?;
        let written = wait(|answer| registry.backup(copy.0.clone(), answer));
        registry.close();
        written.map_err(failure)?;
    }
    let failed = |path: &Path, reason: io::Error| Failure::System(format!("backup {}: {reason}", path.display()));
    let from = open_own(&copy.0).map_err(|reason| failed(&copy.0, reason))?;
    drop(copy);
    drop(owner);
    fetch(from, &path).map_err(|reason| failed(&path, reason))?;
    say(&format!("the registry is written to {}", path.display()))
}

/// What is in the registry of a relay that does not run; nothing, where there is none yet.
pub(crate) fn list(state: &Path) -> Result<Vec<Listed>, Failure> {
    if !state.is_dir() {
        return Ok(Vec::new());
    }
    let owner = Owner::of(state)?;
    let registry = SqliteRegistry::open(state).map_err(failure)?;
    let listed = registry.list();
    registry.close();
    drop(owner);
    Ok(listed)
}

/// Root as the owner of a state directory, until this is dropped: what it makes there is the owner's, and what that user may
/// have put there is not done as root.
struct Owner;

impl Owner {
    /// `None` if the directory is of this user, or there is none.
    fn of(state: &Path) -> Result<Option<Self>, Failure> {
        let failed = |what: &str, reason: &dyn std::fmt::Display| {
            Failure::System(format!("cannot become the owner of {}: {what}: {reason}", state.display()))
        };
        let Some(owner) = owner_for_root(state) else { return Ok(None) };
        setegid(Gid::from_raw(owner.gid())).map_err(|reason| failed("its group", &reason))?;
        // What is done by here is undone if this fails.
        let group = Self;
        seteuid(Uid::from_raw(owner.uid())).map_err(|reason| failed("its user", &reason))?;
        Ok(Some(group))
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        // A process that was root may be so again.
        let _ = seteuid(Uid::from_raw(0)).and_then(|()| setegid(Gid::from_raw(0)));
    }
}

/// Whose the directory is, where root asks and it is another's.
fn owner_for_root(state: &Path) -> Option<fs::Metadata> {
    fs::metadata(state).ok().filter(|state| geteuid().is_root() && state.uid() != 0)
}

/// A file that is removed in the end.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        // It may not have been made.
        let _ = fs::remove_file(&self.0);
    }
}

/// Opens a file of this user's, and not what somebody else has put in its place.
fn open_own(path: &Path) -> io::Result<Open> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits();
    let file = OpenOptions::new().read(true).custom_flags(flags as i32).open(path)?;
    let metadata = file.metadata()?;
    if metadata.is_file() && metadata.uid() == geteuid().as_raw() {
        return Ok(file);
    }
    Err(io::Error::other("it is no file that the relay has written"))
}

/// Copies a file to a new one, for the owner alone. It is whole once it has its name, and takes nobody's place.
fn fetch(mut from: Open, to: &Path) -> io::Result<()> {
    let mut partial = to.as_os_str().to_owned();
    partial.push(format!(".partial-{}", std::process::id()));
    // Nothing that is there is opened, be it a link that somebody else has made.
    let mut target = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&partial)?;
    let partial = Temporary(partial.into());
    io::copy(&mut from, &mut target)?;
    target.sync_all()?;
    // Some file systems have the one, and some the other.
    fs::hard_link(&partial.0, to)
        .or_else(|_| renameat_with(CWD, &partial.0, CWD, to, RenameFlags::NOREPLACE).map_err(io::Error::from))?;
    drop(partial);
    Open::open(to.parent().unwrap_or(to))?.sync_all()
}

pub(crate) fn restore(place: &Place, file: &Path, force: bool) -> Done {
    let state = ask::state(place)?;
    let copy =
        copy_for_owner(file, &state).map_err(|reason| Failure::Usage(format!("{}: {reason}", file.display())))?;
    let owner = Owner::of(&state)?;
    let directory = StateDirectory::open(&state).map_err(failure)?;
    let from = copy.as_ref().map_or(file, |copy| &copy.0);
    // Errors name the backup, and not its copy.
    let named = |text: String| text.replace(&from.display().to_string(), &file.display().to_string());
    let restored = put_back(&directory, from, now(), force).map_err(|error| match failure(error) {
        Failure::Usage(text) => Failure::Usage(named(text)),
        Failure::System(text) => Failure::System(named(text)),
        Failure::Unread => Failure::Unread,
    });
    drop(owner);
    let Restored { principals, voided, lost } = restored?;
    match lost {
        Lost::Unknown => {
            warn("the registry before was damaged, so nobody can tell who was revoked since the backup was made")
        }
        Lost::Known { undone, joined, forgotten } => {
            let tell = |what: &str, who: &[String]| who.iter().for_each(|who| warn(&format!("{what}: {who}")));
            tell("revoked or removed since, and let in again", &undone);
            tell("joined since, and not known any more", &joined);
            tell("joined and revoked since, and not known any more; do not approve it", &forgotten);
        }
    }
    say(&format!(
        "the registry is restored: {principals} devices; {voided} tokens that were open are void, since they may \
         have been used after the backup"
    ))
}

/// The backup where the owner of the state directory can read it, if that is not root.
fn copy_for_owner(backup: &Path, state: &Path) -> io::Result<Option<Temporary>> {
    let Some(owner) = owner_for_root(state) else { return Ok(None) };
    let mut from = Open::open(backup)?;
    let path = state.join(format!("restore-{}", std::process::id()));
    // Nothing that is there is opened, be it a link that the owner has made.
    let mut target = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
    let copy = Temporary(path);
    io::copy(&mut from, &mut target)?;
    fchown(&target, Some(owner.uid()), Some(owner.gid()))?;
    Ok(Some(copy))
}

fn failure(error: RegistryError) -> Failure {
    if error.is_usage() { Failure::Usage(error.to_string()) } else { Failure::System(error.to_string()) }
}
