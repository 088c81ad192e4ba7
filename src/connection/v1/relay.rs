//! The relay's end of a version 1 link, from LISTEN on.

mod ids;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ids::{Id, Ids};

use super::streams::Streams;
use crate::address::Address;
use crate::connection::{
    Connection, Counters, Delivery, Limits, Output, QueueRule, Reset, Room, SendQueue, StreamKey, Timers, whole_frames,
};
use crate::protocol::ProtocolError;
use crate::protocol::v1::{Connect, Decoder, Header, Item};
use crate::protocol::v2::{self, Code};

/// Clients that the numbers of a link suffice for.
pub(in crate::connection) const PLACES: usize = 256;
/// How long a number waits for the device's echo of our CLOSE.
const ECHO_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a new client waits for a number before it is refused.
const ID_TIMEOUT: Duration = Duration::from_secs(1);
/// New clients that may wait for a number at once.
const MAX_WAITING: usize = 256;
/// Bytes of control frames that may wait beyond a full send queue before the device counts as hostile.
const MAX_BACKLOG: usize = 64 * 1024;

/// The relay's end of a link.
#[derive(Debug)]
pub struct Relay {
    decoder: Decoder,
    queue: SendQueue,
    ids: Ids,
    streams: Streams<Client>,
    /// Clients without a number, in the order they came.
    waiting: VecDeque<StreamKey>,
    half_close: Duration,
    rule: QueueRule,
    /// When a full queue last kept the link unread: before that, nobody can tell a silent device.
    unread_until: Instant,
    timers: Timers<Timer>,
    /// Bytes that the link ever took.
    taken: u64,
    /// Timers that begin once the link has taken so many: what they wait for cannot come before.
    departing: VecDeque<(u64, Timer, Duration)>,
    outputs: VecDeque<Output>,
    counters: Counters,
}

#[derive(Debug)]
struct Client {
    service: Arc<Address>,
    link: OnLink,
    /// The client sends no more; since when.
    ended: Option<Instant>,
    /// When bytes last moved towards the client.
    progress: Instant,
}

/// Where a client is on its way over the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OnLink {
    Waiting,
    Open(u8),
    Done,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    Id(StreamKey),
    HalfClose(StreamKey),
    Delivery(StreamKey),
    Echo(u8),
}

impl Relay {
    /// An end that has taken LISTEN.
    ///
    /// `half_close` is how long a service may be silent after its client's end of stream before the client
    /// counts as gone; zero is the document's behaviour.
    pub(in crate::connection) fn new(now: Instant, half_close: Duration, limits: Limits) -> Self {
        let Limits { rule, budget, .. } = limits;
        Self {
            decoder: Decoder::default(),
            queue: SendQueue::default(),
            ids: Ids::new(),
            streams: Streams::new(rule, budget),
            waiting: VecDeque::new(),
            half_close,
            rule,
            unread_until: now,
            timers: Timers::new(),
            taken: 0,
            departing: VecDeque::new(),
            outputs: VecDeque::new(),
            counters: Counters::default(),
        }
    }

    /// Clients that are on the link or wait for a number.
    pub(in crate::connection) fn clients(&self) -> usize {
        self.counters.open as usize + self.waiting.len()
    }

    /// Clients that have only to wait for their service, and whose numbers a new one may have.
    pub(in crate::connection) fn yielding(&self) -> usize {
        let is_over = |key: &StreamKey| self.streams.get(*key).is_some_and(|stream| stream.state.ended.is_some());
        self.ids.open().filter(is_over).count()
    }

    /// A client was accepted for `service`. Its socket is not read before [`Output::Opened`].
    pub(in crate::connection) fn open(&mut self, now: Instant, service: Arc<Address>) -> StreamKey {
        let client = Client { service, link: OnLink::Waiting, ended: None, progress: now };
        let key = self.streams.insert(now, client);
        self.waiting.push_back(key);
        self.timers.set(Timer::Id(key), now + ID_TIMEOUT);
        self.assign_ids(now);
        if self.waiting.len() > MAX_WAITING {
            self.waiting.pop_back();
            self.reset(now, key, Reset::NoPlace);
        } else {
            self.free_ids_for_waiting(now);
        }
        key
    }

