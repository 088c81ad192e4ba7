mod strings;

use std::fs::Permissions;
use std::os::unix::fs::{PermissionsExt, chown, symlink};

use tempfile::TempDir;

use super::replace::{Step, no_fault, replace};
use super::*;
use crate::identity::{Name, Pins};

/// All steps that can fail, in their order.
const STEPS: [Step; 5] = [Step::Create, Step::Write, Step::Sync, Step::Rename, Step::SyncDirectory];

fn place() -> TempDir {
    tempfile::tempdir().expect("a directory")
}

fn open(place: &TempDir) -> StateDir {
    StateDir::open(&place.path().join("state")).expect("opened")
}

const RELAYS_PINS: Pins = Pins { current: Pin([2; 32]), next: Pin([3; 32]) };

fn try_first_key(directory: &StateDir) -> Result<Key, StateDirError> {
    directory.first_key(TokenId([1; 8]), &RELAYS_PINS)
}

/// The key to join by token 1.
pub(crate) fn first_key(directory: &StateDir) -> Key {
    try_first_key(directory).expect("a key")
}

pub(crate) fn membership(key: &Key, token: u8) -> Membership {
    Membership {
        name: None,
        device_key: key.public().pin(),
        pins: RELAYS_PINS,
        addresses: Vec::new(),
        join_addresses: vec!["relay:443".parse().expect("an address")],
        tokens: vec![TokenId([token; 8])],
    }
}

/// A directory of a device that has joined with token 1.
fn joined(place: &TempDir) -> (StateDir, Pin) {
    let directory = open(place);
    let key = first_key(&directory);
    directory.store(&key, &membership(&key, 1), None).expect("stored");
    (directory, key.public().pin())
}

/// The fingerprint of the key in force.
fn member(directory: &StateDir) -> Option<Pin> {
    directory.load().expect("loaded").member.map(|(key, membership)| {
        assert_eq!(key.public().pin(), membership.device_key);
        key.public().pin()
    })
}

fn names(directory: &StateDir) -> Vec<String> {
    let entries = fs::read_dir(&directory.path).expect("a directory");
    let mut names: Vec<_> =
        entries.map(|entry| entry.expect("one").file_name().into_string().expect("a name")).collect();
    names.sort();
    names
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("it is there").mode() & 0o777
}

fn say_skipped(why: &str) {
    use std::io::Write;
    let _ = writeln!(io::stderr(), "SKIPPED: {why}");
}

#[test]
fn a_directory_and_its_files_are_for_their_owner_alone_and_the_same_key_comes_again() {
    let place = place();
    let directory = open(&place);
    let key = first_key(&directory);
    directory.store(&key, &membership(&key, 1), None).expect("stored");
    assert_eq!(mode(&directory.path), 0o700);
    assert_eq!(names(&directory), ["key", "relay.toml"]);
    for name in names(&directory) {
        assert_eq!(mode(&directory.path.join(&name)), 0o600, "{name}");
    }
    assert_eq!(fs::read(directory.path.join("key")).expect("a file"), key.to_pkcs8().as_slice());
    assert_eq!(first_key(&open(&place)).public(), key.public());
    assert_eq!(member(&open(&place)), Some(key.public().pin()));
}

#[test]
fn what_others_can_read_is_refused_with_the_command_that_closes_it() {
    let place = place();
    let (directory, _) = joined(&place);
    let path = directory.path.clone();
    for (file, open, wanted) in [("", 0o750, "700"), ("key", 0o640, "600"), ("relay.toml", 0o602, "600")] {
        let file = if file.is_empty() { path.clone() } else { path.join(file) };
        let before = mode(&file);
        fs::set_permissions(&file, Permissions::from_mode(open)).expect("changed");
        let refused = StateDir::open(&path).and_then(|directory| directory.load().map(drop));
        let expected = format!(
            "state_dir: '{0}' can be read or written by others (mode {open:03o}); type: chmod {wanted} '{0}'",
            file.display()
        );
        assert_eq!(refused.expect_err("it is open").to_string(), expected);
        fs::set_permissions(&file, Permissions::from_mode(before)).expect("changed");
    }
    assert!(member(&directory).is_some());
}

