//! The streams of one link, what waits for their sockets, and the rule that bounds it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::stall::StallMeter;
use crate::connection::{ByteQueue, QueueRule, Slab, StreamKey};

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
    /// Bytes in all queues.
    held: usize,
}

/// One stream.
#[derive(Debug)]
pub(crate) struct Stream<S> {
    pub(crate) state: S,
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
        Self { slab: Slab::default(), rule, budget, full: BTreeMap::new(), delivering: BTreeSet::new(), held: 0 }
    }

    pub(crate) fn insert(&mut self, now: Instant, state: S) -> StreamKey {
        let stall = StallMeter::new(now, self.rule);
        self.slab.insert(Stream {
            state,
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
        let stream = self.slab.remove(key)?;
        if let Some(since) = stream.delivering_since {
            self.delivering.remove(&(since, key));
        }
        self.set_held(now, self.held - stream.inbound.len());
        Some(stream)
    }

    /// The stream is off the link: from now on it only delivers what is left.
    pub(crate) fn start_delivering(&mut self, now: Instant, key: StreamKey) {
        if let Some(stream) = self.get_mut(key)
            && stream.delivering_since.is_none()
        {
            stream.delivering_since = Some(now);
            self.delivering.insert((now, key));
        }
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

    /// When [`next_stalled`](Self::next_stalled) is to be asked.
    pub(crate) fn stall_timeout(&self) -> Option<Instant> {
        self.full.values().copied().chain(self.delivery_timeout()).min()
    }

    /// When the delivering streams are too many: the time of the one that has been delivering the longest. Until then each
    /// may go on, so that a stream that is delivered within `stall` is never reset for the number of the others.
    fn delivery_timeout(&self) -> Option<Instant> {
        let longest = self.delivering.first().filter(|_| self.delivering.len() > MAX_DELIVERING);
        longest.map(|&(since, _)| since + self.rule.stall)
    }

    /// A stream that has kept the link unread for too long.
    pub(crate) fn next_stalled(&mut self, now: Instant) -> Option<StreamKey> {
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
mod tests {
    use std::time::Duration;

    use super::*;

    const RULE: QueueRule = QueueRule { queue: 10, stall: Duration::from_secs(30) };

    #[test]
    fn one_full_queue_blocks_until_it_has_room_or_its_time_is_up() {
        let start = Instant::now();
        let mut streams = Streams::new(RULE, 1 << 20);
        let slow = streams.insert(start, ());
        streams.push(start, slow, &[0; 9]);
        assert!(!streams.is_blocked());
        streams.push(start, slow, &[0; 9]);
        assert!(streams.is_blocked());
        streams.advance(start + Duration::from_secs(10), slow, 9);
        assert!(!streams.is_blocked() && streams.stall_timeout().is_none());
        streams.push(start + Duration::from_secs(20), slow, &[0; 9]);
        assert_eq!(streams.stall_timeout(), Some(start + Duration::from_secs(50)));
        assert_eq!(streams.next_stalled(start + Duration::from_secs(49)), None);
        assert_eq!(streams.next_stalled(start + Duration::from_secs(50)), Some(slow));
        streams.remove(start, slow);
        assert!(!streams.is_blocked() && streams.len() == 0);
    }

    #[test]
    fn a_full_queue_is_given_more_time_whenever_its_socket_takes_some_of_it() {
        let start = Instant::now();
        let rule = QueueRule { queue: 80, ..RULE };
        let mut streams = Streams::new(rule, 1 << 20);
        let slow = streams.insert(start, ());
        streams.push(start, slow, &[0; 100]);
        streams.advance(start + Duration::from_secs(20), slow, 9);
        assert_eq!(streams.stall_timeout(), Some(start + Duration::from_secs(30)));
        streams.advance(start + Duration::from_secs(21), slow, 1);
        assert_eq!(streams.stall_timeout(), Some(start + Duration::from_secs(51)));
        assert!(streams.is_blocked() && streams.next_stalled(start + Duration::from_secs(50)).is_none());
        assert_eq!(streams.next_stalled(start + Duration::from_secs(51)), Some(slow));
    }

    #[test]
    fn too_many_delivering_streams_hold_up_the_link_and_only_the_longest_is_reset_for_it() {
        let start = Instant::now();
        let mut streams = Streams::new(RULE, 1 << 20);
        let keys: Vec<_> = (0..=MAX_DELIVERING).map(|_| streams.insert(start, ())).collect();
        for (at, &key) in keys.iter().enumerate() {
            assert!(!streams.is_blocked());
            streams.start_delivering(start + Duration::from_millis(at as u64), key);
        }
        assert!(streams.is_blocked());
        assert_eq!(streams.stall_timeout(), Some(start + RULE.stall));
        assert_eq!(streams.next_stalled(start + RULE.stall - Duration::from_nanos(1)), None);
        assert_eq!(streams.next_stalled(start + RULE.stall), Some(keys[0]));
        streams.remove(start, keys[0]);
        assert!(!streams.is_blocked() && streams.next_stalled(start + 9 * RULE.stall).is_none());
    }

    #[test]
    fn all_queues_together_hold_no_more_than_the_budget_and_the_largest_is_reset_for_it() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let rule = QueueRule { queue: 1 << 20, ..RULE };
        let mut streams = Streams::new(rule, 100 << 10);
        let keys: Vec<_> = (0..300).map(|_| streams.insert(start, ())).collect();
        let [slow, stuck, tiny] = [keys[0], keys[1], keys[2]];
        streams.push(start, tiny, &[0; 99]);
        streams.push(start, slow, &[0; 40 << 10]);
        assert!(!streams.is_blocked(), "each has room, and all together");
        streams.push(at(1), stuck, &[0; 60 << 10]);
        assert!(streams.is_blocked());
        assert_eq!(streams.stall_timeout(), Some(at(31)));
        streams.advance(at(20), slow, 10 << 10);
        assert!(!streams.is_blocked() && streams.stall_timeout().is_none());
        streams.push(at(21), slow, &[0; 10 << 10]);
        assert_eq!(streams.next_stalled(at(31)), None, "the link was read for a second");
        assert_eq!(streams.next_stalled(at(32)), Some(stuck), "it holds the most");
        streams.remove(at(32), stuck);
        assert!(!streams.is_blocked() && streams.next_stalled(at(100)).is_none());
    }

    /// A slow reader with a full queue, and another stream, beside which it takes an eighth of its queue each 29 s. The
    /// result is when the slow one is stalled, if it is within ten minutes.
    fn stalls_beside(mut other: impl FnMut(&mut Streams<()>, Instant, StreamKey)) -> Option<Duration> {
        let start = Instant::now();
        let rule = QueueRule { queue: 80, ..RULE };
        let mut streams = Streams::new(rule, 1 << 20);
        let slow = streams.insert(start, ());
        let beside = streams.insert(start, ());
        let mut now = start;
        streams.push(now, slow, &[0; 90]);
        for second in 1..600 {
            now = start + Duration::from_secs(second);
            other(&mut streams, now, beside);
            if second % 29 == 0 {
                streams.advance(now, slow, 10);
                streams.push(now, slow, &[0; 10]);
            }
            if streams.next_stalled(now) == Some(slow) {
                return Some(now - start);
            }
        }
        None
    }

    #[test]
    fn a_reader_that_takes_little_is_reset_where_another_stream_waits_and_only_there() {
        assert_eq!(stalls_beside(|_, _, _| {}).map(|at| at.as_secs()), None, "nobody waits");
        let sends = stalls_beside(|streams, now, other| streams.note_sent(now, other, 1));
        assert_eq!(sends, Some(RULE.stall), "a keystroke whose answer cannot come");
        let uploads = stalls_beside(|streams, now, other| streams.note_sent(now, other, QUESTION + 1));
        assert_eq!(uploads, None, "it only sends, which goes on");
        let gets = stalls_beside(|streams, now, other| streams.delivered(now, other, b"x", 1));
        assert_eq!(gets, Some(RULE.stall), "bytes that come as seldom as the link is read");
        let gets_late = stalls_beside(|streams, now, other| {
            streams.push(now, other, b"x");
            streams.advance(now, other, 1);
        });
        assert_eq!(gets_late, Some(RULE.stall), "the same, though its socket does not take them at once");
        let is_slow = stalls_beside(|streams, now, other| {
            streams.note_sent(now, other, 1);
            streams.delivered(now, other, b"xx", 0);
        });
        assert_eq!(is_slow, None, "one that is slow itself is not held up");
        let mut left = false;
        let leaves = stalls_beside(|streams, now, other| {
            if !std::mem::replace(&mut left, true) {
                streams.note_sent(now, other, 1);
                streams.remove(now, other);
            }
        });
        assert_eq!(leaves, None, "nobody is left that waits");
    }

    #[test]
    fn a_reader_that_is_only_slower_than_the_link_is_not_reset_though_another_stream_waits() {
        let start = Instant::now();
        let rule = QueueRule { queue: 80, ..RULE };
        let mut streams = Streams::new(rule, 1 << 20);
        let slow = streams.insert(start, ());
        let other = streams.insert(start, ());
        streams.push(start, slow, &[0; 90]);
        for second in 1..600 {
            let now = start + Duration::from_secs(second);
            streams.note_sent(now, other, 1);
            assert_eq!(streams.next_stalled(now), None, "after {second} s");
            streams.advance(now, slow, 12);
            streams.push(now, slow, &[0; 12]);
        }
    }

    /// A slow reader that has a full queue from second 101 on, and takes an eighth of it each 29 s; and another stream that
    /// asked in so many bytes, at second `asked` (until `until` again in each second). The result is the second in which the
    /// slow one is stalled.
    fn stalls_beside_a_question(bytes: usize, asked: u64, until: u64) -> Option<u64> {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let rule = QueueRule { queue: 80, ..RULE };
        let mut streams = Streams::new(rule, 1 << 20);
        let slow = streams.insert(at(0), ());
        let asks = streams.insert(at(0), ());
        for second in 1..1000 {
            if (asked..=until).contains(&second) {
                streams.note_sent(at(second), asks, bytes);
            }
            match second {
                // The last bytes that the slow one takes at once.
                101 => streams.delivered(at(second), slow, &[0; 200], 100),
                102.. if second % 29 == 0 => {
                    streams.advance(at(second), slow, 10);
                    streams.push(at(second), slow, &[0; 10]);
                }
                _ => {}
            }
            if streams.next_stalled(at(second)) == Some(slow) {
                return Some(second);
            }
        }
        None
    }

    #[test]
    fn a_question_of_any_size_from_just_before_the_queue_was_full_waits_too() {
        for bytes in [1, QUESTION, QUESTION + 1, 100 * QUESTION] {
            assert_eq!(stalls_beside_a_question(bytes, 100, 100), Some(131), "{bytes} bytes");
        }
    }

    #[test]
    fn a_large_question_waits_like_an_upload_that_is_over_once_nothing_follows_it() {
        assert_eq!(stalls_beside_a_question(QUESTION + 1, 110, 110), Some(146), "30 s from progress in second 116");
        assert_eq!(stalls_beside_a_question(QUESTION, 110, 110), Some(131), "a small one waits from the start");
        assert_eq!(stalls_beside_a_question(1000, 90, 400), Some(436), "30 s from progress in second 406");
        assert_eq!(stalls_beside_a_question(1000, 90, 999), None, "an upload that goes on");
    }
}
