//! One try to reach the relay: a name resolved, its addresses tried, and a proxy asked if there is one, within one
//! deadline.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mio::Token;
use mio::net::TcpStream;

use super::access::canonical;
use super::dial::{self, Dial, Progress};
use super::names::Found;
use super::proxy::{Connecting, MAX_HEAD};
use super::resolver::RelayNames;
use super::{Config, Proxy, ProxyError};
use crate::Error;
use crate::address::Address;
use crate::io::event_loop::{EventLoop, Source};
use crate::io::net;

/// A connection to the relay on its way.
#[derive(Debug)]
pub(super) struct Attempt {
    /// The number that the link will have.
    pub(super) number: usize,
    /// The relay.
    server: Address,
    /// How long it may take, and until when that is.
    time: Duration,
    deadline: Instant,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    Resolving,
    Dialling(Dial),
    /// The proxy is there, and is to connect to the relay.
    Asking(Asking),
}

/// A connection to the proxy.
#[derive(Debug)]
struct Asking {
    io: TcpStream,
    token: Token,
    peer: SocketAddr,
    connecting: Connecting,
}

/// A connection that was made.
#[derive(Debug)]
pub(super) struct Reached {
    pub(super) io: TcpStream,
    pub(super) token: Token,
    /// The relay's address, or the proxy's.
    pub(super) peer: SocketAddr,
    /// The relay, as it is named in messages.
    pub(super) server: Address,
}

impl Attempt {
    /// Begins to resolve a name, anew for each attempt; its events bear `number`. All may take so much `time`.
    pub(super) fn new(
        config: &Config,
        server: Address,
        number: usize,
        (now, time): (Instant, Duration),
        names: &mut RelayNames,
    ) -> Self {
        let mut attempt = Self { number, server, time, deadline: now + time, stage: Stage::Resolving };
        let first = attempt.first_hop(config).clone();
        match first.ip() {
            Some(ip) => attempt.dial(now, &[canonical(SocketAddr::new(ip, 0), first.port())]),
            None => names.request(now, first.host()),
        }
        attempt
    }

    /// How long it may take, and until when that is.
    pub(super) fn time(&self) -> (Duration, Instant) {
        (self.time, self.deadline)
    }

    /// What is connected to: the relay, or the proxy before it.
    fn first_hop<'a>(&'a self, config: &'a Config) -> &'a Address {
        config.proxy.as_ref().map_or(&self.server, Proxy::address)
    }

    /// The name that is waited for.
    pub(super) fn awaited_name<'a>(&'a self, config: &'a Config) -> Option<&'a str> {
        matches!(self.stage, Stage::Resolving).then(|| self.first_hop(config).host())
    }

    /// The name is resolved, or cannot be. An answer that comes after the first changes nothing.
    pub(super) fn handle_name(&mut self, config: &Config, now: Instant, found: Found) -> Result<(), Error> {
        if !matches!(self.stage, Stage::Resolving) {
            return Ok(());
        }
        let found = found.map_err(|error| self.unresolved(config, &error.text))?;
        if found.is_empty() {
            return Err(self.unresolved(config, "it has no address"));
        }
        let port = self.first_hop(config).port();
        self.dial(now, &found.iter().map(|&address| canonical(address, port)).collect::<Vec<_>>());
        Ok(())
    }

    fn dial(&mut self, now: Instant, addresses: &[SocketAddr]) {
        self.stage = Stage::Dialling(Dial::new(Source::Link(self.number), addresses, now, self.deadline));
    }

    /// Goes on as far as it can without waiting; `None` while there is more to wait for.
    pub(super) fn poll(
        &mut self,
        config: &Config,
        now: Instant,
        event_loop: &mut EventLoop,
    ) -> Option<Result<Reached, Error>> {
        match &mut self.stage {
            Stage::Resolving if now >= self.deadline => Some(Err(self.unresolved(config, "no answer in time"))),
            Stage::Resolving => None,
            Stage::Dialling(dial) => match dial.poll(now, event_loop) {
                Progress::Pending => None,
                Progress::Failed(error) => Some(Err(self.unreachable(config, error))),
                Progress::Connected { io, token, address: peer } => match &config.proxy {
                    None => Some(Ok(Reached { io, token, peer, server: self.server.clone() })),
                    Some(proxy) => {
                        let connecting = Connecting::new(proxy, &self.server);
                        self.stage = Stage::Asking(Asking { io, token, peer, connecting });
                        self.ask(config, now, event_loop)
                    }
                },
            },
            Stage::Asking(_) => self.ask(config, now, event_loop),
        }
    }