    fn assign_ids(&mut self, now: Instant) {
        while !self.waiting.is_empty() && !self.queue.exceeds(0) {
            let Some(client) = self.ids.take() else { return };
            let Some(key) = self.waiting.pop_front() else { return };
            self.timers.cancel(Timer::Id(key));
            let Some(stream) = self.streams.get_mut(key) else { continue };
            stream.state.link = OnLink::Open(client);
            self.ids.set(client, Id::Open(key));
            self.counters.open += 1;
            self.counters.opened += 1;
            let connect = Connect { service: stream.state.service.as_ref().clone() };
            self.queue.push(&connect.frame(client));
            self.outputs.push_back(Output::Opened { stream: key, client: client.into() });
            if stream.state.ended.is_some() {
                self.wait_half_closed(now, key);
            }
        }
    }

    /// For each client that waits for a number, one that has only waited for its service, the longest first, gives
    /// its own.
    fn free_ids_for_waiting(&mut self, now: Instant) {
        while self.ids.free() + self.ids.awaiting_echo() < self.waiting.len() {
            let open = self.ids.open().filter_map(|key| Some((self.streams.get(key)?.state.ended?, key)));
            let Some((_, key)) = open.min() else { return };
            self.close_stream(now, key);
        }
    }

    /// The client sends no more: its service may still answer.
    fn wait_half_closed(&mut self, now: Instant, key: StreamKey) {
        if self.half_close.is_zero() {
            self.close_stream(now, key);
        } else {
            self.set_when_taken(now, Timer::HalfClose(key), self.half_close);
            self.free_ids_for_waiting(now);
        }
    }

    /// Sets a timer for what the device does about all that is queued now: it begins when the link has taken that.
    fn set_when_taken(&mut self, now: Instant, timer: Timer, after: Duration) {
        self.departing.push_back((self.taken + self.queue.unsent().len() as u64, timer, after));
        self.begin_timers(now);
    }

    fn begin_timers(&mut self, now: Instant) {
        while let Some(&(at, timer, after)) = self.departing.front()
            && at <= self.taken
        {
            self.departing.pop_front();
            self.timers.set(timer, now + after);
        }
    }

    fn cancel(&mut self, timer: Timer) {
        self.timers.cancel(timer);
        self.departing.retain(|&(_, departing, _)| departing != timer);
    }

    /// From our side: CLOSE now, the number is free when the device has answered.
    fn close_stream(&mut self, now: Instant, key: StreamKey) {
        self.send_close(now, key);
        self.start_delivering(now, key);
    }

    fn send_close(&mut self, now: Instant, key: StreamKey) {
        let Some(stream) = self.streams.get_mut(key) else { return };
        match std::mem::replace(&mut stream.state.link, OnLink::Done) {
            OnLink::Open(client) => {
                self.counters.open -= 1;
                self.queue.push(&Header::close(client).encode());
                self.ids.set(client, Id::AwaitingEcho);
                self.set_when_taken(now, Timer::Echo(client), ECHO_TIMEOUT);
            }
            OnLink::Waiting => {
                self.waiting.retain(|&waiting| waiting != key);
                self.timers.cancel(Timer::Id(key));
            }
            OnLink::Done => {}
        }
        self.cancel(Timer::HalfClose(key));
    }

    /// From the device's side.
    fn handle_close(&mut self, now: Instant, client: u8) {
        match self.ids.get(client) {
            Id::Open(key) => {
                // The device knows that its number is free for reuse only by our CLOSE: exactly one.
                self.send_close(now, key);
                self.release(now, client);
                self.start_delivering(now, key);
            }
            Id::AwaitingEcho => self.release(now, client),
            Id::Free => self.counters.ignored += 1,
        }
    }

    /// To be called before whatever may let the link be read again.
    fn note_unread(&mut self, now: Instant) {
        if self.streams.is_blocked() {
            self.unread_until = now;
        }
    }

    fn release(&mut self, now: Instant, client: u8) {
        self.cancel(Timer::Echo(client));
        self.ids.release(client);
        self.assign_ids(now);
    }

