//! One end of one connection, on rustls' unbuffered API.

mod step;

use std::{fmt, mem};

use rustls::client::UnbufferedClientConnection;
use rustls::server::UnbufferedServerConnection;

use self::step::{Next, Task, step};
use super::error::TlsError;
use super::greeting::Greeting;
use super::key::PublicKey;
use super::scratch::Scratch;
use super::{ALPN, HANDSHAKE_LIMIT, HEADER, RECORD, RECORD_OVERHEAD};

/// Of an unfinished handshake message after the handshake, of which TLS 1.3 has none above a few bytes without tickets.
const LATE_MESSAGE_LIMIT: usize = 512;

/// An alert or a KeyUpdate, as a record.
pub(super) const SMALL_RECORD: usize = 64;

/// One end of one connection. See [the module](super) for the order of its calls.
#[derive(Debug)]
pub struct Tls {
    connection: Box<Connection>,
    state: State,
    /// What was read and could not be opened yet: records of a handshake message that goes on, then a part of a record.
    kept: Vec<u8>,
    /// How much of `kept` is records, which rustls has looked at.
    seen: usize,
    /// What the socket did not take, from `held_start` on.
    held: Vec<u8>,
    held_start: usize,
    /// Whether close_notify was sent: nothing more comes.
    has_closed: bool,
    /// Bytes of ciphertext that gave no plaintext.
    fruitless: usize,
}

/// Where a connection stands.
#[derive(Debug)]
enum State {
    /// The handshake goes on, and its records so far had this many bytes.
    Handshake { taken: usize },
    /// Data goes both ways.
    Established(PublicKey),
    /// The peer said that nothing more comes. It may still be written to.
    PeerClosed(PublicKey),
    /// It cannot be used any more. The reason is apart: most never have one.
    Failed(Box<TlsError>),
}

pub(super) enum Connection {
    Opener(UnbufferedClientConnection),
    Acceptor(UnbufferedServerConnection),
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Opener(_) => "Opener",
            Self::Acceptor(_) => "Acceptor",
        })
    }
}

impl Connection {
    fn step(
        &mut self,
        input: &mut [u8],
        task: &mut Task<'_>,
        scratch: &mut Scratch,
    ) -> (usize, Result<Next, TlsError>) {
        match self {
            Self::Opener(connection) => step(connection.process_tls_records(input), task, scratch),
            Self::Acceptor(connection) => step(connection.process_tls_records(input), task, scratch),
        }
    }

    fn common(&self) -> &rustls::CommonState {
        match self {
            Self::Opener(connection) => connection,
            Self::Acceptor(connection) => connection,
        }
    }
}

impl Tls {
    pub(super) fn new(connection: Connection) -> Self {
        Self {
            connection: Box::new(connection),
            state: State::Handshake { taken: 0 },
            kept: Vec::new(),
            seen: 0,
            held: Vec::new(),
            held_start: 0,
            has_closed: false,
            fruitless: 0,
        }
    }

    /// Whether the handshake is done, so that data can be sealed. An opener is, when the acceptor has proved its key; its
    /// first data then leaves together with the last bytes of the handshake.
    pub fn is_established(&self) -> bool {
        self.peer_key().is_some()
    }

    /// The key that the peer has proved, once the handshake is done.
    pub fn peer_key(&self) -> Option<&PublicKey> {
        match &self.state {
            State::Established(key) | State::PeerClosed(key) => Some(key),
            State::Handshake { .. } | State::Failed(_) => None,
        }
    }

    /// Whether the peer has said that nothing more comes from it.
    pub fn has_peer_closed(&self) -> bool {
        matches!(self.state, State::PeerClosed(_))
    }

    /// Takes all of what was read, whose bytes are overwritten, and appends what it says to `plaintext`. A record that is
    /// not there in full is kept. What TLS itself has to send then is in the scratch, to be written at once.
    ///
    /// # Errors
    /// If the connection has failed, now or earlier. What was appended before is what the peer sent, and the scratch may
    /// hold an alert that tells it why.
    pub fn open(&mut self, input: &mut [u8], plaintext: &mut Vec<u8>, scratch: &mut Scratch) -> Result<(), TlsError> {
        self.check()?;
        self.take(input, plaintext, scratch).inspect_err(|error| self.fail(error))
    }

    /// The peer's FIN was read.
    ///
    /// # Errors
    /// Unless the peer has said before that nothing more comes: without that the connection was cut.
    pub fn handle_end(&mut self) -> Result<(), TlsError> {
        let error = match &self.state {
            State::PeerClosed(_) => return Ok(()),
            State::Failed(error) => return Err(TlsError::clone(error)),
            State::Established(_) => TlsError::Cut,
            // Fewer than four bytes came before it, and no more will.
            State::Handshake { taken: 0 } if !self.kept.is_empty() && Greeting::of(&self.kept).is_none() => {
                TlsError::NotTls(Greeting::Unknown)
            }
            State::Handshake { .. } => TlsError::EndInHandshake,
        };
        self.fail(&error);
        Err(error)
    }

