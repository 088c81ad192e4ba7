//! One stream of a version 2 link, and where it stands.
//!
//! ```text
//!   relay: a client is accepted
//!              |
//!              v
//!           Waiting -----------------------------+  no place within 1 s, GOAWAY
//!              | CONNECT is sent                 |
//!              v                                 v
//!            Open ---------------------------> reset
//!            ^ |  CLOSE, and nothing to deliver  ^
//!   CONNECT  | |                                 |
//!   comes    | |  both FINs, or CLOSE            |
//!   (device) | v                                 |
//!           Delivering --------------------------+  End::Reset; or its socket takes nothing for 30 s
//!              | End::Finish
//!              v
//!          finished
//! ```
//!
//! While a stream is open its two directions end apart from each other, as those of RFC 9000, section 3:
//!
//! ```text
//!   Sending:     Open --- the socket's end is read, FIN is queued ---> Finished
//!   Receiving:   Open --- FIN comes ---> Finished --- all is delivered, the socket is shut down ---> Delivered
//! ```
//!
//! Once both are past `Open` the stream is `Delivering`. A lost link resets a stream that is waiting or open; one that is
//! delivering goes on.

use std::time::Instant;

use super::Role;
use super::budget::Budget;
use super::window::Window;
use crate::connection::{ByteQueue, Reset};

/// A stream, from its opening until its socket is ended.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) state: State,
    /// What the peer lets us have sent, and what we have.
    pub(super) credit: u64,
    pub(super) sent: u64,
    /// The socket is not read for want of credit.
    pub(super) blocked: bool,
    /// The socket has as much to say as may be sent at once: it waits for interactive ones.
    pub(super) bulk: bool,
    /// Bytes of the last reads, as long as each brought as much as it might.
    pub(super) filled: usize,
    pub(super) turn: Turn,
    pub(super) window: Window,
    /// What waits for the socket.
    pub(super) pending: ByteQueue,
    connected_pending: bool,
    credit_pending: bool,
}

/// Whether it is a stream's turn to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// It does not wait for one.
    None,
    /// It stands in line.
    Awaited,
    /// It stands in line, and was named: its socket is read next.
    Come,
}

/// Where a stream stands; see the [module](self) for the diagram.
#[derive(Debug)]
pub(super) enum State {
    /// A relay's stream without a number.
    Waiting,
    /// It is on the link.
    Open(Open),
    /// It is off the link: what is left is delivered, then its socket ends so.
    Delivering(End),
}

/// A stream that is on the link.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) number: u32,
    /// The service is connected: on a device its socket is there, on a relay CONNECTED came.
    pub(super) connected: bool,
    pub(super) sending: Sending,
    pub(super) receiving: Receiving,
}

/// The direction from the socket to the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sending {
    Open,
    /// FIN is queued, or sent.
    Finished,
}

/// The direction from the link to the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Receiving {
    Open,
    /// FIN came.
    Finished,
    /// FIN was passed on to the socket.
    Delivered,
}

/// How the socket of a stream ends that has delivered everything.
#[derive(Debug)]
pub(super) enum End {
    /// With FIN.
    Finish,
    /// With RST. Few streams have a reason, so it is apart.
    Reset(Box<Reset>),
}

impl Open {
    pub(super) fn new(number: u32) -> Self {
        Self { number, connected: false, sending: Sending::Open, receiving: Receiving::Open }
    }

    /// Whether both sides have sent FIN.
    pub(super) fn is_finished(&self) -> bool {
        self.sending == Sending::Finished && self.receiving != Receiving::Open
    }
}

impl Stream {
    pub(super) fn new(now: Instant, state: State, credit: u64, budget: &Budget) -> Self {
        Self {
            state,
            credit,
            sent: 0,
            blocked: false,
            bulk: false,
            filled: 0,
            turn: Turn::None,
            window: Window::new(now, budget),
            pending: ByteQueue::default(),
            connected_pending: false,
            credit_pending: false,
        }
    }

    /// What it is while it is on the link.
    pub(super) fn open(&self) -> Option<&Open> {
        match &self.state {
            State::Open(open) => Some(open),
            State::Waiting | State::Delivering(_) => None,
        }
    }

    /// As [`open`](Self::open).
    pub(super) fn open_mut(&mut self) -> Option<&mut Open> {
        match &mut self.state {
            State::Open(open) => Some(open),
            State::Waiting | State::Delivering(_) => None,
        }
    }

    /// The number, while the stream is on the link.
    pub(super) fn number(&self) -> Option<u32> {
        self.open().map(|open| open.number)
    }

    /// Whether there is a socket that bytes can be delivered to: a relay's client is there from the start.
    pub(super) fn has_socket(&self, role: Role) -> bool {
        match &self.state {
            State::Waiting => true,
            State::Open(open) => open.connected || role == Role::Relay,
            State::Delivering(_) => true,
        }
    }

    /// Whether its socket may be read. A relay may send before CONNECTED, a device has nothing to read from before it.
    pub(super) fn is_sending(&self, role: Role) -> bool {
        self.open().is_some_and(|open| open.sending == Sending::Open) && self.has_socket(role)
    }

    /// Whether more bytes may come for its socket.
    pub(super) fn is_receiving(&self) -> bool {
        self.open().is_some_and(|open| open.receiving == Receiving::Open)
    }

    /// CONNECTED is to be sent; true if nothing else was pending.
    #[must_use]
    pub(super) fn set_connected_pending(&mut self) -> bool {
        let first = !self.connected_pending && !self.credit_pending;
        self.connected_pending = true;
        first
    }

    /// CREDIT is to be sent; true if nothing else was pending.
    #[must_use]
    pub(super) fn set_credit_pending(&mut self) -> bool {
        let first = !self.connected_pending && !self.credit_pending;
        self.credit_pending = true;
        first
    }

    /// Whether CONNECTED and CREDIT are to be sent; neither is pending from here on.
    pub(super) fn take_pending(&mut self) -> (bool, bool) {
        (std::mem::take(&mut self.connected_pending), std::mem::take(&mut self.credit_pending))
    }
}
