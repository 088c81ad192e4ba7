//! What both ends of a version 1 link do the same: they take frames and give them, hand the bytes of streams to sockets,
//! and end streams. A [`Side`] says what only one of them does, above all what the number of a client means.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::streams::Streams;
use crate::connection::{
    Connection, Counters, Delivery, Limits, Output, QueueRule, Reset, Room, SendQueue, StreamKey, Timers, whole_frames,
};
use crate::protocol::ProtocolError;
use crate::protocol::v1::{Decoder, Header, Item};
use crate::protocol::v2::Code;

/// Bytes of control frames that may wait beyond a full send queue before the peer counts as hostile.
const MAX_BACKLOG: usize = 64 * 1024;

/// What each end has: streams with state `S`, timers `T`.
#[derive(Debug)]
pub(super) struct Link<S, T> {
    decoder: Decoder,
    pub(super) queue: SendQueue,
    pub(super) streams: Streams<S>,
    rule: QueueRule,
    /// When something last kept the link unread: silence before then proves nothing.
    unread_until: Option<Instant>,
    pub(super) timers: Timers<T>,
    pub(super) outputs: VecDeque<Output>,
    pub(super) counters: Counters,
}

impl<S, T: Copy + Ord> Link<S, T> {
    pub(super) fn new(limits: Limits) -> Self {
        let Limits { rule, budget, .. } = limits;
        Self {
            decoder: Decoder::default(),
            queue: SendQueue::default(),
            streams: Streams::new(rule, budget),
            rule,
            unread_until: None,
            timers: Timers::new(),
            outputs: VecDeque::new(),
            counters: Counters::default(),
        }
    }

    /// The stream is on the link, under the number of its client.
    pub(super) fn enter(&mut self, key: StreamKey, client: u8) {
        if let Some(stream) = self.streams.get_mut(key) {
            stream.number = Some(client);
            self.counters.open += 1;
            self.counters.opened += 1;
        }
    }

    /// The stream is not on the link any more; the number that it had there.
    pub(super) fn leave(&mut self, key: StreamKey) -> Option<u8> {
        let client = self.streams.get_mut(key)?.number.take()?;
        self.counters.open -= 1;
        Some(client)
    }

    pub(super) fn push_close(&mut self, client: u8) {
        self.queue.push(&Header::close(client).encode());
    }

    /// Until when something may still come that should be here after `time`: it may wait in a link that was not read.
    pub(super) fn may_come_until(&self, now: Instant, time: Duration) -> Option<Instant> {
        self.unread_until.map(|until| until + time).filter(|&until| until > now)
    }
}

/// What only one of the two ends does. With its [`Link`] that makes a [`Connection`].
pub(super) trait Side {
    /// What it keeps for a stream.
    type Stream;
    /// Its own timers; those of delivery are [`Streams`]'.
    type Timer: Copy + Ord;

    fn link(&self) -> &Link<Self::Stream, Self::Timer>;

    fn link_mut(&mut self) -> &mut Link<Self::Stream, Self::Timer>;

    /// The stream that gets DATA for this number.
    fn stream_of(&self, client: u8) -> Option<StreamKey>;

