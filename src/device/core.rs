//! The device's end of a link, version 1: sans-IO, see [`Endpoint`] for the order of calls.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::early::Early;
use crate::address::Address;
use crate::link::{Counters, Delivery, Endpoint, QueueRule, Room, SendQueue, StreamKey, Streams, Timers};
use crate::protocol::{Decoder, Header, Item, MAX_PAYLOAD, Malformed, ProtocolError};

/// Resolving and connecting to a service, over every address of its name.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long DATA that came before its CONNECT is kept.
const EARLY_TIMEOUT: Duration = Duration::from_secs(5);
/// Early bytes kept for all clients together.
const MAX_EARLY: usize = 4 * 1024 * 1024;
/// Streams that are off the link and only deliver what is left; past it the oldest is reset.
const MAX_LINGERING: usize = 64;
/// Bytes of answers that may wait beyond a full send queue before the relay counts as hostile.
const MAX_BACKLOG: usize = 64 * 1024;

/// The device's end of a link.
#[derive(Debug)]
pub struct Device {
    decoder: Decoder,
    queue: SendQueue,
    ids: Box<[Id; 256]>,
    streams: Streams<Service>,
    /// Streams off the link with bytes left to deliver, oldest first.
    lingering: VecDeque<StreamKey>,
    early_bytes: usize,
    rule: QueueRule,
    timers: Timers<Timer>,
    outputs: VecDeque<Output>,
    counters: Counters,
}

/// What the shell is to carry out.
#[derive(Debug, PartialEq, Eq)]
pub enum Output {
    /// Connect to `service`, then [`Device::handle_connected`] or [`Device::handle_connect_failed`].
    Connect {
        /// The new stream.
        stream: StreamKey,
        /// Its client's number.
        client: u8,
        /// Where to.
        service: Address,
    },
    /// Everything is delivered: end the service's socket with FIN. The key is void.
    Finish {
        /// The stream.
        stream: StreamKey,
    },
    /// Something could not be delivered: end the service's socket with RST. The key is void.
    Reset {
        /// The stream.
        stream: StreamKey,
        /// Why.
        reason: ResetReason,
    },
    /// The service's socket failed, as the shell has told. The key is void.
    Gone {
        /// The stream.
        stream: StreamKey,
    },
    /// The relay sent a CONNECT that cannot be read; it was answered with CLOSE.
    Malformed {
        /// Its header.
        header: Header,
        /// What is wrong.
        reason: Malformed,
    },
    /// The relay sent DATA without CONNECT; it was dropped and answered with CLOSE.
    EarlyDropped {
        /// The client's number.
        client: u8,
    },
}

/// Why a service's socket is to be reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResetReason {
    /// The service stood still and held up every client.
    Stalled,
    /// No connection to the service within 10 s.
    ConnectTimeout,
    /// The relay took the client's number for another client.
    Replaced,
    /// The link is gone.
    LinkLost,
}

/// What a client's number means at the moment.
#[derive(Debug)]
enum Id {
    Idle,
    /// DATA came, CONNECT did not yet.
    Early(Early),
    Open(StreamKey),
    /// Early DATA was dropped and our CLOSE is out: the CONNECT it belongs to may still come, and DATA behind it.
    Refused,
    /// Our own CLOSE is out: DATA is still the old client's until a CLOSE or a CONNECT comes.
    Discarding,
}

#[derive(Debug)]
struct Service {
    /// The client's number, while the stream is on the link.
    id: Option<u8>,
    connected: bool,
    /// When the service last took bytes, once the stream is off the link.
    progress: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    Early(u8),
    Connect(StreamKey),
    Linger(StreamKey),
}

impl Device {
    /// A link that was just made: LISTEN waits to be sent.
    pub fn new(rule: QueueRule) -> Self {
        let mut queue = SendQueue::default();
        queue.push(&Header::LISTEN.encode());
        Self {
            decoder: Decoder::default(),
            queue,
            ids: Box::new([const { Id::Idle }; 256]),
            streams: Streams::new(rule),
            lingering: VecDeque::new(),
            early_bytes: 0,
            rule,
            timers: Timers::new(),
            outputs: VecDeque::new(),
            counters: Counters::default(),
        }
    }

