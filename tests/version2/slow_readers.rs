//! A peer that reads slowly, or not at all, does not hold up the others, costs no more than a window, and is not ended.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use socket2::SockRef;

use crate::common::pairing::Pairing;
use crate::common::service::Service;
use crate::common::usage::Usage;
use crate::common::{DEADLINE, End, Listener, Peer, eventually, pattern};

/// What an echo may take. Where one stream holds up the others, as in version 1, it stands still for 30 s.
const PROMPT: Duration = Duration::from_secs(20);

/// Echoes for this time, each of which is prompt.
#[track_caller]
fn echo_for(time: Duration, client: &mut Peer) {
    let began = Instant::now();
    while began.elapsed() < time {
        client.send(b"are you there?");
        client.expect_within(b"are you there?", PROMPT);
    }
}

#[test]
fn a_client_that_stops_reading_does_not_hold_up_the_others_and_may_go_on_later() {
    let bytes = pattern(32 << 20, 1);
    let (source, echo) = (Service::source(bytes.clone()), Service::echo());
    let (relay, device, clients) = Pairing::NEW.start(&[source.address(), echo.address()]);
    let before = Usage::of(relay.process()).kib;
    let mut stuck: Vec<_> = (0..4).map(|_| Peer::connect(clients[0])).collect();
    for client in &mut stuck {
        client.expect(&bytes[..65_536]);
    }
    // Version 2 has no stall rule for open streams, so none is reset.
    let mut other = Peer::connect(clients[1]);
    echo_for(Duration::from_secs(3), &mut other);
    let grown = Usage::of(relay.process()).kib.saturating_sub(before) / 1024;
    assert!(grown < 24, "the relay, with windows of 4 MiB at most, grew by {grown} MiB");
    device.wait_until_status(|status| status.clients, 5);
    for client in &mut stuck {
        let (rest, end) = client.read_to_end();
        assert!(rest == bytes[65_536..], "{} of {} bytes", rest.len() + 65_536, bytes.len());
        assert_eq!(end, End::Finished);
    }
}

/// Bytes that the kernel holds to be sent from one address of this machine to another, as /proc/net/tcp shows.
#[cfg(target_os = "linux")]
fn queued(from: SocketAddr, to: SocketAddr) -> u64 {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let ends = [from, to].map(|end| format!("0100007F:{:04X}", end.port()));
    let mut rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let row = rows.find(|row| row[1..3] == ends);
    row.map_or(0, |row| u64::from_str_radix(&row[4][..8], 16).unwrap())
}

#[test]
#[cfg(target_os = "linux")]
fn bytes_that_a_client_does_not_read_do_not_fill_the_kernel() {
    let bytes = pattern(64 << 20, 4);
    for pairing in [Pairing::OLD, Pairing::NEW] {
        let source = Service::source(bytes.clone());
        let (_relay, _device, clients) = pairing.start(&[source.address()]);
        let stuck = Peer::connect(clients[0]);
        let queued = || queued(clients[0], stuck.local_addr());
        eventually("bytes wait in the relay's kernel", DEADLINE, || queued() > 128 * 1024);
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(2) {
            assert!(queued() <= 768 * 1024, "{} bytes wait in the relay's kernel", queued());
        }
    }
}

#[test]
fn a_service_that_stops_reading_does_not_hold_up_the_others_and_may_go_on_later() {
    let (service, echo) = (Listener::bind(), Service::echo());
    let (relay, _device, clients) = Pairing::NEW.start(&[service.address(), echo.address()]);
    let bytes = pattern(32 << 20, 2);
    let mut client = Peer::connect(clients[0]);
    let mut served = service.accept();
    let sent = bytes.clone();
    let sending = thread::spawn(move || {
        client.send(&sent);
        client.finish();
        client
    });
    served.expect(&bytes[..65_536]);
    echo_for(Duration::from_secs(3), &mut Peer::connect(clients[1]));
    assert!(!relay.log().iter().any(|line| line.contains("for too long")));
    let (rest, end) = served.read_to_end();
    assert!(rest == bytes[65_536..], "{} of {} bytes", rest.len() + 65_536, bytes.len());
    assert_eq!(end, End::Finished);
    sending.join().unwrap();
}

#[test]
fn a_client_that_resets_while_its_upload_waits_for_credit_is_gone_at_once() {
    let service = Listener::bind();
    let (_relay, device, clients) = Pairing::NEW.start(&[service.address()]);
    let mut client = TcpStream::connect(clients[0]).unwrap();
    let _served = service.accept();
    client.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    while client.write(&[b'x'; 65_536]).is_ok() {}
    device.wait_until_status(|status| status.clients, 1);
    SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
    drop(client);
    device.wait_until_idle(DEADLINE);
}

#[test]
fn as_many_clients_as_a_link_has_may_stop_reading_within_the_budget() {
    let endless = Service::start(|mut peer| while peer.try_send(&[b'x'; 65_536]).is_ok() {});
    let echo = Service::echo();
    let (relay, device, clients) = Pairing::NEW.start(&[endless.address(), echo.address()]);
    let mut other = Peer::connect(clients[1]);
    let before = Usage::of(relay.process()).kib;
    // A sixteenth of the places is kept for the other of two ports.
    let mut stuck: Vec<_> = (0..240).map(|_| Peer::connect(clients[0])).collect();
    for client in &mut stuck {
        client.read_within(1024, DEADLINE * 2);
    }
    echo_for(Duration::from_secs(2), &mut other);
    device.wait_until_status(|status| status.clients, 241);
    let grown = Usage::of(relay.process()).kib.saturating_sub(before) / 1024;
    assert!(grown < 48, "the relay, with a budget of 32 MiB, grew by {grown} MiB");
}
