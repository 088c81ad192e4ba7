//! The relay's command line: its messages, exit status and signals.
#![cfg(feature = "relay")]
#![allow(clippy::unwrap_used, reason = "a test ends where its own means fail")]

#[path = "relay_command_line/commands.rs"]
mod commands;
mod common;

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::{Command, Output, Stdio};

use common::relay::{Relay, address_in, command};
use common::{DEADLINE, Peer, eventually};

/// Runs the relay, which must end by itself.
fn run(arguments: &[&str]) -> Output {
    let mut command = command();
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    eventually(&format!("the end of {arguments:?}"), DEADLINE, || child.try_wait().unwrap().is_some());
    child.wait_with_output().unwrap()
}

/// The error about a command line that must be refused.
fn refusal(arguments: &[&str]) -> String {
    let output = run(arguments);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {text}");
    assert!(output.stdout.is_empty(), "{arguments:?}");
    text
}

/// A relay that runs until a signal ends it.
fn start(options: &[&str]) -> Relay {
    let mut command = command();
    command.args(options).args(PORTS);
    Relay::spawn(command, 1)
}

const PORTS: [&str; 3] = ["127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:9"];

#[test]
fn help_explains_the_four_parties_with_an_example_the_exit_status_and_the_missing_protection() {
    let output = run(&["--help"]);
    assert_eq!(output.status.code(), Some(0));
    let text = String::from_utf8(output.stdout).unwrap();
    for part in [
        "client ----> CLIENT [relay] SERVER <---- device ----> SERVICE",
        "tcp-remote-relay [OPTIONS] SERVER CLIENT SERVICE [CLIENT SERVICE]...",
        "tcp-remote-relay 0.0.0.0:2065 127.0.0.1:2222 127.0.0.1:22",
        "lua5.4 examples/device.lua relay.example.com 2065",
        "--half-close <SECONDS>",
        "--drain <SECONDS>",
        "--clients <NUMBER>",
        "--idle <SECONDS>",
        "--keepalive <SECONDS>",
        "--protocol <VERSION>",
        "--min-protocol <VERSION>",
        "--log <LEVEL>",
        "Minimum level to log on standard error",
        "--log-format <FORMAT>",
        "  3  ended by a signal, and clients that were open had to be cut",
        "has neither passwords nor encryption",
        "loopback (127.0.0.1) unless the service is meant to be public",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn the_version_is_printed_with_the_programs_name() {
    let output = run(&["--version"]);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(
        String::from_utf8(output.stdout).unwrap(),
        concat!("tcp-remote-relay ", env!("TCPREMOTE_VERSION"), "\n")
    );
}

#[test]
fn without_arguments_the_usage_is_shown() {
    assert!(refusal(&[]).contains("Usage: tcp-remote-relay [OPTIONS] SERVER CLIENT SERVICE"));
    assert!(refusal(&["127.0.0.1:0"]).contains("<CLIENT SERVICE>..."));
}

#[test]
fn a_client_address_without_its_service_is_an_error() {
    let message = "client address 'localhost:2222' has no service; write CLIENT SERVICE in pairs";
    assert!(refusal(&["localhost:0", "localhost:2222"]).contains(message));
    assert!(refusal(&["localhost:0", "localhost:1", "localhost:2", "localhost:2222"]).contains(message));
}

#[test]
fn each_unreadable_value_is_an_error_that_says_what_to_write() {
    let [server, client, service] = PORTS;
    for (arguments, message) in [
        (&["relay", client, service][..], "invalid value 'relay' for '<SERVER>': 'relay' has no port; write host:port"),
        (&["::1:22", client, service], "'::1:22' is ambiguous; write an IPv6 address in brackets"),
        (&["tcp://relay:1", client, service], "begins with a scheme; leave it off and write relay:1"),
        (&[server, ":22", service], "invalid client address ':22': the host is empty; write an address or a name"),
        (&[server, "a:70000", service], "invalid client address 'a:70000': port '70000' is not a number from 1 to"),
        (&[server, client, "a:0"], "invalid service address 'a:0': port '0' is not a number from 1 to 65535"),
        (&[server, client, "no such:1"], "invalid service address 'no such:1': host 'no such' is neither an address"),
        (&[server, client, "a\n:1"], "invalid service address 'a\\n:1': host 'a\\n' is neither"),
        (
            &["--half-close", "-1", server, client, service],
            "'-1' for '--half-close <SECONDS>': write a number of seconds",
        ),
        (&["--half-close", "NaN", server, client, service], "'NaN' for '--half-close <SECONDS>': write a number"),
        (&["--half-close", "3600.1", server, client, service], "from 0 to 3600, for example 0.5"),
        (&["--drain", "soon", server, client, service], "'soon' for '--drain <SECONDS>': write a number of seconds"),
        (&["--idle", "0", server, client, service], "write a number of seconds from 0.1 to 604800 (a week)"),
        (&["--keepalive", "4", server, client, service], "'4' for '--keepalive <SECONDS>': write a whole number"),
        (&["--keepalive", "3601", server, client, service], "write a whole number of seconds from 5 to 3600"),
        (&["--keepalive", "5.5", server, client, service], "write a whole number of seconds from 5 to 3600"),
        (&["--clients", "0", server, client, service], "'0' for '--clients <NUMBER>': 0 is not in 1..=256"),
        (&["--clients", "257", server, client, service], "257 is not in 1..=256"),
        (&["[::]:1", "0.0.0.0:1", service], "[::]:1 and 0.0.0.0:1 are one port: [::] is every interface"),
        (&["--protocol", "3", server, client, service], "'3' for '--protocol <VERSION>': write 1 or 2"),
        (&["--min-protocol", "0", server, client, service], "'0' for '--min-protocol <VERSION>': write 1 or 2"),
        (
            &["--protocol", "1", "--min-protocol", "2", server, client, service],
            "--min-protocol 2 is above --protocol 1, so that no device could be served; leave one of them off",
        ),
        (
            &["--log", "loud", server, client, service],
            "'loud' for '--log <LEVEL>'\n  [possible values: error, warn, info",
        ),
        (&["--log-format", "xml", server, client, service], "[possible values: text, json]"),
        (&["--quick", server, client, service], "unexpected argument '--quick' found"),
        (&["x:1", "x:2", service, "x:2", service], "client address x:2 is given twice; use another port"),
        (&["x:1", "x:1", service], "x:1 is given for the device and for clients; use another port"),
    ] {
        let text = refusal(arguments);
        assert!(text.contains(message), "{arguments:?}: {text}");
    }
}

#[test]
fn a_port_that_is_taken_is_an_error_with_status_1() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    for arguments in [[&taken, "127.0.0.1:0", "127.0.0.1:9"], ["127.0.0.1:0", &taken, "127.0.0.1:9"]] {
        let output = run(&arguments);
        let log = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{log}");
        assert!(log.contains(&format!(" at {taken}: Address already in use")), "{log}");
        assert!(log.contains("ERROR"), "{log}");
    }
}

#[test]
fn a_name_without_address_is_an_error_with_status_1() {
    // Its label is too long for a name server to be asked, whose answer has no time limit.
    let name = format!("{}.invalid:2065", "x".repeat(64));
    let output = run(&[&name, "127.0.0.1:0", "127.0.0.1:9"]);
    let log = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{log}");
    assert!(log.contains(&name), "{log}");
}

#[test]
fn a_relay_without_clients_ends_by_each_of_three_signals_with_status_0() {
    for signal in ["TERM", "INT", "HUP"] {
        let mut relay = start(&[]);
        assert_ne!(relay.device_addr().port(), 0, "the port that the system chose is logged");
        relay.signal(signal);
        assert_eq!(relay.wait(), Some(0), "{:?}", relay.log());
        let log = relay.log().concat();
        assert!(!log.contains('\u{1b}'), "no colours where no person looks: {log}");
        assert!(log.contains(&format!("ending, as a signal asks signal=SIG{signal}")), "{log}");
    }
}

#[test]
fn a_relay_that_was_started_with_sighup_ignored_outlives_its_terminal() {
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' HUP; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_tcp-remote-relay")]).args(PORTS);
    let mut relay = Relay::spawn(command, 1);
    relay.device_addr();
    relay.signal("HUP");
    let (_link, _) = relay.listen();
    relay.signal("TERM");
    assert_eq!(relay.wait(), Some(0), "{:?}", relay.log());
    assert!(!relay.log().concat().contains("SIGHUP"), "{:?}", relay.log());
}

#[test]
fn json_is_one_object_a_line() {
    let mut relay = start(&["--log-format", "json", "--half-close", "0.5"]);
    let _link = relay.listen();
    relay.signal("TERM");
    assert_eq!(relay.wait(), Some(0), "{:?}", relay.log());
    assert!(relay.log().len() >= 3);
    for line in relay.log() {
        assert!(line.starts_with("{\"timestamp\":\"") && line.ends_with('}'), "{line}");
        assert!(line.contains("\"level\":\"INFO\"") && line.contains("\"message\":\""), "{line}");
    }
}

#[test]
fn the_relay_goes_on_when_the_reader_of_its_log_has_gone() {
    let mut command = command();
    let mut child = command.args(PORTS).stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    // Its reader is dropped with it, as `| head -1` would.
    BufReader::new(child.stderr.take().unwrap()).read_line(&mut line).unwrap();
    let address = address_in(&line);
    for _ in 0..2 {
        let mut other = Peer::connect(address);
        other.send(b"each of these is worth a line");
        other.read_to_end();
    }
    assert!(child.try_wait().unwrap().is_none());
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn at_level_error_an_ordinary_run_logs_nothing() {
    let mut relay = start(&["--log", "error"]);
    // No line says that it runs; the kernel shows when it has its handler for SIGTERM.
    eventually("SIGTERM is handled", DEADLINE, || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", relay.process())).unwrap();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
        u64::from_str_radix(caught.trim(), 16).unwrap() & 1 << 14 != 0
    });
    relay.signal("TERM");
    assert_eq!(relay.wait(), Some(0));
    assert_eq!(relay.log(), [""; 0]);
}
