//! A listening socket that keeps its port, and outlives a lack of descriptors.

use std::io;
use std::net::{Shutdown, SocketAddr, ToSocketAddrs};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use mio::Token;
use mio::net::{TcpListener, TcpStream};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::descriptors::Shortage;
use super::inherited::Inherited;
use crate::address::Address;
use crate::io::event_loop::{EventLoop, Source};
use crate::io::net;

/// How long accepting rests when the system has no descriptor left.
const PAUSE: Duration = Duration::from_millis(100);
/// Clients and devices that may wait to be accepted.
const BACKLOG: i32 = 1024;

/// A port that is held from the relay's start to its end, and listens in between, on an edge-triggered poll.
///
/// While it does not listen, clients are refused, and no other program can take the port.
#[derive(Debug)]
pub(super) struct Listener {
    io: TcpListener,
    place: usize,
    address: SocketAddr,
    state: State,
    /// systemd holds the socket too, for which it always listens: what connects while the relay accepts nothing waits.
    is_inherited: bool,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// Bound only.
    Held,
    Listening {
        token: Token,
        /// What was not accepted yet gives no edge of its own.
        ready: bool,
        paused_until: Option<Instant>,
    },
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

/// Holds every one of `addresses`; their events come as places from `first_place` on. An error of any ends it, and names
/// the one that failed where there are several.
pub(super) fn hold(addresses: &[SocketAddr], first_place: usize) -> io::Result<Vec<Listener>> {
    take_or_hold(addresses, first_place, &mut Inherited::default())
}

/// The same, but for addresses at which there is an inherited socket.
pub(super) fn take_or_hold(
    addresses: &[SocketAddr],
    first_place: usize,
    inherited: &mut Inherited,
) -> io::Result<Vec<Listener>> {
    let held = addresses.iter().enumerate().map(|(index, &address)| {
        let place = first_place + index;
        if let Some(io) = inherited.take(address) {
            let io = TcpListener::from_std(io);
            return Ok(Listener { io, place, address, state: State::Held, is_inherited: true });
        }
        let named = |error: io::Error| match addresses {
            [_] => error,
            _ => io::Error::new(error.kind(), format!("{address}: {error}")),
        };
        let socket = bind(address).map_err(named)?;
        let address = socket.local_addr()?.as_socket().unwrap_or(address);
        // Past the first time that it listens the system lets no other socket bind beside it, not even one that asks
        // for that.
        let io = TcpListener::from_std(socket.into());
        let mut listener = Listener { io, place, address, state: State::Held, is_inherited: false };
        listener.start().and_then(|()| listener.halt()).map_err(named)?;
        Ok(listener)
    });
    held.collect()
}

/// A socket that has the address, port 0 being one of the system's choice, and does not listen.
fn bind(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // Connections of a relay that has ended must not keep the port from the next one.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    if address.port() == 0 {
        // Only a port that was asked for by its number stays bound when the socket no longer listens.
        let chosen = socket.local_addr()?.as_socket().map_or(0, |chosen| chosen.port());
        if chosen != 0 {
            return bind(SocketAddr::new(address.ip(), chosen));
        }
    }
    Ok(socket)
}

impl Listener {
    /// The address, with the port that the system chose.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether systemd holds it too, and will whatever the relay does.
    pub(super) fn is_inherited(&self) -> bool {
        self.is_inherited
    }

    /// What its events come as.
    pub(super) fn place(&self) -> usize {
        self.place
    }

    /// Has its events come as another place, from when it listens again.
    pub(super) fn set_place(&mut self, place: usize) {
        debug_assert!(!self.is_listening(), "its events come as the one that it has");
        self.place = place;
    }

    /// Gives the connections of clients their options.
    pub(super) fn tune(&self) -> io::Result<()> {
        net::tune_listener(&self.io)
    }

    /// Lets connections come.
    pub(super) fn listen(&mut self, event_loop: &mut EventLoop) -> io::Result<()> {
        if self.is_listening() {
            return Ok(());
        }
        self.start()?;
        match event_loop.register(&mut self.io, Source::Listener(self.place)) {
            Ok(token) => {
                self.state = State::Listening { token, ready: true, paused_until: None };
                Ok(())
            }
            Err(error) => {
                // The error that is given back is the one that matters.
                let _ = self.halt();
                Err(error)
            }
        }
    }

