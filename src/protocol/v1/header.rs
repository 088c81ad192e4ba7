//! The four bytes before every payload.

use std::fmt;

/// What a frame is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Open a connection to a service (relay to device).
    Connect,
    /// A client or a service is gone.
    Close,
    /// Bytes of a client or a service.
    Data,
    /// The device is ready for clients (device to relay).
    Listen,
    /// Any other number; skipped with its payload.
    Other(u8),
}

impl Command {
    /// The number on the wire.
    pub fn number(self) -> u8 {
        match self {
            Self::Connect => 1,
            Self::Close => 2,
            Self::Data => 3,
            Self::Listen => 4,
            Self::Other(number) => number,
        }
    }
}

impl From<u8> for Command {
    fn from(number: u8) -> Self {
        match number {
            1 => Self::Connect,
            2 => Self::Close,
            3 => Self::Data,
            4 => Self::Listen,
            other => Self::Other(other),
        }
    }
}

/// A version 1 header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// How many payload bytes follow.
    pub size: u16,
    /// What the frame is for.
    pub command: Command,
    /// The client's number; 0 is a client like any other, except in LISTEN.
    pub client: u8,
}

impl Header {
    /// Bytes of a header on the wire.
    pub const LEN: usize = 4;

    /// The first frame on a link.
    pub const LISTEN: Self = Self { size: 0, command: Command::Listen, client: 0 };

    /// The device's question which relay it is: DATA of no bytes, for the number that is given so late that no client has
    /// it yet. A relay of 2012 answers with a CLOSE for that number, every other passes over it.
    pub const PROBE: Self = Self { size: 0, command: Command::Data, client: 255 };

    /// A CLOSE for `client`.
    pub fn close(client: u8) -> Self {
        Self { size: 0, command: Command::Close, client }
    }

    /// The header of a DATA frame of `size` bytes.
    pub fn data(client: u8, size: u16) -> Self {
        Self { size, command: Command::Data, client }
    }

    /// The header's bytes.
    pub fn encode(self) -> [u8; Self::LEN] {
        let [high, low] = self.size.to_be_bytes();
        [high, low, self.command.number(), self.client]
    }

    /// The header that `bytes` mean; every four bytes mean one.
    pub fn decode([high, low, command, client]: [u8; Self::LEN]) -> Self {
        Self { size: u16::from_be_bytes([high, low]), command: command.into(), client }
    }
}

impl fmt::Display for Header {
    /// The bytes, as a capture would show them; those of a text as such, which a header of ours is not.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.encode();
        if bytes.iter().all(|byte| byte.is_ascii_graphic() || *byte == b' ') {
            return write!(f, "'{}'", bytes.map(char::from).iter().collect::<String>());
        }
        let [a, b, c, d] = bytes;
        write!(f, "{a:02x} {b:02x} {c:02x} {d:02x}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_four_bytes_decode_and_encode_back() {
        for bytes in [[0, 0, 4, 0], [0xff, 0xff, 3, 1], [0, 0, 5, 0xf2], [0x1f, 0xfc, 3, 0xff], [0, 13, 1, 0]] {
            assert_eq!(Header::decode(bytes).encode(), bytes);
        }
        assert_eq!(Header::LISTEN.encode(), [0, 0, 4, 0]);
        assert_eq!(Header::close(9).to_string(), "00 00 02 09");
        assert_eq!(Header::decode(*b"SSH-").to_string(), "'SSH-'");
        assert_eq!(Header::decode(*b"GET ").to_string(), "'GET '");
        assert_eq!(Header::decode(*b"\r\n\r\n").to_string(), "0d 0a 0d 0a");
        assert_eq!(Header::decode(*b"\x1b[2J").to_string(), "1b 5b 32 4a");
    }
}
