//! A device whose process has no descriptors left. It is the only test of its program, since it takes them all.
#![cfg(feature = "relay")]
#![allow(clippy::unwrap_used, reason = "a test ends where its own means fail")]

mod common;

use std::fs::File;
use std::net::SocketAddr;

use common::DEADLINE;
use common::device::Device;
use common::relay::Relay;
use common::service::Service;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use socket2::{Domain, Socket, Type};
use tcpremote::device::{EventKind, State};

/// Descriptors that the process may have; the test takes those that are left.
const LIMIT: u64 = 128;

/// Every descriptor that the process may still have.
fn take_all() -> Vec<File> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, LIMIT, hard).unwrap();
    std::iter::from_fn(|| File::open("/dev/null").ok()).collect()
}

#[test]
fn a_device_without_descriptors_says_so_and_goes_on_when_there_are_some() {
    let echo = Service::echo();
    let relay = Relay::start(&[&echo.address().to_string()]);
    let mut device = Device::start(relay.device_addr());
    device.wait_for(EventKind::Listening);
    let clients: SocketAddr = relay.client_addrs()[0];
    let client = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let taken = take_all();

    client.connect(&clients.into()).unwrap();
    let failed = device.wait_for(EventKind::Failed);
    assert_eq!(failed.code, Some("system"), "{}", failed.message);
    let remedy = "raise the limit of open files of this process (ulimit -n)";
    let expected = format!("client 1 cannot reach {}: Too many open files (os error 24); {remedy}", echo.address());
    assert_eq!(failed.message, expected);
    assert!(relay.wait_for_log("code=internal").contains(remedy));

    device.handle.reconnect().unwrap();
    let kept = device.wait_for(EventKind::Kept);
    assert_eq!(kept.code, Some("system"), "{}", kept.message);
    let cannot = format!("the link to {} cannot be made: Too many open files (os error 24); ", relay.device_addr());
    assert!(kept.message.starts_with(&format!("{cannot}{remedy}; ")), "{}", kept.message);
    assert_eq!(device.status().state, State::Listening);

    drop(taken);
    device.handle.reconnect().unwrap();
    let listening = device.wait_for_either(EventKind::Listening, EventKind::Closed, DEADLINE);
    assert_eq!(listening.kind, EventKind::Listening, "{}", listening.message);
    common::service::expect_echo(clients);
}
