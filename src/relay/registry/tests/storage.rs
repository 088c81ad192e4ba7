use std::fs;

use rusqlite::Connection;

use super::super::store::Store;
use super::*;

/// What the relay wrote with schema 1. It is never changed, so that it can be opened for ever.
const SCHEMA_1: &str = include_str!("schema-1.sql");

#[test]
fn a_registry_of_schema_1_is_opened_for_ever() {
    let directory = tempfile::tempdir().expect("a directory");
    let state = directory.path().join("state");
    let database = StateDirectory::open(&state).and_then(|state| state.database()).expect("a file");
    Connection::open(database).and_then(|old| old.execute_batch(SCHEMA_1)).expect("a registry");
    let bench = Bench { registry: Some(SqliteRegistry::open(&state).expect("opened")), directory };
    assert_eq!(
        bench.contents(),
        [
            "line7-press active [] 1",
            "pump-1 active [line=7 site=berlin] 1",
            "pump-2 revoked [] 1",
            "pump-3 pending [] 1",
            "alice active [] 2"
        ]
    );
    assert_eq!(bench.registry().list()[1].seen, Some(NOW + 5));
    assert_eq!(bench.registry().list()[1].pins, None);
    assert_eq!(name_of(&bench.come(11)), Some("pump-1"));
    for (key, token) in [(1, None), (2, None), (5, Some(8))] {
        assert!(matches!(refusal(bench.admit(candidate(key, None, token))), Refusal::Revoked(_)), "key {key}");
    }
    assert_eq!(refusal(bench.come(4)), Refusal::Unknown);
    assert!(matches!(fault(bench.join(4, 4)), TokenFault::Used(_)));
    assert_eq!(fault(bench.join(9, 9)), TokenFault::Void);
    let [open] = &bench.open_tokens()[..] else { panic!("one is open") };
    assert_eq!((open.id, open.uses, open.used), (TokenId([8; 8]), 3, 1));
    assert!(name_of(&bench.join(20, 8)).is_some_and(|name| name.starts_with("line7-")));
}

#[test]
fn a_migrated_registry_has_the_tables_of_a_new_one() {
    let bench = Bench::new();
    let tables = |connection: &Connection| -> Vec<(String, Option<String>)> {
        let mut select = connection.prepare("SELECT name, sql FROM sqlite_schema ORDER BY name").expect("SQL");
        let rows = select.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).expect("rows");
        rows.collect::<Result<_, _>>().expect("rows")
    };
    let old = bench.directory.path().join("old.db");
    Connection::open(&old).and_then(|old| old.execute_batch(SCHEMA_1)).expect("a registry");
    let migrated = tables(&Store::open(old).expect("migrated").connection);
    let new = tables(&Store::open(bench.directory.path().join("new.db")).expect("made").connection);
    assert_eq!(migrated, new);
}

#[test]
fn a_newer_schema_and_another_database_are_refused_and_left_as_they_are() {
    let mut bench = Bench::new();
    let database = bench.database();
    let shown = database.display().to_string();
    let set = |pragma: &str, value: i64| {
        let connection = Connection::open(&database).expect("opened");
        connection.pragma_update(None, pragma, value).expect("set");
    };
    bench.reopen(|state| {
        for (pragma, value, old, text) in [
            (
                "user_version",
                99,
                2,
                "has schema 99, and this relay knows 2 at most; install the version that wrote it, or a later one",
            ),
            ("application_id", 1, 0x7463_7072, "this is no relay's registry; give another file"),
        ] {
            set(pragma, value);
            let error = SqliteRegistry::open(state).expect_err("refused").to_string();
            assert!(error.starts_with(&shown) && error.ends_with(text), "{error}");
            set(pragma, old);
        }
    });
}

#[test]
fn a_locked_database_is_an_error_that_says_so() {
    let bench = Bench::new();
    let path = bench.directory.path().join("locked.db");
    drop(Store::open(path.clone()).expect("made"));
    let other = Connection::open(&path).expect("opened");
    other.execute_batch("BEGIN IMMEDIATE").expect("locked");
    let error = Store::open(path.clone()).expect_err("locked").to_string();
    let path = path.display();
    assert_eq!(
        error,
        format!("{path} is locked by another program, so nothing was changed; end it (is sqlite3 open?) and try again")
    );
}

