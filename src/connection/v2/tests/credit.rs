//! How windows grow, and for whom, where the peer does not acknowledge.

use super::*;

/// A round trip in which the stream's service says as much as it may.
fn say_all(pair: &mut Pair, open: Open) -> usize {
    let endless = vec![b'x'; 200 * KIB];
    let mut sent = 0;
    pair.now += Duration::from_micros(500);
    loop {
        let count = send(pair.now, &mut pair.device, open.device, &endless);
        if count == 0 {
            break;
        }
        sent += count;
        let bytes = pair.device.unsent().to_vec();
        pair.device.advance_link(pair.now, bytes.len());
        pair.hand_relay(&bytes).expect("no violation");
    }
    pair.run();
    sent
}

#[test]
fn a_window_grows_for_a_fast_reader_until_one_write_fills_it_no_more() {
    let mut pair = Pair::without_acks(limits());
    let open = pair.open();
    let most = (0..40).map(|_| say_all(&mut pair, open)).max();
    assert!(most >= Some(2048 * KIB), "{most:?} bytes at most between two rounds");
}

#[test]
fn streams_that_are_read_as_fast_may_send_as_much_whenever_they_began() {
    let mut pair = Pair::without_acks(Limits { budget: 256 * 1024 * 1024, ..limits() });
    let older = pair.open();
    for _ in 0..40 {
        say_all(&mut pair, older);
    }
    let younger = pair.open();
    // Credit that is left of one round is used in the next.
    let mut two_rounds = |open| say_all(&mut pair, open) + say_all(&mut pair, open);
    for _ in 0..4 {
        two_rounds(younger);
    }
    assert_eq!(two_rounds(younger), two_rounds(older));
}

/// The time that the way of [`paced`] takes, there and back.
const WAY: Duration = Duration::from_millis(50);

/// Both know that the way takes [`WAY`].
fn far_apart() -> Pair {
    let mut pair = Pair::unconnected(limits());
    carry(pair.now, &mut pair.device, &mut pair.relay, &mut pair.at_relay, &[]);
    carry(pair.now, &mut pair.relay, &mut pair.device, &mut pair.at_device, &[]);
    pair.forget_acks();
    answer_late(&mut pair);
    pair.device_outputs();
    pair.relay_outputs();
    pair
}

/// Carries what waits, so that the answer to a PING takes its time.
fn answer_late(pair: &mut Pair) {
    for _ in 0..4 {
        pair.now += WAY / 2;
        carry(pair.now, &mut pair.device, &mut pair.relay, &mut pair.at_relay, &pair.stuck);
        pair.now += WAY / 2;
        carry(pair.now, &mut pair.relay, &mut pair.device, &mut pair.at_device, &pair.stuck);
    }
}

/// The stream's client sends what it may for so long, over a link of `rate` bytes a second. What came is returned.
fn paced(pair: &mut Pair, open: Open, rate: usize, time: Duration) -> u64 {
    let before = pair.device.counters.received;
    let payload = vec![b'x'; 64 * KIB];
    let (mut there, mut back) = (VecDeque::<(Instant, Vec<u8>)>::new(), VecDeque::<(Instant, Vec<u8>)>::new());
    let (mut free_at, end) = (pair.now, pair.now + time);
    while pair.now < end || !there.is_empty() || !back.is_empty() {
        pair.now += Duration::from_millis(1);
        while there.front().is_some_and(|&(at, _)| at <= pair.now) {
            pair.hand_device(&there.pop_front().expect("it is there").1).expect("no violation");
        }
        while back.front().is_some_and(|&(at, _)| at <= pair.now) {
            pair.hand_relay(&back.pop_front().expect("it is there").1).expect("no violation");
        }
        if pair.now < end {
            send(pair.now, &mut pair.relay, open.relay, &payload);
        }
        while pair.relay.has_unsent() {
            let bytes = pair.relay.unsent();
            let bytes = bytes[..bytes.len().min(1460)].to_vec();
            pair.relay.advance_link(pair.now, bytes.len());
            free_at = free_at.max(pair.now) + Duration::from_secs_f64(bytes.len() as f64 / rate as f64);
            there.push_back((free_at + WAY / 2, bytes));
        }
        while pair.device.has_unsent() {
            let bytes = pair.device.unsent().to_vec();
            pair.device.advance_link(pair.now, bytes.len());
            back.push_back((pair.now + WAY / 2, bytes));
        }
    }
    pair.device.counters.received - before
}