    /// The connection that [`Output::Connect`] asked for is made.
    pub fn handle_connected(&mut self, now: Instant, key: StreamKey) {
        self.timers.cancel(Timer::Connect(key));
        let Some(stream) = self.streams.get_mut(key) else { return };
        stream.state.connected = true;
        stream.state.progress = now;
        self.finish_if_delivered(key);
    }

    /// The connection that [`Output::Connect`] asked for cannot be made. The key is void.
    pub fn handle_connect_failed(&mut self, now: Instant, key: StreamKey) {
        self.handle_failure(now, key);
    }

    /// The tunnel's owner wants to end: CLOSE for every client, and what services are owed is delivered.
    pub fn close(&mut self, now: Instant) {
        for key in self.streams.keys() {
            self.take_off_link(now, key, Id::Discarding);
            self.linger(now, key);
        }
    }

    /// The number of the client that the stream belongs to, while it is on the link.
    pub fn client(&self, key: StreamKey) -> Option<u8> {
        self.streams.get(key)?.state.id
    }

    fn handle_connect(&mut self, now: Instant, client: u8, service: Address) {
        if matches!(self.ids[usize::from(client)], Id::Refused) {
            // A service must not be given the rest of a stream whose first bytes are gone.
            self.ids[usize::from(client)] = Id::Discarding;
            return;
        }
        if let Id::Open(old) = self.ids[usize::from(client)] {
            // The relay of 2012 takes a number again while it is in use. No CLOSE: it would hit the new client.
            self.set_id(client, Id::Idle);
            let delivered = self.streams.get(old).is_some_and(|old| old.pending().is_empty());
            self.leave_link(old);
            if delivered {
                self.linger(now, old);
            } else {
                self.reset(old, ResetReason::Replaced);
            }
        }
        let stream = self.streams.insert(Service { id: Some(client), connected: false, progress: now });
        self.counters.open += 1;
        self.counters.opened += 1;
        self.timers.set(Timer::Connect(stream), now + CONNECT_TIMEOUT);
        self.outputs.push_back(Output::Connect { stream, client, service });
        if let Id::Early(early) = self.set_id(client, Id::Open(stream)) {
            self.streams.push(now, stream, early.bytes());
            if early.is_closed() {
                self.handle_close(now, client);
            }
        }
    }

    /// The relay says that the client is gone.
    fn handle_close(&mut self, now: Instant, client: u8) {
        match &mut self.ids[usize::from(client)] {
            Id::Open(key) => {
                let key = *key;
                self.take_off_link(now, key, Id::Idle);
                self.linger(now, key);
            }
            Id::Early(early) => early.close(),
            Id::Refused | Id::Discarding => self.ids[usize::from(client)] = Id::Idle,
            Id::Idle => self.counters.ignored += 1,
        }
    }

    /// DATA for a client that is not open.
    fn handle_early(&mut self, now: Instant, client: u8, bytes: &[u8]) {
        if matches!(self.ids[usize::from(client)], Id::Idle) {
            self.ids[usize::from(client)] = Id::Early(Early::default());
            self.timers.set(Timer::Early(client), now + EARLY_TIMEOUT);
        }
        let room = MAX_EARLY - self.early_bytes;
        let Id::Early(early) = &mut self.ids[usize::from(client)] else { return };
        if early.is_closed() {
            self.counters.ignored += 1;
        } else if bytes.len() > room || !early.push(bytes) {
            self.drop_early(client);
        } else {
            self.early_bytes += bytes.len();
        }
    }