    /// Goes on with CONNECT.
    fn ask(&mut self, config: &Config, now: Instant, event_loop: &mut EventLoop) -> Option<Result<Reached, Error>> {
        let Stage::Asking(asking) = &mut self.stage else { return None };
        let result = match asking.poll() {
            Ok(false) if now < self.deadline => return None,
            Ok(false) => Err(ProxyError::Timeout),
            Ok(true) => Ok(()),
            Err(problem) => Err(problem),
        };
        let Stage::Asking(Asking { io, token, peer, .. }) = std::mem::replace(&mut self.stage, Stage::Resolving) else {
            return None;
        };
        Some(match result {
            Ok(()) => Ok(Reached { io, token, peer, server: self.server.clone() }),
            Err(problem) => {
                dial::give_up(event_loop, &io, token);
                Err(self.proxy_failed(config, problem))
            }
        })
    }

    /// When [`poll`](Self::poll) is due without an event.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        match &self.stage {
            Stage::Dialling(dial) => dial.poll_timeout(),
            Stage::Resolving | Stage::Asking(_) => Some(self.deadline),
        }
    }

    /// Gives up.
    pub(super) fn cancel(self, event_loop: &mut EventLoop) {
        match self.stage {
            Stage::Resolving => {}
            Stage::Dialling(dial) => dial.cancel(event_loop),
            Stage::Asking(asking) => dial::give_up(event_loop, &asking.io, asking.token),
        }
    }

    fn unresolved(&self, config: &Config, reason: &str) -> Error {
        if config.proxy.is_some() {
            return self.proxy_failed(config, ProxyError::Unreachable(format!("no address for its name, {reason}")));
        }
        Error::Unresolved { host: self.server.host().to_owned(), reason: reason.to_owned() }
    }

    fn unreachable(&self, config: &Config, reason: io::Error) -> Error {
        let address = self.server.clone();
        if let Some(remedy) = net::remedy_of_shortage(&reason) {
            let what = format!("the link to {address} cannot be made");
            return Error::System { what, reason: io::Error::new(reason.kind(), format!("{reason}; {remedy}")) };
        }
        if config.proxy.is_some() {
            let timed_out = reason.kind() == io::ErrorKind::TimedOut;
            let reason = if timed_out { "no answer in time".to_owned() } else { reason.to_string() };
            return self.proxy_failed(config, ProxyError::Unreachable(reason));
        }
        if reason.kind() == io::ErrorKind::ConnectionRefused {
            Error::Refused(address)
        } else if reason.kind() == io::ErrorKind::TimedOut {
            Error::timeout(address, self.time)
        } else {
            Error::Unreachable { address, reason }
        }
    }

    fn proxy_failed(&self, config: &Config, problem: ProxyError) -> Error {
        let proxy = self.first_hop(config).clone();
        Error::Proxy { address: self.server.clone(), proxy, problem }
    }
}

impl Asking {
    /// True once the proxy has connected. What stands behind its answer is left in the socket, for the link.
    fn poll(&mut self) -> Result<bool, ProxyError> {
        while !self.connecting.unsent().is_empty() {
            match self.io.write(self.connecting.unsent()) {
                Ok(count) => self.connecting.advance(count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // It may have said why.
                Err(_) => break,
            }
        }
        let mut buffer = [0; MAX_HEAD];
        loop {
            let count = match self.io.peek(&mut buffer) {
                Ok(0) => return Err(ProxyError::Ended),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(ProxyError::Unreachable(error.to_string())),
            };
            let (taken, is_open) = self.connecting.handle_bytes(&buffer[..count])?;
            // They are there, so this waits for nothing.
            self.io.read_exact(&mut buffer[..taken]).map_err(|error| ProxyError::Unreachable(error.to_string()))?;
            if is_open {
                return Ok(true);
            }
        }
    }
}

#[cfg(test)]
mod tests;
