//! What both ends of a link are built on: no sockets, no threads, no clock.
//!
//! A [`Connection`] is one end of one link. Its driver (or a simulator) feeds it bytes and time and carries out
//! what it asks for. The grammar, from the driver's side:
//!
//! 1. Bytes from the link: [`receive`](Connection::receive) until it gives `None`, while
//!    [`wants_input`](Connection::wants_input); each [`Delivery`] is written to its stream's socket, alone or with those
//!    that [`goes_on`](Connection::goes_on) announces, and [`delivered`](Connection::delivered) is called for each in
//!    order, with how much the socket took.
//! 2. A stream's socket is writable: [`pending`](Connection::pending), write, [`advance`](Connection::advance).
//! 3. A stream's socket is readable: [`reserve`](Connection::reserve), read into the room, then
//!    [`commit`](Connection::commit), [`handle_end`](Connection::handle_end) or
//!    [`handle_failure`](Connection::handle_failure). A stream for which there is no room now is tried again when
//!    [`poll_unblocked`](Connection::poll_unblocked) names it, or when the link has been written.
//! 4. The link is writable: [`unsent`](Connection::unsent), write, [`advance_link`](Connection::advance_link), and
//!    [`note_link_full`](Connection::note_link_full) if its socket took less than it was given.
//! 5. After any of these: [`poll_output`](Connection::poll_output) until it gives `None`, then
//!    [`poll_timeout`](Connection::poll_timeout); when that time has come, [`handle_timeout`](Connection::handle_timeout).

mod bucket;
mod byte_queue;
pub mod device;
pub mod negotiation;
#[cfg(feature = "relay")]
pub mod relay;
mod send_queue;
mod slab;
mod timers;
mod v1;
#[cfg_attr(not(feature = "relay"), expect(dead_code, reason = "a device uses its half"))]
mod v2;

use std::io::IoSliceMut;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub(crate) use bucket::Bucket;
pub(crate) use byte_queue::ByteQueue;
pub(crate) use send_queue::{FRAMES_A_READ, SendQueue};
pub(crate) use slab::Slab;
pub(crate) use timers::Timers;
pub(crate) use v2::Mux;
pub use v2::{Role, WindowPool};

use crate::address::Address;
use crate::identity::Name;
use crate::protocol::v2::{Close, Code, GoAway};
use crate::protocol::{MAX_FRAME, Malformed, ProtocolError};

/// Resolving and connecting to a service, over every address of its name.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Names one stream of a link inside this process: a slot, and how often the slot was used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamKey {
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

/// Bytes that arrived on the link for a stream whose socket waits for nothing else.
#[derive(Debug, PartialEq, Eq)]
pub struct Delivery<'a> {
    /// Whose bytes they are.
    pub stream: StreamKey,
    /// The bytes, never empty, borrowed from the input.
    pub bytes: &'a [u8],
}

/// Room for the payloads of frames that follow each other. Those behind the first are empty where there is room for no
/// more, or no leave.
pub type Payloads<'a> = [IoSliceMut<'a>; FRAMES_A_READ];

/// What a stream's socket may be read into.
#[derive(Debug)]
pub enum Room<'a> {
    /// Read into this; the first is never empty.
    Free(Payloads<'a>),
    /// The link has to be written first: try again after [`Connection::advance_link`].
    Full,
    /// The peer takes no more of this stream for now: try again when [`Connection::poll_unblocked`] names it.
    Blocked,
    /// The link has enough on its way: try again when [`Connection::poll_unblocked`] names the stream, which it will.
    Paced,
    /// This stream is not to be read, now or any more; an output tells when that changes.
    Unwanted,
}

/// Where a stream leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// What is at an address, as seen from the device.
    Address(Arc<Address>),
    /// A service that the device offers by this name; version 2.
    Service(Name),
}

impl From<Address> for Destination {
    fn from(address: Address) -> Self {
        Self::Address(Arc::new(address))
    }
}

