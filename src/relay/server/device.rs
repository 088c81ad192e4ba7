//! What belongs to one device: the link that is served, its client ports, and the clients that wait for a place.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use super::clients::PendingClient;
use super::ports::PortService;
use super::shares::Shares;
use super::totals::Totals;
use crate::address::Address;
use crate::identity::Name;
use crate::io::table::Table;
use crate::relay::listener::Listener;

/// One device that is served, or will be when it comes. Its number is its place in the server's table.
#[derive(Debug)]
pub(super) struct Device {
    /// Where it connects, if that is a port of its own.
    pub(super) listen: Option<Address>,
    /// Of one that has an identity.
    pub(super) name: Option<Name>,
    /// The last two starts of its process, by what it says of itself: the newer one first.
    instances: [Option<[u8; 16]>; 2],
    /// The session of the link that is served: the newest that sent LISTEN.
    pub(super) active: Option<usize>,
    /// They listen while the device is there; each with its place in `ports`.
    pub(super) listeners: Table<(Listener, usize)>,
    pub(super) ports: Vec<ClientPort>,
    /// Whether clients can only come from this machine.
    pub(super) is_local: bool,
    /// When to try again to open client ports that could not be.
    pub(super) reopen_at: Option<Instant>,
    /// Clients that wait for a place.
    pub(super) waiting: VecDeque<PendingClient>,
    /// What its links come to.
    pub(super) totals: Totals,
}

/// Where clients of a service connect.
#[derive(Debug)]
pub(super) struct ClientPort {
    /// Where that is, as the configuration has it.
    pub(super) client: Address,
    pub(super) service: Arc<PortService>,
    /// Whether the configuration has it still. The number of one that was taken out is for the next one.
    pub(super) is_open: bool,
    /// Whether the log has said where it is.
    pub(super) is_announced: bool,
}

impl ClientPort {
    pub(super) fn new(client: Address, service: PortService) -> Self {
        Self { client, service: Arc::new(service), is_open: true, is_announced: false }
    }

    /// Clients that come from here on reach this service.
    pub(super) fn set_service(&mut self, service: PortService) {
        if *self.service != service {
            (self.service, self.is_announced) = (Arc::new(service), false);
        }
    }
}

impl Device {
    /// A device that is not there yet; its client ports are held.
    pub(super) fn new(
        name: Option<Name>,
        listen: Option<Address>,
        listeners: Table<(Listener, usize)>,
        ports: Vec<ClientPort>,
    ) -> Self {
        let mut device = Self {
            name,
            listen,
            instances: [None; 2],
            active: None,
            listeners,
            ports,
            is_local: true,
            reopen_at: None,
            waiting: VecDeque::new(),
            totals: Totals::default(),
        };
        device.look_whether_local();
        device
    }

    /// Its client ports are others.
    pub(super) fn look_whether_local(&mut self) {
        self.is_local = self.listeners.iter().all(|(_, (listener, _))| listener.address().ip().is_loopback());
    }

    /// Takes one more port; its number.
    pub(super) fn free_port(&mut self, port: ClientPort) -> usize {
        let number = self.ports.iter().position(|port| !port.is_open).unwrap_or(self.ports.len());
        if number == self.ports.len() {
            self.ports.push(port);
        } else {
            self.ports[number] = port;
        }
        number
    }

    /// A start of its process has made a link; false if that was there before another one, so that both go on: two devices
    /// have one key.
    pub(super) fn note_instance(&mut self, instance: [u8; 16]) -> bool {
        let [newest, before] = self.instances;
        if newest == Some(instance) {
            return true;
        }
        self.instances = [Some(instance), newest];
        before != Some(instance)
    }

    /// Whether a client of any port has to wait until the device has said which services it offers.
    pub(super) fn needs_introduction(&self) -> bool {
        self.ports.iter().any(|port| port.service.is_of_device())
    }

    /// When it is to be visited though nothing has happened; its ports count only while it `takes_clients`.
    pub(super) fn poll_timeout(&self, takes_clients: bool) -> Option<Instant> {
        let ports = self.listeners.poll_timeout().filter(|_| takes_clients);
        // They were given the same time each.
        let waiting = self.waiting.front().map(|pending| pending.deadline);
        [ports, waiting, self.reopen_at].into_iter().flatten().min()
    }

    /// Whether clients wait, be it for a place or to be accepted, perhaps at a port that rests for a moment.
    pub(super) fn has_clients_to_come(&self) -> bool {
        !self.waiting.is_empty() || self.listeners.has_ready() || self.listeners.poll_timeout().is_some()
    }

    /// Of those that wait, and for which there is a place, the one from the address with the fewest places is next, and of
    /// these the one that came first.
    pub(super) fn next_waiting(&self, shares: &Shares) -> Option<usize> {
        let may_have = |PendingClient { client, .. }: &PendingClient| shares.admits(client.port, client.address);
        let admitted = self.waiting.iter().enumerate().filter(|(_, pending)| may_have(pending));
        let next = admitted.min_by_key(|(_, pending)| shares.of_source(pending.client.address));
        next.map(|(at, _)| at)
    }

    /// Descriptors that its clients have.
    pub(super) fn descriptors(&self) -> usize {
        self.totals.streams + self.waiting.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_comes_back_after_another_is_a_second_device_with_the_key() {
        let mut device = Device::new(None, None, Table::default(), Vec::new());
        let mut note = |instance: u8| device.note_instance([instance; 16]);
        assert_eq!([1, 1, 2, 2, 3].map(&mut note), [true; 5], "it was restarted");
        assert_eq!([2, 3, 4].map(&mut note), [false, false, true]);
    }
}
