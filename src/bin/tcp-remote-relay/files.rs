//! Commands on the relay's files, for which it need not run.

use std::fs::{self, File as Open, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use tcpremote::relay::control::Request;
use tcpremote::relay::file::File;
use tcpremote::relay::file_system;
use tcpremote::relay::permissions;
use tcpremote::relay::registry::{
    Lost, Registry, RegistryError, Restored, SqliteRegistry, StateDirectory, restore as put_back, wait,
};
use tcpremote::relay::reloader::read_keys;

use super::ask;
use super::commands::Place;
use super::output::{Done, Failure, now, say, warn};

pub(crate) fn check(config: &Path) -> Done {
    let file = File::read(config).map_err(|error| Failure::Usage(error.to_string()))?;
    let mut mistakes = permissions::mistakes(config, &file);
    mistakes.extend(read_keys(&file).err());
    if !mistakes.is_empty() {
        return Err(Failure::Usage(mistakes.join("\n")));
    }
    for text in next_key_beside(&file).into_iter().chain(file_system::warning(&file.state)) {
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

/// The relay writes the registry to its state directory if it runs, since a service may write nowhere else. If not, nobody
/// else may have the registry meanwhile.
pub(crate) fn backup(place: &Place, file: &Path) -> Done {
    let path = std::path::absolute(file).map_err(|reason| Failure::Usage(format!("{}: {reason}", file.display())))?;
    if path.exists() {
        return Err(Failure::Usage(format!("{} is there already; give another name", path.display())));
    }
    let state = ask::state(place)?;
    let copy = Temporary(state.join(format!("backup-{}", std::process::id())));
    let text = copy.0.to_str().ok_or_else(|| Failure::Usage("the state directory's name must be UTF-8".into()))?;
    if ask::is_done_if_running(&state, &Request::Backup { file: text.into() })? {
        let failed = |reason| Failure::System(format!("backup {}: {reason}", path.display()));
        fetch(&copy.0, &path).map_err(failed)?;
    } else if state.is_dir() {
        let registry = SqliteRegistry::open(&state).map_err(failure)?;
        wait(|answer| registry.backup(path.clone(), answer)).map_err(failure)?;
    } else {
        return Err(Failure::Usage(format!("there is no state directory {}", state.display())));
    }
    say(&format!("the registry is written to {}", path.display()))
}

/// A file that is removed in the end.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        // It may not have been made.
        let _ = fs::remove_file(&self.0);
    }
}

/// Copies a file to a new one, for the owner alone. It is whole once it has its name.
fn fetch(from: &Path, to: &Path) -> io::Result<()> {
    let mut partial = to.as_os_str().to_owned();
    partial.push(".partial");
    let partial = Temporary(partial.into());
    let mut target = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&partial.0)?;
    io::copy(&mut Open::open(from)?, &mut target)?;
    target.sync_all()?;
    fs::rename(&partial.0, to)?;
    Open::open(to.parent().unwrap_or(to))?.sync_all()
}

pub(crate) fn restore(place: &Place, file: &Path, force: bool) -> Done {
    let directory = StateDirectory::open(&ask::state(place)?).map_err(failure)?;
    let Restored { principals, voided, lost } = put_back(&directory, file, now(), force).map_err(failure)?;
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
        "the registry is restored: {principals} devices and users; {voided} tokens that were open are void, since they may \
         have been used after the backup"
    ))
}

fn failure(error: RegistryError) -> Failure {
    if error.is_usage() { Failure::Usage(error.to_string()) } else { Failure::System(error.to_string()) }
}
