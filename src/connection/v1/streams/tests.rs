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
    assert!(!streams.is_blocked() && streams.poll_timeout().is_none());
    streams.push(start + Duration::from_secs(20), slow, &[0; 9]);
    assert_eq!(streams.poll_timeout(), Some(start + Duration::from_secs(50)));
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
    assert_eq!(streams.poll_timeout(), Some(start + Duration::from_secs(30)));
    streams.advance(start + Duration::from_secs(21), slow, 1);
    assert_eq!(streams.poll_timeout(), Some(start + Duration::from_secs(51)));
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
    assert_eq!(streams.poll_timeout(), Some(start + RULE.stall));
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
    assert_eq!(streams.poll_timeout(), Some(at(31)));
    streams.advance(at(20), slow, 10 << 10);
    assert!(!streams.is_blocked() && streams.poll_timeout().is_none());
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
    assert_eq!(stalls_beside(|_, _, _| {}).map(|at| at.as_secs()), None, "no other waits");
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
    assert_eq!(leaves, None, "no stream is left that waits");
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
