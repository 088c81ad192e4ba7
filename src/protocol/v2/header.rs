//! The eight bytes before every payload.

use std::fmt;

/// What a frame is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// Open a stream (relay to device).
    Connect,
    /// End a stream abruptly, in both directions.
    Close,
    /// Bytes of a stream.
    Data,
    /// What the sender can take; once, its first frame.
    Settings,
    /// The stream's service is connected (device to relay).
    Connected,
    /// The peer may send more on a stream.
    Credit,
    /// Is the peer there, and how far away?
    Ping,
    /// No new streams on this link.
    GoAway,
    /// How much of the link was read, and when.
    Ack,
    /// Any other number; skipped with its payload, unless it is flagged critical.
    Other(u8),
}

impl Type {
    /// The number on the wire.
    pub fn number(self) -> u8 {
        match self {
            Self::Connect => 1,
            Self::Close => 2,
            Self::Data => 3,
            Self::Settings => 6,
            Self::Connected => 7,
            Self::Credit => 8,
            Self::Ping => 9,
            Self::GoAway => 10,
            Self::Ack => 11,
            Self::Other(number) => number,
        }
    }

    /// Whether a frame of this type is about a stream, which then has a number above 0. `None` for unknown types.
    pub(super) fn names_a_stream(self) -> Option<bool> {
        match self {
            Self::Connect | Self::Close | Self::Data | Self::Connected | Self::Credit => Some(true),
            Self::Settings | Self::Ping | Self::GoAway | Self::Ack => Some(false),
            Self::Other(_) => None,
        }
    }
}

impl From<u8> for Type {
    fn from(number: u8) -> Self {
        match number {
            1 => Self::Connect,
            2 => Self::Close,
            3 => Self::Data,
            6 => Self::Settings,
            7 => Self::Connected,
            8 => Self::Credit,
            9 => Self::Ping,
            10 => Self::GoAway,
            11 => Self::Ack,
            other => Self::Other(other),
        }
    }
}

/// The flags of a frame; those that a type does not know mean nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(pub u8);

impl Flags {
    /// No flag.
    pub const NONE: Self = Self(0);
    /// Of DATA: no more bytes from this side.
    pub const FIN: Self = Self(1);
    /// Of DATA: the end of this frame is to be acknowledged. Only for a peer whose SETTINGS say that it does.
    pub const ASK: Self = Self(2);
    /// Of DATA: the stream has no credit left behind this frame. For the same peers.
    pub const LIMITED: Self = Self(4);
    /// Of PING: the answer.
    pub const ACK: Self = Self(1);
    /// Of an unknown type: an end that does not know it must give up the link.
    pub const CRITICAL: Self = Self(0x80);

    /// Whether every flag of `other` is set.
    pub fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// These, and `other` if `set`.
    #[must_use]
    pub fn with(self, other: Self, set: bool) -> Self {
        if set { Self(self.0 | other.0) } else { self }
    }
}

/// A version 2 header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// How many payload bytes follow.
    pub size: u16,
    /// What the frame is for.
    pub kind: Type,
    /// Flags of the type.
    pub flags: Flags,
    /// The stream; 0 is the link itself.
    pub stream: u32,
}

impl Header {
    /// Bytes of a header on the wire.
    pub const LEN: usize = 8;

    /// The header of a DATA frame of `size` bytes.
    pub fn data(stream: u32, size: u16, fin: bool) -> Self {
        Self::flagged_data(stream, size, Flags::NONE.with(Flags::FIN, fin))
    }

    /// The same, with any flags.
    pub fn flagged_data(stream: u32, size: u16, flags: Flags) -> Self {
        Self { size, kind: Type::Data, flags, stream }
    }

    /// The header's bytes.
    pub fn encode(self) -> [u8; Self::LEN] {
        let [high, low] = self.size.to_be_bytes();
        let [a, b, c, d] = self.stream.to_be_bytes();
        [high, low, self.kind.number(), self.flags.0, a, b, c, d]
    }

    /// The header that `bytes` mean; every eight bytes mean one.
    pub fn decode([high, low, kind, flags, a, b, c, d]: [u8; Self::LEN]) -> Self {
        let (size, stream) = (u16::from_be_bytes([high, low]), u32::from_be_bytes([a, b, c, d]));
        Self { size, kind: kind.into(), flags: Flags(flags), stream }
    }
}

impl fmt::Display for Header {
    /// The bytes, as a capture would show them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self.encode().map(|byte| format!("{byte:02x}"));
        f.write_str(&shown.join(" "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_eight_bytes_decode_and_encode_back() {
        for kind in 0..=20 {
            let bytes = [0xff, 0xfe, kind, 0x81, 1, 2, 3, 4];
            assert_eq!(Header::decode(bytes).encode(), bytes);
        }
        assert_eq!(Header::data(258, 3, true).to_string(), "00 03 03 01 00 00 01 02");
    }
}