    /// Early DATA that no CONNECT came for, or too much of it: answered with CLOSE.
    fn drop_early(&mut self, client: u8) {
        let closed = matches!(&self.ids[usize::from(client)], Id::Early(early) if early.is_closed());
        self.set_id(client, if closed { Id::Idle } else { Id::Refused });
        self.queue.push(&Header::close(client).encode());
        self.outputs.push_back(Output::EarlyDropped { client });
    }

    fn handle_malformed(&mut self, now: Instant, header: Header, reason: Malformed) {
        let client = header.client;
        if let Id::Open(key) = self.ids[usize::from(client)] {
            self.take_off_link(now, key, Id::Discarding);
            self.linger(now, key);
        } else {
            self.set_id(client, Id::Discarding);
            self.queue.push(&Header::close(client).encode());
        }
        self.outputs.push_back(Output::Malformed { header, reason });
    }

    /// Gives a number another meaning; what it meant goes back.
    fn set_id(&mut self, client: u8, id: Id) -> Id {
        let old = std::mem::replace(&mut self.ids[usize::from(client)], id);
        if let Id::Early(early) = &old {
            self.early_bytes -= early.bytes().len();
            self.timers.cancel(Timer::Early(client));
        }
        old
    }

    /// Sends the stream's one CLOSE, if it is on the link; its number means `after` from here on.
    fn take_off_link(&mut self, _now: Instant, key: StreamKey, after: Id) {
        if let Some(client) = self.leave_link(key) {
            self.set_id(client, after);
            self.queue.push(&Header::close(client).encode());
        }
    }

    fn leave_link(&mut self, key: StreamKey) -> Option<u8> {
        let client = self.streams.get_mut(key)?.state.id.take()?;
        self.counters.open -= 1;
        Some(client)
    }

    /// The stream is off the link: it ends when everything is delivered, or when its service stands still.
    fn linger(&mut self, now: Instant, key: StreamKey) {
        let Some(stream) = self.streams.get_mut(key) else { return };
        stream.state.progress = now;
        if self.finish_if_delivered(key) || self.lingering.contains(&key) {
            return;
        }
        self.lingering.push_back(key);
        self.timers.set(Timer::Linger(key), now + self.rule.stall);
        if self.lingering.len() > MAX_LINGERING
            && let Some(&oldest) = self.lingering.front()
        {
            self.reset(oldest, ResetReason::Stalled);
        }
    }

    fn finish_if_delivered(&mut self, key: StreamKey) -> bool {
        let done = self
            .streams
            .get(key)
            .is_some_and(|stream| stream.state.id.is_none() && stream.state.connected && stream.pending().is_empty());
        if done {
            self.forget(key);
            self.outputs.push_back(Output::Finish { stream: key });
        }
        done
    }

    fn reset(&mut self, key: StreamKey, reason: ResetReason) {
        self.forget(key);
        self.outputs.push_back(Output::Reset { stream: key, reason });
    }

    fn forget(&mut self, key: StreamKey) {
        self.streams.remove(key);
        self.timers.cancel(Timer::Connect(key));
        self.timers.cancel(Timer::Linger(key));
        self.lingering.retain(|&lingering| lingering != key);
    }

    fn handle_timer(&mut self, now: Instant, timer: Timer) {
        match timer {
            Timer::Early(client) => self.drop_early(client),
            Timer::Connect(key) => {
                self.take_off_link(now, key, Id::Discarding);
                self.reset(key, ResetReason::ConnectTimeout);
            }
            Timer::Linger(key) => {
                let Some(stream) = self.streams.get(key) else { return };
                let due = stream.state.progress + self.rule.stall;
                if due > now {
                    self.timers.set(timer, due);
                } else {
                    self.reset(key, ResetReason::Stalled);
                }
            }
        }
    }
}

impl Endpoint for Device {
    type Output = Output;

