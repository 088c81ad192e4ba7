//! What speaks on the device port when it is no device.

use crate::io::session::LinkLost;
use crate::protocol::ProtocolError;
use crate::tls::TlsError;

/// From a load balancer that the configuration does not name.
const PROXY: &str = "a PROXY header; name the load balancer in proxy_protocol_from, or let it send none";

/// Protocols by the first bytes of a connection.
const PROTOCOLS: [(&[u8], &str); 11] = [
    (b"PROX", PROXY),
    (b"\r\n\r\n", PROXY),
    (b"GET ", "HTTP"),
    (b"POST", "HTTP"),
    (b"HEAD", "HTTP"),
    (b"PUT ", "HTTP"),
    (b"OPTI", "HTTP"),
    (b"CONN", "HTTP"),
    (b"PRI ", "HTTP"),
    (b"\x16\x03", "TLS"),
    (b"SSH-", "SSH"),
];

/// What a connection that was dropped speaks, as far as its first bytes tell.
pub(super) fn protocol_of(reason: &LinkLost) -> Option<&'static str> {
    if let LinkLost::Tls(TlsError::NotTls(greeting)) = reason {
        return Some(greeting.description());
    }
    let LinkLost::Protocol(ProtocolError::NotListen(header)) = reason else { return None };
    let bytes = header.encode();
    PROTOCOLS.iter().find(|(first, _)| bytes.starts_with(first)).map(|&(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::v1::Header;

    fn named(bytes: &[u8; 4]) -> Option<&'static str> {
        protocol_of(&LinkLost::Protocol(ProtocolError::NotListen(Header::decode(*bytes))))
    }

    #[test]
    fn what_is_no_device_is_named_by_its_first_bytes() {
        assert_eq!(named(b"GET "), Some("HTTP"));
        assert_eq!(named(b"\x16\x03\x01\x02"), Some("TLS"));
        assert_eq!(named(b"SSH-"), Some("SSH"));
        let proxy = named(b"PROX");
        assert!(proxy.is_some_and(|name| name.starts_with("a PROXY header")));
        assert_eq!(named(b"\r\n\r\n"), proxy, "version 2 of it");
        assert_eq!(named(b"\0\0\x05\0"), None);
        assert_eq!(protocol_of(&LinkLost::Ended), None);
    }
}
