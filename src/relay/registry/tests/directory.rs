use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use super::*;

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("a file").permissions().mode() & 0o777
}

#[test]
fn nobody_else_can_read_what_is_in_the_state_directory() {
    let mut bench = Bench::new();
    bench.add("pump-1", 1).expect("added");
    let check = |state: &Path| {
        assert_eq!(mode(state), 0o700);
        for entry in fs::read_dir(state).expect("a directory") {
            let path = entry.expect("an entry").path();
            assert_eq!(mode(&path), 0o600, "{}", path.display());
        }
    };
    check(&bench.state());
    bench.reopen(|state| fs::set_permissions(state.join("registry.db"), Permissions::from_mode(0o644)).expect("set"));
    bench.add("pump-2", 2).expect("added");
    assert!(bench.state().join("registry.db-wal").exists());
    check(&bench.state());
}

#[test]
fn a_directory_that_others_can_look_into_is_refused_with_what_to_do() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path();
    for other in [0o701, 0o710, 0o740, 0o755, 0o777] {
        fs::set_permissions(path, Permissions::from_mode(other)).expect("set");
        let error = SqliteRegistry::open(path).expect_err("open to others").to_string();
        let path = path.display();
        assert_eq!(error, format!("state directory {path} is open to others (mode 0{other:o}); run: chmod 700 {path}"));
    }
    fs::set_permissions(path, Permissions::from_mode(0o700)).expect("set");
    drop(SqliteRegistry::open(path).expect("it is private now"));
    let file = path.join("lock");
    let error = SqliteRegistry::open(&file).expect_err("a file").to_string();
    assert_eq!(error, format!("{} is no directory; give one for the relay's state", file.display()));
    let error = SqliteRegistry::open(&path.join("a/b")).expect_err("no parent").to_string();
    assert!(error.ends_with("a/b: No such file or directory (os error 2)"), "{error}");
}

#[test]
fn a_second_one_in_the_directory_is_refused_until_the_first_has_ended() {
    let mut bench = Bench::new();
    let error = SqliteRegistry::open(&bench.state()).expect_err("in use").to_string();
    let (state, process) = (bench.state(), std::process::id());
    assert_eq!(
        error,
        format!(
            "{} is in use by another process ({process}); there is one relay for a state directory: stop that one first",
            state.display()
        )
    );
    bench.reopen(|_| ());
}
