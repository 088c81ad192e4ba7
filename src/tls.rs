//! TLS 1.3 on the link, sans-IO: keys, pins, and one end of a connection. No socket, no thread, no clock.
//!
//! Each end proves an Ed25519 [`Key`], as a raw public key (RFC 7250); there is no certificate, so nothing expires. The
//! end that opens the connection, the [`Opener`], knows the other's key by its [`Pins`](crate::identity::Pins). The
//! [`Acceptor`] takes any key that is well-formed: which device it belongs to is decided later, by what the link says.
//! The version of the protocol inside is the name that both ends agree on with ALPN.
//!
//! Ciphertext goes into [`Tls::open`], plaintext into [`Tls::seal`]. What is to be written stands in a [`Scratch`] that
//! the loop has for all its links, so that an idle link has no buffer:
//!
//! ```text
//! read:   open(bytes read, plaintext, scratch)     then write as below: what was read may ask for an answer
//! write:  seal(plaintext, scratch)                  0 bytes while an earlier record waits for its socket
//!         unsent(scratch) -> write -> advance(scratch, written)
//!         hold(scratch)                             the turn ends: the link keeps what the socket did not take
//! ```
//!
//! **After `fork` there are two copies of the state.** If both seal a record, a nonce is used twice, and the key is as
//! good as told. The rule that only the process that made a link touches it guards writing too.

mod config;
mod engine;
mod error;
mod greeting;
mod key;
mod provider;
mod scratch;
mod verifier;

pub use config::{Acceptor, Opener};
pub use engine::Tls;
pub use error::TlsError;
pub use greeting::Greeting;
pub use key::{Key, KeyError, PublicKey, PublicKeyError, PublicKeyTextError};
pub use scratch::Scratch;

/// What a device and its relay speak inside TLS, as ALPN names it.
pub const ALPN: &[u8] = b"tcpremote/2";

/// Bytes that a handshake takes at most, of each end. Ours is below 2 KiB.
pub const HANDSHAKE_LIMIT: usize = 16 * 1024;

/// Plaintext in a record at most (RFC 8446, 5.1).
pub const RECORD_PLAINTEXT: usize = 16 * 1024;

/// What a record of ours has beside its plaintext: a header, the inner type, and the tag.
pub const RECORD_OVERHEAD: usize = HEADER + 1 + 16;

/// `u8 type | u16 version | u16 length` before each record.
const HEADER: usize = 5;

/// A record at most, as a peer may send it (RFC 8446, 5.2).
const RECORD: usize = HEADER + RECORD_PLAINTEXT + 256;

#[cfg(test)]
pub(crate) mod tests;
