//! The relay's log: what a reader that stands still, or a flood of connections, does to it.
#![cfg(feature = "relay")]
#![allow(clippy::unwrap_used, reason = "a test ends where its own means fail")]

mod common;

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, ChildStderr, Command, Stdio};

use common::device::Device;
use common::relay::{address_in, command};
use common::service::Service;
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
    let client_port = address_in(&relay.line("may connect"));
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
    assert!(rest.len() >= PIPE, "the pipe was not full: {} bytes", rest.len());
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
        let _client = Peer::connect(address_in(&relay.line("may connect")));
        relay.signal("TERM");
        assert!(matches!(relay.wait(), Some(0 | 3)));
        relay.line("ending, as a signal asks");
        drop(device);
    }
}
