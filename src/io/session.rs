//! One link and the sockets of its streams: the mio half that device and relay share.
//!
//! The session moves bytes between sockets and a [`Connection`], and ends sockets as that asks for. Its owner brings it
//! connected sockets ([`attach`](Session::attach)), and takes its outputs ([`poll_output`](Session::poll_output)).

mod link;
mod scheduler;
#[cfg(feature = "tls")]
mod sealed;
mod socket;
mod state;
mod streams;
mod user_timeout;

use std::borrow::BorrowMut;
use std::io::IoSlice;
#[cfg(feature = "relay")]
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use link::Link;
pub use link::LinkLost;
use mio::Token;
use scheduler::Scheduler;
use socket::Place;
#[cfg(feature = "relay")]
pub(crate) use socket::Traffic;

use crate::connection::device::Device;
#[cfg(feature = "relay")]
use crate::connection::relay::Relay;
use crate::connection::{Connection, Delivery, Output, StreamKey};
#[cfg(feature = "relay")]
use crate::connection::{Destination, WindowPool};
use crate::io::Io;
use crate::io::event_loop::{EventLoop, LATE, Readiness, Registry};
#[cfg(feature = "tls")]
use crate::io::sealer::Sealer;
use crate::io::socket::Socket;
use crate::protocol::ProtocolError;
use crate::protocol::v2::Code;
#[cfg(feature = "relay")]
use crate::protocol::v2::{Join, Settings};
#[cfg(feature = "tls")]
use crate::tls::PublicKey;

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
    /// Whose sockets they are, among those that were ended and wait for their peers.
    owner: usize,
    link: Option<Link<R::Socket>>,
    /// By the index of their stream's key.
    sockets: Vec<Place<R::Socket>>,
    scheduler: Scheduler,
    /// What is due waits until then: the loop was stopped for long.
    grace: Option<Instant>,
}

impl<C: Connection, R: Registry> Session<C, R> {
    /// A session on a connected link, registered as [`Source::Link`](crate::io::event_loop::Source::Link) of `number`.
    pub fn new(connection: C, number: usize, tcp: R::Socket, token: Token) -> Self {
        Self::on(Link::new(tcp, token), connection, number)
    }

    /// The same, with TLS between link and connection. What `tls` has to say first stands in [`Io::scratch`].
    #[cfg(feature = "tls")]
    pub fn in_tls(
        connection: C,
        number: usize,
        tcp: R::Socket,
        token: Token,
        mut tls: impl Sealer + 'static,
        io: &mut Io<R>,
    ) -> Self {
        tls.hold(io.scratch());
        Self::on(Link::in_tls(tcp, token, Box::new(tls)), connection, number)
    }

    fn on(link: Link<R::Socket>, connection: C, number: usize) -> Self {
        let (sockets, scheduler) = (Vec::new(), Scheduler::default());
        Self { connection, number, owner: 0, link: Some(link), sockets, scheduler, grace: None }
    }

    /// What the session's connection knows.
    pub fn connection(&self) -> &C {
        &self.connection
    }

    /// The next output of the connection, for the owner to know of: what it asks of sockets is done.
    pub fn poll_output(&mut self, now: Instant, io: &mut Io<R>) -> Option<Output> {
        let output = self.connection.poll_output()?;
        match output {
            Output::Version(version) if version >= 2 => {
                if let Some(link) = &mut self.link {
                    link.tune_v2();
                }
            }
            Output::Introduced(_) => {
                if let (Some(link), Some(idle)) = (&mut self.link, self.connection.link_keepalive()) {
                    link.set_keepalive(idle);
                }
            }
            Output::Opened { stream, .. } => self.start(now, io, stream),
            Output::ShutdownWrite { stream } => self.shutdown_write(stream),
            Output::Finish { stream } => self.finish(now, io, stream),
            Output::Reset { stream, .. } => self.reset(io, stream),
            Output::Version(_)
            | Output::Listening
            | Output::Presented
            | Output::Connect { .. }
            | Output::Malformed { .. }
            | Output::EarlyDropped { .. }
            | Output::Connected { .. }
            | Output::Gone { .. }
            | Output::GoAway(_) => {}
        }
        Some(output)
    }

    /// Whose sockets it has, where a loop has those of several: each has its share of what all have together.
    #[cfg(feature = "relay")]
    pub(crate) fn set_owner(&mut self, owner: usize) {
        self.owner = owner;
    }

    /// See [`Connection::go_away`].
    pub fn go_away(&mut self, now: Instant, code: Code, retry_after: u16, reason: &str) {
        self.connection.go_away(now, code, retry_after, reason);
    }

    /// See [`Connection::close`].
    pub fn close(&mut self, now: Instant) {
        self.connection.close(now);
    }

