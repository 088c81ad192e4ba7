//! Whether the relay's user, and nobody else, may use the relay's files. It is looked at without a relay, and by root for
//! the user that is to run it: the one that owns the state directory.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::file::File;

/// Bits of a mode by which others than the owner may do anything, and by which they may write.
const OTHERS: u32 = 0o077;
const OTHERS_WRITE: u32 = 0o022;
const GROUP_READ: u32 = 0o040;

/// What is wrong, each with the path, what was found, and the command that mends it. A file that is not there is no mistake
/// here: for keys their reader says so, and the state directory is made at the first start.
pub fn mistakes(file: &File) -> Vec<String> {
    let me = rustix::process::geteuid().as_raw();
    let state = fs::metadata(&file.state).ok();
    let mut mistakes = Vec::new();
    if let Some(state) = &state {
        mistakes.extend(of_state(&file.state, state, me));
    }
    let runs_as = state.as_ref().map_or(me, MetadataExt::uid);
    if file.tls.is_some() {
        for path in [&file.key, &file.next_key] {
            mistakes
                .extend(fs::metadata(path).ok().and_then(|key| of_key(path, &key, path == &file.next_key, runs_as)));
        }
    }
    mistakes
}

fn of_state(path: &Path, state: &Metadata, me: u32) -> Vec<String> {
    let (mode, owner, shown) = (state.mode() & 0o7777, state.uid(), path.display());
    if !state.is_dir() {
        return vec![format!("{shown} is no directory; give one for the relay's state")];
    }
    let mut mistakes = Vec::new();
    if mode & OTHERS != 0 {
        mistakes.push(format!("state directory {shown} is open to others (mode {mode:04o}); run: chmod 700 {shown}"));
    }
    // Root looks for the owner, which the relay is to be run by.
    if owner != me && me != 0 {
        mistakes.push(format!(
            "state directory {shown} belongs to user {owner}, and this is user {me}; run this as its owner, or as root: \
             chown -R {me} {shown}"
        ));
    }
    let files = fs::read_dir(path).into_iter().flatten().flatten();
    let foreign = files.filter(|file| file.metadata().is_ok_and(|file| file.uid() != owner));
    mistakes.extend(foreign.map(|file| {
        let file = file.path();
        format!("{} does not belong to user {owner}, as {shown} does; run: chown -R {owner} {shown}", file.display())
    }));
    mistakes
}

fn of_key(path: &Path, key: &Metadata, is_public: bool, runs_as: u32) -> Option<String> {
    let (mode, owner, path) = (key.mode() & 0o7777, key.uid(), path.display());
    if is_public {
        return (mode & OTHERS_WRITE != 0).then(|| {
            format!("{path} may be written by others (mode {mode:04o}), who could name devices another key; run: chmod 644 {path}")
        });
    }
    // Whether others may read it is seen by its reader, for every relay that starts.
    let is_readable = owner == runs_as || runs_as == 0 || mode & GROUP_READ != 0;
    (!is_readable).then(|| {
        format!(
            "{path} belongs to user {owner}, and nobody else may read it (mode {mode:04o}), while the relay runs as user \
             {runs_as}, whose state directory it is; run: chown {runs_as} {path}"
        )
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, chown};

    use super::*;

    fn place() -> (tempfile::TempDir, File) {
        let directory = tempfile::tempdir().expect("a directory");
        let file = File::parse("[listen]\ntls = \"127.0.0.1:0\"\n", directory.path()).expect("a configuration");
        fs::create_dir(&file.state).expect("made");
        for (path, mode) in [(&file.key, 0o600), (&file.next_key, 0o644)] {
            fs::write(path, "").expect("written");
            set_mode(path, mode);
        }
        set_mode(&file.state, 0o700);
        (directory, file)
    }

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("permissions");
    }

    #[test]
    fn what_others_may_use_is_told_with_its_mode_and_the_command() {
        let (_directory, file) = place();
        assert_eq!(mistakes(&file), [""; 0]);
        set_mode(&file.state, 0o750);
        set_mode(&file.next_key, 0o664);
        let (state, next) = (file.state.display(), file.next_key.display());
        assert_eq!(
            mistakes(&file),
            [
                format!("state directory {state} is open to others (mode 0750); run: chmod 700 {state}"),
                format!(
                    "{next} may be written by others (mode 0664), who could name devices another key; run: chmod 644 {next}"
                ),
            ]
        );
        set_mode(&file.state, 0o700);
        fs::remove_file(&file.next_key).expect("removed");
        fs::remove_dir(&file.state).expect("removed");
        assert_eq!(mistakes(&file), [""; 0], "the one is told by its reader, and the other made at the first start");
        fs::write(&file.state, "").expect("written");
        assert_eq!(mistakes(&file), [format!("{state} is no directory; give one for the relay's state")]);
    }

    #[test]
    fn a_key_that_the_owner_of_the_state_directory_cannot_read_is_told() {
        if !rustix::process::geteuid().is_root() {
            // Nobody else can give files away.
            return;
        }
        let (_directory, file) = place();
        fs::write(file.state.join("registry.db"), "").expect("written");
        chown(&file.state, Some(12_345), None).expect("given away");
        let (state, key) = (file.state.display(), file.key.display());
        assert_eq!(
            mistakes(&file),
            [
                format!(
                    "{state}/registry.db does not belong to user 12345, as {state} does; run: chown -R 12345 {state}"
                ),
                format!(
                    "{key} belongs to user 0, and nobody else may read it (mode 0600), while the relay runs as user 12345, \
                     whose state directory it is; run: chown 12345 {key}"
                ),
            ]
        );
        chown(file.state.join("registry.db"), Some(12_345), None).expect("given away");
        set_mode(&file.key, 0o640);
        assert_eq!(mistakes(&file), [""; 0]);
    }
}
