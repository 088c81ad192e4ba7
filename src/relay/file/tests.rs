use std::time::Instant;

use super::*;
use crate::identity::Pin;
use crate::relay::registry::SqliteRegistry;
use crate::tls::Key;

const WHOLE: &str = r#"
state = "/var/lib/relay"
key = "keys/relay.key"
next_key = "keys/next.pub"
addresses = ["relay.example.com:443", "[2001:db8::1]:443"]

[listen]
tls = "0.0.0.0:443"
plain = { listen = "127.0.0.1:2065", device = "old-gateway" }
proxy_protocol_from = ["10.0.0.5", "2001:db8::7"]

[[port]]
listen = "127.0.0.1:2222"
to = "pump-3:ssh"

[[port]]
listen = "127.0.0.1:2223"
to = "old-gateway:22"

[limits]
clients = 64
idle = "1h 30m"
keepalive = "2m"
half_close = "500ms"
drain = "0s"

[log]
level = "debug"
format = "json"
"#;

fn parse(text: &str) -> Result<File, Vec<String>> {
    let parsed = File::parse(text, Path::new("/etc/relay"));
    parsed.map_err(|mistakes| mistakes.iter().map(ToString::to_string).collect())
}

/// The one mistake of a text.
fn mistake(text: &str) -> String {
    let mistakes = parse(text).expect_err(text);
    assert_eq!(mistakes.len(), 1, "{text}: {mistakes:?}");
    mistakes.concat()
}

/// The mistake of a line that is added to a good file, as the fourth.
fn mistake_of(line: &str) -> String {
    mistake(&format!("[listen]\ntls = \"[::]:443\"\n[limits]\n{line}\n"))
}

#[test]
fn a_file_says_all_there_is_to_say() {
    let file = parse(WHOLE).expect("a configuration");
    assert_eq!((file.state.to_str(), file.key.to_str()), (Some("/var/lib/relay"), Some("/etc/relay/keys/relay.key")));
    assert_eq!(file.next_key, Path::new("/etc/relay/keys/next.pub"));
    assert_eq!(
        file.addresses.iter().map(ToString::to_string).collect::<Vec<_>>().concat(),
        "relay.example.com:443[2001:db8::1]:443"
    );
    assert_eq!(file.tls.as_ref().map(ToString::to_string).as_deref(), Some("0.0.0.0:443"));
    assert_eq!(file.proxy_protocol_from.len(), 2);
    assert_eq!(file.ports[0].service, Part::Service(Name::service("ssh").expect("a name")));
    assert_eq!((file.clients, file.idle), (64, Some(Duration::from_secs(5400))));
    assert_eq!((file.keepalive, file.half_close), (Duration::from_secs(120), Duration::from_millis(500)));
    assert_eq!((file.drain, file.level, file.format), (Duration::ZERO, Level::Debug, Format::Json));
    let state = tempfile::tempdir().expect("a directory");
    let registry: Arc<dyn Registry> = Arc::new(SqliteRegistry::open(&state.path().join("state")).expect("a registry"));
    let (key, next) = (Arc::new(Key::generate().expect("a key")), Pin([7; 32]));
    let config = file.config(Some(&Keys { key, next }), &registry).expect("a configuration of a server");
    let tls = config.tls.as_ref().expect("a port for TLS");
    assert_eq!((tls.listen.to_string(), tls.next, tls.addresses.len()), ("0.0.0.0:443".into(), next, 2));
    assert_eq!((config.clients, config.drain, config.limits.keepalive), (64, Duration::ZERO, file.keepalive));
    let [PlainDevice { name: Some(_), listen, mappings }] = &config.devices[..] else { panic!("one device") };
    assert_eq!((listen.to_string().as_str(), mappings.len()), ("127.0.0.1:2065", 1));
    assert_eq!(mappings[0].service.to_string(), "127.0.0.1:22");
    assert_eq!((config.ports.len(), config.ports[0].device.as_str()), (1, "pump-3"));
    assert_eq!(config.proxy_protocol_from, file.proxy_protocol_from);
}