    /// A frame came that is not DATA for a stream.
    fn handle_frame(&mut self, now: Instant, frame: Item<'_>) -> Result<(), ProtocolError>;

    /// DATA came for a stream.
    fn note_data(&mut self, _now: Instant, _key: StreamKey) {}

    /// `count` bytes of the stream's socket were sent.
    fn note_sent(&mut self, _now: Instant, _key: StreamKey, _count: usize) {}

    /// The link took `count` bytes.
    fn note_taken(&mut self, _now: Instant, _count: usize) {}

    /// Whether the stream's socket may be written.
    fn is_writable(_state: &Self::Stream) -> bool {
        true
    }

    /// Whether the stream's socket may be read, while the stream is on the link.
    fn is_readable(state: &Self::Stream) -> bool;

    /// Whether the link must not be read.
    fn is_blocked(&self) -> bool {
        self.link().streams.is_blocked()
    }

    /// All that came for a stream on the link is delivered.
    fn handle_delivered(&mut self, _now: Instant, _key: StreamKey) {}

    /// The stream's socket is at its end.
    fn handle_stream_end(&mut self, now: Instant, key: StreamKey) {
        self.close_stream(now, key);
    }

    /// Sends the stream's one CLOSE, if it is on the link.
    fn take_off_link(&mut self, now: Instant, key: StreamKey);

    /// The link is gone: no number means anything any more. Streams that have all of theirs are taken off the link.
    fn forget_numbers(&mut self, now: Instant);

    fn handle_timer(&mut self, now: Instant, timer: Self::Timer);

    /// The stream is over.
    fn cancel_timers(&mut self, key: StreamKey);

    /// Bytes that wait for neither the socket of a stream nor the link.
    fn held_besides(&self) -> usize {
        0
    }

    /// To be called before whatever may let the link be read again.
    fn note_unread(&mut self, now: Instant) {
        if self.is_blocked() {
            self.link_mut().unread_until = Some(now);
        }
    }

    /// CLOSE now; what is left for the stream's socket is delivered.
    fn close_stream(&mut self, now: Instant, key: StreamKey) {
        self.take_off_link(now, key);
        self.start_delivering(now, key);
    }

    /// The stream is off the link: it ends when everything is delivered, or when its socket stands still.
    fn start_delivering(&mut self, now: Instant, key: StreamKey) {
        if !self.finish_if_delivered(now, key) {
            self.link_mut().streams.start_delivering(now, key);
        }
    }

    /// Ends the stream's socket if it has got everything and no more can come; true if the stream is over.
    fn finish_if_delivered(&mut self, now: Instant, key: StreamKey) -> bool {
        let Some(stream) = self.link().streams.get(key) else { return false };
        if !Self::is_writable(&stream.state) || !stream.pending().is_empty() {
            return false;
        }
        if stream.number.is_some() {
            self.handle_delivered(now, key);
            return false;
        }
        self.forget(now, key);
        self.link_mut().outputs.push_back(Output::Finish { stream: key });
        true
    }

    fn reset(&mut self, now: Instant, key: StreamKey, reason: Reset) {
        self.forget(now, key);
        self.link_mut().outputs.push_back(Output::Reset { stream: key, reason });
    }

    fn forget(&mut self, now: Instant, key: StreamKey) {
        self.link_mut().streams.remove(now, key);
        self.cancel_timers(key);
    }
}

impl<S: Side> Connection for S {
    fn receive<'a>(&mut self, now: Instant, input: &mut &'a [u8]) -> Result<Option<Delivery<'a>>, ProtocolError> {
        while let Some(frame) = self.link_mut().decoder.next(input) {
            if let Item::Data { client, bytes } = frame
                && let Some(key) = self.stream_of(client)
            {
                self.note_data(now, key);
                let link = self.link_mut();
                link.counters.received += bytes.len() as u64;
                let stream = link.streams.get(key);
                if stream.is_some_and(|stream| S::is_writable(&stream.state) && stream.pending().is_empty()) {
                    return Ok(Some(Delivery { stream: key, bytes }));
                }
                link.streams.push(now, key, bytes);
            } else {
                self.handle_frame(now, frame)?;
            }
            let queue = &self.link().queue;
            if queue.exceeds(MAX_BACKLOG) {
                return Err(ProtocolError::Backlog(queue.unsent().len()));
            }
        }
        Ok(None)
    }

    fn delivered(&mut self, now: Instant, key: StreamKey, bytes: &[u8], taken: usize) {
        self.link_mut().streams.delivered(now, key, bytes, taken);
    }

    fn goes_on(&self, key: StreamKey, input: &[u8]) -> bool {
        let client = self.link().decoder.data_ahead(input);
        client.is_some_and(|client| self.stream_of(client) == Some(key))
    }

    fn read_size(&self, room: usize) -> usize {
        let link = self.link();
        whole_frames(room.min(link.rule.progress()), link.decoder.left())
    }

    fn wants_input(&self) -> bool {
        !self.is_blocked()
    }

    fn pending(&self, key: StreamKey) -> &[u8] {
        let stream = self.link().streams.get(key).filter(|stream| S::is_writable(&stream.state));
        stream.map_or(&[], |stream| stream.pending())
    }

    fn advance(&mut self, now: Instant, key: StreamKey, count: usize) {
        self.note_unread(now);
        self.link_mut().streams.advance(now, key, count);
        self.finish_if_delivered(now, key);
    }

    fn may_read(&self, key: StreamKey) -> bool {
        let stream = self.link().streams.get(key);
        stream.is_some_and(|stream| stream.number.is_some() && S::is_readable(&stream.state))
    }

    fn reserve(&mut self, key: StreamKey, _contended: bool) -> Room<'_> {
        if !self.may_read(key) {
            return Room::Unwanted;
        }
        self.link_mut().queue.reserve(Header::LEN, usize::MAX).map_or(Room::Full, Room::Free)
    }

    fn commit(&mut self, now: Instant, key: StreamKey, count: usize) {
        debug_assert!(count > 0);
        let link = self.link_mut();
        let Some(client) = link.streams.get(key).and_then(|stream| stream.number) else { return };
        link.queue.commit(count, |size| Header::data(client, size).encode());
        link.counters.sent += count as u64;
        link.streams.note_sent(now, key, count);
        self.note_sent(now, key, count);
    }

    fn handle_end(&mut self, now: Instant, key: StreamKey) {
        self.handle_stream_end(now, key);
    }

    fn handle_failure(&mut self, now: Instant, key: StreamKey, _code: Code, _reason: &str) {
        self.note_unread(now);
        self.take_off_link(now, key);
        self.forget(now, key);
        self.link_mut().outputs.push_back(Output::Gone { stream: key });
    }

    fn poll_unblocked(&mut self) -> Option<StreamKey> {
        None
    }

    fn has_unsent(&self) -> bool {
        !self.link().queue.unsent().is_empty()
    }

    fn unsent(&mut self) -> &[u8] {
        self.link().queue.unsent()
    }

    fn advance_link(&mut self, now: Instant, count: usize) {
        self.link_mut().queue.advance(count);
        self.note_taken(now, count);
    }

    fn note_link_full(&mut self) {}

    fn handle_fruitless(&mut self, _now: Instant, _count: usize) -> Result<(), ProtocolError> {
        // It is not spoken in TLS.
        Ok(())
    }

    fn go_away(&mut self, _now: Instant, _code: Code, _retry_after: u16, _reason: &str) {
        // Version 1 has no word for it: a relay accepts no more clients, and to a device it goes on sending CONNECT.
    }

    fn close(&mut self, now: Instant) {
        for key in self.link().streams.keys() {
            self.close_stream(now, key);
        }
    }

    fn handle_link_lost(&mut self, now: Instant) {
        self.forget_numbers(now);
        for key in self.link().streams.keys() {
            if self.link().streams.get(key).is_some_and(|stream| !stream.is_delivering()) {
                self.reset(now, key, Reset::LinkLost);
            }
        }
        let link = self.link_mut();
        link.counters.open = 0;
        link.queue = SendQueue::default();
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let link = self.link();
        link.timers.next().into_iter().chain(link.streams.poll_timeout()).min()
    }

    fn handle_timeout(&mut self, now: Instant) -> Result<(), ProtocolError> {
        self.note_unread(now);
        while let Some(timer) = self.link_mut().timers.pop_due(now) {
            self.handle_timer(now, timer);
        }
        while let Some((key, reason)) = self.link_mut().streams.next_overdue(now) {
            self.take_off_link(now, key);
            self.reset(now, key, reason);
        }
        Ok(())
    }

    fn poll_output(&mut self) -> Option<Output> {
        self.link_mut().outputs.pop_front()
    }

    fn counters(&self) -> Counters {
        self.link().counters
    }

    fn streams(&self) -> usize {
        self.link().streams.len()
    }

    fn held(&self) -> u64 {
        let link = self.link();
        (link.streams.held() + self.held_besides() + link.queue.unsent().len()) as u64
    }
}
