//! The relay's end of a version 1 link, from LISTEN on.

mod ids;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ids::{Id, Ids};

use super::link::{Link, Side};
use crate::address::Address;
use crate::connection::{Limits, Output, Reset, StreamKey};
use crate::protocol::ProtocolError;
use crate::protocol::v1::{Connect, Item};
use crate::protocol::v2;

/// Clients that the numbers of a link suffice for.
pub(in crate::connection) const PLACES: usize = 256;
/// How long a number waits for the device's echo of our CLOSE.
const ECHO_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a new client waits for a number before it is refused.
const ID_TIMEOUT: Duration = Duration::from_secs(1);
/// New clients that may wait for a number at once.
const MAX_WAITING: usize = 256;

/// The relay's end of a link.
#[derive(Debug)]
pub struct Relay {
    link: Link<Client, Timer>,
    ids: Ids,
    /// Clients without a number, in the order they came.
    waiting: VecDeque<StreamKey>,
    half_close: Duration,
    /// Bytes that the link ever took.
    taken: u64,
    /// Timers that begin once the link has taken so many: what they wait for cannot come before.
    departing: VecDeque<(u64, Timer, Duration)>,
}

#[derive(Debug)]
pub(super) struct Client {
    service: Arc<Address>,
    /// The client sends no more; since when.
    ended: Option<Instant>,
    /// When its service last said something, or the client its last, whichever was later.
    quiet_since: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    Id(StreamKey),
    HalfClose(StreamKey),
    Echo(u8),
}

impl Relay {
    /// An end that has taken LISTEN.
    ///
    /// `half_close` is how long a service may be silent after its client's end of stream before the client
    /// counts as gone; zero is the document's behaviour.
    pub(in crate::connection) fn new(half_close: Duration, limits: Limits) -> Self {
        Self {
            link: Link::new(limits),
            ids: Ids::new(),
            waiting: VecDeque::new(),
            half_close,
            taken: 0,
            departing: VecDeque::new(),
        }
    }

    /// Clients that are on the link or wait for a number.
    pub(in crate::connection) fn clients(&self) -> usize {
        self.link.counters.open as usize + self.waiting.len()
    }

    /// Clients that have only to wait for their service, and whose numbers a new one may have.
    pub(in crate::connection) fn yielding(&self) -> usize {
        let is_over = |key: &StreamKey| self.link.streams.get(*key).is_some_and(|stream| stream.state.ended.is_some());
        self.ids.open().filter(is_over).count()
    }

    /// A client was accepted for `service`. Its socket is not read before [`Output::Opened`].
    pub(in crate::connection) fn open(&mut self, now: Instant, service: Arc<Address>) -> StreamKey {
        let key = self.link.streams.insert(now, Client { service, ended: None, quiet_since: now });
        self.waiting.push_back(key);
        self.link.timers.set(Timer::Id(key), now + ID_TIMEOUT);
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
        while !self.waiting.is_empty() && !self.link.queue.exceeds(0) {
            let Some(client) = self.ids.take() else { return };
            let Some(key) = self.waiting.pop_front() else { return };
            self.link.timers.cancel(Timer::Id(key));
            self.ids.set(client, Id::Open(key));
            self.link.enter(key, client);
            let Some(stream) = self.link.streams.get(key) else { continue };
            let ended = stream.state.ended.is_some();
            let connect = Connect { service: stream.state.service.as_ref().clone() };
            self.link.queue.push(&connect.frame(client));
            self.link.outputs.push_back(Output::Opened { stream: key, client: client.into() });
            if ended {
                self.wait_half_closed(now, key);
            }
        }
    }

    /// For each client that waits for a number, one that has only waited for its service, the longest first, gives
    /// its own.
    fn free_ids_for_waiting(&mut self, now: Instant) {
        while self.ids.free() + self.ids.awaiting_echo() < self.waiting.len() {
            let open = self.ids.open().filter_map(|key| Some((self.link.streams.get(key)?.state.ended?, key)));
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
        self.departing.push_back((self.taken + self.link.queue.unsent().len() as u64, timer, after));
        self.begin_timers(now);
    }

    fn begin_timers(&mut self, now: Instant) {
        while let Some(&(at, timer, after)) = self.departing.front()
            && at <= self.taken
        {
            self.departing.pop_front();
            self.link.timers.set(timer, now + after);
        }
    }

    fn cancel(&mut self, timer: Timer) {
        self.link.timers.cancel(timer);
        self.departing.retain(|&(_, departing, _)| departing != timer);
    }

    /// From the device's side.
    fn handle_close(&mut self, now: Instant, client: u8) {
        match self.ids.get(client) {
            Id::Open(key) => {
                // The device knows that its number is free for reuse only by our CLOSE: exactly one.
                self.take_off_link(now, key);
                self.release(now, client);
                self.start_delivering(now, key);
            }
            Id::AwaitingEcho => self.release(now, client),
            Id::Free => self.link.counters.ignored += 1,
        }
    }

    fn release(&mut self, now: Instant, client: u8) {
        self.cancel(Timer::Echo(client));
        self.ids.release(client);
        self.assign_ids(now);
    }
}

impl Side for Relay {
    type Stream = Client;
    type Timer = Timer;