#[test]
fn what_is_left_out_has_the_defaults_of_the_command_line() {
    let file = parse("[listen]\ntls = \"[::]:443\"").expect("a configuration");
    assert_eq!(
        (file.state.as_path(), file.key.as_path()),
        (Path::new("/etc/relay/state"), Path::new("/etc/relay/relay.key"))
    );
    assert_eq!(file.next_key, Path::new("/etc/relay/relay-next.pub"));
    assert_eq!((file.clients, file.idle, file.keepalive), (256, None, Duration::from_secs(90)));
    assert_eq!((file.half_close, file.drain), (Duration::from_secs(1), Duration::from_secs(8)));
    assert_eq!((file.level, file.format, file.addresses.len()), (Level::Info, Format::Text, 0));
}

#[test]
fn an_unknown_key_is_a_mistake_that_names_the_nearest_known_one_or_its_place() {
    assert_eq!(
        mistake_of("keep_alive = \"1m\""),
        "line 4: unknown key 'keep_alive' in limits; did you mean 'keepalive'?"
    );
    assert_eq!(
        mistake_of("quick = 1"),
        "line 4: unknown key 'quick' in limits; known there: clients, idle, keepalive, half_close, drain"
    );
    assert_eq!(
        mistake("[listen]\ntls = \"[::]:443\"\naddresses = [\"relay:443\"]"),
        "line 3: unknown key 'addresses' in listen; it stands before the first [table]"
    );
    assert_eq!(
        mistake("drain = \"1s\"\n[listen]\ntls = \"[::]:443\""),
        "line 1: unknown key 'drain'; it is one of limits"
    );
    assert_eq!(
        mistake("[listn]\ntls = \"[::]:443\"\n[listen]\ntls = \"[::]:443\""),
        "line 1: unknown key 'listn'; did you mean 'listen'?"
    );
    assert!(
        mistake("\"\\u001b[2J\" = 1\n[listen]\ntls = \"[::]:443\"")
            .starts_with("line 1: unknown key '\\u{1b}[2J'; known")
    );
}

#[test]
fn each_key_stands_in_the_page_about_the_relay() {
    let page = include_str!("../../../docs/relay.md");
    for (table, keys) in SCHEMA {
        for key in *keys {
            let is_table = SCHEMA.iter().any(|(name, _)| name == key);
            let path = if table.is_empty() { (*key).to_owned() } else { format!("{table}.{key}") };
            // Those of a port and of the plain listener stand in one line each.
            let is_there = page.contains(&format!("| `{path}` |")) || ["plain", "port"].contains(table);
            assert!(is_there || is_table, "{path}");
        }
    }
}

#[test]
fn of_two_letters_in_the_wrong_order_the_right_order_is_told() {
    let mistakes = parse("[listen]\ntsl = \"[::]:443\"").expect_err("wrong");
    assert!(mistakes[1].ends_with("unknown key 'tsl' in listen; did you mean 'tls'?"), "{mistakes:?}");
}

