//! Listening sockets that systemd holds, and gives to the relay when it starts (sd_listen_fds(3)). They listen from before
//! the relay's start until after its end, so that a device that connects meanwhile waits, and is not refused.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{BorrowedFd, RawFd};

use socket2::SockRef;

use crate::Error;

/// Those that no listener has taken yet.
#[derive(Debug, Default)]
pub struct Inherited(Vec<(SocketAddr, TcpListener)>);

impl Inherited {
    /// Those that this process was started with.
    ///
    /// # Errors
    /// [`Error::Usage`] if one is no TCP socket that listens.
    pub fn of_process() -> Result<Self, Error> {
        let failed = |reason| Error::System { what: "cannot take the sockets that systemd gives".into(), reason };
        let given = sd_notify::listen_fds().map_err(failed)?;
        let all = given.map(|descriptor| {
            let unusable = |reason| {
                Error::Usage(format!(
                    "systemd gives descriptor {descriptor}, which is no TCP socket that listens; in tcp-remote-relay.socket \
                     write ListenStream= with a port, and no Accept=yes: {reason}"
                ))
            };
            let socket = duplicate(descriptor).map_err(failed)?;
            Ok((prepare(&socket).map_err(unusable)?, socket))
        });
        all.collect::<Result<_, _>>().map(Self)
    }

    /// The socket at exactly this address.
    pub(super) fn take(&mut self, address: SocketAddr) -> Option<TcpListener> {
        let at = self.0.iter().position(|(own, _)| is_same(own, &address))?;
        Some(self.0.swap_remove(at).1)
    }

    /// Whether each of them will be taken, if a listener is wanted at these addresses.
    ///
    /// # Errors
    /// [`Error::Usage`] with one for which there is none: a device that connects there would wait for ever.
    pub(super) fn check<'a>(&self, wanted: impl Iterator<Item = &'a SocketAddr> + Clone) -> Result<(), Error> {
        let stray = self.0.iter().find(|(own, _)| !wanted.clone().any(|address| is_same(own, address)));
        let Some((at, _)) = stray else { return Ok(()) };
        Err(Error::Usage(format!(
            "systemd gives a socket at {at}, and no device port of the relay has that address; write it as the port of \
             devices, or take it out of tcp-remote-relay.socket (client ports cannot be there: they are closed while their \
             device is away)"
        )))
    }
}

/// The socket of a descriptor that systemd gave.
#[allow(unsafe_code, reason = "only a number says which descriptors these are")]
fn duplicate(descriptor: RawFd) -> io::Result<TcpListener> {
    // Safety: sd_notify has found it open, and nothing in this process closes it.
    let given = unsafe { BorrowedFd::borrow_raw(descriptor) };
    given.try_clone_to_owned().map(TcpListener::from)
}

/// Brings the socket into the state in which the loop wants it; where it listens.
fn prepare(socket: &TcpListener) -> io::Result<SocketAddr> {
    if !SockRef::from(socket).is_listener()? {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it does not listen"));
    }
    socket.set_nonblocking(true)?;
    socket.local_addr()
}

/// Whatever a flow label or a scope says.
fn is_same(one: &SocketAddr, other: &SocketAddr) -> bool {
    (one.ip(), one.port()) == (other.ip(), other.port())
}

#[cfg(test)]
impl Inherited {
    /// As if systemd had given these.
    pub(super) fn of(sockets: Vec<TcpListener>) -> Self {
        Self(sockets.into_iter().map(|socket| (prepare(&socket).expect("it listens"), socket)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_taken_once_at_its_address_and_one_that_nobody_wants_is_told() {
        let socket = TcpListener::bind("127.0.0.1:0").expect("a port");
        let at = socket.local_addr().expect("an address");
        let mut inherited = Inherited::of(vec![socket]);
        let other = SocketAddr::from(([0, 0, 0, 0], at.port()));
        assert!(inherited.check([other, at].iter()).is_ok());
        let error = inherited.check([other].iter()).expect_err("nobody listens there").to_string();
        assert!(
            error.starts_with(&format!("systemd gives a socket at {at}, and no device port of the relay")),
            "{error}"
        );
        assert!(inherited.take(other).is_none());
        assert_eq!(inherited.take(at).and_then(|socket| socket.local_addr().ok()), Some(at));
        assert!(inherited.take(at).is_none() && inherited.check([].iter()).is_ok());
    }
}