#[test]
fn a_directory_that_is_for_other_things_is_not_to_be_changed() {
    let place = place();
    let refused = |path: &Path| StateDir::open(path).expect_err("it is open to others").to_string();
    fs::set_permissions(place.path(), Permissions::from_mode(0o755)).expect("changed");
    let shown = place.path().display();
    // A new disk, and what a crash has left of a first start.
    for name in ["lost+found", ".joining.new", "joining"] {
        fs::write(place.path().join(name), "").expect("written");
        assert!(refused(place.path()).ends_with(&format!("; type: chmod 700 '{shown}'")), "{name}");
    }
    fs::write(place.path().join("passwd"), "").expect("written");
    let expected =
        format!("state_dir: '{shown}' has other things in it, such as 'passwd'; give state_dir a directory of its own");
    assert_eq!(refused(place.path()), expected);
    if geteuid().is_root() {
        chown(place.path(), Some(NOBODY), None).expect("given away");
        assert_eq!(refused(place.path()), expected);
        chown(place.path(), Some(0), None).expect("taken back");
    }
    // It has become a device's.
    fs::write(place.path().join("key"), "").expect("written");
    assert!(refused(place.path()).ends_with(&format!("; type: chmod 700 '{shown}'")));
}

#[test]
fn what_belongs_to_another_user_is_refused() {
    if !geteuid().is_root() {
        return say_skipped("only root can give files away");
    }
    let place = place();
    let (directory, _) = joined(&place);
    let path = directory.path.clone();
    for file in [path.join("key"), path.clone()] {
        chown(&file, Some(1), None).expect("given away");
        let refused = StateDir::open(&path).and_then(|directory| directory.load().map(drop));
        let text = refused.expect_err("it is another's").to_string();
        let expected = format!("state_dir: '{}' belongs to user 1, and this program runs as user 0; ", file.display());
        assert!(text.starts_with(&expected) && text.contains("type as root: chown -R 0 "), "{text}");
        chown(&file, Some(0), None).expect("taken back");
    }
}

#[test]
fn a_place_where_no_directory_can_be_is_said_with_a_remedy() {
    let place = place();
    let deep = place.path().join("no/such");
    let text = StateDir::open(&deep).expect_err("nothing above").to_string();
    assert!(text.ends_with("(os error 2); make the directory above it first"), "{text}");
    let file = place.path().join("file");
    fs::write(&file, "").expect("written");
    let text = StateDir::open(&file).expect_err("a file").to_string();
    assert!(text.starts_with(&format!("state_dir: cannot make '{}': ", file.display())), "{text}");
}

/// What a program of a user who is not root says of this directory; nothing where it can be used.
fn told_as_nobody(path: &Path) -> String {
    use rustix::process::{Gid, Uid};
    let path = path.to_owned();
    let ask = move || {
        // Of this thread alone.
        let (uid, gid) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
        rustix::thread::set_thread_groups(&[]).expect("no groups");
        rustix::thread::set_thread_res_gid(gid, gid, gid).expect("another group");
        rustix::thread::set_thread_res_uid(uid, uid, uid).expect("another user");
        if let Err(error) = StateDir::is_there(&path) {
            return error.to_string();
        }
        let directory = StateDir::open(&path).map_err(|error| error.to_string());
        let key = directory.and_then(|directory| {
            directory.load().map_err(|error| error.to_string())?;
            try_first_key(&directory).map(drop).map_err(|error| error.to_string())
        });
        key.err().unwrap_or_default()
    };
    thread::spawn(ask).join().expect("no panic")
}

const NOBODY: u32 = 65_534;

