//! What clients can do to a link's end, as fast as they can: nothing.

use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use socket2::SockRef;

use crate::common::pairing::Pairing;
use crate::common::service::{Service, expect_echo};
use crate::common::{DEADLINE, Peer, Refusing, eventually};

/// Opens a connection and resets it, so many times in each of four threads; how often there was one.
fn flood(clients: SocketAddr, times: usize) -> Vec<thread::JoinHandle<usize>> {
    let one = move || {
        let connected = (0..times).filter(|_| {
            let Ok(stream) = TcpStream::connect_timeout(&clients, DEADLINE) else { return false };
            SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
            true
        });
        connected.count()
    };
    (0..4).map(|_| thread::spawn(one)).collect()
}

fn one_flood(clients_of: fn(SocketAddr, SocketAddr) -> SocketAddr) {
    let (echo, refusing) = (Service::echo(), Refusing::bind());
    let (relay, device, clients) = Pairing::NEW.start(&[echo.address(), refusing.address()]);
    let mut other = Peer::connect(clients[0]);
    let flooding = flood(clients_of(clients[0], clients[1]), 1500);
    while flooding.iter().any(|thread| !thread.is_finished()) {
        other.send(b"are you there?");
        other.expect(b"are you there?");
    }
    let connected: usize = flooding.into_iter().map(|thread| thread.join().unwrap()).sum();
    assert!(connected > 1000, "only {connected} of 6000 came through");
    eventually("the flood is over", DEADLINE, || device.status().clients == 1);
    expect_echo(clients[0]);
    assert!(device.is_listening());
    assert!(!relay.log().iter().any(|line| line.contains("is lost")));
}

#[test]
fn clients_that_connect_and_reset_thousands_of_times_do_not_end_the_link() {
    one_flood(|echo, _| echo);
}

#[test]
fn clients_of_a_service_that_refuses_thousands_of_times_do_not_end_the_link() {
    one_flood(|_, refusing| refusing);
}

#[test]
fn more_clients_than_places_that_come_and_go_do_not_end_the_link() {
    let echo = Service::echo();
    let (relay, device, clients) = Pairing::NEW.start(&[echo.address()]);
    for _ in 0..3 {
        // Some wait for a place and are gone before they have it.
        let many: Vec<_> = (0..400).map(|_| Peer::connect(clients[0])).collect();
        for client in many {
            client.reset();
        }
    }
    eventually("all of them are gone", DEADLINE, || device.status().clients == 0);
    expect_echo(clients[0]);
    assert!(!relay.log().iter().any(|line| line.contains("is lost")));
}
