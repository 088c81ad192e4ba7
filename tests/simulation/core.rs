//! The cores under test, and what is watched at their edge.

use std::borrow::{Borrow, BorrowMut};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Instant;

use mio::Token;
use tcpremote::connection::device::Device;
use tcpremote::connection::relay::Relay;
use tcpremote::connection::{Connection, Counters, Delivery, Destination, Output, Room, StreamKey};
use tcpremote::io::Io;
use tcpremote::io::session::Session;
use tcpremote::protocol::ProtocolError;
use tcpremote::protocol::v2::Code;

use crate::random::Random;
use crate::socket::{SimLoop, SimSocket};
use crate::world::{CLIENT, SERVICE};

/// The session under test.
pub(crate) type Tested<C> = Session<Watched<C>, SimLoop>;

/// A core under test.
pub(crate) trait Core: Connection + std::fmt::Debug + Sized {
    const SIDE: usize;
    /// The most streams that may exist here.
    const MOST_STREAMS: usize;
    /// Bytes that may wait for a socket beyond the queue and one read.
    const EXTRA: usize;

    /// A client came for `service`.
    fn open(session: &mut Tested<Self>, now: Instant, service: Destination) -> StreamKey;
    /// The service is connected.
    fn handle_connected(
        session: &mut Tested<Self>,
        now: Instant,
        io: &mut Io<SimLoop>,
        key: StreamKey,
        socket: SimSocket,
        token: Token,
    );
}

impl Core for Relay {
    const SIDE: usize = CLIENT;
    const MOST_STREAMS: usize = 256 + 256 + 512;
    const EXTRA: usize = 0;

    fn open(session: &mut Tested<Self>, now: Instant, service: Destination) -> StreamKey {
        let from = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
        session.open(now, service, from).expect("the version is fixed")
    }

    fn handle_connected(_: &mut Tested<Self>, _: Instant, _: &mut Io<SimLoop>, _: StreamKey, _: SimSocket, _: Token) {
        unreachable!("a relay makes no connection");
    }
}

impl Core for Device {
    const SIDE: usize = SERVICE;
    const MOST_STREAMS: usize = 512;
    const EXTRA: usize = 1024 * 1024;

    fn open(_: &mut Tested<Self>, _: Instant, _: Destination) -> StreamKey {
        unreachable!("clients come to a relay");
    }

    fn handle_connected(
        session: &mut Tested<Self>,
        now: Instant,
        io: &mut Io<SimLoop>,
        key: StreamKey,
        socket: SimSocket,
        token: Token,
    ) {
        session.handle_connected(now, io, key, socket, token);
    }
}

/// What passed between a session and its core.
#[derive(Debug)]
pub(crate) enum Seen {
    /// Bytes that were read from the link.
    Read(Vec<u8>),
    /// Bytes that were queued for it.
    Queued(Vec<u8>),
    /// So many bytes of a stream's socket are to go out.
    Committed(StreamKey, usize),
    /// A stream's socket is at its end.
    Ended(StreamKey),
    /// A stream's socket is not read for want of credit.
    Blocked(StreamKey),
    /// A stream's socket failed, and whether it might have been read.
    Failed(StreamKey, bool),
}

/// A core whose calls are noted, which at times hears that others wait, and says that nothing goes on.
#[derive(Debug)]
pub(crate) struct Watched<C> {
    core: C,
    random: RefCell<Random>,
    /// Whether what passes over the link is noted, too.
    is_link_seen: bool,
    seen: RefCell<Vec<Seen>>,
    /// Streams that were last found to wait for their share of the link.
    paced: BTreeSet<StreamKey>,
    /// How much of what is unsent was noted.
    noted: usize,
}

impl<C: Connection> Watched<C> {
    pub(crate) fn new(core: C, random: Random, is_link_seen: bool) -> Self {
        Self {
            core,
            random: RefCell::new(random),
            is_link_seen,
            seen: RefCell::new(Vec::new()),
            paced: BTreeSet::new(),
            noted: 0,
        }
    }

    /// Whether the stream waits for its share of the link.
    pub(crate) fn is_paced(&self, stream: StreamKey) -> bool {
        self.paced.contains(&stream)
    }

    /// What passed since the last call.
    pub(crate) fn take_seen(&self) -> Vec<Seen> {
        self.seen.take()
    }

    fn note(&self, seen: Seen) {
        self.seen.borrow_mut().push(seen);
    }

    /// Notes what was queued for the link.
    fn note_queued(&mut self) {
        if !self.is_link_seen {
            return;
        }
        let more = &self.core.unsent()[self.noted..];
        if !more.is_empty() {
            self.noted += more.len();
            let more = more.to_vec();
            self.note(Seen::Queued(more));
        }
    }
}

impl Borrow<Device> for Watched<Device> {
    fn borrow(&self) -> &Device {
        &self.core
    }
}

impl BorrowMut<Device> for Watched<Device> {
    fn borrow_mut(&mut self) -> &mut Device {
        &mut self.core
    }
}

impl Borrow<Relay> for Watched<Relay> {
    fn borrow(&self) -> &Relay {
        &self.core
    }
}

impl BorrowMut<Relay> for Watched<Relay> {
    fn borrow_mut(&mut self) -> &mut Relay {
        &mut self.core
    }
}

