//! How the two ends of a link come to a version: the first frames decide, and the end of that version goes on.
//!
//! Each side of a link negotiates in its own way, [`device`](super::device) and [`relay`](super::relay).

use std::collections::VecDeque;
use std::fmt::Debug;
use std::time::{Duration, Instant};

use super::{Connection, Counters, Delivery, Limits, Mux, Output, Protocol, Role, Room, StreamKey};
use crate::protocol::ProtocolError;
use crate::protocol::v2::{Code, Settings};

/// What one side of a link sends and takes before the version is fixed.
pub trait Negotiation: Debug {
    /// This side's end of version 1.
    type V1: Connection + Debug;
    /// The side.
    const ROLE: Role;

    /// Takes input until the version is fixed, and gives it then.
    ///
    /// # Errors
    /// The peer sent what no peer sends, or speaks no version that is new enough.
    fn receive(
        &mut self,
        now: Instant,
        input: &mut &[u8],
        outputs: &mut VecDeque<Output>,
    ) -> Result<Option<Protocol>, ProtocolError>;

    /// The end of version 1 that goes on from here.
    ///
    /// # Errors
    /// What came already breaks the rules of version 1.
    fn begin_v1(&mut self, now: Instant) -> Result<Self::V1, ProtocolError>;

    /// What the end of version 2 sends first; its limits; and what its SETTINGS say beside them.
    fn begin_v2(&mut self) -> (Vec<u8>, Limits, Settings);

    /// See [`Connection::unsent`].
    fn unsent(&self) -> &[u8];

    /// See [`Connection::advance_link`].
    fn advance_link(&mut self, now: Instant, count: usize);

    /// See [`Connection::close`].
    fn close(&mut self);

    /// Whether [`close`](Self::close) was called.
    fn is_closed(&self) -> bool;

    /// See [`Connection::handle_link_lost`].
    fn handle_link_lost(&mut self);

    /// See [`Connection::poll_timeout`].
    fn poll_timeout(&self) -> Option<Instant>;

    /// The time has come; the version, if it is fixed so.
    ///
    /// # Errors
    /// As in [`Connection::handle_timeout`].
    fn handle_timeout(&mut self) -> Result<Option<Protocol>, ProtocolError>;
}

/// One side's end of a link, whichever version it speaks.
#[derive(Debug)]
pub struct Negotiated<N: Negotiation> {
    pub(super) speaking: Speaking<N>,
    /// What the end of the version that was chosen does not say itself.
    outputs: VecDeque<Output>,
}

#[derive(Debug)]
pub(super) enum Speaking<N: Negotiation> {
    Negotiating(Box<N>),
    V1(Box<N::V1>),
    V2(Box<Mux>),
}

/// Calls the end of the version that is spoken; before there is one, gives what stands behind `else`.
macro_rules! with_version {
    ($speaking:expr, $end:ident => $call:expr, else $before:expr) => {
        match $speaking {
            Speaking::Negotiating(_) => $before,
            Speaking::V1($end) => $call,
            Speaking::V2($end) => $call,
        }
    };
}
pub(super) use with_version;

/// Calls whatever is at work: the negotiation, or the end of the version that is spoken.
macro_rules! with_any {
    ($speaking:expr, $any:ident => $call:expr) => {
        match $speaking {
            Speaking::Negotiating($any) => $call,
            Speaking::V1($any) => $call,
            Speaking::V2($any) => $call,
        }
    };
}

impl<N: Negotiation> Negotiated<N> {
    pub(super) fn begin(negotiation: N) -> Self {
        Self { speaking: Speaking::Negotiating(Box::new(negotiation)), outputs: VecDeque::new() }
    }

    /// An end of a link whose version was agreed on in another way.
    #[cfg(feature = "tls")]
    pub(super) fn begin_v2(mux: Mux) -> Self {
        Self { speaking: Speaking::V2(Box::new(mux)), outputs: VecDeque::new() }
    }

    /// What the peer has said of itself in version 2; a relay's end forgets it once the device is admitted.
    pub fn peer(&self) -> Option<&Settings> {
        if let Speaking::V2(end) = &self.speaking { end.peer() } else { None }
    }

    fn agree(&mut self, now: Instant, protocol: Option<Protocol>) -> Result<(), ProtocolError> {
        let (Some(protocol), Speaking::Negotiating(negotiation)) = (protocol, &mut self.speaking) else {
            return Ok(());
        };
        let is_closed = negotiation.is_closed();
        let (version, speaking) = match protocol {
            Protocol::V1 => (1, Speaking::V1(Box::new(negotiation.begin_v1(now)?))),
            Protocol::V2 => {
                let (first, limits, said) = negotiation.begin_v2();
                (2, Speaking::V2(Box::new(Mux::saying(now, N::ROLE, limits, &first, said))))
            }
        };
        self.outputs.push_back(Output::Version(version));
        self.speaking = speaking;
        if is_closed {
            self.close(now);
        }
        Ok(())
    }
}

