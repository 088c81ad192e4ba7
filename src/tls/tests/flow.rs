use proptest::prelude::*;

use super::*;

#[test]
fn records_are_as_large_as_they_may_be_and_none_is_cut() {
    let (mut opener, mut acceptor) = pair();
    let plaintext = vec![7; 10 * RECORD_PLAINTEXT];
    // As many as have room, and whole ones.
    assert_eq!(opener.seal(&plaintext), 4 * RECORD_PLAINTEXT);
    assert_eq!(opener.seal(&plaintext), 0);
    let sent = opener.send();
    assert_eq!(sent.len(), 4 * (RECORD_PLAINTEXT + RECORD_OVERHEAD));
    acceptor.receive(&sent).expect("data");
    assert_eq!(acceptor.plaintext, plaintext[..4 * RECORD_PLAINTEXT]);
    // What is smaller than a record is one.
    assert_eq!((opener.seal(&plaintext[..100]), opener.seal(b"")), (100, 0));
    assert_eq!(opener.send().len(), 100 + RECORD_OVERHEAD);
}

#[test]
fn nothing_is_sealed_while_the_socket_has_not_taken_what_was() {
    let (mut opener, mut acceptor) = pair();
    assert_eq!(opener.seal(b"first"), 5);
    let mut came = opener.send_some(10);
    assert_eq!(opener.tls.unsent(&opener.scratch).len(), 5 + RECORD_OVERHEAD - 10);
    assert!(opener.tls.buffered() > 0 && opener.scratch.is_empty());
    assert_eq!(opener.seal(b"second"), 0);
    came.extend(opener.send_some(3));
    assert_eq!(opener.seal(b"second"), 0);
    came.extend(opener.send());
    assert_eq!((opener.tls.buffered(), opener.seal(b"second")), (0, 6));
    came.extend(opener.send());
    acceptor.receive(&came).expect("data");
    assert_eq!(acceptor.plaintext, b"firstsecond");
}

#[test]
fn what_tls_has_to_say_goes_behind_what_the_socket_has_not_taken() {
    let (mut opener, mut acceptor) = pair();
    opener.seal(b"first");
    let mut came = opener.send_some(1);
    opener.tls.close(&mut opener.scratch).expect("a connection");
    came.extend(opener.send_some(7));
    came.extend(opener.send());
    acceptor.receive(&came).expect("data, and an end");
    assert_eq!((&acceptor.plaintext[..], acceptor.tls.handle_end()), (&b"first"[..], Ok(())));
}

#[test]
fn one_scratch_serves_many_links() {
    let mut pairs: Vec<_> = (0..3).map(|_| pair()).collect();
    let mut scratch = scratch();
    for (number, (opener, _)) in pairs.iter_mut().enumerate() {
        assert_eq!(opener.tls.seal(&[number as u8; 50], &mut scratch), Ok(50));
        opener.tls.hold(&mut scratch);
    }
    for (number, (opener, acceptor)) in pairs.iter_mut().enumerate() {
        acceptor.receive(&opener.send()).expect("data");
        assert_eq!(acceptor.plaintext, [number as u8; 50]);
    }
}

/// What happens next.
#[derive(Clone, Debug)]
enum Step {
    /// This end seals so many bytes.
    Seal(bool, usize),
    /// The socket of this end takes so many.
    Write(bool, usize),
    /// So many reach this end.
    Read(bool, usize),
}

fn step() -> impl Strategy<Value = Step> {
    // Mostly small, so that headers are split; at times more than some records.
    let count = prop_oneof![4 => 0..40usize, 2 => 0..2000usize, 1 => 0..60_000usize];
    (0..3u8, any::<bool>(), count).prop_map(|(kind, end, count)| match kind {
        0 => Step::Seal(end, count),
        1 => Step::Write(end, count),
        _ => Step::Read(end, count),
    })
}

/// An end, what it has sealed, and what is on its way to it.
struct Side {
    end: End,
    sealed: Vec<u8>,
    wire: Vec<u8>,
}

impl Side {
    fn new(end: End) -> Self {
        Self { end, sealed: Vec::new(), wire: Vec::new() }
    }

    fn seal(&mut self, count: usize) {
        let start = self.sealed.len();
        let bytes: Vec<u8> = (start..start + count).map(|place| ((place * 31) >> 3) as u8).collect();
        let sealed = self.end.seal(&bytes);
        self.sealed.extend_from_slice(&bytes[..sealed]);
    }

    fn read(&mut self, count: usize) {
        let count = count.min(self.wire.len());
        let bytes: Vec<u8> = self.wire.drain(..count).collect();
        self.end.receive(&bytes).expect("what the other end sent");
        assert!(self.end.tls.buffered() <= 2 * RECORD + 4 * (RECORD_PLAINTEXT + RECORD_OVERHEAD) + 64);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn data_goes_both_ways_in_any_pieces(steps in prop::collection::vec(step(), 1..120)) {
        let (device, relay) = (key(), key());
        let mut sides =
            [Side::new(End::opener(&device, pins(&relay))), Side::new(End::acceptor(&relay))];
        for step in steps {
            match step {
                Step::Seal(end, count) => sides[usize::from(end)].seal(count),
                Step::Write(end, count) => {
                    let sent = sides[usize::from(end)].end.send_some(count);
                    sides[usize::from(!end)].wire.extend(sent);
                }
                Step::Read(end, count) => sides[usize::from(end)].read(count),
            }
        }
        for _ in 0..4 {
            for end in [0, 1] {
                let sent = sides[end].end.send();
                sides[1 - end].wire.extend(sent);
                sides[1 - end].read(usize::MAX);
            }
        }
        for side in &mut sides {
            prop_assert!(side.end.tls.is_established());
            prop_assert_eq!(side.end.tls.buffered(), 0);
            prop_assert_eq!(side.end.tls.take_fruitless(), 0);
        }
        prop_assert_eq!(&sides[0].sealed, &sides[1].end.plaintext);
        prop_assert_eq!(&sides[1].sealed, &sides[0].end.plaintext);
    }
}
