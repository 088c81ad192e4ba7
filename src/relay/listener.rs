//! A listening socket that outlives a lack of descriptors.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::time::{Duration, Instant};

use mio::Token;
use mio::net::{TcpListener, TcpStream};
use socket2::{Domain, Protocol, Socket, Type};
use tracing::warn;

use crate::address::Address;
use crate::event_loop::{EventLoop, Source};

/// How long accepting rests when the system has no descriptor left.
const PAUSE: Duration = Duration::from_millis(100);
/// Clients and devices that may wait to be accepted.
const BACKLOG: i32 = 1024;

/// A listening socket on an edge-triggered poll: what was not accepted yet is remembered.
#[derive(Debug)]
pub(super) struct Listener {
    io: TcpListener,
    token: Token,
    place: usize,
    address: SocketAddr,
    ready: bool,
    paused_until: Option<Instant>,
}

/// Listens on every address that `address` has; their events come as places from `first_place` on.
pub(super) fn bind(
    event_loop: &mut EventLoop,
    address: &Address,
    source: fn(usize) -> Source,
    first_place: usize,
) -> io::Result<Vec<Listener>> {
    let mut listeners = Vec::new();
    for (index, mut io) in listen(address.host(), address.port())?.into_iter().enumerate() {
        let place = first_place + index;
        let address = io.local_addr()?;
        let token = event_loop.register(&mut io, source(place))?;
        listeners.push(Listener { io, token, place, address, ready: true, paused_until: None });
    }
    Ok(listeners)
}

/// Listens on every address of the name: an error of any ends it, and names the one that failed.
fn listen(host: &str, port: u16) -> io::Result<Vec<TcpListener>> {
    let mut listeners = Vec::new();
    let mut addresses: Vec<SocketAddr> = (host, port).to_socket_addrs()?.collect();
    addresses.dedup();
    for address in addresses {
        let listener =
            listen_on(address).map_err(|error| io::Error::new(error.kind(), format!("{address}: {error}")))?;
        listeners.push(listener);
    }
    if listeners.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
    }
    Ok(listeners)
}

fn listen_on(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        // `[::]` beside `0.0.0.0` is two listeners, as their writer meant.
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(TcpListener::from_std(socket.into()))
}

impl Listener {
    /// The address, with the port that the system chose.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Somebody connected at `place`.
    pub(super) fn handle_event(&mut self, place: usize) {
        self.ready |= self.place == place;
    }

    /// One connection; `None` when there is none to take now.
    pub(super) fn accept(&mut self, now: Instant) -> Option<(TcpStream, SocketAddr)> {
        if self.paused_until.is_some_and(|until| until > now) {
            return None;
        }
        self.paused_until = None;
        while self.ready {
            match self.io.accept() {
                Ok(accepted) => return Some(accepted),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.ready = false,
                // Of a connection that was gone before it was taken.
                Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted) => {
                }
                Err(error) => {
                    warn!("cannot accept at {} for a moment: {error}", self.address);
                    self.paused_until = Some(now + PAUSE);
                    return None;
                }
            }
        }
        None
    }

    /// When [`accept`](Self::accept) is worth another try.
    pub(super) fn paused_until(&self) -> Option<Instant> {
        self.paused_until
    }

    pub(super) fn close(mut self, event_loop: &mut EventLoop) {
        event_loop.deregister(&mut self.io, self.token);
    }
}
