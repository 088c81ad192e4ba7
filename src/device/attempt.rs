//! One try to reach the relay: its name resolved, its addresses tried, within one deadline.

use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use mio::Token;
use mio::net::TcpStream;

use super::Config;
use super::access::{Access, Refusal};
use super::dial::{Dial, Progress};
use super::resolver::{self, Answer, Lookup, Names};
use crate::Error;
use crate::event_loop::{EventLoop, Source};

/// A connection to the relay on its way.
#[derive(Debug)]
pub(super) struct Attempt {
    /// The number that the link will have.
    pub(super) number: usize,
    deadline: Instant,
    /// Once the name is resolved.
    dial: Option<Dial>,
}

/// A connection that was made.
#[derive(Debug)]
pub(super) struct Reached {
    pub(super) io: TcpStream,
    pub(super) token: Token,
    pub(super) peer: SocketAddr,
}

impl Attempt {
    /// Begins to resolve the server's name, anew for each attempt; its events and answers bear `number`.
    pub(super) fn new(config: &Config, number: usize, now: Instant, names: &Names) -> Result<Self, Error> {
        let mut attempt = Self { number, deadline: now + config.connect_timeout, dial: None };
        let (host, port) = (config.server.host().to_owned(), config.server.port());
        // Access says nothing about the server; Any only resolves.
        let work = move || Access::Any.permit(&host, port, &mut resolver::lookup);
        if config.server.ip().is_some() {
            attempt.handle_answer(config, work())?;
        } else {
            let submitted = names.submit(Lookup::Server(number), work);
            submitted.map_err(|reason| Error::System { what: "cannot resolve".into(), reason })?;
        }
        Ok(attempt)
    }

    /// The name is resolved, or cannot be.
    pub(super) fn handle_answer(&mut self, config: &Config, answer: Answer) -> Result<(), Error> {
        let addresses = answer.map_err(|refusal| match refusal {
            Refusal::Unresolved { host, reason } => Error::Unresolved { host, reason },
            Refusal::Denied { .. } => Error::Usage(format!("{}: {refusal}", config.server)),
        })?;
        self.dial = Some(Dial::new(Source::Link(self.number), addresses, self.deadline));
        Ok(())
    }

    /// Goes on as far as it can without waiting; `None` while there is more to wait for.
    pub(super) fn poll(
        &mut self,
        config: &Config,
        now: Instant,
        event_loop: &mut EventLoop,
    ) -> Option<Result<Reached, Error>> {
        match self.dial.as_mut().map(|dial| dial.poll(now, event_loop)) {
            Some(Progress::Connected { io, token, address }) => Some(Ok(Reached { io, token, peer: address })),
            Some(Progress::Failed(error)) => Some(Err(unreachable(config, error))),
            Some(Progress::Pending) => None,
            None if now >= self.deadline => {
                let host = config.server.host().to_owned();
                Some(Err(Error::Unresolved { host, reason: "no answer in time".into() }))
            }
            None => None,
        }
    }

    /// When [`poll`](Self::poll) is due without an event.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.dial.as_ref().map_or(Some(self.deadline), Dial::poll_timeout)
    }

    /// Gives up.
    pub(super) fn cancel(self, event_loop: &mut EventLoop) {
        if let Some(dial) = self.dial {
            dial.cancel(event_loop);
        }
    }
}

fn unreachable(config: &Config, reason: io::Error) -> Error {
    let address = config.server.clone();
    if reason.kind() == io::ErrorKind::ConnectionRefused {
        Error::Refused(address)
    } else if reason.kind() == io::ErrorKind::TimedOut {
        Error::Timeout { address, seconds: config.connect_timeout.as_secs_f64() }
    } else {
        Error::Unreachable { address, reason }
    }
}