    fn link(&self) -> &Link<Client, Timer> {
        &self.link
    }

    fn link_mut(&mut self) -> &mut Link<Client, Timer> {
        &mut self.link
    }

    fn stream_of(&self, client: u8) -> Option<StreamKey> {
        if let Id::Open(key) = self.ids.get(client) { Some(key) } else { None }
    }

    fn handle_frame(&mut self, now: Instant, frame: Item<'_>) -> Result<(), ProtocolError> {
        match frame {
            Item::Data { .. } => self.link.counters.ignored += 1,
            Item::Close { client } => self.handle_close(now, client),
            Item::Listen(header) => return Err(ProtocolError::ListenAgain(header)),
            Item::Connect { header, .. } => return Err(ProtocolError::ConnectFromDevice(header)),
            Item::Ignored(header) => {
                self.link.counters.ignored += 1;
                // The answer of 2012 to an unknown command on a number that is free: to HELLO it says version 1.
                if v2::version_in(header).is_some() && self.ids.get(header.client) == Id::Free {
                    self.link.push_close(header.client);
                }
            }
        }
        Ok(())
    }

    fn note_data(&mut self, now: Instant, key: StreamKey) {
        if let Some(stream) = self.link.streams.get_mut(key) {
            stream.state.quiet_since = now;
        }
    }

    fn note_taken(&mut self, now: Instant, count: usize) {
        self.taken += count as u64;
        self.begin_timers(now);
        self.assign_ids(now);
    }

    fn is_readable(client: &Client) -> bool {
        client.ended.is_none()
    }

    fn handle_stream_end(&mut self, now: Instant, key: StreamKey) {
        let Some(stream) = self.link.streams.get_mut(key) else { return };
        if stream.state.ended.is_none() {
            (stream.state.ended, stream.state.quiet_since) = (Some(now), now);
            if stream.number.is_some() {
                self.wait_half_closed(now, key);
            }
        }
    }

    fn take_off_link(&mut self, now: Instant, key: StreamKey) {
        if let Some(client) = self.link.leave(key) {
            self.link.push_close(client);
            self.ids.set(client, Id::AwaitingEcho);
            self.set_when_taken(now, Timer::Echo(client), ECHO_TIMEOUT);
        } else {
            self.waiting.retain(|&waiting| waiting != key);
            self.link.timers.cancel(Timer::Id(key));
        }
        self.cancel(Timer::HalfClose(key));
    }

    fn forget_numbers(&mut self, _now: Instant) {
        self.waiting.clear();
        self.ids = Ids::new();
        self.departing.clear();
        for client in 0..=u8::MAX {
            self.link.timers.cancel(Timer::Echo(client));
        }
    }

    fn handle_timer(&mut self, now: Instant, timer: Timer) {
        match timer {
            // There are numbers: it is the link that takes nothing.
            Timer::Id(_) if self.ids.free() > 0 => self.link.timers.set(timer, now + ID_TIMEOUT),
            Timer::Id(key) => {
                self.waiting.retain(|&waiting| waiting != key);
                self.reset(now, key, Reset::NoPlace);
            }
            Timer::HalfClose(key) => {
                let Some(stream) = self.link.streams.get(key) else { return };
                let due = stream.state.quiet_since + self.half_close;
                let due = self.link.may_come_until(now, self.half_close).map_or(due, |unread| unread.max(due));
                if due > now {
                    self.link.timers.set(timer, due);
                } else {
                    self.close_stream(now, key);
                }
            }
            // An echo that waits unread would close the number's next client.
            Timer::Echo(client) => match self.link.may_come_until(now, ECHO_TIMEOUT) {
                Some(due) => self.link.timers.set(timer, due),
                None => self.release(now, client),
            },
        }
    }

    fn cancel_timers(&mut self, key: StreamKey) {
        self.cancel(Timer::Id(key));
        self.cancel(Timer::HalfClose(key));
    }
}

#[cfg(test)]
mod tests;
