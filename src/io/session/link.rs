//! The socket of the link.

use std::io::{self, IoSlice};
use std::time::{Duration, Instant};

use mio::Token;

#[cfg(feature = "tls")]
use super::sealed::Sealed;
use super::socket::write;
use super::state::{Reading, Writing};
use super::user_timeout::UserTimeout;
use crate::connection::Connection;
use crate::io::buffers::Buffers;
use crate::io::event_loop::Readiness;
#[cfg(feature = "tls")]
use crate::io::sealer::Sealer;
use crate::io::socket::Socket;
use crate::protocol::ProtocolError;
#[cfg(feature = "tls")]
use crate::tls::TlsError;

/// Why there is no link any more.
#[derive(Debug, thiserror::Error)]
pub enum LinkLost {
    /// Its other end has ended it with FIN.
    #[error("the other end closed it")]
    Ended,
    /// Its socket failed.
    #[error("{0}")]
    Failed(#[from] io::Error),
    /// The peer broke the protocol.
    #[error("{0}")]
    Protocol(#[from] ProtocolError),
    /// TLS failed, or would not begin.
    #[cfg(feature = "tls")]
    #[error("{0}")]
    Tls(#[from] TlsError),
}

#[derive(Debug)]
pub(super) struct Link<S> {
    pub(super) tcp: S,
    pub(super) token: Token,
    /// What stands between socket and connection, if the link is in TLS.
    #[cfg(feature = "tls")]
    pub(super) sealed: Option<Sealed>,
    reading: Reading,
    pub(super) writing: Writing,
    user_timeout: UserTimeout,
    /// The low-water mark that was set; 0 before there was one.
    low_water: u32,
}

impl<S: Socket> Link<S> {
    /// A connected one, registered under `token`.
    pub(super) fn new(tcp: S, token: Token) -> Self {
        // An edge may have come before the link was there to see it: try both first.
        let (reading, writing) = (Reading::Readable, Writing::Writable);
        Self {
            tcp,
            token,
            #[cfg(feature = "tls")]
            sealed: None,
            reading,
            writing,
            user_timeout: UserTimeout::Off,
            low_water: 0,
        }
    }

    /// The same, in TLS.
    #[cfg(feature = "tls")]
    pub(super) fn in_tls(tcp: S, token: Token, tls: Box<dyn Sealer>) -> Self {
        let mut link = Self { sealed: Some(Sealed { tls, has_hello: false }), ..Self::new(tcp, token) };
        link.tune_v2();
        link
    }

    pub(super) fn handle_event(&mut self, event: Readiness) {
        self.reading.handle_event(event);
        self.writing.handle_event(event);
    }

    /// Whether a read is worth a try.
    pub(super) fn is_readable(&self) -> bool {
        self.reading.is_readable()
    }

    /// Whether a write is worth a try.
    pub(super) fn is_writable(&self) -> bool {
        matches!(self.writing, Writing::Writable)
    }

    /// Reads once: how much came, or `None` if there is nothing now.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> Result<Option<usize>, LinkLost> {
        let count = loop {
            match self.tcp.read(buffer) {
                Ok(0) => return Err(self.end_read()),
                Ok(count) => break Some(count),
                // No event would tell that it can be read still.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break None,
                Err(error) => return Err(self.read_failed(error)),
            }
        };
        match count {
            Some(count) => self.reading.handle_read(count < buffer.len()),
            None => self.reading = Reading::Empty,
        }
        if count.is_none_or(|count| count < buffer.len()) {
            self.user_timeout.handle_read(&self.tcp);
        }
        Ok(count)
    }

    /// It takes no more. What its other end sent before that is there to be read, such as why.
    pub(super) fn handle_write_failure(&mut self) {
        self.reading = self.reading.max(Reading::MoreBehind);
    }

    /// Writes what the connection has to send, as far as it goes.
    pub(super) fn flush(
        &mut self,
        now: Instant,
        connection: &mut impl Connection,
        buffers: &mut Buffers,
    ) -> Result<(), LinkLost> {
        #[cfg(feature = "tls")]
        if self.sealed.is_some() {
            self.flush_sealed(now, connection, buffers)?;
            self.set_low_water(connection);
            return Ok(());
        }
        #[cfg(not(feature = "tls"))]
        let _ = buffers;
        while self.is_writable() && connection.has_unsent() {
            let unsent = connection.unsent();
            let all = unsent.len();
            let count = write(&mut self.tcp, &mut self.writing, &[IoSlice::new(unsent)])?;
            self.user_timeout.handle_write(now, &self.tcp);
            connection.advance_link(now, count);
            if count < all {
                connection.note_link_full();
            }
        }
        self.set_low_water(connection);
        Ok(())
    }

    /// Whether it is in TLS.
    pub(super) fn is_sealed(&self) -> bool {
        #[cfg(feature = "tls")]
        return self.sealed.is_some();
        #[cfg(not(feature = "tls"))]
        false
    }

    /// Whether a write would find something.
    pub(super) fn has_output(&self, connection: &impl Connection) -> bool {
        #[cfg(feature = "tls")]
        if let Some(Sealed { tls, .. }) = &self.sealed {
            return tls.is_holding() || tls.is_established() && connection.has_unsent();
        }
        connection.has_unsent()
    }

    /// Whether something waits to be written that the connection knows nothing of any more.
    pub(super) fn is_holding(&self) -> bool {
        #[cfg(feature = "tls")]
        return self.sealed.as_ref().is_some_and(|sealed| sealed.tls.is_holding());
        #[cfg(not(feature = "tls"))]
        false
    }

    /// Bytes that the link itself keeps.
    pub(super) fn held(&self) -> u64 {
        #[cfg(feature = "tls")]
        return self.sealed.as_ref().map_or(0, |sealed| sealed.tls.buffered() as u64);
        #[cfg(not(feature = "tls"))]
        0
    }

    fn end_read(&mut self) -> LinkLost {
        #[cfg(feature = "tls")]
        return self.sealed_end();
        #[cfg(not(feature = "tls"))]
        LinkLost::Ended
    }

    fn read_failed(&self, error: io::Error) -> LinkLost {
        #[cfg(feature = "tls")]
        return self.sealed_failure(error);
        #[cfg(not(feature = "tls"))]
        error.into()
    }

    fn set_low_water(&mut self, connection: &impl Connection) {
        if let Some(low_water) = connection.link_low_water()
            && self.low_water != low_water
        {
            self.low_water = low_water;
            // It only hastens what the protocol does without it.
            let _ = self.tcp.set_low_water(low_water);
        }
    }

    /// Version 2 is spoken from here on.
    pub(super) fn tune_v2(&mut self) {
        if matches!(self.user_timeout, UserTimeout::Unwatched) {
            return;
        }
        self.user_timeout = UserTimeout::Unwatched;
        // The options only hasten what the protocol does without them.
        let _ = self.tcp.tune_link_v2();
    }

    /// The ends have said how often they ask for each other.
    pub(super) fn set_keepalive(&mut self, idle: Duration) {
        // The option only hastens what the protocol does without it.
        let _ = self.tcp.set_keepalive(idle);
    }

    /// How its other end has ended it, if that is what stands behind what was read so far.
    #[cfg(feature = "relay")]
    pub(super) fn end(&self) -> Option<LinkLost> {
        match self.tcp.peek(&mut [0]) {
            Ok(0) => Some(LinkLost::Ended),
            Ok(_) => None,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => None,
            Err(error) => Some(error.into()),
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.user_timeout.poll_timeout()
    }

    /// The time may have come.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        self.user_timeout.handle_timeout(now, &self.tcp);
    }
}