    /// The stream is off the link: it ends when everything is delivered, or when its client stands still.
    fn start_delivering(&mut self, now: Instant, key: StreamKey) {
        let Some(stream) = self.streams.get_mut(key) else { return };
        stream.state.progress = now;
        if !self.finish_if_delivered(now, key) {
            self.streams.start_delivering(now, key);
            self.timers.set(Timer::Delivery(key), now + self.rule.stall);
        }
    }

    fn finish_if_delivered(&mut self, now: Instant, key: StreamKey) -> bool {
        let done = self
            .streams
            .get(key)
            .is_some_and(|stream| stream.state.link == OnLink::Done && stream.pending().is_empty());
        if done {
            self.forget(now, key);
            self.outputs.push_back(Output::Finish { stream: key });
        }
        done
    }

    fn reset(&mut self, now: Instant, key: StreamKey, reason: Reset) {
        self.forget(now, key);
        self.outputs.push_back(Output::Reset { stream: key, reason });
    }

    fn forget(&mut self, now: Instant, key: StreamKey) {
        self.streams.remove(now, key);
        for timer in [Timer::Id(key), Timer::HalfClose(key), Timer::Delivery(key)] {
            self.cancel(timer);
        }
    }

    fn handle_timer(&mut self, now: Instant, timer: Timer) {
        match timer {
            // There are numbers: it is the link that takes nothing.
            Timer::Id(_) if self.ids.free() > 0 => self.timers.set(timer, now + ID_TIMEOUT),
            Timer::Id(key) => {
                self.waiting.retain(|&waiting| waiting != key);
                self.reset(now, key, Reset::NoPlace);
            }
            Timer::HalfClose(key) => {
                let Some(stream) = self.streams.get(key) else { return };
                let quiet_until = stream.state.progress.max(self.unread_until) + self.half_close;
                if quiet_until > now {
                    self.timers.set(timer, quiet_until);
                } else {
                    self.close_stream(now, key);
                }
            }
            Timer::Delivery(key) => {
                let Some(stream) = self.streams.get(key) else { return };
                let due = stream.state.progress + self.rule.stall;
                if due > now {
                    self.timers.set(timer, due);
                } else {
                    self.reset(now, key, Reset::Stalled);
                }
            }
            Timer::Echo(client) => {
                // An echo that waits unread would close the number's next client.
                let due = self.unread_until + ECHO_TIMEOUT;
                if due > now {
                    self.timers.set(timer, due);
                } else {
                    self.release(now, client);
                }
            }
        }
    }
}

