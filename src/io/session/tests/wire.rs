//! The other end of a link, whatever carries it: the same tests hold for each.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream as Peer};
use std::time::Instant;

use mio::Token;
use mio::net::TcpStream;

use crate::connection::{Limits, Mux, Role};
use crate::identity::{Pin, Pins};
use crate::io::Io;
use crate::io::session::Session;
use crate::protocol::v2::Settings;
use crate::tls::{Acceptor, Key, Opener, RECORD_OVERHEAD, RECORD_PLAINTEXT, Scratch, Tls, TlsError};

/// What carries a link.
#[derive(Clone, Copy, Debug)]
pub(super) enum Carrier {
    /// The socket alone.
    Clear,
    /// TLS on the socket.
    Tls,
}

/// A relay's end of a link, without a connection.
pub(super) struct Wire {
    pub(super) tcp: Peer,
    tls: Option<(Tls, Scratch)>,
    /// What was opened, and not read yet.
    opened: Vec<u8>,
}

impl Carrier {
    pub(super) const ALL: [Self; 2] = [Self::Clear, Self::Tls];

    /// A device's session on `link`, and the relay's end.
    pub(super) fn ends(
        self,
        link: TcpStream,
        token: Token,
        relay: Peer,
        limits: Limits,
        io: &mut Io,
    ) -> (Session<Mux>, Wire) {
        let now = Instant::now();
        let wire = |tls| Wire { tcp: relay, tls, opened: Vec::new() };
        match self {
            Self::Clear => {
                let device = Mux::new(now, Role::Device, limits, &[]);
                (Session::new(device, 0, link, token), wire(None))
            }
            Self::Tls => {
                let [device, relay] = [(); 2].map(|()| Key::generate().expect("random bytes"));
                let pins = Pins { current: relay.public().pin(), next: Pin([0; 32]) };
                let opener = Opener::new(&device, pins).expect("a configuration");
                let tls = opener.start("relay.example.com", io.buffers.scratch()).expect("a handshake");
                let acceptor = Acceptor::new(&relay).and_then(|acceptor| acceptor.start()).expect("a handshake");
                let device = Mux::opener(now, limits, Settings::default());
                let scratch = Scratch::new(4 * (RECORD_PLAINTEXT + RECORD_OVERHEAD) + 64);
                (Session::in_tls(device, 0, link, token, tls, io), wire(Some((acceptor, scratch))))
            }
        }
    }
}

impl Wire {
    /// One that nobody uses.
    pub(super) fn clear(listener: TcpListener) -> Self {
        let tcp = Peer::connect(listener.local_addr().expect("address")).expect("connect");
        Self { tcp, tls: None, opened: Vec::new() }
    }

    pub(super) fn is_ready(&self) -> bool {
        self.tls.as_ref().is_none_or(|(tls, _)| tls.is_established())
    }

    /// Reads what is there, and answers.
    pub(super) fn shake_hands(&mut self) {
        self.set_nonblocking(true).expect("mode");
        self.take().expect("a handshake");
        self.set_nonblocking(false).expect("mode");
        self.flush().expect("sent");
    }

    pub(super) fn set_nonblocking(&self, is_nonblocking: bool) -> io::Result<()> {
        self.tcp.set_nonblocking(is_nonblocking)
    }

    /// Reads once, and opens it; false if nothing is there now, or ever.
    pub(super) fn take(&mut self) -> Result<bool, TlsError> {
        let mut buffer = [0; 16 * 1024];
        let Ok(count @ 1..) = self.tcp.read(&mut buffer) else { return Ok(false) };
        if let Some((tls, scratch)) = &mut self.tls {
            tls.open(&mut buffer[..count], &mut self.opened, scratch)?;
        }
        Ok(true)
    }

    /// What would be sent for these bytes.
    pub(super) fn seal(&mut self, mut bytes: &[u8]) -> Vec<u8> {
        let Some((tls, scratch)) = &mut self.tls else { return bytes.to_vec() };
        let mut sealed = Vec::new();
        loop {
            let count = tls.seal(bytes, scratch).expect("a connection");
            bytes = &bytes[count..];
            let unsent = tls.unsent(scratch).to_vec();
            tls.advance(scratch, unsent.len());
            if unsent.is_empty() {
                return sealed;
            }
            sealed.extend(unsent);
        }
    }

    /// What would be sent to say that nothing more comes.
    pub(super) fn close_notify(&mut self) -> Vec<u8> {
        if let Some((tls, scratch)) = &mut self.tls {
            tls.close(scratch).expect("a connection");
        }
        self.seal(&[])
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.tls.is_none() {
            return self.tcp.write(bytes);
        }
        let sealed = self.seal(bytes);
        self.tcp.write_all(&sealed)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let sealed = self.seal(&[]);
        self.tcp.write_all(&sealed)
    }
}

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.tls.is_none() {
            return self.tcp.read(buffer);
        }
        while self.opened.is_empty() {
            if !self.take().map_err(io::Error::other)? {
                return Err(io::ErrorKind::WouldBlock.into());
            }
        }
        let count = buffer.len().min(self.opened.len());
        buffer[..count].copy_from_slice(&self.opened[..count]);
        self.opened.drain(..count);
        Ok(count)
    }
}
