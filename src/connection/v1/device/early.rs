//! DATA that came before its CONNECT, as the relay of 2012 sends it.

use crate::connection::ByteQueue;

/// Early bytes kept for one client.
const MAX_BYTES: usize = 1024 * 1024;

/// What one client sent before it was announced.
#[derive(Debug, Default)]
pub(super) struct Early {
    bytes: ByteQueue,
    closed: bool,
}

impl Early {
    /// Keeps `bytes`; false if they are too many.
    pub(super) fn push(&mut self, bytes: &[u8]) -> bool {
        let fits = self.bytes.len() + bytes.len() <= MAX_BYTES;
        if fits {
            self.bytes.push(bytes);
        }
        fits
    }

    pub(super) fn bytes(&self) -> &[u8] {
        self.bytes.as_slice()
    }

    /// A CLOSE followed: it counts once the bytes are delivered.
    pub(super) fn close(&mut self) {
        self.closed = true;
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }
}
