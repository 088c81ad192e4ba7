//! Sockets over pipes, and the event loop that watches them: what a session has of the kernel.
//!
//! They do what a kernel may do, and no more than a session may count on: a write takes a part, a call is interrupted, an
//! edge comes late, tells more than is new, or comes for nothing; but what is new always gives an edge.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::io::{self, IoSlice};
use std::rc::Rc;
use std::thread;
use std::time::Duration;

use mio::Token;
use tcpremote::connection::StreamKey;
use tcpremote::io::event_loop::{Readiness, Registry, Source};
use tcpremote::io::socket::Socket;

use crate::pipe::{Pipe, Read};
use crate::random::Random;

/// One end of a TCP connection, as its program has it.
#[derive(Debug)]
pub(crate) struct SimSocket(Rc<RefCell<Ends>>);

#[derive(Debug)]
struct Ends {
    inward: Pipe,
    outward: Pipe,
    shared: Shared,
    random: Random,
    /// It gives edges for nothing. Few do: such an edge makes up for one that was forgotten.
    is_noisy: bool,
    /// A write took less than it was given: an edge is to tell when there is room.
    is_full: bool,
    /// The error of a RST was read.
    is_error_taken: bool,
    /// Its program sends no more.
    is_shut: bool,
    /// A close of it sends RST.
    is_abortive: bool,
    /// The state that edges have shown.
    shown: Shown,
}

/// What of the inward direction, and of both, is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Shown {
    arrived: u64,
    finished: bool,
    reset: bool,
    hung_up: bool,
}

/// What all sockets of one loop share.
#[derive(Clone, Debug, Default)]
struct Shared {
    now: Rc<Cell<Duration>>,
    /// Calls that moved something.
    moved: Rc<Cell<u64>>,
}

/// The sockets of one driver.
#[derive(Debug)]
pub(crate) struct SimLoop {
    watched: BTreeMap<Token, Watched>,
    next: usize,
    /// What the last poll has found, until it is handed out.
    batch: VecDeque<(Token, Readiness)>,
    shared: Shared,
    random: Random,
}

#[derive(Debug)]
struct Watched {
    source: Source,
    socket: Rc<RefCell<Ends>>,
}

impl SimLoop {
    pub(crate) fn new(random: Random) -> Self {
        Self { watched: BTreeMap::new(), next: 0, batch: VecDeque::new(), shared: Shared::default(), random }
    }

    /// Time goes on.
    pub(crate) fn set_now(&self, now: Duration) {
        self.shared.now.set(now);
    }

    /// Calls that ever moved something.
    pub(crate) fn moved(&self) -> u64 {
        self.shared.moved.get()
    }

    /// A connected socket that reads the one pipe and writes the other, and is watched.
    pub(crate) fn connect(&mut self, source: Source, inward: &Pipe, outward: &Pipe) -> (SimSocket, Token) {
        let mut random = Random::new(self.random.next());
        let ends = Ends {
            inward: inward.clone(),
            outward: outward.clone(),
            shared: self.shared.clone(),
            is_noisy: random.chance(20),
            random,
            is_full: false,
            is_error_taken: false,
            is_shut: false,
            is_abortive: matches!(source, Source::Stream(..)),
            shown: Shown::default(),
        };
        let socket = Rc::new(RefCell::new(ends));
        let token = Token(self.next);
        self.next += 1;
        self.watched.insert(token, Watched { source, socket: Rc::clone(&socket) });
        (SimSocket(socket), token)
    }

    /// What is watched.
    pub(crate) fn sources(&self) -> impl Iterator<Item = Source> {
        self.watched.values().map(|watched| watched.source)
    }

    /// Whether a socket still waits for its peer's end, which an edge has shown.
    pub(crate) fn is_end_forgotten(&self) -> bool {
        let mut closing = self.watched.values().filter(|watched| matches!(watched.source, Source::Closing(_)));
        closing.any(|watched| {
            let ends = watched.socket.borrow();
            ends.shown.finished && ends.shown == ends.there()
        })
    }