    fn receive<'a>(&mut self, now: Instant, input: &mut &'a [u8]) -> Result<Option<Delivery<'a>>, ProtocolError> {
        while let Some(item) = self.decoder.next(input) {
            match item {
                Item::Data { client, bytes } => match self.ids[usize::from(client)] {
                    Id::Open(key) => {
                        self.counters.received += bytes.len() as u64;
                        let stream = self.streams.get(key);
                        if stream.is_some_and(|stream| stream.state.connected && stream.pending().is_empty()) {
                            return Ok(Some(Delivery { stream: key, bytes }));
                        }
                        self.streams.push(now, key, bytes);
                    }
                    Id::Idle | Id::Early(_) => self.handle_early(now, client, bytes),
                    Id::Refused | Id::Discarding => self.counters.ignored += 1,
                },
                Item::Connect { header, connect: Ok(connect) } => {
                    self.handle_connect(now, header.client, connect.service);
                }
                Item::Connect { header, connect: Err(reason) } => self.handle_malformed(now, header, reason),
                Item::Close { client } => self.handle_close(now, client),
                Item::Listen(_) | Item::Ignored(_) => self.counters.ignored += 1,
            }
            if self.queue.exceeds(MAX_BACKLOG) {
                return Err(ProtocolError::Backlog(self.queue.unsent().len()));
            }
        }
        Ok(None)
    }

    fn keep(&mut self, now: Instant, stream: StreamKey, rest: &[u8]) {
        self.streams.push(now, stream, rest);
    }

    fn wants_input(&self) -> bool {
        !self.streams.is_blocked()
    }

    fn pending(&self, stream: StreamKey) -> &[u8] {
        self.streams.get(stream).filter(|stream| stream.state.connected).map_or(&[], |stream| stream.pending())
    }

    fn advance(&mut self, now: Instant, key: StreamKey, count: usize) {
        self.streams.advance(now, key, count);
        if let Some(stream) = self.streams.get_mut(key) {
            stream.state.progress = now;
        }
        self.finish_if_delivered(key);
    }

    fn reserve(&mut self, key: StreamKey) -> Room<'_> {
        match self.streams.get(key) {
            Some(stream) if stream.state.id.is_some() && stream.state.connected => {
                self.queue.reserve().map_or(Room::Full, Room::Free)
            }
            _ => Room::Unwanted,
        }
    }

    fn commit(&mut self, _now: Instant, key: StreamKey, count: usize) {
        debug_assert!((1..=MAX_PAYLOAD).contains(&count));
        if let Some(client) = self.client(key) {
            self.queue.commit(Header::data(client, count as u16));
            self.counters.sent += count as u64;
        }
    }

    fn handle_end(&mut self, now: Instant, key: StreamKey) {
        self.take_off_link(now, key, Id::Discarding);
        self.linger(now, key);
    }

    fn handle_failure(&mut self, now: Instant, key: StreamKey) {
        self.take_off_link(now, key, Id::Discarding);
        self.forget(key);
        self.outputs.push_back(Output::Gone { stream: key });
    }

    fn unsent(&self) -> &[u8] {
        self.queue.unsent()
    }

    fn advance_link(&mut self, _now: Instant, count: usize) {
        self.queue.advance(count);
    }

    fn handle_link_lost(&mut self, _now: Instant) {
        for client in 0..=u8::MAX {
            self.set_id(client, Id::Idle);
        }
        for key in self.streams.keys() {
            if self.leave_link(key).is_some() {
                self.reset(key, ResetReason::LinkLost);
            }
        }
        self.queue = SendQueue::default();
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.timers.next().into_iter().chain(self.streams.stall_timeout()).min()
    }

    fn handle_timeout(&mut self, now: Instant) {
        while let Some(timer) = self.timers.pop_due(now) {
            self.handle_timer(now, timer);
        }
        while let Some(key) = self.streams.next_stalled(now) {
            self.take_off_link(now, key, Id::Discarding);
            self.reset(key, ResetReason::Stalled);
        }
    }

    fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    fn counters(&self) -> Counters {
        self.counters
    }

    fn streams(&self) -> usize {
        self.streams.len()
    }
}

#[cfg(test)]
mod tests;
