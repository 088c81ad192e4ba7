//! What is asked for and acknowledged, and who sends meanwhile.

use proptest::prelude::*;

use super::*;
use crate::protocol::v2::{ACK_LEN, Item};

/// The flags of the DATA in these frames, and the ACKs.
fn flags_and_acks(bytes: &[u8]) -> (Vec<u8>, Vec<(u64, u32)>) {
    let (mut decoder, mut input) = (v2::Decoder::default(), bytes);
    let (mut all, mut acks) = (Vec::new(), Vec::new());
    while let Some(item) = decoder.next(&mut input).expect("frames") {
        if let Item::Data { flags, .. } = item {
            all.push(flags.0);
        } else if let Item::Ack { offset, clock } = item {
            acks.push((offset, clock));
        }
    }
    (all, acks)
}

fn asking(stream: u32, bytes: &[u8]) -> Vec<u8> {
    [&Header::flagged_data(stream, bytes.len() as u16, Flags::ASK).encode()[..], bytes].concat()
}

#[test]
fn a_peer_that_does_not_say_that_it_acknowledges_is_asked_nothing() {
    for acknowledges in [false, true] {
        let mut pair = Pair::unconnected(limits());
        take_all(&mut pair.device, pair.now);
        let settings = Settings { window: 32 * 1024, streams: 16, acknowledges, ..Settings::default() };
        pair.hand_relay(&settings.frame()).expect("SETTINGS");
        let key = pair.arrive();
        take_all(&mut pair.relay, pair.now);
        let mut all = Vec::new();
        while send(pair.now, &mut pair.relay, key, &[0; 64 * KIB]) > 0 {
            all.extend(flags_and_acks(&take_all(&mut pair.relay, pair.now)).0);
        }
        assert_eq!(all.iter().any(|&flags| flags != 0), acknowledges, "{all:?}");
    }
}

#[test]
fn an_ask_is_answered_with_all_that_was_read_but_settings_and_acks_and_the_newest_stands_for_all() {
    let mut pair = Pair::new();
    let open = pair.open();
    // CONNECTED, and nothing else, is behind the device's SETTINGS; the relay has sent CONNECT, and asked with PING.
    let ping = v2::ping(*b"the time", Flags::NONE);
    let before = pair.relay.reading.offset();
    let frames = [&asking(open.number, b"one")[..], &v2::ack(9, 9), &ping, &asking(open.number, b"other")].concat();
    pair.now += Duration::from_millis(1500);
    pair.hand_relay(&frames).expect("one ACK of no use is forgiven");
    let (_, acks) = flags_and_acks(&take_all(&mut pair.relay, pair.now));
    assert_eq!(acks, [(before + (frames.len() - ACK_LEN) as u64, 1_500_000)]);
    assert!(!pair.relay.has_unsent(), "it is answered once");
    pair.hand_relay(&asking(open.number, b"half of it")[..12]).expect("a part");
    assert!(!pair.relay.has_unsent(), "it is not complete");
}

#[test]
fn an_ack_passes_data_that_waits() {
    let mut pair = Pair::new();
    let open = pair.open();
    send(pair.now, &mut pair.relay, open.relay, b"it waits");
    pair.hand_relay(&asking(open.number, b"a question")).expect("DATA");
    assert_eq!(kinds(&mut pair.relay, pair.now), [Type::Ack.number(), Type::Data.number()]);
}

#[test]
fn bulk_waits_for_an_acknowledgement_and_an_interactive_stream_does_not() {
    let mut pair = Pair::new();
    let [bulk, other] = [pair.open(), pair.open()];
    let mut there = Vec::new();
    while !matches!(pair.relay.reserve(bulk.relay, false), Room::Paced) {
        assert!(send(pair.now, &mut pair.relay, bulk.relay, &[b'x'; 64 * KIB]) > 0);
        there.extend(take_all(&mut pair.relay, pair.now));
    }
    assert!(there.len() >= 16 * KIB && there.len() < 24 * KIB, "{} bytes without an answer", there.len());
    assert_eq!(pair.relay.poll_unblocked(), None);
    assert_eq!(send(pair.now, &mut pair.relay, other.relay, b"a keystroke"), 11);
    pair.now += Duration::from_millis(50);
    pair.hand_device(&there).expect("DATA");
    let answers = take_all(&mut pair.device, pair.now);
    assert_eq!(flags_and_acks(&answers).1.len(), 1);
    pair.hand_relay(&answers).expect("ACK");
    assert_eq!(pair.relay.poll_unblocked(), Some(bulk.relay));
    assert!(matches!(pair.relay.reserve(bulk.relay, false), Room::Full | Room::Free(_)));
}

