//! The descriptors of the process: how many devices and clients may have, and how a shortage is logged.

use std::io;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit};
use tracing::{info, warn};

use crate::Error;

/// Of the process itself: standard streams, poll, signals, and what is open for a moment.
const OWN: usize = 16;
/// Links that drain, the one in use, and the next.
const LINKS: usize = 10;
/// Connections on the device port that may be without LISTEN at once.
const MAX_PENDING: usize = 64;
/// A shortage is over when nothing was refused for so long.
const OVER_AFTER: Duration = Duration::from_secs(10);

/// What the limit of the process leaves for devices and for clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Descriptors {
    /// Connections on the device port that may be without LISTEN.
    pub(super) pending: usize,
    /// Sockets of clients.
    pub(super) clients: usize,
}

impl Descriptors {
    /// Of the process, beside `ports` that listen; `clients` are wanted.
    ///
    /// # Errors
    /// [`Error::System`] if no client could be served.
    pub(super) fn of_process(ports: usize, clients: usize) -> Result<Self, Error> {
        // Where the system does not tell there may be any number.
        let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(usize::MAX, |(soft, _)| soft as usize);
        let all = Self::divide(limit, ports).ok_or_else(|| {
            let needed = ports + LINKS + OWN + 1;
            let what = format!(
                "{ports} ports need more than {needed} open files, and the limit is {limit}; raise it (ulimit -n), or \
                 give fewer pairs"
            );
            Error::System { what, reason: io::Error::from_raw_os_error(nix::errno::Errno::EMFILE as i32) }
        })?;
        if all.clients < clients {
            warn!(
                limit,
                ports,
                clients = all.clients,
                wanted = clients,
                "the limit of open files leaves room for fewer clients than there may be; raise it (ulimit -n)"
            );
        }
        Ok(all)
    }

    /// `None` if no client could be served.
    fn divide(limit: usize, ports: usize) -> Option<Self> {
        let rest = limit.checked_sub(ports + OWN + LINKS)?;
        let pending = (rest / 4).clamp(1, MAX_PENDING);
        let clients = rest.checked_sub(pending).filter(|&clients| clients > 0)?;
        Some(Self { pending, clients })
    }
}

/// Logs once that descriptors are short, and once that they no longer are.
#[derive(Debug, Default)]
pub(super) struct Shortage {
    /// Since when, and when something last had to wait for one.
    times: Option<(Instant, Instant)>,
}

impl Shortage {
    /// A connection cannot be accepted for now.
    pub(super) fn note(&mut self, now: Instant, reason: &io::Error) {
        if self.times.is_none() {
            warn!(%reason, "cannot accept connections; those that come wait (raise ulimit -n)");
        }
        let since = self.times.map_or(now, |(since, _)| since);
        self.times = Some((since, now));
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.times.map(|(_, last)| last + OVER_AFTER)
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        if let Some((since, last)) = self.times
            && last + OVER_AFTER <= now
        {
            info!(seconds = (last - since).as_secs(), "connections are accepted again");
            self.times = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_device_port_keeps_its_part_and_the_rest_is_for_clients() {
        assert_eq!(Descriptors::divide(1024, 2), Some(Descriptors { pending: 64, clients: 932 }));
        assert_eq!(Descriptors::divide(64, 2), Some(Descriptors { pending: 9, clients: 27 }));
        assert_eq!(Descriptors::divide(1024, 998), None, "no client could be served");
        assert_eq!(Descriptors::divide(1024, 3001), None);
        assert!(Descriptors::divide(usize::MAX, 2).is_some_and(|all| all.pending == 64));
    }

    #[test]
    fn a_shortage_is_over_when_nothing_waited_for_a_while() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let reason = io::Error::from_raw_os_error(24);
        let mut shortage = Shortage::default();
        shortage.note(at(0), &reason);
        shortage.note(at(7), &reason);
        shortage.handle_timeout(at(16));
        assert_eq!(shortage.poll_timeout(), Some(at(17)));
        shortage.handle_timeout(at(17));
        assert_eq!(shortage.poll_timeout(), None);
    }
}
