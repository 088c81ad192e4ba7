//! Why a directory cannot be used, and what to do about that.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::process::geteuid;

use crate::device::membership::MembershipError;
use crate::identity::Pin;
use crate::tls::KeyError;

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
        "state_dir: '{path}' belongs to user {owner}, and this program runs as user {user}; {}",
        of_other(*.owner, *.user, .path)
    )]
    OtherOwner {
        /// The directory or file.
        path: String,
        /// Whose it is.
        owner: u32,
        /// Who asks.
        user: u32,
    },
    /// It is open to others or belongs to another user, and is for other things, too: to change that would take it from
    /// whoever uses those.
    #[error("state_dir: '{path}' has other things in it, such as '{other}'; give state_dir a directory of its own")]
    Shared {
        /// The directory.
        path: String,
        /// The name of one of them.
        other: String,
    },
    /// The system refused something.
    #[error("state_dir: cannot {what} '{path}': {reason}{remedy}")]
    System {
        /// What was attempted.
        what: &'static str,
        /// With which directory or file.
        path: String,
        /// What the system said.
        reason: io::Error,
        /// What to do, behind a semicolon; empty if that is not known.
        remedy: String,
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
    /// Another process has joined another relay.
    #[error(
        "state_dir: another program has joined another relay in '{path}'; give each program a state_dir of its own, and let \
         this one join there by another join string"
    )]
    OtherRelay {
        /// The directory.
        path: String,
    },
    /// No key can be made.
    #[error("state_dir: no key can be made: {0}; is /dev/urandom there?")]
    NoKey(KeyError),
}

/// What to do about a directory of another user's. Root may have made or brought it back; one that is a service's stays so.
fn of_other(owner: u32, user: u32, path: &str) -> String {
    if owner == 0 || user == 0 {
        format!("run it as that user, or type as root: chown -R {user} '{path}'")
    } else {
        "run it as that user, or as root where it is the command tcpremote".into()
    }
}

/// The system refused this. It is asked here what would help, where it may take its time, and not where the text is made.
pub(super) fn system(what: &'static str, path: &Path, reason: io::Error) -> StateDirError {
    let remedy = remedy(path, &reason);
    StateDirError::System { what, path: path.display().to_string(), reason, remedy }
}

/// The same of a file or directory that is there; it may belong to another user.
pub(super) fn refused(what: &'static str, path: &Path, reason: io::Error) -> StateDirError {
    let user = geteuid().as_raw();
    match fs::metadata(path).map(|metadata| metadata.uid()) {
        Ok(owner) if owner != user && reason.kind() == io::ErrorKind::PermissionDenied => {
            StateDirError::OtherOwner { path: path.display().to_string(), owner, user }
        }
        Ok(_) | Err(_) => system(what, path, reason),
    }
}

/// What to do about the system's refusal.
fn remedy(path: &Path, reason: &io::Error) -> String {
    let is_one_of = |kinds: &[io::ErrorKind]| kinds.contains(&reason.kind());
    if is_one_of(&[io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded]) {
        "; make room on that disk".into()
    } else if is_one_of(&[io::ErrorKind::ReadOnlyFilesystem]) {
        "; give state_dir a place that can be written to".into()
    } else if is_one_of(&[io::ErrorKind::PermissionDenied]) {
        permission(path)
    } else if is_one_of(&[io::ErrorKind::NotFound]) {
        let is_alone = path.parent().is_some_and(Path::is_dir);
        if is_alone { "; it was there before: put it back" } else { "; make the directory above it first" }.into()
    } else if is_one_of(&[io::ErrorKind::NotADirectory, io::ErrorKind::AlreadyExists]) {
        "; give state_dir a directory".into()
    } else {
        String::new()
    }
}

/// What would permit it, as far as the modes and owners of what is there tell.
fn permission(path: &Path) -> String {
    let user = geteuid().as_raw();
    let withheld = |place: &Path| -> Option<String> {
        let metadata = fs::metadata(place).ok().filter(|metadata| metadata.uid() == user)?;
        let (wanted, letters) = if metadata.is_dir() { (0o700, "rwx") } else { (0o600, "rw") };
        let place = place.display();
        (metadata.mode() & wanted != wanted).then(|| format!("; type: chmod u+{letters} '{place}'"))
    };
    if let Some(text) = withheld(path).or_else(|| path.parent().and_then(withheld)) {
        return text;
    }
    let is_missing = fs::metadata(path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
    if is_missing {
        let path = path.display();
        return format!(
            "; type as root: install -d -m 700 -o {user} '{path}', or give state_dir a place of user {user}"
        );
    }
    // The nearest that can be looked at is what cannot be passed through.
    let found: Option<(&Path, Metadata)> =
        path.ancestors().skip(1).find_map(|place| fs::metadata(place).ok().map(|metadata| (place, metadata)));
    match found {
        Some((place, metadata)) if metadata.uid() != user && fs::metadata(path).is_err() => {
            let place = place.display();
            format!(
                "; user {user} may not look into '{place}': give state_dir a place of that user, or run it as another"
            )
        }
        Some(_) | None => format!("; run it as a user who may, or give state_dir a place of user {user}"),
    }
}
