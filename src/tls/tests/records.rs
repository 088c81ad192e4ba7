//! Records that rustls would not send.

use ring::aead::{AES_128_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use rustls::{ConnectionTrafficSecrets, PeerMisbehaved};

use super::peers::{Habit, Peer, Shown};
use super::*;

const HANDSHAKE: u8 = 22;
const DATA: u8 = 23;
/// A KeyUpdate that asks for none in return.
const KEY_UPDATE: [u8; 5] = [24, 0, 0, 1, 0];

/// A device that seals what it likes, and the relay that it is connected to.
fn forger() -> (Forger, End) {
    let mut acceptor = End::acceptor(&key());
    let mut client = Habit::of(Shown::honest(&key())).client();
    assert_eq!(client.meet(&mut acceptor), (Ok(()), Ok(())));
    (Forger::new(client), acceptor)
}

struct Forger {
    key: LessSafeKey,
    iv: [u8; 12],
    sequence: u64,
}

impl Forger {
    fn new(Peer(connection): Peer) -> Self {
        let (sequence, secrets) = connection.dangerous_extract_secrets().expect("secrets").tx;
        let (algorithm, key, iv) = match secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&AES_128_GCM, key, iv),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (&CHACHA20_POLY1305, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { .. } | _ => unreachable!("it was not offered"),
        };
        let key = LessSafeKey::new(UnboundKey::new(algorithm, key.as_ref()).expect("a key"));
        Self { key, iv: iv.as_ref().try_into().expect("12 bytes"), sequence }
    }

    /// A record of this kind, with zeros behind what it says.
    fn record(&mut self, kind: u8, content: &[u8], padding: usize) -> Vec<u8> {
        let mut inner = [content, &[kind], &vec![0; padding]].concat();
        let length = (inner.len() + 16) as u16;
        let header = [DATA, 3, 3, length.to_be_bytes()[0], length.to_be_bytes()[1]];
        let mut nonce = self.iv;
        for (byte, part) in nonce[4..].iter_mut().zip(self.sequence.to_be_bytes()) {
            *byte ^= part;
        }
        self.sequence += 1;
        let nonce = Nonce::assume_unique_for_key(nonce);
        self.key.seal_in_place_append_tag(nonce, Aad::from(header), &mut inner).expect("a record");
        [&header[..], &inner].concat()
    }
}

fn repeat(count: usize, mut record: impl FnMut() -> Vec<u8>) -> Vec<u8> {
    (0..count).flat_map(|_| record()).collect()
}

#[test]
fn data_costs_nothing_however_small_its_records_are() {
    let (mut forger, mut acceptor) = forger();
    let small = repeat(2000, || forger.record(DATA, b"x", 0));
    acceptor.receive(&small).expect("data");
    acceptor.receive(&forger.record(DATA, &[7; RECORD_PLAINTEXT], 0)).expect("data");
    assert_eq!((acceptor.plaintext.len(), acceptor.tls.take_fruitless()), (2000 + RECORD_PLAINTEXT, 0));
}

#[test]
fn empty_records_cost_their_bytes_and_a_row_of_them_ends_the_connection() {
    let (mut forger, mut acceptor) = forger();
    // Each has 22 bytes; one with data between two rows starts the count anew.
    for _ in 0..100 {
        let mut row = repeat(31, || forger.record(DATA, b"", 0));
        row.extend(forger.record(DATA, b"x", 0));
        acceptor.receive(&row).expect("a row that is allowed");
    }
    assert_eq!((acceptor.plaintext.len(), acceptor.tls.take_fruitless()), (100, 31 * 22 * 100 / 1024));
    assert_eq!(acceptor.tls.take_fruitless(), 0);
    let row = repeat(40, || forger.record(DATA, b"", 0));
    let error = acceptor.receive(&row).expect_err("too many");
    assert_eq!(error, TlsError::Tls(PeerMisbehaved::TooManyEmptyFragments.into()));
}

#[test]
fn padding_costs_its_bytes() {
    let (mut forger, mut acceptor) = forger();
    let padded = repeat(10, || forger.record(DATA, b"x", RECORD_PLAINTEXT - 1));
    // In any pieces.
    for piece in padded.chunks(1000) {
        acceptor.receive(piece).expect("data");
    }
    assert_eq!((acceptor.plaintext.len(), acceptor.tls.take_fruitless()), (10, 10 * (RECORD_PLAINTEXT - 1) / 1024));
}

#[test]
fn changes_of_the_key_cost_their_bytes_and_a_row_of_them_ends_the_connection() {
    let mut acceptor = End::acceptor(&key());
    let mut client = Habit::of(Shown::honest(&key())).client();
    assert_eq!(client.meet(&mut acceptor), (Ok(()), Ok(())));
    let mut fruitless = 0;
    for _ in 0..200 {
        let update = client.key_update();
        fruitless += update.len();
        acceptor.receive(&update).expect("a change of the key");
        acceptor.receive(&client.write(b"x")).expect("data");
        assert_eq!(acceptor.tls.buffered(), 0);
    }
    assert_eq!(acceptor.plaintext.len(), 200);
    assert_eq!(acceptor.tls.take_fruitless(), fruitless / 1024);
    // All of them are answered with one, in front of the next data.
    assert!(acceptor.send().is_empty());
    acceptor.seal(b"y");
    let answer = acceptor.send();
    assert!(answer.len() < 2 * SMALL, "{}", answer.len());
    assert_eq!(client.receive(&answer), Ok(b"y".to_vec()));

    let row = repeat(40, || client.key_update());
    let error = acceptor.receive(&row).expect_err("too many");
    assert_eq!(error, TlsError::Tls(PeerMisbehaved::TooManyKeyUpdateRequests.into()));
}