    /// Seals as much as has room in the scratch, in records as large as they may be: how many bytes that were. It seals
    /// nothing before the handshake is done, and nothing while the socket has not taken what was sealed before.
    ///
    /// # Errors
    /// If the connection has failed, now or earlier.
    pub fn seal(&mut self, plaintext: &[u8], scratch: &mut Scratch) -> Result<usize, TlsError> {
        self.check()?;
        if plaintext.is_empty() || !self.held.is_empty() || !self.is_established() || self.has_closed {
            return Ok(0);
        }
        let mut sealed = 0;
        self.write(&mut Task::Seal { plaintext, sealed: &mut sealed }, scratch)?;
        Ok(sealed)
    }

    /// Says in TLS that nothing more will be sent. After that nothing can be sealed; what comes can be opened. In the
    /// handshake it says nothing.
    ///
    /// # Errors
    /// If the connection has failed, now or earlier.
    pub fn close(&mut self, scratch: &mut Scratch) -> Result<(), TlsError> {
        self.check()?;
        if self.is_established() && !self.has_closed {
            self.has_closed = true;
            self.write(&mut Task::Close, scratch)?;
        }
        Ok(())
    }

    /// What is to be written next: first what the link holds, then what stands in the scratch.
    pub fn unsent<'a>(&'a self, scratch: &'a Scratch) -> &'a [u8] {
        if self.held.is_empty() { scratch.unsent() } else { &self.held[self.held_start..] }
    }

    /// The socket took the first `count` bytes of [`unsent`](Self::unsent).
    pub fn advance(&mut self, scratch: &mut Scratch, count: usize) {
        if self.held.is_empty() {
            return scratch.advance(count);
        }
        self.held_start += count;
        if self.held_start == self.held.len() {
            (self.held, self.held_start) = (Vec::new(), 0);
        }
    }

    /// The scratch is needed for another link: what stands in it is held for this one.
    pub fn hold(&mut self, scratch: &mut Scratch) {
        self.held.extend_from_slice(scratch.unsent());
        scratch.clear();
    }

    /// Whether something is held that the socket has not taken.
    pub fn is_holding(&self) -> bool {
        !self.held.is_empty()
    }

    /// Bytes of memory that its buffers take, which is none when it is idle. It counts for the process's budget.
    pub fn buffered(&self) -> usize {
        self.held.capacity() + self.kept.capacity()
    }

    /// Whole KiB of ciphertext since the last call that gave no plaintext, such as empty records, padding and changes of
    /// the key: each is to cost the peer as much as a frame that does nothing.
    pub fn take_fruitless(&mut self) -> usize {
        let count = self.fruitless / 1024;
        self.fruitless %= 1024;
        count
    }

    fn check(&self) -> Result<(), TlsError> {
        if let State::Failed(error) = &self.state { Err(TlsError::clone(error)) } else { Ok(()) }
    }

    /// rustls may answer as if nothing had happened, so the failure is remembered here.
    fn fail(&mut self, error: &TlsError) {
        self.state = State::Failed(Box::new(error.clone()));
        self.kept = Vec::new();
    }

    fn take(&mut self, mut input: &mut [u8], plaintext: &mut Vec<u8>, scratch: &mut Scratch) -> Result<(), TlsError> {
        // The opener's first bytes have nothing before them.
        if input.is_empty() && matches!(self.state, State::Handshake { taken: 0 }) {
            return self.process(&mut [], plaintext, scratch).map(|_| ());
        }
        while !input.is_empty() && !self.has_peer_closed() {
            if self.kept.is_empty() {
                let records = self.whole_records(input)?;
                if records == 0 {
                    self.kept.extend_from_slice(input);
                    return Ok(());
                }
                let (taken, rest) = mem::take(&mut input).split_at_mut(records);
                let done = self.process_records(taken, records, plaintext, scratch)?;
                self.kept.extend_from_slice(&taken[done..]);
                self.seen = self.kept.len();
                self.establish(scratch)?;
                input = rest;
            } else {
                let count = self.missing()?.min(input.len());
                let (taken, rest) = mem::take(&mut input).split_at_mut(count);
                self.kept.extend_from_slice(taken);
                input = rest;
                if self.missing()? == 0 {
                    self.process_kept(plaintext, scratch)?;
                    self.establish(scratch)?;
                }
            }
        }
        Ok(())
    }

    /// The record at the end of `kept` has come in full.
    fn process_kept(&mut self, plaintext: &mut Vec<u8>, scratch: &mut Scratch) -> Result<(), TlsError> {
        let mut kept = mem::take(&mut self.kept);
        let fresh = kept.len() - self.seen;
        let done = self.process_records(&mut kept, fresh, plaintext, scratch)?;
        if done < kept.len() {
            kept.drain(..done);
            self.kept = kept;
        }
        self.seen = self.kept.len();
        Ok(())
    }