    /// Whether an edge has shown that the stream's socket is reset.
    pub(crate) fn is_reset_shown(&self, key: StreamKey) -> bool {
        let mut watched = self.watched.values();
        let socket = watched.find(|watched| matches!(watched.source, Source::Stream(_, stream) if stream == key));
        socket.is_some_and(|watched| watched.socket.borrow().shown.reset)
    }

    /// Looks for what is new, in any order; true if some of it will be shown later.
    pub(crate) fn poll(&mut self) -> bool {
        let mut is_late = false;
        for (&token, Watched { source, socket }) in &self.watched {
            match socket.borrow_mut().poll(*source) {
                Edge::None => {}
                Edge::Late => is_late = true,
                Edge::Now(event) => self.batch.push_back((token, event)),
            }
        }
        if !self.batch.is_empty() {
            let middle = self.random.below(self.batch.len() as u64) as usize;
            self.batch.rotate_left(middle);
        }
        is_late
    }

    /// The next that the last poll has found; what is not watched any more is passed over.
    pub(crate) fn next_ready(&mut self) -> Option<Readiness> {
        while let Some((token, event)) = self.batch.pop_front() {
            if let Some(watched) = self.watched.get(&token) {
                return Some(Readiness { source: watched.source, ..event });
            }
        }
        None
    }
}

impl Registry for SimLoop {
    type Socket = SimSocket;

    fn rename(&mut self, token: Token, source: Source) {
        self.watched.get_mut(&token).expect("a watched socket").source = source;
    }

    fn renew(&mut self, socket: &mut SimSocket, token: Token) -> io::Result<()> {
        assert!(self.watched.contains_key(&token), "a watched socket");
        socket.0.borrow_mut().shown = Shown::default();
        Ok(())
    }

    fn forget(&mut self, token: Token) {
        self.watched.remove(&token).expect("it is watched until then");
    }
}

enum Edge {
    None,
    Late,
    Now(Readiness),
}

impl Ends {
    fn now(&self) -> Duration {
        self.shared.now.get()
    }

    fn poll(&mut self, source: Source) -> Edge {
        let now = self.now();
        let is = self.there();
        let is_news = is != self.shown;
        let has_room = self.outward.is_writable_again(now) || is.reset;
        let is_writable_again = self.is_full && has_room;
        let is_due = is_news || is_writable_again;
        let is_for_nothing = self.is_noisy && self.random.chance(5);
        if !is_due && !is_for_nothing {
            return Edge::None;
        }
        if self.random.chance(15) {
            return if is_due { Edge::Late } else { Edge::None };
        }
        let writable = is_writable_again || self.random.chance(50);
        self.is_full &= !has_room;
        self.shown = is;
        Edge::Now(Readiness {
            source,
            readable: is_news || self.random.chance(50),
            writable,
            more_behind: is.finished || is.reset || self.inward.is_urgent(now),
            hung_up: is.hung_up,
        })
    }

    fn there(&self) -> Shown {
        let now = self.now();
        let (finished, reset) = (self.inward.is_finished(now), self.inward.is_reset(now));
        let hung_up = reset || (finished && self.outward.is_ended());
        Shown { arrived: self.inward.arrived(now), finished, reset, hung_up }
    }

    fn note_moved(&self) {
        self.shared.moved.set(self.shared.moved.get() + 1);
    }

    /// The error that a RST leaves, once.
    fn take_error(&mut self) -> Option<io::Error> {
        let is_there = self.inward.is_reset(self.now()) && !self.is_error_taken;
        self.is_error_taken |= is_there;
        is_there.then(|| io::ErrorKind::ConnectionReset.into())
    }

