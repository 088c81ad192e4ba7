//! Floods on a link in TLS, of a device that is admitted and of one that is not: the link ends with a reason in the log,
//! and another device's client notices nothing.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::Instant;

use super::peer::{ALERT, CHANGE_CIPHER_SPEC, DATA, Forger, HANDSHAKE, TlsPeer};
use super::relay::{Place, SecureRelay, new_key};
use super::{Neighbour, lines_about};
use crate::common::{DEADLINE, eventually, wire_v2};

/// `user_canceled`, as a warning.
const WARNING: [u8; 2] = [1, 90];
/// SETTINGS that go on for long, where a byte comes at a time.
const LONG_FRAME: [u8; 8] = [0x0f, 0xff, wire_v2::SETTINGS, 0, 0, 0, 0, 0];
const FLOODER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// What is sent again and again.
#[derive(Clone, Copy, Debug)]
enum Flood {
    /// Records without a byte.
    Empty,
    /// A row of them that is allowed, and then a byte of a frame.
    EmptyBetweenBytes,
    /// A byte, and padding.
    Padding,
    Alerts,
    ChangesOfCiphers,
    /// A handshake message that never ends.
    Message,
    /// What nobody can open.
    Garbage,
    KeyUpdates,
    /// A row of them that is allowed, and then a byte of a frame.
    KeyUpdatesBetweenBytes,
}

impl Flood {
    const ALL: [Self; 9] = [
        Self::Empty,
        Self::EmptyBetweenBytes,
        Self::Padding,
        Self::Alerts,
        Self::ChangesOfCiphers,
        Self::Message,
        Self::Garbage,
        Self::KeyUpdates,
        Self::KeyUpdatesBetweenBytes,
    ];

    /// The next bytes of it; `at` counts them.
    fn next(self, forger: &mut Forger, at: usize) -> Vec<u8> {
        let byte = *LONG_FRAME.get(at).unwrap_or(&0);
        match self {
            Self::Empty => forger.record(DATA, b""),
            Self::EmptyBetweenBytes => {
                let row: Vec<u8> = (0..30).flat_map(|_| forger.record(DATA, b"")).collect();
                [row, forger.record(DATA, &[byte])].concat()
            }
            // Zeros behind the kind of a record are no part of it.
            Self::Padding => forger.record(0, &[&[byte, DATA][..], &[0; 16_000]].concat()),
            Self::Alerts => forger.record(ALERT, &WARNING),
            Self::ChangesOfCiphers => vec![CHANGE_CIPHER_SPEC, 3, 3, 0, 1, 1],
            Self::Message => {
                let start: &[u8] = if at == 0 { &[4, 0, 0xff, 0xff] } else { &[] };
                forger.record(HANDSHAKE, &[start, &[0; 50]].concat())
            }
            Self::Garbage => [&[DATA, 3, 3, 0, 40][..], &[7; 40]].concat(),
            Self::KeyUpdates | Self::KeyUpdatesBetweenBytes => unreachable!("rustls makes them"),
        }
    }
}

/// Sends, with the number of each time, until the relay has ended the link; where it came from.
fn send_until_ended(tcp: &TcpStream, mut send: impl FnMut(usize) -> io::Result<()>) -> SocketAddr {
    let (mut reader, ended) = (tcp.try_clone().unwrap(), Arc::<AtomicBool>::default());
    let is_ended = Arc::clone(&ended);
    thread::spawn(move || {
        let end = reader.read_to_end(&mut Vec::new());
        let in_time = !end.is_err_and(|error| matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut));
        ended.store(in_time, Relaxed);
    });
    let mut at = 0;
    while !is_ended.load(Relaxed)
        && let Ok(()) = send(at)
    {
        at += 1;
    }
    tcp.local_addr().unwrap()
}

/// Floods until the relay ends the link; where it came from.
fn flood(flood: Flood, peer: TlsPeer) -> SocketAddr {
    if let Flood::KeyUpdates | Flood::KeyUpdatesBetweenBytes = flood {
        return change_keys(peer, matches!(flood, Flood::KeyUpdatesBetweenBytes));
    }
    let mut forger = peer.forge();
    let tcp = forger.tcp.try_clone().unwrap();
    send_until_ended(&tcp, |at| {
        let bytes = flood.next(&mut forger, at);
        forger.tcp.write_all(&bytes)
    })
}

