use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::*;

/// One of each, and a backup of it.
fn with_backup() -> (Bench, PathBuf) {
    let bench = Bench::new();
    bench.add("pump-1", 1).expect("added");
    bench.add("pump-2", 2).expect("added");
    bench.revoke("pump-2").expect("revoked");
    bench.token(token(1, "pump-3"));
    bench.token(token(2, "pump-4"));
    bench.join(4, 2);
    let file = bench.directory.path().join("backup.db");
    bench.backup(&file).expect("written");
    (bench, file)
}

fn restore_into(state: &Path, file: &Path) -> Result<Restored, RegistryError> {
    restore(&StateDirectory::open(state)?, file, NOW, false)
}

#[test]
fn a_backup_restores_everything_but_open_tokens() {
    let (mut bench, file) = with_backup();
    assert_eq!(fs::metadata(&file).expect("a file").permissions().mode() & 0o777, 0o600);
    let contents = bench.contents();
    bench.add("pump-9", 9).expect("added");
    bench.reopen(|state| {
        let restored = restore_into(state, &file).expect("restored");
        let joined = vec![format!("pump-9 ({})", public_key(9).pin())];
        let lost = Lost::Known { undone: Vec::new(), joined, forgotten: Vec::new() };
        assert_eq!(restored, Restored { principals: 3, voided: 1, lost });
    });
    assert_eq!((bench.contents(), bench.open_tokens()), (contents, Vec::new()));
    assert_eq!(fault(bench.join(3, 1)), TokenFault::Void);
    assert!(matches!(fault(bench.join(5, 2)), TokenFault::Used(_)));
    assert!(matches!(refusal(bench.come(2)), Refusal::Revoked(_)));
    assert_eq!(refusal(bench.come(9)), Refusal::Unknown);
    bench.add("pump-9", 9).expect("it can be written");
}

#[test]
fn a_backup_restores_into_a_new_directory_on_another_machine() {
    let (bench, file) = with_backup();
    let state = bench.directory.path().join("other");
    restore_into(&state, &file).expect("restored");
    assert_eq!(SqliteRegistry::open(&state).expect("a registry").list(), bench.registry().list());
}

#[test]
fn a_backup_overwrites_nothing_and_leaves_nothing_half_written() {
    let (bench, file) = with_backup();
    let error = bench.backup(&file).expect_err("there").to_string();
    assert_eq!(error, format!("{} is there already; give another name", file.display()));
    let nowhere = bench.directory.path().join("nowhere/backup.db");
    let error = bench.backup(&nowhere).expect_err("no directory").to_string();
    assert!(error.ends_with("backup.db.partial: No such file or directory (os error 2)"), "{error}");
    assert!(!bench.directory.path().join("backup.db.partial").exists());
}

#[test]
fn what_is_no_whole_backup_is_refused_and_changes_nothing() {
    let (mut bench, file) = with_backup();
    let contents = bench.contents();
    let write = |name: &str, bytes: &[u8]| {
        let path = bench.directory.path().join(name);
        fs::write(&path, bytes).expect("written");
        path
    };
    let whole = fs::read(&file).expect("a backup");
    let text =
        write("text", b"This is a text and no database at all, but it is long enough to be looked at twice. Or more.");
    let half = write("half", &whole[..whole.len() / 2]);
    let empty = write("empty", b"");
    let other = bench.directory.path().join("other.db");
    rusqlite::Connection::open(&other).and_then(|other| other.execute_batch("CREATE TABLE t (x)")).expect("made");
    let missing = bench.directory.path().join("missing");
    let newer = write("newer.db", &whole);
    rusqlite::Connection::open(&newer).and_then(|newer| newer.pragma_update(None, "user_version", 9)).expect("made");
    bench.reopen(|state| {
        for (file, text) in [
            (text, "text is no backup: it is no SQLite database; give a file that 'tcp-remote-relay backup' wrote"),
            (half, "half is no backup: it is damaged, "),
            (empty, "empty is no backup: it is empty; give"),
            (other, "other.db is no backup: it is a database of another program; give"),
            (missing, "missing is no backup: there is no such file; give"),
            (state.to_owned(), "state is no backup: it is a directory; give"),
            (newer, "newer.db has schema 9, and this relay knows 2 at most; install the version that wrote it"),
        ] {
            let error = restore_into(state, &file).expect_err("no backup");
            assert!(error.to_string().contains(text) && error.is_usage(), "{error}");
        }
    });
    assert_eq!((bench.contents(), bench.open_tokens().len()), (contents, 1));
}

