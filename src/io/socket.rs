//! What a session asks of a connected socket: a TCP connection, or what a simulator has in its place.

use std::io::{self, IoSlice, Read, Write};
use std::net::Shutdown;
use std::time::Duration;

use mio::net::TcpStream;

use crate::io::net;

/// A connected, non-blocking socket. As the kernel's it tells by edges when it can be read or written again, reads short
/// only where it is then empty (or says that there is more behind), and raises no SIGPIPE.
pub trait Socket: Read + std::fmt::Debug {
    /// Writes the pieces in one call, as far as it goes.
    ///
    /// # Errors
    /// As `sendmsg(2)`.
    fn send(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize>;

    /// Reads, and leaves what it has read for the next one.
    ///
    /// # Errors
    /// As `recv(2)`.
    fn peek(&self, buffer: &mut [u8]) -> io::Result<usize>;

    /// The error that the socket has, if it has one; it has none afterwards.
    fn take_error(&self) -> Option<io::Error>;

    /// Sends FIN behind what was written.
    ///
    /// # Errors
    /// As `shutdown(2)`.
    fn shutdown_write(&self) -> io::Result<()>;

    /// Ends the connection with FIN; what still comes is answered with RST.
    fn finish(&self);

    /// Ends the connection with RST.
    fn reset(&self);

    /// Makes the coming close one with FIN: everything has been delivered.
    fn clear_linger(&self);

    /// Sets what only a link of version 2 has.
    ///
    /// # Errors
    /// As `setsockopt(2)`.
    fn tune_link_v2(&self) -> io::Result<()>;

    /// Has the kernel ask for the peer of a link after so long a silence.
    ///
    /// # Errors
    /// As `setsockopt(2)`.
    fn set_keepalive(&self, idle: Duration) -> io::Result<()>;

    /// Sets how much the kernel holds that is not on its way: only below half of that it tells that it can be written again.
    ///
    /// # Errors
    /// As `setsockopt(2)`.
    fn set_low_water(&self, bytes: u32) -> io::Result<()>;

    /// Sets which of TCP's clocks watches a link of version 1: it has bytes in flight, or none.
    ///
    /// # Errors
    /// As `setsockopt(2)`.
    fn set_in_flight(&self, in_flight: bool) -> io::Result<()>;

    /// Has what was read acknowledged at once.
    ///
    /// # Errors
    /// As `setsockopt(2)`.
    fn acknowledge(&self) -> io::Result<()>;

    /// Whether the peer has acknowledged everything that was written.
    fn is_acknowledged(&self) -> bool;
}

impl Socket for TcpStream {
    fn send(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        if let [piece] = pieces { self.write(piece) } else { net::write_together(self, pieces) }
    }

    fn peek(&self, buffer: &mut [u8]) -> io::Result<usize> {
        Self::peek(self, buffer)
    }

    fn take_error(&self) -> Option<io::Error> {
        // Where the system does not tell there is none to be had.
        Self::take_error(self).ok().flatten()
    }

    fn shutdown_write(&self) -> io::Result<()> {
        self.shutdown(Shutdown::Write)
    }

    fn finish(&self) {
        net::finish(self);
    }

    fn reset(&self) {
        net::reset(self);
    }

    fn clear_linger(&self) {
        net::clear_linger(self);
    }

    fn tune_link_v2(&self) -> io::Result<()> {
        net::tune_link_v2(self)
    }

    fn set_keepalive(&self, idle: Duration) -> io::Result<()> {
        net::set_keepalive(self, idle)
    }

    fn set_low_water(&self, bytes: u32) -> io::Result<()> {
        net::set_low_water(self, bytes)
    }

    fn set_in_flight(&self, in_flight: bool) -> io::Result<()> {
        net::set_in_flight(self, in_flight)
    }

    fn acknowledge(&self) -> io::Result<()> {
        net::acknowledge(self)
    }

    fn is_acknowledged(&self) -> bool {
        net::is_acknowledged(self)
    }
}
