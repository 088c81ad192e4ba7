//! What the relay may reach through this device.
//!
//! The decision is made on the addresses that a connection would really go to: a name is resolved first, whatever
//! its spelling, each of its addresses is checked, and the addresses that pass are the ones to connect to.

use std::borrow::Cow;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

mod own;
mod rule;

use crate::address::Address;
use crate::io::net;
pub(super) use own::OwnAddresses;
pub use rule::{Rule, RuleError, RuleProblem};

/// What the relay may reach through this device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Access {
    /// Any address and port.
    Any,
    /// Any port of the device itself: loopback and the addresses of its interfaces.
    #[default]
    Device,
    /// What one of the rules permits.
    Only(Vec<Rule>),
    /// Where services are that are offered by name, as [`Services::access`](super::Services::access) has them.
    Offered(Vec<Rule>),
    /// Just this: the LocalAddress:LocalPort of a call.
    Call(Address),
}

/// Why a service may not be connected to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    /// The name has no address.
    #[error("cannot resolve '{host}': {reason}; check the name and the device's DNS")]
    Unresolved {
        /// The name, escaped.
        host: String,
        /// What the resolver said.
        reason: String,
    },
    /// It is not known whether this is a service that expects a PROXY header.
    #[error(
        "it may be the service at '{host}', which expects a PROXY header, and that name has no address: {reason}; check \
         the name and the device's DNS"
    )]
    Unrecognized {
        /// The service's name.
        host: String,
        /// What the resolver said.
        reason: String,
    },
    /// The system has nothing left to look the name up with.
    #[error("{reason}; {remedy}")]
    System {
        /// What the system said.
        reason: io::Error,
        /// What to do.
        remedy: &'static str,
    },
    /// No address of the service is permitted.
    #[error("{service} is not permitted; {remedy}")]
    Denied {
        /// What was asked for, escaped.
        service: String,
        /// The line of configuration that would permit it.
        remedy: String,
    },
}

/// Looks a name up; `std::net::ToSocketAddrs` outside the tests.
pub(crate) type Lookup<'a> = &'a mut dyn FnMut(&str, u16) -> io::Result<Vec<SocketAddr>>;

impl Access {
    /// Only these services, which are offered by name.
    pub(super) fn offered<'a>(services: impl IntoIterator<Item = &'a Address>) -> Self {
        Self::Offered(services.into_iter().map(Rule::service).collect())
    }

    /// The addresses of `host` that may be connected to, in the resolver's order; never an empty list.
    ///
    /// IPv4-mapped IPv6 addresses (`::ffff:10.0.0.1`) are checked, and returned, as IPv4.
    pub(super) fn permit(
        &self,
        host: &str,
        port: u16,
        own: &OwnAddresses,
        lookup: Lookup<'_>,
    ) -> Result<Vec<SocketAddr>, Refusal> {
        if port == 0 {
            let service = format!("port 0 of '{}'", shown(host));
            let remedy = "no service has that port; correct the relay's command line".into();
            return Err(Refusal::Denied { service, remedy });
        }
        let addresses = match host.parse::<IpAddr>() {
            Ok(ip) => vec![canonical(SocketAddr::new(ip, port), port)],
            Err(_) => resolve(host, port, lookup)?,
        };
        let rules = match self {
            Self::Any => return Ok(addresses),
            Self::Device => Cow::Owned(vec![Rule::device()]),
            Self::Only(rules) | Self::Offered(rules) => Cow::Borrowed(&rules[..]),
            Self::Call(service) => Cow::Owned(vec![Rule::service(service)]),
        };
        let permitted = permit_by(&rules, host, &addresses, own, lookup);
        if permitted.is_empty() { Err(self.denied(host, &addresses)) } else { Ok(permitted) }
    }

    fn denied(&self, host: &str, addresses: &[SocketAddr]) -> Refusal {
        // The address, not the name: it always makes a rule that permits just this, whatever the peer wrote.
        let rule = addresses.first().map(ToString::to_string).unwrap_or_default();
        let literal = host.parse::<IpAddr>().is_ok();
        let service = if literal { rule.clone() } else { format!("'{}', which is {rule},", shown(host)) };
        let remedy = match self {
            // A list takes the default's place, so the hint keeps what the default permits.
            Self::Any | Self::Device => {
                format!("allow = {{ \"1-65535\", \"{rule}\" }} would permit it beside the device's own ports")
            }
            Self::Only(_) => format!("add \"{rule}\" to allow to permit it"),
            // A list beside the services would take their place.
            Self::Offered(_) => format!("add NAME = \"{rule}\" to services to permit it"),
            Self::Call(service) => format!(
                "the call names {service} alone; correct its local address and port, or give allow = {{ \"{rule}\" }} in \
                 their place"
            ),
        };
        Refusal::Denied { service, remedy }
    }
}

