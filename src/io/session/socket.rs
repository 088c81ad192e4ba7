//! The socket of one stream.

use std::io::{self, IoSlice, Write};

use mio::Token;
use mio::net::TcpStream;

use super::scheduler::Activity;
use crate::connection::StreamKey;
use crate::io::net;
use crate::protocol::v2::Code;

#[derive(Debug)]
pub(super) struct Socket {
    pub(super) key: StreamKey,
    pub(super) io: TcpStream,
    pub(super) token: Token,
    pub(super) activity: Activity,
    pub(super) readable: bool,
    pub(super) writable: bool,
    /// There may be more behind a short read: the end, or what follows an urgent byte.
    pub(super) ended: bool,
    /// The peer's end of stream was read.
    pub(super) at_end: bool,
    /// Both directions are over, by FIN or by RST.
    pub(super) failed: bool,
    /// The peer takes no more bytes, and why; what it sent before may still be there to read.
    pub(super) write_error: Option<io::Error>,
    pub(super) traffic: Traffic,
}

/// What went through a stream's socket, and how that failed if it did.
#[derive(Clone, Debug, Default)]
pub(crate) struct Traffic {
    /// Bytes that were read from the socket.
    pub(crate) read: u64,
    /// Bytes that the socket took.
    pub(crate) written: u64,
    pub(crate) failure: Option<(Code, String)>,
}

impl Socket {
    /// A connected one, registered under `token`. It may have been readable before it was.
    pub(super) fn new(key: StreamKey, io: TcpStream, token: Token) -> Self {
        Self {
            key,
            io,
            token,
            activity: Activity::default(),
            readable: true,
            writable: true,
            ended: false,
            at_end: false,
            failed: false,
            write_error: None,
            traffic: Traffic::default(),
        }
    }

    /// Writes the pieces in one call, as far as it goes.
    pub(super) fn write(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        let count = write(&mut self.io, &mut self.writable, pieces)?;
        self.traffic.written += count as u64;
        Ok(count)
    }
}

/// The code for a stream whose socket failed: its peer does not answer any more, or ended the connection. What a router
/// said last takes the place of the timeout.
pub(super) fn code_of(error: &io::Error) -> Code {
    let vanished = [io::ErrorKind::TimedOut, io::ErrorKind::HostUnreachable, io::ErrorKind::NetworkUnreachable];
    if vanished.contains(&error.kind()) { Code::Idle } else { Code::Normal }
}

/// Writes once; a socket that took less than it was given is full.
pub(super) fn write(io: &mut TcpStream, writable: &mut bool, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
    let mut once = || if let [piece] = pieces { io.write(piece) } else { net::write_together(io, pieces) };
    let result = loop {
        match once() {
            // No event would tell that it can be written still.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => break result,
        }
    };
    match result {
        Ok(count) => {
            *writable = count == pieces.iter().map(|piece| piece.len()).sum();
            Ok(count)
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            *writable = false;
            Ok(0)
        }
        Err(error) => Err(error),
    }
}
