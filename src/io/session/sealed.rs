//! TLS between a link's socket and its connection.

use std::io::{self, IoSlice};
use std::time::Instant;

use super::link::{Link, LinkLost};
use super::socket::write;
use crate::connection::Connection;
use crate::io::buffers::Buffers;
use crate::io::sealer::Sealer;
use crate::io::socket::Socket;
use crate::tls::{Scratch, TlsError};

/// One end of TLS, and what its link knows of it.
#[derive(Debug)]
pub(super) struct Sealed {
    pub(super) tls: Box<dyn Sealer>,
    /// An acceptor's: whether all of the peer's first message is here.
    pub(super) has_hello: bool,
}

impl<S: Socket> Link<S> {
    /// Opens what was read into the loop's buffer of plaintext. What stands there is what the peer sent, even if this fails.
    pub(super) fn open(&mut self, input: &mut [u8], buffers: &mut Buffers) -> Result<(), LinkLost> {
        let Some(Sealed { tls, has_hello }) = &mut self.sealed else { return Ok(()) };
        let (plaintext, scratch) = buffers.both();
        let result = tls.open(input, plaintext, scratch);
        // The first thing that an acceptor says is its answer.
        *has_hello |= result.is_ok() && !scratch.is_empty();
        Ok(result?)
    }

    /// Writes what waits, as far as it goes: first what is sealed, and then what the connection has, sealed only now. What
    /// is sealed and not taken is held for the link.
    pub(super) fn flush_sealed(
        &mut self,
        now: Instant,
        connection: &mut impl Connection,
        buffers: &mut Buffers,
    ) -> Result<(), LinkLost> {
        let scratch = buffers.scratch();
        let result = loop {
            let is_writable = self.is_writable();
            let Some(Sealed { tls, .. }) = &mut self.sealed else { break Ok(()) };
            let unsent = tls.unsent(scratch);
            if !is_writable {
                break Ok(());
            } else if !unsent.is_empty() {
                let all = unsent.len();
                match write(&mut self.tcp, &mut self.writing, &[IoSlice::new(unsent)]) {
                    Err(error) => break Err(error.into()),
                    Ok(count) => {
                        tls.advance(scratch, count);
                        if count < all {
                            connection.note_link_full();
                        }
                    }
                }
            } else {
                match seal(now, &mut **tls, connection, scratch) {
                    Ok(0) => break Ok(()),
                    Ok(_) => {}
                    Err(error) => break Err(error.into()),
                }
            }
        };
        if let Some(Sealed { tls, .. }) = &mut self.sealed {
            tls.hold(scratch);
        }
        result
    }

    /// Says in TLS that nothing more comes, and writes that if the socket takes it.
    pub(super) fn close_sealed(&mut self, now: Instant, connection: &mut impl Connection, buffers: &mut Buffers) {
        if let Some(Sealed { tls, .. }) = &mut self.sealed {
            // If either fails the link is lost, and over all the same.
            let _ = tls.close(buffers.scratch());
            let _ = self.flush_sealed(now, connection, buffers);
        }
    }

    /// How the link ended for whose socket FIN was read.
    pub(super) fn sealed_end(&mut self) -> LinkLost {
        match self.sealed.as_mut().map(|sealed| sealed.tls.handle_end()) {
            Some(Err(error)) => error.into(),
            Some(Ok(())) | None => LinkLost::Ended,
        }
    }

    /// A RST in the handshake is how a port answers that is not for TLS.
    pub(super) fn sealed_failure(&self, error: io::Error) -> LinkLost {
        let is_early = self.sealed.as_ref().is_some_and(|sealed| !sealed.tls.is_established());
        if is_early && error.kind() == io::ErrorKind::ConnectionReset {
            TlsError::EndInHandshake.into()
        } else {
            error.into()
        }
    }

    /// Whether the link is in TLS and there is no trust yet, or none any more.
    pub(super) fn is_untrusted(&self) -> bool {
        self.sealed.as_ref().is_some_and(|sealed| !sealed.tls.is_established())
    }
}

/// Seals what the connection has, as far as there is room: how many bytes that were.
fn seal(
    now: Instant,
    tls: &mut dyn Sealer,
    connection: &mut impl Connection,
    scratch: &mut Scratch,
) -> Result<usize, TlsError> {
    let mut sum = 0;
    while connection.has_unsent() {
        let count = tls.seal(connection.unsent(), scratch)?;
        if count == 0 {
            break;
        }
        connection.advance_link(now, count);
        sum += count;
    }
    Ok(sum)
}
