//! What the loop thread and the tunnel's owner share: status, events, and the wish to stop.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use mio::Waker;
use portable_atomic::AtomicU64;

#[cfg(feature = "tls")]
use super::Announcement;
use super::event::{Event, EventKind, Severity, State, Status};
use crate::Error;
use crate::address::Address;
#[cfg(feature = "tls")]
use crate::identity::{Name, Pin};
use crate::io::mailbox::{Mailbox, Request};

/// Events kept for an owner that does not take them; past it the oldest are dropped and counted.
const MAX_EVENTS: usize = 1024;

/// The two threads' common ground.
#[derive(Debug)]
pub(super) struct Shared {
    /// Written by the loop thread alone, without a lock.
    pub(super) traffic: Traffic,
    inner: Mutex<Inner>,
    /// The tunnel is flushed, or over.
    ended: Condvar,
    requests: Mailbox,
    /// One byte lies in this pair while there are events. A socket pair, since every system has it and its
    /// writes raise no SIGPIPE.
    notify_sender: UnixStream,
    notify_receiver: UnixStream,
}

/// Counters of [`Status`].
#[derive(Debug, Default)]
pub(super) struct Traffic {
    pub(super) clients: AtomicU64,
    pub(super) clients_total: AtomicU64,
    pub(super) bytes_sent: AtomicU64,
    pub(super) bytes_received: AtomicU64,
    pub(super) ignored_frames: AtomicU64,
    /// 0 until it is measured.
    pub(super) round_trip_micros: AtomicU64,
}

#[derive(Debug)]
struct Inner {
    state: State,
    since: Instant,
    /// The relay, by which the link is known in every message.
    server: Address,
    /// The name that the relay gave the device, and the fingerprint of its key.
    #[cfg(feature = "tls")]
    identity: Option<(Option<Name>, Pin)>,
    peer: Option<SocketAddr>,
    protocol: Option<u8>,
    /// What the relay said that admitted the device.
    #[cfg(feature = "tls")]
    announcement: Option<Announcement>,
    /// How often a relay has answered.
    links: u64,
    next_attempt: Option<Instant>,
    /// No link sends LISTEN before.
    held_until: Option<Instant>,
    last_error: Option<(String, &'static str)>,
    events: VecDeque<Event>,
    events_dropped: u64,
    /// The owner was notified of the events that are there.
    notified: bool,
    /// The tunnel ends, and has sent what it will; what the relay said may be yet to be stored.
    is_flushed: bool,
    /// The owner is to see no event yet.
    #[cfg(feature = "tls")]
    is_withheld: bool,
}

impl Shared {
    pub(super) fn new(server: Address, waker: Arc<Waker>) -> io::Result<Self> {
        let (notify_sender, notify_receiver) = UnixStream::pair()?;
        notify_sender.set_nonblocking(true)?;
        notify_receiver.set_nonblocking(true)?;
        Ok(Self {
            traffic: Traffic::default(),
            inner: Mutex::new(Inner {
                state: State::Connecting,
                since: Instant::now(),
                server,
                #[cfg(feature = "tls")]
                identity: None,
                peer: None,
                protocol: None,
                #[cfg(feature = "tls")]
                announcement: None,
                links: 0,
                next_attempt: None,
                held_until: None,
                last_error: None,
                events: VecDeque::new(),
                events_dropped: 0,
                notified: false,
                is_flushed: false,
                #[cfg(feature = "tls")]
                is_withheld: false,
            }),
            ended: Condvar::new(),
            requests: Mailbox::new(waker),
            notify_sender,
            notify_receiver,
        })
    }

    // The owner's side.

    pub(super) fn status(&self) -> Status {
        let inner = self.lock();
        let micros = self.traffic.round_trip_micros.load(Relaxed);
        Status {
            state: inner.state,
            server: inner.server.clone(),
            #[cfg(feature = "tls")]
            identity: inner.identity.clone(),
            peer: inner.peer,
            protocol: inner.protocol,
            round_trip: (micros > 0).then_some(Duration::from_micros(micros)),
            reconnects: inner.links.saturating_sub(1),
            next_attempt: inner.next_attempt.map(|at| at.saturating_duration_since(Instant::now())),
            clients: self.traffic.clients.load(Relaxed),
            clients_total: self.traffic.clients_total.load(Relaxed),
            bytes_sent: self.traffic.bytes_sent.load(Relaxed),
            bytes_received: self.traffic.bytes_received.load(Relaxed),
            ignored_frames: self.traffic.ignored_frames.load(Relaxed),
            events_dropped: inner.events_dropped,
            since: inner.since.elapsed(),
            last_error: inner.last_error.clone(),
        }
    }