#[test]
fn a_user_who_may_not_use_the_directory_is_told_what_would_permit_it() {
    if !geteuid().is_root() {
        return say_skipped("only root can become another user");
    }
    let place = place();
    let made = |name: &str, mode: u32, owner: u32| {
        let path = place.path().join(name);
        fs::create_dir(&path).expect("made");
        chown(&path, Some(owner), None).expect("given away");
        fs::set_permissions(&path, Permissions::from_mode(mode)).expect("changed");
        path
    };
    let change = |mode| fs::set_permissions(place.path(), Permissions::from_mode(mode)).expect("changed");
    let denied = "Permission denied (os error 13)";

    // Nothing can be looked at there.
    change(0o700);
    let closed = made("closed", 0o700, NOBODY).join("state");
    let shown = place.path().display();
    let expected = format!(
        "state_dir: cannot open '{}': {denied}; user 65534 may not look into '{shown}': give state_dir a place of that \
         user, or run it as another",
        closed.display()
    );
    assert_eq!(told_as_nobody(&closed), expected);
    change(0o755);

    // The directory above belongs to root.
    let missing = place.path().join("missing");
    let expected = format!(
        "state_dir: cannot make '{0}': {denied}; type as root: install -d -m 700 -o 65534 '{0}', or give state_dir a place \
         of user 65534",
        missing.display()
    );
    assert_eq!(told_as_nobody(&missing), expected);

    // It is root's itself, or a file in it is.
    let roots = made("roots", 0o700, 0);
    let owned = |path: &Path| {
        format!(
            "state_dir: '{0}' belongs to user 0, and this program runs as user 65534; run it as that user, or type as \
             root: chown -R 65534 '{0}'",
            path.display()
        )
    };
    assert_eq!(told_as_nobody(&roots), owned(&roots));
    let mixed = made("mixed", 0o700, NOBODY);
    fs::write(mixed.join("key"), "").expect("written");
    fs::set_permissions(mixed.join("key"), Permissions::from_mode(0o600)).expect("changed");
    assert_eq!(told_as_nobody(&mixed), owned(&mixed.join("key")));

    // It is a service's, which would lose its key.
    let services = made("services", 0o700, 1);
    let expected = format!(
        "state_dir: '{}' belongs to user 1, and this program runs as user 65534; run it as that user, or as root where it \
         is the command tcpremote",
        services.display()
    );
    assert_eq!(told_as_nobody(&services), expected);

    // Its own user may not write there, nor look into it, nor read a file of it.
    for (name, mode, what, file) in [("read-only", 0o500, "write", "/joining"), ("unreadable", 0o300, "open", "")] {
        let path = made(name, mode, NOBODY);
        let path = path.display();
        let expected = format!("state_dir: cannot {what} '{path}{file}': {denied}; type: chmod u+rwx '{path}'");
        assert_eq!(told_as_nobody(Path::new(&path.to_string())), expected);
    }
    let hidden = made("hidden", 0o700, NOBODY);
    let key = hidden.join("key");
    fs::write(&key, "").expect("written");
    chown(&key, Some(NOBODY), None).expect("given away");
    fs::set_permissions(&key, Permissions::from_mode(0o000)).expect("changed");
    let expected = format!("state_dir: cannot read '{0}': {denied}; type: chmod u+rw '{0}'", key.display());
    assert_eq!(told_as_nobody(&hidden), expected);

    let usable = made("usable", 0o700, NOBODY);
    assert_eq!(told_as_nobody(&usable), "");
}

#[test]
fn a_directory_that_was_removed_while_a_program_ran_is_missed_with_a_text_that_says_so() {
    let place = place();
    let (directory, _) = joined(&place);
    fs::remove_dir_all(&directory.path).expect("removed");
    let text = directory.load().map(drop).expect_err("it is gone").to_string();
    assert!(text.ends_with("(os error 2); it was there before: put it back"), "{text}");
}

#[test]
fn a_directory_that_was_emptied_while_a_program_ran_has_all_again_once_that_stores() {
    let place = place();
    let (directory, pin) = joined(&place);
    let key = first_key(&directory);
    fs::remove_dir_all(&directory.path).expect("removed");
    DirBuilder::new().mode(0o700).create(&directory.path).expect("made");
    directory.store(&key, &membership(&key, 1), Some(pin)).expect("stored");
    assert_eq!((member(&directory), names(&directory)), (Some(pin), vec!["key".to_owned(), "relay.toml".to_owned()]));
}

#[test]
fn whichever_step_of_writing_fails_the_old_content_is_there_or_the_new_and_no_rest_lies_about() {
    for failing in STEPS {
        for there in [None, Some("old")] {
            let place = place();
            if let Some(old) = there {
                fs::write(place.path().join("key"), old).expect("written");
            }
            let mut fault = |step| if step == failing { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) };
            let error = replace(place.path(), "key", b"new", &mut fault).expect_err("it failed");
            assert_eq!(error.kind(), io::ErrorKind::StorageFull);
            let found = fs::read_to_string(place.path().join("key")).ok();
            let expected = if failing == Step::SyncDirectory { Some("new") } else { there };
            assert_eq!(found.as_deref(), expected, "{failing:?}");
            let files = fs::read_dir(place.path()).expect("a directory").count();
            assert_eq!(files, usize::from(expected.is_some()), "{failing:?}");
            replace(place.path(), "key", b"newer", &mut no_fault).expect("written the next time");
            assert_eq!(fs::read(place.path().join("key")).expect("a file"), b"newer");
        }
    }
}

