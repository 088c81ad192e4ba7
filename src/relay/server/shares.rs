//! Which client gets a place on the link when few are left.
//!
//! Every port is sure of a few places, as far as an eighth of all suffices. Another eighth is kept for clients from
//! addresses that have few. All others go to those that come first, and once they are gone to those of the addresses
//! with the fewest.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// One of so many places is kept for ports that have few, and another for addresses that do.
const KEPT: usize = 8;
/// Places with which an address has few.
const FEW: usize = 4;

/// The places of a link, and which clients have them.
#[derive(Debug)]
pub(super) struct Shares {
    free: usize,
    /// Places kept for ports at most.
    kept_for_ports: usize,
    /// Places that each port is sure of.
    few_of_port: usize,
    /// How many are missing until every port has those.
    missing: usize,
    /// Whether there are more ports than places kept for them.
    is_short: bool,
    kept_for_sources: usize,
    by_port: BTreeMap<usize, usize>,
    by_source: BTreeMap<IpAddr, usize>,
}

impl Shares {
    /// So many of the places are free. With one port none is kept for others; clients that all come from this machine
    /// all have one address.
    pub(super) fn new(places: usize, free: usize, ports: usize, is_local: bool) -> Self {
        let kept = kept(places);
        let kept_for_ports = if ports > 1 { kept } else { 0 };
        let few_of_port = (kept_for_ports / ports.max(1)).max(1);
        Self {
            free,
            kept_for_ports,
            few_of_port,
            missing: few_of_port * ports,
            is_short: few_of_port * ports > kept_for_ports,
            kept_for_sources: if is_local { 0 } else { kept },
            by_port: BTreeMap::new(),
            by_source: BTreeMap::new(),
        }
    }

    /// Whether there are places enough for all.
    pub(super) fn are_plenty(places: usize, free: usize) -> bool {
        free > 2 * kept(places)
    }

    /// A pending client gets a place.
    pub(super) fn add(&mut self, port: usize, from: SocketAddr) {
        self.free -= 1;
        self.note(port, from);
    }

    /// A client has one of the places that are not free.
    pub(super) fn note(&mut self, port: usize, from: SocketAddr) {
        let of_port = self.by_port.entry(port).or_default();
        if *of_port < self.few_of_port {
            self.missing -= 1;
        }
        *of_port += 1;
        *self.by_source.entry(source(from)).or_default() += 1;
    }

    /// Whether there is a place for a pending client.
    pub(super) fn admits(&self, port: usize, from: SocketAddr) -> bool {
        let of_port = self.by_port.get(&port).copied().unwrap_or_default();
        let of_source = self.of_source(from);
        let lacking = self.few_of_port.saturating_sub(of_port);
        // What is kept may not suffice for every port; then those that lack places have them as they come.
        let for_ports = if lacking > 0 && self.is_short { 0 } else { self.missing - lacking };
        let for_ports = for_ports.min(self.kept_for_ports);
        let for_sources = if of_source < FEW { 0 } else { self.kept_for_sources };
        self.free > for_ports + for_sources
    }

    /// Places that clients from this address have.
    pub(super) fn of_source(&self, from: SocketAddr) -> usize {
        self.by_source.get(&source(from)).copied().unwrap_or_default()
    }

    /// Whether there is no place left.
    pub(super) fn is_full(&self) -> bool {
        self.free == 0
    }
}

fn kept(places: usize) -> usize {
    (places / KEPT).max(1).min(places / 2)
}

/// What counts as one address: an IPv6 host has a whole network of 64 bits to take addresses from.
pub(super) fn source(from: SocketAddr) -> IpAddr {
    match from.ip() {
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX)).into(),
        ip @ IpAddr::V4(_) => ip,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(host: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, host], 4000))
    }

    /// How many of these clients get a place, each by port and host.
    fn fill(shares: &mut Shares, clients: impl IntoIterator<Item = (usize, u8)>) -> usize {
        let mut count = 0;
        for (port, host) in clients {
            if shares.admits(port, from(host)) {
                shares.add(port, from(host));
                count += 1;
            }
        }
        count
    }

    #[test]
    fn one_port_and_one_machine_may_have_every_place() {
        let mut shares = Shares::new(256, 256, 1, true);
        assert_eq!(fill(&mut shares, [(0, 1); 300]), 256);
        assert!(shares.is_full());
    }

    #[test]
    fn when_one_port_has_all_it_can_get_each_other_port_still_gets_clients_in() {
        let mut shares = Shares::new(256, 256, 3, true);
        assert_eq!(fill(&mut shares, [(0, 1); 300]), 236);
        assert_eq!(fill(&mut shares, [(1, 1); 300]), 10);
        assert_eq!(fill(&mut shares, [(2, 1); 300]), 10);
        assert!(shares.is_full(), "no place is kept in vain");
    }

    #[test]
    fn when_one_address_has_all_it_can_get_each_other_address_still_gets_clients_in() {
        let mut shares = Shares::new(256, 256, 2, false);
        assert_eq!(fill(&mut shares, (0..600).map(|client| (client % 2, 1))), 224);
        for host in 2..10 {
            assert_eq!(fill(&mut shares, [(0, host); 10]), 4);
        }
        assert!(shares.is_full());
    }

    #[test]
    fn many_addresses_at_one_port_leave_something_for_the_other_ports() {
        let mut shares = Shares::new(256, 256, 2, false);
        assert_eq!(fill(&mut shares, (0..1000).map(|client| (0, client as u8))), 240);
        assert_eq!(fill(&mut shares, (0..100).map(|client| (1, client as u8))), 16);
    }

    #[test]
    fn of_more_ports_than_places_are_kept_for_those_are_served_that_come_first() {
        let mut shares = Shares::new(256, 256, 3000, true);
        assert_eq!(fill(&mut shares, [(0, 1); 300]), 224);
        assert_eq!(fill(&mut shares, (1..3000).map(|port| (port, 1))), 32);
    }

    #[test]
    fn the_fewest_places_are_still_places() {
        for (places, ports, is_local) in (0..10).flat_map(|n| [(n, 1, true), (n, 5, true), (n, 5, false)]) {
            let mut shares = Shares::new(places, places, ports, is_local);
            let clients = (0..100).map(|client: u8| (usize::from(client) % ports, client));
            assert_eq!(fill(&mut shares, clients), places, "{ports} ports");
        }
        let mut shares = Shares::new(4, 4, 2, true);
        assert_eq!(fill(&mut shares, [(0, 1); 9]), 3);
        assert_eq!(fill(&mut shares, [(1, 1); 9]), 1);
    }

    #[test]
    fn an_ipv6_network_is_one_address() {
        let mut shares = Shares::new(16, 16, 1, false);
        let client = |n: u16| SocketAddr::from(([0x2001, 0xdb8, 0, 0, 0, 0, 0, n], 1));
        for n in 0..100 {
            if shares.admits(0, client(n)) {
                shares.add(0, client(n));
            }
        }
        assert_eq!(shares.free, 2);
    }
}