impl Connection for Relay {
    fn receive<'a>(&mut self, now: Instant, input: &mut &'a [u8]) -> Result<Option<Delivery<'a>>, ProtocolError> {
        while let Some(item) = self.decoder.next(input) {
            match item {
                Item::Data { client, bytes } => match self.ids.get(client) {
                    Id::Open(key) => {
                        self.counters.received += bytes.len() as u64;
                        let Some(stream) = self.streams.get_mut(key) else { continue };
                        stream.state.progress = now;
                        if stream.pending().is_empty() {
                            return Ok(Some(Delivery { stream: key, bytes }));
                        }
                        self.streams.push(now, key, bytes);
                    }
                    Id::Free | Id::AwaitingEcho => self.counters.ignored += 1,
                },
                Item::Close { client } => self.handle_close(now, client),
                Item::Listen(header) => return Err(ProtocolError::ListenAgain(header)),
                Item::Connect { header, .. } => return Err(ProtocolError::ConnectFromDevice(header)),
                Item::Ignored(header) => {
                    self.counters.ignored += 1;
                    // The answer of 2012 to an unknown command on a number that is free: to HELLO it says version 1.
                    if v2::version_in(header).is_some() && self.ids.get(header.client) == Id::Free {
                        self.queue.push(&Header::close(header.client).encode());
                    }
                }
            }
            if self.queue.exceeds(MAX_BACKLOG) {
                return Err(ProtocolError::Backlog(self.queue.unsent().len()));
            }
        }
        Ok(None)
    }

    fn delivered(&mut self, now: Instant, stream: StreamKey, bytes: &[u8], taken: usize) {
        self.streams.delivered(now, stream, bytes, taken);
    }

    fn goes_on(&self, key: StreamKey, input: &[u8]) -> bool {
        let client = self.decoder.data_ahead(input);
        client.is_some_and(|client| self.ids.get(client) == Id::Open(key))
    }

    fn read_size(&self, room: usize) -> usize {
        whole_frames(room.min(self.rule.progress()), self.decoder.left())
    }

    fn wants_input(&self) -> bool {
        !self.streams.is_blocked()
    }

    fn pending(&self, stream: StreamKey) -> &[u8] {
        self.streams.get(stream).map_or(&[], |stream| stream.pending())
    }

    fn advance(&mut self, now: Instant, key: StreamKey, count: usize) {
        self.note_unread(now);
        self.streams.advance(now, key, count);
        if let Some(stream) = self.streams.get_mut(key)
            && stream.state.link == OnLink::Done
        {
            stream.state.progress = now;
        }
        self.finish_if_delivered(now, key);
    }

    fn reserve(&mut self, key: StreamKey, _contended: bool) -> Room<'_> {
        let open = self
            .streams
            .get(key)
            .is_some_and(|stream| matches!(stream.state.link, OnLink::Open(_)) && stream.state.ended.is_none());
        if open { self.queue.reserve(Header::LEN, usize::MAX).map_or(Room::Full, Room::Free) } else { Room::Unwanted }
    }

    fn commit(&mut self, now: Instant, key: StreamKey, count: usize) {
        debug_assert!(count > 0);
        if let Some(OnLink::Open(client)) = self.streams.get(key).map(|stream| stream.state.link) {
            self.queue.commit(count, |size| Header::data(client, size).encode());
            self.counters.sent += count as u64;
            self.streams.note_sent(now, key, count);
        }
    }

    fn handle_end(&mut self, now: Instant, key: StreamKey) {
        let Some(stream) = self.streams.get_mut(key) else { return };
        if stream.state.ended.is_none() {
            stream.state.ended = Some(now);
            stream.state.progress = stream.state.progress.max(now);
            if matches!(stream.state.link, OnLink::Open(_)) {
                self.wait_half_closed(now, key);
            }
        }
    }

    fn handle_failure(&mut self, now: Instant, key: StreamKey, _code: Code, _reason: &str) {
        self.note_unread(now);
        self.send_close(now, key);
        self.forget(now, key);
        self.outputs.push_back(Output::Gone { stream: key });
    }

    fn poll_unblocked(&mut self) -> Option<StreamKey> {
        None
    }

    fn has_unsent(&self) -> bool {
        !self.queue.unsent().is_empty()
    }

    fn unsent(&mut self) -> &[u8] {
        self.queue.unsent()
    }

    fn advance_link(&mut self, now: Instant, count: usize) {
        self.queue.advance(count);
        self.taken += count as u64;
        self.begin_timers(now);
        self.assign_ids(now);
    }

    fn go_away(&mut self, _now: Instant, _code: Code, _retry_after: u16, _reason: &str) {
        // Version 1 has no word for it; the shell accepts no more clients.
    }

    fn close(&mut self, now: Instant) {
        for key in self.streams.keys() {
            self.close_stream(now, key);
        }
    }

    fn handle_link_lost(&mut self, now: Instant) {
        for key in self.streams.keys() {
            let on_link = self.streams.get(key).is_some_and(|stream| stream.state.link != OnLink::Done);
            if on_link {
                self.reset(now, key, Reset::LinkLost);
            }
        }
        self.counters.open = 0;
        self.waiting.clear();
        self.ids = Ids::new();
        self.queue = SendQueue::default();
        self.departing.clear();
        for client in 0..=u8::MAX {
            self.timers.cancel(Timer::Echo(client));
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.timers.next().into_iter().chain(self.streams.stall_timeout()).min()
    }

    fn handle_timeout(&mut self, now: Instant) -> Result<(), ProtocolError> {
        self.note_unread(now);
        while let Some(timer) = self.timers.pop_due(now) {
            self.handle_timer(now, timer);
        }
        while let Some(key) = self.streams.next_stalled(now) {
            self.send_close(now, key);
            self.reset(now, key, Reset::TooSlow);
        }
        Ok(())
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

    fn held(&self) -> u64 {
        (self.streams.held() + self.queue.unsent().len()) as u64
    }
}

#[cfg(test)]
mod tests;
