//! Makes the relay's next key its key, and another one the next.

use std::path::{Path, PathBuf};

use tcpremote::relay::file::File;
use tcpremote::relay::keys::{KeysError, read_private, read_public, write_private, write_public};
use tcpremote::tls::Key;

use super::output::{Done, Failure, say};

/// Each step leaves files with which a second try goes on. Between the two the relay's key and the next are one, which the
/// relay refuses to start with.
pub(crate) fn rotate(config: &Path, next_key: Option<PathBuf>) -> Done {
    let file = File::read(config).map_err(|error| Failure::Usage(error.to_string()))?;
    let of_keys = |error: KeysError| Failure::System(error.to_string());
    let beside = file.next_key.with_extension("key");
    let announced = read_public(&file.next_key).map_err(of_keys)?;
    if *read_private(&file.key).map_err(of_keys)?.public() != announced {
        // Not the one beside the relay's key unless that is named: a second call by mistake would take the key that was just
        // made, which no device knows.
        let from = next_key
            .ok_or_else(|| Failure::Usage("name the file of the next key, where it was kept, by --next-key".into()))?;
        let next = read_private(&from).map_err(|error| Failure::Usage(error.to_string()))?;
        if *next.public() != announced {
            return Err(Failure::Usage(format!(
                "{} is not the key that devices were told of, which is {} of {}; nothing was changed",
                from.display(),
                announced.pin(),
                file.next_key.display()
            )));
        }
        write_private(&file.key, &next).map_err(of_keys)?;
    }
    let after = Key::generate().map_err(|error| Failure::System(error.to_string()))?;
    write_private(&beside, &after).map_err(of_keys)?;
    write_public(&file.next_key, after.public()).map_err(of_keys)?;
    say(&format!(
        "{key} is the next key now, {pin}.
Next:
  1. Restart the relay. Each device that connects trusts the new key, and is told of the one after it.
  2. Move {beside} to another place. It is the key after this one.
  3. Let every device connect once before this is done again: one that misses two changes must join anew.",
        key = file.key.display(),
        pin = announced.pin(),
        beside = beside.display(),
    ))
}