    /// Bytes of whole records at the beginning of `input`. In the handshake it is one record at most, so that what comes
    /// behind the handshake is not counted as a part of it.
    fn whole_records(&self, input: &[u8]) -> Result<usize, TlsError> {
        let mut end = 0;
        while let Some(record) = self.record(&input[end..])? {
            if record > input.len() - end {
                break;
            }
            end += record;
            if matches!(self.state, State::Handshake { .. }) {
                break;
            }
        }
        Ok(end)
    }

    /// What the record at the end of `kept` lacks, as far as is known: the rest of its header, or then all of it.
    fn missing(&self) -> Result<usize, TlsError> {
        let part = &self.kept[self.seen..];
        Ok(self.record(part)?.unwrap_or(HEADER) - part.len())
    }

    /// The length of the record that begins here, once its header is there.
    fn record(&self, bytes: &[u8]) -> Result<Option<usize>, TlsError> {
        if matches!(self.state, State::Handshake { taken: 0 }) && self.seen == 0 {
            match Greeting::of(bytes) {
                Some(Greeting::Tls) | None => {}
                Some(greeting) => return Err(TlsError::NotTls(greeting)),
            }
        }
        let &[_, _, _, high, low, ..] = bytes else { return Ok(None) };
        let record = HEADER + usize::from(u16::from_be_bytes([high, low]));
        if let State::Handshake { taken } = self.state
            && taken + record > HANDSHAKE_LIMIT
        {
            return Err(TlsError::HandshakeTooLong);
        }
        if record > RECORD { Err(TlsError::RecordTooLong) } else { Ok(Some(record)) }
    }

    /// Has rustls look at whole records, the last `fresh` bytes of which are new to it: how many bytes it is done with.
    fn process_records(
        &mut self,
        records: &mut [u8],
        fresh: usize,
        plaintext: &mut Vec<u8>,
        scratch: &mut Scratch,
    ) -> Result<usize, TlsError> {
        let before = plaintext.len();
        let (done, opened) = self.process(records, plaintext, scratch)?;
        if let State::Handshake { taken } = &mut self.state {
            *taken += fresh;
            return Ok(done);
        }
        let fruitful = plaintext.len() - before + opened * RECORD_OVERHEAD;
        self.fruitless += fresh.saturating_sub(fruitful);
        if records.len() - done > LATE_MESSAGE_LIMIT {
            return Err(TlsError::HandshakeTooLong);
        }
        Ok(done)
    }

    /// The handshake may be done now. Both ends look at the protocol then: where one offers none, TLS goes on without.
    fn establish(&mut self, scratch: &mut Scratch) -> Result<(), TlsError> {
        let common = self.connection.common();
        if !matches!(self.state, State::Handshake { .. }) || common.is_handshaking() {
            return Ok(());
        }
        let key = common.peer_certificates().and_then(|shown| PublicKey::from_spki(shown.first()?).ok());
        let agreed = common.alpn_protocol() == Some(ALPN);
        match key {
            Some(key) if agreed => {
                self.state = State::Established(key);
                Ok(())
            }
            _ => {
                // The peer sees a clean end, and no alert that it could not send itself.
                self.write(&mut Task::Close, scratch)?;
                Err(if agreed { TlsError::NoRawKey } else { TlsError::NoAlpn })
            }
        }
    }

    /// Runs rustls until it needs more bytes: how many bytes it is done with, and how many records gave plaintext.
    fn process(
        &mut self,
        input: &mut [u8],
        plaintext: &mut Vec<u8>,
        scratch: &mut Scratch,
    ) -> Result<(usize, usize), TlsError> {
        let (mut done, mut opened) = (0, 0);
        loop {
            let mut task = Task::Open { plaintext, opened: &mut opened };
            let (count, next) = self.connection.step(&mut input[done..], &mut task, scratch);
            done += count;
            match next {
                Ok(Next::Again) => {}
                Ok(Next::Blocked) => return Ok((done, opened)),
                Ok(Next::PeerClosed) => {
                    if let State::Established(key) = self.state {
                        self.state = State::PeerClosed(key);
                    }
                    // What comes behind it does not count (RFC 8446, 6.1).
                    return Ok((input.len(), opened));
                }
                Err(error) => {
                    // It says why only if it is asked again; beyond that it would look at the same record twice.
                    while self.connection.common().wants_write() {
                        let (count, next) = self.connection.step(&mut input[done..], &mut task, scratch);
                        done += count;
                        if next.is_err() {
                            break;
                        }
                    }
                    return Err(error);
                }
            }
        }
    }

    /// Has rustls write, behind what it has to say itself.
    fn write(&mut self, task: &mut Task<'_>, scratch: &mut Scratch) -> Result<(), TlsError> {
        loop {
            // It goes on behind the records that it has seen, so they must be there.
            match self.connection.step(&mut self.kept, task, scratch).1 {
                Ok(Next::Again) => {}
                Ok(Next::Blocked | Next::PeerClosed) => return Ok(()),
                Err(error) => {
                    self.fail(&error);
                    return Err(error);
                }
            }
        }
    }
}
