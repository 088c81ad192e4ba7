//! What a session does with the sockets of its streams.

use std::io::{self, IoSlice, Read};
use std::time::Instant;

use mio::Token;

use super::Session;
use super::socket::{Place, StreamSocket, Traffic, code_of, total};
use super::state::{Reading, Writing};
use crate::connection::{Connection, FRAMES_A_READ, Room, StreamKey};
use crate::io::Io;
use crate::io::event_loop::{Readiness, Registry, Source};
use crate::io::socket::Socket;
use crate::protocol::v2::Code;

impl<C: Connection, R: Registry> Session<C, R> {
    /// The connected socket of a stream, registered under `token`.
    pub fn attach(&mut self, io: &mut Io<R>, key: StreamKey, tcp: R::Socket, token: Token) {
        io.event_loop.rename(token, Source::Stream(self.number as u32, key));
        let index = key.index as usize;
        if index >= self.sockets.len() {
            self.sockets.resize_with(index + 1, || Place::Free);
        }
        let old = self.sockets[index].socket().map(|socket| socket.key);
        debug_assert!(old.is_none(), "outputs are carried out before a slot is used again");
        if let Some(old) = old {
            self.reset(io, old);
        }
        self.sockets[index] = Place::Open(StreamSocket::new(key, tcp, token));
    }

    /// Takes the event of a stream's socket, and writes what waits for it.
    pub fn handle_stream_event(&mut self, now: Instant, io: &mut Io<R>, key: StreamKey, event: Readiness) {
        let Some(socket) = self.socket(key) else { return };
        socket.writing.handle_event(event);
        if event.hung_up && socket.reading == Reading::Ended {
            let error = socket.tcp.take_error();
            self.fail(now, io, key, &error.unwrap_or_else(|| io::ErrorKind::ConnectionReset.into()));
            return;
        }
        if socket.reading.handle_event(event) {
            self.enqueue(key);
        }
        self.flush_stream(now, io, key);
    }

    /// Ends a stream by the owner's wish: its socket, if it has one, with RST. The peer gets the reason.
    pub fn give_up(&mut self, now: Instant, io: &mut Io<R>, key: StreamKey, code: Code, reason: &str) {
        if let Some(socket) = self.take(key) {
            io.event_loop.forget(socket.token);
            socket.tcp.reset();
            if let Some(Place::Over(_, traffic)) = self.sockets.get_mut(key.index as usize) {
                traffic.failure = Some(Box::new((code, reason.into())));
            }
        }
        self.connection.handle_failure(now, key, code, reason);
    }

    /// What went through a stream's socket, be it over or not.
    pub(crate) fn traffic(&self, key: StreamKey) -> Option<&Traffic> {
        let (of, traffic) = match self.sockets.get(key.index as usize)? {
            Place::Free => return None,
            Place::Open(socket) => (socket.key, &socket.traffic),
            Place::Over(of, traffic) => (*of, traffic),
        };
        (of == key).then_some(traffic)
    }

    /// The stream's socket may be read from now on; what waits for it is written.
    pub(super) fn start(&mut self, now: Instant, io: &mut Io<R>, key: StreamKey) {
        self.enqueue(key);
        self.flush_stream(now, io, key);
    }

    /// Ends the sending side of the stream's socket with FIN; what its peer sends is still read.
    pub(super) fn shutdown_write(&mut self, key: StreamKey) {
        if let Some(socket) = self.socket(key) {
            // It fails only where the socket has failed, which its next event tells.
            let _ = socket.tcp.shutdown_write();
            socket.writing.handle_shutdown();
        }
    }

    /// Ends the stream's socket with FIN; its peer is given a little time to do the same.
    pub(super) fn finish(&mut self, now: Instant, io: &mut Io<R>, key: StreamKey) {
        let Some(socket) = self.take(key) else { return };
        socket.tcp.clear_linger();
        if socket.reading == Reading::Ended || matches!(socket.writing, Writing::Failed(_)) {
            socket.tcp.finish();
            io.event_loop.forget(socket.token);
        } else {
            io.closing.add(now, &mut io.event_loop, self.owner, socket.tcp, socket.token);
        }
    }

    /// Ends the stream's socket with RST.
    pub(super) fn reset(&mut self, io: &mut Io<R>, key: StreamKey) {
        if let Some(socket) = self.take(key) {
            io.event_loop.forget(socket.token);
            socket.tcp.reset();
        }
    }