    fn reset(&mut self) {
        let now = self.now();
        self.outward.reset(&mut self.random, now);
        self.inward.leave(now);
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        assert!(!self.inward.is_sunk(), "what is over is not read");
        if self.random.chance(3) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let read = self.inward.read_fully(self.now(), buffer);
        if read != Read::Blocked {
            self.note_moved();
        }
        match read {
            Read::Bytes(count) => Ok(count),
            Read::Blocked => Err(io::ErrorKind::WouldBlock.into()),
            Read::End => Ok(0),
            // Behind FIN a read knows of no error (tcp(7), and what Linux does).
            Read::Reset if self.inward.is_finished(self.now()) => Ok(0),
            Read::Reset => self.take_error().map_or(Ok(0), Err),
        }
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.random.chance(3) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        assert!(!self.is_shut, "nothing is written behind the end");
        let now = self.now();
        if self.inward.is_reset(now) {
            self.note_moved();
            return Err(self.take_error().unwrap_or_else(|| io::ErrorKind::BrokenPipe.into()));
        }
        if self.outward.is_ended() {
            // The connection is cut, which it does not know yet.
            self.note_moved();
            return Ok(bytes.len());
        }
        let count = self.outward.write(&mut self.random, now, bytes);
        self.is_full = count < bytes.len();
        if count == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.note_moved();
        Ok(count)
    }
}

impl io::Read for SimSocket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.borrow_mut().read(buffer)
    }

    fn read_vectored(&mut self, room: &mut [io::IoSliceMut<'_>]) -> io::Result<usize> {
        let mut bytes = vec![0; room.iter().map(|part| part.len()).sum()];
        let count = self.0.borrow_mut().read(&mut bytes)?;
        let mut rest = &bytes[..count];
        for part in room {
            let taken = rest.len().min(part.len());
            part[..taken].copy_from_slice(&rest[..taken]);
            rest = &rest[taken..];
        }
        Ok(count)
    }
}

impl Socket for SimSocket {
    fn send(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        assert!(pieces.iter().all(|piece| !piece.is_empty()), "nothing is no reason for a call");
        let bytes = pieces.iter().map(|piece| &piece[..]).collect::<Vec<_>>().concat();
        self.0.borrow_mut().send(&bytes)
    }

    fn peek(&self, _: &mut [u8]) -> io::Result<usize> {
        unreachable!("only a relay with many links looks ahead")
    }

    fn take_error(&self) -> Option<io::Error> {
        self.0.borrow_mut().take_error()
    }

    fn shutdown_write(&self) -> io::Result<()> {
        let ends = &mut *self.0.borrow_mut();
        if ends.inward.is_reset(ends.now()) {
            return Err(io::ErrorKind::NotConnected.into());
        }
        ends.is_shut = true;
        ends.outward.finish(ends.now());
        Ok(())
    }

    fn finish(&self) {
        let ends = self.0.borrow();
        ends.outward.finish(ends.now());
        ends.inward.leave(ends.now());
    }

    fn reset(&self) {
        if thread::panicking() {
            return;
        }
        self.0.borrow_mut().reset();
    }

    fn clear_linger(&self) {
        self.0.borrow_mut().is_abortive = false;
    }

    fn tune_link_v2(&self) -> io::Result<()> {
        Ok(())
    }

    fn set_keepalive(&self, _: Duration) -> io::Result<()> {
        Ok(())
    }

    fn set_low_water(&self, low_water: u32) -> io::Result<()> {
        self.0.borrow().outward.set_low_water(low_water);
        Ok(())
    }

    fn set_in_flight(&self, _: bool) -> io::Result<()> {
        Ok(())
    }

    fn acknowledge(&self) -> io::Result<()> {
        Ok(())
    }

    fn is_acknowledged(&self) -> bool {
        self.0.borrow().outward.held() == 0
    }
}

/// It is closed.
impl Drop for SimSocket {
    fn drop(&mut self) {
        if thread::panicking() {
            return;
        }
        let ends = &mut *self.0.borrow_mut();
        let is_over = ends.inward.is_sunk() || ends.inward.is_reset(ends.now());
        assert!(is_over, "a connection is ended before its socket is closed");
        if ends.is_abortive {
            ends.reset();
        }
        ends.inward.sink();
        ends.outward.finish(ends.now());
    }
}
