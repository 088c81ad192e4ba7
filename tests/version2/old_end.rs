//! An end of version 2 from before ACK: it says nothing of acknowledgements, and must never be asked for one.

use std::collections::BTreeMap;
use std::thread::{self, JoinHandle};

use crate::common::device::Device;
use crate::common::relay::Relay;
use crate::common::wire_v2::{self as wire, CLOSE, CONNECT, CONNECTED, CREDIT, DATA, FIN, Frame, Link, PING};
use crate::common::{DEADLINE, End, Listener, Peer, pattern};

/// Far more than a window, so that credit has to come and go.
const SIZE: usize = 3 << 19;
const CHUNK: usize = 16 * 1024;
/// The window of `wire::settings`.
const GIVEN: u64 = 1 << 20;

/// A stream as the old end has it.
struct Stream {
    /// What it is to send, how much of it has been, and how much may be.
    bytes: Vec<u8>,
    sent: usize,
    limit: u64,
    read: Vec<u8>,
    granted: u64,
    has_ended: bool,
    is_closed: bool,
}

impl Stream {
    fn sending(bytes: Vec<u8>) -> Self {
        Self {
            bytes,
            sent: 0,
            limit: wire::WINDOW as u64,
            read: Vec::new(),
            granted: GIVEN,
            has_ended: false,
            is_closed: false,
        }
    }

    /// What its credit has room for.
    fn send(&mut self, link: &mut Link, number: u32) {
        let end = self.bytes.len().min(usize::try_from(self.limit).unwrap());
        while self.sent < end {
            let size = CHUNK.min(end - self.sent);
            link.send(&wire::data(number, &self.bytes[self.sent..self.sent + size]));
            self.sent += size;
            if self.sent == self.bytes.len() {
                link.send(&wire::fin(number));
            }
        }
    }

    fn is_over(&self) -> bool {
        self.is_closed || self.has_ended && self.sent == self.bytes.len()
    }
}

/// Sends what each stream has, within its credit, and reads what comes, giving credit by a quarter, until all have ended.
fn exchange(link: &mut Link, streams: &mut BTreeMap<u32, Stream>) {
    loop {
        for (&number, stream) in streams.iter_mut().filter(|(_, stream)| !stream.is_closed) {
            stream.send(link, number);
        }
        if streams.values().all(Stream::is_over) {
            return;
        }
        take(link, streams);
    }
}

/// One frame.
fn take(link: &mut Link, streams: &mut BTreeMap<u32, Stream>) {
    let Frame { kind, flags, stream: number, payload } = link.read_frame();
    match (kind, streams.get_mut(&number)) {
        (PING, _) if flags == 0 => link.send(&wire::ping(wire::ACK, payload.try_into().unwrap())),
        (PING | CONNECTED, _) => {}
        (CREDIT, Some(stream)) => stream.limit = u64::from_be_bytes(payload.try_into().unwrap()),
        (DATA, Some(stream)) => {
            assert!(flags & !FIN == 0, "flags {flags:#x}, which this end does not know");
            stream.read.extend(payload);
            stream.has_ended |= flags & FIN != 0;
            let read = stream.read.len() as u64;
            if stream.granted - read < GIVEN * 3 / 4 {
                stream.granted = read + GIVEN;
                link.send(&wire::credit(number, stream.granted));
            }
        }
        (CLOSE, Some(stream)) => (stream.has_ended, stream.is_closed) = (true, true),
        (kind, _) => panic!("frame {kind}, flags {flags:#x}, stream {number}"),
    }
}

/// Sends and reads at the same time, to the end of both.
fn transfer(peer: Peer, sent: Vec<u8>, expected: Vec<u8>) -> JoinHandle<()> {
    thread::spawn(move || {
        let (mut writer, mut reader) = (peer.try_clone(), peer);
        let writing = thread::spawn(move || {
            writer.try_send_within(&sent, DEADLINE).unwrap();
            writer.finish();
        });
        let (read, end) = reader.read_to_end();
        writing.join().unwrap();
        assert!(read == expected && end == End::Finished, "{} of {SIZE} bytes, and {end:?}", read.len());
    })
}

/// One that ends with RST in the midst.
fn leave(mut peer: Peer) -> JoinHandle<()> {
    thread::spawn(move || {
        peer.read(64 * 1024);
        peer.reset();
    })
}

/// Three of these peers transfer everything with the old end, and the fourth leaves.
fn transfer_with(link: &mut Link, peers: Vec<(u32, Peer)>) {
    let (ours, theirs) = (pattern(SIZE, 1), pattern(SIZE, 2));
    let mut streams: BTreeMap<_, _> =
        peers.iter().map(|&(number, _)| (number, Stream::sending(ours.clone()))).collect();
    let running: Vec<_> = peers
        .into_iter()
        .enumerate()
        .map(|(place, (_, peer))| if place == 3 { leave(peer) } else { transfer(peer, theirs.clone(), ours.clone()) })
        .collect();
    exchange(link, &mut streams);
    for peer in running {
        peer.join().unwrap();
    }
    assert_eq!(streams.values().filter(|stream| stream.read == theirs).count(), 3, "all that they sent");
}

#[test]
fn a_device_that_does_not_acknowledge_moves_all_bytes_both_ways_and_is_never_asked_to() {
    let relay = Relay::start(&["127.0.0.1:7"]);
    let (mut link, entrances) = relay.listen_v2();
    let connect = |link: &mut Link| {
        let client = Peer::connect(entrances[0]);
        let number = link.expect(CONNECT).stream;
        link.send(&wire::connected(number));
        (number, client)
    };
    let clients = (0..4).map(|_| connect(&mut link)).collect();
    transfer_with(&mut link, clients);
}

#[test]
fn a_relay_that_does_not_acknowledge_moves_all_bytes_both_ways_and_is_never_asked_to() {
    let (relay, service) = (Listener::bind(), Listener::bind());
    let _device = Device::start(relay.address());
    let mut link = Link::accept(&relay);
    let connect = |link: &mut Link, number: u32| {
        link.send(&wire::connect(number, service.address()));
        let served = service.accept();
        assert_eq!(link.expect(CONNECTED).stream, number);
        (number, served)
    };
    let services = (1..=4).map(|number| connect(&mut link, number)).collect();
    transfer_with(&mut link, services);
}
