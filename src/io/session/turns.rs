//! Whose socket is read next, and how much at a time: nobody's bulk is to keep a keystroke waiting.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::connection::StreamKey;

/// A read that brings so much is one of many: whoever has it may wait for those who have little.
const BULK: usize = 16 * 1024;
/// Who had little to say will soon have more, and who had much only pauses for breath.
const MEMORY: Duration = Duration::from_millis(10);

/// The streams whose sockets may have something to read, in the order of their turns.
#[derive(Debug, Default)]
pub(super) struct Turns {
    queue: VecDeque<StreamKey>,
    /// How many of them have little to say, as far as one can tell.
    brief: usize,
    /// Until when more of that kind is expected.
    brisk_until: Option<Instant>,
}

/// What is known of the way a socket talks.
#[derive(Debug, Default)]
pub(super) struct Habit {
    /// Whether its stream stands in the queue.
    queued: bool,
    /// It has much to say; before the first read that is not known.
    bulk: bool,
    /// Until when a read that brings little is no sign of the contrary.
    bulk_until: Option<Instant>,
}

impl Turns {
    /// The stream's socket may have something to read.
    pub(super) fn push(&mut self, key: StreamKey, habit: &mut Habit) {
        if !habit.queued {
            habit.queued = true;
            self.brief += usize::from(!habit.bulk);
            self.queue.push_back(key);
        }
    }

    /// Whose turn it is.
    pub(super) fn front(&self) -> Option<StreamKey> {
        self.queue.front().copied()
    }

    /// The first has had its turn; `habit` is its socket's.
    pub(super) fn pop(&mut self, habit: &mut Habit) {
        self.queue.pop_front();
        self.brief -= usize::from(!habit.bulk);
        habit.queued = false;
    }

    /// The stream's socket is gone, and its turn with it: while the link takes nothing no turn comes, and any number of
    /// sockets may come and go.
    pub(super) fn forget(&mut self, key: StreamKey, habit: &Habit) {
        if habit.queued {
            self.brief -= usize::from(!habit.bulk);
            self.queue.retain(|&queued| queued != key);
        }
    }

    /// Streams in the queue.
    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    /// Takes note of what the last read of a socket that has had its turn brought, of what it could have. Little room
    /// says nothing of the socket.
    pub(super) fn note(&mut self, now: Instant, habit: &mut Habit, count: usize, room: usize) {
        debug_assert!(!habit.queued, "it would be counted as what it was before");
        if count >= BULK || count == room {
            habit.bulk_until = Some(now + MEMORY);
        }
        habit.bulk = is_ahead(habit.bulk_until, now);
        if !habit.bulk && count > 0 {
            self.brisk_until = Some(now + MEMORY);
        }
    }

    /// Somebody may be waiting for an answer: small steps.
    pub(super) fn is_brisk(&self, now: Instant) -> bool {
        self.brief > 0 || is_ahead(self.brisk_until, now)
    }

    /// Whether one with this habit would keep somebody waiting who has little to say.
    pub(super) fn is_contended(&self, now: Instant, habit: &Habit) -> bool {
        self.brief > usize::from(!habit.bulk) || is_ahead(self.brisk_until, now)
    }
}

fn is_ahead(until: Option<Instant>, now: Instant) -> bool {
    until.is_some_and(|until| now < until)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOM: usize = 2 * BULK;

    fn key(index: u32) -> StreamKey {
        StreamKey { index, generation: 0 }
    }

    /// One read of the stream, which brings so much.
    fn read(turns: &mut Turns, now: Instant, key: StreamKey, habit: &mut Habit, count: usize) {
        turns.push(key, habit);
        turns.pop(habit);
        turns.note(now, habit, count, ROOM);
    }

    #[test]
    fn each_stands_in_the_queue_once_and_has_its_turn_in_order() {
        let (mut turns, mut one, mut other) = (Turns::default(), Habit::default(), Habit::default());
        turns.push(key(1), &mut one);
        turns.push(key(2), &mut other);
        turns.push(key(1), &mut one);
        assert_eq!((turns.len(), turns.front()), (2, Some(key(1))));
        turns.pop(&mut one);
        turns.push(key(1), &mut one);
        turns.pop(&mut other);
        assert_eq!((turns.len(), turns.front()), (1, Some(key(1))));
    }

    #[test]
    fn bulk_is_contended_while_somebody_with_little_to_say_waits_and_10_ms_more() {
        let now = Instant::now();
        let (mut turns, mut bulk, mut brief) = (Turns::default(), Habit::default(), Habit::default());
        read(&mut turns, now, key(1), &mut bulk, BULK);
        turns.push(key(1), &mut bulk);
        assert!(!turns.is_contended(now, &bulk) && !turns.is_brisk(now));
        turns.push(key(2), &mut brief);
        assert!(turns.is_contended(now, &bulk) && turns.is_brisk(now));
        turns.pop(&mut bulk);
        assert!(!turns.is_contended(now, &brief), "it is the one");
        turns.pop(&mut brief);
        assert!(!turns.is_brisk(now), "it had nothing to say");
        turns.note(now, &mut brief, 64, ROOM);
        let later = now + MEMORY;
        assert!(turns.is_contended(later - Duration::from_micros(1), &bulk));
        assert!(!turns.is_contended(later, &bulk) && !turns.is_brisk(later));
    }

    #[test]
    fn one_short_read_of_a_download_makes_it_no_conversation_and_one_after_a_pause_does() {
        let now = Instant::now();
        let (mut turns, mut habit) = (Turns::default(), Habit::default());
        read(&mut turns, now, key(1), &mut habit, BULK);
        read(&mut turns, now, key(1), &mut habit, 1000);
        assert!(habit.bulk && !turns.is_brisk(now));
        read(&mut turns, now + MEMORY, key(1), &mut habit, 1000);
        assert!(!habit.bulk && turns.is_brisk(now + MEMORY));
    }

    #[test]
    fn who_fills_the_little_room_there_is_has_much_to_say() {
        let now = Instant::now();
        let (mut turns, mut habit) = (Turns::default(), Habit::default());
        turns.note(now, &mut habit, 8 * 1024, 8 * 1024);
        assert!(habit.bulk && !turns.is_brisk(now));
    }

    #[test]
    fn a_socket_that_is_gone_has_no_turn_and_keeps_nobody_brisk() {
        let (mut turns, mut habit, mut other) = (Turns::default(), Habit::default(), Habit::default());
        turns.push(key(1), &mut habit);
        turns.push(key(2), &mut other);
        turns.forget(key(1), &habit);
        assert_eq!((turns.len(), turns.front()), (1, Some(key(2))));
        turns.pop(&mut other);
        assert!(!turns.is_brisk(Instant::now()));
    }
}
