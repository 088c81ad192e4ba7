//! What a version 1 link asks of TCP: which of its clocks watches it, one for what was written and is not acknowledged
//! and one for silence; and that what was read is acknowledged at once.

use std::time::{Duration, Instant};

use crate::io::socket::Socket;

/// How often a link that was written is asked whether all has arrived.
const CHECK_EVERY: Duration = Duration::from_secs(5);

/// Which of TCP's clocks watches a link.
#[derive(Debug)]
pub(super) enum UserTimeout {
    /// Keepalive: all that was written has arrived.
    Off,
    /// The user timeout: some may not have arrived. It is looked at again at this time.
    On(Instant),
    /// None: it is version 2, which asks its peer itself.
    Unwatched,
}

impl UserTimeout {
    /// Bytes were written.
    pub(super) fn handle_write(&mut self, now: Instant, link: &impl Socket) {
        if matches!(self, Self::Off) {
            *self = Self::On(now + CHECK_EVERY);
            // The options only hasten what TCP finds without them.
            let _ = link.set_in_flight(true);
        }
    }

    /// The link was read until it was empty.
    pub(super) fn handle_read(&self, link: &impl Socket) {
        if !matches!(self, Self::Unwatched) {
            // The option only hastens what TCP does without it.
            let _ = link.acknowledge();
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        if let Self::On(at) = self { Some(*at) } else { None }
    }

    /// The time may have come.
    pub(super) fn handle_timeout(&mut self, now: Instant, link: &impl Socket) {
        if self.poll_timeout().is_none_or(|at| at > now) {
            return;
        }
        if link.is_acknowledged() {
            *self = Self::Off;
            let _ = link.set_in_flight(false);
        } else {
            *self = Self::On(now + CHECK_EVERY);
        }
    }
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use mio::net::TcpStream;
    use socket2::SockRef;

    use super::*;

    #[test]
    fn keepalive_rules_from_when_the_peer_has_acknowledged_everything() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let mut peer = std::net::TcpStream::connect(listener.local_addr().expect("address")).expect("connect");
        let io = listener.accept().expect("accept").0;
        io.set_nonblocking(true).expect("mode");
        let mut link = TcpStream::from_std(io);
        let option = |link: &TcpStream| SockRef::from(link).tcp_user_timeout().expect("option");
        let mut now = Instant::now();
        let mut user_timeout = UserTimeout::Off;

        let mut written = 0;
        while let Ok(count) = link.write(&[b'x'; 64 * 1024]) {
            written += count;
            user_timeout.handle_write(now, &link);
        }
        assert_eq!(
            (user_timeout.poll_timeout(), option(&link)),
            (Some(now + CHECK_EVERY), Some(Duration::from_secs(75)))
        );
        now += CHECK_EVERY;
        user_timeout.handle_timeout(now, &link);
        assert_eq!(user_timeout.poll_timeout(), Some(now + CHECK_EVERY), "the peer's kernel has no room for all");

        peer.read_exact(&mut vec![0; written]).expect("all of it");
        let deadline = Instant::now() + Duration::from_secs(10);
        while user_timeout.poll_timeout().is_some() && Instant::now() < deadline {
            now += CHECK_EVERY;
            user_timeout.handle_timeout(now, &link);
        }
        assert_eq!((user_timeout.poll_timeout(), option(&link)), (None, None));
    }

    #[test]
    fn version_2_is_left_alone() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let link = TcpStream::connect(listener.local_addr().expect("address")).expect("connect");
        let mut user_timeout = UserTimeout::Unwatched;
        user_timeout.handle_write(Instant::now(), &link);
        assert_eq!(user_timeout.poll_timeout(), None);
    }
}
