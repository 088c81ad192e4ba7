//! One end of a version 2 link: streams with credit of their own. Device and relay are both built on it.
//!
//! It is driven as every [`Connection`] is. Control frames that wait are state, not a queue: at most
//! one CREDIT, one CONNECTED and one CLOSE for a stream, and one answer to PING, wait at any time; and the link is
//! read whatever waits to be written. So no two peers can wait for each other.

mod budget;
mod control;
mod crediting;
mod deadlines;
mod delivery_rate;
mod driven;
mod ending;
mod introduction;
mod liveness;
mod opening;
mod pacing;
mod reading;
mod receiving;
mod round_trip;
mod send_buffer;
mod stream;
mod waiting_streams;
mod window;

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use budget::Budget;
pub use budget::WindowPool;
use control::PendingCloses;
use deadlines::Deadlines;
use delivery_rate::DeliveryRate;
use introduction::{Greeting, Peer};
use liveness::{Due, Liveness};
use opening::PLACE_TIMEOUT;
use pacing::Pacing;
use reading::Reading;
use round_trip::RoundTrip;
use send_buffer::SendBuffer;
use stream::Stream;
use waiting_streams::WaitingStreams;

use super::{Bucket, Connection, Counters, Limits, Output, Reset, Slab, StreamKey};
use crate::protocol::v2::{self, Code, Header, Settings};
use crate::protocol::{MAX_FRAME, ProtocolError};

/// The most that a stream may put on the link at a time while another waits: a quarter of a frame, header and all.
const QUANTUM: usize = MAX_FRAME / 4 - Header::LEN;
/// Bytes of control frames past which no stream is opened.
const CONTROL_FULL: usize = 64 * 1024;
/// Bytes beyond a full queue that mark a peer as hostile.
const MAX_BACKLOG: usize = 256 * 1024;

/// Which end of the link this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The one that connects to services.
    Device,
    /// The one that takes clients.
    Relay,
}

/// One end of a version 2 link.
#[derive(Debug)]
pub(crate) struct Mux {
    role: Role,
    /// The link is in TLS: nobody between reads it, and its relay decides about the device before it says a word.
    is_in_tls: bool,
    /// Whether our SETTINGS are on their way.
    has_introduced: bool,
    limits: Limits,
    decoder: v2::Decoder,
    send_buffer: SendBuffer,
    streams: Slab<Stream>,
    /// The streams that are on the link.
    numbers: BTreeMap<u32, StreamKey>,
    /// The newest number that was opened.
    newest: u32,
    /// What the peer can take; the least that any can, until it has said so.
    peer: Peer,
    /// All that the peer has said of itself; a relay's end forgets it when both have.
    said: Option<Box<Settings>>,
    greeting: Greeting,
    budget: Budget,
    /// What may be sent, once there was a stream, if the peer has said that it acknowledges; without that `delivery_rate`
    /// and `round_trip` make the windows of streams, which then bound it.
    pacing: Option<Box<Pacing>>,
    waiting_streams: WaitingStreams,
    reading: Reading,
    /// Of a peer that does not acknowledge, once it has sent something.
    delivery_rate: Option<Box<DeliveryRate>>,
    /// Credit of streams that we ended and whose bytes may still come; at most [`MOST_STALE`](crediting::MOST_STALE).
    stale_credit: u64,
    /// Streams for which CREDIT or CONNECTED is to be sent.
    pending_control: VecDeque<StreamKey>,
    /// CLOSEs to be sent.
    closes: PendingCloses,
    /// Streams that are over on our side and whose FIN waits among the DATA, by where it ends: the peer counts them as
    /// open until then.
    finishing: VecDeque<u64>,
    pending_pong: Option<[u8; 8]>,
    /// Streams whose sockets may be read again.
    unblocked: VecDeque<StreamKey>,
    /// Streams without a number, in the order they came.
    waiting: VecDeque<Wanted>,
    /// Streams that are off the link and only deliver what is left: when the socket of each last took something.
    delivering: BTreeMap<StreamKey, Instant>,
    /// Bytes that wait for the sockets of all streams.
    held: u64,
    liveness: Liveness,
    round_trip: RoundTrip,
    abuse: Bucket,
    opens: Bucket,
    /// We, or the peer, have said that there will be no new streams: why those that come are reset.
    going_away: Option<Reset>,
    timers: Deadlines,
    outputs: VecDeque<Output>,
    counters: Counters,
}

