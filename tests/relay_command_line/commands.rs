//! The commands of a relay with a configuration file, from `init` to `restore`.

mod backups;
mod keys;
mod starting;
mod systemd;

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown, symlink};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
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
    let warning =
        "leads to 'pmup-3', and no device has this name, so nobody reaches it at this port until one has joined";
    relay.wait_for_logs(warning, 1);
    for asked in ["reload", "check"] {
        let error = String::from_utf8(place.output(&[asked]).stderr).unwrap();
        assert!(error.contains(&format!("warning: the port 127.0.0.1:0 {warning}")), "{error}");
    }
    place.configure(&PLAIN.replace("relay.example.com:443", "relay.example.com:8443"));
    for asked in ["check", "reload"] {
        let error = String::from_utf8(place.output(&[asked]).stderr).unwrap();
        assert!(
            error.contains("warning: devices look for this relay at relay.example.com:443, and nothing is"),
            "{error}"
        );
        assert!(!error.contains("pmup-3"), "{error}");
    }
    place.done(&["add", "pump-4", "--key", KEY]);
    place.configure(&PLAIN.replace("old-gateway", "pump-4"));
    assert!(place.failed(2, &["reload"]).contains("is called pump-4, as one of the registry is"));
    assert!(!relay.log().concat().contains("the link to the device is lost"), "{:?}", relay.log());
    drop(link);
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
fn a_command_that_there_is_not_is_told_and_one_that_is_like_it() {
    for (arguments, meant) in [
        (&["tokn", "device", "pump-3"][..], "'tokn'; did you mean 'token'?"),
        (&["reload-"], "'reload-'; did you mean 'reload'?"),
        (&["token", "lst"], "'lst'; did you mean 'list'?"),
        (&["status"], "'status';"),
        (&["status", "pump-3"], "'status';"),
    ] {
        let output = run(command().args(arguments));
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert_eq!(text, format!("error: there is no command {meant} 'tcp-remote-relay help' lists all\n"));
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

/// One that was upgraded is asked by the new commands until it is restarted.
#[test]
fn an_older_relay_is_understood_and_what_it_cannot_say_is_no_leave_to_change_its_key() {
    let place = Place::new();
    let older = UnixListener::bind(place.path("state/control")).unwrap();
    let answers = [
        r#"{"devices":{"devices":[{"name":"pump-1","state":"down","fingerprint":null,"labels":{},"seen":1,"link":null}],"unknown":[]}}"#,
        r#"{"done":"the configuration is reloaded and in force"}"#,
        r#"{"proven-key":null}"#,
        r#"{"failed":{"kind":"usage","text":"the relay cannot read this request: unknown variant `lacking`"}}"#,
    ];
    let relay = thread::spawn(move || {
        for answer in answers {
            let (mut stream, _) = older.accept().unwrap();
            BufReader::new(&stream).read_line(&mut String::new()).unwrap();
            writeln!(stream, "{answer}").unwrap();
        }
    });
    let listed = place.done(&["devices"]);
    assert!(listed.contains("pump-1") && listed.contains("does not say who knows its next key"), "{listed}");
    assert_eq!(place.done(&["reload"]), "the configuration is reloaded and in force\n");
    let key = fs::read(place.path("relay.key")).unwrap();
    let beside = place.path("relay-next.key");
    let error = place.failed(1, &["rotate-key", "--next-key", beside.to_str().unwrap()]);
    assert!(error.contains("`lacking`; restart it, if it is older than this program; nothing was changed"), "{error}");
    assert!(fs::read(place.path("relay.key")).unwrap() == key);
    relay.join().unwrap();
}

#[test]
fn check_reads_a_configuration_once_which_may_be_a_pipe() {
    let place = Place::new();
    let path = |name: &str| format!("{:?}", place.path(name));
    let files =
        format!("state = {}\nkey = {}\nnext_key = {}\n", path("state"), path("relay.key"), path("relay-next.pub"));
    let text = format!("{files}{PLAIN}");
    place.configure(&text);
    fs::remove_file(place.path("relay-next.key")).unwrap();
    let _relay = place.start();
    let mut check = command();
    check.args(["check", "--config", "/dev/stdin"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut check = check.spawn().unwrap();
    check.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = check.wait_with_output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}
