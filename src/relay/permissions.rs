//! Whether the relay's user, and nobody else, may use the relay's files. It is looked at without a relay, and by root for
//! the user that is to run it: the one that owns the state directory.

use std::ffi::CString;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::unistd::{Gid, User, getgrouplist};

use super::file::File;

/// Bits of a mode by which others than the owner may do anything, and by which they may write.
const OTHERS: u32 = 0o077;
const OTHERS_WRITE: u32 = 0o022;
/// What one class of users may do, as the last digit of a mode.
const READ: u32 = 0o4;
const PASS: u32 = 0o1;

/// The user of the relay's service, and its group, as packaging/systemd has them. Its files belong to root, and it reads
/// them as that group, so that it can change none.
pub const SERVICE_USER: &str = "tcp-remote-relay";

/// What to do where a file may not be read, behind the reason: [`mistakes`] knows for whom it is meant.
pub(super) fn hint(reason: &io::Error) -> &'static str {
    if reason.kind() == io::ErrorKind::PermissionDenied {
        "; run this as root; where the relay says so, 'tcp-remote-relay check' tells root what to do"
    } else {
        ""
    }
}

/// The user that the relay runs as.
struct RunsAs {
    user: u32,
    groups: Vec<u32>,
    is_service: bool,
}

/// What is wrong, each with the path, what was found, and the command that mends it. A file that is not there is no mistake
/// here: for keys their reader says so, and the state directory is made at the first start.
pub fn mistakes(config: &Path, file: &File) -> Vec<String> {
    let me = rustix::process::geteuid().as_raw();
    let state = fs::metadata(&file.state).ok();
    let mut mistakes = Vec::new();
    if let Some(state) = &state {
        mistakes.extend(of_state(&file.state, state, me));
    }
    if file.tls.is_some() {
        mistakes.extend(fs::metadata(&file.next_key).ok().and_then(|key| of_next_key(&file.next_key, &key)));
    }
    // Who is not root has to read them all itself to come here.
    if let Some(state) = state.filter(|state| me == 0 && state.uid() != me) {
        let runs_as = RunsAs::of_directory(&state);
        let keys = file.tls.is_some().then_some([&*file.key, &*file.next_key]);
        let files = [config].into_iter().chain(keys.into_iter().flatten());
        mistakes.extend(files.clone().filter_map(|path| runs_as.cannot_read(path)));
        let mut closed: Vec<PathBuf> =
            files.chain([&*file.state]).filter_map(|path| runs_as.is_kept_from(path)).collect();
        closed.dedup();
        mistakes.extend(closed.iter().map(|directory| runs_as.cannot_pass(directory)));
    }
    mistakes
}

impl RunsAs {
    /// The owner, who is in the directory's group, and in those of which the system says so, from wherever it knows them.
    fn of_directory(state: &Metadata) -> Self {
        let mut groups = vec![state.gid()];
        groups.extend(groups_of(state.uid()));
        let is_service = user(state.uid()).is_some_and(|user| user.name == SERVICE_USER);
        Self { user: state.uid(), groups, is_service }
    }

    fn may(&self, file: &Metadata, what: u32) -> bool {
        let class = if file.uid() == self.user {
            6
        } else if self.groups.contains(&file.gid()) {
            3
        } else {
            0
        };
        (file.mode() >> class) & what != 0
    }

    fn cannot_read(&self, path: &Path) -> Option<String> {
        let file = fs::metadata(path).ok().filter(|file| !self.may(file, READ))?;
        let (owner, group, mode, user) = (file.uid(), file.gid(), file.mode() & 0o7777, self.user);
        Some(format!(
            "{path} cannot be read by user {user}, as which the relay runs, whose state directory it is: it belongs to user \
             {owner} and group {group} (mode {mode:04o}); run: {remedy}",
            path = path.display(),
            remedy = self.let_have(path, 0o640)
        ))
    }

    /// The command that lets the user have it.
    fn let_have(&self, path: &Path, mode: u32) -> String {
        let (user, path) = (self.user, path.display());
        if self.is_service {
            format!("chown root:{SERVICE_USER} {path} && chmod {mode:o} {path}")
        } else {
            format!("chown {user} {path}")
        }
    }

    /// The first directory on the way to the path that the user may not pass.
    fn is_kept_from(&self, path: &Path) -> Option<PathBuf> {
        let path = fs::canonicalize(path).ok()?;
        let mut above: Vec<&Path> = path.ancestors().skip(1).collect();
        above.reverse();
        let is_closed = |path: &&Path| fs::metadata(path).is_ok_and(|directory| !self.may(&directory, PASS));
        above.into_iter().find(is_closed).map(Path::to_owned)
    }

    fn cannot_pass(&self, directory: &Path) -> String {
        let (user, remedy, directory) = (self.user, self.let_have(directory, 0o750), directory.display());
        format!(
            "directory {directory} is closed to user {user}, as which the relay runs, whose state directory it is; if it is \
             the relay's own, run: {remedy}"
        )
    }
}

/// `None` if the system does not know it.
fn user(user: u32) -> Option<User> {
    User::from_uid(user.into()).ok().flatten()
}