/// A stream that waits for a number, and what it is for.
#[derive(Debug)]
struct Wanted {
    key: StreamKey,
    connect: v2::Connect,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    Settings,
    Liveness,
    /// The peer was asked to acknowledge.
    Ack,
    /// A stream waits for a number.
    Place(StreamKey),
    /// Streams wait for the open rate.
    OpenRate,
    /// A device that was silent is to have sent something.
    Sign,
    /// There are no streams, and what they needed can be given back.
    Rest,
    Connect(StreamKey),
    Delivery(StreamKey),
}

impl Mux {
    /// What the peer has said of itself, until a relay's end has admitted it.
    pub(crate) fn peer(&self) -> Option<&Settings> {
        self.said.as_deref()
    }

    /// The peer's token, which is needed once.
    #[cfg(feature = "relay")]
    pub(crate) fn take_join(&mut self) -> Option<v2::Join> {
        self.said.as_mut()?.join.take()
    }

    #[cfg(feature = "relay")]
    pub(crate) fn share_windows(&mut self, pool: &WindowPool) {
        self.budget.share(pool);
    }

    /// Whether there will be no new streams, by either side's wish.
    pub(crate) fn is_going_away(&self) -> bool {
        self.going_away.is_some()
    }

    /// What the peer offers by name, as far as it has said so.
    pub(crate) fn services(&self) -> Option<&[v2::Service]> {
        self.peer.services.as_deref()
    }

    /// Streams that may be on the link at once.
    pub(crate) fn places(&self) -> usize {
        self.peer.streams.min(self.limits.streams) as usize
    }

    /// Streams on the link, or waiting for a place on it.
    pub(crate) fn clients(&self) -> usize {
        self.numbers.len() + self.waiting.len()
    }

    fn handle_timer(&mut self, now: Instant, timer: Timer) -> Result<(), ProtocolError> {
        match timer {
            Timer::Settings if self.is_in_tls => return Err(ProtocolError::NotGreeted),
            Timer::Settings => return Err(ProtocolError::NoSettings),
            Timer::Liveness => {
                match self.liveness.handle_timeout(now) {
                    Due::Nothing => {}
                    Due::Ping(payload) => {
                        // So long a silence means that nothing is sent either.
                        self.send_buffer.give_back();
                        self.round_trip.handle_ping(now);
                        self.push_ping(payload);
                    }
                    Due::Dead => return Err(ProtocolError::Silent),
                }
                self.timers.set(timer, self.liveness.poll_timeout());
            }
            Timer::Ack => return self.handle_ack_timeout(now),
            Timer::Place(key) if self.liveness.is_suspect() => self.reset(key, Reset::Unanswered),
            Timer::Place(_) if self.device_is_slow() => self.timers.set(timer, now + PLACE_TIMEOUT),
            Timer::Place(key) => self.reset(key, Reset::NoPlace),
            Timer::OpenRate => self.assign_numbers(now),
            Timer::Sign => self.handle_sign_timeout(now),
            Timer::Rest => self.rest(),
            Timer::Connect(key) => {
                let reason = "there was no connection to the service in 10 s";
                self.push_close_of(key, Code::Timeout, reason);
                self.reset(key, Reset::ConnectTimeout);
            }
            Timer::Delivery(key) => {
                let Some(&progress) = self.delivering.get(&key) else { return Ok(()) };
                let due = progress + self.limits.rule.stall;
                if due > now {
                    self.timers.set(timer, due);
                } else {
                    self.reset(key, Reset::Stalled);
                }
            }
        }
        Ok(())
    }

    /// On an error, queues a GOAWAY that says why the link ends: there is one try to send it.
    fn say_why<T>(&mut self, now: Instant, result: Result<T, ProtocolError>) -> Result<T, ProtocolError> {
        if let Err(error) = &result {
            self.go_away(now, error.code(), 0, &error.to_string());
        }
        result
    }
}

#[cfg(test)]
mod tests;