#[test]
fn the_steps_of_writing_come_in_the_order_that_a_crash_wants() {
    let place = place();
    let mut seen = Vec::new();
    let mut note = |step| {
        seen.push((step, place.path().join("key").exists()));
        Ok(())
    };
    replace(place.path(), "key", b"new", &mut note).expect("written");
    let expected: Vec<_> = STEPS.into_iter().map(|step| (step, step == Step::SyncDirectory)).collect();
    assert_eq!(seen, expected);
}

#[test]
fn what_a_crash_left_half_written_is_never_used() {
    let place = place();
    let directory = open(&place);
    fs::write(directory.path.join(".key.new"), "half a k").expect("written");
    let key = first_key(&directory);
    assert_eq!(names(&directory), ["joining", "key"]);
    fs::write(directory.path.join(".relay.toml.new"), "name = ").expect("written");
    assert!(member(&directory).is_none());
    directory.store(&key, &membership(&key, 1), None).expect("stored");
    assert_eq!(names(&directory), ["key", "relay.toml"]);
}

#[test]
fn while_one_process_writes_another_waits_and_says_so_when_that_takes_too_long() {
    let place = place();
    let directory = open(&place);
    let lock = directory.lock().expect("locked");
    let text = directory.lock_within(Duration::ZERO).expect_err("locked").to_string();
    let path = directory.path.display();
    let own =
        fs::read_to_string("/proc/self/comm").map(|name| format!("process {} ({})", std::process::id(), name.trim()));
    let holder = own.unwrap_or_else(|_| "another process".into());
    assert_eq!(text, format!("state_dir: '{path}' is locked by {holder}; end that process, if it hangs"));
    // A host waits for it but once.
    let began = Instant::now();
    StateDir::open(&directory.path).and_then(|directory| directory.load().map(drop)).expect_err("locked");
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    drop(lock);
    directory.lock_within(Duration::ZERO).expect("free");
}

#[test]
fn programs_that_make_a_key_at_once_all_get_the_same() {
    let place = place();
    let path = place.path().join("state");
    let start = || {
        let path = path.clone();
        thread::spawn(move || first_key(&StateDir::open(&path).expect("opened")))
    };
    let threads: Vec<_> = (0..8).map(|_| start()).collect();
    let keys: Vec<_> = threads.into_iter().map(|thread| thread.join().expect("no panic").public().pin()).collect();
    assert!(keys.iter().all(|key| *key == keys[0]), "{keys:?}");
}

#[test]
fn a_damaged_file_is_named_with_what_to_do() {
    let place = place();
    let (directory, _) = joined(&place);
    let text = |directory: &StateDir| directory.load().expect_err("damaged").to_string();
    let (key, relay) = (directory.path.join("key"), directory.path.join("relay.toml"));
    let (whole_key, whole_relay) = (fs::read(&key).expect("read"), fs::read_to_string(&relay).expect("read"));
    for length in 0..whole_key.len() {
        fs::write(&key, &whole_key[..length]).expect("written");
        assert!(text(&directory).contains("is no Ed25519 key in PKCS#8"), "cut at {length}");
    }
    let other = Key::generate().expect("a key");
    fs::write(&key, other.to_pkcs8()).expect("written");
    let missing = text(&directory);
    assert!(missing.contains("/key' is not the key SHA256:") && missing.contains("put that key back"), "{missing}");
    fs::write(&relay, whole_relay.replace("token = ", "token: ")).expect("written");
    let wrong = text(&directory);
    assert!(
        wrong.contains("/relay.toml', line 11: it is no 'key = \"value\"'") && wrong.contains("correct it, or"),
        "{wrong}"
    );
}

