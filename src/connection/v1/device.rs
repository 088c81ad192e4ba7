//! The device's end of a version 1 link.

mod early;
mod half_close;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use early::Early;
use half_close::Answer;

use super::streams::Streams;
use crate::address::Address;
use crate::connection::{
    Bucket, CONNECT_TIMEOUT, Connection, Counters, Delivery, Limits, Output, QueueRule, Reset, Room, SendQueue,
    StreamKey, Timers, whole_frames,
};
use crate::protocol::v1::{Decoder, Header, Item};
use crate::protocol::v2::Code;
use crate::protocol::{Malformed, ProtocolError};

/// How long DATA that came before its CONNECT is kept.
const EARLY_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a CONNECT may come behind early DATA that was dropped, and is refused too.
const REFUSED_TIMEOUT: Duration = Duration::from_secs(30);
/// Early bytes kept for all clients together.
const MAX_EARLY: usize = 4 * 1024 * 1024;
/// Streams that exist at once: those on the link, and as many that only deliver what is left. Our relay never asks
/// for more; past it a CONNECT is refused.
const MAX_STREAMS: usize = 512;
/// Bytes of answers that may wait beyond a full send queue before the relay counts as hostile.
const MAX_BACKLOG: usize = 64 * 1024;

/// The device's end of a link.
#[derive(Debug)]
pub struct Device {
    decoder: Decoder,
    queue: SendQueue,
    ids: Box<[Id; 256]>,
    streams: Streams<Service>,
    early_bytes: usize,
    rule: QueueRule,
    /// How many CONNECTs are read in a second, and at once.
    open_rate: u32,
    /// Made when the first CONNECT comes.
    opens: Option<Bucket>,
    /// The number of the last CONNECT.
    latest: u8,
    /// The relay is one of 2012: it keeps a client whose CLOSE it has sent until ours is there.
    keeps_clients: bool,
    /// When a full queue or the rate of CONNECTs last kept the link unread: before that, nobody can tell what has not come.
    unread_until: Option<Instant>,
    timers: Timers<Timer>,
    outputs: VecDeque<Output>,
    counters: Counters,
}

/// What a client's number means at the moment.
#[derive(Debug)]
enum Id {
    Idle,
    /// DATA came, CONNECT did not yet.
    Early(Early),
    Open(StreamKey),
    /// The relay's CLOSE came first; its client may still read, and ours waits for what the service answers.
    HalfClosed(StreamKey),
    /// Early DATA was dropped and our CLOSE is out: the CONNECT it belongs to may still come, and more DATA. A service
    /// must be given neither the rest of a stream whose first bytes are gone, nor a client that is gone.
    Refused {
        /// The relay's CLOSE came.
        closed: bool,
    },
    /// Our own CLOSE is out: DATA is still the old client's until a CLOSE or a CONNECT comes.
    Discarding,
}

impl Id {
    /// Our CLOSE is out, and the relay's CLOSE `closed`: is here, or is still to come.
    fn closing(closed: bool) -> Self {
        if closed { Self::Idle } else { Self::Discarding }
    }
}

#[derive(Debug)]
struct Service {
    /// The client's number, while the stream is on the link.
    id: Option<u8>,
    connected: bool,
    /// When the service last took bytes, once the stream is off the link.
    progress: Instant,
    /// Once the service has its end of stream, while its client may still read.
    answer: Option<Answer>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    Early(u8),
    Connect(StreamKey),
    Delivery(StreamKey),
    Answer(StreamKey),
    /// CONNECTs come faster than they may: until then the link is not read.
    OpenRate,
}

impl Device {
    /// A link on which `unsent` waits to be sent: LISTEN, or what is left of it and of what came behind.
    pub(in crate::connection) fn new(limits: Limits, unsent: &[u8]) -> Self {
        let Limits { rule, open_rate, budget, .. } = limits;
        let mut queue = SendQueue::default();
        queue.push(unsent);
        queue.push(&Header::PROBE.encode());
        Self {
            decoder: Decoder::default(),
            queue,
            ids: Box::new([const { Id::Idle }; 256]),
            streams: Streams::new(rule, budget),
            early_bytes: 0,
            rule,
            open_rate,
            opens: None,
            latest: 0,
            keeps_clients: false,
            unread_until: None,
            timers: Timers::new(),
            outputs: VecDeque::new(),
            counters: Counters::default(),
        }
    }

