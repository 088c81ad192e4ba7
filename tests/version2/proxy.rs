//! A link through an HTTP proxy.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread;

use tcpremote::device::EventKind;

use crate::common::device::Device;
use crate::common::relay::Relay;
use crate::common::service::{Service, expect_echo};
use crate::common::{DEADLINE, eventually};

/// A proxy of our own: it connects to wherever it is asked to, and carries bytes both ways.
fn proxy() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for device in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || serve(device));
        }
    });
    address
}

fn serve(mut device: TcpStream) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        device.read_exact(&mut byte).unwrap();
        head.extend(byte);
    }
    let head = String::from_utf8(head).unwrap();
    let target = head.strip_prefix("CONNECT ").and_then(|rest| rest.split(' ').next()).unwrap();
    let relay = TcpStream::connect(target).unwrap();
    device.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").unwrap();
    let (mut from, mut to) = (device.try_clone().unwrap(), relay.try_clone().unwrap());
    thread::spawn(move || std::io::copy(&mut from, &mut to));
    let _ = std::io::copy(&mut &relay, &mut device);
}

fn expect_a_link_through(proxy: &str) {
    let echo = Service::echo();
    let relay = Relay::start(&[&echo.address().to_string()]);
    let mut device = Device::start_with(relay.device_addr(), |config| config.proxy = Some(proxy.parse().unwrap()));
    device.wait_for(EventKind::Listening);
    let status = device.status();
    assert_eq!(status.server.to_string(), relay.device_addr().to_string());
    assert!(proxy.ends_with(&status.peer.unwrap().to_string()), "{status:?}");
    expect_echo(relay.client_addrs()[0]);
}

#[test]
fn a_link_through_a_proxy_carries_clients() {
    expect_a_link_through(&format!("http://{}", proxy()));
}

/// A real proxy, which wants a user.
pub(crate) struct Tinyproxy {
    child: Child,
    pub(crate) address: SocketAddr,
    _directory: tempfile::TempDir,
}

impl Tinyproxy {
    /// `None` where there is no such program.
    pub(crate) fn start() -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("tinyproxy.conf");
        for _ in 0..10 {
            // Another program may be faster to take the port.
            let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
            let text = format!("Listen 127.0.0.1\nPort {}\nBasicAuth me hunter2\nLogLevel Critical\n", address.port());
            std::fs::write(&file, text).unwrap();
            let mut command = Command::new("tinyproxy");
            command.args(["-d", "-c"]).arg(&file).stdout(Stdio::null()).stderr(Stdio::null());
            let Ok(mut child) = command.spawn() else { return None };
            let mut is_there = false;
            eventually("the proxy starts or ends", DEADLINE, || {
                is_there = TcpStream::connect(address).is_ok();
                is_there || child.try_wait().unwrap().is_some()
            });
            if is_there {
                return Some(Self { child, address, _directory: directory });
            }
        }
        panic!("tinyproxy finds no port");
    }
}

impl Drop for Tinyproxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn tinyproxy_carries_a_link_and_its_refusals_say_what_to_do() {
    let Some(proxy) = Tinyproxy::start() else {
        let _ = writeln!(std::io::stderr(), "SKIPPED: a real proxy; install tinyproxy-bin");
        return;
    };
    let address = proxy.address;
    expect_a_link_through(&format!("http://me:hunter2@{address}"));
    let refusal = |user: &str, relay: SocketAddr| {
        let proxy = format!("http://{user}{address}").parse().unwrap();
        let mut device = Device::start_with(relay, |config| config.proxy = Some(proxy));
        let closed = device.wait_for(EventKind::Closed);
        assert_eq!(closed.code, Some("proxy"), "{closed:?}");
        assert!(!closed.message.contains("hunter"), "{closed:?}");
        closed.message
    };
    let relay = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = relay.local_addr().unwrap();
    let text = refusal("", at);
    assert!(
        text.contains(": it wants to know a user (407); give proxy = \"http://USER:PASSWORD@HOST:PORT\""),
        "{text}"
    );
    let text = refusal("me:hunter3@", at);
    assert!(text.contains(": it does not take the user or the password (401); correct them"), "{text}");
    drop(relay);
    let text = refusal("me:hunter2@", at);
    assert!(text.contains(": it cannot reach that address (50"), "{text}");
}
