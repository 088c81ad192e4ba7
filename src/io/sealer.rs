//! What a session asks of an end of TLS on its link. It is a trait for the simulator, which has a cheap one beside.

use std::fmt;

use crate::tls::{PublicKey, Scratch, Tls, TlsError};

/// One end of what seals a link. What each call does, and in which order they come, is told by [`Tls`].
pub trait Sealer: fmt::Debug + Send {
    /// See [`Tls::is_established`].
    fn is_established(&self) -> bool;

    /// See [`Tls::peer_key`].
    fn peer_key(&self) -> Option<&PublicKey>;

    /// See [`Tls::has_peer_closed`].
    fn has_peer_closed(&self) -> bool;

    /// See [`Tls::open`].
    ///
    /// # Errors
    /// If the connection has failed.
    fn open(&mut self, input: &mut [u8], plaintext: &mut Vec<u8>, scratch: &mut Scratch) -> Result<(), TlsError>;

    /// See [`Tls::handle_end`].
    ///
    /// # Errors
    /// Unless the peer has said before that nothing more comes.
    fn handle_end(&mut self) -> Result<(), TlsError>;

    /// See [`Tls::seal`].
    ///
    /// # Errors
    /// If the connection has failed.
    fn seal(&mut self, plaintext: &[u8], scratch: &mut Scratch) -> Result<usize, TlsError>;

    /// See [`Tls::close`].
    ///
    /// # Errors
    /// If the connection has failed.
    fn close(&mut self, scratch: &mut Scratch) -> Result<(), TlsError>;

    /// See [`Tls::unsent`].
    fn unsent<'a>(&'a self, scratch: &'a Scratch) -> &'a [u8];

    /// See [`Tls::advance`].
    fn advance(&mut self, scratch: &mut Scratch, count: usize);

    /// See [`Tls::hold`].
    fn hold(&mut self, scratch: &mut Scratch);

    /// See [`Tls::is_holding`].
    fn is_holding(&self) -> bool;

    /// See [`Tls::buffered`].
    fn buffered(&self) -> usize;

    /// See [`Tls::take_fruitless`].
    fn take_fruitless(&mut self) -> usize;
}

impl Sealer for Tls {
    fn is_established(&self) -> bool {
        self.is_established()
    }

    fn peer_key(&self) -> Option<&PublicKey> {
        self.peer_key()
    }

    fn has_peer_closed(&self) -> bool {
        self.has_peer_closed()
    }

    fn open(&mut self, input: &mut [u8], plaintext: &mut Vec<u8>, scratch: &mut Scratch) -> Result<(), TlsError> {
        self.open(input, plaintext, scratch)
    }

    fn handle_end(&mut self) -> Result<(), TlsError> {
        self.handle_end()
    }

    fn seal(&mut self, plaintext: &[u8], scratch: &mut Scratch) -> Result<usize, TlsError> {
        self.seal(plaintext, scratch)
    }

    fn close(&mut self, scratch: &mut Scratch) -> Result<(), TlsError> {
        self.close(scratch)
    }

    fn unsent<'a>(&'a self, scratch: &'a Scratch) -> &'a [u8] {
        self.unsent(scratch)
    }

    fn advance(&mut self, scratch: &mut Scratch, count: usize) {
        self.advance(scratch, count);
    }

    fn hold(&mut self, scratch: &mut Scratch) {
        self.hold(scratch);
    }

    fn is_holding(&self) -> bool {
        self.is_holding()
    }

    fn buffered(&self) -> usize {
        self.buffered()
    }

    fn take_fruitless(&mut self) -> usize {
        self.take_fruitless()
    }
}
