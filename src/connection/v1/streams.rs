//! The streams of one link, what waits for their sockets, and the rule that bounds it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::stall::StallMeter;
use crate::connection::{ByteQueue, QueueRule, Reset, Slab, StreamKey, Timers};

/// As many streams may be delivering as there are client numbers. Past it the link is not read until some of them are done.
const MAX_DELIVERING: usize = 256;
/// While all queues together hold their budget, a queue counts as full with this part of it. A link never has so many
/// streams, so one at least does.
const SHARES: usize = 1024;
/// A stream that has sent more than so much without an answer may be an upload, which an unread link does not hold up
/// while it goes on.
const QUESTION: usize = 16 * 1024;

/// A slab of streams with state `S`, each with the bytes that its socket did not take yet.
#[derive(Debug)]
pub(crate) struct Streams<S> {
    slab: Slab<Stream<S>>,
    rule: QueueRule,
    /// Bytes that all queues together may hold.
    budget: usize,
    /// The streams whose queues are full, and when the time of each is up.
    full: BTreeMap<StreamKey, Instant>,
    /// The streams that are off the link and only deliver what is left, the longest first.
    delivering: BTreeSet<(Instant, StreamKey)>,
    /// By when the socket of each stream that must be delivered now has to take something.
    deliveries: Timers<StreamKey>,
    /// Bytes in all queues.
    held: usize,
}

/// One stream.
#[derive(Debug)]
pub(crate) struct Stream<S> {
    pub(crate) state: S,
    /// Its client's number, while it is on the link.
    pub(crate) number: Option<u8>,
    inbound: ByteQueue,
    /// Since when it only delivers what is left.
    delivering_since: Option<Instant>,
    stall: StallMeter,
    /// When it last asked for something, or got something.
    waits_since: Instant,
    /// Bytes that it sent since it last got some.
    unanswered: usize,
}

impl<S> Stream<S> {
    /// What waits for the socket.
    pub(crate) fn pending(&self) -> &[u8] {
        self.inbound.as_slice()
    }

    /// Whether it only delivers what is left.
    pub(crate) fn is_delivering(&self) -> bool {
        self.delivering_since.is_some()
    }

    /// Whether it waits for something while the link is kept unread from `since` on.
    fn waits_beside(&self, since: Instant, stall: Duration) -> bool {
        let waits_since_then = self.waits_since > since;
        // A question from before may still wait for its answer.
        let still_waits = !waits_since_then && self.waits_since + stall > since;
        match self.unanswered {
            0 => waits_since_then,
            1..=QUESTION => waits_since_then || still_waits,
            // A large question, or an upload that is over: an upload that goes on has sent something since then.
            _ => still_waits,
        }
    }
}

impl<S> Streams<S> {
    pub(crate) fn new(rule: QueueRule, budget: u64) -> Self {
        let budget = budget.try_into().unwrap_or(usize::MAX);
        Self {
            slab: Slab::default(),
            rule,
            budget,
            full: BTreeMap::new(),
            delivering: BTreeSet::new(),
            deliveries: Timers::new(),
            held: 0,
        }
    }

    /// A stream that is not on the link yet.
    pub(crate) fn insert(&mut self, now: Instant, state: S) -> StreamKey {
        let stall = StallMeter::new(now, self.rule);
        self.slab.insert(Stream {
            state,
            number: None,
            inbound: ByteQueue::default(),
            delivering_since: None,
            stall,
            waits_since: now,
            unanswered: 0,
        })
    }

    pub(crate) fn get(&self, key: StreamKey) -> Option<&Stream<S>> {
        self.slab.get(key)
    }

    pub(crate) fn get_mut(&mut self, key: StreamKey) -> Option<&mut Stream<S>> {
        self.slab.get_mut(key)
    }

    pub(crate) fn remove(&mut self, now: Instant, key: StreamKey) -> Option<Stream<S>> {
        self.full.remove(&key);
        self.deliveries.cancel(key);
        let stream = self.slab.remove(key)?;
        if let Some(since) = stream.delivering_since {
            self.delivering.remove(&(since, key));
        }
        self.set_held(now, self.held - stream.inbound.len());
        Some(stream)
    }

    /// The stream is off the link: from now on it only delivers what is left.
    pub(crate) fn start_delivering(&mut self, now: Instant, key: StreamKey) {
        let Some(stream) = self.get_mut(key) else { return };
        if stream.delivering_since.is_none() {
            stream.delivering_since = Some(now);
            self.delivering.insert((now, key));
        }
        self.start_delivery_timer(now, key);
    }

    /// No more comes for the stream: its socket must take something within each `stall`.
    pub(crate) fn start_delivery_timer(&mut self, now: Instant, key: StreamKey) {
        self.deliveries.set(key, now + self.rule.stall);
    }

    /// The same from now on, if it must at all.
    pub(crate) fn restart_delivery_timer(&mut self, now: Instant, key: StreamKey) {
        if self.deliveries.is_set(key) {
            self.start_delivery_timer(now, key);
        }
    }

    /// All is delivered.
    pub(crate) fn stop_delivery_timer(&mut self, key: StreamKey) {
        self.deliveries.cancel(key);
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.slab.len()
    }

    /// Bytes in all queues.
    pub(crate) fn held(&self) -> usize {
        self.held
    }

