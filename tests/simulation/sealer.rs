//! A sealer that costs next to nothing: records as long as those of TLS, each with its number, so that one that is lost,
//! comes twice or out of order is seen at once, and so is a byte that is another.

use tcpremote::io::sealer::Sealer;
use tcpremote::tls::{PublicKey, RECORD_OVERHEAD, RECORD_PLAINTEXT, Scratch, TlsError};

/// Of a record.
const HEADER: usize = 5;
/// The kinds of content, as TLS has them.
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const DATA: u8 = 23;
/// The lengths of the opener's first message, the acceptor's answer, and the opener's last. They are short: the ends that
/// are simulated are those of plain links, where a device has 5 s for its first frame, on a line however slow.
const MESSAGES: [usize; 3] = [30, 31, 32];
/// What is sealed at once, at most, as a loop has room for it.
const ROOM: usize = 4 * (RECORD_PLAINTEXT + RECORD_OVERHEAD);

/// One end.
#[derive(Debug)]
pub(crate) struct FakeTls {
    /// Messages of the handshake that were sent or have come.
    messages: usize,
    /// The last record that came has not come in full.
    kept: Vec<u8>,
    /// What is to be written, from `start` on.
    unsent: Vec<u8>,
    start: usize,
    /// The socket has not taken all of it in the turn in which it was sealed.
    is_held: bool,
    /// Records so far.
    sealed: u64,
    opened: u64,
    has_closed: bool,
    has_peer_closed: bool,
    failure: Option<TlsError>,
}

impl FakeTls {
    pub(crate) fn new(is_opener: bool) -> Self {
        let mut end = Self {
            messages: 0,
            kept: Vec::new(),
            unsent: Vec::new(),
            start: 0,
            is_held: false,
            sealed: 0,
            opened: 0,
            has_closed: false,
            has_peer_closed: false,
            failure: None,
        };
        if is_opener {
            end.say_next_message();
        }
        end
    }

    fn say_next_message(&mut self) {
        let length = MESSAGES[self.messages];
        self.messages += 1;
        self.push(HANDSHAKE, &vec![0; length - RECORD_OVERHEAD]);
    }

    fn push(&mut self, kind: u8, content: &[u8]) {
        let length = u16::try_from(content.len() + RECORD_OVERHEAD - HEADER).expect("it is cut before");
        self.unsent.extend([DATA, 3, 3]);
        self.unsent.extend(length.to_be_bytes());
        self.unsent.extend(content);
        self.unsent.push(kind);
        self.unsent.extend(self.sealed.to_be_bytes());
        self.unsent.extend(sum(content).to_be_bytes());
        self.sealed += 1;
    }

    fn take_record(&mut self, record: &[u8], plaintext: &mut Vec<u8>) {
        let (content, behind) = record[HEADER..].split_at(record.len() - RECORD_OVERHEAD);
        let number = u64::from_be_bytes(behind[1..9].try_into().expect("8 bytes"));
        assert_eq!(number, self.opened, "records come once, and in their order");
        assert_eq!(behind[9..], sum(content).to_be_bytes(), "record {number} is as it was sealed");
        self.opened += 1;
        match behind[0] {
            HANDSHAKE => {
                assert_eq!(record.len(), MESSAGES[self.messages]);
                self.messages += 1;
                if self.messages < MESSAGES.len() {
                    self.say_next_message();
                }
            }
            DATA => {
                assert_eq!(self.messages, MESSAGES.len(), "data comes behind the handshake");
                plaintext.extend_from_slice(content);
            }
            ALERT => self.has_peer_closed = true,
            kind => panic!("a record of kind {kind}"),
        }
    }

    fn check(&self) -> Result<(), TlsError> {
        self.failure.clone().map_or(Ok(()), Err)
    }
}

/// Another one for most bytes that are others.
fn sum(content: &[u8]) -> u64 {
    content.iter().fold(0, |sum: u64, &byte| sum.rotate_left(7).wrapping_add(u64::from(byte)).wrapping_mul(0x100_0193))
}

impl Sealer for FakeTls {
    fn is_established(&self) -> bool {
        self.failure.is_none() && self.messages == MESSAGES.len()
    }

    fn peer_key(&self) -> Option<&PublicKey> {
        None
    }

    fn has_peer_closed(&self) -> bool {
        self.has_peer_closed
    }

    fn open(&mut self, input: &mut [u8], plaintext: &mut Vec<u8>, _: &mut Scratch) -> Result<(), TlsError> {
        self.check()?;
        let mut kept = std::mem::take(&mut self.kept);
        kept.extend_from_slice(input);
        // As TLS, which opens them in their place.
        input.fill(0);
        let mut rest = &kept[..];
        while let [_, _, _, high, low, ..] = *rest
            && let Some((record, behind)) = rest.split_at_checked(HEADER + usize::from(u16::from_be_bytes([high, low])))
            && !self.has_peer_closed
        {
            self.take_record(record, plaintext);
            rest = behind;
        }
        if !self.has_peer_closed {
            self.kept = rest.to_vec();
        }
        Ok(())
    }

    fn handle_end(&mut self) -> Result<(), TlsError> {
        self.check()?;
        if self.has_peer_closed {
            return Ok(());
        }
        let error = if self.is_established() { TlsError::Cut } else { TlsError::EndInHandshake };
        self.failure = Some(error.clone());
        Err(error)
    }

    fn seal(&mut self, plaintext: &[u8], _: &mut Scratch) -> Result<usize, TlsError> {
        self.check()?;
        if self.is_held || !self.is_established() || self.has_closed {
            return Ok(0);
        }
        let mut sealed = 0;
        for piece in plaintext.chunks(RECORD_PLAINTEXT) {
            if self.unsent.len() + piece.len() + RECORD_OVERHEAD > ROOM {
                break;
            }
            self.push(DATA, piece);
            sealed += piece.len();
        }
        Ok(sealed)
    }

    fn close(&mut self, _: &mut Scratch) -> Result<(), TlsError> {
        self.check()?;
        if self.is_established() && !self.has_closed {
            self.has_closed = true;
            self.push(ALERT, &[1, 0]);
        }
        Ok(())
    }

    fn unsent<'a>(&'a self, _: &'a Scratch) -> &'a [u8] {
        &self.unsent[self.start..]
    }

    fn advance(&mut self, _: &mut Scratch, count: usize) {
        self.start += count;
        assert!(self.start <= self.unsent.len(), "no more is written than there is");
        if self.start == self.unsent.len() {
            (self.unsent, self.start, self.is_held) = (Vec::new(), 0, false);
        }
    }

    fn hold(&mut self, _: &mut Scratch) {
        self.is_held = !self.unsent.is_empty();
    }

    fn is_holding(&self) -> bool {
        self.is_held
    }

    fn buffered(&self) -> usize {
        self.kept.len() + if self.is_held { self.unsent.len() } else { 0 }
    }

    fn take_fruitless(&mut self) -> usize {
        0
    }
}
