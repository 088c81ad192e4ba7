//! Backups, and what root does with the files of the relay's user.

use super::*;

#[test]
fn a_backup_is_written_with_or_without_a_relay_and_restored_only_without() {
    let place = Place::new();
    let mut relay = place.start();
    place.done(&["add", "pump-4", "--key", KEY]);
    let (one, two) = (place.path("one.db"), place.path("two.db"));
    let (one, two) = (one.to_str().unwrap(), two.to_str().unwrap());
    assert_eq!(place.done(&["backup", one]), format!("the registry is written to {one}\n"));
    assert!(place.failed(2, &["backup", one]).contains("is there already; give another name"));
    assert_eq!(fs::metadata(one).unwrap().permissions().mode() & 0o777, 0o600);
    // A service may write its state and nothing else, so that is where the relay writes it first.
    let log = relay.wait_for_log("the registry was written to a backup");
    assert!(log.contains(place.path("state").to_str().unwrap()), "{log}");
    let left = fs::read_dir(place.path("state")).unwrap().flatten().map(|file| file.file_name());
    assert!(left.into_iter().all(|name| !name.to_string_lossy().starts_with("backup")), "nothing is left there");
    assert!(place.failed(1, &["restore", one]).contains("stop that one first"));
    place.done(&["remove", "pump-4"]);
    place.done(&["add", "pump-5", "--key", OTHER_KEY]);
    // A command that has said nothing yet holds nothing up, and keeps nothing open.
    let silent = UnixStream::connect(place.path("state/control")).unwrap();
    relay.signal("TERM");
    assert_eq!(relay.wait(), Some(0), "{:?}", relay.log());
    assert!(!place.path("state/control").exists(), "the socket is gone with the relay");
    assert!(!place.path("state/registry.db-wal").exists(), "all is in the registry's file");
    drop(silent);
    place.done(&["backup", two]);
    assert!(
        place.failed(2, &["restore", &place.config()]).contains("relay.toml is no backup: it is no SQLite database;")
    );
    let error = place.failed(2, &["restore", one]);
    assert!(
        error.contains(&format!("it lets them in again: pump-4 (removed, {FINGERPRINT}); restore it with --force"))
    );
    let restored = place.output(&["restore", one, "--force"]);
    let text = String::from_utf8(restored.stdout).unwrap();
    assert!(text.starts_with("the registry is restored: 1 devices; 0 tokens"), "{text}");
    let warnings = String::from_utf8(restored.stderr).unwrap();
    assert!(warnings.contains("revoked or removed since, and let in again: pump-4 (removed, "), "{warnings}");
    assert!(warnings.contains("joined since, and not known any more: pump-5 ("), "{warnings}");
    let _relay = place.start();
    assert!(place.done(&["devices"]).contains("pump-4"));
}

#[test]
fn root_backs_up_and_restores_what_is_the_relays_users_and_leaves_it_so() {
    let place = Place::new();
    let state = place.path("state");
    if fs::metadata(&state).unwrap().uid() != 0 {
        // Nobody else can give files away.
        return;
    }
    for directory in [place.directory.path().to_owned(), place.path("")] {
        fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).unwrap();
    }
    chown(&state, Some(12_345), Some(12_346)).unwrap();
    // As root has it: for root alone, in a directory of root's.
    let hidden = place.path("hidden");
    fs::DirBuilder::new().mode(0o700).create(&hidden).unwrap();
    let backup = hidden.join("relay.db");
    let backup = backup.to_str().unwrap();
    assert_eq!(place.done(&["backup", backup]), format!("the registry is written to {backup}\n"));
    let of = |path: &std::path::Path| fs::metadata(path).map(|file| (file.uid(), file.mode() & 0o777)).unwrap();
    assert_eq!(of(backup.as_ref()), (0, 0o600));
    assert!(place.done(&["restore", backup]).starts_with("the registry is restored: 0 devices"));
    for file in fs::read_dir(&state).unwrap() {
        let path = file.unwrap().path();
        assert_eq!(of(&path), (12_345, 0o600), "{}", path.display());
        let name = path.file_name().unwrap().to_string_lossy();
        assert!(!name.starts_with("backup") && !name.starts_with("restore"), "{name} is left there");
    }
    let error = place.failed(2, &["restore", &place.config()]);
    assert!(error.contains("relay.toml is no backup: it is no SQLite database"), "{error}");
}

#[test]
fn a_backup_is_of_the_relay_that_the_configuration_names_wherever_either_was_started() {
    let place = Place::new();
    let _relay = place.start();
    let output = run(command().args(["backup", "one.db", "--config", "relay.toml"]).current_dir(place.path("")));
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(place.path("one.db").is_file());
}

#[test]
fn a_backup_follows_no_link_and_takes_nobodys_place() {
    let place = Place::new();
    let other = place.path("other");
    fs::write(&other, "of somebody else").unwrap();
    let backup = place.path("one.db");
    symlink(&other, place.path("one.db.partial")).unwrap();
    place.done(&["backup", backup.to_str().unwrap()]);
    assert_eq!(fs::read_to_string(&other).unwrap(), "of somebody else");
    // One that leads nowhere is seen by no look at what is there.
    let nowhere = place.path("two.db");
    symlink(place.path("nowhere"), &nowhere).unwrap();
    place.failed(1, &["backup", nowhere.to_str().unwrap()]);
    assert!(nowhere.is_symlink() && !place.path("nowhere").exists());
}

#[test]
fn root_takes_no_file_for_a_backup_that_the_relays_user_has_only_linked_to() {
    let place = Place::new();
    let state = place.path("state");
    if fs::metadata(&state).unwrap().uid() != 0 {
        // Nobody else can give files away.
        return;
    }
    let secret = place.path("secret");
    fs::write(&secret, "root's").unwrap();
    for directory in [place.directory.path().to_owned(), place.path("")] {
        fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).unwrap();
    }
    chown(&state, Some(12_345), Some(12_346)).unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o644)).unwrap();
    let links = [
        // It would never end.
        (PathBuf::from("/dev/zero"), false),
        (secret.clone(), false),
        (secret, true),
    ];
    for (to, is_hard) in links {
        let _ = fs::remove_file(state.join("control"));
        let relay = UnixListener::bind(state.join("control")).unwrap();
        let answers = thread::spawn({
            move || {
                let (stream, _) = relay.accept().unwrap();
                let mut request = String::new();
                BufReader::new(&stream).read_line(&mut request).unwrap();
                let name = request.split('"').find(|word| word.contains("/backup-")).unwrap();
                if is_hard { fs::hard_link(&to, name) } else { symlink(&to, name) }.unwrap();
                (&stream).write_all(b"{\"done\":\"\"}\n").unwrap();
            }
        });
        let backup = place.path("one.db");
        let error = place.failed(1, &["backup", backup.to_str().unwrap()]);
        answers.join().unwrap();
        assert!(error.contains("backup-") && !backup.exists(), "{error}");
    }
}
