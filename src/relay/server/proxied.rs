//! Connections from load balancers, on the ports of devices and of clients, until the header has come that says whose they
//! are. Nothing behind it is read.

use std::io::{self, Read};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mio::Token;
use mio::net::TcpStream;
use tracing::{debug, warn};

use super::Server;
use super::log_limits::Kind;
use crate::io::event_loop::{Registry, Source};
use crate::protocol::proxy::{HeaderError, HeaderReader, MAX_HEADER};
use crate::relay::limits::max_proxied;

/// How long the header may take. A load balancer sends it at once.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection whose header has not come whole.
#[derive(Debug)]
pub(super) struct Proxied {
    io: TcpStream,
    token: Token,
    reader: HeaderReader,
    /// The load balancer.
    from: SocketAddr,
    goal: Goal,
    pub(super) deadline: Instant,
}

/// Which port a connection came to.
#[derive(Clone, Copy, Debug)]
pub(super) enum Goal {
    /// The one for this device's link, or for those in TLS.
    Device(Option<usize>),
    /// One of those for this device's clients, and the connection's number.
    Client { device: usize, port: usize, connection: u64 },
}

impl Goal {
    /// Whose lines in the log it takes.
    fn device(self) -> usize {
        match self {
            Self::Device(device) => device.unwrap_or(Server::NO_DEVICE),
            Self::Client { device, .. } => device,
        }
    }
}

impl Server {
    /// Whether connections from there begin with a header.
    pub(super) fn is_proxy(&self, from: SocketAddr) -> bool {
        self.config.proxy_protocol_from.iter().any(|network| network.contains(from.ip()))
    }

    /// A connection of a load balancer was accepted.
    pub(super) fn await_header(&mut self, now: Instant, mut io: TcpStream, from: SocketAddr, goal: Goal) {
        if self.proxied.len() >= max_proxied(self.descriptors.clients)
            && let Some(oldest) = self.oldest_proxied()
        {
            self.drop_proxied(now, oldest, "too many others wait for their PROXY headers, too");
        }
        let number = self.proxied.reserve();
        match self.io.event_loop.register(&mut io, Source::Header(number)) {
            Ok(token) => {
                let (reader, deadline) = (HeaderReader::default(), now + HEADER_TIMEOUT);
                self.proxied.insert(number, Proxied { io, token, reader, from, goal, deadline });
            }
            Err(reason) => {
                self.proxied.remove(number);
                self.log_dropped(now, from, goal, &reason.to_string());
            }
        }
    }

    /// Reads what has come of headers.
    pub(super) fn visit_proxied(&mut self, now: Instant) {
        for _ in 0..self.proxied.begin_round(now) {
            let Some(number) = self.proxied.next_visit() else { continue };
            match self.read_header(number) {
                Ok(None) => {
                    let Some(proxied) = self.proxied.get(number) else { continue };
                    let deadline = proxied.deadline;
                    if deadline <= now {
                        self.drop_proxied(now, number, "its PROXY header did not come within 5 s");
                    } else {
                        self.proxied.end_visit(number, false, Some(deadline));
                    }
                }
                Ok(Some(address)) => self.pass_on(now, number, address),
                Err(reason) => self.drop_proxied(now, number, &reason),
            }
        }
    }

    /// What has come of a header; once it is complete, the address of the client that it names, if it names one.
    fn read_header(&mut self, number: usize) -> Result<Option<Option<SocketAddr>>, String> {
        let Some(Proxied { io, reader, .. }) = self.proxied.get_mut(number) else { return Ok(None) };
        let mut buffer = [0; MAX_HEADER];
        loop {
            let most = reader.wanted().min(buffer.len());
            match io.read(&mut buffer[..most]) {
                Ok(0) => return Err("it ended before its PROXY header was there".into()),
                Ok(count) => {
                    let header = reader.receive(&buffer[..count]).map_err(|error: HeaderError| error.to_string())?;
                    if header.is_some() {
                        return Ok(header);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.to_string()),
            }
        }
    }

    /// The header is there: the connection is what it would have been without a load balancer. One that is that itself has
    /// its own address.
    fn pass_on(&mut self, now: Instant, number: usize, address: Option<SocketAddr>) {
        let Some(Proxied { mut io, token, from, goal, .. }) = self.proxied.remove(number) else { return };
        self.io.event_loop.deregister(&mut io, token);
        let address = address.unwrap_or(from);
        match goal {
            Goal::Device(device) => self.add_connection(now, device, io, address),
            Goal::Client { device, port, connection } => self.add_client(now, device, port, connection, io, address),
        }
    }

    /// The port of a device's clients is no more, or, without one, the whole device: its number will be another's.
    pub(super) fn drop_proxied_of(&mut self, device: usize, port: Option<usize>) {
        let is_gone = |goal| match goal {
            Goal::Device(of) => port.is_none() && of == Some(device),
            Goal::Client { device: of, port: at, .. } => of == device && port.is_none_or(|port| port == at),
        };
        for number in self.proxied.numbers() {
            if self.proxied.get(number).is_some_and(|proxied| is_gone(proxied.goal)) {
                self.forget_proxied(number);
            }
        }
    }

    /// The relay is to end.
    pub(super) fn drop_all_proxied(&mut self) {
        for number in self.proxied.numbers() {
            self.forget_proxied(number);
        }
    }

    fn drop_proxied(&mut self, now: Instant, number: usize, reason: &str) {
        if let Some(Proxied { from, goal, reader, .. }) = self.forget_proxied(number) {
            if reader.is_empty() {
                // A load balancer looks so whether the port is open.
                debug!(load_balancer = %from, reason, "a connection of a load balancer has ended without a byte");
            } else {
                self.log_dropped(now, from, goal, reason);
            }
        }
    }

    fn log_dropped(&mut self, now: Instant, from: SocketAddr, goal: Goal, reason: &str) {
        let kind = match goal {
            Goal::Device(_) => Kind::Stray,
            Goal::Client { .. } => Kind::Refusal,
        };
        if self.log_limits.admit(now, goal.device(), kind) {
            warn!(load_balancer = %from, reason, "dropped a connection of a load balancer");
        }
    }

    fn forget_proxied(&mut self, number: usize) -> Option<Proxied> {
        let proxied = self.proxied.remove(number)?;
        self.io.event_loop.forget(proxied.token);
        Some(proxied)
    }

    fn oldest_proxied(&self) -> Option<usize> {
        self.proxied.iter().min_by_key(|(_, proxied)| proxied.deadline).map(|(number, _)| number)
    }
}
