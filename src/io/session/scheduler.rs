//! Which stream's socket is read next, and how much at a time: bulk must not keep interactive streams waiting.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::connection::StreamKey;

/// A read that brings at least so much marks a bulk stream, which may wait for interactive ones.
const BULK: usize = 16 * 1024;
/// How long a stream counts as what it was: an interactive one has more soon, and a bulk one only pauses.
const MEMORY: Duration = Duration::from_millis(10);

/// The streams whose sockets may have something to read, in the order in which they are read.
#[derive(Debug, Default)]
pub(super) struct Scheduler {
    queue: VecDeque<StreamKey>,
    /// How many of them are interactive, as far as is known.
    interactive: usize,
    /// Until when more interactive reads are expected.
    interactive_until: Option<Instant>,
}

/// What is known of how much a socket sends.
#[derive(Debug, Default)]
pub(super) struct Activity {
    /// Whether its stream stands in the queue.
    queued: bool,
    /// It sends much; false before the first read.
    bulk: bool,
    /// Until when a read that brings little does not make it interactive.
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

    /// The stream that is read next.
    pub(super) fn front(&self) -> Option<StreamKey> {
        self.queue.front().copied()
    }

    /// The first stream was read; `activity` is its socket's.
    pub(super) fn pop(&mut self, activity: &mut Activity) {
        self.queue.pop_front();
        self.interactive -= usize::from(!activity.bulk);
        activity.queued = false;
    }

    /// The stream's socket is gone. It leaves the queue at once: while the link takes nothing the queue does not move, and
    /// any number of sockets may come and go.
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

    /// Takes note of what the last read brought of the room that it had. A read that fills little room says nothing
    /// about the socket.
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

    /// Whether an interactive stream may be waiting: then reads and writes are small.
    pub(super) fn is_interactive(&self, now: Instant) -> bool {
        self.interactive > 0 || is_ahead(self.interactive_until, now)
    }

    /// Whether a stream with this activity would keep an interactive one waiting.
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
    fn bulk_is_contended_while_an_interactive_stream_waits_and_10_ms_more() {
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
    fn a_stream_that_fills_a_small_room_is_bulk() {
        let now = Instant::now();
        let (mut scheduler, mut activity) = (Scheduler::default(), Activity::default());
        scheduler.note(now, &mut activity, 8 * 1024, 8 * 1024);
        assert!(activity.bulk && !scheduler.is_interactive(now));
    }

    #[test]
    fn a_socket_that_is_gone_has_no_turn_and_is_no_reason_for_small_steps() {
        let (mut scheduler, mut activity, mut other) = (Scheduler::default(), Activity::default(), Activity::default());
        scheduler.push(key(1), &mut activity);
        scheduler.push(key(2), &mut other);
        scheduler.forget(key(1), &activity);
        assert_eq!((scheduler.len(), scheduler.front()), (1, Some(key(2))));
        scheduler.pop(&mut other);
        assert!(!scheduler.is_interactive(Instant::now()));
    }
}
