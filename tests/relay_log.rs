//! The relay's log: what a reader that stands still, or a flood of connections, does to it.
#![cfg(feature = "relay")]
#![allow(clippy::unwrap_used, reason = "a test ends where its own means fail")]

mod common;

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, ChildStderr, Command, Stdio};

use common::device::Device;
use common::relay::{Relay, address_in, command};
use common::service::Service;
use common::wire_v2::{self, code};
use common::{DEADLINE, End, Peer, eventually};
use tcpremote::device::EventKind;

/// What a pipe holds at least, by default, when its writer has to wait: 64 KiB less what no line fits in.
const PIPE: usize = 60 * 1024;

/// A relay whose log is read only when the test does so.
struct Unread {
    child: Child,
    log: BufReader<ChildStderr>,
}

impl Unread {
    fn start(options: &[&str], service: &str) -> Self {
        let mut command = command();
        command.args(options).args(["127.0.0.1:0", "127.0.0.1:0", service]);
        let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        // One byte at a time, so that nothing is read ahead.
        let log = BufReader::with_capacity(1, child.stderr.take().unwrap());
        Self { child, log }
    }

    /// The next line with this text.
    fn line(&mut self, text: &str) -> String {
        let mut line = String::new();
        while !line.contains(text) {
            line.clear();
            assert!(self.log.read_line(&mut line).unwrap() > 0, "the end of the log, and not '{text}'");
        }
        line
    }

    fn signal(&self, signal: &str) {
        let status = Command::new("kill").args([format!("-{signal}"), self.child.id().to_string()]).status();
        assert!(status.unwrap().success());
    }