#[test]
fn a_registry_that_is_damaged_is_refused_and_set_aside_by_a_backup() {
    let (mut bench, file) = with_backup();
    let contents = bench.contents();
    bench.reopen(|state| {
        fs::write(state.join("registry.db"), [b'x'; 8192]).expect("damaged");
        let error = SqliteRegistry::open(state).expect_err("damaged").to_string();
        assert!(error.ends_with("is damaged: file is not a database; stop the relay and restore a backup"), "{error}");
        assert_eq!(restore_into(state, &file).expect("restored").lost, Lost::Unknown);
        assert_eq!(fs::read(state.join("registry.db.damaged")).expect("kept"), [b'x'; 8192]);
    });
    assert_eq!(bench.contents(), contents);
}

#[test]
fn a_registry_that_is_damaged_behind_its_head_is_set_aside_too() {
    let (mut bench, file) = with_backup();
    let contents = bench.contents();
    bench.reopen(|state| {
        let path = state.join("registry.db");
        let select = "SELECT rootpage FROM sqlite_schema WHERE name = 'principals'";
        let opened = rusqlite::Connection::open(&path).expect("a database");
        let root: u32 = opened.query_row(select, [], |row| row.get(0)).expect("a table");
        drop(opened);
        let mut database = fs::read(&path).expect("a database");
        let size = usize::from(u16::from_be_bytes([database[16], database[17]]));
        database[(root as usize - 1) * size..root as usize * size].fill(b'x');
        fs::write(&path, &database).expect("damaged");
        assert_eq!(restore_into(state, &file).expect("restored").lost, Lost::Unknown);
        assert!(fs::read(state.join("registry.db.damaged")).expect("kept") == database);
    });
    assert_eq!(bench.contents(), contents);
}

#[test]
fn a_registry_with_a_row_that_cannot_be_read_is_set_aside_and_a_backup_with_one_is_none() {
    let (mut bench, file) = with_backup();
    let spoil = |database: &Path| {
        let database = rusqlite::Connection::open(database).expect("a database");
        database.execute("UPDATE principals SET name = '*' WHERE name = 'pump-1'", []).expect("spoilt");
    };
    let spoilt = bench.directory.path().join("spoilt.db");
    fs::copy(&file, &spoilt).expect("copied");
    spoil(&spoilt);
    bench.reopen(|state| {
        let error = restore_into(state, &spoilt).expect_err("no backup").to_string();
        assert!(error.contains("spoilt.db is no backup: it is damaged, "), "{error}");
        spoil(&state.join("registry.db"));
        assert_eq!(restore_into(state, &file).expect("restored").lost, Lost::Unknown);
    });
}

#[test]
fn a_backup_that_lets_in_again_who_was_revoked_or_removed_since_is_restored_only_where_that_is_wanted() {
    let (mut bench, file) = with_backup();
    bench.add("pump-5", 5).expect("added");
    bench.add("pump-7", 7).expect("added");
    bench.revoke("pump-7").expect("revoked");
    bench.token(NewToken { replace: true, ..token(6, "pump-4") });
    bench.join(6, 6);
    bench.remove("pump-1").expect("removed");
    let contents = bench.contents();
    let wanted = vec![
        format!("pump-1 (removed, {})", public_key(1).pin()),
        format!("pump-4 (revoked, {})", public_key(4).pin()),
    ];
    bench.reopen(|state| {
        let error = restore_into(state, &file).expect_err("it lets some in again");
        assert!(matches!(&error, RegistryError::Undone(undone) if *undone == wanted), "{error}");
        let text = format!("and it lets them in again: {}; restore it with --force, and", wanted.join(", "));
        assert!(error.to_string().contains(&text), "{error}");
    });
    assert_eq!(bench.contents(), contents, "nothing is changed");
    bench.reopen(|state| {
        let directory = StateDirectory::open(state).expect("a directory");
        let Lost::Known { undone, joined, forgotten } = restore(&directory, &file, NOW, true).expect("restored").lost
        else {
            panic!("it was not damaged");
        };
        assert_eq!(undone, wanted);
        let now = |name: &str, key| format!("{name} ({})", public_key(key).pin());
        assert_eq!(joined, [now("pump-4", 6), now("pump-5", 5)]);
        assert_eq!(forgotten, [now("pump-7", 7)]);
    });
    assert_eq!(name_of(&bench.come(1)), Some("pump-1"));
}

#[test]
fn nothing_is_restored_under_a_relay_that_runs() {
    let (bench, file) = with_backup();
    let error = restore_into(&bench.state(), &file).expect_err("in use").to_string();
    assert!(error.contains("is in use by another process"), "{error}");
}
