//! The socket of one stream.

use std::io::{self, IoSlice};

use mio::Token;

use super::scheduler::Activity;
use super::state::{Reading, Writing};
use crate::connection::StreamKey;
use crate::io::socket::Socket;
use crate::protocol::v2::Code;

/// What stands at a stream's index.
#[derive(Debug)]
pub(super) enum Place<S> {
    Free,
    Open(StreamSocket<S>),
    /// Of the last stream what went through its socket, until the next one takes the index.
    Over(StreamKey, Traffic),
}

impl<S> Place<S> {
    pub(super) fn socket(&self) -> Option<&StreamSocket<S>> {
        if let Self::Open(socket) = self { Some(socket) } else { None }
    }

    pub(super) fn socket_mut(&mut self) -> Option<&mut StreamSocket<S>> {
        if let Self::Open(socket) = self { Some(socket) } else { None }
    }

    pub(super) fn into_socket(self) -> Option<StreamSocket<S>> {
        if let Self::Open(socket) = self { Some(socket) } else { None }
    }
}

#[derive(Debug)]
pub(super) struct StreamSocket<S> {
    pub(super) key: StreamKey,
    pub(super) tcp: S,
    pub(super) token: Token,
    pub(super) activity: Activity,
    pub(super) reading: Reading,
    pub(super) writing: Writing,
    pub(super) traffic: Traffic,
}

/// What went through a stream's socket, and how that failed if it did.
#[derive(Clone, Debug, Default)]
pub(crate) struct Traffic {
    /// Bytes that were read from the socket.
    pub(crate) read: u64,
    /// Bytes that the socket took.
    pub(crate) written: u64,
    /// Few have one, so it is apart.
    pub(crate) failure: Option<Box<(Code, String)>>,
}

impl<S: Socket> StreamSocket<S> {
    /// A connected one, registered under `token`. It may have been readable before it was.
    pub(super) fn new(key: StreamKey, tcp: S, token: Token) -> Self {
        Self {
            key,
            tcp,
            token,
            activity: Activity::default(),
            reading: Reading::Readable,
            writing: Writing::Writable,
            traffic: Traffic::default(),
        }
    }

    /// Why it is of no more use, where that is known: it could not be written, or it hung up.
    pub(super) fn take_error(&mut self) -> Option<io::Error> {
        let hung_up = self.reading == Reading::HungUp;
        self.writing.take_error().or_else(|| if hung_up { self.tcp.take_error() } else { None })
    }

    /// Writes the pieces in one call, as far as it goes; what comes for a peer that takes no more is dropped.
    pub(super) fn write(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        match self.writing {
            Writing::Full => Ok(0),
            Writing::Finished | Writing::Failed(_) => Ok(total(pieces)),
            Writing::Writable => {
                let count = write(&mut self.tcp, &mut self.writing, pieces)?;
                self.traffic.written += count as u64;
                Ok(count)
            }
        }
    }
}

/// The code for a stream whose socket failed: IDLE if its peer has vanished, of which the system says that it timed out or
/// what a router answered last; NORMAL for anything else, such as a RST.
pub(super) fn code_of(error: &io::Error) -> Code {
    let vanished = [io::ErrorKind::TimedOut, io::ErrorKind::HostUnreachable, io::ErrorKind::NetworkUnreachable];
    if vanished.contains(&error.kind()) { Code::Idle } else { Code::Normal }
}

/// Writes once; a socket that took less than it was given is full.
pub(super) fn write(tcp: &mut impl Socket, writing: &mut Writing, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
    let count = loop {
        match tcp.send(pieces) {
            // No event would tell that it can be written still.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break 0,
            result => break result?,
        }
    };
    if count < total(pieces) {
        *writing = Writing::Full;
    }
    Ok(count)
}

pub(super) fn total(pieces: &[IoSlice<'_>]) -> usize {
    pieces.iter().map(|piece| piece.len()).sum()
}