/// The groups of a user; none of one whom the system does not know.
fn groups_of(id: u32) -> Vec<u32> {
    let Some(User { name, gid, .. }) = user(id) else { return Vec::new() };
    let Ok(name) = CString::new(name) else { return vec![gid.as_raw()] };
    let groups = getgrouplist(&name, gid).unwrap_or_else(|_| vec![gid]);
    groups.into_iter().map(Gid::as_raw).collect()
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
            "state directory {shown} belongs to user {owner}, and this is user {me}; run this as root, or as its owner; if the \
             relay is to run as user {me} from now on, run as root: chown -R {me} {shown}"
        ));
    }
    let files = fs::read_dir(path).into_iter().flatten().flatten();
    // The relay makes no directories there: one is a file system's own, such as lost+found.
    let foreign = files.filter(|file| file.metadata().is_ok_and(|file| !file.is_dir() && file.uid() != owner));
    mistakes.extend(foreign.map(|file| {
        let file = file.path();
        format!("{} does not belong to user {owner}, as {shown} does; run: chown -R {owner} {shown}", file.display())
    }));
    mistakes
}

fn of_next_key(path: &Path, key: &Metadata) -> Option<String> {
    let (mode, path) = (key.mode() & 0o7777, path.display());
    (mode & OTHERS_WRITE != 0).then(|| {
        format!("{path} may be written by others (mode {mode:04o}), who could name devices another key; run: chmod 644 {path}")
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

    fn config(directory: &tempfile::TempDir) -> PathBuf {
        let path = directory.path().join("relay.toml");
        fs::write(&path, "").expect("written");
        set_mode(&path, 0o644);
        path
    }

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("permissions");
    }

    #[test]
    fn what_others_may_use_is_told_with_its_mode_and_the_command() {
        let (directory, file) = place();
        let config = config(&directory);
        assert_eq!(mistakes(&config, &file), [""; 0]);
        set_mode(&file.state, 0o750);
        set_mode(&file.next_key, 0o664);
        let (state, next) = (file.state.display(), file.next_key.display());
        assert_eq!(
            mistakes(&config, &file),
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
        assert_eq!(
            mistakes(&config, &file),
            [""; 0],
            "the one is told by its reader, and the other made at the first start"
        );
        fs::write(&file.state, "").expect("written");
        assert_eq!(mistakes(&config, &file), [format!("{state} is no directory; give one for the relay's state")]);
    }

    #[test]
    fn the_groups_of_a_user_are_those_that_the_system_gives_it() {
        let me = rustix::process::geteuid().as_raw();
        let said = std::process::Command::new("id").args(["-G", "--", &me.to_string()]).output().expect("id");
        let mut said: Vec<u32> =
            String::from_utf8_lossy(&said.stdout).split_whitespace().filter_map(|group| group.parse().ok()).collect();
        let mut known = groups_of(me);
        said.sort_unstable();
        known.sort_unstable();
        assert_eq!(known, said);
        assert_eq!(groups_of(u32::MAX - 1), [0; 0], "nobody");
    }

    #[test]
    fn the_service_is_given_what_it_reads_as_its_group_and_any_other_user_the_file_itself() {
        let path = Path::new("/etc/x");
        let remedy = |is_service| RunsAs { user: 997, groups: Vec::new(), is_service }.let_have(path, 0o640);
        assert_eq!(remedy(true), "chown root:tcp-remote-relay /etc/x && chmod 640 /etc/x");
        assert_eq!(remedy(false), "chown 997 /etc/x");
    }

    #[test]
    fn what_the_owner_of_the_state_directory_cannot_use_is_told() {
        if !rustix::process::geteuid().is_root() {
            // Nobody else can give files away.
            return;
        }
        let (directory, file) = place();
        let config = config(&directory);
        fs::write(file.state.join("registry.db"), "").expect("written");
        fs::create_dir(file.state.join("lost+found")).expect("made");
        set_mode(directory.path(), 0o755);
        chown(&file.state, Some(12_345), Some(12_346)).expect("given away");
        let (state, key) = (file.state.display(), file.key.display());
        let unreadable = |mode: &str| {
            format!(
                "{key} cannot be read by user 12345, as which the relay runs, whose state directory it is: it belongs to user \
                 0 and group 0 (mode {mode}); run: chown 12345 {key}"
            )
        };
        assert_eq!(
            mistakes(&config, &file),
            [
                format!(
                    "{state}/registry.db does not belong to user 12345, as {state} does; run: chown -R 12345 {state}"
                ),
                unreadable("0600"),
            ]
        );
        chown(file.state.join("registry.db"), Some(12_345), None).expect("given away");
        set_mode(&file.key, 0o640);
        assert_eq!(mistakes(&config, &file), [unreadable("0640")], "it is not of that group");
        chown(&file.key, None, Some(12_346)).expect("given away");
        assert_eq!(mistakes(&config, &file), [""; 0]);
        set_mode(&config, 0o600);
        let error = mistakes(&config, &file).join("\n");
        assert!(error.starts_with(&format!("{} cannot be read by user 12345,", config.display())), "{error}");
        set_mode(&config, 0o644);
        set_mode(directory.path(), 0o700);
        let error = mistakes(&config, &file).join("\n");
        assert!(
            error.starts_with(&format!("directory {} is closed to user 12345,", directory.path().display())),
            "{error}"
        );
        assert_eq!(error.lines().count(), 1, "{error}");
    }
}