#[test]
fn a_database_that_is_full_at_any_step_changes_nothing_and_goes_on_when_there_is_space() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut store = Store::open(directory.path().join("full.db")).expect("made");
    let pages = |store: &Store| {
        store.connection.query_row("PRAGMA page_count", [], |row| row.get::<_, i64>(0)).expect("a count")
    };
    let limit = |store: &Store, pages: i64| {
        store.connection.pragma_update_and_check(None, "max_page_count", pages, |_| Ok(())).expect("set");
    };
    let (mut refused, mut key) = (0, 0);
    while refused < 20 {
        limit(&store, pages(&store));
        let before = store.published().latest();
        let table: String = (0..20).map(|line| format!("pump-{},{}\n", key + line, public_key(key + line))).collect();
        let first = public_key(key).pin();
        match store.import(&table, NOW) {
            Ok(_) => key += 20,
            Err(error) => {
                let text = error.to_string();
                assert!(text.ends_with("full.db, so nothing was changed; free some and try again"), "{text}");
                let after = store.published().latest();
                assert!(Arc::ptr_eq(&before, &after) && after.by_key(&first).is_none());
                refused += 1;
                limit(&store, pages(&store) + 50);
                store.import(&table, NOW).expect("there is space now");
                key += 20;
            }
        }
    }
    let count = store.published().latest().principals().count();
    drop(store);
    let store = Store::open(directory.path().join("full.db")).expect("opened");
    assert_eq!((count, store.published().latest().principals().count()), (key as usize, key as usize));
}

/// In a filesystem of its own, where each operation finds another number of free pages.
#[cfg(target_os = "linux")]
#[test]
fn a_disk_that_is_full_at_any_step_changes_nothing_and_goes_on_when_there_is_space() {
    on_a_small_disk(join_where_there_is_more_or_less_space);
}

/// Runs this with the directory of a disk of 8 MiB, if this user may make one.
#[cfg(target_os = "linux")]
fn on_a_small_disk(what: fn(&Path)) {
    use nix::mount::{MsFlags, mount};
    use nix::sched::{CloneFlags, unshare};

    let directory = tempfile::tempdir().expect("a directory");
    let disk = directory.path().join("disk");
    fs::create_dir(&disk).expect("made");
    let run = move || {
        let own = unshare(CloneFlags::CLONE_NEWNS)
            .and_then(|()| mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>))
            .and_then(|()| mount(Some("none"), &disk, Some("tmpfs"), MsFlags::empty(), Some("size=8m")));
        if let Err(error) = own {
            return say_skipped(&error.to_string());
        }
        what(&disk);
    };
    // The thread and those that it starts see another tree of files than the rest of the process.
    std::thread::spawn(run).join().expect("no panic");
}

#[cfg(target_os = "linux")]
fn join_where_there_is_more_or_less_space(disk: &Path) {
    const PAGE: usize = 4096;
    let state = disk.join("state");
    let mut registry = SqliteRegistry::open(&state).expect("a registry");
    let (filler, mut joined) = (disk.join("filler"), Vec::new());
    let mut full = 0;
    for round in 0..60_u8 {
        let name = format!("pump-{round}");
        let made = ask(|answer| registry.create_token(token(round, &name), answer));
        made.expect("there is space for a token");
        let before = registry.snapshot();
        fill(&filler, usize::from(round % 12) * PAGE);
        let admitted = ask(|answer| registry.admit(candidate(u32::from(round), None, Some(round)), answer));
        if let Err(error) = admitted {
            assert!(error.to_string().starts_with("no space is left for "), "{error}");
            assert!(Arc::ptr_eq(&before, &registry.snapshot()));
            full += 1;
            if round % 2 == 0 {
                // It ends and begins again on the full disk, or says why it cannot.
                drop(registry);
                let reopened = SqliteRegistry::open(&state);
                if let Err(error) = &reopened {
                    assert!(error.to_string().contains("pace is left"), "{error}");
                }
                fs::remove_file(&filler).expect("removed");
                registry = reopened.or_else(|_| SqliteRegistry::open(&state)).expect("a registry");
                assert!(registry.snapshot().by_name(&device(&name)).is_none());
            }
        }
        let _ = fs::remove_file(&filler);
        let admitted = ask(|answer| registry.admit(candidate(u32::from(round), None, Some(round)), answer));
        assert_eq!(name_of(&admitted.expect("there is space")), Some(&*name));
        joined.push(name);
    }
    assert!(full > 5, "the disk was full {full} times");
    drop(registry);
    let registry = SqliteRegistry::open(&state).expect("a registry");
    assert!(joined.iter().all(|name| registry.snapshot().by_name(&device(name)).is_some()));
    assert_eq!(ask(|answer| registry.open_tokens(NOW, answer)).expect("a list"), []);
}