    /// The connection that [`Output::Connect`] asked for is made.
    pub(in crate::connection) fn handle_connected(&mut self, now: Instant, key: StreamKey) {
        self.note_unread(now);
        self.timers.cancel(Timer::Connect(key));
        let Some(stream) = self.streams.get_mut(key) else { return };
        stream.state.connected = true;
        stream.state.progress = now;
        self.finish_if_delivered(now, key);
    }

    fn handle_connect(&mut self, now: Instant, client: u8, service: Address) {
        let opens = self.opens.get_or_insert_with(|| Bucket::new(now, self.open_rate, self.open_rate));
        if let Some(until) = opens.spend(now) {
            self.timers.set(Timer::OpenRate, until);
        }
        self.note_number(now, client);
        if let Id::Refused { closed } = self.ids[usize::from(client)] {
            // Should it be the next client's, that one must not hang.
            self.queue.push(&Header::close(client).encode());
            self.set_id(client, Id::closing(closed));
            return;
        }
        self.make_way(now, client);
        if self.streams.len() >= MAX_STREAMS {
            self.refuse(client);
            return;
        }
        let state = Service { id: Some(client), connected: false, progress: now, answer: None };
        let stream = self.streams.insert(now, state);
        self.counters.open += 1;
        self.counters.opened += 1;
        self.timers.set(Timer::Connect(stream), now + CONNECT_TIMEOUT);
        self.outputs.push_back(Output::Connect { stream, client: client.into(), service, from: None });
        if let Id::Early(early) = self.set_id(client, Id::Open(stream)) {
            self.streams.push(now, stream, early.bytes());
            if early.is_closed() {
                self.handle_close(now, client);
            }
        }
    }

    /// The relay of 2012 takes a number again while it is in use. Its old service is left without a CLOSE, which would
    /// hit the new client.
    fn make_way(&mut self, now: Instant, client: u8) {
        let (Id::Open(old) | Id::HalfClosed(old)) = self.ids[usize::from(client)] else { return };
        self.set_id(client, Id::Idle);
        let delivered = self.streams.get(old).is_some_and(|old| old.pending().is_empty());
        self.leave_link(old);
        if delivered {
            self.start_delivering(now, old);
        } else {
            self.reset(now, old, Reset::Replaced);
        }
    }

    /// The relay says that the client is gone, or that it sends no more.
    fn handle_close(&mut self, now: Instant, client: u8) {
        match &mut self.ids[usize::from(client)] {
            Id::Open(key) => {
                let key = *key;
                self.half_close(now, client, key);
            }
            Id::Early(early) => early.close(),
            Id::Refused { closed } => *closed = true,
            Id::Discarding => self.ids[usize::from(client)] = Id::Idle,
            Id::HalfClosed(_) | Id::Idle => {
                if !self.take_answer_to_probe(client) {
                    self.counters.ignored += 1;
                }
            }
        }
    }

    /// DATA for a client that is not open.
    fn handle_early(&mut self, now: Instant, client: u8, bytes: &[u8]) {
        self.make_way(now, client);
        if matches!(self.ids[usize::from(client)], Id::Idle) {
            self.ids[usize::from(client)] = Id::Early(Early::default());
            self.timers.set(Timer::Early(client), now + EARLY_TIMEOUT);
        }
        let room = MAX_EARLY - self.early_bytes;
        let Id::Early(early) = &mut self.ids[usize::from(client)] else { return };
        if early.is_closed() {
            self.counters.ignored += 1;
        } else if bytes.len() > room || !early.push(bytes) {
            self.drop_early(now, client);
        } else {
            self.early_bytes += bytes.len();
        }
    }

    /// Early DATA that no CONNECT came for, or too much of it: answered with CLOSE.
    fn drop_early(&mut self, now: Instant, client: u8) {
        let closed = self.refuse(client);
        self.set_id(client, Id::Refused { closed });
        self.timers.set(Timer::Early(client), now + REFUSED_TIMEOUT);
        self.outputs.push_back(Output::EarlyDropped { client: client.into() });
    }

