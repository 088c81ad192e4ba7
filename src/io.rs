//! What device and relay share of moving bytes between sockets. It is public for the simulator, whose sockets and event
//! loop take the place of mio's.

mod buffers;
pub mod closing;
pub mod event_loop;
pub(crate) mod mailbox;
pub(crate) mod net;
pub(crate) mod retired;
#[cfg(feature = "tls")]
pub mod sealer;
pub mod session;
pub mod socket;
pub(crate) mod table;

use buffers::Buffers;
use closing::ClosingSockets;
use event_loop::{EventLoop, Registry};

#[cfg(feature = "tls")]
use crate::tls::Scratch;

/// What all sessions of one thread share.
#[derive(Debug)]
pub struct Io<R: Registry = EventLoop> {
    /// It watches their sockets.
    pub event_loop: R,
    /// Those that were ended, and wait for their peers.
    pub closing: ClosingSockets<R::Socket>,
    /// What their links use in turn.
    pub(crate) buffers: Buffers,
}

impl<R: Registry> Io<R> {
    /// With this loop, and no socket yet.
    pub fn new(event_loop: R) -> Self {
        Self { event_loop, closing: ClosingSockets::default(), buffers: Buffers::default() }
    }

    /// Where a new end of TLS leaves what it has to say first.
    #[cfg(feature = "tls")]
    pub fn scratch(&mut self) -> &mut Scratch {
        self.buffers.scratch()
    }
}
