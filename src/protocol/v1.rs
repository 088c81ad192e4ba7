//! Version 1, as the programs of 2012 speak it.
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
