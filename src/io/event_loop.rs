//! Poll, tokens with generations, and a waker: the base of both mio drivers.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::event::Source as IoSource;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token, Waker};

use crate::connection::StreamKey;
use crate::io::socket::Socket;

/// What a token stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Another thread wants the loop's attention.
    Waker,
    /// A listening socket, by its place in the driver.
    Listener(usize),
    /// The link of a session.
    Link(usize),
    /// The socket of a stream, by session and stream.
    Stream(u32, StreamKey),
    /// A socket that only waits for its peer to finish.
    Closing(usize),
    /// A relay's: a connection that has yet to say whose it is.
    Header(usize),
}

/// One readiness event, already translated from its token.
#[derive(Clone, Copy, Debug)]
pub struct Readiness {
    /// What it is about.
    pub source: Source,
    /// There is something to read.
    pub readable: bool,
    /// There is room to write again.
    pub writable: bool,
    /// The peer will send no more, the socket failed, or it has an urgent byte, before which a read stops: there may be
    /// more to read behind a short read.
    pub more_behind: bool,
    /// Both directions are over, by FIN or by RST.
    pub hung_up: bool,
}

/// What sessions ask of the event loop that watches their sockets.
pub trait Registry {
    /// What it watches.
    type Socket: Socket;

    /// Gives a registered socket another meaning.
    fn rename(&mut self, token: Token, source: Source);

    /// Asks for an event with the socket's present state: bytes that are left unread give no edge of their own.
    ///
    /// # Errors
    /// The system cannot.
    fn renew(&mut self, socket: &mut Self::Socket, token: Token) -> io::Result<()>;

    /// The socket is closed next. Events of `token` that are still on their way are dropped, and those that come later:
    /// closing ends the watch (epoll(7)) only where no forked child has a copy of the socket.
    fn forget(&mut self, token: Token);
}

/// A mio poll whose tokens know when they are out of date.
#[derive(Debug)]
pub struct EventLoop {
    poll: Poll,
    events: Events,
    batch: Vec<Edge>,
    /// How many of the batch were handed out.
    taken: usize,
    waker: Arc<Waker>,
    slots: Vec<Slot>,
    free: Vec<usize>,
}

#[derive(Clone, Copy, Debug)]
struct Edge {
    token: Token,
    readable: bool,
    writable: bool,
    more_behind: bool,
    hung_up: bool,
}

#[derive(Debug)]
struct Slot {
    generation: u32,
    source: Option<Source>,
}

/// Half of the token's bits count the slot, half its generation; on 32-bit machines that is 65,536 of each.
const HALF: u32 = usize::BITS / 2;
const INDEX_MASK: usize = (1 << HALF) - 1;
/// The waker's own token; no slot can reach it.
const WAKER: Token = Token(usize::MAX);
/// What is due for so long was not looked at in time: the process was stopped, or had no time.
pub(crate) const LATE: Duration = Duration::from_millis(100);
/// Events taken from the kernel at once.
const EVENTS: usize = 1024;

impl EventLoop {
    pub(crate) fn new() -> io::Result<Self> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
        Ok(Self {
            poll,
            events: Events::with_capacity(EVENTS),
            batch: Vec::new(),
            taken: 0,
            waker,
            slots: Vec::new(),
            free: Vec::new(),
        })
    }

    pub(crate) fn waker(&self) -> Arc<Waker> {
        Arc::clone(&self.waker)
    }

    /// Watches `io` for reading and writing, edge-triggered; its events carry `source`.
    pub(crate) fn register(&mut self, io: &mut impl IoSource, source: Source) -> io::Result<Token> {
        let index = self.free.pop().unwrap_or(self.slots.len());
        if index >= INDEX_MASK {
            return Err(io::Error::other("too many sockets for one loop"));
        }
        if index == self.slots.len() {
            self.slots.push(Slot { generation: 0, source: None });
        }
        let slot = &mut self.slots[index];
        let token = Token(index | (slot.generation as usize & INDEX_MASK) << HALF);
        if let Err(error) = self.poll.registry().register(io, token, interest()) {
            self.free.push(index);
            return Err(error);
        }
        slot.source = Some(source);
        Ok(token)
    }

    /// Ends the watch of what stays open; events of `token` that are still on their way are dropped.
    #[cfg(feature = "relay")]
    pub(crate) fn deregister(&mut self, io: &mut impl IoSource, token: Token) {
        // It was registered here, so the only failure is a descriptor that the kernel already forgot.
        let _ = self.poll.registry().deregister(io);
        self.forget(token);
    }

    /// Waits for events, at most until `deadline` (not at all if it has passed, for ever if there is none).
    pub(crate) fn wait(&mut self, deadline: Option<Instant>) -> io::Result<()> {
        self.batch.clear();
        self.taken = 0;
        self.poll(deadline)?;
        // A process that was stopped, or had no time, goes on with what it had found before: what came meanwhile is to
        // be seen before time is judged.
        let now = Instant::now();
        if deadline.is_some_and(|deadline| now > deadline + LATE) {
            self.poll(Some(now))?;
        }
        Ok(())
    }

    fn poll(&mut self, deadline: Option<Instant>) -> io::Result<()> {
        loop {
            let timeout = deadline.map(|deadline| round_up(deadline.saturating_duration_since(Instant::now())));
            match self.poll.poll(&mut self.events, timeout) {
                // By a signal, or since the process was stopped (signal(7)).
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => break result?,
            }
        }
        self.batch.extend(self.events.iter().map(|event| Edge {
            token: event.token(),
            readable: event.is_readable(),
            writable: event.is_writable(),
            more_behind: event.is_read_closed() || event.is_write_closed() || event.is_error() || event.is_priority(),
            hung_up: event.is_write_closed() || event.is_error(),
        }));
        Ok(())
    }

    /// The next event of the last wait. What was deregistered since is passed over.
    pub(crate) fn next_ready(&mut self) -> Option<Readiness> {
        while let Some(&edge) = self.batch.get(self.taken) {
            self.taken += 1;
            if let Some(source) = self.source(edge.token) {
                let Edge { readable, writable, more_behind, hung_up, .. } = edge;
                return Some(Readiness { source, readable, writable, more_behind, hung_up });
            }
        }
        None
    }

    fn source(&self, token: Token) -> Option<Source> {
        if token == WAKER {
            return Some(Source::Waker);
        }
        let slot = self.slots.get(token.0 & INDEX_MASK)?;
        if slot.generation as usize & INDEX_MASK == token.0 >> HALF { slot.source } else { None }
    }
}

impl Registry for EventLoop {
    type Socket = TcpStream;

    fn rename(&mut self, token: Token, source: Source) {
        self.slots[token.0 & INDEX_MASK].source = Some(source);
    }

    fn renew(&mut self, socket: &mut TcpStream, token: Token) -> io::Result<()> {
        self.poll.registry().reregister(socket, token, interest())
    }

    fn forget(&mut self, token: Token) {
        let index = token.0 & INDEX_MASK;
        let slot = &mut self.slots[index];
        slot.source = None;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(index);
    }
}

fn interest() -> Interest {
    let interest = Interest::READABLE | Interest::WRITABLE;
    #[cfg(any(target_os = "android", target_os = "linux"))]
    let interest = interest | Interest::PRIORITY;
    interest
}

/// epoll counts milliseconds: rounding down would wake just before the deadline, and spin.
fn round_up(timeout: Duration) -> Duration {
    if timeout.is_zero() { timeout } else { timeout + Duration::from_micros(999) }
}