    /// All keys, in the order of their slots.
    pub(crate) fn keys(&self) -> Vec<StreamKey> {
        self.slab.keys()
    }

    /// `count` bytes of the stream's socket were sent.
    pub(crate) fn note_sent(&mut self, now: Instant, key: StreamKey, count: usize) {
        if let Some(stream) = self.get_mut(key) {
            stream.unanswered = stream.unanswered.saturating_add(count);
            stream.waits_since = now;
        }
    }

    /// Bytes came while nothing waited for the stream's socket, which took the first `taken` of them; the rest is kept.
    pub(crate) fn delivered(&mut self, now: Instant, key: StreamKey, bytes: &[u8], taken: usize) {
        if let Some(stream) = self.get_mut(key) {
            (stream.waits_since, stream.unanswered) = (now, 0);
            stream.stall.note_taken(now, taken);
        }
        if taken < bytes.len() {
            self.push(now, key, &bytes[taken..]);
        }
    }

    /// Keeps `bytes` for the stream's socket.
    pub(crate) fn push(&mut self, now: Instant, key: StreamKey, bytes: &[u8]) {
        let Some(stream) = self.get_mut(key) else { return };
        stream.inbound.push(bytes);
        self.set_held(now, self.held + bytes.len());
        self.judge(now, key);
    }

    /// The stream's socket took `count` bytes.
    pub(crate) fn advance(&mut self, now: Instant, key: StreamKey, count: usize) {
        let Some(stream) = self.get_mut(key) else { return };
        stream.inbound.advance(count);
        (stream.waits_since, stream.unanswered) = (now, 0);
        stream.stall.note_taken(now, count);
        self.set_held(now, self.held - count);
        self.restart_delivery_timer(now, key);
        self.forgive(now, key);
        self.judge(now, key);
    }

    /// What the stream's socket took is enough if no other stream was held up meanwhile: none that waits, and is not slow
    /// itself.
    fn forgive(&mut self, now: Instant, key: StreamKey) {
        let Some(since) = self.slab.get(key).and_then(|stream| stream.stall.progress_since()) else { return };
        let is_held_up = |other: &Stream<S>| other.inbound.is_empty() && other.waits_beside(since, self.rule.stall);
        if !self.slab.iter().any(|(other, stream)| other != key && is_held_up(stream))
            && let Some(stream) = self.slab.get_mut(key)
        {
            stream.stall.restart(now);
        }
    }

    /// All queues together hold so much now. Where that crosses the budget it changes which of them are full.
    fn set_held(&mut self, now: Instant, held: usize) {
        let was_over = self.held >= self.budget;
        self.held = held;
        if was_over != (held >= self.budget) {
            for key in self.slab.keys() {
                self.judge(now, key);
            }
        }
    }

    /// Whether the stream's queue is full, and by when its socket must have taken some of it.
    fn judge(&mut self, now: Instant, key: StreamKey) {
        let most =
            if self.held >= self.budget { self.rule.queue.min(self.budget / SHARES).max(1) } else { self.rule.queue };
        let Some(stream) = self.slab.get_mut(key) else { return };
        if stream.inbound.len() < most {
            stream.stall.end(now);
            self.full.remove(&key);
        } else {
            stream.stall.begin(now);
            if let Some(due) = stream.stall.due() {
                self.full.insert(key, due);
            }
        }
    }

    /// Whether a full queue, or too many delivering streams, keep the link from being read.
    pub(crate) fn is_blocked(&self) -> bool {
        !self.full.is_empty() || self.delivery_timeout().is_some()
    }

    /// When [`next_overdue`](Self::next_overdue) is to be asked.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.full.values().copied().chain(self.delivery_timeout()).chain(self.deliveries.next()).min()
    }

    /// When the delivering streams are too many: the time of the one that has been delivering the longest. Until then each
    /// may go on, so that a stream that is delivered within `stall` is never reset for the number of the others.
    fn delivery_timeout(&self) -> Option<Instant> {
        let longest = self.delivering.first().filter(|_| self.delivering.len() > MAX_DELIVERING);
        longest.map(|&(since, _)| since + self.rule.stall)
    }

    /// A stream that is to be reset, and why.
    pub(crate) fn next_overdue(&mut self, now: Instant) -> Option<(StreamKey, Reset)> {
        let undelivered = self.deliveries.pop_due(now).map(|key| (key, Reset::Stalled));
        undelivered.or_else(|| self.next_stalled(now).map(|key| (key, Reset::TooSlow)))
    }

    /// A stream that has kept the link unread for too long.
    fn next_stalled(&mut self, now: Instant) -> Option<StreamKey> {
        if self.delivery_timeout().is_some_and(|at| at <= now) {
            return self.delivering.first().map(|&(_, key)| key);
        }
        let due: Vec<_> = self.full.iter().filter(|&(_, &at)| at <= now).map(|(&key, _)| key).collect();
        for key in due {
            self.forgive(now, key);
            self.judge(now, key);
        }
        // Of those that have together what the budget allows, the one that holds the most makes the most room.
        let due = self.full.iter().filter(|&(_, &at)| at <= now).map(|(&key, _)| key);
        due.max_by_key(|&key| self.get(key).map_or(0, |stream| stream.inbound.len()))
    }
}

#[cfg(test)]
mod tests;
