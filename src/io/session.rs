//! One link and the sockets of its streams: the mio half that device and relay share.
//!
//! The session moves bytes between sockets and a [`Connection`], and ends sockets as that asks for. Its owner brings it
//! connected sockets ([`attach`](Session::attach)), and takes its outputs ([`poll_output`](Session::poll_output)).

mod scheduler;
mod socket;
mod state;
mod user_timeout;

use std::borrow::BorrowMut;
use std::io::{self, IoSlice, Read};
#[cfg(feature = "relay")]
use std::net::SocketAddr;
#[cfg(feature = "relay")]
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::Token;
use scheduler::Scheduler;
pub(crate) use socket::Traffic;
use socket::{StreamSocket, code_of, total, write};
use state::{Reading, Writing};
use user_timeout::UserTimeout;

#[cfg(feature = "relay")]
use crate::address::Address;
use crate::connection::device::Device;
#[cfg(feature = "relay")]
use crate::connection::relay::Relay;
use crate::connection::{Connection, Delivery, FRAMES_A_READ, Output, Room, StreamKey};
use crate::io::Io;
use crate::io::event_loop::{EventLoop, LATE, Readiness, Registry, Source};
use crate::io::socket::Socket;
use crate::protocol::ProtocolError;
use crate::protocol::v2::Code;

/// Bytes that one read of the link takes at most.
pub(crate) const LINK_BUFFER: usize = 256 * 1024;
/// The same, while a client may be waiting for an answer.
const INTERACTIVE_READ: usize = 32 * 1024;
/// Neighbouring pieces of one stream that one write to its socket carries.
const PIECES: usize = 16;
/// Rounds over the readable streams that one write of the link carries, while no client waits for an answer. A stream alone
/// fills the link with one read.
const ROUNDS_A_WRITE: usize = 3;

/// How long a process that was late may read what came meanwhile, and what its peer's system could not send.
const GRACE: Duration = Duration::from_millis(500);

/// One link, its connection, and the sockets of its streams.
#[derive(Debug)]
pub struct Session<C, R: Registry = EventLoop> {
    connection: C,
    number: usize,
    link: Option<Link<R::Socket>>,
    /// By the index of their stream's key.
    sockets: Vec<Option<StreamSocket<R::Socket>>>,
    /// What went through those that are over, until the next stream takes the index.
    over: Vec<Option<(StreamKey, Traffic)>>,
    scheduler: Scheduler,
    /// What is due waits until then: the loop was stopped for long.
    grace: Option<Instant>,
}

