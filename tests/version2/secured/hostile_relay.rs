//! Something else where a device looks for its relay: it learns nothing, the device says what it found, and comes back.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use tcpremote::device::{EventKind, Identity, State};
use tcpremote::identity::{Pin, Pins};
use tcpremote::tls::{Acceptor, Key, Scratch, TlsError};

use super::Neighbour;
use super::relay::{SecureRelay, echo_at, new_key};
use crate::common::device::Device;
use crate::common::openssl;
use crate::common::service::{Service, expect_echo};
use crate::common::{DEADLINE, eventually, wire_v2};

/// Where the relay's name leads, which changes.
struct Way {
    address: SocketAddr,
    target: Arc<Mutex<SocketAddr>>,
    open: Arc<Mutex<Vec<TcpStream>>>,
}

impl Way {
    fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let (target, open) = (Arc::new(Mutex::new(target)), Arc::<Mutex<Vec<TcpStream>>>::default());
        let (leads_to, connections) = (Arc::clone(&target), Arc::clone(&open));
        thread::spawn(move || {
            for device in listener.incoming().map_while(Result::ok) {
                let Ok(relay) = TcpStream::connect(*leads_to.lock().unwrap()) else { continue };
                for (from, to) in [(&device, &relay), (&relay, &device)] {
                    let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    thread::spawn(move || {
                        let _ = std::io::copy(&mut from, &mut to);
                        let _ = to.shutdown(Shutdown::Write);
                    });
                }
                connections.lock().unwrap().extend([device, relay]);
            }
        });
        Self { address, target, open }
    }

    /// It leads there from now on, and what is open is cut.
    fn lead_to(&self, target: SocketAddr) {
        *self.target.lock().unwrap() = target;
        for connection in self.open.lock().unwrap().drain(..) {
            // It may be over.
            let _ = connection.shutdown(Shutdown::Both);
        }
    }
}

/// A relay with this key, which answers a device's SETTINGS by these bytes, and then neither says more nor ends the link.
fn stubborn_relay(key: &Key, answer: Vec<u8>) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let (address, acceptor) = (listener.local_addr().unwrap(), Acceptor::new(key).unwrap());
    thread::spawn(move || {
        for mut tcp in listener.incoming().map_while(Result::ok) {
            let (mut tls, mut scratch) = (acceptor.start().unwrap(), Scratch::new(64 * 1024));
            let (mut buffer, mut read, mut has_answered) = ([0; 4096], Vec::new(), false);
            while let Ok(count @ 1..) = tcp.read(&mut buffer) {
                if tls.open(&mut buffer[..count], &mut read, &mut scratch).is_err() {
                    break;
                }
                if !read.is_empty() && !std::mem::replace(&mut has_answered, true) {
                    assert_eq!(tls.seal(&answer, &mut scratch).unwrap(), answer.len());
                }
                let answer = tls.unsent(&scratch).to_vec();
                tls.advance(&mut scratch, answer.len());
                tcp.write_all(&answer).unwrap();
            }
        }
    });
    address
}

/// The device is not content with what it found, which has shown this key.
fn expect_another_key(device: &mut Device, relay: &SecureRelay) {
    let waiting = loop {
        let event = device.wait_for(EventKind::Waiting);
        // The link before was cut.
        if event.code != Some("lost") {
            break event;
        }
    };
    assert_eq!(waiting.code, Some("pin"), "{waiting:?}");
    let shown = relay.pins().current.to_string();
    assert!(waiting.message.contains(&format!("the relay has the key {shown}, and ")), "{}", waiting.message);
    let error = device.status().last_error.unwrap();
    assert!(error.1 == "pin" && error.0.contains(&shown), "{error:?}");
}

#[test]
fn another_relay_in_the_place_of_a_devices_own_learns_neither_key_nor_token_and_the_device_comes_back() {
    let (ours, other) = (SecureRelay::start(&["pump-3"]), SecureRelay::start(&[Neighbour::NAME]));
    let mut neighbour = Neighbour::of(&other);
    let (way, echo, key) = (Way::to(other.port()), Service::echo(), new_key());
    let identity = ours.identity(&key, Some(ours.token("pump-3")));
    let mut device = ours.device_at(way.address, identity, |config| config.offer(echo_at(echo.address())));
    // To join, and when it has joined.
    for _ in 0..2 {
        expect_another_key(&mut device, &other);
        other.relay.wait_for_log("it does not accept the key that it was shown");
        let known = other.done(&["devices"]);
        assert!(!known.contains("Unknown keys") && !known.contains("pump-3"), "{known}");
        way.lead_to(ours.port());
        device.handle.reconnect().unwrap();
        device.wait_for(EventKind::Listening);
        expect_echo(ours.relay.client_addrs()[0]);
        way.lead_to(other.port());
    }
    neighbour.assert_untouched();
}

