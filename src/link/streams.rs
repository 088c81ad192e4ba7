//! The streams of one link, what waits for their sockets, and the rule that bounds it.

use std::collections::BTreeMap;
use std::time::Instant;

use super::stall::StallMeter;
use super::{ByteQueue, QueueRule, Slab, StreamKey};

/// Streams with state `S`, each with the bytes that its socket did not take yet.
#[derive(Debug)]
pub(crate) struct Streams<S> {
    slab: Slab<Stream<S>>,
    rule: QueueRule,
    /// The streams whose queues are full, and when each is to be looked at.
    full: BTreeMap<StreamKey, Instant>,
}

/// One stream.
#[derive(Debug)]
pub(crate) struct Stream<S> {
    pub(crate) state: S,
    inbound: ByteQueue,
    /// Made when the queue fills for the first time.
    stall: Option<Box<StallMeter>>,
}

impl<S> Stream<S> {
    /// What waits for the socket.
    pub(crate) fn pending(&self) -> &[u8] {
        self.inbound.as_slice()
    }
}

impl<S> Streams<S> {
    pub(crate) fn new(rule: QueueRule) -> Self {
        Self { slab: Slab::default(), rule, full: BTreeMap::new() }
    }

    pub(crate) fn insert(&mut self, state: S) -> StreamKey {
        self.slab.insert(Stream { state, inbound: ByteQueue::default(), stall: None })
    }

    pub(crate) fn get(&self, key: StreamKey) -> Option<&Stream<S>> {
        self.slab.get(key)
    }

    pub(crate) fn get_mut(&mut self, key: StreamKey) -> Option<&mut Stream<S>> {
        self.slab.get_mut(key)
    }

    pub(crate) fn remove(&mut self, key: StreamKey) -> Option<Stream<S>> {
        self.full.remove(&key);
        self.slab.remove(key)
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.slab.len()
    }

    /// All keys, in the order of their slots.
    pub(crate) fn keys(&self) -> Vec<StreamKey> {
        self.slab.keys()
    }

    /// Keeps `bytes` for the stream's socket.
    pub(crate) fn push(&mut self, now: Instant, key: StreamKey, bytes: &[u8]) {
        let rule = self.rule;
        let Some(stream) = self.get_mut(key) else { return };
        let was_full = stream.inbound.len() >= rule.queue;
        stream.inbound.push(bytes);
        if !was_full && stream.inbound.len() >= rule.queue {
            let meter = stream.stall.get_or_insert_with(|| Box::new(StallMeter::new(now, rule.stall)));
            meter.begin(now);
            let due = meter.due(now).unwrap_or(now);
            self.full.insert(key, due);
        }
    }

    /// The stream's socket took `count` bytes.
    pub(crate) fn advance(&mut self, now: Instant, key: StreamKey, count: usize) {
        let rule = self.rule;
        let Some(stream) = self.get_mut(key) else { return };
        let was_full = stream.inbound.len() >= rule.queue;
        stream.inbound.advance(count);
        if was_full && stream.inbound.len() < rule.queue {
            if let Some(meter) = &mut stream.stall {
                meter.end(now);
            }
            self.full.remove(&key);
        }
    }

    /// Whether a full queue keeps the link from being read.
    pub(crate) fn is_blocked(&self) -> bool {
        !self.full.is_empty()
    }

    /// When [`next_stalled`](Self::next_stalled) is to be asked.
    pub(crate) fn stall_timeout(&self) -> Option<Instant> {
        self.full.values().min().copied()
    }

    /// A stream that has kept the link unread for too long.
    pub(crate) fn next_stalled(&mut self, now: Instant) -> Option<StreamKey> {
        let due: Vec<StreamKey> = self.full.iter().filter(|&(_, &at)| at <= now).map(|(&key, _)| key).collect();
        for key in due {
            let meter = self.get_mut(key).and_then(|stream| stream.stall.as_mut());
            let Some(meter) = meter else { continue };
            if meter.is_stalled(now) {
                return Some(key);
            }
            if let Some(at) = meter.due(now) {
                self.full.insert(key, at);
            }
        }
        None
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
        let mut streams = Streams::new(RULE);
        let slow = streams.insert(());
        streams.push(start, slow, &[0; 9]);
        assert!(!streams.is_blocked());
        streams.push(start, slow, &[0; 9]);
        assert!(streams.is_blocked());
        streams.advance(start + Duration::from_secs(10), slow, 9);
        assert!(!streams.is_blocked() && streams.stall_timeout().is_none());
        streams.push(start + Duration::from_secs(20), slow, &[0; 9]);
        assert_eq!(streams.stall_timeout(), Some(start + Duration::from_secs(40)));
        assert_eq!(streams.next_stalled(start + Duration::from_secs(39)), None);
        assert_eq!(streams.next_stalled(start + Duration::from_secs(40)), Some(slow));
        streams.remove(slow);
        assert!(!streams.is_blocked() && streams.len() == 0);
    }
}
