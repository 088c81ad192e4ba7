//! Control frames with a payload of their own.

use super::code::Code;
use super::field;
use super::header::{Flags, Header, Type};
use crate::protocol::ProtocolError;

/// The longest reason that is sent or kept, in bytes.
const MAX_REASON: usize = 200;

/// Bytes of a whole ACK, which are not counted in any offset.
pub const ACK_LEN: usize = Header::LEN + 12;

/// The payload of CLOSE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Close {
    /// Why.
    pub code: Code,
    /// The same for a person; may be empty.
    pub reason: String,
}

/// The payload of GOAWAY.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GoAway {
    /// Why.
    pub code: Code,
    /// Seconds after which another link is welcome.
    pub retry_after: u16,
    /// The newest stream that was taken; later ones were not.
    pub last_stream: u32,
    /// The reason for a person; may be empty.
    pub reason: String,
}

impl Close {
    /// The whole frame that ends `stream`.
    pub fn frame(&self, stream: u32) -> Vec<u8> {
        let reason = cut(&self.reason);
        frame(Type::Close, stream, &[&self.code.number().to_be_bytes()[..], reason.as_bytes()].concat())
    }

    pub(super) fn decode(payload: &[u8]) -> Result<Self, ProtocolError> {
        let (code, reason) = payload.split_first_chunk::<2>().ok_or(ProtocolError::TruncatedField)?;
        Ok(Self { code: u16::from_be_bytes(*code).into(), reason: kept(reason) })
    }
}

impl GoAway {
    /// The whole frame.
    pub fn frame(&self) -> Vec<u8> {
        let mut payload = self.code.number().to_be_bytes().to_vec();
        payload.extend(self.retry_after.to_be_bytes());
        payload.extend(self.last_stream.to_be_bytes());
        payload.extend(cut(&self.reason).as_bytes());
        frame(Type::GoAway, 0, &payload)
    }

    pub(super) fn decode(payload: &[u8]) -> Result<Self, ProtocolError> {
        let ([a, b, c, d, e, f, g, h], reason) =
            payload.split_first_chunk::<8>().ok_or(ProtocolError::TruncatedField)?;
        Ok(Self {
            code: u16::from_be_bytes([*a, *b]).into(),
            retry_after: u16::from_be_bytes([*c, *d]),
            last_stream: u32::from_be_bytes([*e, *f, *g, *h]),
            reason: kept(reason),
        })
    }
}

/// A whole CREDIT: the peer may have sent `limit` bytes on `stream` since its start.
pub fn credit(stream: u32, limit: u64) -> [u8; Header::LEN + 8] {
    with_eight_bytes(Header { size: 8, kind: Type::Credit, flags: Flags::NONE, stream }, limit.to_be_bytes())
}

/// A whole PING, or with `Flags::ACK` the answer to one.
pub fn ping(payload: [u8; 8], flags: Flags) -> [u8; Header::LEN + 8] {
    with_eight_bytes(Header { size: 8, kind: Type::Ping, flags, stream: 0 }, payload)
}

/// A whole ACK: all up to `offset` was read, when the reader's clock was at `clock` microseconds.
pub fn ack(offset: u64, clock: u32) -> [u8; ACK_LEN] {
    let mut frame = [0; ACK_LEN];
    let header = Header { size: (ACK_LEN - Header::LEN) as u16, kind: Type::Ack, flags: Flags::NONE, stream: 0 };
    frame[..Header::LEN].copy_from_slice(&header.encode());
    frame[Header::LEN..][..8].copy_from_slice(&offset.to_be_bytes());
    frame[Header::LEN + 8..].copy_from_slice(&clock.to_be_bytes());
    frame
}

fn with_eight_bytes(header: Header, payload: [u8; 8]) -> [u8; Header::LEN + 8] {
    let mut frame = [0; Header::LEN + 8];
    frame[..Header::LEN].copy_from_slice(&header.encode());
    frame[Header::LEN..].copy_from_slice(&payload);
    frame
}

pub(super) fn frame(kind: Type, stream: u32, payload: &[u8]) -> Vec<u8> {
    let header = Header { size: payload.len() as u16, kind, flags: Flags::NONE, stream };
    [&header.encode()[..], payload].concat()
}

/// A reason, short enough to be sent.
fn cut(reason: &str) -> &str {
    let end = (0..=reason.len().min(MAX_REASON)).rev().find(|&end| reason.is_char_boundary(end));
    &reason[..end.unwrap_or(0)]
}

/// A reason that came, fit for a line of a log. Its quotes stay as they are, so that the rule that it may show can be
/// copied.
fn kept(reason: &[u8]) -> String {
    let mut kept = String::new();
    for character in field::text(&reason[..reason.len().min(MAX_REASON)]).chars() {
        match character {
            '"' | '\'' => kept.push(character),
            other => kept.extend(other.escape_debug()),
        }
    }
    kept
}
