//! Sockets that were ended with FIN and wait for their peer's, so that bytes on their way are not cut by a RST.
//!
//! Closing a socket with unread bytes makes the kernel send RST, and a RST destroys what the peer has not read
//! yet. So what the peer still sends is read and dropped, for a short while.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::net::Shutdown;
use std::time::{Duration, Instant};

use mio::Token;
use mio::net::TcpStream;

use crate::event_loop::{EventLoop, Source};
use crate::net;

/// How long the peer has to finish.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Sockets that wait at once; past it the oldest is closed.
const MOST: usize = 256;
/// Reads for one event, so that no peer keeps the loop busy.
const READS: usize = 4;

/// The waiting sockets of one loop.
#[derive(Debug, Default)]
pub(crate) struct Lingering {
    /// In the order of their deadlines; entries of sockets that are gone are skipped.
    order: VecDeque<(Instant, usize, Token)>,
    sockets: Vec<Option<Socket>>,
    free: Vec<usize>,
}

#[derive(Debug)]
struct Socket {
    io: TcpStream,
    token: Token,
    /// The peer sent bytes that nobody will read: at the end it is told by RST.
    discarded: bool,
}

impl Lingering {
    /// Ends `io` with FIN and keeps it until its peer has done the same.
    pub(crate) fn add(&mut self, now: Instant, event_loop: &mut EventLoop, mut io: TcpStream, token: Token) {
        if io.shutdown(Shutdown::Write).is_err() {
            event_loop.deregister(&mut io, token);
            return;
        }
        if self.len() == MOST {
            let oldest = self.order.iter().find(|entry| self.is_there(entry.1, entry.2)).map(|entry| entry.1);
            if let Some(oldest) = oldest {
                self.close(event_loop, oldest);
            }
        }
        let place = self.free.pop().unwrap_or(self.sockets.len());
        if place == self.sockets.len() {
            self.sockets.push(None);
        }
        event_loop.rename(token, Source::Lingering(place));
        self.sockets[place] = Some(Socket { io, token, discarded: false });
        self.order.push_back((now + TIMEOUT, place, token));
        // The edge that told of readable bytes may have come before.
        self.handle_event(event_loop, place);
    }

    /// The socket at `place` is readable, or at its end.
    pub(crate) fn handle_event(&mut self, event_loop: &mut EventLoop, place: usize) {
        let mut buffer = [0; 16 * 1024];
        for _ in 0..READS {
            let Some(Some(socket)) = self.sockets.get_mut(place) else { return };
            match socket.io.read(&mut buffer) {
                Ok(0) => return self.close(event_loop, place),
                Ok(_) => socket.discarded = true,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return self.close(event_loop, place),
            }
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    pub(crate) fn poll_timeout(&mut self) -> Option<Instant> {
        while let Some(&(at, place, token)) = self.order.front() {
            if self.is_there(place, token) {
                return Some(at);
            }
            self.order.pop_front();
        }
        None
    }

    /// Closes what has had its time.
    pub(crate) fn handle_timeout(&mut self, now: Instant, event_loop: &mut EventLoop) {
        while self.poll_timeout().is_some_and(|at| at <= now) {
            if let Some((_, place, _)) = self.order.pop_front() {
                self.close(event_loop, place);
            }
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.sockets.len() - self.free.len()
    }

    /// Tokens carry a generation, so they tell one socket at a place from the next.
    fn is_there(&self, place: usize, token: Token) -> bool {
        self.sockets[place].as_ref().is_some_and(|socket| socket.token == token)
    }

    fn close(&mut self, event_loop: &mut EventLoop, place: usize) {
        if let Some(mut socket) = self.sockets[place].take() {
            event_loop.deregister(&mut socket.io, socket.token);
            self.free.push(place);
            if socket.discarded {
                net::reset(&socket.io);
            }
        }
    }
}