impl<N: Negotiation> Connection for Negotiated<N> {
    fn receive<'a>(&mut self, now: Instant, input: &mut &'a [u8]) -> Result<Option<Delivery<'a>>, ProtocolError> {
        if let Speaking::Negotiating(negotiation) = &mut self.speaking {
            let protocol = negotiation.receive(now, input, &mut self.outputs)?;
            self.agree(now, protocol)?;
        }
        with_version!(&mut self.speaking, end => end.receive(now, input), else Ok(None))
    }

    fn goes_on(&self, stream: StreamKey, input: &[u8]) -> bool {
        with_version!(&self.speaking, end => end.goes_on(stream, input), else false)
    }

    fn delivered(&mut self, now: Instant, stream: StreamKey, bytes: &[u8], taken: usize) {
        with_version!(&mut self.speaking, end => end.delivered(now, stream, bytes, taken), else ());
    }

    fn read_size(&self, room: usize) -> usize {
        with_version!(&self.speaking, end => end.read_size(room), else room)
    }

    fn wants_input(&self) -> bool {
        with_version!(&self.speaking, end => end.wants_input(), else true)
    }

    fn pending(&self, stream: StreamKey) -> &[u8] {
        with_version!(&self.speaking, end => end.pending(stream), else &[])
    }

    fn advance(&mut self, now: Instant, stream: StreamKey, count: usize) {
        with_version!(&mut self.speaking, end => end.advance(now, stream, count), else ());
    }

    fn may_read(&self, stream: StreamKey) -> bool {
        with_version!(&self.speaking, end => end.may_read(stream), else false)
    }

    fn reserve(&mut self, stream: StreamKey, contended: bool) -> Room<'_> {
        with_version!(&mut self.speaking, end => end.reserve(stream, contended), else Room::Unwanted)
    }

    fn commit(&mut self, now: Instant, stream: StreamKey, count: usize) {
        with_version!(&mut self.speaking, end => end.commit(now, stream, count), else ());
    }

    fn handle_end(&mut self, now: Instant, stream: StreamKey) {
        with_version!(&mut self.speaking, end => end.handle_end(now, stream), else ());
    }

    fn handle_failure(&mut self, now: Instant, stream: StreamKey, code: Code, reason: &str) {
        with_version!(&mut self.speaking, end => end.handle_failure(now, stream, code, reason), else ());
    }

    fn link_low_water(&self) -> Option<u32> {
        with_version!(&self.speaking, end => end.link_low_water(), else None)
    }

    fn link_keepalive(&self) -> Option<Duration> {
        with_version!(&self.speaking, end => end.link_keepalive(), else None)
    }

    fn poll_pacing(&self) -> Option<Instant> {
        with_version!(&self.speaking, end => end.poll_pacing(), else None)
    }

    fn handle_pacing(&mut self, now: Instant) {
        with_version!(&mut self.speaking, end => end.handle_pacing(now), else ());
    }

    fn poll_unblocked(&mut self) -> Option<StreamKey> {
        with_version!(&mut self.speaking, end => end.poll_unblocked(), else None)
    }

    fn has_unsent(&self) -> bool {
        match &self.speaking {
            Speaking::Negotiating(negotiation) => !negotiation.unsent().is_empty(),
            Speaking::V1(end) => end.has_unsent(),
            Speaking::V2(end) => end.has_unsent(),
        }
    }

    fn has_last_word(&self) -> bool {
        with_version!(&self.speaking, end => end.has_last_word(), else false)
    }

    fn unsent(&mut self) -> &[u8] {
        with_any!(&mut self.speaking, any => any.unsent())
    }

    fn advance_link(&mut self, now: Instant, count: usize) {
        with_any!(&mut self.speaking, any => any.advance_link(now, count));
    }

    fn note_link_full(&mut self) {
        with_version!(&mut self.speaking, end => end.note_link_full(), else ());
    }

    fn handle_fruitless(&mut self, now: Instant, count: usize) -> Result<(), ProtocolError> {
        with_version!(&mut self.speaking, end => end.handle_fruitless(now, count), else Ok(()))
    }

    fn go_away(&mut self, now: Instant, code: Code, retry_after: u16, reason: &str) {
        with_version!(&mut self.speaking, end => end.go_away(now, code, retry_after, reason), else ());
    }

    fn close(&mut self, now: Instant) {
        match &mut self.speaking {
            Speaking::Negotiating(negotiation) => negotiation.close(),
            Speaking::V1(end) => end.close(now),
            Speaking::V2(end) => end.close(now),
        }
    }

    fn handle_link_lost(&mut self, now: Instant) {
        match &mut self.speaking {
            Speaking::Negotiating(negotiation) => negotiation.handle_link_lost(),
            Speaking::V1(end) => end.handle_link_lost(now),
            Speaking::V2(end) => end.handle_link_lost(now),
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        with_any!(&self.speaking, any => any.poll_timeout())
    }

    fn handle_timeout(&mut self, now: Instant) -> Result<(), ProtocolError> {
        match &mut self.speaking {
            Speaking::Negotiating(negotiation) if negotiation.poll_timeout().is_some_and(|at| at <= now) => {
                let protocol = negotiation.handle_timeout()?;
                self.agree(now, protocol)
            }
            Speaking::Negotiating(_) => Ok(()),
            Speaking::V1(end) => end.handle_timeout(now),
            Speaking::V2(end) => end.handle_timeout(now),
        }
    }

    fn poll_output(&mut self) -> Option<Output> {
        let first = self.outputs.pop_front();
        first.or_else(|| with_version!(&mut self.speaking, end => end.poll_output(), else None))
    }

    fn counters(&self) -> Counters {
        with_version!(&self.speaking, end => end.counters(), else Counters::default())
    }

    fn streams(&self) -> usize {
        with_version!(&self.speaking, end => end.streams(), else 0)
    }

    fn held(&self) -> u64 {
        with_version!(&self.speaking, end => end.held(), else 0)
    }
}