    /// CLOSE for a number without a stream; whether the relay's is here already.
    fn refuse(&mut self, client: u8) -> bool {
        let closed = matches!(&self.ids[usize::from(client)], Id::Early(early) if early.is_closed());
        self.set_id(client, Id::closing(closed));
        self.queue.push(&Header::close(client).encode());
        closed
    }

    /// The CONNECT of a number's early DATA is not here, unless it waits in an unread link.
    fn handle_connect_overdue(&mut self, now: Instant, client: u8) {
        let due = self.unread_until.map(|at| at + EARLY_TIMEOUT);
        if let Some(due) = due.filter(|&due| due > now) {
            self.timers.set(Timer::Early(client), due);
            return;
        }
        match self.ids[usize::from(client)] {
            Id::Early(_) => self.drop_early(now, client),
            Id::Refused { closed } => _ = self.set_id(client, Id::closing(closed)),
            Id::Idle | Id::Open(_) | Id::HalfClosed(_) | Id::Discarding => {}
        }
    }

    /// To be called before whatever may let the link be read again.
    fn note_unread(&mut self, now: Instant) {
        if !self.wants_input() {
            self.unread_until = Some(now);
        }
    }

    fn handle_malformed(&mut self, now: Instant, header: Header, reason: Malformed) {
        let client = header.client;
        if let Id::Open(key) = self.ids[usize::from(client)] {
            self.take_off_link(key);
            self.start_delivering(now, key);
        } else {
            self.make_way(now, client);
            self.refuse(client);
        }
        self.outputs.push_back(Output::Malformed { client: header.client.into(), reason });
    }

    /// Gives a number another meaning; what it meant goes back.
    fn set_id(&mut self, client: u8, id: Id) -> Id {
        let old = std::mem::replace(&mut self.ids[usize::from(client)], id);
        if let Id::Early(early) = &old {
            self.early_bytes -= early.bytes().len();
        }
        self.timers.cancel(Timer::Early(client));
        old
    }

    /// Sends the stream's one CLOSE, if it is on the link.
    fn take_off_link(&mut self, key: StreamKey) {
        if let Some(client) = self.leave_link(key) {
            let closed = matches!(self.ids[usize::from(client)], Id::HalfClosed(_));
            self.set_id(client, Id::closing(closed));
            self.queue.push(&Header::close(client).encode());
        }
    }

    fn leave_link(&mut self, key: StreamKey) -> Option<u8> {
        let client = self.streams.get_mut(key)?.state.id.take()?;
        self.counters.open -= 1;
        Some(client)
    }

    /// The stream is off the link: it ends when everything is delivered, or when its service stands still.
    fn start_delivering(&mut self, now: Instant, key: StreamKey) {
        let Some(stream) = self.streams.get_mut(key) else { return };
        stream.state.progress = now;
        if !self.finish_if_delivered(now, key) {
            self.streams.start_delivering(now, key);
            self.timers.set(Timer::Delivery(key), now + self.rule.stall);
        }
    }

    /// Ends the service's socket, or only its sending side, if all that the client sent is delivered; true if the
    /// stream is over.
    fn finish_if_delivered(&mut self, now: Instant, key: StreamKey) -> bool {
        let Some(stream) = self.streams.get(key) else { return false };
        if !stream.state.connected || !stream.pending().is_empty() {
            return false;
        }
        match stream.state.id {
            None => {
                self.forget(now, key);
                self.outputs.push_back(Output::Finish { stream: key });
                return true;
            }
            Some(client) if matches!(self.ids[usize::from(client)], Id::HalfClosed(_)) => self.begin_answer(now, key),
            Some(_) => {}
        }
        false
    }

    fn reset(&mut self, now: Instant, key: StreamKey, reason: Reset) {
        self.forget(now, key);
        self.outputs.push_back(Output::Reset { stream: key, reason });
    }

    fn forget(&mut self, now: Instant, key: StreamKey) {
        self.streams.remove(now, key);
        self.timers.cancel(Timer::Connect(key));
        self.timers.cancel(Timer::Delivery(key));
        self.timers.cancel(Timer::Answer(key));
    }