impl<C: Connection> Connection for Watched<C> {
    fn receive<'a>(&mut self, now: Instant, input: &mut &'a [u8]) -> Result<Option<Delivery<'a>>, ProtocolError> {
        self.note_queued();
        let before = *input;
        let delivery = self.core.receive(now, input)?;
        match &delivery {
            Some(delivery) => assert!(!delivery.bytes.is_empty(), "a delivery has bytes"),
            None => assert!(input.is_empty(), "all input is taken"),
        }
        if self.is_link_seen && input.len() < before.len() {
            self.note(Seen::Read(before[..before.len() - input.len()].to_vec()));
        }
        self.note_queued();
        Ok(delivery)
    }

    fn goes_on(&self, stream: StreamKey, input: &[u8]) -> bool {
        self.core.goes_on(stream, input) && self.random.borrow_mut().chance(90)
    }

    fn delivered(&mut self, now: Instant, stream: StreamKey, bytes: &[u8], taken: usize) {
        self.core.delivered(now, stream, bytes, taken);
        self.note_queued();
    }

    fn read_size(&self, room: usize) -> usize {
        self.core.read_size(room)
    }

    fn wants_input(&self) -> bool {
        self.core.wants_input()
    }

    fn pending(&self, stream: StreamKey) -> &[u8] {
        self.core.pending(stream)
    }

    fn advance(&mut self, now: Instant, stream: StreamKey, count: usize) {
        self.core.advance(now, stream, count);
        self.note_queued();
    }

    fn may_read(&self, stream: StreamKey) -> bool {
        self.core.may_read(stream)
    }

    fn reserve(&mut self, stream: StreamKey, contended: bool) -> Room<'_> {
        let contended = contended || self.random.get_mut().chance(30);
        let room = self.core.reserve(stream, contended);
        match &room {
            Room::Paced => self.paced.insert(stream),
            Room::Free(_) | Room::Full | Room::Blocked | Room::Unwanted => self.paced.remove(&stream),
        };
        match &room {
            Room::Free(room) => {
                let is_frame = |size: usize| size <= usize::from(u16::MAX);
                let fits = room.iter().all(|payload| is_frame(payload.len()));
                assert!(!room[0].is_empty() && fits, "a frame's worth of room each");
            }
            Room::Blocked => self.seen.borrow_mut().push(Seen::Blocked(stream)),
            Room::Full | Room::Paced | Room::Unwanted => {}
        }
        room
    }

    fn commit(&mut self, now: Instant, stream: StreamKey, count: usize) {
        self.core.commit(now, stream, count);
        self.note(Seen::Committed(stream, count));
        self.note_queued();
    }

    fn handle_end(&mut self, now: Instant, stream: StreamKey) {
        self.note(Seen::Ended(stream));
        self.core.handle_end(now, stream);
        self.note_queued();
    }

    fn handle_failure(&mut self, now: Instant, stream: StreamKey, code: Code, reason: &str) {
        let is_wanted = self.core.may_read(stream);
        self.note(Seen::Failed(stream, is_wanted));
        self.core.handle_failure(now, stream, code, reason);
        self.note_queued();
    }

    fn link_low_water(&self) -> Option<u32> {
        self.core.link_low_water()
    }

    fn poll_pacing(&self) -> Option<Instant> {
        self.core.poll_pacing()
    }

    fn handle_pacing(&mut self, now: Instant) {
        self.core.handle_pacing(now);
        let next = self.core.poll_pacing();
        assert!(next.is_none_or(|at| at > now), "what was due is done");
    }

    fn poll_unblocked(&mut self) -> Option<StreamKey> {
        self.core.poll_unblocked()
    }

    fn has_unsent(&self) -> bool {
        self.core.has_unsent()
    }

    fn has_last_word(&self) -> bool {
        self.core.has_last_word()
    }

    fn unsent(&mut self) -> &[u8] {
        self.note_queued();
        let unsent = self.core.unsent();
        assert!(unsent.len() <= 384 * 1024, "{} bytes wait for the link", unsent.len());
        unsent
    }

    fn advance_link(&mut self, now: Instant, count: usize) {
        self.core.advance_link(now, count);
        self.noted = self.noted.saturating_sub(count);
        self.note_queued();
    }

    fn note_link_full(&mut self) {
        self.core.note_link_full();
    }

    fn handle_fruitless(&mut self, now: Instant, count: usize) -> Result<(), ProtocolError> {
        self.core.handle_fruitless(now, count)
    }

    fn go_away(&mut self, now: Instant, code: Code, retry_after: u16, reason: &str) {
        self.core.go_away(now, code, retry_after, reason);
    }

    fn close(&mut self, now: Instant) {
        self.core.close(now);
        self.note_queued();
    }

    fn handle_link_lost(&mut self, now: Instant) {
        self.core.handle_link_lost(now);
        self.noted = 0;
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.core.poll_timeout()
    }

    fn handle_timeout(&mut self, now: Instant) -> Result<(), ProtocolError> {
        self.core.handle_timeout(now)?;
        let next = self.core.poll_timeout();
        assert!(next.is_none_or(|at| at > now), "what was due is done");
        self.note_queued();
        Ok(())
    }

    fn poll_output(&mut self) -> Option<Output> {
        self.core.poll_output()
    }

    fn counters(&self) -> Counters {
        self.core.counters()
    }

    fn streams(&self) -> usize {
        self.core.streams()
    }

    fn held(&self) -> u64 {
        self.core.held()
    }
}
