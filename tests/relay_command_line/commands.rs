//! The commands of a relay with a configuration file, from `init` to `restore`.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown, symlink};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use socket2::SockRef;
use tcpremote::device::{self, Enrolment, Handle, State};
use tcpremote::tls::Key;

use super::common::wire::Link;
use super::{DEADLINE, Relay, command, eventually};

/// A key of a device, made by openssl.
const KEY: &str = "MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=";
/// Another.
const OTHER_KEY: &str = "MCowBQYDK2VwAyEAjg7yzl+hOrDkLM4qjqVc0hRFYXe/3HTPrFv+UVm5JqM=";
const FINGERPRINT: &str = "SHA256:oekVYFTgT6yJmunydRMs3Ael28TqLCrTof_G4NJTaB8";
const PLAIN: &str = "\
addresses = [\"relay.example.com:443\"]
[listen]
tls = \"127.0.0.1:0\"
plain = { listen = \"127.0.0.1:0\", device = \"old-gateway\" }
[[port]]
listen = \"127.0.0.1:0\"
to = \"old-gateway:9\"
";

/// What `init` made, with a configuration whose ports the system chooses.
struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let place = Self { directory: tempfile::tempdir().unwrap() };
        let made = place.directory.path().join("relay");
        let output = run(command().arg("init").arg(&made).args(["--address", "relay.example.com:443"]));
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        place.configure(PLAIN);
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join("relay").join(name)
    }

    fn config(&self) -> String {
        self.path("relay.toml").into_os_string().into_string().unwrap()
    }

    fn configure(&self, text: &str) {
        fs::write(self.path("relay.toml"), text).unwrap();
    }

    /// The relay, once it takes commands.
    fn start(&self) -> Relay {
        self.start_with(&mut command())
    }

    fn start_with(&self, command: &mut Command) -> Relay {
        let mut with = std::mem::replace(command, Command::new("true"));
        with.args(["run", "--config", &self.config()]);
        let relay = Relay::spawn(with, 1);
        eventually("the control socket", DEADLINE, || UnixStream::connect(self.path("state/control")).is_ok());
        relay
    }

    fn output(&self, arguments: &[&str]) -> Output {
        run(command().args(arguments).args(["--config", &self.config()]))
    }

    /// What a command prints that must succeed.
    fn done(&self, arguments: &[&str]) -> String {
        let output = self.output(arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// What a command says that must fail with this status.
    fn failed(&self, status: i32, arguments: &[&str]) -> String {
        let output = self.output(arguments);
        assert_eq!(output.status.code(), Some(status), "{arguments:?}: {output:?}");
        assert!(output.stdout.is_empty(), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    }
}

fn run(command: &mut Command) -> Output {
    let child: Child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.wait_with_output().unwrap()
}

#[test]
fn init_makes_keys_for_the_owner_alone_says_what_to_do_next_and_overwrites_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let made = directory.path().join("relay");
    let init = || run(command().arg("init").arg(&made).args(["--address", "relay.example.com:8443"]));
    let output = init();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let config = made.join("relay.toml");
    for part in [
        "relay-next.key to another place",
        "Devices will look for this relay at relay.example.com:8443.",
        &format!("tcp-remote-relay run --config {}", config.display()),
        "tcp-remote-relay token device NAME",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    for (name, mode) in [("relay.key", 0o600), ("relay-next.key", 0o600), ("state", 0o700)] {
        let permissions = fs::metadata(made.join(name)).unwrap().permissions();
        assert_eq!(permissions.mode() & 0o777, mode, "{name}");
    }
    assert!(fs::read_to_string(&config).unwrap().contains("\ntls = \"0.0.0.0:8443\"\n"));
    let key = fs::read(made.join("relay.key")).unwrap();
    let again = init();
    assert_eq!(again.status.code(), Some(2));
    assert!(String::from_utf8(again.stderr).unwrap().contains("relay.key is there already, and nothing was changed"));
    assert_eq!(fs::read(made.join("relay.key")).unwrap(), key);
    let check = run(command().args(["check", "--config"]).arg(&config));
    assert_eq!(check.status.code(), Some(0), "{check:?}");
    let warning = String::from_utf8(check.stderr).unwrap();
    assert!(warning.contains("relay-next.key lies beside the relay's key: whoever takes one takes both"), "{warning}");
    fs::remove_file(made.join("relay-next.key")).unwrap();
    let check = run(command().args(["check", "--config"]).arg(&config));
    assert!(check.status.success() && check.stderr.is_empty(), "{check:?}");
}

#[test]
fn a_command_without_a_relay_says_how_to_start_it_and_a_wrong_configuration_is_told_by_all_its_lines() {
    let place = Place::new();
    let error = place.failed(1, &["devices"]);
    assert!(error.starts_with("error: no relay runs with the state directory "), "{error}");
    assert!(error.contains("start it with 'tcp-remote-relay run --config FILE'"), "{error}");
    place.configure("[listen]\ntsl = \"[::]:443\"\nx = 1\n");
    for arguments in [["check"], ["run"], ["devices"]] {
        let error = place.failed(2, &arguments);
        let config = place.config();
        assert!(error.contains(&format!("{config}:2: unknown key 'tsl' in listen; did you mean 'tls'?")), "{error}");
        assert!(error.contains(&format!("{config}:3: unknown key 'x' in listen")), "{error}");
        assert!(!error.contains("--config"), "{error}");
    }
    fs::remove_file(place.config()).unwrap();
    assert!(place.failed(2, &["devices"]).contains("name the configuration by --config, or the state directory by"));
    place.configure(PLAIN);
    fs::set_permissions(place.path("relay.key"), fs::Permissions::from_mode(0o644)).unwrap();
    for arguments in [["check"], ["run"]] {
        assert!(place.failed(2, &arguments).contains("(mode 0644); run: chmod 600 "));
    }
}

#[test]
fn each_command_does_its_work_in_a_running_relay_which_logs_who_asked() {
    let place = Place::new();
    let relay = place.start();
    let token = place.output(&["token", "device", "pump-3", "--label", "site=berlin", "--expires", "30d"]);
    let join = String::from_utf8(token.stdout).unwrap();
    assert!(join.starts_with("tcpr1.") && join.lines().count() == 1, "{join}");
    assert!(String::from_utf8(token.stderr).unwrap().contains("this string is shown only now"));
    let listed = place.done(&["token", "list"]);
    assert!(listed.contains("pump-3  0 of 1") && listed.contains("site=berlin"), "{listed}");
    assert!(!listed.contains(join.trim()), "a secret is shown once");
    let id = listed.lines().nth(1).and_then(|line| line.split(' ').next()).unwrap();
    assert_eq!(place.done(&["token", "delete", id]), format!("the token {id} is deleted\n"));
    assert_eq!(place.done(&["token", "list", "--json"]), "[]\n");

    let added = place.output(&["add", "pump-4", "--key", KEY, "--label", "line=7"]);
    let join = String::from_utf8(added.stdout).unwrap();
    assert!(join.starts_with("tcpr1.") && join.lines().count() == 1, "{join}");
    let note = String::from_utf8(added.stderr).unwrap();
    assert!(
        note.starts_with("pump-4 is added; a device that has joined no relay yet joins by 'tcpremote join' and"),
        "{note}"
    );
    assert_eq!(place.done(&["token", "list", "--json"]), "[]\n", "it has no token that lets in another key");
    let listed = place.done(&["devices"]);
    let lines: Vec<&str> = listed.lines().collect();
    assert_eq!(lines.len(), 3, "{listed}");
    assert!(lines[1].starts_with("old-gateway  down"), "{listed}");
    assert!(lines[2].starts_with("pump-4       down") && lines[2].ends_with("line=7"), "{listed}");
    assert!(place.done(&["devices", "--json"]).contains(&format!("\"fingerprint\": \"{FINGERPRINT}\"")));
    assert_eq!(place.done(&["label", "pump-4", "site=rome", "--remove", "line"]), "pump-4 has the labels: site=rome\n");
    assert!(place.done(&["devices", "--json"]).contains("\"labels\": {\n        \"site\": \"rome\"\n      }"));
    let error = place.failed(2, &["label", "pump-4", "--remove", "site=rome"]);
    assert_eq!(error, "error: --remove wants the key of a label and no value; write --remove site\n");
    assert_eq!(place.done(&["label", "pump-4", "--remove", "site"]), "pump-4 has no labels\n");
    assert!(place.done(&["revoke", "pump-4"]).starts_with("pump-4 is revoked;"));
    assert!(place.done(&["devices"]).contains("pump-4       revoked"));
    assert_eq!(place.done(&["unrevoke", "pump-4"]), "pump-4 is let in again\n");
    assert!(place.done(&["remove", "pump-4"]).starts_with("pump-4 is removed;"));
    let table = place.path("devices.csv");
    fs::write(&table, format!("name,key,labels\n\"pump-4\",{KEY},\"site=berlin line=7\"\n")).unwrap();
    let imported = place.output(&["import", table.to_str().unwrap()]);
    assert!(imported.stdout.starts_with(b"tcpr1."), "{imported:?}");
    assert!(
        String::from_utf8(imported.stderr).unwrap().starts_with("1 devices are added; a device that has joined no")
    );

    let error = place.failed(2, &["revoke", "pump-5"]);
    assert!(error.contains("there is no pump-5"), "{error}");
    assert!(place.failed(2, &["approve", FINGERPRINT]).contains("pump-4"), "it is let in already");
    assert!(place.failed(2, &["token", "device", "pump-4"]).contains("is there already"));
    assert!(place.failed(2, &["add", "old-gateway", "--key", KEY]).contains("old-gateway comes by the plain listener"));
    assert!(place.failed(2, &["add", "Pump", "--key", KEY]).contains("device name 'Pump' has 'P'"));
    assert!(place.failed(2, &["token", "device", "a", "--expires", "60"]).contains("with its unit, for example 24h"));
    let log = relay.log().concat();
    let uid = fs::metadata(place.path("state")).map(|metadata| std::os::unix::fs::MetadataExt::uid(&metadata)).unwrap();
    for line in ["a token was made", "a token was deleted", "a device was added", "a device is revoked"] {
        assert!(log.contains(line), "{line}: {log}");
    }
    assert!(log.contains(&format!("by=uid {uid}")) && !log.contains(join.trim()), "{log}");
}

#[test]
fn the_device_of_the_plain_listener_is_served_and_listed() {
    let place = Place::new();
    let relay = place.start();
    let lines = relay.wait_for_logs("waiting for a device", 2);
    let link = Link::listen(super::address_in(&lines[0]));
    relay.client_addrs();
    eventually("it is up", DEADLINE, || {
        let listed = place.done(&["devices"]);
        listed.lines().any(|line| line.starts_with("old-gateway  up") && line.contains("now"))
    });
    drop(link);
}

#[test]
fn a_configuration_that_is_wrong_is_not_reloaded_and_one_that_is_right_is() {
    let place = Place::new();
    let relay = place.start();
    let link = Link::listen(super::address_in(&relay.wait_for_logs("waiting for a device", 2)[0]));
    relay.client_addrs();
    place.configure(&format!("{PLAIN}\n[limits]\ndrain = 5\n"));
    let error = place.output(&["reload", "--state", place.path("state").to_str().unwrap()]);
    assert_eq!(error.status.code(), Some(2));
    let error = String::from_utf8(error.stderr).unwrap();
    assert!(error.contains("limits.drain: this is the number 5; write a time with its unit"), "{error}");
    relay.signal("HUP");
    relay.wait_for_logs("the configuration was not reloaded; the one before stays in force", 2);
    let second = "[[port]]\nlisten = \"127.0.0.1:0\"\nto = \"old-gateway:10\"\n[limits]\ndrain = \"5s\"\n";
    place.configure(&format!("{PLAIN}{second}"));
    assert_eq!(place.done(&["reload"]), "the configuration is reloaded and in force\n");
    relay.wait_for_logs("clients may connect", 2);
    place.configure(&format!("{PLAIN}{second}[log]\nlevel = \"debug\"\n"));
    for _ in 0..2 {
        assert!(place.done(&["reload"]).ends_with("in force; but restart the relay for log\n"));
    }
    let unknown = "[[port]]\nlisten = \"127.0.0.1:0\"\nto = \"pmup-3:ssh\"\n";
    place.configure(&format!("{PLAIN}{second}{unknown}"));
    assert_eq!(place.done(&["reload"]), "the configuration is reloaded and in force\n", "as it was started");
    relay.wait_for_logs("no device has this name, so nobody reaches it at this port until one has joined", 1);
    place.done(&["add", "pump-4", "--key", KEY]);
    place.configure(&PLAIN.replace("old-gateway", "pump-4"));
    assert!(place.failed(2, &["reload"]).contains("is called pump-4, as one of the registry is"));
    assert!(!relay.log().concat().contains("the link to the device is lost"), "{:?}", relay.log());
    drop(link);
}

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
    assert!(text.starts_with("the registry is restored: 1 devices and users; 0 tokens"), "{text}");
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

#[test]
fn the_next_key_becomes_the_key_and_a_change_that_was_interrupted_is_finished() {
    let place = Place::new();
    let read = |name: &str| fs::read(place.path(name)).unwrap();
    let kept = place.path("kept");
    fs::rename(place.path("relay-next.key"), &kept).unwrap();
    let (key, next) = (read("relay.key"), read("kept"));
    let error = place.failed(2, &["rotate-key"]);
    assert!(error.contains("name the file of the next key, where it was kept, by --next-key"), "{error}");
    let wrong = place.failed(2, &["rotate-key", "--next-key", place.path("relay.key").to_str().unwrap()]);
    assert!(wrong.contains("is not the key that devices were told of") && read("relay.key") == key, "{wrong}");
    let text = place.done(&["rotate-key", "--next-key", kept.to_str().unwrap()]);
    assert!(text.contains("Restart the relay.") && read("relay.key") == next, "{text}");
    assert!(text.contains(&format!("4. Delete {} once the relay proves it.", kept.display())), "{text}");
    assert_ne!(read("relay-next.key"), next);
    // Once more by mistake: devices know no other key yet.
    assert_eq!(place.failed(2, &["rotate-key"]), error);
    assert_eq!(place.failed(2, &["rotate-key", "--next-key", kept.to_str().unwrap()]).lines().count(), 1);
    assert!(read("relay.key") == next);
    // As if the machine had stopped between the two steps.
    let after = read("relay-next.key");
    fs::write(place.path("relay.key"), &after).unwrap();
    assert!(place.failed(2, &["check"]).contains("finish it with 'tcp-remote-relay rotate-key'"));
    place.done(&["rotate-key"]);
    assert!(read("relay.key") == after && read("relay-next.key") != after);
    place.done(&["check"]);
}

#[test]
fn a_list_whose_reader_has_enough_ends_without_a_word() {
    let place = Place::new();
    let _relay = place.start();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut devices = command();
    devices.args(["devices", "--config", &place.config()]).stdout(writer).stderr(Stdio::piped());
    let output = devices.spawn().unwrap().wait_with_output().unwrap();
    assert_eq!((output.status.code(), &output.stderr[..]), (Some(141), &b""[..]), "{output:?}");
}

#[test]
fn of_two_that_change_the_key_at_once_one_is_told_and_changes_nothing() {
    let place = Place::new();
    let directory = fs::File::open(place.path("")).unwrap();
    rustix::fs::flock(&directory, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let files = ["relay.key", "relay-next.key", "relay-next.pub"];
    let before = files.map(|name| fs::read(place.path(name)).unwrap());
    let beside = place.path("relay-next.key");
    let rotate = ["rotate-key", "--next-key", beside.to_str().unwrap()];
    let error = place.failed(1, &rotate);
    assert!(error.contains("another 'rotate-key' or 'init' is at work in "), "{error}");
    let init = run(command().arg("init").arg(place.path("")).args(["--address", "relay.example.com:443"]));
    assert_eq!(init.status.code(), Some(1), "{init:?}");
    assert!(files.map(|name| fs::read(place.path(name)).unwrap()) == before, "nothing is changed");
    drop(directory);
    place.done(&rotate);
}

#[test]
fn the_key_is_not_changed_twice_before_the_relay_that_runs_proves_it() {
    let place = Place::new();
    let read = |name: &str| fs::read(place.path(name)).unwrap();
    let mut relay = place.start();
    let beside = place.path("relay-next.key");
    let rotate = ["rotate-key", "--next-key", beside.to_str().unwrap()];
    let kept = place.path("kept");
    fs::copy(&beside, &kept).unwrap();
    let text = place.done(&rotate);
    assert!(!text.contains("Delete"), "the one beside the key was written anew: {text}");
    let files = ["relay.key", "relay-next.key", "relay-next.pub"];
    let before = files.map(read);
    let error = place.failed(2, &rotate);
    assert!(error.contains("so the key was changed and the relay not restarted; restart it and let every"), "{error}");
    assert!(files.map(read) == before, "nothing is changed");
    // Nor where the key is lost meanwhile: the relay announces another than the one that is to take its place.
    fs::remove_file(place.path("relay.key")).unwrap();
    let error = place.failed(2, &rotate);
    assert!(error.contains("the relay that runs announces ") && error.contains("relay-next.pub has "), "{error}");
    assert!(!place.path("relay.key").exists());
    fs::copy(&kept, place.path("relay.key")).unwrap();
    // A change that was interrupted is finished nevertheless: devices know the key that the relay will prove.
    fs::write(place.path("relay-next.pub"), public_line(&before[0])).unwrap();
    place.done(&["rotate-key"]);
    assert!(read("relay.key") == before[0]);
    relay.signal("TERM");
    assert_eq!(relay.wait(), Some(0), "{:?}", relay.log());
    let _relay = place.start();
    place.done(&rotate);
}

/// The public key of a private one, as its file has it.
fn public_line(pkcs8: &[u8]) -> String {
    format!("{}\n", Key::from_pkcs8(pkcs8).unwrap().public())
}

/// A device of the relay that was added by its key, and only then learns where the relay is.
#[test]
fn a_device_that_was_added_by_its_key_joins_with_the_string_that_was_printed_and_another_key_does_not() {
    let place = Place::new();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    place.configure(&format!("addresses = [\"127.0.0.1:{port}\"]\n[listen]\ntls = \"127.0.0.1:{port}\"\n"));
    let _relay = place.start();
    let key = Key::generate().unwrap();
    let join = place.done(&["add", "pump-3", "--key", &key.public().to_string()]);
    let device = |name: &str, key: Option<&Key>| {
        let state = place.path(name);
        fs::DirBuilder::new().mode(0o700).create(&state).unwrap();
        if let Some(key) = key {
            fs::write(state.join("key"), key.to_pkcs8()).unwrap();
            fs::set_permissions(state.join("key"), fs::Permissions::from_mode(0o600)).unwrap();
        }
        let enrolment = Enrolment::open_strictly(&state, Some(&join), None).unwrap();
        let mut config = device::Config::new(enrolment.addresses()[0].clone());
        config.enrolment = Some(enrolment);
        Handle::start(config).unwrap()
    };
    let other = device("other", None);
    eventually("it is refused", DEADLINE, || other.status().unwrap().state == State::Closed);
    assert_eq!(other.status().unwrap().last_error.map(|(_, code)| code), Some("token"));
    let added = device("added", Some(&key));
    eventually("it is let in", DEADLINE, || added.status().unwrap().state == State::Listening);
    let stored = place.path("added/relay.toml");
    eventually("it is stored", DEADLINE, || fs::read_to_string(&stored).is_ok_and(|text| text.contains("pump-3")));
    added.close().unwrap();
    let again = Enrolment::open_strictly(&place.path("added"), Some(&join), None).unwrap();
    assert!(again.has_joined() && !again.is_joining(), "the same string means nothing from then on");
}

#[test]
fn a_relay_of_the_plain_listener_gives_its_devices_name_to_no_key_and_burns_no_token_for_it() {
    let place = Place::new();
    let _relay = place.start();
    let table = place.path("devices.csv");
    fs::write(&table, format!("pump-4,{KEY}\nold-gateway,{OTHER_KEY}\n")).unwrap();
    let error = place.failed(2, &["import", table.to_str().unwrap()]);
    assert!(error.contains("line 2: old-gateway comes by the plain listener, and has no key; give another"), "{error}");
    assert!(!place.done(&["devices"]).contains("pump-4"), "nothing is imported");
    // The name is taken as soon as the relay has another configuration, and not before.
    place.done(&["add", "pump-5", "--key", OTHER_KEY]);
    place.configure(&PLAIN.replace("old-gateway", "pump-5"));
    assert!(place.failed(2, &["reload"]).contains("is called pump-5, as one of the registry is"));
    assert!(place.failed(2, &["token", "device", "old-gateway"]).contains("old-gateway comes by the plain listener"));
    place.configure(&PLAIN.replace("old-gateway", "pump-6"));
    place.done(&["reload"]);
    assert!(place.failed(2, &["token", "device", "pump-6"]).contains("pump-6 comes by the plain listener"));
    assert!(place.done(&["token", "device", "old-gateway"]).starts_with("tcpr1."));
}

#[test]
fn a_mistyped_command_is_told_by_its_likeness_to_one() {
    for (arguments, meant) in [(&["tokn", "device", "pump-3"][..], "'token'"), (&["reload-"], "'reload'")] {
        let output = run(command().args(arguments));
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(text.contains("unrecognized subcommand") && text.contains(meant), "{text}");
    }
}

#[test]
fn check_tells_what_is_wrong_with_files_and_how_it_is_mended() {
    let place = Place::new();
    let state = place.path("state");
    fs::set_permissions(&state, fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(place.path("relay.key"), fs::Permissions::from_mode(0o644)).unwrap();
    let error = place.failed(2, &["check"]);
    let shown = state.display();
    assert!(error.contains(&format!("state directory {shown} is open to others (mode 0755); run: chmod 700 {shown}")));
    assert!(error.contains("relay.key may be read or written by others (mode 0644); run: chmod 600 "), "{error}");
}

#[test]
fn the_next_key_takes_the_place_of_one_that_is_lost() {
    let place = Place::new();
    let kept = place.path("kept");
    fs::rename(place.path("relay-next.key"), &kept).unwrap();
    fs::remove_file(place.path("relay.key")).unwrap();
    assert!(place.failed(2, &["rotate-key"]).contains("name the file of the next key"));
    place.done(&["rotate-key", "--next-key", kept.to_str().unwrap()]);
    assert!(fs::read(place.path("relay.key")).unwrap() == fs::read(&kept).unwrap());
    place.done(&["check"]);
}

#[test]
fn clients_of_the_control_socket_that_say_nothing_or_nonsense_or_too_much_cost_others_nothing() {
    let place = Place::new();
    let _relay = place.start();
    let socket = place.path("state/control");
    assert_eq!(fs::symlink_metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    let silent: Vec<UnixStream> = (0..5).map(|_| UnixStream::connect(&socket).unwrap()).collect();
    let answer_to = |request: &[u8]| {
        let mut stream = UnixStream::connect(&socket).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        // The relay may have answered before it took all.
        let _ = stream.write_all(request);
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        answer
    };
    for (request, part) in [
        (&b"\xff\n"[..], "the relay cannot read this request"),
        (b"{\"command\":\"explode\"}\n", "unknown variant `explode`"),
        (b"{\"command\":\"revoke\",\"name\":\"Pump\"}\n", "device name 'Pump' has 'P'"),
        (b"{\"command\":\"revoke\",\"name\":\"a\",\"x\":1}\n", "unknown field `x`"),
        (b"[[[[", ""),
    ] {
        if request.ends_with(b"\n") {
            assert!(answer_to(request).contains(part), "{part}: {}", answer_to(request));
        }
    }
    let long = vec![b'['; 26 << 20];
    assert!(answer_to(&long).contains("a line of more than") || answer_to(b"[\n").contains("cannot read"), "too long");
    place.done(&["devices"]);
    let more: Vec<UnixStream> = (0..3).map(|_| UnixStream::connect(&socket).unwrap()).collect();
    assert!(place.failed(1, &["devices"]).contains("8 other commands are under way; try again"));
    drop((silent, more));
    eventually("a place is free again", DEADLINE, || place.output(&["devices"]).status.success());
}

#[test]
fn systemd_is_told_that_the_relay_is_ready_reloads_is_alive_and_ends() {
    let place = Place::new();
    let path = place.path("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    let next = |wanted: &str| {
        let mut buffer = [0; 4096];
        loop {
            let length = socket.recv(&mut buffer).unwrap_or_else(|error| panic!("no {wanted}: {error}"));
            let text = String::from_utf8(buffer[..length].to_vec()).unwrap();
            if text.lines().any(|line| line == wanted) {
                return text;
            }
        }
    };
    let mut command = command();
    command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "40000").env_remove("WATCHDOG_PID");
    let mut relay = place.start_with(&mut command);
    assert!(next("READY=1").contains("STATUS=serving"));
    for _ in 0..3 {
        next("WATCHDOG=1");
    }
    relay.signal("HUP");
    let reloading = next("RELOADING=1");
    let now = reloading.lines().find_map(|line| line.strip_prefix("MONOTONIC_USEC=")).unwrap();
    assert!(now.parse::<u64>().unwrap() > 0);
    next("READY=1");
    place.configure("x = 1");
    relay.signal("HUP");
    next("RELOADING=1");
    // It serves as before, and a person sees why that is not as the file says.
    assert!(next("READY=1").contains("STATUS=serving; the configuration was not reloaded"));
    relay.signal("TERM");
    next("STOPPING=1");
    assert_eq!(relay.wait(), Some(0), "{:?}", relay.log());
    // A relay that nobody asks to tell has nothing to tell.
    socket.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
    while socket.recv(&mut [0; 4096]).is_ok() {}
}

/// A relay to which this socket is given as systemd gives it: as descriptor 3, beside two variables.
fn start_with_sockets(place: &Place, socket: &TcpListener) -> Child {
    let mut command = Command::new("sh");
    let script = "exec 3<&0 </dev/null; export LISTEN_FDS=1 LISTEN_PID=$$; exec \"$@\"";
    command.args(["-c", script, "sh", env!("CARGO_BIN_EXE_tcp-remote-relay"), "run", "--config", &place.config()]);
    command.stdin(OwnedFd::from(socket.try_clone().unwrap())).stdout(Stdio::null()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

#[test]
fn nobody_is_refused_at_a_port_that_systemd_holds_while_the_relay_restarts() {
    let place = Place::new();
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    // More may wait than come while a busy machine starts a relay.
    SockRef::from(&socket).listen(1024).unwrap();
    let address = socket.local_addr().unwrap();
    place.configure(&format!("[listen]\ntls = \"{address}\"\n"));
    let is_over = Arc::new(AtomicBool::new(false));
    let devices = thread::spawn({
        let is_over = Arc::clone(&is_over);
        move || {
            let mut came = 0;
            while !is_over.load(Ordering::Relaxed) {
                TcpStream::connect(address).unwrap();
                came += 1;
                thread::sleep(Duration::from_millis(10));
            }
            came
        }
    });
    for _ in 0..3 {
        let mut relay = start_with_sockets(&place, &socket);
        eventually("it serves", DEADLINE, || UnixStream::connect(place.path("state/control")).is_ok());
        // It has not only the port: it reads what comes there, and ends what is no device.
        let mut device = TcpStream::connect(address).unwrap();
        device.set_read_timeout(Some(DEADLINE)).unwrap();
        device.write_all(b"this is no TLS\n").unwrap();
        let _ = device.read_to_end(&mut Vec::new());
        let ended = Command::new("kill").args(["-TERM", &relay.id().to_string()]).status().unwrap();
        assert!(ended.success());
        let status = relay.wait().unwrap();
        let mut log = String::new();
        relay.stderr.take().unwrap().read_to_string(&mut log).unwrap();
        assert_eq!(status.code(), Some(0), "{log}");
        assert!(log.contains(&format!("waiting for a device at={address}")), "{log}");
    }
    is_over.store(true, Ordering::Relaxed);
    assert!(devices.join().unwrap() > 0, "none was refused");
}

#[test]
fn a_socket_of_systemd_that_the_configuration_does_not_have_is_told() {
    let place = Place::new();
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    // One of clients cannot be systemd's, since it is closed while its device is away.
    let ports = [String::new(), format!("[[port]]\nlisten = \"{address}\"\nto = \"pump-3:ssh\"\n")];
    for port in ports {
        place.configure(&format!("[listen]\ntls = \"127.0.0.1:0\"\n{port}"));
        let mut relay = start_with_sockets(&place, &socket);
        let has_ended = || relay.try_wait().unwrap().is_some();
        eventually("the relay's end", DEADLINE, has_ended);
        let output = relay.wait_with_output().unwrap();
        let log = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{log}");
        assert!(
            log.contains(&format!("systemd gives a socket at {address}, and no device port of the relay")),
            "{log}"
        );
    }
}

#[test]
fn each_command_has_a_help_with_an_example() {
    let help = run(command().arg("help"));
    let text = String::from_utf8(help.stdout).unwrap();
    assert!(help.status.success() && text.contains("token device pump-3 --label site=berlin"), "{text}");
    for command_name in ["init", "run", "check", "reload", "devices", "approve", "add", "import", "label", "revoke"] {
        let help = run(command().args([command_name, "--help"]));
        assert!(help.status.success(), "{command_name}");
        let text = String::from_utf8(help.stdout).unwrap();
        assert!(text.contains("Example") && text.contains(&format!("tcp-remote-relay {command_name}")), "{text}");
    }
    let output = run(command().args(["token", "device"]));
    assert_eq!(output.status.code(), Some(2));
}
