//! The device's end of a version 1 link.

mod early;
mod half_close;

use std::time::Instant;

use early::Early;
use half_close::Answer;

use super::link::{Link, Side};
use crate::address::Address;
use crate::connection::{Bucket, CONNECT_TIMEOUT, Limits, Output, Reset, StreamKey};
use crate::protocol::v1::{Header, Item};
use crate::protocol::{Malformed, ProtocolError};

/// Streams that exist at once: those on the link, and as many that only deliver what is left. Our relay never asks
/// for more; past it a CONNECT is refused.
const MAX_STREAMS: usize = 512;

/// The device's end of a link.
#[derive(Debug)]
pub struct Device {
    link: Link<Service, Timer>,
    ids: Box<[Id; 256]>,
    early_bytes: usize,
    /// How many CONNECTs are read in a second, and at once.
    open_rate: u32,
    /// Made when the first CONNECT comes.
    opens: Option<Bucket>,
    /// The number of the last CONNECT.
    latest: u8,
    /// The relay is one of 2012: it keeps a client whose CLOSE it has sent until ours is there.
    keeps_clients: bool,
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
pub(super) struct Service {
    connected: bool,
    /// Once the service has its end of stream, while its client may still read.
    answer: Option<Answer>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    Early(u8),
    Connect(StreamKey),
    Answer(StreamKey),
    /// CONNECTs come faster than they may: until then the link is not read.
    OpenRate,
}

impl Device {
    /// A link on which `unsent` waits to be sent: LISTEN, or what is left of it and of what came behind.
    pub(in crate::connection) fn new(limits: Limits, unsent: &[u8]) -> Self {
        let mut link = Link::new(limits);
        link.queue.push(unsent);
        link.queue.push(&Header::PROBE.encode());
        Self {
            link,
            ids: Box::new([const { Id::Idle }; 256]),
            early_bytes: 0,
            open_rate: limits.open_rate,
            opens: None,
            latest: 0,
            keeps_clients: false,
        }
    }

    /// The connection that [`Output::Connect`] asked for is made.
    pub(in crate::connection) fn handle_connected(&mut self, now: Instant, key: StreamKey) {
        self.note_unread(now);
        self.link.timers.cancel(Timer::Connect(key));
        let Some(stream) = self.link.streams.get_mut(key) else { return };
        stream.state.connected = true;
        self.link.streams.restart_delivery_timer(now, key);
        self.finish_if_delivered(now, key);
    }

    fn handle_connect(&mut self, now: Instant, client: u8, service: Address) {
        let opens = self.opens.get_or_insert_with(|| Bucket::new(now, self.open_rate, self.open_rate));
        if let Some(until) = opens.spend(now) {
            self.link.timers.set(Timer::OpenRate, until);
        }
        self.note_number(now, client);
        if let Id::Refused { closed } = self.ids[usize::from(client)] {
            // Should it be the next client's, that one must not hang.
            self.link.push_close(client);
            self.set_id(client, Id::closing(closed));
            return;
        }
        self.make_way(now, client);
        if self.link.streams.len() >= MAX_STREAMS {
            self.refuse(client);
            return;
        }
        let stream = self.link.streams.insert(now, Service { connected: false, answer: None });
        self.link.enter(stream, client);
        self.link.timers.set(Timer::Connect(stream), now + CONNECT_TIMEOUT);
        self.link.outputs.push_back(Output::Connect {
            stream,
            client: client.into(),
            service: service.into(),
            from: None,
        });
        if let Id::Early(early) = self.set_id(client, Id::Open(stream)) {
            self.link.streams.push(now, stream, early.bytes());
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
        let delivered = self.link.streams.get(old).is_some_and(|old| old.pending().is_empty());
        self.link.leave(old);
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
                    self.link.counters.ignored += 1;
                }
            }
        }
    }

    /// CLOSE for a number without a stream; whether the relay's is here already.
    fn refuse(&mut self, client: u8) -> bool {
        let closed = matches!(&self.ids[usize::from(client)], Id::Early(early) if early.is_closed());
        self.set_id(client, Id::closing(closed));
        self.link.push_close(client);
        closed
    }

    fn handle_malformed(&mut self, now: Instant, header: Header, reason: Malformed) {
        let client = header.client;
        if let Id::Open(key) = self.ids[usize::from(client)] {
            self.close_stream(now, key);
        } else {
            self.make_way(now, client);
            self.refuse(client);
        }
        self.link.outputs.push_back(Output::Malformed { client: header.client.into(), reason });
    }

    /// Gives a number another meaning; what it meant goes back.
    fn set_id(&mut self, client: u8, id: Id) -> Id {
        let old = std::mem::replace(&mut self.ids[usize::from(client)], id);
        if let Id::Early(early) = &old {
            self.early_bytes -= early.bytes().len();
        }
        self.link.timers.cancel(Timer::Early(client));
        old
    }
}

