//! The header of the PROXY protocol, version 2, with which a proxy says whose connection it passes on.

use std::io::{self, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use proxy_header::{ParseConfig, Protocol, ProxiedAddress, ProxyHeader};

/// What every header of version 2 begins with.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// What every header of version 1 begins with.
const TEXT: &[u8] = b"PROXY ";
/// Version 2, and a connection of the proxy's own.
const LOCAL: u8 = 0x20;
/// The signature, a byte of version and command, one of family and protocol, and two of the length of what follows.
const FIXED: usize = 16;
/// The longest header that is taken: addresses have at most 216 bytes, and what stands behind them is of no use here.
pub const MAX_HEADER: usize = 4096;

/// Why a connection does not begin as it is to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// It begins with other bytes.
    #[error("it does not begin with a PROXY header; let the load balancer send version 2")]
    Missing,
    /// It is of version 1, a line of text.
    #[error("its PROXY header is of version 1; let the load balancer send version 2 (haproxy: send-proxy-v2)")]
    Version1,
    /// It is longer than any that is of use.
    #[error("its PROXY header has {0} bytes, and 4096 are taken")]
    TooLong(usize),
    /// Its parts do not fit together.
    #[error("its PROXY header cannot be read")]
    Malformed,
}

/// A header that is being read, to its last byte and no further: what follows is the client's.
#[derive(Debug, Default)]
pub struct HeaderReader {
    bytes: Vec<u8>,
}

impl HeaderReader {
    /// How many bytes are to be read at most before [`receive`](Self::receive), at least 1 until the header is complete.
    pub fn wanted(&self) -> usize {
        self.size().unwrap_or(FIXED).saturating_sub(self.bytes.len())
    }

    /// Whether nothing has come of it.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Takes bytes, no more than are wanted. Once the header is complete: the address that it names, or `None` where the
    /// connection is the proxy's own, or of a kind that has no such address.
    ///
    /// # Errors
    /// It is no header of version 2.
    pub fn receive(&mut self, bytes: &[u8]) -> Result<Option<Option<SocketAddr>>, HeaderError> {
        debug_assert!(bytes.len() <= self.wanted(), "the rest is not the header's");
        self.bytes.extend(bytes);
        let known = self.bytes.len().min(SIGNATURE.len());
        if self.bytes[..known] != SIGNATURE[..known] {
            return match self.bytes.get(..TEXT.len()) {
                Some(first) if first == TEXT => Err(HeaderError::Version1),
                None if TEXT.starts_with(&self.bytes) => Ok(None),
                _ => Err(HeaderError::Missing),
            };
        }
        let Some(size) = self.size() else { return Ok(None) };
        if size > MAX_HEADER {
            return Err(HeaderError::TooLong(size));
        }
        if self.bytes.len() < size {
            return Ok(None);
        }
        // Whatever its family is.
        if self.bytes[SIGNATURE.len()] == LOCAL {
            return Ok(Some(None));
        }
        let config = ParseConfig { include_tlvs: false, allow_v1: false, allow_v2: true };
        let (header, _) = ProxyHeader::parse(&self.bytes, config).map_err(|_| HeaderError::Malformed)?;
        // Of datagrams there are none here.
        let address = header.proxied_address().filter(|address| address.protocol == Protocol::Stream);
        Ok(Some(address.map(|address| SocketAddr::new(address.source.ip().to_canonical(), address.source.port()))))
    }

    /// How long the header is, once it has said so.
    fn size(&self) -> Option<usize> {
        let length = self.bytes.get(FIXED - 2..FIXED)?;
        Some(FIXED + usize::from(u16::from_be_bytes([length[0], length[1]])))
    }
}

/// A header on its way to a service.
#[derive(Debug)]
pub struct HeaderWriter {
    bytes: Vec<u8>,
    written: usize,
}

impl HeaderWriter {
    /// For a connection to `service` on behalf of `client`, where that is known. Where one has an address of IPv4 and the
    /// other of IPv6, both are written as IPv6.
    pub fn new(client: Option<SocketAddr>, service: SocketAddr) -> Self {
        let header = client.map_or_else(ProxyHeader::with_local, |client| {
            let has_one_family = client.is_ipv4() == service.is_ipv4();
            let written = |address: SocketAddr| if has_one_family { address } else { as_ipv6(address) };
            ProxyHeader::with_address(ProxiedAddress::stream(written(client), written(service)))
        });
        let mut bytes = Vec::with_capacity(FIXED + 36);
        // It fails only for two families, or more than 64 KiB.
        let encoded = header.encode_v2(&mut bytes);
        debug_assert!(encoded.is_ok(), "{encoded:?}");
        Self { bytes, written: 0 }
    }

    /// Goes on writing; true once all is written.
    ///
    /// # Errors
    /// The service takes no bytes any more.
    pub fn write_to(&mut self, io: &mut impl Write) -> io::Result<bool> {
        while self.written < self.bytes.len() {
            match io.write(&self.bytes[self.written..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => self.written += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}

fn as_ipv6(address: SocketAddr) -> SocketAddr {
    let ip: Ipv6Addr = match address.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    SocketAddr::new(ip.into(), address.port())
}

#[cfg(test)]
mod tests;