    fn handle_timer(&mut self, now: Instant, timer: Timer) {
        match timer {
            Timer::OpenRate => {}
            Timer::Early(client) => self.handle_connect_overdue(now, client),
            Timer::Connect(key) => {
                self.take_off_link(key);
                self.reset(now, key, Reset::ConnectTimeout);
            }
            Timer::Delivery(key) => {
                let Some(stream) = self.streams.get(key) else { return };
                let due = stream.state.progress + self.rule.stall;
                if due > now {
                    self.timers.set(timer, due);
                } else {
                    self.take_off_link(key);
                    self.reset(now, key, Reset::Stalled);
                }
            }
            Timer::Answer(key) => self.handle_answer_due(now, key),
        }
    }
}

impl Connection for Device {
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
                    Id::Idle | Id::Early(_) | Id::HalfClosed(_) => self.handle_early(now, client, bytes),
                    Id::Refused { .. } | Id::Discarding => self.counters.ignored += 1,
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

    fn delivered(&mut self, now: Instant, stream: StreamKey, bytes: &[u8], taken: usize) {
        self.streams.delivered(now, stream, bytes, taken);
    }

    fn goes_on(&self, key: StreamKey, input: &[u8]) -> bool {
        let client = self.decoder.data_ahead(input);
        client.is_some_and(|client| matches!(self.ids[usize::from(client)], Id::Open(open) if open == key))
    }

    fn read_size(&self, room: usize) -> usize {
        whole_frames(room.min(self.rule.progress()), self.decoder.left())
    }

    fn wants_input(&self) -> bool {
        !self.streams.is_blocked() && !self.timers.is_set(Timer::OpenRate)
    }

    fn pending(&self, stream: StreamKey) -> &[u8] {
        self.streams.get(stream).filter(|stream| stream.state.connected).map_or(&[], |stream| stream.pending())
    }

    fn advance(&mut self, now: Instant, key: StreamKey, count: usize) {
        self.note_unread(now);
        self.streams.advance(now, key, count);
        if let Some(stream) = self.streams.get_mut(key) {
            stream.state.progress = now;
        }
        self.finish_if_delivered(now, key);
    }

    fn reserve(&mut self, key: StreamKey, _contended: bool) -> Room<'_> {
        match self.streams.get(key) {
            Some(stream) if stream.state.id.is_some() && stream.state.connected => {
                self.queue.reserve(Header::LEN, usize::MAX).map_or(Room::Full, Room::Free)
            }
            _ => Room::Unwanted,
        }
    }

    fn commit(&mut self, now: Instant, key: StreamKey, count: usize) {
        debug_assert!(count > 0);
        let Some(Service { id: Some(client), answer, .. }) = self.streams.get_mut(key).map(|stream| &mut stream.state)
        else {
            return;
        };
        let client = *client;
        self.queue.commit(count, |size| Header::data(client, size).encode());
        self.counters.sent += count as u64;
        let may_go_on = answer.as_mut().is_none_or(|answer| answer.note(now, count));
        self.streams.note_sent(now, key, count);
        if !may_go_on {
            self.end_answer(now, key);
        }
    }

    fn handle_end(&mut self, now: Instant, key: StreamKey) {
        self.take_off_link(key);
        self.start_delivering(now, key);
    }

    fn handle_failure(&mut self, now: Instant, key: StreamKey, _code: Code, _reason: &str) {
        self.note_unread(now);
        self.take_off_link(key);
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

    fn advance_link(&mut self, _now: Instant, count: usize) {
        self.queue.advance(count);
    }

    fn go_away(&mut self, _now: Instant, _code: Code, _retry_after: u16, _reason: &str) {
        // The relay goes on sending CONNECT, since version 1 has no way to stop it.
    }

    fn close(&mut self, now: Instant) {
        for key in self.streams.keys() {
            self.take_off_link(key);
            self.start_delivering(now, key);
        }
    }

    fn handle_link_lost(&mut self, now: Instant) {
        for client in 0..=u8::MAX {
            if let Id::HalfClosed(key) = self.set_id(client, Id::Idle) {
                // All that the client sent is here.
                self.leave_link(key);
                self.start_delivering(now, key);
            }
        }
        for key in self.streams.keys() {
            if self.leave_link(key).is_some() {
                self.reset(now, key, Reset::LinkLost);
            }
        }
        self.queue = SendQueue::default();
        self.timers.cancel(Timer::OpenRate);
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
            self.take_off_link(key);
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
        (self.streams.held() + self.early_bytes + self.queue.unsent().len()) as u64
    }
}

#[cfg(test)]
mod tests;