impl Side for Device {
    type Stream = Service;
    type Timer = Timer;

    fn link(&self) -> &Link<Service, Timer> {
        &self.link
    }

    fn link_mut(&mut self) -> &mut Link<Service, Timer> {
        &mut self.link
    }

    fn stream_of(&self, client: u8) -> Option<StreamKey> {
        if let Id::Open(key) = self.ids[usize::from(client)] { Some(key) } else { None }
    }

    fn handle_frame(&mut self, now: Instant, frame: Item<'_>) -> Result<(), ProtocolError> {
        match frame {
            Item::Data { client, bytes } => self.handle_early(now, client, bytes),
            Item::Connect { header, connect: Ok(connect) } => self.handle_connect(now, header.client, connect.service),
            Item::Connect { header, connect: Err(reason) } => self.handle_malformed(now, header, reason),
            Item::Close { client } => self.handle_close(now, client),
            Item::Listen(_) | Item::Ignored(_) => self.link.counters.ignored += 1,
        }
        Ok(())
    }

    fn note_sent(&mut self, now: Instant, key: StreamKey, count: usize) {
        let answer = self.link.streams.get_mut(key).and_then(|stream| stream.state.answer.as_mut());
        if answer.is_some_and(|answer| !answer.note(now, count)) {
            self.close_stream(now, key);
        }
    }

    fn is_writable(service: &Service) -> bool {
        service.connected
    }

    fn is_readable(service: &Service) -> bool {
        service.connected
    }

    fn is_blocked(&self) -> bool {
        self.link.streams.is_blocked() || self.link.timers.is_set(Timer::OpenRate)
    }

    fn handle_delivered(&mut self, now: Instant, key: StreamKey) {
        let client = self.link.streams.get(key).and_then(|stream| stream.number);
        if client.is_some_and(|client| matches!(self.ids[usize::from(client)], Id::HalfClosed(_))) {
            self.begin_answer(now, key);
        }
    }

    fn take_off_link(&mut self, _now: Instant, key: StreamKey) {
        if let Some(client) = self.link.leave(key) {
            let closed = matches!(self.ids[usize::from(client)], Id::HalfClosed(_));
            self.set_id(client, Id::closing(closed));
            self.link.push_close(client);
        }
    }

    fn forget_numbers(&mut self, now: Instant) {
        for client in 0..=u8::MAX {
            if let Id::HalfClosed(key) = self.set_id(client, Id::Idle) {
                // All that the client sent is here.
                self.link.leave(key);
                self.start_delivering(now, key);
            }
        }
        self.link.timers.cancel(Timer::OpenRate);
    }

    fn handle_timer(&mut self, now: Instant, timer: Timer) {
        match timer {
            Timer::OpenRate => {}
            Timer::Early(client) => self.handle_connect_overdue(now, client),
            Timer::Connect(key) => {
                self.take_off_link(now, key);
                self.reset(now, key, Reset::ConnectTimeout);
            }
            Timer::Answer(key) => self.handle_answer_due(now, key),
        }
    }

    fn cancel_timers(&mut self, key: StreamKey) {
        self.link.timers.cancel(Timer::Connect(key));
        self.link.timers.cancel(Timer::Answer(key));
    }

    fn held_besides(&self) -> usize {
        self.early_bytes
    }
}

#[cfg(test)]
mod tests;
