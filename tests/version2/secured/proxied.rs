//! Links in TLS through an HTTP proxy.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use tcpremote::device::{Enrolment, EventKind};

use super::relay::{SecureRelay, echo_at};
use crate::common::DEADLINE;
use crate::common::device::Device;
use crate::common::service::{Service, expect_echo};
use crate::proxy::Tinyproxy;

/// A proxy that connects to wherever it is asked to, and dies with all that it carries.
struct Proxy {
    address: SocketAddr,
    is_dead: Arc<AtomicBool>,
    open: Arc<Mutex<Vec<TcpStream>>>,
    acceptor: Option<JoinHandle<()>>,
}

impl Proxy {
    fn start() -> Self {
        Self::at(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
    }

    fn at(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        let (is_dead, open) = (Arc::<AtomicBool>::default(), Arc::<Mutex<Vec<TcpStream>>>::default());
        let (dead, connections) = (Arc::clone(&is_dead), Arc::clone(&open));
        let acceptor = thread::spawn(move || {
            for device in listener.incoming().map_while(Result::ok) {
                if dead.load(Relaxed) {
                    return;
                }
                let connections = Arc::clone(&connections);
                thread::spawn(move || serve(device, &connections));
            }
        });
        Self { address, is_dead, open, acceptor: Some(acceptor) }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.is_dead.store(true, Relaxed);
        // Wakes the acceptor.
        let _ = TcpStream::connect_timeout(&self.address, DEADLINE);
        let _ = self.acceptor.take().map(JoinHandle::join);
        for connection in self.open.lock().unwrap().drain(..) {
            // It may be over.
            let _ = connection.shutdown(Shutdown::Both);
        }
    }
}

/// Connects, and says so together with nothing else, in two pieces.
fn serve(mut device: TcpStream, open: &Mutex<Vec<TcpStream>>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if !device.read(&mut byte).is_ok_and(|count| count > 0) {
            return;
        }
        head.extend(byte);
    }
    let head = String::from_utf8(head).unwrap();
    let target = head.strip_prefix("CONNECT ").and_then(|rest| rest.split(' ').next()).unwrap();
    let Ok(relay) = TcpStream::connect(target) else {
        let _ = device.write_all(b"HTTP/1.1 502 Bad Gateway\r\n\r\n");
        return;
    };
    open.lock().unwrap().extend([device.try_clone().unwrap(), relay.try_clone().unwrap()]);
    device.write_all(b"HTTP/1.1 200 Connection est").unwrap();
    device.write_all(b"ablished\r\n\r\n").unwrap();
    let (mut from, mut to) = (device.try_clone().unwrap(), relay.try_clone().unwrap());
    thread::spawn(move || {
        let _ = std::io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Write);
    });
    let _ = std::io::copy(&mut &relay, &mut device);
    let _ = device.shutdown(Shutdown::Write);
}

/// A device joins through the proxy, comes again through it by what it has stored, and its client has an echo.
fn expect_a_device_joins_through(proxy: &str) {
    let relay = SecureRelay::start(&["pump-3"]);
    let (echo, place) = (Service::echo(), tempfile::tempdir().unwrap());
    let state = place.path().join("state");
    let join = relay.join_string("pump-3", relay.port()).encode().to_string();
    for join in [Some(&*join), None] {
        let enrolment = Enrolment::open(&state, join, None).unwrap();
        let mut device = Device::start_with(relay.port(), |config| {
            config.proxy = Some(proxy.parse().unwrap());
            config.keep_trying = true;
            config.offer(echo_at(echo.address()));
            config.enrolment = Some(enrolment);
        });
        device.wait_for(if join.is_some() { EventKind::Joined } else { EventKind::Listening });
        assert!(proxy.ends_with(&device.status().peer.unwrap().to_string()), "{:?}", device.status());
        expect_echo(relay.relay.client_addrs()[0]);
    }
}

#[test]
fn a_device_joins_through_a_proxy_and_comes_again() {
    let proxy = Proxy::start();
    expect_a_device_joins_through(&format!("http://{}", proxy.address));
}

#[test]
fn a_device_joins_through_tinyproxy() {
    let Some(proxy) = Tinyproxy::start() else {
        let _ = writeln!(std::io::stderr(), "SKIPPED: a real proxy; install tinyproxy-bin");
        return;
    };
    expect_a_device_joins_through(&format!("http://me:hunter2@{}", proxy.address));
}

#[test]
fn a_device_comes_back_through_a_proxy_that_has_died_once_it_is_there_again() {
    let (relay, proxy) = (SecureRelay::start(&["pump-3"]), Proxy::start());
    let (key, echo, address) = (relay.add("pump-3"), Service::echo(), proxy.address);
    let mut device = relay.device_at(relay.port(), relay.identity(&key, None), |config| {
        config.proxy = Some(format!("http://{address}").parse().unwrap());
        config.offer(echo_at(echo.address()));
    });
    device.wait_for(EventKind::Listening);
    expect_echo(relay.relay.client_addrs()[0]);
    drop(proxy);
    let lost = device.wait_for(EventKind::Waiting);
    assert_eq!(lost.code, Some("lost"), "{}", lost.message);
    let dead = device.wait_for(EventKind::Waiting);
    assert_eq!(dead.code, Some("proxy"), "{}", dead.message);
    assert!(dead.message.contains("it cannot be reached: Connection refused"), "{}", dead.message);
    let _proxy = Proxy::at(address);
    device.wait_for(EventKind::Listening);
    expect_echo(relay.relay.client_addrs()[0]);
}