    /// The exit status.
    fn wait(&mut self) -> Option<i32> {
        let mut status = None;
        eventually("the relay's end", DEADLINE, || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap().code()
    }
}

impl Drop for Unread {
    fn drop(&mut self) {
        // Already gone, where the test ended it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Connections to the device port that are over at once.
fn strays(relay: SocketAddr, count: usize) {
    for _ in 0..count {
        drop(Peer::connect(relay));
    }
}

#[test]
fn a_log_that_is_not_read_holds_up_neither_device_nor_client_nor_the_end() {
    let service = Service::echo();
    let mut relay = Unread::start(&["--log", "debug"], &service.address().to_string());
    let device_port = address_in(&relay.line("waiting for a device"));
    let mut first = Device::start(device_port);
    let client_port = address_in(&relay.line("clients may connect"));
    strays(device_port, 1000);

    let mut second = Device::start(device_port);
    second.wait_for(EventKind::Listening);
    first.wait_for(EventKind::Closed);
    let mut client = Peer::connect(client_port);
    client.send(b"served");
    client.expect(b"served");
    client.finish();
    client.expect_end(End::Finished);
    second.wait_until_idle(DEADLINE);
    relay.signal("TERM");
    assert_eq!(relay.wait(), Some(0));
    let mut rest = Vec::new();
    relay.log.read_to_end(&mut rest).unwrap();
    // The last page of a full pipe, and of each write into it, may have room that no line fits.
    assert!(rest.len() > PIPE / 2, "the pipe was not full: {} bytes", rest.len());
}

#[test]
fn a_log_that_is_read_again_says_how_much_was_dropped() {
    let mut relay = Unread::start(&["--log", "debug"], "127.0.0.1:9");
    let device_port = address_in(&relay.line("waiting for a device"));
    strays(device_port, 4000);
    let line = relay.line("lines were dropped");
    let lines = line.trim_end().rsplit("lines=").next().and_then(|number| number.parse::<usize>().ok());
    assert!(lines.is_some_and(|lines| lines > 0), "{line}");
    relay.signal("TERM");
    assert_eq!(relay.wait(), Some(0));
}

#[test]
fn the_last_lines_are_written_before_the_end() {
    for _ in 0..5 {
        let mut relay = Unread::start(&["--drain", "0"], "127.0.0.1:9");
        let device = Device::start(address_in(&relay.line("waiting for a device")));
        let _client = Peer::connect(address_in(&relay.line("clients may connect")));
        relay.signal("TERM");
        assert!(matches!(relay.wait(), Some(0 | 3)));
        relay.line("ending, as a signal asks");
        drop(device);
    }
}

/// How many lines with this text the log has, and how many more it says there would have been.
fn lines_and_more(log: &[String], text: &str, like: &str) -> (usize, usize) {
    let lines = log.iter().filter(|line| line.contains(text) && !line.contains("more like it")).count();
    let more = log.iter().filter(|line| line.contains("more like it") && line.contains(like));
    let count = |line: &String| line.split("lines=").nth(1)?.split(' ').next()?.parse::<usize>().ok();
    (lines, more.filter_map(count).sum())
}

#[test]
fn a_flood_on_the_device_port_is_a_few_lines_and_their_number() {
    let mut command = command();
    command.args(["127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:9"]);
    let mut relay = Relay::spawn(command, 1);
    for _ in 0..1000 {
        let mut stray = Peer::connect(relay.device_addr());
        stray.send(b"GET / HTTP/1.1\r\n\r\n");
        stray.read_to_end();
    }
    relay.signal("TERM");
    assert_eq!(relay.wait(), Some(0));
    let dropped = "dropped a connection on the device port";
    let (lines, more) = lines_and_more(&relay.log(), dropped, "a connection on the device port was dropped");
    assert_eq!(lines + more, 1000);
    // The rest is for the time that the machine takes, at one a second.
    assert!((20..200).contains(&lines), "{lines} lines");
    assert!(relay.log().iter().any(|line| line.contains(dropped) && line.contains("looks_like=HTTP")));
}

#[test]
fn a_flood_of_clients_is_a_bounded_number_of_lines() {
    let service = Service::echo();
    let mut command = command();
    command.args(["127.0.0.1:0", "127.0.0.1:0", &service.address().to_string()]);
    let mut relay = Relay::spawn(command, 1);
    let mut device = Device::start(relay.device_addr());
    device.wait_for(EventKind::Listening);
    let entrance = relay.client_addrs()[0];
    let clients = 3000;
    for _ in 0..clients {
        Peer::connect(entrance).reset();
    }
    device.wait_until_idle(DEADLINE);
    relay.signal("TERM");
    assert_eq!(relay.wait(), Some(0));
    let (lines, more) = lines_and_more(&relay.log(), "a client has left", "a client has left");
    // What was reset in the backlog may never have been accepted.
    assert!((1000..=clients).contains(&(lines + more)), "{lines} and {more}");
    assert!(lines >= 1000, "normal use is logged whole: {lines}");
    assert!(more > 0, "a flood is not: {lines}");
}

#[test]
fn a_connection_without_a_byte_is_no_warning() {
    let mut relay = Relay::start(&["127.0.0.1:9"]);
    for _ in 0..20 {
        drop(Peer::connect(relay.device_addr()));
    }
    relay.wait_for_logs("a connection on the device port has ended without a byte", 20);
    relay.signal("TERM");
    assert_eq!(relay.wait(), Some(0));
    assert!(!relay.log().iter().any(|line| line.contains("WARN")), "{:?}", relay.log());
}

#[test]
fn a_client_that_has_left_is_one_line_with_all_that_is_known_of_it() {
    let service = Service::echo();
    let service_address = service.address().to_string();
    let mut relay = Relay::start_with(&["--log-format", "json"], &[&service_address]);
    let mut device = Device::start(relay.device_addr());
    device.wait_for(EventKind::Listening);
    let mut client = Peer::connect(relay.client_addrs()[0]);
    let address = client.local_addr().to_string();
    client.send(b"twelve bytes");
    client.expect(b"twelve bytes");
    client.finish();
    client.expect_end(End::Finished);
    let line = relay.wait_for_log("a client has left");
    for part in [
        "\"level\":\"INFO\"",
        "\"connection\":1,",
        &format!("\"client\":\"{address}\""),
        &format!("\"service\":\"{service_address}\""),
        "\"link\":\"127.0.0.1:",
        "\"seconds\":",
        "\"received\":12,",
        "\"sent\":12,",
        "\"code\":\"normal\"",
    ] {
        assert!(line.contains(part), "{part}: {line}");
    }
    // The other lines about it have its number.
    for other in ["\"a client\"", "CONNECT is on its way", "a client's service is connected"] {
        assert!(relay.wait_for_log(other).contains("\"connection\":1"));
    }
    relay.signal("TERM");
    assert_eq!(relay.wait(), Some(0));
}

#[test]
fn a_client_that_a_leaving_device_refuses_is_not_logged_as_one_without_a_place() {
    let mut relay = Relay::start(&["127.0.0.1:9"]);
    let mut link = wire_v2::Link::listen(relay.device_addr());
    let mut client = Peer::connect(relay.client_addrs()[0]);
    link.expect(wire_v2::CONNECT);
    // It crosses the CONNECT.
    link.send(&wire_v2::go_away(code::SHUTDOWN, 0, 0, "leaves"));
    client.expect_end(End::Reset);
    let line = relay.wait_for_log("a client has left");
    assert!(line.contains("code=shutdown reason=the device takes no new clients"), "{line}");
    relay.signal("TERM");
    assert!(matches!(relay.wait(), Some(0 | 3)));
    assert!(!relay.log().iter().any(|line| line.contains("WARN")), "{:?}", relay.log());
}

#[test]
fn every_value_is_a_field_and_no_message_contains_an_address() {
    let service = Service::echo();
    let mut relay = Relay::start_with(&["--log-format", "json", "--drain", "0"], &[&service.address().to_string()]);
    let mut first = Device::start(relay.device_addr());
    first.wait_for(EventKind::Listening);
    let mut second = Device::start(relay.device_addr());
    second.wait_for(EventKind::Listening);
    let mut stray = Peer::connect(relay.device_addr());
    stray.send(b"SSH-2.0-x");
    stray.read_to_end();
    let mut client = Peer::connect(relay.client_addrs()[0]);
    client.send(b"x");
    client.expect(b"x");
    relay.signal("TERM");
    assert_eq!(relay.wait(), Some(3));
    let log = relay.log();
    assert!(log.len() > 10, "{log:?}");
    for line in log {
        let message = line.split("\"message\":\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap();
        assert!(!message.contains("127.0.0.1"), "{line}");
        assert!(!line.contains("\"address\""), "a link is called link, a client client: {line}");
    }
}
