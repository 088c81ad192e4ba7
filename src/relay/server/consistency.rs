//! What must hold whenever a server waits; for assertions.

use std::collections::BTreeMap;

use super::Server;
use super::device::Device;
use super::peer::Peer;
use super::totals::{Share, Totals};

impl Server {
    /// Whether nothing was forgotten, which would show only when something else happens. For assertions: it looks at
    /// everything.
    pub(super) fn is_consistent(&self) -> bool {
        let (mut totals, mut by_device) = (Totals::default(), BTreeMap::new());
        for (number, Peer { share, .. }) in self.sessions.iter() {
            totals.add(number, share);
            if let Some(device) = share.device {
                by_device.entry(device).or_insert_with(Totals::default).add(number, share);
            }
        }
        let mut devices = self.devices.iter();
        let none = Totals::default();
        self.sessions.is_armed(Peer::poll_timeout)
            && self.sessions.idle().all(|(_, peer)| peer.share == Share::of(peer))
            && self.device_ports.is_armed(|port| port.listener.paused_until())
            && self.proxied.is_armed(|proxied| Some(proxied.deadline))
            && self.totals == totals
            && devices.all(|(number, device)| &device.totals == by_device.get(&number).unwrap_or(&none))
            && self.devices.iter().map(|(_, device)| device.waiting.len()).sum::<usize>() == self.waiting
            && self.devices.iter().filter(|(_, device)| device.active.is_some()).count() == self.served
            && self.devices.iter().all(|(number, device)| self.is_served_by_own(number, device))
            && self.devices.idle().all(|(_, device)| self.rests(device))
            && self.devices.is_armed(|device| device.poll_timeout(self.takes_clients(device)))
    }

    /// Whether the link on which a device is served, if there is one, is that device's.
    fn is_served_by_own(&self, number: usize, device: &Device) -> bool {
        device.active.is_none_or(|link| self.sessions.get(link).and_then(|peer| peer.device) == Some(number))
    }

    /// Whether a device that is on no list has nothing to do.
    fn rests(&self, device: &Device) -> bool {
        let has_next = |number| device.next_waiting(&self.shares(number)).is_some();
        let can_serve = !device.waiting.is_empty() && device.active.is_some_and(has_next);
        let listeners = &device.listeners;
        !self.takes_clients(device)
            || !can_serve && !listeners.has_ready() && listeners.is_armed(|(listener, _)| listener.paused_until())
    }
}