#[test]
fn what_is_no_file_is_refused_at_once() {
    let place = place();
    let directory = open(&place);
    let pipe = directory.path.join("key");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::from_bits_truncate(0o600)).expect("a pipe");
    assert!(try_first_key(&directory).is_err());
    fs::remove_file(&pipe).expect("removed");
    symlink("/dev/zero", &pipe).expect("a link");
    let error = try_first_key(&directory).map(drop).expect_err("it never ends");
    assert!(matches!(error, StateDirError::OpenToOthers { .. }), "{error}");
}

/// On a disk without space for a file, and on one without a place for it.
#[cfg(target_os = "linux")]
#[test]
fn a_disk_that_is_full_leaves_no_half_of_a_key_and_one_is_made_when_there_is_room() {
    use nix::mount::{MsFlags, mount};
    use nix::sched::{CloneFlags, unshare};

    let run = || {
        let own = unshare(CloneFlags::CLONE_NEWNS)
            .and_then(|()| mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>));
        if let Err(error) = own {
            return say_skipped(&format!("no namespace for a small disk ({error})"));
        }
        for options in ["size=64k", "size=1m,nr_inodes=5"] {
            let disk = place();
            let mounted = mount(Some("none"), disk.path(), Some("tmpfs"), MsFlags::empty(), Some(options));
            if let Err(error) = mounted {
                return say_skipped(&format!("no small disk ({error})"));
            }
            on_a_full_disk(disk.path());
            let read_only = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
            mount(Some("none"), disk.path(), Some("tmpfs"), read_only, Some(options)).expect("read only");
            on_a_disk_that_is_read_only(disk.path());
            nix::mount::umount(disk.path()).expect("unmounted");
        }
    };
    // The thread sees another tree of files than the rest of the process.
    thread::spawn(run).join().expect("no panic");
}

#[cfg(target_os = "linux")]
fn on_a_full_disk(disk: &Path) {
    let directory = StateDir::open(&disk.join("state")).expect("made");
    let fillers: Vec<_> = (0..32).map(|number| disk.join(format!("filler-{number}"))).collect();
    let fill =
        || fillers.iter().map(|path| fs::write(path, [0; 4096]).is_ok()).filter(|is_written| !is_written).count();
    assert!(fill() > 0, "the disk is full");
    let full = |error: StateDirError| {
        let text = error.to_string();
        assert!(text.ends_with("No space left on device (os error 28); make room on that disk"), "{text}");
    };
    full(try_first_key(&directory).map(drop).expect_err("no room"));
    assert_eq!(names(&directory), Vec::<String>::new());
    let empty = || fillers.iter().for_each(|path| drop(fs::remove_file(path)));
    empty();
    let key = first_key(&directory);

    assert!(fill() > 0, "the disk is full");
    full(directory.store(&key, &membership(&key, 1), None).expect_err("no room"));
    assert_eq!(names(&directory), ["joining", "key"]);
    empty();
    directory.store(&key, &membership(&key, 1), None).expect("stored");

    assert!(fill() > 0, "the disk is full");
    full(directory.key_for(TokenId([2; 8])).map(drop).expect_err("no room"));
    let changed =
        Membership { name: Some(crate::identity::Name::device("pump-3").expect("a name")), ..membership(&key, 1) };
    full(directory.store(&key, &changed, Some(key.public().pin())).expect_err("no room"));
    assert_eq!(member(&directory), Some(key.public().pin()), "what was there is there");
    assert_eq!(names(&directory), ["key", "relay.toml"]);
    empty();
}

#[cfg(target_os = "linux")]
fn on_a_disk_that_is_read_only(disk: &Path) {
    let directory = StateDir::open(&disk.join("state")).expect("it is there");
    let (key, mut membership) = directory.load().expect("loaded").member.expect("a member");
    membership.name = Some(Name::device("pump-4").expect("a name"));
    for error in [
        directory.store(&key, &membership, Some(key.public().pin())).expect_err("read only"),
        directory.key_for(TokenId([3; 8])).map(drop).expect_err("read only"),
        StateDir::open(&disk.join("other")).expect_err("read only"),
    ] {
        let text = error.to_string();
        assert!(text.ends_with("(os error 30); give state_dir a place that can be written to"), "{text}");
    }
    assert_eq!(member(&directory), Some(key.public().pin()), "what was there is there");
}