/// Changes its keys, and between rows of that sends a byte of a frame or nothing, until the relay ends the link.
fn change_keys(mut peer: TlsPeer, with_bytes: bool) -> SocketAddr {
    let tcp = peer.tcp.try_clone().unwrap();
    send_until_ended(&tcp, |at| {
        if with_bytes {
            peer.tls.writer().write_all(&[*LONG_FRAME.get(at).unwrap_or(&0)])?;
        }
        for _ in 0..25 {
            peer.tls.refresh_traffic_keys().map_err(io::Error::other)?;
            peer.tls.write_tls(&mut peer.tcp)?;
        }
        Ok(())
    })
}

fn expect_each_flood_to_end(relay: &SecureRelay, mut neighbour: Neighbour, peer: impl Fn() -> TlsPeer + Sync) {
    for kind in Flood::ALL {
        let (what, peer) = (format!("{kind:?}"), peer());
        let running = thread::spawn(move || flood(kind, peer));
        neighbour.echo_until(&what, || running.is_finished());
        let address = running.join().expect("the flood is ended");
        eventually(&format!("a reason for the end of {what}: {:?}", lines_about(relay, address)), DEADLINE, || {
            lines_about(relay, address).iter().any(|line| line.contains("WARN") && line.contains("reason="))
        });
    }
    neighbour.assert_untouched();
}

#[test]
fn each_flood_of_a_device_that_is_admitted_ends_its_link_with_a_reason_and_harms_no_other() {
    let relay = SecureRelay::start(&[Neighbour::NAME]);
    let (neighbour, key) = (Neighbour::of(&relay), relay.add("flooder"));
    expect_each_flood_to_end(&relay, neighbour, || TlsPeer::admitted(FLOODER, relay.port(), &key));
}

#[test]
fn each_flood_of_one_that_nobody_knows_does_so_too() {
    let relay = SecureRelay::start(&[Neighbour::NAME]);
    let neighbour = Neighbour::of(&relay);
    expect_each_flood_to_end(&relay, neighbour, || TlsPeer::connect(FLOODER, relay.port(), &new_key()));
}

#[test]
fn links_that_are_ended_for_their_floods_again_and_again_do_not_fill_the_log() {
    let relay = SecureRelay::start_at(Place::new(&[Neighbour::NAME], "info"), 1, "true");
    let (mut neighbour, port, began) = (Neighbour::of(&relay), relay.port(), Instant::now());
    let again = move || {
        let key = new_key();
        for _ in 0..60 {
            flood(Flood::Garbage, TlsPeer::connect(FLOODER, port, &key));
        }
    };
    let running = thread::spawn(again);
    neighbour.echo_until("all of them", || running.is_finished());
    running.join().expect("no panic");
    neighbour.assert_untouched();
    let is_dropped = |line: &&String| line.contains("dropped a connection on the device port");
    let lines = relay.relay.log().iter().filter(is_dropped).count();
    // 20 at once, and one a second.
    let most = 22 + began.elapsed().as_secs() as usize;
    assert!((1..=most).contains(&lines), "{lines} lines, and {most} at most");
}

#[test]
fn a_byte_of_a_frame_now_and_then_is_life_and_costs_nobody_anything() {
    let relay = SecureRelay::start(&[Neighbour::NAME]);
    let (mut neighbour, key) = (Neighbour::of(&relay), relay.add("slow"));
    let mut slow = TlsPeer::admitted(FLOODER, relay.port(), &key);
    // A PING, whose answer comes though each byte has a record of its own.
    let ping = wire_v2::ping(0, *b"8 bytes!");
    for byte in ping {
        slow.send(&[byte]);
        neighbour.echo();
    }
    // The relay asks, too.
    while slow.expect(wire_v2::PING).1 != b"8 bytes!" {}
    neighbour.assert_untouched();
}
