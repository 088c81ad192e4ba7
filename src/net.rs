//! TCP done properly: the options of every kind of socket, in one place.

#[cfg(target_os = "linux")]
mod queued;

use std::io;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::AsFd;
use std::time::Duration;

use mio::net::TcpStream;
use socket2::{SockRef, TcpKeepalive};

use crate::address::Address;

/// Idle time before the first keepalive probe of a link.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(15);
/// Time between probes; after three without an answer the link is dead: 45 s when idle.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_PROBES: u32 = 3;
/// After this time without a byte the peer of a half-closed stream is asked whether it is there.
const HALF_CLOSED_IDLE: Duration = Duration::from_secs(60);
/// A version 2 link that does not move answers PING; bytes that nobody acknowledges for so long are lost.
const USER_TIMEOUT_V2: Duration = Duration::from_secs(45);
/// What the kernel may hold of a version 2 link before it is on its way: what comes later may still pass it here.
const NOTSENT_LOWAT: u32 = 128 * 1024;
/// A version 1 link may stand still for two stalls of 30 s; bytes unacknowledged for longer mean that it is dead.
const USER_TIMEOUT_V1: Duration = Duration::from_secs(75);

/// Options of the one connection that carries everything. They find an idle link that is dead within 45 s.
pub(crate) fn tune_link(stream: &impl AsFd) -> io::Result<()> {
    let socket = SockRef::from(stream);
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(KEEPALIVE_INTERVAL);
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&keepalive.with_retries(KEEPALIVE_PROBES))
}

/// Whether a version 1 link has bytes in flight, which may take as long as a link may stand still. While it has none the
/// keepalive probes rule: with TCP_USER_TIMEOUT set nobody counts them (tcp(7)).
pub(crate) fn set_in_flight(stream: &impl AsFd, in_flight: bool) -> io::Result<()> {
    #[cfg(any(target_os = "android", target_os = "linux"))]
    SockRef::from(stream).set_tcp_user_timeout(in_flight.then_some(USER_TIMEOUT_V1))?;
    Ok(())
}

/// Has the kernel acknowledge at once what was read. A program of 2012 writes header and payload apart, and its kernel
/// keeps the second back until the first is acknowledged (Nagle), which ours would put off for 40 ms.
pub(crate) fn acknowledge(stream: &impl AsFd) -> io::Result<()> {
    #[cfg(any(target_os = "android", target_os = "linux"))]
    SockRef::from(stream).set_tcp_quickack(true)?;
    #[cfg(not(any(target_os = "android", target_os = "linux")))]
    let _ = stream;
    Ok(())
}

/// Whether the peer has acknowledged everything that was written, as far as the system tells; where it does not,
/// [`set_in_flight`] stays `true` if it means anything there.
pub(crate) fn is_acknowledged(stream: &impl AsFd) -> bool {
    #[cfg(target_os = "linux")]
    return queued::is_empty(stream);
    #[cfg(not(target_os = "linux"))]
    {
        let _ = stream;
        !cfg!(target_os = "android")
    }
}

/// More options, once version 2 is spoken.
pub(crate) fn tune_link_v2(stream: &impl AsFd) -> io::Result<()> {
    let socket = SockRef::from(stream);
    #[cfg(any(target_os = "android", target_os = "linux"))]
    {
        socket.set_tcp_user_timeout(Some(USER_TIMEOUT_V2))?;
        socket.set_tcp_notsent_lowat(NOTSENT_LOWAT)?;
    }
    Ok(())
}

/// Options of a client's or a service's connection.
pub(crate) fn tune_stream(stream: &impl AsFd) -> io::Result<()> {
    let socket = SockRef::from(stream);
    socket.set_tcp_nodelay(true)?;
    // Whoever ends us in the midst of things, the kernel then ends the connection with RST, which nobody takes for a
    // complete one; see `close_in_peace`.
    socket.set_linger(Some(Duration::ZERO))?;
    // A peer that vanished must not hold its place for ever.
    socket.set_keepalive(true)
}

/// Makes the coming close of a stream's connection one with FIN: everything has been delivered.
pub(crate) fn close_in_peace(stream: &impl AsFd) {
    // A socket that is already reset may refuse; then there is no peace to be had.
    let _ = SockRef::from(stream).set_linger(None);
}

/// A peer that sends no more may still read, or have gone without a word: it is asked every so often.
pub(crate) fn watch_half_closed(stream: &impl AsFd) -> io::Result<()> {
    // The system of one that has gone answers the first probe with RST, so when the next would come matters little; and
    // this is done for every connection, most of which are over at once.
    SockRef::from(stream).set_tcp_keepalive(&TcpKeepalive::new().with_time(HALF_CLOSED_IDLE))
}

/// Ends a connection with RST, whoever else has a copy of its socket: a child that the host forked without exec keeps a
/// connection open that is only closed here.
pub(crate) fn reset(stream: &impl AsFd) {
    // A socket that is already reset may refuse; then there is nothing left to do. Where the first does not end it, the
    // coming close does.
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
    #[cfg(any(target_os = "android", target_os = "linux"))]
    let _ = rustix::net::connect_unspec(stream);
}

/// Ends a connection with FIN, whoever else has a copy of its socket.
pub(crate) fn finish(stream: &TcpStream) {
    // One that is already reset, or finished, may refuse.
    let _ = stream.shutdown(Shutdown::Write);
}

/// Begins to connect; the socket is writable, or failed, when that is done.
pub(crate) fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    TcpStream::connect(address)
}

/// How a connection that [`connect`] began has ended: `None` while it has not.
pub(crate) fn connected(stream: &TcpStream) -> Option<io::Result<()>> {
    if let Err(error) | Ok(Some(error)) = stream.take_error() {
        return Some(Err(error));
    }
    match stream.peer_addr() {
        Ok(_) => Some(Ok(())),
        Err(error) if error.kind() == io::ErrorKind::NotConnected => None,
        Err(error) => Some(Err(error)),
    }
}

/// Text that came from outside, fit for one line of a log.
pub(crate) fn shown(address: &Address) -> String {
    address.to_string().escape_debug().to_string()
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use std::io::{ErrorKind, Read};
    use std::net::TcpListener;

    use super::*;

    /// A connection, a copy of its first end as a forked child would hold it, and the other end.
    fn copied() -> (TcpStream, std::net::TcpStream, std::net::TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let io = std::net::TcpStream::connect(listener.local_addr().expect("address")).expect("connect");
        let copy = io.try_clone().expect("a copy");
        io.set_nonblocking(true).expect("mode");
        let (peer, _) = listener.accept().expect("accept");
        peer.set_read_timeout(Some(Duration::from_secs(15))).expect("deadline");
        (TcpStream::from_std(io), copy, peer)
    }

    #[test]
    fn a_reset_waits_for_no_copy_of_the_socket() {
        let (io, copy, mut peer) = copied();
        reset(&io);
        drop(io);
        assert_eq!(peer.read(&mut [0]).expect_err("a reset").kind(), ErrorKind::ConnectionReset);
        drop(copy);
    }

    #[test]
    fn an_end_waits_for_no_copy_of_the_socket() {
        let (io, copy, mut peer) = copied();
        finish(&io);
        drop(io);
        assert_eq!(peer.read(&mut [0]).expect("an end"), 0);
        drop(copy);
    }
}
