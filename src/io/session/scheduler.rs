//! Whose socket is read next, and how much at a time: nobody's bulk is to keep a keystroke waiting.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::connection::StreamKey;

/// A read that brings so much is one of many: whoever has it may wait for those who have little.
const BULK: usize = 16 * 1024;
/// Who had little to say will soon have more, and who had much only pauses for breath.
const MEMORY: Duration = Duration::from_millis(10);

/// The streams whose sockets may have something to read, in the order of their scheduler.
#[derive(Debug, Default)]
pub(super) struct Scheduler {
    queue: VecDeque<StreamKey>,
    /// How many of them have little to say, as far as one can tell.
    interactive: usize,
    /// Until when more of that kind is expected.
    interactive_until: Option<Instant>,
}

/// What is known of the way a socket talks.
#[derive(Debug, Default)]
pub(super) struct Activity {
    /// Whether its stream stands in the queue.
    queued: bool,
    /// It has much to say; before the first read that is not known.
    bulk: bool,
    /// Until when a read that brings little is no sign of the contrary.
    bulk_until: Option<Instant>,
}

impl Scheduler {
    /// The stream's socket may have something to read.
    pub(super) fn push(&mut self, key: StreamKey, activity: &mut Activity) {
        if !activity.queued {
            activity.queued = true;
            self.interactive += usize::from(!activity.bulk);
            self.queue.push_back(key);
        }
    }

    /// Whose turn it is.
    pub(super) fn front(&self) -> Option<StreamKey> {
        self.queue.front().copied()
    }

    /// The first has had its turn; `activity` is its socket's.
    pub(super) fn pop(&mut self, activity: &mut Activity) {
        self.queue.pop_front();
        self.interactive -= usize::from(!activity.bulk);
        activity.queued = false;
    }

    /// The stream's socket is gone, and its turn with it: while the link takes nothing no turn comes, and any number of
    /// sockets may come and go.
    pub(super) fn forget(&mut self, key: StreamKey, activity: &Activity) {
        if activity.queued {
            self.interactive -= usize::from(!activity.bulk);
            self.queue.retain(|&queued| queued != key);
        }
    }

    /// Streams in the queue.
    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    /// Takes note of what the last read of a socket that has had its turn brought, of what it could have. Little room
    /// says nothing of the socket.
    pub(super) fn note(&mut self, now: Instant, activity: &mut Activity, count: usize, room: usize) {
        debug_assert!(!activity.queued, "it would be counted as what it was before");
        if count >= BULK || count == room {
            activity.bulk_until = Some(now + MEMORY);
        }
        activity.bulk = is_ahead(activity.bulk_until, now);
        if !activity.bulk && count > 0 {
            self.interactive_until = Some(now + MEMORY);
        }
    }

    /// Somebody may be waiting for an answer: small steps.
    pub(super) fn is_interactive(&self, now: Instant) -> bool {
        self.interactive > 0 || is_ahead(self.interactive_until, now)
    }

    /// Whether one with this activity would keep somebody waiting who has little to say.
    pub(super) fn is_contended(&self, now: Instant, activity: &Activity) -> bool {
        self.interactive > usize::from(!activity.bulk) || is_ahead(self.interactive_until, now)
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
    fn read(scheduler: &mut Scheduler, now: Instant, key: StreamKey, activity: &mut Activity, count: usize) {
        scheduler.push(key, activity);
        scheduler.pop(activity);
        scheduler.note(now, activity, count, ROOM);
    }

    #[test]
    fn each_stands_in_the_queue_once_and_has_its_turn_in_order() {
        let (mut scheduler, mut one, mut other) = (Scheduler::default(), Activity::default(), Activity::default());
        scheduler.push(key(1), &mut one);
        scheduler.push(key(2), &mut other);
        scheduler.push(key(1), &mut one);
        assert_eq!((scheduler.len(), scheduler.front()), (2, Some(key(1))));
        scheduler.pop(&mut one);
        scheduler.push(key(1), &mut one);
        scheduler.pop(&mut other);
        assert_eq!((scheduler.len(), scheduler.front()), (1, Some(key(1))));
    }

    #[test]
    fn bulk_is_contended_while_somebody_with_little_to_say_waits_and_10_ms_more() {
        let now = Instant::now();
        let (mut scheduler, mut bulk, mut interactive) =
            (Scheduler::default(), Activity::default(), Activity::default());
        read(&mut scheduler, now, key(1), &mut bulk, BULK);
        scheduler.push(key(1), &mut bulk);
        assert!(!scheduler.is_contended(now, &bulk) && !scheduler.is_interactive(now));
        scheduler.push(key(2), &mut interactive);
        assert!(scheduler.is_contended(now, &bulk) && scheduler.is_interactive(now));
        scheduler.pop(&mut bulk);
        assert!(!scheduler.is_contended(now, &interactive), "it is the one");
        scheduler.pop(&mut interactive);
        assert!(!scheduler.is_interactive(now), "it had nothing to say");
        scheduler.note(now, &mut interactive, 64, ROOM);
        let later = now + MEMORY;
        assert!(scheduler.is_contended(later - Duration::from_micros(1), &bulk));
        assert!(!scheduler.is_contended(later, &bulk) && !scheduler.is_interactive(later));
    }

    #[test]
    fn one_short_read_of_a_download_makes_it_no_conversation_and_one_after_a_pause_does() {
        let now = Instant::now();
        let (mut scheduler, mut activity) = (Scheduler::default(), Activity::default());
        read(&mut scheduler, now, key(1), &mut activity, BULK);
        read(&mut scheduler, now, key(1), &mut activity, 1000);
        assert!(activity.bulk && !scheduler.is_interactive(now));
        read(&mut scheduler, now + MEMORY, key(1), &mut activity, 1000);
        assert!(!activity.bulk && scheduler.is_interactive(now + MEMORY));
    }

    #[test]
    fn who_fills_the_little_room_there_is_has_much_to_say() {
        let now = Instant::now();
        let (mut scheduler, mut activity) = (Scheduler::default(), Activity::default());
        scheduler.note(now, &mut activity, 8 * 1024, 8 * 1024);
        assert!(activity.bulk && !scheduler.is_interactive(now));
    }

    #[test]
    fn a_socket_that_is_gone_has_no_turn_and_keeps_nobody_brisk() {
        let (mut scheduler, mut activity, mut other) = (Scheduler::default(), Activity::default(), Activity::default());
        scheduler.push(key(1), &mut activity);
        scheduler.push(key(2), &mut other);
        scheduler.forget(key(1), &activity);
        assert_eq!((scheduler.len(), scheduler.front()), (1, Some(key(2))));
        scheduler.pop(&mut other);
        assert!(!scheduler.is_interactive(Instant::now()));
    }
}
