//! Makes the relay's next key its key, and another one the next.

use std::fs;
use std::path::{Path, PathBuf};

use tcpremote::identity::Pin;
use tcpremote::relay::file::File;
use tcpremote::relay::keys::{KeysError, KeysLock, read_private, read_public, write_private, write_public};
use tcpremote::tls::{Key, PublicKey};

use super::output::{Done, Failure, say};
use super::{ask, files, init};

/// Each step leaves files with which a second try goes on. Between the two the relay's key and the next are one, which the
/// relay refuses to start with.
pub(crate) fn rotate(config: &Path, next_key: Option<PathBuf>, force: bool) -> Done {
    let file = File::read(config).map_err(|error| Failure::Usage(error.to_string()))?;
    let beside = file.next_key.with_extension("key");
    let before = look(&file).map_err(of_keys)?;
    let _lock = KeysLock::take(&file.key).map_err(of_keys)?;
    let (current, announced) = look(&file).map_err(of_keys)?;
    if (current, announced) != before {
        let text = "another 'rotate-key' has changed the keys meanwhile, so this one changed nothing; do what that one has printed";
        return Err(Failure::System(text.into()));
    }
    if current != Some(announced.pin()) {
        check_restarted(&file, current, announced.pin())?;
        // Not the one beside the relay's key unless that is named: a second call by mistake would take the key that was just
        // made, which no device knows.
        let from = next_key
            .as_ref()
            .ok_or_else(|| Failure::Usage("name the file of the next key, where it was kept, by --next-key".into()))?;
        let next = read_private(from).map_err(|error| Failure::Usage(error.to_string()))?;
        if *next.public() != announced {
            return Err(Failure::Usage(format!(
                "{} is not the key that devices were told of, which is {} of {}; nothing was changed",
                from.display(),
                announced.pin(),
                file.next_key.display()
            )));
        }
        if !force {
            check_told(&file, announced.pin())?;
        }
        write_private(&file.key, &next, &file.state).map_err(of_keys)?;
    }
    init::let_service_read(&file.key).map_err(|reason| Failure::System(format!("{}: {reason}", file.key.display())))?;
    let after = Key::generate().map_err(|error| Failure::System(error.to_string()))?;
    // Root's where the key is: a service reads that as its group, and has nothing of this one.
    write_private(&beside, &after, &file.key).map_err(of_keys)?;
    write_public(&file.next_key, after.public(), &file.state).map_err(of_keys)?;
    say(&next_steps(&file, &beside, announced.pin(), next_key.as_deref()))
}

fn of_keys(error: KeysError) -> Failure {
    Failure::System(error.to_string())
}

/// The relay's key, if there is one, and the one that devices were told of.
fn look(file: &File) -> Result<(Option<Pin>, PublicKey), KeysError> {
    let current = match read_private(&file.key) {
        // The next key is for the case that this one is lost, too.
        Err(KeysError::Missing { .. }) => None,
        read => Some(read?.public().pin()),
    };
    Ok((current, read_public(&file.next_key)?))
}

/// Devices learn the key after next from the relay that proves the next. Before it has done so nothing may be changed again:
/// they would know neither of the two.
fn check_restarted(file: &File, current: Option<Pin>, announced: Pin) -> Done {
    let Some(runs) = ask::proven_keys(&file.state)? else { return Ok(()) };
    let (does, pin, path, other) = match current {
        Some(current) if current != runs.current => ("proves", runs.current, &file.key, current),
        // The key itself may be lost.
        _ if announced != runs.next => ("announces", runs.next, &file.next_key, announced),
        _ => return Ok(()),
    };
    Err(Failure::Usage(format!(
        "the relay that runs {does} {pin}, and {path} has {other} already, so the key was changed and the relay not \
         restarted; restart it and let every device connect before the next change, or devices will know neither key; \
         nothing was changed",
        path = path.display()
    )))
}

/// Devices that were there before, and not since the last change of the key, know neither the next one nor how to learn it.
/// Those of a relay that runs are its own to tell, whatever it was started with.
fn check_told(file: &File, next: Pin) -> Done {
    let lacking = match ask::lacking_key(&file.state, next)? {
        Some(lacking) => lacking,
        None => files::list(&file.state)?
            .into_iter()
            .filter(|listed| listed.lacks(next))
            .map(|listed| listed.principal.name.to_string())
            .collect(),
    };
    if lacking.is_empty() {
        return Ok(());
    }
    Err(Failure::Usage(format!(
        "these devices do not know the next key yet, and would have to join anew: {}; let each connect once before, or give \
         --force; nothing was changed",
        ask::some_of(&lacking)
    )))
}

fn next_steps(file: &File, beside: &Path, pin: Pin, used: Option<&Path>) -> String {
    let key = file.key.display();
    let mut text = format!(
        "{key} is the next key now, {pin}.
Next:
  1. Restart the relay. Each device that connects trusts the new key, and is told of the one after it.
  2. Move {beside} to another place. It is the key after this one.
  3. Let every device connect once before this is done again: one that misses two changes must join anew. 'devices' names
     those that have not yet.",
        beside = beside.display(),
    );
    // The file beside the relay's key was written anew, and the relay's own is where it belongs.
    let is_same = |one: &Path, other: &Path| matches!((fs::canonicalize(one), fs::canonicalize(other)), (Ok(one), Ok(other)) if one == other);
    if let Some(used) = used.filter(|used| !is_same(used, beside) && !is_same(used, &file.key)) {
        let used = used.display();
        text.push_str(&format!(
            "\n  4. Delete {used} once the relay proves it. It is a copy of {key} now, and as good as that to a thief."
        ));
    }
    text
}
