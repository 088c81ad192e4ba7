//! Processes that are stopped (SIGSTOP) and go on, as a machine that sleeps or has no time for them does to them.
#![cfg(feature = "relay")]
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test ends where its own means fail")]

mod common;

use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use common::pairing::Pairing;
use common::service::Service;
use common::{Listener, Peer};
use socket2::SockRef;

/// A client that has sent its request and ended its sending side, and its service that has the request.
fn half_closed(client_port: SocketAddr, service: &Listener) -> (Peer, Peer) {
    let mut client = Peer::connect(client_port);
    let mut served = service.accept();
    client.send(b"a request");
    served.expect(b"a request");
    client.finish();
    // A shorter time might not let the relay see the end, and the test would show less.
    thread::sleep(Duration::from_millis(500));
    (client, served)
}

#[test]
fn bytes_that_came_while_the_relay_was_stopped_are_read_before_silence_is_judged() {
    let service = Listener::bind();
    let (relay, _device, clients) = Pairing::OLD.start_with(&["--half-close", "3"], &[service.address()]);
    let (mut client, mut served) = half_closed(clients[0], &service);
    relay.signal("STOP");
    served.send(b"the answer");
    thread::sleep(Duration::from_secs(4));
    relay.signal("CONT");
    client.expect(b"the answer");
}

#[test]
fn bytes_that_came_while_the_relay_was_stopped_count_against_idleness() {
    let service = Service::echo();
    let (relay, _device, clients) = Pairing::NEW.start_with(&["--idle", "3"], &[service.address()]);
    let mut client = Peer::connect(clients[0]);
    client.send(b"x");
    client.expect(b"x");
    // A shorter time might not let the relay count these bytes, and the test would show less.
    thread::sleep(Duration::from_secs(1));
    relay.signal("STOP");
    client.send(b"y");
    thread::sleep(Duration::from_secs(4));
    relay.signal("CONT");
    client.expect(b"y");
}

in_every_pairing!(bytes_behind_urgent_ones_do_not_wait_for_more);

/// A read stops before an urgent byte (telnet and ftp send them), so that a short one has not emptied the socket.
fn bytes_behind_urgent_ones_do_not_wait_for_more(pairing: Pairing) {
    let listener = Listener::bind();
    let (relay, _device, clients) = pairing.start(&[listener.address()]);
    let mut client = Peer::connect(clients[0]);
    let mut served = listener.accept();
    client.send(b"first");
    served.expect(b"first");
    relay.signal("STOP");
    client.send(b"before");
    let stream = client.into_stream();
    SockRef::from(&stream).send_out_of_band(b"!").unwrap();
    let mut client = Peer::new(stream);
    client.send(b"behind");
    relay.signal("CONT");
    served.expect(b"beforebehind");
    drop(client);
}

#[test]
fn bytes_that_came_behind_many_others_while_the_relay_was_stopped_are_read_before_silence_is_judged() {
    let [service, bulk] = [(); 2].map(|()| Listener::bind());
    let (relay, _device, clients) =
        Pairing::OLD.start_with(&["--half-close", "3"], &[service.address(), bulk.address()]);
    let other = Peer::connect(clients[1]);
    let mut downloads = bulk.accept();
    let (mut client, mut served) = half_closed(clients[0], &service);
    relay.signal("STOP");
    downloads.send(&[b'x'; 1024 * 1024]);
    thread::sleep(Duration::from_millis(500));
    served.send(b"the answer");
    thread::sleep(Duration::from_secs(4));
    relay.signal("CONT");
    client.expect(b"the answer");
    drop(other);
}
