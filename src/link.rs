//! What both ends of a link are built on: no sockets, no threads, no clock.
//!
//! An [`Endpoint`] is one end of one link. Its shell (or a simulator) feeds it bytes and time and carries out
//! what it asks for. The grammar, from the shell's side:
//!
//! 1. Bytes from the link: [`receive`](Endpoint::receive) until it gives `None`, while
//!    [`wants_input`](Endpoint::wants_input); each [`Delivery`] is written to its stream's socket, and what the
//!    socket does not take goes back with [`keep`](Endpoint::keep).
//! 2. A stream's socket is writable: [`pending`](Endpoint::pending), write, [`advance`](Endpoint::advance).
//! 3. A stream's socket is readable: [`reserve`](Endpoint::reserve), read into the room, then
//!    [`commit`](Endpoint::commit), [`handle_end`](Endpoint::handle_end) or
//!    [`handle_failure`](Endpoint::handle_failure).
//! 4. The link is writable: [`unsent`](Endpoint::unsent), write, [`advance_link`](Endpoint::advance_link).
//! 5. After any of these: [`poll_output`](Endpoint::poll_output) until it gives `None`, then
//!    [`poll_timeout`](Endpoint::poll_timeout); when that time has come, [`handle_timeout`](Endpoint::handle_timeout).

mod byte_queue;
mod send_queue;
mod stall;
mod streams;
mod timers;

use std::time::{Duration, Instant};

pub(crate) use byte_queue::ByteQueue;
pub(crate) use send_queue::SendQueue;
pub(crate) use streams::Streams;
pub(crate) use timers::Timers;

use crate::protocol::ProtocolError;

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

/// What a stream's socket may be read into.
#[derive(Debug)]
pub enum Room<'a> {
    /// Read into this; it is never empty.
    Free(&'a mut [u8]),
    /// The link has to be written first: try again after [`Endpoint::advance_link`].
    Full,
    /// This stream is not to be read, now or any more; an output tells when that changes.
    Unwanted,
}

/// The version 1 rule for a receiver that has no way to slow down one sender alone, the same on both sides.
///
/// At most `queue` bytes wait for one socket (and one read of the link more). Past it the link is not read, so
/// that every stream waits, and a stream whose full queue has kept the link unread for `stall` in total within
/// two `stall`s is reset.
#[derive(Clone, Copy, Debug)]
pub struct QueueRule {
    /// Bytes; 1 MiB by default.
    pub queue: usize,
    /// 30 s by default.
    pub stall: Duration,
}

impl Default for QueueRule {
    fn default() -> Self {
        Self { queue: 1024 * 1024, stall: Duration::from_secs(30) }
    }
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
}

/// One end of one link. See the [module](self) for the order of calls.
pub trait Endpoint {
    /// What the shell is to carry out.
    type Output: std::fmt::Debug;

    /// Takes bytes that the link brought; `input` is advanced past what was taken.
    ///
    /// # Errors
    /// The peer broke the protocol: the link is to be closed, and [`handle_link_lost`](Self::handle_link_lost) called.
    fn receive<'a>(&mut self, now: Instant, input: &mut &'a [u8]) -> Result<Option<Delivery<'a>>, ProtocolError>;

    /// Keeps what the stream's socket did not take of a [`Delivery`].
    fn keep(&mut self, now: Instant, stream: StreamKey, rest: &[u8]);

    /// Whether the link may be read.
    fn wants_input(&self) -> bool;

    /// What waits for the stream's socket.
    fn pending(&self, stream: StreamKey) -> &[u8];

    /// The stream's socket took `count` bytes of [`pending`](Self::pending).
    fn advance(&mut self, now: Instant, stream: StreamKey, count: usize);

    /// Where the stream's socket is to be read into.
    fn reserve(&mut self, stream: StreamKey) -> Room<'_>;

    /// The stream's socket was read: the first `count` (at least 1) bytes of the room go out as DATA.
    fn commit(&mut self, now: Instant, stream: StreamKey, count: usize);

    /// The stream's socket is at its end: its peer sends no more.
    fn handle_end(&mut self, now: Instant, stream: StreamKey);

    /// The stream's socket failed; the shell has closed it, or will. The key is void from here on.
    fn handle_failure(&mut self, now: Instant, stream: StreamKey);

    /// What is to be written to the link.
    fn unsent(&self) -> &[u8];

    /// The link took `count` bytes of [`unsent`](Self::unsent).
    fn advance_link(&mut self, now: Instant, count: usize);

    /// The link is gone, for whatever reason.
    fn handle_link_lost(&mut self, now: Instant);

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    fn poll_timeout(&self) -> Option<Instant>;

    /// The time has come.
    fn handle_timeout(&mut self, now: Instant);

    /// The next thing to carry out.
    fn poll_output(&mut self) -> Option<Self::Output>;

    /// What was moved so far.
    fn counters(&self) -> Counters;

    /// Streams that exist here, be they on the link or only delivering what is left.
    fn streams(&self) -> usize;
}