    /// Takes the link's event; [`turn`](Self::turn) acts on it.
    pub fn handle_link_event(&mut self, event: Readiness) {
        if let Some(link) = &mut self.link {
            link.handle_event(event);
        }
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
        self.enqueue_unblocked(now);
        let mut more = self.read_streams(now, io);
        for _ in 1..ROUNDS_A_WRITE {
            if more && self.scheduler.len() > 1 && !self.scheduler.is_interactive(now) {
                more = self.read_streams(now, io);
            }
        }
        if let Err(error) = self.flush_link(now, io) {
            self.read_rest_of_link(now, io, buffer);
            return Err(error);
        }
        // Only now: a loop that was stopped for long would take what waits to be read, or written, for silence.
        self.handle_timeout(now)?;
        self.enqueue_unblocked(now);
        Ok(self.has_work())
    }

    /// When the next [`turn`](Self::turn) is due though nothing has come.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let link = self.link.as_ref().and_then(Link::poll_timeout);
        let connection = self.grace.or_else(|| self.connection.poll_timeout());
        [link, connection, self.connection.poll_pacing()].into_iter().flatten().min()
    }

    fn handle_timeout(&mut self, now: Instant) -> Result<(), ProtocolError> {
        if let Some(link) = &mut self.link {
            link.handle_timeout(now);
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
        let is_writable = link.is_writable();
        let input = link.is_readable() && self.connection.wants_input();
        let output = is_writable && link.has_output(&self.connection);
        // Streams wait for the link to be writable, unless it is.
        let streams = is_writable && self.scheduler.len() > 0;
        input || output || streams
    }

    /// Whether something is to leave by the link that it has not taken.
    pub fn has_unsent(&self) -> bool {
        self.connection.has_unsent() || self.link.as_ref().is_some_and(Link::is_holding)
    }

    /// Bytes that wait here, for the sockets of streams or for the link.
    pub fn held(&self) -> u64 {
        self.connection.held() + self.link.as_ref().map_or(0, Link::held)
    }

    /// The key that the other end has proved, if the link is in TLS and its handshake is done.
    #[cfg(feature = "tls")]
    pub fn peer_key(&self) -> Option<&PublicKey> {
        self.link.as_ref()?.sealed.as_ref()?.tls.peer_key()
    }

    /// Whether all of the first message of TLS is here, of an end that waits for it.
    #[cfg(feature = "relay")]
    pub(crate) fn has_hello(&self) -> bool {
        self.link.as_ref().and_then(|link| link.sealed.as_ref()).is_some_and(|sealed| sealed.has_hello)
    }

    /// Whether the link is still there.
    pub fn has_link(&self) -> bool {
        self.link.is_some()
    }

    /// How the other end of the link has ended it, if that is what stands behind what was read so far.
    #[cfg(feature = "relay")]
    pub(crate) fn link_end(&self) -> Option<LinkLost> {
        self.link.as_ref()?.end()
    }

    /// Ends the link with FIN, so that what was written still arrives. The last word has one try.
    pub fn close_link(&mut self, now: Instant, io: &mut Io<R>) {
        if self.connection.has_last_word() {
            // If it fails the link is lost, and over all the same.
            let _ = self.flush_link(now, io);
        }
        self.say_closed(now, io);
        if let Some(link) = self.link.take() {
            io.closing.add(now, &mut io.event_loop, self.owner, link.tcp, link.token);
        }
        self.connection.handle_link_lost(now);
    }

    /// Answers in the clear, on a link on which TLS did not begin, and ends it with FIN.
    #[cfg(feature = "relay")]
    pub(crate) fn close_link_in_the_clear(&mut self, now: Instant, io: &mut Io<R>, answer: &[u8]) {
        if let Some(mut link) = self.link.take() {
            // It has one try: the other end is not what is expected here.
            let _ = link.tcp.send(&[IoSlice::new(answer)]);
            io.closing.add(now, &mut io.event_loop, self.owner, link.tcp, link.token);
        }
        self.connection.handle_link_lost(now);
    }

    /// Where TLS is, it says that nothing more comes: a link that ends without that was cut.
    fn say_closed(&mut self, now: Instant, io: &mut Io<R>) {
        #[cfg(feature = "tls")]
        if let Some(link) = &mut self.link {
            link.close_sealed(now, &mut self.connection, &mut io.buffers);
        }
        #[cfg(not(feature = "tls"))]
        let _ = (now, io);
    }

    /// Ends a link that carries nothing, without a wait: there is nothing that a RST could destroy. GOAWAY is sent
    /// in one try, in version 2.
    pub(crate) fn close_idle_link(&mut self, now: Instant, io: &mut Io<R>) {
        if self.connection.streams() > 0 || self.has_unsent() {
            return;
        }
        self.connection.close(now);
        // If it fails the link is lost, and over all the same.
        let _ = self.flush_link(now, io);
        self.say_closed(now, io);
        if let Some(link) = self.link.take() {
            link.tcp.finish();
            io.event_loop.forget(link.token);
        }
        self.connection.handle_link_lost(now);
    }

    /// Ends the link with RST: it is lost, or its other end is not to have it any more. The last word has one try, and
    /// waits for nothing.
    pub fn abort_link(&mut self, now: Instant, io: &mut Io<R>) {
        if self.connection.has_last_word() {
            // If it fails the link was lost before.
            let _ = self.flush_link(now, io);
        }
        #[cfg(feature = "tls")]
        if let Some(link) = self.link.take_if(|link| link.is_untrusted()) {
            // No RST is to overtake the alert.
            io.closing.add(now, &mut io.event_loop, self.owner, link.tcp, link.token);
        }
        if let Some(link) = self.link.take() {
            io.event_loop.forget(link.token);
            link.tcp.reset();
        }
        self.connection.handle_link_lost(now);
    }

    /// Ends everything that is left with RST: its time is up, and no peer is to take it for complete.
    pub fn abort(&mut self, now: Instant, io: &mut Io<R>) {
        self.abort_link(now, io);
        for socket in self.sockets.drain(..).filter_map(Place::into_socket) {
            io.event_loop.forget(socket.token);
            socket.tcp.reset();
        }
    }

    /// One read of the link and what follows from it; false if there is nothing more to read now.
    fn read_link(&mut self, now: Instant, io: &mut Io<R>, buffer: &mut [u8]) -> Result<bool, LinkLost> {
        let Some(link) = &mut self.link else { return Ok(false) };
        if !link.is_readable() || !self.connection.wants_input() {
            return Ok(false);
        }
        let room = buffer.len();
        // Ciphertext does not end where a frame does.
        let most = if link.is_sealed() { room } else { self.connection.read_size(room) };
        let Some(count) = link.read(&mut buffer[..most])? else { return Ok(false) };
        let more = link.is_readable();
        #[cfg(feature = "tls")]
        if link.is_sealed() {
            return self.open_and_take(now, io, &mut buffer[..count]).map(|()| more);
        }
        self.take_input(now, io, &buffer[..count])?;
        Ok(more)
    }

    /// What was read of a link in TLS, and what follows from it.
    #[cfg(feature = "tls")]
    fn open_and_take(&mut self, now: Instant, io: &mut Io<R>, input: &mut [u8]) -> Result<(), LinkLost> {
        let Some(link) = &mut self.link else { return Ok(()) };
        let opened = link.open(input, &mut io.buffers);
        let sealed = link.sealed.as_mut();
        let (fruitless, is_over) =
            sealed.map_or((0, false), |sealed| (sealed.tls.take_fruitless(), sealed.tls.has_peer_closed()));
        let mut plaintext = std::mem::take(&mut io.buffers.plaintext);
        // What was opened before it failed is what the other end has sent.
        let taken = self.take_input(now, io, &plaintext);
        plaintext.clear();
        io.buffers.plaintext = plaintext;
        if opened.is_err() {
            // An alert says why. If it does not leave the link is lost all the same.
            let _ = self.flush_link(now, io);
        }
        taken?;
        opened?;
        self.connection.handle_fruitless(now, fruitless)?;
        if is_over { Err(LinkLost::Ended) } else { Ok(()) }
    }

    /// Bytes of the connection came.
    fn take_input(&mut self, now: Instant, io: &mut Io<R>, mut input: &[u8]) -> Result<(), ProtocolError> {
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
        Ok(())
    }

    /// The link takes no more. What its other end sent before that is there to be read, such as why.
    fn read_rest_of_link(&mut self, now: Instant, io: &mut Io<R>, buffer: &mut [u8]) {
        if let Some(link) = &mut self.link {
            link.handle_write_failure();
        }
        while let Ok(true) = self.read_link(now, io, buffer) {}
    }

    fn flush_link(&mut self, now: Instant, io: &mut Io<R>) -> Result<(), LinkLost> {
        let connection = &mut self.connection;
        self.link.as_mut().map_or(Ok(()), |link| link.flush(now, connection, &mut io.buffers))
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
    /// See [`Relay::admit`].
    pub(crate) fn admit(&mut self, now: Instant, said: Settings) {
        self.connection.borrow_mut().admit(now, said);
    }

    /// The token that the device has presented. It is not kept here.
    pub(crate) fn take_join(&mut self) -> Option<Join> {
        self.connection.borrow_mut().take_join()
    }

    /// See [`Relay::share_windows`].
    pub fn share_windows(&mut self, pool: &WindowPool) {
        self.connection.borrow_mut().share_windows(pool);
    }

    /// A client came. Its socket is [attached](Self::attach) next.
    pub fn open(&mut self, now: Instant, service: Destination, from: SocketAddr) -> Option<StreamKey> {
        self.connection.borrow_mut().open(now, service, Some(from))
    }

    /// See [`Relay::shed`](crate::connection::relay::Relay::shed).
    pub(crate) fn shed(&mut self, most: u64) {
        self.connection.borrow_mut().shed(most);
    }

    /// See [`Relay::require_sign`](crate::connection::relay::Relay::require_sign).
    pub(crate) fn require_sign(&mut self, now: Instant) {
        self.connection.borrow_mut().require_sign(now);
    }
}

/// Nothing is left here but where the loop has panicked: then, too, no peer waits for a forked child's copy.
impl<C, R: Registry> Drop for Session<C, R> {
    fn drop(&mut self) {
        let links = self.link.iter().map(|link| &link.tcp);
        links.chain(self.sockets.iter().filter_map(Place::socket).map(|socket| &socket.tcp)).for_each(Socket::reset);
    }
}

#[cfg(all(test, feature = "tls"))]
mod tests;
