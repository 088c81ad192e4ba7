//! TCP done properly: the options of every kind of socket, in one place.

#[cfg(target_os = "linux")]
mod queued;

use std::io::{self, IoSlice};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::AsFd;
use std::time::Duration;

use mio::net::TcpStream;
use nix::libc;
use rustix::net::{SendAncillaryBuffer, SendFlags};
use socket2::{SockRef, TcpKeepalive};

use crate::address::Address;

/// Idle time before the first keepalive probe of a link.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(15);
/// Time between probes; after three without an answer the link is dead: 45 s when idle.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_PROBES: u32 = 3;
/// After this time without a byte a client or a service is asked whether it is there; it is gone after 90 s in all.
const STREAM_IDLE: Duration = Duration::from_secs(60);
/// A version 2 link that does not move answers PING; bytes without an acknowledgement for so long are lost.
const USER_TIMEOUT_V2: Duration = Duration::from_secs(45);
/// What the kernel may hold of a version 2 link before it is on its way: what comes later may still pass it here.
const NOTSENT_LOWAT: u32 = 128 * 1024;
/// The same for a client or a service, beyond what it has room for: one that stops reading must not fill the kernel with
/// megabytes that are counted nowhere.
#[cfg(any(target_os = "android", target_os = "linux"))]
const STREAM_NOTSENT_LOWAT: u32 = 256 * 1024;
/// Whether a connection begins with the options of the port that took it. The kernel of Linux copies its socket.
#[cfg(feature = "relay")]
const INHERITED: bool = cfg!(any(target_os = "android", target_os = "linux"));
/// A version 1 link may stand still for two stalls of 30 s; bytes unacknowledged for longer mean that it is dead.
const USER_TIMEOUT_V1: Duration = Duration::from_secs(75);

/// Options of the one connection that carries everything. They find an idle link that is dead within 45 s.
pub(crate) fn tune_link(stream: &impl AsFd) -> io::Result<()> {
    SockRef::from(stream).set_tcp_nodelay(true)?;
    set_keepalive(stream, KEEPALIVE_IDLE)
}

/// Has the kernel ask for the peer of a link after so long a silence.
pub(crate) fn set_keepalive(stream: &impl AsFd, idle: Duration) -> io::Result<()> {
    let keepalive = TcpKeepalive::new().with_time(idle).with_interval(KEEPALIVE_INTERVAL);
    SockRef::from(stream).set_tcp_keepalive(&keepalive.with_retries(KEEPALIVE_PROBES))
}

/// Whether a version 1 link has bytes in flight, which may take as long as a link may stand still. While it has none the
/// keepalive probes rule: with TCP_USER_TIMEOUT set they are not counted (tcp(7)).
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

/// Whether the peer has acknowledged everything that was written, as far as the system says; where it does not,
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

/// Has the kernel hold at most so many bytes that are not on their way; the link is writable again below half of that.
pub(crate) fn set_low_water(stream: &impl AsFd, bytes: u32) -> io::Result<()> {
    #[cfg(any(target_os = "android", target_os = "linux"))]
    SockRef::from(stream).set_tcp_notsent_lowat(bytes)?;
    #[cfg(not(any(target_os = "android", target_os = "linux")))]
    let _ = (stream, bytes);
    Ok(())
}

/// Options of a client's or a service's connection.
pub(crate) fn tune_stream(stream: &impl AsFd) -> io::Result<()> {
    let socket = SockRef::from(stream);
    socket.set_tcp_nodelay(true)?;
    // Where the process is killed the kernel ends the connection with RST, so that the peer does not take it for
    // complete; see `clear_linger`.
    socket.set_linger(Some(Duration::ZERO))?;
    #[cfg(any(target_os = "android", target_os = "linux"))]
    socket.set_tcp_notsent_lowat(STREAM_NOTSENT_LOWAT)?;
    // A peer that vanished must not hold its place, nor a service that has one connection only, for hours.
    let keepalive = TcpKeepalive::new().with_time(STREAM_IDLE).with_interval(KEEPALIVE_INTERVAL);
    socket.set_tcp_keepalive(&keepalive.with_retries(KEEPALIVE_PROBES))
}