#[test]
fn one_who_opens_tls_between_with_a_key_of_his_own_is_named_by_it_and_reads_nothing() {
    let ours = SecureRelay::start(&["pump-3"]);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let (address, key) = (listener.local_addr().unwrap(), new_key());
    let acceptor = Acceptor::new(&key).unwrap();
    let between = thread::spawn(move || {
        let (mut tcp, _) = listener.accept().unwrap();
        let (mut tls, mut scratch) = (acceptor.start().unwrap(), Scratch::new(64 * 1024));
        let (mut buffer, mut read) = ([0; 4096], Vec::new());
        loop {
            let count = tcp.read(&mut buffer).unwrap();
            let result = match count {
                0 => tls.handle_end(),
                count => tls.open(&mut buffer[..count], &mut read, &mut scratch),
            };
            if let Err(error) = result {
                return (read, tls.peer_key().copied(), error);
            }
            let answer = tls.unsent(&scratch).to_vec();
            tls.advance(&mut scratch, answer.len());
            tcp.write_all(&answer).unwrap();
        }
    });
    let identity = ours.identity(&ours.add("pump-3"), Some(ours.token("pump-4")));
    let mut device = ours.device_at(address, identity, |_| {});
    let waiting = device.wait_for(EventKind::Waiting);
    let (shown, pinned) = (key.public().pin().to_string(), ours.pins().current.to_string());
    assert_eq!(waiting.code, Some("pin"));
    assert!(waiting.message.contains(&shown) && waiting.message.contains(&pinned), "{}", waiting.message);
    let (read, peer_key, error) = between.join().expect("no panic");
    assert!(read.is_empty() && peer_key.is_none() && matches!(error, TlsError::Alert(_)), "{read:?} {error}");
}

#[test]
fn one_who_opens_tls_between_with_a_certificate_is_told_from_a_relay() {
    let ours = SecureRelay::start(&["pump-3"]);
    let (key, echo) = (ours.add("pump-3"), Service::echo());
    for options in [&[][..], &["-alpn", "tcpremote/2"], &["-tls1_2"]] {
        let Some(server) = openssl::server(&["ed25519"], options) else { continue };
        let way = Way::to(server.address.parse().unwrap());
        let identity = ours.identity(&key, None);
        let mut device = ours.device_at(way.address, identity, |config| config.offer(echo_at(echo.address())));
        let waiting = device.wait_for(EventKind::Waiting);
        assert_eq!(waiting.code, Some("tls"), "{options:?}: {}", waiting.message);
        assert!(waiting.message.contains("something between opens TLS"), "{options:?}: {}", waiting.message);
        way.lead_to(ours.port());
        device.handle.reconnect().unwrap();
        eventually("it is there", DEADLINE, || device.status().state == State::Listening);
    }
}

#[test]
fn a_relay_that_refuses_a_device_and_does_not_let_it_go_holds_up_neither_its_owner_nor_its_loop() {
    let echo = Service::echo();
    let refusal = wire_v2::frame(wire_v2::SETTINGS, 0, 0, &[]);
    let away = wire_v2::go_away(16, 60, 0, "it was stolen");
    let connect = wire_v2::connect(1, echo.address());
    // Of each: what comes behind the refusal, and the code of the end.
    let cases = [
        (vec![], "timeout"),
        (away.clone(), "revoked"),
        ([&connect[..], &away].concat(), "lost"),
        ([&away[..], &connect].concat(), "revoked"),
        ([&away[..], &away, &wire_v2::ping(0, [0; 8])].concat(), "revoked"),
    ];
    for (behind, code) in cases {
        let key = new_key();
        let address = stubborn_relay(&key, [refusal.clone(), behind].concat());
        let pins = Pins { current: key.public().pin(), next: Pin([2; 32]) };
        let identity = Identity { key: new_key(), pins, name: None, join: None, instance: [1; 16] };
        let mut device = Device::start_with(address, |config| {
            config.identity = Some(identity);
            config.connect_timeout = Duration::from_secs(2);
            config.offer(echo_at(echo.address()));
        });
        let began = Instant::now();
        let closed = device.wait_for(EventKind::Closed);
        assert_eq!(closed.code, Some(code), "{}", closed.message);
        assert!(began.elapsed() < DEADLINE, "{:?}", began.elapsed());
        let clients = device.events.iter().filter(|event| event.kind == EventKind::Connect).count();
        assert_eq!(clients, 0, "{:?}", device.events);
    }
}
