//! One try to reach the relay: its name resolved, its addresses tried, within one deadline.

use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use mio::Token;
use mio::net::TcpStream;

use super::Config;
use super::access::canonical;
use super::dial::{Dial, Progress};
use super::names::Found;
use super::resolver::RelayName;
use crate::Error;
use crate::io::event_loop::{EventLoop, Source};
use crate::io::net;

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
    /// Begins to resolve the server's name, anew for each attempt; its events bear `number`.
    pub(super) fn new(config: &Config, number: usize, now: Instant, name: &mut RelayName) -> Self {
        let mut attempt = Self { number, deadline: now + config.connect_timeout, dial: None };
        match config.server.ip() {
            Some(ip) => attempt.dial(now, &[canonical(SocketAddr::new(ip, 0), config.server.port())]),
            None => name.request(),
        }
        attempt
    }

    /// The name is resolved, or cannot be. An answer that comes after the first changes nothing.
    pub(super) fn handle_name(&mut self, config: &Config, now: Instant, found: Found) -> Result<(), Error> {
        if self.dial.is_some() {
            return Ok(());
        }
        let host = || config.server.host().to_owned();
        let found = found.map_err(|error| Error::Unresolved { host: host(), reason: error.text.to_string() })?;
        if found.is_empty() {
            return Err(Error::Unresolved { host: host(), reason: "it has no address".into() });
        }
        let port = config.server.port();
        self.dial(now, &found.iter().map(|&address| canonical(address, port)).collect::<Vec<_>>());
        Ok(())
    }

    fn dial(&mut self, now: Instant, addresses: &[SocketAddr]) {
        self.dial = Some(Dial::new(Source::Link(self.number), addresses, now, self.deadline));
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
    if let Some(remedy) = net::remedy_of_shortage(&reason) {
        let what = format!("the link to {address} cannot be made");
        return Error::System { what, reason: io::Error::new(reason.kind(), format!("{reason}; {remedy}")) };
    }
    if reason.kind() == io::ErrorKind::ConnectionRefused {
        Error::Refused(address)
    } else if reason.kind() == io::ErrorKind::TimedOut {
        Error::Timeout { address, seconds: config.connect_timeout.as_secs_f64() }
    } else {
        Error::Unreachable { address, reason }
    }
}