#[cfg(target_os = "linux")]
#[test]
fn a_backup_for_which_the_disk_has_no_space_changes_nothing_and_is_restored_when_there_is_some() {
    on_a_small_disk(restore_where_there_is_no_space);
}

#[cfg(target_os = "linux")]
fn restore_where_there_is_no_space(disk: &Path) {
    // The backup is on another disk.
    let bench = Bench::new();
    let table: String = (100..1100).map(|key| format!("pump-{key},{}\n", public_key(key))).collect();
    bench.import(&table).expect("imported");
    let backup = bench.directory.path().join("backup.db");
    bench.backup(&backup).expect("written");
    let (state, filler) = (disk.join("state"), disk.join("filler"));
    let names = || {
        let registry = SqliteRegistry::open(&state).expect("a registry");
        registry.list().iter().map(|listed| listed.principal.name.to_string()).collect::<Vec<_>>()
    };
    let registry = SqliteRegistry::open(&state).expect("a registry");
    ask(|answer| registry.add(newcomer("pump-1", 1), NOW, answer)).expect("added");
    drop(registry);
    let put_back = || restore(&StateDirectory::open(&state).expect("free"), &backup, NOW, true);
    for left in [0, 1, 4, 16] {
        fill(&filler, left * 4096);
        let error = put_back().expect_err("no space").to_string();
        let is_told = error.starts_with("no space is left for ") && error.ends_with("free some and try again");
        assert!(is_told, "{left}: {error}");
        fs::remove_file(&filler).expect("removed");
        assert_eq!(names(), ["pump-1"], "{left}");
    }
    assert_eq!(put_back().expect("restored").principals, 1000);
    assert_eq!(names().len(), 1000);
}

/// Fills the disk, and leaves so many bytes.
#[cfg(target_os = "linux")]
fn fill(filler: &Path, left: usize) {
    let mut size = 0;
    let mut file = fs::File::create(filler).expect("made");
    while let Ok(written) = std::io::Write::write(&mut file, &[0; 4096]) {
        size += written;
    }
    file.set_len(size.saturating_sub(left) as u64).expect("cut");
}

#[cfg(target_os = "linux")]
fn say_skipped(reason: &str) {
    use std::io::Write;
    let _ = writeln!(
        std::io::stderr(),
        "SKIPPED: a disk that is full, which cannot be made here (are you root?): {reason}"
    );
}

#[test]
fn a_registry_that_is_closed_has_all_in_its_file_whoever_still_refers_to_it() {
    let mut bench = Bench::new();
    let registry = Arc::new(bench.registry.take().expect("open"));
    let other = Arc::clone(&registry);
    ask(|answer| registry.add(newcomer("pump-1", 1), NOW, answer)).expect("added");
    registry.close();
    assert!(!bench.state().join("registry.db-wal").exists());
    assert!(matches!(ask(|answer| other.open_tokens(NOW, answer)), Err(RegistryError::Closed)));
    bench.registry = Some(SqliteRegistry::open(&bench.state()).expect("the directory is free"));
    assert_eq!(bench.contents(), ["pump-1 active [] 1"]);
}
