//! The descriptors of the process: how many devices and clients may have, and how a shortage is logged.

use std::io;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit};
use tracing::{info, warn};

use super::limits;
use crate::Error;
use crate::io::retired;

/// Of the process itself: standard streams, poll, signals, and what is open for a moment.
const OWN: usize = 16;
/// Connections on the device port that may be without LISTEN at once.
const MAX_PENDING: usize = 64;
/// Devices that may come beside those that are configured.
const MAX_OTHERS: usize = 100_000;
/// A shortage is over when nothing was refused for so long.
const OVER_AFTER: Duration = Duration::from_secs(10);

/// What the limit of the process leaves for devices and for clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Descriptors {
    /// Connections on the device ports that may be without LISTEN.
    pub(super) pending: usize,
    /// Devices that may be served.
    pub(super) devices: usize,
    /// Sockets of clients.
    pub(super) clients: usize,
}

impl Descriptors {
    /// Of the process, beside `ports` that listen; so many devices and `clients` are wanted, and with `others` as many
    /// more devices as there is room for.
    ///
    /// # Errors
    /// [`Error::System`] if no client could be served.
    pub(super) fn of_process(ports: usize, devices: usize, others: bool, clients: usize) -> Result<Self, Error> {
        // Where the system does not tell there may be any number.
        let limit = getrlimit(Resource::RLIMIT_NOFILE)
            .map_or(usize::MAX, |(soft, _)| usize::try_from(soft).unwrap_or(usize::MAX));
        let most = if others { devices.saturating_add(MAX_OTHERS) } else { devices };
        let all = Self::divide(limit, ports, most).ok_or_else(|| {
            let needed = ports + links(1) + OWN + 1;
            let what = format!(
                "{ports} ports need more than {needed} open files, and the limit is {limit}; raise it (ulimit -n), or \
                 give fewer pairs"
            );
            Error::System { what, reason: io::Error::from_raw_os_error(nix::errno::Errno::EMFILE as i32) }
        })?;
        if all.devices < devices {
            warn!(
                limit,
                ports,
                devices = all.devices,
                wanted = devices,
                "the limit of open files leaves room for fewer devices than there may be; raise it (ulimit -n)"
            );
        }
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

    /// `None` if no client could be served. Devices have half of what is left at most, and all their links three quarters.
    fn divide(limit: usize, ports: usize, devices: usize) -> Option<Self> {
        let rest = limit.checked_sub(ports + OWN)?;
        let devices = devices.min(rest / 2).min(devices_of(rest / 4 * 3)).max(1);
        let rest = rest.checked_sub(links(devices))?;
        let pending = (rest / 4).clamp(1, MAX_PENDING);
        let clients = rest.checked_sub(pending).filter(|&clients| clients > 0)?;
        Some(Self { pending, devices, clients })
    }
}

/// Links that so many devices may have: those in use, those that drain, and one that is the next of any.
fn links(devices: usize) -> usize {
    devices + devices.saturating_mul(retired::MAX_DRAINING).min(limits::MAX_DRAINING) + 1
}

/// How many devices may have so many links.
fn devices_of(links: usize) -> usize {
    let others = links.saturating_sub(1);
    (others / (1 + retired::MAX_DRAINING)).max(others.saturating_sub(limits::MAX_DRAINING))
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
        let divide = |limit, ports| {
            let all = Descriptors::divide(limit, ports, 1)?;
            assert_eq!(all.devices, 1);
            Some((all.pending, all.clients))
        };
        assert_eq!(divide(1024, 2), Some((64, 932)));
        assert_eq!(divide(64, 2), Some((9, 27)));
        assert_eq!(divide(1024, 998), None, "no client could be served");
        assert_eq!(divide(1024, 3001), None);
        assert!(divide(usize::MAX, 2).is_some_and(|(pending, _)| pending == 64));
    }

    #[test]
    fn each_device_has_a_descriptor_as_far_as_half_of_them_go() {
        let devices = |limit, devices| Descriptors::divide(limit, 1, devices).expect("descriptors");
        assert_eq!(devices(65_536, 10_000), Descriptors { pending: 64, devices: 10_000, clients: 55_390 });
        let few = devices(1024, 10_000);
        assert!(few.devices == 503 && few.clients > 300, "{few:?}");
    }

    #[test]
    fn a_small_limit_is_enough_for_a_device_and_a_client_and_leaves_clients_their_part() {
        assert_eq!(Descriptors::divide(64, 3, MAX_OTHERS), Some(Descriptors { pending: 4, devices: 3, clients: 13 }));
        let least = 3 + links(1) + OWN + 2;
        assert_eq!(Descriptors::divide(least, 3, MAX_OTHERS), Some(Descriptors { pending: 1, devices: 1, clients: 1 }));
        assert_eq!(Descriptors::divide(least - 1, 3, MAX_OTHERS), None);
        for limit in least..5000 {
            let Descriptors { devices, .. } = Descriptors::divide(limit, 3, MAX_OTHERS).expect("enough");
            let rest = limit - 3 - OWN;
            let fits = |devices: usize| devices <= rest / 2 && links(devices) <= rest / 4 * 3;
            assert!((devices == 1 || fits(devices)) && !fits(devices + 1), "{limit}: {devices}");
        }
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
