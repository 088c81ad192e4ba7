//! The wire: what both ends of a link write and read. The only code that knows byte order.
//!
//! # Version 1
//!
//! Every frame, in both directions, is a 4-byte header and a payload, integers big-endian:
//!
//! ```text
//! u16 size | u8 command | u8 client | size bytes of payload
//! ```
//!
//! | command | from | payload |
//! | --- | --- | --- |
//! | 1 CONNECT | relay | `u16 length, length bytes of host, u16 port`; the device resolves names |
//! | 2 CLOSE | either | none |
//! | 3 DATA | either | 1 to 65,535 bytes |
//! | 4 LISTEN | device | none, client 0; the first frame on the link |
//!
//! Source: "Platform : TCP Remote Connection", section 1.3, and bytes captured from the programs of 2012.

mod connect;
mod decoder;
mod header;

pub use connect::{Connect, Malformed};
pub use decoder::{Decoder, Item};
pub use header::{Command, Header};

/// The most payload bytes one frame can carry.
pub const MAX_PAYLOAD: usize = u16::MAX as usize;

/// What a peer sent, or did not send, that ends the link.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// A device opens a link with LISTEN; this connection began with something else.
    #[error("the first frame is not LISTEN but {0}; is this a device?")]
    NotListen(Header),
    /// LISTEN came twice on one link.
    #[error("LISTEN came twice ({0})")]
    ListenAgain(Header),
    /// LISTEN came with a payload or for a client.
    #[error("LISTEN carries no payload and is for client 0 (got {0})")]
    BadListen(Header),
    /// CONNECT is the relay's to send.
    #[error("the device sent CONNECT ({0})")]
    ConnectFromDevice(Header),
    /// The peer makes us answer and does not read the answers.
    #[error("the peer does not read the answers that its frames ask for ({0} bytes wait)")]
    Backlog(usize),
}