/// Options of a port where clients connect, which their connections have from it: seven calls fewer for each.
#[cfg(feature = "relay")]
pub(crate) fn tune_listener(listener: &impl AsFd) -> io::Result<()> {
    if INHERITED { tune_stream(listener) } else { Ok(()) }
}

/// Options of a client's connection beyond those that its port gave it.
#[cfg(feature = "relay")]
pub(crate) fn tune_accepted(stream: &impl AsFd) -> io::Result<()> {
    if INHERITED { Ok(()) } else { tune_stream(stream) }
}

/// Makes the coming close of a stream's connection one with FIN: everything has been delivered.
pub(crate) fn clear_linger(stream: &impl AsFd) {
    // A socket that is already reset may refuse; then there is nothing to deliver.
    let _ = SockRef::from(stream).set_linger(None);
}

/// Ends a connection with RST, though others have copies of its socket: a child that the host forked without exec keeps a
/// connection open that is only closed here.
pub(crate) fn reset(stream: &impl AsFd) {
    // A socket that is already reset may refuse; then there is nothing left to do. Where the first does not end it, the
    // coming close does.
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
    #[cfg(any(target_os = "android", target_os = "linux"))]
    let _ = rustix::net::connect_unspec(stream);
}

/// Ends a connection with FIN, though others have copies of its socket; the kernel answers what still comes with RST, as
/// it does after a close.
pub(crate) fn finish(stream: &TcpStream) {
    // One that is already reset, or finished, may refuse.
    let _ = stream.shutdown(Shutdown::Both);
}

/// Writes what lies apart in one call, as far as it goes. `writev` raises SIGPIPE where the peer is gone; this does not.
pub(crate) fn write_together(stream: &impl AsFd, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
    // There it is an option of the socket, SO_NOSIGPIPE.
    #[cfg(target_vendor = "apple")]
    let flags = SendFlags::empty();
    #[cfg(not(target_vendor = "apple"))]
    let flags = SendFlags::NOSIGNAL;
    Ok(rustix::net::sendmsg(stream, pieces, &mut SendAncillaryBuffer::default(), flags)?)
}

/// Begins to connect; the socket is writable, or failed, when that is done.
pub(crate) fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    TcpStream::connect(address)
}

/// How a connection that [`connect`] began has ended: `None` while it has not. One that has reached itself, as can be
/// without a listener at a port that the system gives to clients, is refused.
pub(crate) fn connected(stream: &TcpStream) -> Option<io::Result<()>> {
    if let Err(error) | Ok(Some(error)) = stream.take_error() {
        return Some(Err(error));
    }
    match stream.peer_addr() {
        Ok(peer) if stream.local_addr().is_ok_and(|local| local == peer) => {
            // With FIN its port would be kept from the service for a minute.
            reset(stream);
            Some(Err(io::Error::from_raw_os_error(libc::ECONNREFUSED)))
        }
        Ok(_) => Some(Ok(())),
        Err(error) if error.kind() == io::ErrorKind::NotConnected => None,
        Err(error) => Some(Err(error)),
    }
}

/// What to do where the system has nothing left to make a connection of; `None` for any other error.
pub(crate) fn remedy_of_shortage(error: &io::Error) -> Option<&'static str> {
    Some(match error.raw_os_error()? {
        libc::EMFILE => "raise the limit of open files of this process (ulimit -n)",
        libc::ENFILE => "raise the limit of open files of the system (sysctl fs.file-max)",
        libc::ENOMEM | libc::ENOBUFS => "the system has no memory left for it",
        libc::EADDRNOTAVAIL => "no local port is free for it, or there is no local address of its kind",
        _ => return None,
    })
}

