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

/// Every address that `name` has. It may block, so it is done before the loop runs.
pub(super) fn resolve(name: &Address) -> io::Result<Vec<SocketAddr>> {
    let mut addresses: Vec<SocketAddr> = (name.host(), name.port()).to_socket_addrs()?.collect();
    addresses.dedup();
    if addresses.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
    }
    Ok(addresses)
}

/// Listens on every one of `addresses`; their events come as places from `first_place` on. An error of any ends it, and
/// names the one that failed.
pub(super) fn bind(
    event_loop: &mut EventLoop,
    addresses: &[SocketAddr],
    first_place: usize,
) -> io::Result<Vec<Listener>> {
    let mut sockets = Vec::new();
    for &address in addresses {
        let named = |error: io::Error| io::Error::new(error.kind(), format!("{address}: {error}"));
        sockets.push(listen(address).map_err(named)?);
    }
    let mut listeners = Vec::new();
    for (index, mut io) in sockets.into_iter().enumerate() {
        let place = first_place + index;
        let registered = io.local_addr().and_then(|address| {
            let token = event_loop.register(&mut io, Source::Listener(place))?;
            Ok((address, token))
        });
        match registered {
            Ok((address, token)) => {
                listeners.push(Listener { io, token, place, address, ready: true, paused_until: None });
            }
            Err(error) => {
                listeners.into_iter().for_each(|listener: Listener| listener.close(event_loop));
                return Err(error);
            }
        }
    }
    Ok(listeners)
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
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