    /// Writes what came for a stream to its socket.
    pub(super) fn deliver(&mut self, now: Instant, io: &mut Io<R>, key: StreamKey, pieces: &[IoSlice<'_>]) {
        let all = total(pieces);
        // Without a socket they are dropped.
        let taken = self.socket(key).map_or(Ok(all), |socket| socket.write(pieces));
        let mut left = *taken.as_ref().unwrap_or(&all);
        for piece in pieces {
            let taken = left.min(piece.len());
            left -= taken;
            self.connection.delivered(now, key, piece, taken);
        }
        if let Err(error) = taken {
            self.handle_write_failure(now, io, key, error);
        }
    }

    /// Writes what waits for the stream's socket.
    fn flush_stream(&mut self, now: Instant, io: &mut Io<R>, key: StreamKey) {
        loop {
            let Some(socket) = find(&mut self.sockets, key) else { return };
            let pending = self.connection.pending(key);
            if pending.is_empty() || matches!(socket.writing, Writing::Full) {
                return;
            }
            match socket.write(&[IoSlice::new(pending)]) {
                Ok(count) => self.connection.advance(now, key, count),
                Err(error) => return self.handle_write_failure(now, io, key, error),
            }
        }
    }

    /// The peer takes no more. What it sent before is read first, then the stream fails.
    fn handle_write_failure(&mut self, now: Instant, io: &mut Io<R>, key: StreamKey, error: io::Error) {
        let Some(socket) = self.socket(key) else { return };
        let has_ended = socket.reading == Reading::Ended;
        if has_ended || !self.connection.may_read(key) {
            self.fail(now, io, key, &error);
        } else {
            let Some(socket) = self.socket(key) else { return };
            socket.writing = Writing::Failed(error);
            socket.reading = socket.reading.max(Reading::MoreBehind);
            self.enqueue(key);
            self.flush_stream(now, io, key);
        }
    }

    /// One read of each readable stream; true if some have more and the link has room.
    pub(super) fn read_streams(&mut self, now: Instant, io: &mut Io<R>) -> bool {
        for _ in 0..self.scheduler.len() {
            let Some(key) = self.scheduler.front() else { break };
            if !self.read_stream(now, io, key) {
                return false;
            }
        }
        self.scheduler.len() > 0
    }

    /// One read of the stream whose turn it is; false if the link must be written first.
    fn read_stream(&mut self, now: Instant, io: &mut Io<R>, key: StreamKey) -> bool {
        let Some(socket) = find(&mut self.sockets, key) else { return true };
        let contended = self.scheduler.is_contended(now, &socket.activity);
        // Where others wait each has a frame at a time.
        let frames = if self.scheduler.len() > 1 || contended { 1 } else { FRAMES_A_READ };
        let result = if socket.reading.is_readable() {
            match self.connection.reserve(key, contended) {
                Room::Full => return false,
                // Its turn comes, or the link is lost: what was sent before it failed is to arrive.
                Room::Unwanted | Room::Paced => None,
                // What has failed is not to wait for credit that may never come: what was sent before is cut with it.
                Room::Blocked => socket.take_error().map(|error| (Err(error), 0)),
                Room::Free(mut room) => {
                    let room = &mut room[..frames];
                    Some((socket.tcp.read_vectored(room), room.iter().map(|payload| payload.len()).sum()))
                }
            }
        } else {
            None
        };
        self.scheduler.pop(&mut socket.activity);
        if let Some((Ok(count), room)) = result {
            self.scheduler.note(now, &mut socket.activity, count, room);
        }
        match result {
            None => {}
            Some((Ok(0), _)) => {
                // The edge of a RST may have come before the end was read.
                let error = socket.take_error();
                socket.reading = Reading::Ended;
                match error {
                    Some(error) => self.fail(now, io, key, &error),
                    None => self.connection.handle_end(now, key),
                }
            }
            Some((Ok(count), room)) => {
                socket.reading.handle_read(count < room);
                socket.traffic.read += count as u64;
                if socket.reading.is_readable() {
                    self.enqueue(key);
                }
                self.connection.commit(now, key, count);
            }
            Some((Err(error), _)) if error.kind() == io::ErrorKind::WouldBlock => {
                // One that cannot be written has nothing more to come; any other tells at the next event.
                socket.reading = Reading::Empty;
                if let Some(error) = socket.take_error() {
                    self.fail(now, io, key, &error);
                }
            }
            Some((Err(error), _)) if error.kind() == io::ErrorKind::Interrupted => self.enqueue(key),
            Some((Err(error), _)) => self.fail(now, io, key, &error),
        }
        true
    }

    /// The stream's socket is of no more use.
    pub(super) fn fail(&mut self, now: Instant, io: &mut Io<R>, key: StreamKey, error: &io::Error) {
        self.give_up(now, io, key, code_of(error), &error.to_string());
    }

    /// Streams that may be read again stand in line with the others.
    pub(super) fn enqueue_unblocked(&mut self, now: Instant) {
        self.connection.handle_pacing(now);
        while let Some(key) = self.connection.poll_unblocked() {
            self.enqueue(key);
        }
    }

    pub(super) fn enqueue(&mut self, key: StreamKey) {
        if let Some(socket) = find(&mut self.sockets, key) {
            self.scheduler.push(key, &mut socket.activity);
        }
    }

    pub(super) fn socket(&mut self, key: StreamKey) -> Option<&mut StreamSocket<R::Socket>> {
        find(&mut self.sockets, key)
    }

    fn take(&mut self, key: StreamKey) -> Option<StreamSocket<R::Socket>> {
        let place = self.sockets.get_mut(key.index as usize)?;
        let traffic = place.socket().filter(|socket| socket.key == key)?.traffic.clone();
        let socket = std::mem::replace(place, Place::Over(key, traffic)).into_socket()?;
        self.scheduler.forget(key, &socket.activity);
        Some(socket)
    }
}

/// The stream's socket, while the rest of the session is in use.
fn find<S>(sockets: &mut [Place<S>], key: StreamKey) -> Option<&mut StreamSocket<S>> {
    sockets.get_mut(key.index as usize)?.socket_mut().filter(|socket| socket.key == key)
}