/// Text that came from outside, fit for one line of a log.
pub(crate) fn shown(address: &Address) -> String {
    address.to_string().escape_debug().to_string()
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use socket2::{Domain, Socket, Type};

    use super::*;

    #[test]
    fn a_connection_to_itself_is_refused_and_keeps_no_port() {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("socket");
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("bind");
        let own = socket.local_addr().expect("address");
        socket.connect(&own).expect("TCP opens simultaneously");
        socket.set_nonblocking(true).expect("non-blocking");
        let stream = TcpStream::from_std(socket.into());
        let error = connected(&stream).expect("it has ended").expect_err("refused");
        assert_eq!(error.to_string(), "Connection refused (os error 111)");
        drop(stream);
        TcpListener::bind(own.as_socket().expect("of TCP")).expect("the service can have its port");
    }

    #[test]
    fn of_a_shortage_it_is_said_what_to_do() {
        let remedy = |errno| remedy_of_shortage(&io::Error::from_raw_os_error(errno));
        assert_eq!(remedy(libc::EMFILE), Some("raise the limit of open files of this process (ulimit -n)"));
        for errno in [libc::ENFILE, libc::ENOMEM, libc::ENOBUFS, libc::EADDRNOTAVAIL] {
            assert!(remedy(errno).is_some(), "{errno}");
        }
        assert_eq!((remedy(libc::ECONNREFUSED), remedy(libc::EHOSTUNREACH)), (None, None));
        assert_eq!(remedy_of_shortage(&io::ErrorKind::TimedOut.into()), None);
    }

    #[test]
    #[cfg(all(target_os = "linux", feature = "relay"))]
    fn a_connection_has_the_options_of_the_port_that_took_it() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        tune_listener(&listener).expect("options");
        let client = std::net::TcpStream::connect(listener.local_addr().expect("address")).expect("connect");
        let (accepted, _) = listener.accept().expect("a connection");
        tune_accepted(&accepted).expect("options");
        tune_stream(&client).expect("options");
        let options = |socket: SockRef<'_>| {
            let keepalive = (socket.keepalive(), socket.tcp_keepalive_time(), socket.tcp_keepalive_interval());
            let other = (socket.tcp_nodelay(), socket.linger(), socket.tcp_notsent_lowat());
            format!("{keepalive:?} {:?} {other:?}", socket.tcp_keepalive_retries())
        };
        assert_eq!(options(SockRef::from(&accepted)), options(SockRef::from(&client)));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_client_or_a_service_that_has_vanished_is_found_after_90_s() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let stream = std::net::TcpStream::connect(listener.local_addr().expect("address")).expect("connect");
        tune_stream(&stream).expect("options");
        let socket = SockRef::from(&stream);
        assert!(socket.keepalive().expect("option"));
        let (time, interval) = (socket.tcp_keepalive_time(), socket.tcp_keepalive_interval());
        let (time, interval) = (time.expect("option"), interval.expect("option"));
        assert_eq!(time + interval * socket.tcp_keepalive_retries().expect("option"), Duration::from_secs(90));
    }

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

    /// Whether the peer gets an error for what is not read any more, before all buffers are full.
    fn is_refused(peer: &mut std::net::TcpStream) -> bool {
        peer.set_write_timeout(Some(Duration::from_secs(1))).expect("deadline");
        let error = std::iter::repeat_with(|| peer.write(&[0; 64 * 1024])).find_map(Result::err).expect("an error");
        matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_reset_waits_for_no_copy_of_the_socket() {
        let (io, copy, mut peer) = copied();
        reset(&io);
        drop(io);
        assert_eq!(peer.read(&mut [0]).expect_err("a reset").kind(), io::ErrorKind::ConnectionReset);
        drop(copy);
    }

    #[test]
    fn an_end_waits_for_no_copy_of_the_socket() {
        let (io, copy, mut peer) = copied();
        finish(&io);
        drop(io);
        assert_eq!(peer.read(&mut [0]).expect("an end"), 0);
        assert!(is_refused(&mut peer), "it is not read any more");
        drop(copy);
    }
}
