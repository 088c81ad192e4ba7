//! Ten thousand handshakes that stop half-way, at a relay that may have 1,024 descriptors.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tcpremote::device::{EventKind, State};
use tcpremote::tls::Key;

use super::Neighbour;
use super::peer::{client, connect_from, hello};
use super::relay::{Place, SecureRelay, new_key};
use crate::common::service::Service;
use crate::common::usage::Usage;
use crate::common::{DEADLINE, eventually};

/// Connections that are opened one after the other and left open until those of the next wave are. Two of them are more
/// than the relay has places for.
const WAVE: usize = 300;
/// What the relay's memory may be larger by, after all of them, than after the first: a KiB for each would be more.
const GROWTH_KIB: usize = 8 * 1024;
/// An echo that waits for a flood's end takes longer.
const LONGEST_ECHO: Duration = Duration::from_secs(10);

/// Where they come from: each from an address of its own, but for every fourth, which are of four addresses together.
fn source(number: usize) -> Ipv4Addr {
    if number.is_multiple_of(4) {
        return Ipv4Addr::new(127, 1, 1, 1 + (number / 4 % 4) as u8);
    }
    let [_, _, high, low] = (number as u32).to_be_bytes();
    Ipv4Addr::new(127, 2, high, low)
}

/// Goes as far as its number says, and stays there.
fn stop_half_way(number: usize, port: SocketAddr, key: &Key, hello: &[u8]) -> TcpStream {
    let mut tcp = connect_from(source(number), port);
    // The relay may have dropped it already.
    let mut send = |bytes: &[u8]| drop(tcp.write_all(bytes));
    match number % 8 {
        0 => {}
        1 => send(&hello[..1]),
        2 | 3 => send(&hello[..number % hello.len()]),
        4 => send(&hello[..hello.len() - 1]),
        5 => send(hello),
        6 => {
            send(hello);
            let _ = tcp.read(&mut [0; 100]);
        }
        _ => {
            let mut tls = client(key);
            let mut finished = Vec::new();
            let read = |tls: &mut rustls::ClientConnection, tcp: &mut TcpStream| {
                let read = tls.read_tls(tcp).is_ok_and(|count| count > 0);
                read && tls.process_new_packets().is_ok()
            };
            let _ = tls.write_tls(&mut tcp);
            while tls.is_handshaking() && read(&mut tls, &mut tcp) {}
            let _ = tls.write_tls(&mut finished);
            // All of it, half of it, and nothing more in any case.
            let count = finished.len() / (1 + number / 8 % 2);
            let _ = tcp.write_all(&finished[..count]);
        }
    }
    tcp
}

/// So many of them beside an echo, and beside a device that joins.
fn flood(all: usize) {
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        // For those that are open here at once.
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    }
    let place = Place::new(&[Neighbour::NAME, "newcomer"], "info");
    let relay = SecureRelay::start_at(place, 1, "ulimit -n 1024");
    let mut neighbour = Neighbour::of(&relay);
    let (port, key, process) = (relay.port(), new_key(), relay.relay.process());
    let (newcomer, token, echo) = (new_key(), relay.token("newcomer"), Service::echo());
    let (quiet, began) = (Usage::of(process), Instant::now());

    let flood = {
        let (hello, key) = (hello(&key), Arc::clone(&key));
        thread::spawn(move || {
            let (mut held, mut first) = (VecDeque::new(), None);
            for begin in (0..all).step_by(WAVE) {
                let wave = begin..all.min(begin + WAVE);
                held.push_back(wave.map(|number| stop_half_way(number, port, &key, &hello)).collect::<Vec<_>>());
                if held.len() > 2 {
                    first.get_or_insert_with(|| Usage::of(process));
                    held.pop_front();
                }
            }
            first.expect("three waves")
        })
    };
    let mut joined = None;
    let longest = neighbour.echo_until("the end of the flood", || {
        let device = joined.get_or_insert_with(|| relay.device(&newcomer, Some(token.clone()), echo.address()));
        flood.is_finished() && device.status().state == State::Listening
    });
    assert!(longest < LONGEST_ECHO, "an echo took {longest:?}");
    let first = flood.join().expect("no panic");
    joined.expect("a device").wait_for(EventKind::Listening);
    neighbour.assert_untouched();

    // Of the newcomer: one, and its port.
    eventually("all descriptors are given back", DEADLINE, || Usage::of(process).descriptors <= quiet.descriptors + 2);
    let last = Usage::of(process);
    assert!(last.kib <= first.kib + GROWTH_KIB, "{quiet:?}, then {first:?}, and {last:?} at last");
    let lines = relay.relay.log();
    let seconds = began.elapsed().as_secs() as usize;
    assert!(lines.len() < 60 + 2 * seconds, "{} lines in {seconds} s: {lines:#?}", lines.len());
    assert!(lines.iter().any(|line| line.contains("too many others are in their handshakes")), "{lines:#?}");
    assert!(relay.done(&["devices"]).contains("\nnewcomer"));
}

#[test]
fn handshakes_that_stop_half_way_harm_neither_a_client_nor_a_device_that_joins_nor_the_relay() {
    flood(1500);
}

/// cargo test --test version2 half_way -- --ignored
#[test]
#[ignore = "it takes its time: make soak"]
fn ten_thousand_handshakes_that_stop_half_way_do_neither() {
    flood(10_000);
}