    #[cfg(feature = "tls")]
    pub(super) fn announcement(&self) -> Option<Announcement> {
        self.lock().announcement.clone()
    }

    pub(super) fn next_event(&self) -> Option<Event> {
        let mut inner = self.lock();
        if inner.is_withheld() {
            return None;
        }
        let event = inner.events.pop_front();
        if inner.events.is_empty() && std::mem::take(&mut inner.notified) {
            // One notification is sent for a queue that is not empty, so one byte is all there can be.
            let _ = (&self.notify_receiver).read(&mut [0; 1]);
        }
        event
    }

    /// Whether there is an event to take.
    ///
    /// # Errors
    /// [`Error::Closed`] if there is none and none will come. One look tells both: the last event comes with the end, and
    /// between two looks it would be missed.
    pub(super) fn has_event(&self) -> Result<bool, Error> {
        let inner = self.lock();
        match inner.events.is_empty() || inner.is_withheld() {
            true if inner.state == State::Closed => Err(Error::Closed),
            is_empty => Ok(!is_empty),
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.lock().state == State::Closed
    }

    pub(super) fn request_stop(&self) {
        self.requests.post(Request::Stop);
    }

    pub(super) fn request_reconnect(&self) {
        self.requests.post(Request::Reconnect);
    }

    /// Once this has returned no LISTEN leaves for so long, unless the state is `greeting` already.
    pub(super) fn hold(&self, time: Duration) {
        self.lock().held_until = Instant::now().checked_add(time);
        self.requests.post(Request::Hold);
    }

    /// Waits until the thread has ended; false if it did not within `timeout`.
    pub(super) fn await_over(&self, timeout: Duration) -> bool {
        self.await_end(timeout, |inner| inner.state == State::Closed)
    }

    /// Waits at most for `timeout` until the thread has sent what it will.
    pub(super) fn await_flushed(&self, timeout: Duration) {
        self.await_end(timeout, |inner| inner.is_flushed || inner.state == State::Closed);
    }

    fn await_end(&self, timeout: Duration, has_come: impl Fn(&Inner) -> bool) -> bool {
        let waited = self.ended.wait_timeout_while(self.lock(), timeout, |inner| !has_come(inner));
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    #[cfg(any(test, feature = "fault-injection"))]
    pub(super) fn inject_panic(&self) {
        self.requests.post(Request::Panic);
    }

    // The loop thread's side.

    pub(super) fn stop_requested(&self) -> bool {
        #[cfg(any(test, feature = "fault-injection"))]
        assert!(!self.requests.has(Request::Panic), "injected panic");
        self.requests.has(Request::Stop)
    }

    /// Whether the owner has asked for a new link since the last call.
    pub(super) fn take_reconnect(&self) -> bool {
        self.requests.take(Request::Reconnect)
    }

    /// Whether the owner has held the tunnel back, or let it go on, since the last call.
    pub(super) fn take_hold(&self) -> bool {
        self.requests.take(Request::Hold)
    }

    /// Whether LISTEN may leave. If it may, and `peer` is given, it is on its way to there as the owner knows: under the lock
    /// of [`hold`](Self::hold), so that the one or the other comes first.
    pub(super) fn announce(&self, now: Instant, peer: Option<SocketAddr>) -> bool {
        let mut inner = self.lock();
        if self.requests.has(Request::Stop) || inner.held_until.is_some_and(|until| now < until) {
            return false;
        }
        if let Some(peer) = peer {
            inner.enter(State::Greeting);
            inner.peer = Some(peer);
        }
        true
    }

    /// Until when no LISTEN may leave.
    pub(super) fn held_until(&self) -> Option<Instant> {
        self.lock().held_until
    }

    /// LISTEN has left for `peer`.
    pub(super) fn greeting(&self, server: &Address, peer: SocketAddr) {
        let mut inner = self.lock();
        inner.server.clone_from(server);
        inner.enter(State::Greeting);
        inner.peer = Some(peer);
        let message = format!("the link to {} is made, waiting for the relay's answer", server);
        inner.push(Event::new(EventKind::Greeting, Severity::Info, message));
    }

    /// The relay has admitted the device, and said this.
    #[cfg(feature = "tls")]
    pub(super) fn admitted(&self, announcement: Announcement) {
        self.lock().announcement = Some(announcement);
    }

    /// The relay has answered, and this version is spoken.
    pub(super) fn listening(&self, server: &Address, peer: SocketAddr, version: u8) {
        let mut inner = self.lock();
        inner.server.clone_from(server);
        inner.enter(State::Listening);
        inner.peer = Some(peer);
        inner.protocol = Some(version);
        inner.links += 1;
        let message = format!("the link to {} is up, waiting for clients", server);
        inner.push(Event::new(EventKind::Listening, Severity::Info, message));
    }

    /// There is no link, for this reason; the next attempt begins at `at`, `wait` from now.
    pub(super) fn waiting(&self, reason: Error, at: Instant, wait: Duration) {
        let mut inner = self.lock();
        inner.enter(State::Waiting);
        inner.next_attempt = Some(at);
        inner.last_error = Some((reason.to_string(), reason.code()));
        let message = format!("{reason}; trying again in {:.1} s", wait.as_secs_f64());
        let event = Event::new(EventKind::Waiting, Severity::Warning, message).with_code(reason.code());
        inner.push(event);
    }

    /// The link that was to take the place of the one in use could not be made.
    pub(super) fn kept(&self, reason: &Error) {
        let mut inner = self.lock();
        inner.last_error = Some((reason.to_string(), reason.code()));
        let message = format!("{reason}; the link before it stays in use");
        inner.push(Event::new(EventKind::Kept, Severity::Warning, message).with_code(reason.code()));
    }

    /// The next attempt begins.
    pub(super) fn connecting(&self, server: &Address) {
        let mut inner = self.lock();
        inner.server.clone_from(server);
        inner.enter(State::Connecting);
    }

    /// Who the device is, as far as it is known.
    #[cfg(feature = "tls")]
    pub(super) fn identified(&self, name: Option<Name>, fingerprint: Pin) {
        self.lock().identity = Some((name, fingerprint));
    }

    /// The owner sees no event until [`show`](Self::show), or the end; unless it has seen one already, and waits for none.
    #[cfg(feature = "tls")]
    pub(super) fn withhold(&self) {
        let mut inner = self.lock();
        inner.is_withheld = inner.events.is_empty() && !inner.notified;
    }

    /// The owner sees the events from now on.
    #[cfg(feature = "tls")]
    pub(super) fn show(&self) {
        self.lock().is_withheld = false;
    }

    pub(super) fn event(&self, event: Event) {
        self.lock().push(event);
    }

    /// The owner is to hear of the events that came since. The loop rings when it has moved what there is to move: who
    /// wakes takes a processor that the peers of the event wait for.
    pub(super) fn ring(&self) {
        let mut inner = self.lock();
        if !inner.events.is_empty() && !inner.is_withheld() && !std::mem::replace(&mut inner.notified, true) {
            // It cannot be full: no byte is in it.
            let _ = (&self.notify_sender).write(&[1]);
        }
    }

    /// The tunnel ends, and has sent what it will.
    pub(super) fn flushed(&self) {
        self.lock().is_flushed = true;
        self.ended.notify_all();
    }

    /// The thread's last word.
    pub(super) fn over(&self, result: Result<(), Error>) {
        let mut inner = self.lock();
        let event = match result {
            Ok(()) => Event::new(EventKind::Closed, Severity::Info, "closed".into()),
            Err(error) => {
                inner.last_error = Some((error.to_string(), error.code()));
                Event::new(EventKind::Closed, Severity::Error, error.to_string()).with_code(error.code())
            }
        };
        inner.enter(State::Closed);
        #[cfg(feature = "tls")]
        {
            inner.is_withheld = false;
        }
        self.traffic.clients.store(0, Relaxed);
        self.traffic.round_trip_micros.store(0, Relaxed);
        inner.push(event);
        drop(inner);
        self.ring();
        self.ended.notify_all();
    }

    /// A panic while the lock was held leaves nothing half done that matters here.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn push(&mut self, event: Event) {
        if self.events.len() == MAX_EVENTS {
            self.events.pop_front();
            self.events_dropped += 1;
        }
        self.events.push_back(event);
    }

    fn is_withheld(&self) -> bool {
        #[cfg(feature = "tls")]
        return self.is_withheld;
        #[cfg(not(feature = "tls"))]
        false
    }

    fn enter(&mut self, state: State) {
        self.state = state;
        self.since = Instant::now();
        self.next_attempt = None;
        if state != State::Listening {
            self.protocol = None;
        }
    }
}

impl AsFd for Shared {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.notify_receiver.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use mio::{Poll, Token};