#[test]
fn each_value_that_cannot_be_is_a_mistake_that_says_what_to_write() {
    for (line, text) in [
        ("clients = 0", "limits.clients: this is the number 0; write a whole number from 1 to 256"),
        ("clients = 1.5", "limits.clients: this is the number 1.5; write a whole number from 1 to 256"),
        ("clients = \"many\"", "limits.clients: this is the text 'many'; write a whole number from 1 to 256"),
        (
            "idle = 60",
            "limits.idle: this is the number 60; write a time with its unit, 100ms to 7d, for example \"1h\"",
        ),
        ("idle = \"soon\"", "limits.idle: 'soon' is no time with its unit; write 100ms to 7d, for example \"1h\""),
        ("idle = \"8d\"", "limits.idle: '8d' is too long; write 100ms to 7d, for example \"1h\""),
        ("keepalive = \"0s\"", "limits.keepalive: '0s' is too short; write 5s to 1h, for example \"90s\""),
        ("drain = true", "limits.drain: this is true; write a time with its unit, 0s to 1h, for example \"10s\""),
        ("half_close = \"2h\"", "limits.half_close: '2h' is too long; write 0s to 1h, for example \"10s\""),
        (
            "[log]\nlevel = \"loud\"",
            "log.level: this is the text 'loud'; write one of \"error\", \"warn\", \"info\", \"debug\"",
        ),
        ("[log]\nformat = []", "log.format: this is an array; write one of \"text\", \"json\""),
        (
            "[[port]]\nlisten = 22\nto = \"a:b\"",
            "port.listen: this is the number 22; write a text, for example \"0.0.0.0:443\"",
        ),
        ("[[port]]\nlisten = \"here\"\nto = \"a:b\"", "port.listen: 'here' has no port; write host:port"),
        (
            "[[port]]\nlisten = \"a:1\"\nto = \"a\"",
            "port.to: 'a' names no service; write DEVICE:SERVICE, for example pump-3:ssh",
        ),
        ("[[port]]\nlisten = \"a:1\"\nto = \"a:0\"", "port.to: port '0' is not a number from 1 to 65535"),
        ("[[port]]\nlisten = \"a:1\"\nto = \"A:b\"", "port.to: device name 'A' has 'A' where that is not allowed"),
        ("[[port]]\nlisten = \"a:1\"\nto = \"a:B\"", "port.to: service name 'B' has 'B' where that is not allowed"),
        ("[[port]]\nto = \"a:b\"", "port.listen is missing; write listen = \"127.0.0.1:2222\""),
        ("[[port]]\nlisten = \"a:1\"", "port.to is missing; write to = \"pump-3:ssh\""),
        ("[port]\nto = \"a:b\"", "port: this is a table; write [[port]] in a line of its own"),
        ("[log.level]", "log.level: this is a table; write one of"),
    ] {
        let mistake = mistake_of(line);
        let (_, said) = mistake.split_once(": ").expect("a line");
        assert!(said.starts_with(text), "{line}: {mistake}");
    }
    for (line, text) in [
        ("state = \"\"", "line 1: state: this is empty; write a path"),
        ("key = 1", "line 1: key: this is the number 1; write a text, for example \"/var/lib/tcp-remote-relay\""),
        (
            "addresses = \"a:1\"",
            "line 1: addresses: this is the text 'a:1'; write an array, [\"relay.example.com:443\"]",
        ),
        ("addresses = [\"a:1\",\n\"b\"]", "line 2: addresses: 'b' has no port; write host:port"),
        ("addresses = [\"a:1\",\"a:2\",\"a:3\",\"a:4\",\n\"a:5\"]", "line 2: addresses: at most 4 are told to devices"),
        ("limits = 1", "line 1: limits: this is the number 1; write [limits] in a line of its own"),
    ] {
        let mistake = mistake(&format!("{line}\n[listen]\ntls = \"[::]:443\"\n"));
        assert!(mistake.starts_with(text), "{line}: {mistake}");
    }
    let of_listen = |line: &str| mistake(&format!("[listen]\ntls = \"[::]:443\"\n{line}\n"));
    assert!(
        of_listen("proxy_protocol_from = [\"lb\"]")
            .starts_with("line 3: listen.proxy_protocol_from: 'lb' is neither an address nor a network")
    );
    assert!(of_listen("plain = true").starts_with("line 3: listen.plain: this is true; write { listen = "));
    assert_eq!(
        of_listen("plain = { device = \"a\" }"),
        "line 3: plain.listen is missing; write listen = \"127.0.0.1:2065\""
    );
}

#[test]
fn all_mistakes_are_told_at_once_in_the_order_of_their_lines() {
    let mistakes = parse("[limits]\nclients = 0\ndrain = 1\nlimit = 2\n[listen]\nplian = 1\n").expect_err("wrong");
    let lines: Vec<&str> = mistakes.iter().filter_map(|mistake| mistake.split(':').next()).collect();
    assert_eq!(lines, ["line 2", "line 3", "line 4", "line 5", "line 6"], "{mistakes:?}");
    let many: String = (0..1000).map(|number| format!("k{number} = 1\n")).collect();
    let mistakes = parse(&many).expect_err("wrong");
    assert!(mistakes.len() == 50 && mistakes[49].ends_with("(and 951 mistakes more)"), "{mistakes:?}");
}