const SMALL: usize = 64;

#[test]
fn an_end_that_answers_a_change_of_the_key_only_with_close_notify_is_understood() {
    let mut acceptor = End::acceptor(&key());
    let mut client = Habit::of(Shown::honest(&key())).client();
    assert_eq!(client.meet(&mut acceptor), (Ok(()), Ok(())));
    acceptor.receive(&client.key_update()).expect("a change of the key");
    acceptor.tls.close(&mut acceptor.scratch).expect("a connection");
    assert_eq!(client.receive(&acceptor.send()), Ok(Vec::new()));
}

#[test]
fn data_can_be_sealed_while_half_a_handshake_message_is_there() {
    let (mut forger, mut acceptor) = forger();
    let half = forger.record(HANDSHAKE, &KEY_UPDATE[..3], 0);
    acceptor.receive(&half).expect("half a message");
    assert!(acceptor.tls.buffered() > 0);
    // rustls counts on the bytes that it has seen being there.
    assert_eq!(acceptor.seal(b"data"), 4);
    let rest = forger.record(HANDSHAKE, &KEY_UPDATE[3..], 0);
    for byte in rest {
        acceptor.receive(&[byte]).expect("the rest");
        assert_eq!(acceptor.seal(b"data"), 4);
    }
    assert_eq!(acceptor.tls.buffered(), 0);
    acceptor.tls.close(&mut acceptor.scratch).expect("a connection");
}

#[test]
fn half_a_handshake_message_and_a_record_in_part_are_kept_together() {
    let (mut forger, mut acceptor) = forger();
    let mut bytes = forger.record(DATA, b"before", 0);
    bytes.extend(forger.record(HANDSHAKE, &KEY_UPDATE[..1], 0));
    bytes.extend(forger.record(HANDSHAKE, &KEY_UPDATE[1..4], 3));
    let rest = forger.record(HANDSHAKE, &KEY_UPDATE[4..], 0);
    bytes.extend(&rest[..10]);
    acceptor.receive(&bytes).expect("parts");
    assert_eq!((acceptor.seal(b"data"), acceptor.plaintext.as_slice()), (4, &b"before"[..]));
    acceptor.receive(&rest[10..]).expect("the rest");
    assert_eq!(acceptor.tls.buffered(), 0);
}

#[test]
fn a_handshake_message_without_an_end_is_no_memory() {
    for together in [false, true] {
        let (mut forger, mut acceptor) = forger();
        let mut records = vec![forger.record(HANDSHAKE, &[4, 0, 0xff, 0xff], 0)];
        records.extend((0..100).map(|_| forger.record(HANDSHAKE, &[0; 100], 0)));
        if together {
            records = vec![records.concat()];
        }
        let result = records.iter().try_for_each(|record| {
            let result = acceptor.receive(record);
            assert!(acceptor.tls.buffered() < 2048);
            result
        });
        assert_eq!(result, Err(TlsError::HandshakeTooLong));
    }
}

#[test]
fn a_record_that_is_longer_than_tls_allows_is_refused_by_its_header() {
    let (_, mut acceptor) = forger();
    let length = (RECORD - HEADER + 1) as u16;
    let header = [DATA, 3, 3, length.to_be_bytes()[0], length.to_be_bytes()[1]];
    assert_eq!(acceptor.receive(&header), Err(TlsError::RecordTooLong));
    assert_eq!(acceptor.tls.buffered(), 0);
}

#[test]
fn a_damaged_record_ends_the_connection_with_an_alert_and_for_good() {
    let (mut forger, mut acceptor) = forger();
    let good = forger.record(DATA, b"before", 0);
    let bad = forger.record(DATA, b"secret", 0);
    // Of the first three bytes of a header nothing depends on.
    for place in 3..bad.len() {
        let (mut opener, mut acceptor) = pair();
        opener.seal(b"secret");
        let mut damaged = opener.send();
        damaged[place] ^= 1;
        // It may also wait for the rest of a longer record.
        let result = acceptor.receive(&damaged).and_then(|()| acceptor.tls.handle_end());
        assert!(result.is_err() && acceptor.plaintext.is_empty(), "byte {place}");
    }
    let mut damaged = [good, bad].concat();
    *damaged.last_mut().expect("a byte") ^= 1;
    let error = acceptor.receive(&damaged).expect_err("a damaged record");
    assert_eq!(error, TlsError::Tls(rustls::Error::DecryptError));
    assert_eq!(acceptor.plaintext, b"before", "what came in front of it is good");
    // An alert: a record of 24 bytes, and it is sent once.
    assert_eq!(acceptor.send().len(), 24);
    assert_eq!(acceptor.receive(b"x"), Err(error.clone()));
    assert_eq!(acceptor.tls.seal(b"x", &mut acceptor.scratch), Err(error.clone()));
    assert_eq!(acceptor.tls.close(&mut acceptor.scratch), Err(error));
    assert!(acceptor.send().is_empty());
}

#[test]
fn a_record_cannot_come_twice_nor_before_another() {
    for order in [[0, 0], [1, 0]] {
        let (mut forger, mut acceptor) = forger();
        let records = [forger.record(DATA, b"first", 0), forger.record(DATA, b"second", 0)];
        let result = order.into_iter().try_for_each(|place| acceptor.receive(&records[place]));
        assert_eq!(result, Err(TlsError::Tls(rustls::Error::DecryptError)));
    }
}