    /// Resets what was not accepted, and lets no more come; the port stays held. What comes to an inherited socket waits for
    /// the next relay instead.
    pub(super) fn stop(&mut self, event_loop: &mut EventLoop) -> io::Result<()> {
        let State::Listening { token, .. } = self.state else { return Ok(()) };
        event_loop.deregister(&mut self.io, token);
        self.state = State::Held;
        self.halt()
    }

    /// Brings the socket into a state in which the next [`stop`](Self::stop) fails.
    #[cfg(all(test, target_os = "linux"))]
    pub(super) fn end_listening(&self) {
        SockRef::from(&self.io).shutdown(Shutdown::Read).expect("it listens");
    }

    /// One whose socket cannot listen, since it is connected.
    #[cfg(test)]
    pub(super) fn that_cannot_listen(peer: &std::net::TcpListener) -> Self {
        let address = peer.local_addr().expect("an address");
        let socket = Socket::from(std::net::TcpStream::connect(address).expect("connect"));
        let io = TcpListener::from_std(socket.into());
        Self { io, place: 0, address, state: State::Held, is_inherited: false }
    }

    fn start(&self) -> io::Result<()> {
        if self.is_inherited {
            return Ok(());
        }
        let socket = SockRef::from(&self.io);
        // Every connection has it from here, and so lets the next relay have the port.
        socket.set_reuse_address(true)?;
        socket.listen(BACKLOG)
    }

    #[cfg(any(target_os = "android", target_os = "linux"))]
    fn halt(&mut self) -> io::Result<()> {
        if self.is_inherited {
            return Ok(());
        }
        let socket = SockRef::from(&self.io);
        // With it another program could bind the port that does not listen.
        socket.set_reuse_address(false)?;
        socket.shutdown(Shutdown::Read)
    }

    /// Elsewhere a socket listens for as long as it lives.
    #[cfg(not(any(target_os = "android", target_os = "linux")))]
    fn halt(&mut self) -> io::Result<()> {
        if self.is_inherited {
            return Ok(());
        }
        let socket = bind(self.address)?;
        self.io = TcpListener::from_std(socket.into());
        Ok(())
    }

    pub(super) fn is_listening(&self) -> bool {
        matches!(self.state, State::Listening { .. })
    }

    /// Somebody connected.
    pub(super) fn handle_event(&mut self) {
        if let State::Listening { ready, .. } = &mut self.state {
            *ready = true;
        }
    }

