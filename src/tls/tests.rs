//! Both ends in memory, and peers that break the rules.

pub(crate) mod adversaries;
mod flow;
mod handshake;
pub(crate) mod peers;
mod records;

use super::*;
use crate::identity::{Pin, Pins};

/// As a loop has it: room for four records.
fn scratch() -> Scratch {
    Scratch::new(4 * (RECORD_PLAINTEXT + RECORD_OVERHEAD) + 64)
}

fn key() -> Key {
    Key::generate().expect("random bytes")
}

/// Its current key is this one.
fn pins(key: &Key) -> Pins {
    Pins { current: key.public().pin(), next: Pin([0; 32]) }
}

/// One end, with buffers of its own.
struct End {
    tls: Tls,
    scratch: Scratch,
    plaintext: Vec<u8>,
}

impl End {
    fn opener(key: &Key, pins: Pins) -> Self {
        let mut scratch = scratch();
        let opener = Opener::new(key, pins).expect("a configuration");
        let tls = opener.start("relay.example.com", &mut scratch).expect("a handshake");
        Self { tls, scratch, plaintext: Vec::new() }
    }

    fn acceptor(key: &Key) -> Self {
        let tls = Acceptor::new(key).expect("a configuration").start().expect("a handshake");
        Self { tls, scratch: scratch(), plaintext: Vec::new() }
    }

    /// Everything that it has to send.
    fn send(&mut self) -> Vec<u8> {
        self.send_some(usize::MAX)
    }

    /// The socket takes this much at most.
    fn send_some(&mut self, room: usize) -> Vec<u8> {
        let mut sent = Vec::new();
        loop {
            let unsent = self.tls.unsent(&self.scratch);
            let count = unsent.len().min(room - sent.len());
            if count == 0 {
                break;
            }
            sent.extend_from_slice(&unsent[..count]);
            self.tls.advance(&mut self.scratch, count);
        }
        self.tls.hold(&mut self.scratch);
        sent
    }

    fn receive(&mut self, bytes: &[u8]) -> Result<(), TlsError> {
        self.tls.open(&mut bytes.to_vec(), &mut self.plaintext, &mut self.scratch)
    }

    fn seal(&mut self, plaintext: &[u8]) -> usize {
        self.tls.seal(plaintext, &mut self.scratch).expect("a connection that is there")
    }
}

/// Carries bytes until both ends are silent.
fn carry(one: &mut End, other: &mut End) -> (Result<(), TlsError>, Result<(), TlsError>) {
    let (mut one_result, mut other_result) = (Ok(()), Ok(()));
    loop {
        let (there, back) = (one.send(), other.send());
        if there.is_empty() && back.is_empty() {
            return (one_result, other_result);
        }
        other_result = other_result.and_then(|()| other.receive(&there));
        one_result = one_result.and_then(|()| one.receive(&back));
    }
}

/// An opener and an acceptor, connected.
fn pair() -> (End, End) {
    let (device, relay) = (key(), key());
    let (mut opener, mut acceptor) = (End::opener(&device, pins(&relay)), End::acceptor(&relay));
    assert_eq!(carry(&mut opener, &mut acceptor), (Ok(()), Ok(())));
    assert!(opener.tls.is_established() && acceptor.tls.is_established());
    (opener, acceptor)
}