#[test]
fn what_is_no_toml_is_a_mistake_with_its_line() {
    let mistakes = parse("[listen]\ntls = \"[::]:443\"\ntls = \"[::]:444\"\n").expect_err("twice");
    assert!(mistakes[0].starts_with("line 3: this is no TOML: duplicate key"), "{mistakes:?}");
    let mistakes = parse("[listen]\ntls = \"[::]:443\n").expect_err("cut");
    assert!(mistakes[0].starts_with("line 2: this is no TOML: "), "{mistakes:?}");
    assert_eq!(mistakes.len(), 1, "{mistakes:?}");
}

#[test]
fn a_file_that_listens_nowhere_is_a_mistake() {
    let nothing = "line 1: there is nothing to listen at; write [listen], and below it tls = \"0.0.0.0:443\"";
    assert_eq!([mistake(""), mistake("[listen]")], [nothing, nothing]);
}

#[test]
fn two_listeners_at_one_port_are_a_mistake_with_both_lines() {
    let port = |listen: &str| format!("[listen]\ntls = \"[::]:443\"\n[[port]]\nlisten = \"{listen}\"\nto = \"a:b\"");
    assert_eq!(mistake(&port("[::]:443")), "line 4: [::]:443 stands in line 2 too; use another port for one");
    assert!(
        mistake(&port("127.0.0.1:443"))
            .starts_with("line 4: 127.0.0.1:443 and [::]:443 of line 2 are one port: [::] is")
    );
    assert!(parse(&port("127.0.0.1:0")).is_ok());
}

/// A port for each of so many devices, at the address that `listen` gives its number.
fn ports(count: usize, listen: impl Fn(usize) -> String) -> String {
    let port = |number| format!("[[port]]\nlisten = \"{}\"\nto = \"pump-{number}:ssh\"\n", listen(number));
    std::iter::once("[listen]\ntls = \"0.0.0.0:443\"\n".into()).chain((0..count).map(port)).collect()
}

#[test]
fn ten_thousand_ports_are_read_in_no_time() {
    let text = ports(10_000, |number| format!("127.0.{}.{}:22", number / 200, number % 200));
    let began = Instant::now();
    let file = parse(&text).expect("a configuration");
    assert_eq!(file.ports.len(), 10_000);
    // What costs each line another look at all others takes minutes.
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
}

#[test]
fn a_port_that_is_in_the_way_of_many_is_one_mistake_of_each() {
    let mistakes = parse(&ports(1000, |_| "127.0.0.1:22".into())).expect_err("one port");
    let line = |number: usize| 4 + 3 * number;
    assert!(mistakes.len() > 10);
    for (number, text) in (1..).zip(&mistakes) {
        let wanted = format!("line {}: 127.0.0.1:22 stands in line {} too; use another", line(number), line(0));
        assert!(text.starts_with(&wanted), "{text}");
    }
}

#[test]
fn a_port_leads_to_a_device_that_can_come() {
    let plain = "[listen]\nplain = { listen = \"a:1\", device = \"old\" }\n";
    assert_eq!(
        mistake(plain),
        "line 2: no [[port]] leads to old; add one, listen = \"127.0.0.1:2222\" and to = \"old:22\""
    );
    let port = |to: &str| format!("{plain}[[port]]\nlisten = \"a:2\"\nto = \"{to}\"");
    assert!(parse(&port("old:ssh")).is_ok());
    assert!(parse(&port("old:22")).is_ok());
    let mistakes = parse(&port("new:22")).expect_err("no TLS");
    assert!(mistakes[1].starts_with("line 4: new cannot come: devices with keys need tls"), "{mistakes:?}");
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("relay.toml");
    let error = File::read(&path).expect_err("none").to_string();
    assert!(error.starts_with(&format!("cannot read {}: No such file", path.display())), "{error}");
    std::fs::write(&path, vec![b'#'; MAX_SIZE as usize + 1]).expect("a file");
    assert!(File::read(&path).expect_err("large").to_string().contains("it has more than 1048576 bytes"));
    std::fs::write(&path, "x = 1\ny = 2").expect("a file");
    let error = File::read(&path).expect_err("wrong").to_string();
    let lines: Vec<&str> = error.lines().collect();
    assert!(lines.len() == 3 && lines[2].starts_with(&format!("{}:2: unknown key 'y'", path.display())), "{error}");
}