/// What the owner of a connection is to do, or to know. A device's are marked so, and a relay's.
#[derive(Debug, PartialEq, Eq)]
pub enum Output {
    /// A relay's, in TLS: the device has said who it is. Its owner [admits](relay::Relay::admit) it, or says GOAWAY.
    Presented,
    /// A relay's: LISTEN is here, and the device may be served. Open the client ports.
    Listening,
    /// Both ends speak this version from here on; a relay may [open](relay::Relay::open) streams.
    Version(u8),
    /// The peer's software, and its version, by its own account; version 2. On a link in TLS a relay's says that it has
    /// admitted the device.
    Introduced(String),
    /// A device's: connect to a service, then [`device::Device::handle_connected`] or [`Connection::handle_failure`].
    Connect {
        /// The stream that the connection is for.
        stream: StreamKey,
        /// The client's number on the link.
        client: u32,
        /// Where to.
        service: Destination,
        /// The client's own address, where the relay passes it on.
        from: Option<SocketAddr>,
    },
    /// A device's: the relay sent a CONNECT that cannot be read; it was answered with CLOSE.
    Malformed {
        /// The client's number.
        client: u32,
        /// What is wrong.
        reason: Malformed,
    },
    /// A device's, in version 1: DATA came without CONNECT; it was dropped and answered with CLOSE.
    EarlyDropped {
        /// The client's number.
        client: u32,
    },
    /// A relay's: the client has its number, and CONNECT is queued. Its socket may be read.
    Opened {
        /// The stream.
        stream: StreamKey,
        /// Its number.
        client: u32,
    },
    /// A relay's, in version 2: the client's service is connected.
    Connected {
        /// The stream.
        stream: StreamKey,
    },
    /// The peer sends no more, and everything is delivered: end the sending side of the stream's socket.
    ShutdownWrite {
        /// The stream.
        stream: StreamKey,
    },
    /// Everything is delivered: end the stream's socket with FIN. The key is void.
    Finish {
        /// The stream.
        stream: StreamKey,
    },
    /// Something could not be delivered: end the stream's socket with RST. The key is void.
    Reset {
        /// The stream.
        stream: StreamKey,
        /// Why.
        reason: Reset,
    },
    /// The stream's socket failed, as [`Connection::handle_failure`] was called for. The key is void.
    Gone {
        /// The stream.
        stream: StreamKey,
    },
    /// The peer wants no new streams on this link.
    GoAway(GoAway),
}

/// Why a stream's socket is to be reset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reset {
    /// There was no place for it on the link in time.
    NoPlace,
    /// The peer takes no new streams on this link.
    PeerLeaves,
    /// No connection to the service within 10 s.
    ConnectTimeout,
    /// It took too little while its full queue kept the link of version 1 unread.
    TooSlow,
    /// It took nothing of its last bytes for too long.
    Stalled,
    /// The relay of 2012 took the client's number for another client.
    Replaced,
    /// The link is gone.
    LinkLost,
    /// A relay's: it took too little while all sockets together took too little.
    Crowded,
    /// A relay's: the device was silent for too long after CONNECT, though the link may still be there.
    Unanswered,
    /// This end is about to end.
    Shutdown,
    /// The peer ended it, and said why.
    Closed(Close),
}

/// The version 1 rule for a receiver that has no way to slow down one sender alone, the same on both sides.
///
/// At most `queue` bytes wait for one socket (and one read of the link more). Past it the link is not read, so
/// that every stream waits, and a stream whose full queue has kept the link unread for `stall` in total, while its
/// socket took less than an eighth of the queue, is reset. Beside a stream that is held up it must take four times the
/// queue: one for whose socket nothing waits, and that has got something, or asked for it, meanwhile or, without an
/// answer, within one `stall` before.
#[derive(Clone, Copy, Debug)]
pub struct QueueRule {
    /// Bytes; 1 MiB by default.
    pub queue: usize,
    /// 30 s by default.
    pub stall: Duration,
}

impl QueueRule {
    /// What every link has unless a test wants it smaller.
    pub const DEFAULT: Self = Self { queue: 1024 * 1024, stall: Duration::from_secs(30) };

    /// Bytes that a stream with a full queue must take within `stall`, and the most that one read of the link brings: what
    /// a read adds to a queue that was not full is gone again within one `stall`.
    pub(crate) fn progress(self) -> usize {
        (self.queue / 8).max(1)
    }

    /// The same beside streams that are held up. By default it is about what the kernels of both ends keep of a link that
    /// is not read, so that no stream waits behind that for much longer than `stall`.
    pub(crate) fn progress_beside_others(self) -> usize {
        self.queue.saturating_mul(4)
    }
}

/// A version of the protocol: the newest that an end may speak, or the oldest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// As the programs of 2012.
    V1,
    /// With credit, half-close and reasons, where the peer knows it too.
    #[default]
    V2,
}

