//! One stream of a version 2 link.

use std::time::Instant;

use super::window::{Budget, Window};
use crate::connection::{ByteQueue, Reset};

/// A stream, from its opening until its socket was told its end.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) place: Place,
    /// The service is connected: on a device its socket is there, on a relay CONNECTED came.
    pub(super) connected: bool,
    /// What the peer lets us have sent, and what we have.
    pub(super) credit: u64,
    pub(super) sent: u64,
    pub(super) fin_sent: bool,
    /// The socket is not read for want of credit.
    pub(super) blocked: bool,
    pub(super) window: Window,
    /// What waits for the socket.
    pub(super) pending: ByteQueue,
    pub(super) receiving: Receiving,
    /// How the socket ends once it has everything, where that is not with FIN. Few streams have one, so it is apart.
    pub(super) reset: Option<Box<Reset>>,
    owes_connected: bool,
    owes_credit: bool,
}

/// Where a stream is on its way over the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// It has no number yet.
    Waiting,
    On(u32),
    /// Over; only what is left is delivered.
    Off,
}

/// The direction from the link to the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Receiving {
    Open,
    /// FIN came.
    Ended,
    /// FIN was passed on to the socket.
    Told,
}

impl Stream {
    pub(super) fn new(now: Instant, place: Place, credit: u64, budget: &Budget) -> Self {
        Self {
            place,
            connected: false,
            credit,
            sent: 0,
            fin_sent: false,
            blocked: false,
            window: Window::new(now, budget),
            pending: ByteQueue::default(),
            receiving: Receiving::Open,
            reset: None,
            owes_connected: false,
            owes_credit: false,
        }
    }

    /// The number, while the stream is on the link.
    pub(super) fn number(&self) -> Option<u32> {
        match self.place {
            Place::On(number) => Some(number),
            Place::Waiting | Place::Off => None,
        }
    }

    /// CONNECTED is to be sent; true if nothing else was owed.
    #[must_use]
    pub(super) fn owe_connected(&mut self) -> bool {
        let first = !self.owes_connected && !self.owes_credit;
        self.owes_connected = true;
        first
    }

    /// CREDIT is to be sent; true if nothing else was owed.
    #[must_use]
    pub(super) fn owe_credit(&mut self) -> bool {
        let first = !self.owes_connected && !self.owes_credit;
        self.owes_credit = true;
        first
    }

    /// Whether CONNECTED and CREDIT are owed; neither is from here on.
    pub(super) fn take_owed(&mut self) -> (bool, bool) {
        (std::mem::take(&mut self.owes_connected), std::mem::take(&mut self.owes_credit))
    }
}