#[test]
fn an_answer_that_fills_what_room_others_have_left_is_not_bulk_and_one_that_goes_on_is() {
    let mut pair = Pair::new();
    let [before, other] = [pair.open().relay, pair.open().relay];
    // Nothing is known of the path: 4 KiB may be sent at once.
    pair.relay.pacing = Some(Box::new(Pacing::new(pair.now)));
    let is_bulk = |pair: &Pair| pair.relay.streams.get(other).expect("a stream").bulk;
    let answer_in_a_short_room = |pair: &mut Pair| {
        assert_eq!(send(pair.now, &mut pair.relay, before, &[b'x'; 2000]), 2000);
        let Room::Free([room, ..]) = pair.relay.reserve(other, false) else { panic!("no room") };
        let short = room.len();
        assert!((2000..2100).contains(&short), "{short}");
        assert_eq!(send(pair.now, &mut pair.relay, other, &vec![b'x'; short]), short);
        take_all(&mut pair.relay, pair.now);
    };
    answer_in_a_short_room(&mut pair);
    assert!(!is_bulk(&pair));
    send(pair.now, &mut pair.relay, other, b"the rest");
    take_all(&mut pair.relay, pair.now);
    for _ in 0..2 {
        assert!(!is_bulk(&pair));
        answer_in_a_short_room(&mut pair);
    }
    assert!(is_bulk(&pair), "as much as may be sent at once");
    send(pair.now, &mut pair.relay, other, b"the rest");
    assert!(!is_bulk(&pair));
}

#[test]
fn bulk_streams_take_turns_and_one_that_has_nothing_after_all_keeps_nobody_waiting() {
    let mut pair = Pair::new();
    let clients = [pair.open().relay, pair.open().relay];
    let mut there = Vec::new();
    for client in clients.iter().cycle().take(8) {
        let count = match pair.relay.reserve(*client, false) {
            Room::Free([room, ..]) => room.len(),
            Room::Paced => break,
            Room::Full | Room::Blocked | Room::Unwanted => panic!("a stream with credit, on a link that takes all"),
        };
        pair.relay.commit(pair.now, *client, count);
        there.extend(take_all(&mut pair.relay, pair.now));
    }
    assert!(clients.iter().all(|&client| matches!(pair.relay.reserve(client, false), Room::Paced)));
    pair.now += Duration::from_millis(50);
    pair.hand_device(&there).expect("DATA");
    let answers = take_all(&mut pair.device, pair.now);
    pair.hand_relay(&answers).expect("ACK");
    let first = pair.relay.poll_unblocked().expect("there is room again");
    let other = if first == clients[0] { clients[1] } else { clients[0] };
    assert!(matches!(pair.relay.reserve(other, false), Room::Paced), "it is not its turn");
    assert!(matches!(pair.relay.reserve(first, false), Room::Free(_)));
    // Nothing is committed.
    assert_eq!(pair.relay.poll_unblocked(), Some(other));
    assert!(matches!(pair.relay.reserve(other, false), Room::Free(_)));
}

#[test]
fn a_stream_that_had_its_turn_by_itself_waits_for_none() {
    let mut pair = Pair::new();
    let [bulk, other] = [pair.open().relay, pair.open().relay];
    let mut there = Vec::new();
    while !matches!(pair.relay.reserve(bulk, false), Room::Paced) {
        assert!(send(pair.now, &mut pair.relay, bulk, &[b'x'; 64 * KIB]) > 0);
        there.extend(take_all(&mut pair.relay, pair.now));
    }
    // Interactive streams have a little more, and then wait, too.
    while send(pair.now, &mut pair.relay, other, &[b'k'; 500]) > 0 {
        there.extend(take_all(&mut pair.relay, pair.now));
    }
    pair.now += Duration::from_millis(50);
    pair.hand_device(&there).expect("DATA");
    let answers = take_all(&mut pair.device, pair.now);
    pair.hand_relay(&answers).expect("ACK");
    let named: Vec<_> = std::iter::from_fn(|| pair.relay.poll_unblocked()).collect();
    assert_eq!(named, [other, bulk], "interactive ones first");
    assert_eq!(send(pair.now, &mut pair.relay, other, b"a keystroke"), 11);
    take_all(&mut pair.relay, pair.now);
    assert!(matches!(pair.relay.reserve(bulk, false), Room::Free(_)));
    assert_eq!(pair.relay.poll_unblocked(), None);
}

