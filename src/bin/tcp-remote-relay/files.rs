//! Commands on the relay's files, for which it need not run.

use std::path::Path;

use tcpremote::relay::control::Request;
use tcpremote::relay::file::File;
use tcpremote::relay::registry::{Registry, RegistryError, SqliteRegistry, StateDirectory, restore as put_back};
use tcpremote::relay::reloader::read_keys;

use super::ask;
use super::commands::Place;
use super::output::{Done, Failure, now, say, warn};

pub(crate) fn check(config: &Path) -> Done {
    let file = File::read(config).map_err(|error| Failure::Usage(error.to_string()))?;
    read_keys(&file).map_err(Failure::Usage)?;
    if let Some(text) = next_key_beside(&file) {
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

/// The relay writes the file if it runs. If not, nobody else may have the registry meanwhile.
pub(crate) fn backup(place: &Place, file: &Path) -> Done {
    let unusable = |reason| Failure::Usage(format!("{}: {reason}", file.display()));
    let path = std::path::absolute(file).map_err(unusable)?;
    let text = path.to_str().ok_or_else(|| Failure::Usage("the file's name must be UTF-8".into()))?;
    let state = ask::state(place)?;
    if ask::tell_if_running(&state, &Request::Backup { file: text.into() })? {
        return Ok(());
    }
    if !state.is_dir() {
        return Err(Failure::Usage(format!("there is no state directory {}", state.display())));
    }
    let registry = SqliteRegistry::open(&state).map_err(failure)?;
    let (sender, result) = std::sync::mpsc::sync_channel(1);
    let answer = Box::new(move |result| {
        // The receiver waits.
        let _ = sender.send(result);
    });
    registry.backup(path.clone(), answer);
    result.recv().unwrap_or(Err(RegistryError::Closed)).map_err(failure)?;
    say(&format!("the registry is written to {}", path.display()))
}

pub(crate) fn restore(place: &Place, file: &Path) -> Done {
    let directory = StateDirectory::open(&ask::state(place)?).map_err(failure)?;
    let restored = put_back(&directory, file, now()).map_err(failure)?;
    say(&format!(
        "the registry is restored: {} devices and users; {} tokens that were open are void, since they may have been used \
         after the backup",
        restored.principals, restored.voided
    ))
}

fn failure(error: RegistryError) -> Failure {
    if matches!(error, RegistryError::Usage(_)) {
        Failure::Usage(error.to_string())
    } else {
        Failure::System(error.to_string())
    }
}
