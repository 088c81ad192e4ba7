//! One link and the sockets of its streams: the mio half that device and relay share.
//!
//! The session moves bytes between sockets and a [`Connection`], and ends sockets as that asks for. Its owner brings it
//! connected sockets ([`attach`](Session::attach)), and is told of everything ([`poll_output`](Session::poll_output)).

mod scheduler;
mod socket;
mod user_timeout;

use std::io::{self, IoSlice, Read};
use std::net::Shutdown;
#[cfg(feature = "relay")]
use std::net::SocketAddr;
#[cfg(feature = "relay")]
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::Token;
use mio::net::TcpStream;
use scheduler::Scheduler;
pub(crate) use socket::Traffic;
use socket::{Socket, code_of, write};
use user_timeout::UserTimeout;

#[cfg(feature = "relay")]
use crate::address::Address;
use crate::connection::device::Device;
#[cfg(feature = "relay")]
use crate::connection::relay::Relay;
use crate::connection::{Connection, Delivery, FRAMES_A_READ, Output, Room, StreamKey};
use crate::io::closing::ClosingSockets;
use crate::io::event_loop::{EventLoop, LATE, Readiness, Source};
use crate::io::net;
use crate::protocol::ProtocolError;
use crate::protocol::v2::Code;

/// Bytes that one read of the link takes at most.
pub(crate) const LINK_BUFFER: usize = 256 * 1024;
/// The same, while somebody may be waiting for an answer.
const INTERACTIVE_READ: usize = 32 * 1024;
/// Neighbouring pieces of one stream that one write to its socket carries.
const PIECES: usize = 16;
/// Rounds over the readable streams that one write of the link carries, while nobody waits for an answer. A stream alone
/// fills the link with one read.
const ROUNDS_A_WRITE: usize = 3;

/// How long a process that was late may read what came meanwhile, and what its peer's system could not send.
const GRACE: Duration = Duration::from_millis(500);

/// One link, its connection, and the sockets of its streams.
#[derive(Debug)]
pub(crate) struct Session<C> {
    connection: C,
    number: usize,
    link: Option<Link>,
    /// By the index of their stream's key.
    sockets: Vec<Option<Socket>>,
    /// What went through those that are over, until the next stream takes the index.
    over: Vec<Option<(StreamKey, Traffic)>>,
    scheduler: Scheduler,
    /// What is due waits until then: the loop was stopped for long.
    grace: Option<Instant>,
}