#[test]
fn after_a_long_silence_the_memory_for_what_is_sent_is_given_back() {
    let mut pair = Pair::new();
    let open = pair.open();
    send(pair.now, &mut pair.relay, open.relay, &[b'x'; 4 * KIB]);
    pair.run();
    assert!(pair.relay.send_buffer.memory() > 0);
    pair.pass(15 * SECOND);
    let bytes = take_all(&mut pair.relay, pair.now);
    assert!(pair.relay.send_buffer.memory() <= KIB, "one PING of {} bytes", bytes.len());
}

#[test]
fn a_link_without_streams_gives_back_what_they_needed_and_a_key_of_them_reaches_no_later_one() {
    let mut pair = Pair::new();
    pair.pass(SECOND);
    for end in [&pair.device, &pair.relay] {
        assert!(end.send_buffer.memory() == 0 && end.pacing.is_none(), "there was no stream yet");
    }
    let opens: Vec<Open> = (0..20).map(|_| pair.open()).collect();
    for open in &opens {
        assert_eq!(send(pair.now, &mut pair.relay, open.relay, &[b'x'; KIB]), KIB);
        pair.run();
    }
    pair.pass(2 * SECOND);
    pair.run();
    assert!(pair.relay.send_buffer.memory() > 0 && pair.relay.streams.has_memory(), "they are there still");
    for open in &opens {
        pair.relay.handle_failure(pair.now, open.relay, Code::Normal, "");
    }
    pair.assert_empty();
    pair.device_outputs();
    pair.relay_outputs();
    pair.pass(SECOND);
    for end in [&pair.device, &pair.relay] {
        assert!(end.send_buffer.memory() == 0 && !end.streams.has_memory() && end.outputs.capacity() == 0);
    }
    let next = pair.open();
    assert!(opens.iter().all(|open| open.relay != next.relay && open.device != next.device));
    assert_eq!(send(pair.now, &mut pair.relay, next.relay, &[b'x'; KIB]), KIB);
    pair.run();
    assert_eq!(pair.at_device[&next.device].len(), KIB);
}

proptest! {
    #[test]
    fn however_the_link_is_cut_every_ask_is_answered_with_the_offset_that_was_meant(
        steps in prop::collection::vec((0u8..5, 1usize..5000), 1..300)
    ) {
        let mut pair = Pair::with_limits(Limits { window: 1 << 20, budget: 1 << 30, ..limits() });
        let open = pair.open();
        for (step, size) in steps {
            pair.now += Duration::from_millis(3);
            pair.device.handle_timeout(pair.now).expect("the relay is there");
            pair.relay.handle_timeout(pair.now).expect("the device is there");
        pair.device.handle_pacing(pair.now);
        pair.relay.handle_pacing(pair.now);
            match step {
                0 => drop(send(pair.now, &mut pair.relay, open.relay, &vec![b'r'; size])),
                1 => drop(send(pair.now, &mut pair.device, open.device, &vec![b'd'; size])),
                2 => pair.relay.push_ping([7; 8]),
                _ => {
                    let (from, to, sockets) = if step == 3 {
                        (&mut pair.device, &mut pair.relay, &mut pair.at_relay)
                    } else {
                        (&mut pair.relay, &mut pair.device, &mut pair.at_device)
                    };
                    let bytes = from.unsent();
                    let bytes = bytes[..bytes.len().min(size)].to_vec();
                    from.advance_link(pair.now, bytes.len());
                    receive(pair.now, to, &bytes, sockets, &[]).expect("no violation");
                }
            }
        }
        pair.run();
        for end in [&pair.device, &pair.relay] {
            let pacing = end.pacing.as_ref().expect("both acknowledge");
            prop_assert!(pacing.is_answered(), "{pacing:?}");
        }
    }
}