/// The addresses that a rule permits.
fn permit_by(
    rules: &[Rule],
    host: &str,
    addresses: &[SocketAddr],
    own: &OwnAddresses,
    lookup: Lookup<'_>,
) -> Vec<SocketAddr> {
    // All of them have one port.
    let port = addresses.first().map_or(0, SocketAddr::port);
    let rules: Vec<_> = rules.iter().filter(|rule| rule.covers(port)).collect();
    let names = || rules.iter().filter_map(|rule| rule.name());
    if names().any(|name| name.eq_ignore_ascii_case(host)) {
        return addresses.to_vec();
    }
    let holds = |address: &SocketAddr| rules.iter().any(|rule| rule.holds(address, own));
    let mut named = Vec::new();
    if !addresses.iter().all(holds) {
        // A rule's name that does not resolve permits nothing, and is no reason to refuse what others permit.
        named.extend(names().filter_map(|name| resolve(name, port, lookup).ok()).flatten());
    }
    addresses
        .iter()
        .filter(|address| holds(address) || named.iter().any(|other| same_host(other, address)))
        .copied()
        .collect()
}

/// The addresses of a name, with this port; never an empty list.
pub(super) fn resolve(host: &str, port: u16, lookup: Lookup<'_>) -> Result<Vec<SocketAddr>, Refusal> {
    let unresolved = |reason: String| Refusal::Unresolved { host: shown(host), reason };
    let addresses = lookup(host, port).map_err(|reason| match net::remedy_of_shortage(&reason) {
        Some(remedy) => Refusal::System { reason, remedy },
        None => unresolved(reason.to_string()),
    })?;
    if addresses.is_empty() {
        return Err(unresolved("it has no address".into()));
    }
    Ok(addresses.into_iter().map(|address| canonical(address, port)).collect())
}

/// The one spelling of an address that every check sees.
pub(super) fn canonical(address: SocketAddr, port: u16) -> SocketAddr {
    match address.ip().to_canonical() {
        ip @ IpAddr::V4(_) => SocketAddr::new(ip, port),
        IpAddr::V6(_) => {
            let mut address = address;
            address.set_port(port);
            if let SocketAddr::V6(address) = &mut address
                && !has_scope(address.ip())
            {
                // The system connects to it whatever interface is named.
                address.set_scope_id(0);
            }
            address
        }
    }
}

/// Whether it is another address on each interface: `fe80::` and multicast for the link.
fn has_scope(ip: &Ipv6Addr) -> bool {
    ip.is_unicast_link_local() || ip.is_multicast()
}

/// The same address and, where it needs one, the same interface: `fe80::1%eth0` is not `fe80::1%eth1`.
pub(super) fn same_host(a: &SocketAddr, b: &SocketAddr) -> bool {
    let scope = |address: &SocketAddr| match address {
        SocketAddr::V4(_) => 0,
        SocketAddr::V6(address) => address.scope_id(),
    };
    a.ip() == b.ip() && scope(a) == scope(b)
}

/// A host as it came from a peer, fit for one line of log.
fn shown(host: &str) -> String {
    const LONGEST: usize = 253;
    let mut shown: String = host.chars().take(LONGEST).flat_map(char::escape_debug).collect();
    if host.chars().nth(LONGEST).is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests;
