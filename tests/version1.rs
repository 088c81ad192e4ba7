//! What is version 1's alone: no flow control, no half-close, and 256 numbers.
#![cfg(feature = "relay")]
#![allow(clippy::unwrap_used, reason = "a test ends where its own means fail")]

mod common;

use std::io::Write;
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use common::device::Device;
use common::pairing::Pairing;
use common::relay::Relay;
use common::service::{Service, expect_echo};
use common::usage::Usage;
use common::wire::{CONNECT, LISTEN, Link, connect, data};
use common::{DEADLINE, End, Listener, Peer, eventually};
use tcpremote::device::EventKind;

#[test]
fn a_service_that_needs_the_end_of_the_request_sees_it_but_its_answer_is_lost() {
    Pairing::each(&Pairing::OF_VERSION_1, |pairing| {
        let count = Service::count();
        let (_relay, _device, clients) = pairing.start(&[count.address()]);
        let mut client = Peer::connect(clients[0]);
        client.send(b"one request");
        client.finish();
        // Version 1 announces the end by CLOSE alone, behind which no answer can come back.
        assert_eq!(client.read_to_end(), (Vec::new(), End::Finished));
    });
}

#[test]
fn two_hundred_and_fifty_six_clients_are_served_at_once_and_the_next_when_one_has_gone() {
    let echo = Service::echo();
    let (relay, device, clients) = Pairing::OLD.start(&[echo.address()]);
    let mut open: Vec<_> = (0..256).map(|_| Peer::connect(clients[0])).collect();
    for (number, client) in open.iter_mut().enumerate() {
        client.send(format!("client {number:03}").as_bytes());
    }
    for (number, client) in open.iter_mut().enumerate() {
        client.expect(format!("client {number:03}").as_bytes());
    }
    assert_eq!(device.status().clients, 256);
    let began = Instant::now();
    let mut refused = Peer::connect(clients[0]);
    assert_eq!(refused.read_to_end(), (Vec::new(), End::Reset));
    assert!(began.elapsed() >= Duration::from_secs(1), "it waits a second for a number");
    relay.wait_for_log("refused a client: the link has no place for more");
    open.pop();
    // It is half-closed, so the next client gets its number at once.
    expect_echo(clients[0]);
    for (number, client) in open.iter_mut().enumerate() {
        client.send(format!("still {number:03}").as_bytes());
        client.expect(format!("still {number:03}").as_bytes());
    }
}

#[test]
fn a_service_that_stops_reading_holds_up_the_others_for_the_stall_time_and_is_reset() {
    let (service, echo) = (Listener::bind(), Service::echo());
    let services = [service.address(), echo.address()].map(|address| address.to_string());
    let relay = Relay::start_with(Pairing::OLD_RELAY.options(), &[&services[0], &services[1]]);
    let stall = Duration::from_secs(1);
    let mut device = Device::start_with(relay.device_addr(), |config| config.limits.rule.stall = stall);
    let clients = relay.client_addrs();
    let mut client = Peer::connect(clients[0]);
    let mut served = service.accept();
    let sending = thread::spawn(move || while client.try_send(&[b'x'; 65_536]).is_ok() {});
    let event = device.wait_for(EventKind::Stalled);
    let text = "was reset: its service read too little for too long, and held up the others";
    assert!(event.message.ends_with(text), "{event:?}");
    assert_eq!(served.read_to_end().1, End::Reset);
    sending.join().unwrap();
    expect_echo(clients[1]);
}

#[test]
fn a_client_that_stops_reading_holds_up_the_others_for_the_stall_time_and_is_reset() {
    let echo = Service::echo();
    let endless = Service::start(|mut peer| while peer.try_send(&[b'x'; 65_536]).is_ok() {});
    let (relay, device, clients) = Pairing::OLD_DEVICE.start(&[endless.address(), echo.address()]);
    let mut other = Peer::connect(clients[1]);
    let before = Usage::of(relay.process()).kib;
    let mut stuck = Peer::connect(clients[0]);
    stuck.read(65_536);
    // Echoes go on until the stalled client's queue is full, stop for the 30 s of the stall, and go on.
    let began = Instant::now();
    let mut longest = Duration::ZERO;
    while !relay.log().iter().any(|line| line.contains("it read too little for too long, and held up the others")) {
        assert!(began.elapsed() < Duration::from_secs(60), "the stuck client is never reset");
        let asked = Instant::now();
        other.send(b"patience");
        other.expect_within(b"patience", Duration::from_secs(45));
        longest = longest.max(asked.elapsed());
    }
    assert!((Duration::from_secs(20)..Duration::from_secs(35)).contains(&longest), "{longest:?}");
    let grown = Usage::of(relay.process()).kib.saturating_sub(before) / 1024;
    assert!(grown < 16, "the relay grew by {grown} MiB");
    other.send(b"at last");
    other.expect(b"at last");
    assert_eq!(stuck.read_to_end().1, End::Reset);
    eventually("one client is left", DEADLINE, || device.status().clients == 1);
}

/// A frame as the programs of 2012 write it: the header, then the payload, with Nagle's algorithm at work.
fn write_apart(stream: &mut TcpStream, frame: &[u8]) {
    stream.write_all(&frame[..4]).unwrap();
    stream.write_all(&frame[4..]).unwrap();
}

/// A hundred times this: a delayed acknowledgement would show in nearly each, a busy machine in some.
fn assert_waits_for_no_acknowledgement(mut echo: impl FnMut()) {
    let mut times: Vec<_> = (0..100)
        .map(|_| {
            let began = Instant::now();
            echo();
            began.elapsed()
        })
        .collect();
    times.sort();
    assert!(times[25] < Duration::from_millis(20), "{times:?}");
}

#[test]
fn a_device_of_2012_that_writes_header_and_payload_apart_waits_for_no_acknowledgement() {
    let relay = Relay::start(&["127.0.0.1:9"]);
    let mut link = Link { peer: Peer::connect(relay.device_addr()) };
    link.send(&LISTEN);
    let mut client = Peer::connect(relay.client_addrs()[0]);
    let (command, number, _) = link.read_frame();
    assert_eq!(command, CONNECT);
    let mut stream = link.peer.try_clone().into_stream();
    stream.set_nodelay(false).unwrap();
    assert_waits_for_no_acknowledgement(|| {
        client.send(&[b'x'; 64]);
        link.expect_data(number, &[b'x'; 64]);
        write_apart(&mut stream, &data(number, &[b'y'; 64]));
        client.expect(&[b'y'; 64]);
    });
}

#[test]
fn a_relay_of_2012_that_writes_header_and_payload_apart_waits_for_no_acknowledgement() {
    let (listener, echo) = (Listener::bind(), Service::echo());
    let _device = Device::start(listener.address());
    let mut link = Link::accept(&listener);
    let mut stream = link.peer.try_clone().into_stream();
    stream.set_nodelay(false).unwrap();
    write_apart(&mut stream, &connect(1, "127.0.0.1", echo.port()));
    assert_waits_for_no_acknowledgement(|| {
        write_apart(&mut stream, &data(1, &[b'x'; 64]));
        link.expect_data(1, &[b'x'; 64]);
    });
    let mut number = 1;
    assert_waits_for_no_acknowledgement(|| {
        // A new client, with bytes at once.
        number += 1;
        write_apart(&mut stream, &connect(number, "127.0.0.1", echo.port()));
        write_apart(&mut stream, &data(number, &[b'x'; 64]));
        link.expect_data(number, &[b'x'; 64]);
    });
}
