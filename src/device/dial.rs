//! One connection to be made: every address of a name in turn, within one deadline.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use mio::Token;
use mio::net::TcpStream;

use crate::event_loop::{EventLoop, Source};
use crate::net;

/// A connection on its way.
#[derive(Debug)]
pub(super) struct Dial {
    source: Source,
    addresses: VecDeque<SocketAddr>,
    attempt: Option<Attempt>,
    deadline: Instant,
    last_error: Option<io::Error>,
}

#[derive(Debug)]
struct Attempt {
    io: TcpStream,
    token: Token,
    address: SocketAddr,
    deadline: Instant,
}

/// How far a [`Dial`] is.
#[derive(Debug)]
pub(super) enum Progress {
    Pending,
    Connected {
        io: TcpStream,
        token: Token,
        address: SocketAddr,
    },
    /// No address answered; the last one's error.
    Failed(io::Error),
}

impl Dial {
    /// Will try `addresses` in their order; nothing happens before [`poll`](Self::poll).
    pub(super) fn new(source: Source, addresses: Vec<SocketAddr>, deadline: Instant) -> Self {
        Self { source, addresses: addresses.into(), attempt: None, deadline, last_error: None }
    }

    /// Goes on as far as it can without waiting: at the start, at an event, and when its time has come.
    pub(super) fn poll(&mut self, now: Instant, event_loop: &mut EventLoop) -> Progress {
        loop {
            if let Some(attempt) = &self.attempt {
                let result = match net::connected(&attempt.io) {
                    None if now < attempt.deadline => return Progress::Pending,
                    None => Err(io::ErrorKind::TimedOut.into()),
                    Some(result) => result,
                };
                let Some(Attempt { mut io, token, address, .. }) = self.attempt.take() else { continue };
                match result {
                    Ok(()) => return Progress::Connected { io, token, address },
                    Err(error) => {
                        event_loop.deregister(&mut io, token);
                        self.last_error = Some(error);
                    }
                }
            }
            let Some(address) = self.addresses.pop_front() else {
                let timed_out = || io::ErrorKind::TimedOut.into();
                return Progress::Failed(self.last_error.take().unwrap_or_else(timed_out));
            };
            match self.begin(now, event_loop, address) {
                Ok(attempt) => self.attempt = Some(attempt),
                Err(error) => self.last_error = Some(error),
            }
        }
    }

    /// When [`poll`](Self::poll) is due without an event.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.attempt.as_ref().map(|attempt| attempt.deadline)
    }

    /// Gives up.
    pub(super) fn cancel(self, event_loop: &mut EventLoop) {
        if let Some(mut attempt) = self.attempt {
            event_loop.deregister(&mut attempt.io, attempt.token);
        }
    }

    /// The time that is left is shared fairly among the addresses that are left.
    fn begin(&self, now: Instant, event_loop: &mut EventLoop, address: SocketAddr) -> io::Result<Attempt> {
        let mut io = net::connect(address)?;
        let token = event_loop.register(&mut io, self.source)?;
        let share = self.deadline.saturating_duration_since(now) / (self.addresses.len() as u32 + 1);
        Ok(Attempt { io, token, address, deadline: now + share })
    }
}
