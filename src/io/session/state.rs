//! Where a socket stands. Its two directions are apart from each other; events move them on, and what reads and writes
//! give moves them back.
//!
//! ```text
//!   Reading:
//!                 readable                more behind               hung up
//!        Empty ------------> Readable ---------------> MoreBehind ----------> HungUp
//!         ^ ^                    |                         |                    |
//!         | | a read is short    |                         |                    |
//!         | +--------------------+                         |                    |
//!         |                                                |                    |
//!         +---------- a read would block (from each) ------+--------------------+
//!
//!        (each) --- a read gives the end ---> Ended
//!
//!   Writing:
//!                 a write is short, or would block
//!        Writable -------------------------------> Full
//!            ^  |                                   |
//!            |  |      writable, or hung up         |
//!            +--|-----------------------------------+
//!               |
//!               +--- FIN is sent ---> Finished
//!               +--- a write fails ---> Failed
//! ```
//!
//! An event may skip states of reading, and never moves it back. A socket is no more where both directions are over in
//! other ways than with FIN: one whose writing has failed is read to its end, and then the stream fails with the error of
//! the write; one whose reading has ended, and that hangs up or cannot be written, fails at once.

use std::io;

use crate::io::event_loop::Readiness;

/// The direction from the socket's peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Reading {
    /// All was read. An event tells when there is more.
    Empty,
    /// There may be bytes. A short read has taken the last of them (epoll(7)), and spares the one that would block.
    Readable,
    /// Behind the bytes there may be FIN, a RST, or what follows an urgent byte, before which a read stops: no further
    /// event tells of it, so that only a read that would block has taken all.
    MoreBehind,
    /// The same, and both directions are over, by FIN or by RST. The error may be had without reading.
    HungUp,
    /// The peer's FIN was read.
    Ended,
}

impl Reading {
    /// An event came; true if there may be something to read.
    pub(super) fn handle_event(&mut self, event: Readiness) -> bool {
        let state = match event {
            Readiness { hung_up: true, .. } => Self::HungUp,
            Readiness { more_behind: true, .. } => Self::MoreBehind,
            Readiness { readable: true, .. } => Self::Readable,
            Readiness { .. } => return false,
        };
        *self = state.max(*self);
        self.is_readable()
    }

    /// Whether a read is worth a try.
    pub(super) fn is_readable(self) -> bool {
        match self {
            Self::Empty | Self::Ended => false,
            Self::Readable | Self::MoreBehind | Self::HungUp => true,
        }
    }

    /// A read brought as much as there was room for, or less.
    pub(super) fn handle_read(&mut self, is_short: bool) {
        if is_short && *self == Self::Readable {
            *self = Self::Empty;
        }
    }
}

/// The direction to the socket's peer.
#[derive(Debug)]
pub(super) enum Writing {
    /// A write is worth a try.
    Writable,
    /// The socket took less than it was given. An event tells when it takes more.
    Full,
    /// FIN is sent.
    Finished,
    /// The peer takes no more, and why: what comes for it is dropped.
    Failed(io::Error),
}

impl Writing {
    /// An event came.
    pub(super) fn handle_event(&mut self, event: Readiness) {
        if matches!(self, Self::Full) && (event.writable || event.hung_up) {
            *self = Self::Writable;
        }
    }

    /// Why the peer takes no more, if that is so.
    pub(super) fn take_error(&mut self) -> Option<io::Error> {
        if let Self::Failed(error) = self { Some(std::mem::replace(error, io::ErrorKind::Other.into())) } else { None }
    }

    /// FIN was sent.
    pub(super) fn handle_shutdown(&mut self) {
        if !matches!(self, Self::Failed(_)) {
            *self = Self::Finished;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::event_loop::Source;

    const NOTHING: Readiness =
        Readiness { source: Source::Link(0), readable: false, writable: false, more_behind: false, hung_up: false };
    const READABLE: Readiness = Readiness { readable: true, ..NOTHING };
    const MORE_BEHIND: Readiness = Readiness { more_behind: true, ..NOTHING };
    const HUNG_UP: Readiness = Readiness { more_behind: true, hung_up: true, ..NOTHING };

    #[test]
    fn a_short_read_has_taken_all_unless_an_event_says_that_there_is_more_behind() {
        for (event, state) in
            [(READABLE, Reading::Empty), (MORE_BEHIND, Reading::MoreBehind), (HUNG_UP, Reading::HungUp)]
        {
            let mut reading = Reading::Empty;
            assert!(reading.handle_event(event));
            let before = reading;
            reading.handle_read(false);
            assert_eq!(reading, before, "a full read says nothing");
            reading.handle_read(true);
            assert_eq!(reading, state);
        }
    }

    #[test]
    fn no_event_takes_back_what_another_has_said() {
        let mut reading = Reading::Empty;
        assert!(!reading.handle_event(NOTHING));
        for event in [HUNG_UP, MORE_BEHIND, READABLE, NOTHING] {
            reading.handle_event(event);
            assert_eq!(reading, Reading::HungUp);
        }
        reading = Reading::Ended;
        assert!(!reading.handle_event(HUNG_UP), "there is nothing behind the end");
        assert_eq!(reading, Reading::Ended);
    }

    #[test]
    fn only_a_socket_that_is_full_becomes_writable() {
        let mut writing = Writing::Full;
        writing.handle_event(READABLE);
        assert!(matches!(writing, Writing::Full));
        for event in [Readiness { writable: true, ..NOTHING }, HUNG_UP] {
            let mut writing = Writing::Full;
            writing.handle_event(event);
            assert!(matches!(writing, Writing::Writable));
            let mut writing = Writing::Failed(io::ErrorKind::BrokenPipe.into());
            writing.handle_event(event);
            writing.handle_shutdown();
            assert_eq!(writing.take_error().map(|error| error.kind()), Some(io::ErrorKind::BrokenPipe));
        }
    }
}