#[test]
fn streams_that_have_said_little_and_are_silent_leave_the_budget_to_a_download() {
    let mut pair = far_apart();
    let first = pair.open();
    let rate = 10_000 * KIB;
    let moved = paced(&mut pair, first, rate, 5 * SECOND);
    assert!(moved > 40_000 * KIB as u64, "{} KiB", moved / KIB as u64);
    pair.relay.handle_end(pair.now, first.relay);
    pair.device.handle_end(pair.now, first.device);
    answer_late(&mut pair);
    pair.device_outputs();
    pair.relay_outputs();
    for _ in 0..12 {
        let open = pair.open();
        assert_eq!(send(pair.now, &mut pair.relay, open.relay, &[b'x'; 9 * KIB]), 9 * KIB);
        answer_late(&mut pair);
    }
    for _ in 0..600 {
        pair.pass(SECOND);
        answer_late(&mut pair);
    }
    let next = pair.open();
    let moved = paced(&mut pair, next, rate, 5 * SECOND);
    assert!(moved > 40_000 * KIB as u64, "{} KiB", moved / KIB as u64);
}

#[test]
fn a_socket_that_takes_much_at_once_and_seldom_is_no_fast_link() {
    let mut pair = far_apart();
    let open = pair.open();
    pair.stuck.push(open.device);
    let mut wanted = Vec::new();
    for _ in 0..12 {
        paced(&mut pair, open, 1000 * KIB, SECOND);
        let count = pair.device.pending(open.device).len();
        pair.device.advance(pair.now, open.device, count);
        answer_late(&mut pair);
        wanted.push(pair.device.delivery_rate.as_mut().expect("bytes came").window(pair.now, WAY) / KIB as u64);
    }
    assert!(wanted.iter().all(|&wanted| wanted <= 4 * 50), "{wanted:?} KiB");
}

#[test]
fn a_first_window_above_the_largest_stays_as_it_is() {
    let window = 8 * 1024 * 1024;
    let mut pair = Pair::without_acks(Limits { window, streams: 16, budget: 256 * 1024 * 1024, ..limits() });
    let open = pair.open();
    for _ in 0..20 {
        send(pair.now, &mut pair.relay, open.relay, &vec![b'x'; 200 * KIB]);
        pair.run();
    }
    assert!(pair.at_device[&open.device].len() >= 20 * 200 * KIB);
}

#[test]
#[cfg(feature = "relay")]
fn where_other_links_have_all_that_may_wait_a_link_has_its_own_part_and_goes_on_when_that_has_left() {
    let mut pair = Pair::without_acks(limits());
    pair.relay.share_windows(&WindowPool::new(0));
    let opens: Vec<Open> = (0..8).map(|_| pair.open()).collect();
    let bytes = vec![b'x'; 24 * KIB];
    let send_all = |pair: &mut Pair, left: &mut [usize]| {
        for (open, left) in opens.iter().zip(left) {
            *left -= send(pair.now, &mut pair.relay, open.relay, &bytes[..*left]);
        }
        pair.relay.send_buffer.data_len()
    };
    let mut left = [bytes.len(); 8];
    let mut rounds = 0;
    while left.iter().any(|&left| left > 0) {
        let waits = send_all(&mut pair, &mut left);
        assert!(waits <= 32 * KIB + 8 * Header::LEN, "{waits} bytes wait");
        pair.run();
        rounds += 1;
    }
    assert!((6..=9).contains(&rounds), "{rounds}");
    assert!(opens.iter().all(|open| pair.at_device[&open.device].len() == bytes.len()));
}