    use super::*;

    #[test]
    fn an_owner_that_takes_no_events_through_a_flood_has_the_newest_and_the_number_of_the_others()
    -> Result<(), Box<dyn std::error::Error>> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), Token(0))?);
        let shared = Shared::new(Address::new("relay", 2065)?, waker)?;
        for number in 0..100_000 {
            shared.event(Event::new(EventKind::Failed, Severity::Warning, number.to_string()));
            shared.ring();
        }
        {
            let inner = shared.lock();
            assert!(inner.events.len() == MAX_EVENTS && inner.events.capacity() <= 2 * MAX_EVENTS);
        }
        assert_eq!(shared.status().events_dropped, 100_000 - MAX_EVENTS as u64);
        shared.over(Ok(()));
        let events: Vec<Event> = std::iter::from_fn(|| shared.next_event()).collect();
        assert_eq!(events.len(), MAX_EVENTS);
        assert_eq!((&*events[0].message, &*events[MAX_EVENTS - 2].message), ("98977", "99999"));
        assert_eq!(events[MAX_EVENTS - 1].kind, EventKind::Closed);
        let left = (&shared.notify_receiver).read(&mut [0; 1]).expect_err("the owner was notified once");
        assert_eq!(left.kind(), io::ErrorKind::WouldBlock);
        Ok(())
    }

    #[cfg(feature = "tls")]
    #[test]
    fn events_that_are_withheld_are_seen_later_in_their_order_and_at_the_end_at_the_latest()
    -> Result<(), Box<dyn std::error::Error>> {
        for is_over in [false, true] {
            let poll = Poll::new()?;
            let waker = Arc::new(Waker::new(poll.registry(), Token(0))?);
            let shared = Shared::new(Address::new("relay", 2065)?, waker)?;
            shared.withhold();
            shared.event(Event::new(EventKind::Failed, Severity::Warning, "first".into()));
            shared.ring();
            assert!(!shared.has_event()? && shared.next_event().is_none());
            let silent = (&shared.notify_receiver).read(&mut [0; 1]).expect_err("the owner was not notified");
            assert_eq!(silent.kind(), io::ErrorKind::WouldBlock);
            if is_over {
                shared.over(Ok(()));
            } else {
                shared.show();
                shared.ring();
            }
            assert!(shared.has_event()?);
            // An owner that was notified finds what it was notified of.
            shared.withhold();
            assert_eq!(shared.next_event().map(|event| event.message), Some("first".into()));
        }
        Ok(())
    }

    #[test]
    fn an_owner_that_looks_while_the_tunnel_ends_sees_the_last_event() -> Result<(), Box<dyn std::error::Error>> {
        for _ in 0..200 {
            let poll = Poll::new()?;
            let waker = Arc::new(Waker::new(poll.registry(), Token(0))?);
            let shared = Shared::new(Address::new("relay", 2065)?, waker)?;
            thread::scope(|scope| {
                scope.spawn(|| shared.over(Ok(())));
                while !shared.has_event()? {}
                Ok::<_, Error>(())
            })?;
            assert_eq!(shared.next_event().map(|event| event.kind), Some(EventKind::Closed));
            assert!(matches!(shared.has_event(), Err(Error::Closed)));
        }
        Ok(())
    }
}