/// Why there is no link any more.
#[derive(Debug, thiserror::Error)]
pub enum LinkLost {
    /// Its other end has ended it with FIN.
    #[error("the other end closed it")]
    Ended,
    /// Its socket failed.
    #[error("{0}")]
    Failed(#[from] io::Error),
    /// The peer broke the protocol.
    #[error("{0}")]
    Protocol(#[from] ProtocolError),
}

#[derive(Debug)]
struct Link<S> {
    tcp: S,
    token: Token,
    reading: Reading,
    writing: Writing,
    user_timeout: UserTimeout,
}

impl<C: Connection, R: Registry> Session<C, R> {
    /// A session on a connected link, registered as [`Source::Link`] of `number`.
    pub fn new(connection: C, number: usize, tcp: R::Socket, token: Token) -> Self {
        // An edge may have come before the session was there to see it: try both first.
        let (reading, writing) = (Reading::Readable, Writing::Writable);
        let link = Some(Link { tcp, token, reading, writing, user_timeout: UserTimeout::Off });
        let (sockets, over, scheduler) = (Vec::new(), Vec::new(), Scheduler::default());
        Self { connection, number, link, sockets, over, scheduler, grace: None }
    }

    /// The connected socket of a stream, registered under `token`.
    pub fn attach(&mut self, io: &mut Io<R>, key: StreamKey, tcp: R::Socket, token: Token) {
        io.event_loop.rename(token, Source::Stream(self.number as u32, key));
        let index = key.index as usize;
        if index >= self.sockets.len() {
            self.sockets.resize_with(index + 1, || None);
            self.over.resize_with(index + 1, || None);
        }
        debug_assert!(self.sockets[index].is_none(), "outputs are carried out before a slot is used again");
        if let Some(old) = self.sockets[index].as_ref().map(|socket| socket.key) {
            self.reset(io, old);
        }
        self.sockets[index] = Some(StreamSocket::new(key, tcp, token));
    }

    /// What the session's connection knows.
    pub fn connection(&self) -> &C {
        &self.connection
    }

    /// The next output of the connection, for the owner to know of: what it asks of sockets is done.
    pub fn poll_output(&mut self, now: Instant, io: &mut Io<R>) -> Option<Output> {
        let output = self.connection.poll_output()?;
        match output {
            Output::Version(version) if version >= 2 => self.tune_link_v2(),
            Output::Opened { stream, .. } => self.start(now, io, stream),
            Output::ShutdownWrite { stream } => self.shutdown_write(stream),
            Output::Finish { stream } => self.finish(now, io, stream),
            Output::Reset { stream, .. } => self.reset(io, stream),
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
    pub fn close(&mut self, now: Instant) {
        self.connection.close(now);
    }

    /// The stream's socket may be read from now on; what waits for it is written.
    fn start(&mut self, now: Instant, io: &mut Io<R>, key: StreamKey) {
        self.enqueue(key);
        self.flush_stream(now, io, key);
    }

    /// Ends the sending side of the stream's socket with FIN; what its peer sends is still read.
    fn shutdown_write(&mut self, key: StreamKey) {
        if let Some(socket) = self.socket(key) {
            // It fails only where the socket has failed, which its next event tells.
            let _ = socket.tcp.shutdown_write();
            socket.writing.handle_shutdown();
        }
    }

    /// Ends the stream's socket with FIN; its peer is given a little time to do the same.
    fn finish(&mut self, now: Instant, io: &mut Io<R>, key: StreamKey) {
        let Some(mut socket) = self.take(key) else { return };
        socket.tcp.clear_linger();
        if socket.reading == Reading::Ended || matches!(socket.writing, Writing::Failed(_)) {
            socket.tcp.finish();
            io.event_loop.deregister(&mut socket.tcp, socket.token);
        } else {
            io.closing.add(now, &mut io.event_loop, socket.tcp, socket.token);
        }
    }

    /// Ends the stream's socket with RST.
    fn reset(&mut self, io: &mut Io<R>, key: StreamKey) {
        if let Some(mut socket) = self.take(key) {
            io.event_loop.deregister(&mut socket.tcp, socket.token);
            socket.tcp.reset();
        }
    }

    /// Takes the link's event; [`turn`](Self::turn) acts on it.
    pub fn handle_link_event(&mut self, event: Readiness) {
        if let Some(link) = &mut self.link {
            link.reading.handle_event(event);
            link.writing.handle_event(event);
        }
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

    /// One read of the link, some of the streams, one write, what they carry, and what is due; true if there is more
    /// to move at once. It is that little so that a keystroke, whose event the loop has not seen yet, does not wait for
    /// many reads of others.
    ///
    /// # Errors
    /// The link is lost, or is to be: [`abort_link`](Self::abort_link).
    pub fn turn(&mut self, now: Instant, io: &mut Io<R>, buffer: &mut [u8]) -> Result<bool, LinkLost> {
        let most = if self.scheduler.is_interactive(now) { INTERACTIVE_READ.min(buffer.len()) } else { buffer.len() };
        self.read_link(now, io, &mut buffer[..most])?;
        while let Some(key) = self.connection.poll_unblocked() {
            self.enqueue(key);
        }
        let mut more = self.read_streams(now, io);
        for _ in 1..ROUNDS_A_WRITE {
            if more && self.scheduler.len() > 1 && !self.scheduler.is_interactive(now) {
                more = self.read_streams(now, io);
            }
        }
        if let Err(error) = self.flush_link(now) {
            self.read_rest_of_link(now, io, buffer);
            return Err(error.into());
        }
        // Only now: a loop that was stopped for long would take what waits to be read, or written, for silence.
        self.handle_timeout(now)?;
        Ok(self.has_work())
    }

    /// When the next [`turn`](Self::turn) is due though nothing has come.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let user_timeout = self.link.as_ref().and_then(|link| link.user_timeout.poll_timeout());
        let connection = self.grace.or_else(|| self.connection.poll_timeout());
        [user_timeout, connection].into_iter().flatten().min()
    }

    fn handle_timeout(&mut self, now: Instant) -> Result<(), ProtocolError> {
        if let Some(link) = &mut self.link {
            link.user_timeout.handle_timeout(now, &link.tcp);
        }
        if self.prolong_grace(now) || self.connection.poll_timeout().is_none_or(|at| at > now) {
            return Ok(());
        }
        self.connection.handle_timeout(now)
    }

    /// Puts off what is due, if the loop was stopped: what came meanwhile is to be read before. True while it is put off.
    fn prolong_grace(&mut self, now: Instant) -> bool {
        let is_late = self.has_link() && self.connection.poll_timeout().is_some_and(|at| at + LATE <= now);
        let until = self.grace.or_else(|| is_late.then(|| now + GRACE));
        self.grace = until.filter(|&until| is_late && now < until);
        self.grace.is_some()
    }

    /// Whether [`turn`](Self::turn) would find something to do without a new event.
    fn has_work(&self) -> bool {
        let Some(link) = &self.link else { return false };
        let is_writable = matches!(link.writing, Writing::Writable);
        let input = link.reading.is_readable() && self.connection.wants_input();
        let output = is_writable && self.connection.has_unsent();
        // Streams wait for the link to be writable, unless it is.
        let streams = is_writable && self.scheduler.len() > 0;
        input || output || streams
    }

    /// Version 2 is spoken from here on.
    fn tune_link_v2(&mut self) {
        if let Some(link) = &mut self.link {
            link.user_timeout = UserTimeout::Unwatched;
            // The options only hasten what the protocol does without them.
            let _ = link.tcp.tune_link_v2();
        }
    }

    /// Whether the link is still there.
    pub fn has_link(&self) -> bool {
        self.link.is_some()
    }

    /// How the other end of the link has ended it, if that is what stands behind what was read so far.
    #[cfg(feature = "relay")]
    pub(crate) fn link_end(&self) -> Option<LinkLost> {
        match self.link.as_ref()?.tcp.peek(&mut [0]) {
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

    /// Ends a stream by the owner's wish: its socket, if it has one, with RST. The peer gets the reason.
    pub fn give_up(&mut self, now: Instant, io: &mut Io<R>, key: StreamKey, code: Code, reason: &str) {
        if let Some(mut socket) = self.take(key) {
            io.event_loop.deregister(&mut socket.tcp, socket.token);
            socket.tcp.reset();
            if let Some(Some((_, traffic))) = self.over.get_mut(key.index as usize) {
                traffic.failure = Some((code, reason.into()));
            }
        }
        self.connection.handle_failure(now, key, code, reason);
    }

    /// Ends the link with FIN, so that what was written still arrives.
    pub fn close_link(&mut self, now: Instant, io: &mut Io<R>) {
        if let Some(link) = self.link.take() {
            io.closing.add(now, &mut io.event_loop, link.tcp, link.token);
        }
        self.connection.handle_link_lost(now);
    }

    /// Ends a link that carries nothing, without a wait: there is nothing that a RST could destroy. GOAWAY is sent
    /// in one try, in version 2.
    pub(crate) fn close_idle_link(&mut self, now: Instant, io: &mut Io<R>) {
        if self.connection.streams() > 0 || self.connection.has_unsent() {
            return;
        }
        self.connection.close(now);
        // If it fails the link is lost, and over all the same.
        let _ = self.flush_link(now);
        if let Some(mut link) = self.link.take() {
            link.tcp.finish();
            io.event_loop.deregister(&mut link.tcp, link.token);
        }
        self.connection.handle_link_lost(now);
    }

    /// Ends the link with RST: it is lost, or its other end is not to have it any more. The last word has one try, and
    /// waits for nothing.
    pub fn abort_link(&mut self, now: Instant, io: &mut Io<R>) {
        if self.connection.has_last_word() {
            // If it fails the link was lost before.
            let _ = self.flush_link(now);
        }
        if let Some(mut link) = self.link.take() {
            io.event_loop.deregister(&mut link.tcp, link.token);
            link.tcp.reset();
        }
        self.connection.handle_link_lost(now);
    }

    /// Ends everything that is left with RST: its time is up, and no peer is to take it for complete.
    pub fn abort(&mut self, now: Instant, io: &mut Io<R>) {
        self.abort_link(now, io);
        for mut socket in self.sockets.drain(..).flatten() {
            io.event_loop.deregister(&mut socket.tcp, socket.token);
            socket.tcp.reset();
        }
    }

    /// One read of the link and what follows from it; false if there is nothing more to read now.
    fn read_link(&mut self, now: Instant, io: &mut Io<R>, buffer: &mut [u8]) -> Result<bool, LinkLost> {
        let Some(link) = &mut self.link else { return Ok(false) };
        if !link.reading.is_readable() || !self.connection.wants_input() {
            return Ok(false);
        }
        let most = self.connection.read_size(buffer.len());
        let buffer = &mut buffer[..most];
        let count = match link.tcp.read(buffer) {
            Ok(0) => return Err(LinkLost::Ended),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                link.reading = Reading::Empty;
                link.user_timeout.handle_read(&link.tcp);
                return Ok(false);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(true),
            Err(error) => return Err(error.into()),
        };
        let is_short = count < buffer.len();
        link.reading.handle_read(is_short);
        if is_short {
            link.user_timeout.handle_read(&link.tcp);
        }
        let more = link.reading.is_readable();
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
            self.deliver(now, io, stream, &pieces[..count]);
            result?;
        }
        Ok(more)
    }

    /// The link takes no more. What its other end sent before that is there to be read, such as why.
    fn read_rest_of_link(&mut self, now: Instant, io: &mut Io<R>, buffer: &mut [u8]) {
        if let Some(link) = &mut self.link {
            link.reading = link.reading.max(Reading::MoreBehind);
        }
        while let Ok(true) = self.read_link(now, io, buffer) {}
    }

    /// Writes what came for a stream to its socket.
    fn deliver(&mut self, now: Instant, io: &mut Io<R>, key: StreamKey, pieces: &[IoSlice<'_>]) {
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
        if has_ended || matches!(self.connection.reserve(key, false), Room::Unwanted | Room::Blocked) {
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
    fn read_streams(&mut self, now: Instant, io: &mut Io<R>) -> bool {
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
                Room::Unwanted => None,
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
    fn fail(&mut self, now: Instant, io: &mut Io<R>, key: StreamKey, error: &io::Error) {
        self.give_up(now, io, key, code_of(error), &error.to_string());
    }

    fn flush_link(&mut self, now: Instant) -> io::Result<()> {
        let Some(link) = &mut self.link else { return Ok(()) };
        while matches!(link.writing, Writing::Writable) && self.connection.has_unsent() {
            let count = write(&mut link.tcp, &mut link.writing, &[IoSlice::new(self.connection.unsent())])?;
            link.user_timeout.handle_write(now, &link.tcp);
            self.connection.advance_link(now, count);
        }
        Ok(())
    }

    fn enqueue(&mut self, key: StreamKey) {
        if let Some(socket) = find(&mut self.sockets, key) {
            self.scheduler.push(key, &mut socket.activity);
        }
    }

    fn socket(&mut self, key: StreamKey) -> Option<&mut StreamSocket<R::Socket>> {
        find(&mut self.sockets, key)
    }

    fn take(&mut self, key: StreamKey) -> Option<StreamSocket<R::Socket>> {
        let socket = self.sockets.get_mut(key.index as usize)?.take_if(|socket| socket.key == key)?;
        self.scheduler.forget(key, &socket.activity);
        if let Some(over) = self.over.get_mut(key.index as usize) {
            *over = Some((key, socket.traffic.clone()));
        }
        Some(socket)
    }
}

/// What a device's session does.
impl<C: Connection + BorrowMut<Device>, R: Registry> Session<C, R> {
    /// The service of a stream is connected, by a socket that is registered under `token`.
    pub fn handle_connected(&mut self, now: Instant, io: &mut Io<R>, key: StreamKey, tcp: R::Socket, token: Token) {
        self.attach(io, key, tcp, token);
        self.connection.borrow_mut().handle_connected(now, key);
        self.start(now, io, key);
    }
}

/// What a relay's session does.
#[cfg(feature = "relay")]
impl<C: Connection + BorrowMut<Relay>, R: Registry> Session<C, R> {
    /// A client came. Its socket is [attached](Self::attach) next.
    pub fn open(&mut self, now: Instant, service: &Arc<Address>, from: SocketAddr) -> Option<StreamKey> {
        self.connection.borrow_mut().open(now, service, Some(from))
    }
}

/// Nothing is left here but where the loop has panicked: then, too, no peer waits for a forked child's copy.
impl<C, R: Registry> Drop for Session<C, R> {
    fn drop(&mut self) {
        let links = self.link.iter().map(|link| &link.tcp);
        links.chain(self.sockets.iter().flatten().map(|socket| &socket.tcp)).for_each(Socket::reset);
    }
}

/// The stream's socket, while the rest of the session is in use.
fn find<S>(sockets: &mut [Option<StreamSocket<S>>], key: StreamKey) -> Option<&mut StreamSocket<S>> {
    sockets.get_mut(key.index as usize)?.as_mut().filter(|socket| socket.key == key)
}

#[cfg(test)]
mod tests;