/// What one end of a link takes, how much it keeps, and how often it asks for its peer.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// What version 1 does with a slow reader; its `stall` is also how long a stream that is over may take nothing.
    pub rule: QueueRule,
    /// Version 2: bytes that a stream may send before it is given credit; at least 16 KiB, 32 KiB by default.
    pub window: u32,
    /// Version 2: streams at once; at least 16, 256 by default.
    pub streams: u32,
    /// Streams that may be opened in a second, and at once; 10,000 by default.
    pub open_rate: u32,
    /// Bytes that all streams of a link may have waiting, in version 2 in flight or waiting; there at least `window` for
    /// each. Links that are not in use any more may hold as much, together.
    pub budget: u64,
    /// Version 2: the longest silence after which the peer of a link without streams is asked; 90 s by default. The smaller
    /// one of both ends holds, within [`MIN_KEEPALIVE`](Self::MIN_KEEPALIVE) and [`MAX_KEEPALIVE`](Self::MAX_KEEPALIVE).
    pub keepalive: Duration,
}

impl Limits {
    /// A device's: 16 MiB.
    pub const DEVICE: Self = Self {
        rule: QueueRule::DEFAULT,
        window: 32 * 1024,
        streams: 256,
        open_rate: 10_000,
        budget: 16 * 1024 * 1024,
        keepalive: Duration::from_secs(90),
    };
    /// A relay's, for each link: 32 MiB.
    pub const RELAY: Self = Self { budget: 32 * 1024 * 1024, ..Self::DEVICE };
    /// The shortest `keepalive`, whatever a peer wishes: what it costs to ask thousands of idle links is bounded.
    pub const MIN_KEEPALIVE: Duration = Duration::from_secs(5);
    /// The longest `keepalive`.
    pub const MAX_KEEPALIVE: Duration = Duration::from_secs(3600);
}

/// What was moved over a link since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Streams that are open on the link now.
    pub open: u64,
    /// Streams that were ever opened.
    pub opened: u64,
    /// Payload bytes put on the link.
    pub sent: u64,
    /// Payload bytes that arrived for a stream.
    pub received: u64,
    /// Frames that were skipped: unknown commands, empty DATA, frames for a client that is not open.
    pub ignored: u64,
    /// The smoothed time that a PING takes there and back; version 2, once measured.
    pub round_trip: Option<Duration>,
}

/// How much of a room of so many bytes is to be read so that the read ends with a frame, when the one that is being read
/// has `left` bytes to come and the next ones are as large as a bulk sender makes them.
pub(crate) fn whole_frames(room: usize, left: usize) -> usize {
    let frame = if room > MAX_FRAME { MAX_FRAME } else { MAX_FRAME / 4 };
    if left == 0 || left >= room { room } else { left + (room - left) / frame * frame }
}