/// Why there is no link any more.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkLost {
    #[error("the other end closed it")]
    Ended,
    #[error("{0}")]
    Failed(#[from] io::Error),
    #[error("{0}")]
    Protocol(#[from] ProtocolError),
}

#[derive(Debug)]
struct Link {
    io: TcpStream,
    token: Token,
    readable: bool,
    writable: bool,
    /// There may be more behind a short read: the end, or what follows an urgent byte.
    ended: bool,
    user_timeout: UserTimeout,
}

impl<C: Connection> Session<C> {
    /// A session on a connected link, registered as [`Source::Link`] of `number`.
    pub(crate) fn new(connection: C, number: usize, io: TcpStream, token: Token) -> Self {
        // An edge may have come before the session was there to see it: try both first.
        let user_timeout = UserTimeout::Off;
        let link = Some(Link { io, token, readable: true, writable: true, ended: false, user_timeout });
        let (sockets, over, scheduler) = (Vec::new(), Vec::new(), Scheduler::default());
        Self { connection, number, link, sockets, over, scheduler, grace: None }
    }

    /// The connected socket of a stream, registered under `token`.
    pub(crate) fn attach(&mut self, event_loop: &mut EventLoop, key: StreamKey, io: TcpStream, token: Token) {
        event_loop.rename(token, Source::Stream(self.number as u32, key));
        let index = key.index as usize;
        if index >= self.sockets.len() {
            self.sockets.resize_with(index + 1, || None);
            self.over.resize_with(index + 1, || None);
        }
        debug_assert!(self.sockets[index].is_none(), "outputs are carried out before a slot is used again");
        if let Some(old) = self.sockets[index].as_ref().map(|socket| socket.key) {
            self.reset(event_loop, old);
        }
        self.sockets[index] = Some(Socket::new(key, io, token));
    }

    /// What the session's connection knows.
    pub(crate) fn connection(&self) -> &C {
        &self.connection
    }

    /// The next output of the connection, for the owner to know of: what it asks of sockets is done.
    pub(crate) fn poll_output(
        &mut self,
        now: Instant,
        event_loop: &mut EventLoop,
        closing: &mut ClosingSockets,
    ) -> Option<Output> {
        let output = self.connection.poll_output()?;
        match output {
            Output::Version(version) if version >= 2 => self.tune_link_v2(),
            Output::Opened { stream, .. } => self.start(now, event_loop, stream),
            Output::ShutdownWrite { stream } => self.shutdown_write(stream),
            Output::Finish { stream } => self.finish(now, event_loop, closing, stream),
            Output::Reset { stream, .. } => self.reset(event_loop, stream),
            Output::Version(_)
            | Output::Listening
            | Output::Introduced(_)
            | Output::Connect { .. }
            | Output::Malformed { .. }
            | Output::EarlyDropped { .. }
            | Output::Connected { .. }
            | Output::Gone { .. }
            | Output::GoAway(_) => {}
        }
        Some(output)
    }

    /// See [`Connection::go_away`].
    pub(crate) fn go_away(&mut self, now: Instant, code: Code, retry_after: u16, reason: &str) {
        self.connection.go_away(now, code, retry_after, reason);
    }

    /// See [`Connection::close`].
    pub(crate) fn close(&mut self, now: Instant) {
        self.connection.close(now);
    }

    /// The stream's socket may be read from now on; what waits for it is written.
    fn start(&mut self, now: Instant, event_loop: &mut EventLoop, key: StreamKey) {
        self.enqueue(key);
        self.flush_stream(now, event_loop, key);
    }

    /// Ends the sending side of the stream's socket with FIN; what its peer sends is still read.
    fn shutdown_write(&mut self, key: StreamKey) {
        if let Some(socket) = self.socket(key) {
            // It fails only where the socket has failed, which its next event tells.
            let _ = socket.io.shutdown(Shutdown::Write);
        }
    }

    /// Ends the stream's socket with FIN; its peer is given a little time to do the same.
    fn finish(&mut self, now: Instant, event_loop: &mut EventLoop, closing: &mut ClosingSockets, key: StreamKey) {
        let Some(mut socket) = self.take(key) else { return };
        net::clear_linger(&socket.io);
        if socket.at_end || socket.write_error.is_some() {
            net::finish(&socket.io);
            event_loop.deregister(&mut socket.io, socket.token);
        } else {
            closing.add(now, event_loop, socket.io, socket.token);
        }
    }

    /// Ends the stream's socket with RST.
    fn reset(&mut self, event_loop: &mut EventLoop, key: StreamKey) {
        if let Some(mut socket) = self.take(key) {
            event_loop.deregister(&mut socket.io, socket.token);
            net::reset(&socket.io);
        }
    }

    /// Takes the link's event; [`turn`](Self::turn) acts on it.
    pub(crate) fn handle_link_event(&mut self, event: Readiness) {
        if let Some(link) = &mut self.link {
            link.readable |= event.readable || event.ended;
            link.writable |= event.writable || event.failed;
            link.ended |= event.ended;
        }
    }

    /// Takes the event of a stream's socket, and writes what waits for it.
    pub(crate) fn handle_stream_event(
        &mut self,
        now: Instant,
        event_loop: &mut EventLoop,
        key: StreamKey,
        event: Readiness,
    ) {
        let Some(socket) = self.socket(key) else { return };
        socket.writable |= event.writable || event.failed;
        if event.readable || event.ended {
            socket.readable = true;
            socket.ended |= event.ended;
            socket.failed |= event.failed;
            if event.failed && socket.at_end {
                let error = socket.io.take_error().ok().flatten();
                self.fail(now, event_loop, key, &error.unwrap_or_else(|| io::ErrorKind::ConnectionReset.into()));
                return;
            }
            self.enqueue(key);
        }
        self.flush_stream(now, event_loop, key);
    }

    /// One read of the link, some of the streams, one write, what they carry, and what is due; true if there is more
    /// to move at once. It is that little so that a keystroke, whose event the loop has not seen yet, does not wait for
    /// many of somebody else's reads.
    pub(crate) fn turn(
        &mut self,
        now: Instant,
        event_loop: &mut EventLoop,
        buffer: &mut [u8],
    ) -> Result<bool, LinkLost> {
        let most = if self.scheduler.is_interactive(now) { INTERACTIVE_READ.min(buffer.len()) } else { buffer.len() };
        self.read_link(now, event_loop, &mut buffer[..most])?;
        while let Some(key) = self.connection.poll_unblocked() {
            self.enqueue(key);
        }
        let mut more = self.read_streams(now, event_loop);
        for _ in 1..ROUNDS_A_WRITE {
            if more && self.scheduler.len() > 1 && !self.scheduler.is_interactive(now) {
                more = self.read_streams(now, event_loop);
            }
        }
        if let Err(error) = self.flush_link(now) {
            self.read_rest_of_link(now, event_loop, buffer);
            return Err(error.into());
        }
        // Only now: a loop that was stopped for long would take what waits to be read, or written, for silence.
        self.handle_timeout(now)?;
        Ok(self.has_work())
    }

    /// When the next [`turn`](Self::turn) is due though nothing has come.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let user_timeout = self.link.as_ref().and_then(|link| link.user_timeout.poll_timeout());
        let connection = self.grace.or_else(|| self.connection.poll_timeout());
        [user_timeout, connection].into_iter().flatten().min()
    }

    fn handle_timeout(&mut self, now: Instant) -> Result<(), ProtocolError> {
        if let Some(link) = &mut self.link {
            link.user_timeout.handle_timeout(now, &link.io);
        }
        if self.waits_for_what_came(now) || self.connection.poll_timeout().is_none_or(|at| at > now) {
            return Ok(());
        }
        self.connection.handle_timeout(now)
    }

    /// Whether what is due is not acted on yet: what came while the loop was stopped is to be read before.
    fn waits_for_what_came(&mut self, now: Instant) -> bool {
        let is_late = self.has_link() && self.connection.poll_timeout().is_some_and(|at| at + LATE <= now);
        let until = self.grace.or_else(|| is_late.then(|| now + GRACE));
        self.grace = until.filter(|&until| is_late && now < until);
        self.grace.is_some()
    }

    /// Whether [`turn`](Self::turn) would find something to do without a new event.
    fn has_work(&self) -> bool {
        let Some(link) = &self.link else { return false };
        let input = link.readable && self.connection.wants_input();
        let output = link.writable && self.connection.has_unsent();
        // Streams wait for the link to be writable, unless it is.
        let streams = link.writable && self.scheduler.len() > 0;
        input || output || streams
    }

    /// Version 2 is spoken from here on.
    fn tune_link_v2(&mut self) {
        if let Some(link) = &mut self.link {
            link.user_timeout = UserTimeout::Unwatched;
            // The options only hasten what the protocol does without them.
            let _ = net::tune_link_v2(&link.io);
        }
    }

    /// Whether the link is still there.
    pub(crate) fn has_link(&self) -> bool {
        self.link.is_some()
    }

    /// How the other end of the link has ended it, if that is what stands behind what was read so far.
    #[cfg(feature = "relay")]
    pub(crate) fn link_end(&self) -> Option<LinkLost> {
        match self.link.as_ref()?.io.peek(&mut [0]) {
            Ok(0) => Some(LinkLost::Ended),
            Ok(_) => None,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => None,
            Err(error) => Some(error.into()),
        }
    }

    /// What went through a stream's socket, be it over or not.
    pub(crate) fn traffic(&self, key: StreamKey) -> Option<&Traffic> {
        let index = key.index as usize;
        if let Some(socket) = self.sockets.get(index)?.as_ref().filter(|socket| socket.key == key) {
            return Some(&socket.traffic);
        }
        self.over.get(index)?.as_ref().filter(|(over, _)| *over == key).map(|(_, traffic)| traffic)
    }

    /// Ends a stream by the owner's wish: its socket, if it has one, with RST. The peer is told why.
    pub(crate) fn give_up(
        &mut self,
        now: Instant,
        event_loop: &mut EventLoop,
        key: StreamKey,
        code: Code,
        reason: &str,
    ) {
        if let Some(mut socket) = self.take(key) {
            event_loop.deregister(&mut socket.io, socket.token);
            net::reset(&socket.io);
            if let Some(Some((_, traffic))) = self.over.get_mut(key.index as usize) {
                traffic.failure = Some((code, reason.into()));
            }
        }
        self.connection.handle_failure(now, key, code, reason);
    }

    /// Ends the link with FIN, so that what was written still arrives.
    pub(crate) fn close_link(&mut self, now: Instant, event_loop: &mut EventLoop, closing: &mut ClosingSockets) {
        if let Some(link) = self.link.take() {
            closing.add(now, event_loop, link.io, link.token);
        }
        self.connection.handle_link_lost(now);
    }

    /// Ends a link that carries nothing, without a wait: there is nothing that a RST could destroy. The peer is told,
    /// in one try, where the protocol has a word for it.
    pub(crate) fn close_idle_link(&mut self, now: Instant, event_loop: &mut EventLoop) {
        if self.connection.streams() > 0 || self.connection.has_unsent() {
            return;
        }
        self.connection.close(now);
        // If it fails the link is lost, and over all the same.
        let _ = self.flush_link(now);
        if let Some(mut link) = self.link.take() {
            net::finish(&link.io);
            event_loop.deregister(&mut link.io, link.token);
        }
        self.connection.handle_link_lost(now);
    }

    /// Ends the link with RST: it is lost, or its other end is not to have it any more. The last word has one try, and
    /// waits for nothing.
    pub(crate) fn abort_link(&mut self, now: Instant, event_loop: &mut EventLoop) {
        if self.connection.has_last_word() {
            // If it fails the link was lost before.
            let _ = self.flush_link(now);
        }
        if let Some(mut link) = self.link.take() {
            event_loop.deregister(&mut link.io, link.token);
            net::reset(&link.io);
        }
        self.connection.handle_link_lost(now);
    }

    /// Ends everything that is left with RST: its time is up, and no peer is to take it for complete.
    pub(crate) fn abort(&mut self, now: Instant, event_loop: &mut EventLoop) {
        self.abort_link(now, event_loop);
        for mut socket in self.sockets.drain(..).flatten() {
            event_loop.deregister(&mut socket.io, socket.token);
            net::reset(&socket.io);
        }
    }

    /// One read of the link and what follows from it; false if there is nothing more to read now.
    fn read_link(&mut self, now: Instant, event_loop: &mut EventLoop, buffer: &mut [u8]) -> Result<bool, LinkLost> {
        let Some(link) = &mut self.link else { return Ok(false) };
        if !link.readable || !self.connection.wants_input() {
            return Ok(false);
        }
        let most = self.connection.read_size(buffer.len());
        let buffer = &mut buffer[..most];
        let count = match link.io.read(buffer) {
            Ok(0) => return Err(LinkLost::Ended),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                link.readable = false;
                link.user_timeout.handle_read(&link.io);
                return Ok(false);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(true),
            Err(error) => return Err(error.into()),
        };
        // A short read has emptied a stream socket (epoll(7)), unless more may stand behind.
        link.readable = count == buffer.len() || link.ended;
        if count < buffer.len() {
            link.user_timeout.handle_read(&link.io);
        }
        let more = link.readable;
        let mut input = &buffer[..count];
        while let Some(Delivery { stream, bytes }) = self.connection.receive(now, &mut input)? {
            let (mut pieces, mut count) = ([IoSlice::new(&[]); PIECES], 1);
            pieces[0] = IoSlice::new(bytes);
            let mut result = Ok(());
            while count < PIECES && self.connection.goes_on(stream, input) {
                match self.connection.receive(now, &mut input) {
                    Ok(Some(next)) => {
                        debug_assert_eq!(next.stream, stream, "it goes on");
                        pieces[count] = IoSlice::new(next.bytes);
                        count += 1;
                    }
                    Ok(None) => break,
                    Err(error) => {
                        result = Err(error);
                        break;
                    }
                }
            }
            self.deliver(now, event_loop, stream, &pieces[..count]);
            result?;
        }
        Ok(more)
    }

    /// The link takes no more. What its other end sent before that is there to be read, such as why.
    fn read_rest_of_link(&mut self, now: Instant, event_loop: &mut EventLoop, buffer: &mut [u8]) {
        if let Some(link) = &mut self.link {
            (link.readable, link.ended) = (true, true);
        }
        while let Ok(true) = self.read_link(now, event_loop, buffer) {}
    }

    /// Writes what came for a stream to its socket.
    fn deliver(&mut self, now: Instant, event_loop: &mut EventLoop, key: StreamKey, pieces: &[IoSlice<'_>]) {
        let all = pieces.iter().map(|piece| piece.len()).sum();
        let taken = match self.socket(key) {
            // Nobody is there to take them.
            None => Ok(all),
            Some(socket) if socket.write_error.is_some() => Ok(all),
            Some(socket) if !socket.writable => Ok(0),
            Some(socket) => socket.write(pieces),
        };
        let mut left = *taken.as_ref().unwrap_or(&all);
        for piece in pieces {
            let taken = left.min(piece.len());
            left -= taken;
            self.connection.delivered(now, key, piece, taken);
        }
        if let Err(error) = taken {
            self.handle_write_failure(now, event_loop, key, error);
        }
    }

    /// Writes what waits for the stream's socket.
    fn flush_stream(&mut self, now: Instant, event_loop: &mut EventLoop, key: StreamKey) {
        loop {
            let Some(socket) = find(&mut self.sockets, key) else { return };
            let pending = self.connection.pending(key);
            if pending.is_empty() || !socket.writable {
                return;
            }
            let result =
                if socket.write_error.is_some() { Ok(pending.len()) } else { socket.write(&[IoSlice::new(pending)]) };
            match result {
                Ok(count) => self.connection.advance(now, key, count),
                Err(error) => return self.handle_write_failure(now, event_loop, key, error),
            }
        }
    }

    /// The peer takes no more. What it sent before is read first, then the stream fails.
    fn handle_write_failure(&mut self, now: Instant, event_loop: &mut EventLoop, key: StreamKey, error: io::Error) {
        let Some(socket) = self.socket(key) else { return };
        if socket.at_end || matches!(self.connection.reserve(key, false), Room::Unwanted | Room::Blocked) {
            self.fail(now, event_loop, key, &error);
        } else {
            let Some(socket) = self.socket(key) else { return };
            socket.write_error = Some(error);
            socket.readable = true;
            socket.ended = true;
            self.enqueue(key);
            self.flush_stream(now, event_loop, key);
        }
    }

    /// One read of each readable stream; true if some have more and the link has room.
    fn read_streams(&mut self, now: Instant, event_loop: &mut EventLoop) -> bool {
        for _ in 0..self.scheduler.len() {
            let Some(key) = self.scheduler.front() else { break };
            if !self.read_stream(now, event_loop, key) {
                return false;
            }
        }
        self.scheduler.len() > 0
    }

    /// One read of the stream whose turn it is; false if the link must be written first.
    fn read_stream(&mut self, now: Instant, event_loop: &mut EventLoop, key: StreamKey) -> bool {
        let Some(socket) = find(&mut self.sockets, key) else { return true };
        let contended = self.scheduler.is_contended(now, &socket.activity);
        // Where others wait each has a frame at a time.
        let frames = if self.scheduler.len() > 1 || contended { 1 } else { FRAMES_A_READ };
        let result = if socket.readable {
            match self.connection.reserve(key, contended) {
                Room::Full => return false,
                Room::Unwanted => None,
                // A RST is not to wait for credit that may never come: what was sent before it is cut with it.
                Room::Blocked if socket.failed => match socket.io.take_error() {
                    Ok(Some(error)) => Some((Err(error), 0)),
                    Ok(None) | Err(_) => None,
                },
                Room::Blocked => None,
                Room::Free(mut room) => {
                    let room = &mut room[..frames];
                    Some((socket.io.read_vectored(room), room.iter().map(|payload| payload.len()).sum()))
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
                socket.readable = false;
                socket.at_end = true;
                // The edge of a RST may have come before the end was read.
                let failure = if socket.failed { socket.io.take_error().ok().flatten() } else { None };
                match socket.write_error.take().or(failure) {
                    Some(error) => self.fail(now, event_loop, key, &error),
                    None => self.connection.handle_end(now, key),
                }
            }
            Some((Ok(count), room)) => {
                socket.readable = count == room || socket.ended;
                socket.traffic.read += count as u64;
                if socket.readable {
                    self.enqueue(key);
                }
                self.connection.commit(now, key, count);
            }
            Some((Err(error), _)) if error.kind() == io::ErrorKind::WouldBlock => {
                // A socket that failed has nothing more to come; an ended one tells so at the next event.
                socket.readable = false;
                if let Some(error) = socket.write_error.take() {
                    self.fail(now, event_loop, key, &error);
                }
            }
            Some((Err(error), _)) if error.kind() == io::ErrorKind::Interrupted => self.enqueue(key),
            Some((Err(error), _)) => self.fail(now, event_loop, key, &error),
        }
        true
    }

    /// The stream's socket is of no more use.
    fn fail(&mut self, now: Instant, event_loop: &mut EventLoop, key: StreamKey, error: &io::Error) {
        self.give_up(now, event_loop, key, code_of(error), &error.to_string());
    }

    fn flush_link(&mut self, now: Instant) -> io::Result<()> {
        let Some(link) = &mut self.link else { return Ok(()) };
        while link.writable && self.connection.has_unsent() {
            let count = write(&mut link.io, &mut link.writable, &[IoSlice::new(self.connection.unsent())])?;
            link.user_timeout.handle_write(now, &link.io);
            self.connection.advance_link(now, count);
        }
        Ok(())
    }

    fn enqueue(&mut self, key: StreamKey) {
        if let Some(socket) = find(&mut self.sockets, key) {
            self.scheduler.push(key, &mut socket.activity);
        }
    }

    fn socket(&mut self, key: StreamKey) -> Option<&mut Socket> {
        find(&mut self.sockets, key)
    }

    fn take(&mut self, key: StreamKey) -> Option<Socket> {
        let socket = self.sockets.get_mut(key.index as usize)?.take_if(|socket| socket.key == key)?;
        self.scheduler.forget(key, &socket.activity);
        if let Some(over) = self.over.get_mut(key.index as usize) {
            *over = Some((key, socket.traffic.clone()));
        }
        Some(socket)
    }
}

/// What a device's session does.
impl Session<Device> {
    /// The service of a stream is connected, by a socket that is registered under `token`.
    pub(crate) fn handle_connected(
        &mut self,
        now: Instant,
        event_loop: &mut EventLoop,
        key: StreamKey,
        io: TcpStream,
        token: Token,
    ) {
        self.attach(event_loop, key, io, token);
        self.connection.handle_connected(now, key);
        self.start(now, event_loop, key);
    }
}

/// What a relay's session does.
#[cfg(feature = "relay")]
impl Session<Relay> {
    /// A client came: see [`Relay::open`]. Its socket is [attached](Self::attach) next.
    pub(crate) fn open(&mut self, now: Instant, service: &Arc<Address>, from: SocketAddr) -> Option<StreamKey> {
        self.connection.open(now, service, Some(from))
    }
}

/// Nothing is left here but where the loop has panicked: then, too, no peer waits for a forked child's copy.
impl<C> Drop for Session<C> {
    fn drop(&mut self) {
        let links = self.link.iter().map(|link| &link.io);
        links.chain(self.sockets.iter().flatten().map(|socket| &socket.io)).for_each(net::reset);
    }
}

/// The stream's socket, while the rest of the session is in use.
fn find(sockets: &mut [Option<Socket>], key: StreamKey) -> Option<&mut Socket> {
    sockets.get_mut(key.index as usize)?.as_mut().filter(|socket| socket.key == key)
}

#[cfg(test)]
mod tests;
