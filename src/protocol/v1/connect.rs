//! The payload of CONNECT: where the device is to connect.

use super::{Command, Header};
use crate::address::{Address, AddressError};

/// The longest payload that is read for a CONNECT; a name has at most 253 bytes.
pub(super) const MAX_CONNECT: usize = 1024;

/// A CONNECT that could be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connect {
    /// The service.
    pub service: Address,
}

/// Why a CONNECT could not be read. It is answered with CLOSE.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Fewer bytes than the lengths in it ask for.
    #[error("CONNECT is cut short ({0})")]
    Short(String),
    /// More bytes than any CONNECT needs.
    #[error("CONNECT of {0} bytes is longer than any can be")]
    Long(u16),
    /// The host is not UTF-8.
    #[error("CONNECT names a host that is not UTF-8 ({0})")]
    NotUtf8(String),
    /// In version 2: a field cannot be, or came twice.
    #[error("field {0} of CONNECT is too short or too long, came twice, or holds what it cannot")]
    Field(u16),
    /// In version 2: it names nothing to reach, or more than one thing.
    #[error("CONNECT names a host beside a service or a device, or not enough of either")]
    Target,
    /// Host or port are none.
    #[error("CONNECT: {0}")]
    Address(#[from] AddressError),
}

impl Connect {
    /// The whole frame that asks for `service` on behalf of `client`.
    pub fn frame(self, client: u8) -> Vec<u8> {
        let payload = self.payload();
        let header = Header { size: payload.len() as u16, command: Command::Connect, client };
        [&header.encode()[..], &payload].concat()
    }

    /// Host and port, as both versions carry them.
    pub(in crate::protocol) fn payload(&self) -> Vec<u8> {
        let host = self.service.host().as_bytes();
        // An Address has at most 253 bytes of host.
        let length = host.len() as u16;
        [&length.to_be_bytes()[..], host, &self.service.port().to_be_bytes()].concat()
    }

    /// Reads a payload, and gives back what stands behind the port.
    pub(in crate::protocol) fn decode(payload: &[u8]) -> Result<(Self, &[u8]), Malformed> {
        let short = || Malformed::short(payload);
        let (length, rest) = payload.split_first_chunk::<2>().ok_or_else(short)?;
        let (host, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length))).ok_or_else(short)?;
        let (port, rest) = rest.split_first_chunk::<2>().ok_or_else(short)?;
        let host = str::from_utf8(host).map_err(|_| Malformed::NotUtf8(hex(payload)))?;
        Ok((Self { service: Address::new(host, u16::from_be_bytes(*port))? }, rest))
    }
}

impl Malformed {
    /// A payload whose lengths ask for more bytes than it has.
    pub(in crate::protocol) fn short(payload: &[u8]) -> Self {
        Self::Short(hex(payload))
    }
}

/// The first bytes of `payload`, as a capture would show them.
fn hex(payload: &[u8]) -> String {
    let shown: Vec<String> = payload.iter().take(32).map(|byte| format!("{byte:02x}")).collect();
    let more = if payload.len() > shown.len() { " …" } else { "" };
    format!("payload {}{more}", shown.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_frame_is_the_one_captured_in_2012() {
        let service: Address = "127.0.0.1:57847".parse().expect("an address");
        let connect = Connect { service };
        let frame = connect.clone().frame(1);
        assert_eq!(frame, b"\x00\x0d\x01\x01\x00\x09127.0.0.1\xe1\xf7");
        assert_eq!(Connect::decode(&frame[4..]), Ok((connect, &[][..])));
    }

    #[test]
    fn bytes_behind_the_port_are_given_back() {
        let payload = b"\x00\x09127.0.0.1\x00\x16xyz";
        let (connect, rest) = Connect::decode(payload).expect("a CONNECT");
        assert_eq!((connect.service.to_string().as_str(), rest), ("127.0.0.1:22", &b"xyz"[..]));
    }

    #[test]
    fn an_error_shows_the_bytes_that_cannot_be_read() {
        let error = |payload: &[u8]| Connect::decode(payload).expect_err("malformed").to_string();
        assert_eq!(error(b""), "CONNECT is cut short (payload )");
        assert_eq!(error(b"\x00\x091274"), "CONNECT is cut short (payload 00 09 31 32 37 34)");
        assert_eq!(error(b"\x00\x01a\x00"), "CONNECT is cut short (payload 00 01 61 00)");
        assert!(error(b"\x00\x01\xff\x00\x16").starts_with("CONNECT names a host that is not UTF-8"));
        assert!(error(b"\x00\x01a\x00\x00").contains("port '0'"));
        assert!(error(b"\x00\x00\x00\x16").contains("host is empty"));
    }
}