/// One end of one link. See the [module](self) for the order of calls.
pub trait Connection {
    /// Takes bytes that the link brought; `input` is advanced past what was taken.
    ///
    /// # Errors
    /// The peer broke the protocol: the link is to be closed, and [`handle_link_lost`](Self::handle_link_lost) called.
    fn receive<'a>(&mut self, now: Instant, input: &mut &'a [u8]) -> Result<Option<Delivery<'a>>, ProtocolError>;

    /// Whether [`receive`](Self::receive) would give more of the stream's bytes next, and nothing lies between: then what
    /// it gave before may be written together with them, and [`delivered`](Self::delivered) called afterwards. Nothing that
    /// ends the stream can come before that.
    fn goes_on(&self, stream: StreamKey, input: &[u8]) -> bool;

    /// The stream's socket took `taken` of the `bytes` of a [`Delivery`]; the rest is kept for it.
    fn delivered(&mut self, now: Instant, stream: StreamKey, bytes: &[u8], taken: usize);

    /// How much the next read of the link is to bring at most, where there is room for so much (at least 1): it ends with
    /// a frame, and leaves no crumbs for a write of their own.
    fn read_size(&self, room: usize) -> usize;

    /// Whether the link may be read.
    fn wants_input(&self) -> bool;

    /// What waits for the stream's socket.
    fn pending(&self, stream: StreamKey) -> &[u8];

    /// The stream's socket took `count` bytes of [`pending`](Self::pending).
    fn advance(&mut self, now: Instant, stream: StreamKey, count: usize);

    /// Whether the stream's socket may be read, now or when its turn on the link comes.
    fn may_read(&self, stream: StreamKey) -> bool;

    /// Where the stream's socket is to be read into, if only its first part; `contended` if other streams wait to be read.
    fn reserve(&mut self, stream: StreamKey, contended: bool) -> Room<'_>;

    /// The stream's socket was read: the first `count` (at least 1) bytes of the room go out as DATA.
    fn commit(&mut self, now: Instant, stream: StreamKey, count: usize);

    /// The stream's socket is at its end: its peer sends no more.
    fn handle_end(&mut self, now: Instant, stream: StreamKey);

    /// The stream's socket failed; the driver has closed it, or will. The key is void from here on. Version 2 sends
    /// the peer the code and the reason.
    fn handle_failure(&mut self, now: Instant, stream: StreamKey, code: Code, reason: &str);

    /// How much the kernel is to hold of what was written to the link before it is on its way; `None` if the connection
    /// does not mind.
    fn link_low_water(&self) -> Option<u32> {
        None
    }

    /// After how long a silence the kernel is to ask for the peer, once both ends have said how often they do so
    /// themselves; `None` where they have not.
    fn link_keepalive(&self) -> Option<Duration> {
        None
    }

    /// When [`handle_pacing`](Self::handle_pacing) is due. To be late costs speed, and says nothing of the peer.
    fn poll_pacing(&self) -> Option<Instant> {
        None
    }

    /// Time has passed, and more may be put on the link: [`poll_unblocked`](Self::poll_unblocked) names the streams.
    fn handle_pacing(&mut self, _now: Instant) {}

    /// A stream that was [`Room::Blocked`] or [`Room::Paced`] and may be read again.
    fn poll_unblocked(&mut self) -> Option<StreamKey>;

    /// Whether there is something to write to the link.
    fn has_unsent(&self) -> bool;

    /// Whether the peer of a link that is being cut is to have what is unsent: an end may be announced, but a link that
    /// ends before its peer has seen LISTEN must not begin.
    fn has_last_word(&self) -> bool {
        self.has_unsent()
    }

    /// What is to be written to the link next.
    fn unsent(&mut self) -> &[u8];

    /// The link took `count` bytes of [`unsent`](Self::unsent).
    fn advance_link(&mut self, now: Instant, count: usize);

    /// The link's socket did not take all that it was given.
    fn note_link_full(&mut self);

    /// So many KiB came that carried nothing, such as empty records of TLS: each is as a frame of no use.
    ///
    /// # Errors
    /// They are too many: as in [`receive`](Self::receive).
    fn handle_fruitless(&mut self, now: Instant, count: usize) -> Result<(), ProtocolError>;

    /// No new streams from here on; the peer is sent GOAWAY, in version 2. Open streams go on.
    fn go_away(&mut self, now: Instant, code: Code, retry_after: u16, reason: &str);

    /// This end is about to end: every stream is closed behind what was read of it, and what is left for its socket
    /// is delivered.
    fn close(&mut self, now: Instant);

    /// The link is gone, for whatever reason.
    fn handle_link_lost(&mut self, now: Instant);

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    fn poll_timeout(&self) -> Option<Instant>;

    /// The time has come.
    ///
    /// # Errors
    /// The peer did not do in time what it must: as in [`receive`](Self::receive).
    fn handle_timeout(&mut self, now: Instant) -> Result<(), ProtocolError>;

    /// The next thing to carry out.
    fn poll_output(&mut self) -> Option<Output>;

    /// What was moved so far.
    fn counters(&self) -> Counters;

    /// Streams that exist here, be they on the link or only delivering what is left.
    fn streams(&self) -> usize;

    /// Bytes that wait here, for the sockets of streams or for the link.
    fn held(&self) -> u64;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_ends_with_the_last_frame_that_it_has_room_for() {
        let frame = MAX_FRAME;
        assert_eq!(whole_frames(2 * frame, 0), 2 * frame);
        assert_eq!(whole_frames(2 * frame, 16), 16 + frame);
        assert_eq!(whole_frames(2 * frame, frame), 2 * frame);
        assert_eq!(whole_frames(2 * frame, frame + 1), frame + 1);
        assert_eq!(whole_frames(frame / 2, 16), 16 + frame / 4);
        assert_eq!(whole_frames(frame / 2, frame), frame / 2);
    }
}