    /// One connection; `None` when there is none to take now.
    pub(super) fn accept(&mut self, now: Instant, shortage: &mut Shortage) -> Option<(TcpStream, SocketAddr)> {
        let State::Listening { ready, paused_until, .. } = &mut self.state else { return None };
        if paused_until.is_some_and(|until| until > now) {
            return None;
        }
        *paused_until = None;
        while *ready {
            match self.io.accept() {
                Ok((io, from)) => return Some((io, SocketAddr::new(from.ip().to_canonical(), from.port()))),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => *ready = false,
                // Of a connection that was gone before it was taken.
                Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted) => {
                }
                Err(error) => {
                    shortage.note(now, &error);
                    *paused_until = Some(now + PAUSE);
                    return None;
                }
            }
        }
        None
    }

    /// Whether there may be one to take now.
    pub(super) fn is_ready(&self, now: Instant) -> bool {
        let State::Listening { ready, paused_until, .. } = self.state else { return false };
        ready && paused_until.is_none_or(|until| until <= now)
    }

    /// Asks the system whether a connection waits: the last one that was announced may have been taken.
    pub(super) fn poll_one(&mut self) -> bool {
        let State::Listening { ready, .. } = &mut self.state else { return false };
        // One that comes after this gives an edge.
        *ready = !matches!(poll(&mut [PollFd::new(self.io.as_fd(), PollFlags::POLLIN)], PollTimeout::ZERO), Ok(0));
        *ready
    }

    /// Takes none for a moment.
    pub(super) fn pause(&mut self, now: Instant) {
        if let State::Listening { paused_until, .. } = &mut self.state {
            *paused_until = Some(now + PAUSE);
        }
    }

    /// When [`accept`](Self::accept) is worth another try.
    pub(super) fn paused_until(&self) -> Option<Instant> {
        if let State::Listening { paused_until, .. } = self.state { paused_until } else { None }
    }
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use std::net::{TcpListener as Other, TcpStream as Client};

    use super::*;

    fn held(address: &str) -> Listener {
        hold(&[address.parse().expect("an address")], 0).expect("a port").remove(0)
    }

    /// A program that would take the port, and asks for it in the way that shares the most.
    fn other_takes(address: SocketAddr) -> bool {
        bind(address).is_ok_and(|socket| socket.listen(1).is_ok())
    }

    #[test]
    fn a_port_is_held_whether_it_listens_or_not() {
        let mut event_loop = EventLoop::new().expect("poll");
        let mut listener = held("127.0.0.1:0");
        let address = listener.address();
        for _ in 0..3 {
            assert_eq!(Client::connect(address).expect_err("held").kind(), io::ErrorKind::ConnectionRefused);
            assert!(!other_takes(address) && Other::bind(address).is_err(), "held");
            listener.listen(&mut event_loop).expect("listening");
            assert!(!other_takes(address), "listening");
            let waits = Client::connect(address).expect("a place in the backlog");
            listener.stop(&mut event_loop).expect("stopped");
            let end = waits.peek(&mut [0]);
            assert_eq!(end.expect_err("not accepted").kind(), io::ErrorKind::ConnectionReset);
        }
        assert_eq!(listener.address(), address);
    }

    #[test]
    fn connections_of_the_last_relay_do_not_keep_the_port_from_the_next() {
        let mut event_loop = EventLoop::new().expect("poll");
        let mut shortage = Shortage::default();
        let mut listener = held("127.0.0.1:0");
        listener.listen(&mut event_loop).expect("listening");
        let address = listener.address();
        let open = Client::connect(address).expect("connected");
        let accepted = listener.accept(Instant::now(), &mut shortage).expect("accepted");
        let ended = Client::connect(address).expect("connected");
        // This side ends first, and remembers the connection for a minute.
        drop(listener.accept(Instant::now(), &mut shortage).expect("accepted"));
        drop(ended);
        listener.stop(&mut event_loop).expect("stopped");
        listener.listen(&mut event_loop).expect("listening again, beside its connections");
        drop(listener);
        assert!(held(&address.to_string()).listen(&mut event_loop).is_ok());
        drop((open, accepted));
    }

    #[test]
    fn an_inherited_socket_keeps_who_connects_while_the_relay_does_not_listen_and_after_its_end() {
        let mut event_loop = EventLoop::new().expect("poll");
        let of_systemd = Other::bind("127.0.0.1:0").expect("a port");
        let address = of_systemd.local_addr().expect("an address");
        let earlier = Client::connect(address).expect("a place in the backlog");
        let mut inherited = Inherited::of(vec![of_systemd.try_clone().expect("another descriptor")]);
        let mut listener = take_or_hold(&[address], 0, &mut inherited).expect("taken").remove(0);
        let accept = |listener: &mut Listener| listener.accept(Instant::now(), &mut Shortage::default());
        listener.listen(&mut event_loop).expect("listening");
        let (_io, from) = accept(&mut listener).expect("who came before the relay");
        assert_eq!(from, earlier.local_addr().expect("address"));
        listener.stop(&mut event_loop).expect("stopped");
        let later = Client::connect(address).expect("a place in the backlog");
        assert!(accept(&mut listener).is_none());
        drop(listener);
        assert_eq!(of_systemd.accept().expect("it waits").1, later.local_addr().expect("address"));
    }

    #[test]
    fn every_interface_is_every_interface_of_both_families_and_ipv4_is_shown_as_such() {
        let mut event_loop = EventLoop::new().expect("poll");
        let mut listener = held("[::]:0");
        listener.listen(&mut event_loop).expect("listening");
        for host in ["127.0.0.1", "::1"] {
            let client = Client::connect((host, listener.address().port())).expect(host);
            let (_io, from) = listener.accept(Instant::now(), &mut Shortage::default()).expect("accepted");
            assert_eq!(from, client.local_addr().expect("address"));
        }
    }
}
