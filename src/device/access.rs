//! What the relay may reach through this device.
//!
//! The decision is made on the addresses that a connection would really go to: a name is resolved first, whatever
//! its spelling, each of its addresses is checked, and the addresses that pass are the ones to connect to.

use std::io;
use std::net::{IpAddr, SocketAddr};

use nix::ifaddrs::getifaddrs;

mod rule;

use crate::address::Address;
use crate::io::net;
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
    /// Only these services, such as the LocalAddress:LocalPort of a call.
    pub fn only<'a>(services: impl IntoIterator<Item = &'a Address>) -> Self {
        Self::Only(services.into_iter().map(Rule::service).collect())
    }

    /// The addresses of `host` that may be connected to, in the resolver's order; never an empty list.
    ///
    /// IPv4-mapped IPv6 addresses (`::ffff:10.0.0.1`) are checked, and returned, as IPv4.
    pub(crate) fn permit(&self, host: &str, port: u16, lookup: Lookup<'_>) -> Result<Vec<SocketAddr>, Refusal> {
        if port == 0 {
            let service = format!("port 0 of '{}'", shown(host));
            let remedy = "no service has that port; correct the relay's command line".into();
            return Err(Refusal::Denied { service, remedy });
        }
        let addresses = match host.parse::<IpAddr>() {
            Ok(ip) => vec![canonical(SocketAddr::new(ip, port), port)],
            Err(_) => resolve(host, port, lookup)?,
        };
        let permitted: Vec<_> = match self {
            Self::Any => addresses.clone(),
            Self::Device => addresses.iter().filter(|address| is_own(address)).copied().collect(),
            Self::Only(rules) => permit_by(rules, host, port, &addresses, lookup),
        };
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
            Self::Only(_) => {
                format!("add \"{rule}\" to allow to permit it (LocalAddress and LocalPort replace that list)")
            }
        };
        Refusal::Denied { service, remedy }
    }
}

/// The addresses that a rule permits.
fn permit_by(rules: &[Rule], host: &str, port: u16, addresses: &[SocketAddr], lookup: Lookup<'_>) -> Vec<SocketAddr> {
    let rules: Vec<_> = rules.iter().filter(|rule| rule.covers(port)).collect();
    let names = || rules.iter().filter_map(|rule| rule.name());
    if names().any(|name| name.eq_ignore_ascii_case(host)) {
        return addresses.to_vec();
    }
    let holds = |address: &SocketAddr| rules.iter().any(|rule| rule.holds(address));
    let mut named = Vec::new();
    if !addresses.iter().all(holds) {
        // A rule's name that does not resolve permits nothing, and is no reason to refuse what others permit.
        named.extend(names().filter_map(|name| resolve(name, port, lookup).ok()).flatten());
    }
    addresses
        .iter()
        .filter(|address| holds(address) || named.iter().any(|own| same_host(own, address)))
        .copied()
        .collect()
}

fn resolve(host: &str, port: u16, lookup: Lookup<'_>) -> Result<Vec<SocketAddr>, Refusal> {
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
            address
        }
    }
}

/// Whether a connection to `address` ends on this device.
fn is_own(address: &SocketAddr) -> bool {
    let ip = address.ip();
    // Connecting to the unspecified address reaches the machine itself.
    if ip.is_loopback() || ip.is_unspecified() {
        return true;
    }
    // Interfaces come and go, so they are asked each time; if the system cannot tell, loopback is all there is.
    let Ok(interfaces) = getifaddrs() else { return false };
    interfaces.filter_map(|interface| interface.address).any(|own| {
        let v4 = own.as_sockaddr_in().map(|own| SocketAddr::V4((*own).into()));
        let own = v4.or_else(|| own.as_sockaddr_in6().map(|own| SocketAddr::V6((*own).into())));
        own.is_some_and(|own| same_host(&own, address))
    })
}

/// The same address and, where it needs one, the same interface: `fe80::1%eth0` is not `fe80::1%eth1`.
fn same_host(a: &SocketAddr, b: &SocketAddr) -> bool {
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
mod tests {
    use super::*;

    /// A resolver that knows these names only, and counts its calls.
    struct Names {
        known: Vec<(&'static str, Vec<&'static str>)>,
        asked: Vec<String>,
    }

    fn names(known: &[(&'static str, &[&'static str])]) -> Names {
        Names { known: known.iter().map(|(name, ips)| (*name, ips.to_vec())).collect(), asked: Vec::new() }
    }

    impl Names {
        fn permit(&mut self, access: &Access, host: &str, port: u16) -> Result<Vec<String>, Refusal> {
            let permitted = access.permit(host, port, &mut |name, port| {
                self.asked.push(name.into());
                let known = self.known.iter().find(|(known, _)| *known == name);
                let (_, ips) = known.ok_or_else(|| io::Error::other("no such name"))?;
                Ok(ips.iter().map(|ip| socket_address(ip, port)).collect())
            });
            let permitted = permitted?;
            assert!(permitted.iter().all(|address| address.port() == port), "{permitted:?}");
            Ok(permitted.iter().map(|address| address.ip().to_string()).collect())
        }
    }

    /// `fe80::1%2` has interface 2.
    fn socket_address(text: &str, port: u16) -> SocketAddr {
        let (ip, scope) = text.split_once('%').unwrap_or((text, "0"));
        let mut address = SocketAddr::new(ip.parse().expect(text), port);
        if let SocketAddr::V6(address) = &mut address {
            address.set_scope_id(scope.parse().expect(text));
        }
        address
    }

    fn only(rules: &[&str]) -> Access {
        Access::Only(rules.iter().map(|rule| rule.parse().expect(rule)).collect())
    }

    /// Whether a literal address is permitted, with a resolver that knows nothing.
    fn permits(access: &Access, host: &str, port: u16) -> bool {
        match names(&[]).permit(access, host, port) {
            Ok(_) => true,
            Err(Refusal::Denied { .. }) => false,
            Err(refusal @ (Refusal::Unresolved { .. } | Refusal::System { .. })) => panic!("{host}: {refusal}"),
        }
    }

    /// Whether it takes a lookup to decide.
    fn asks(access: &Access, host: &str, port: u16) -> bool {
        let mut nothing = names(&[]);
        let _ = nothing.permit(access, host, port);
        !nothing.asked.is_empty()
    }

    fn refusal(access: &Access, host: &str, port: u16) -> String {
        names(&[("db.example", &["10.1.2.3", "10.1.2.4"]), ("any", &["10.9.9.9"]), ("link", &["fe80::1%2"])])
            .permit(access, host, port)
            .expect_err(host)
            .to_string()
    }

    #[test]
    fn the_default_reaches_every_port_of_the_device_itself() {
        for host in ["127.0.0.1", "127.255.255.254", "::1", "0.0.0.0", "::", "::ffff:127.0.0.1", "::ffff:0.0.0.0"] {
            assert!(permits(&Access::default(), host, 1), "{host}");
            assert!(permits(&Access::default(), host, 65_535), "{host}");
        }
    }

    #[test]
    fn the_default_reaches_the_addresses_of_the_interfaces() {
        let mut seen = 0;
        for interface in getifaddrs().expect("getifaddrs") {
            let own = interface.address.and_then(|own| own.as_sockaddr_in().map(|own| own.ip()));
            if let Some(own) = own {
                assert!(permits(&Access::Device, &own.to_string(), 22), "{own}");
                assert!(permits(&Access::Device, &format!("::ffff:{own}"), 22), "{own}");
                seen += 1;
            }
        }
        assert!(seen > 0, "not even loopback has an address");
    }

    #[test]
    fn the_default_reaches_nothing_else() {
        for host in [
            "192.0.2.1",
            "126.255.255.255",
            "128.0.0.1",
            "255.255.255.255",
            "224.0.0.1",
            "169.254.169.254",
            "::ffff:192.0.2.1",
            "::127.0.0.1",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
            "::2",
            "fe80::1",
            "2001:db8::1",
        ] {
            assert!(!permits(&Access::Device, host, 22), "{host}");
        }
    }

    #[test]
    fn a_name_is_judged_by_what_it_resolves_to_however_it_is_spelt() {
        let mut dns = names(&[
            ("0x7f.1", &["127.0.0.1"]),
            ("2130706433", &["127.0.0.1"]),
            ("localhost", &["::1", "127.0.0.1"]),
            ("rebound.example", &["192.0.2.1"]),
            ("0300.0.2.1", &["192.0.2.1"]),
            ("mapped.example", &["::ffff:192.0.2.1"]),
        ]);
        assert_eq!(dns.permit(&Access::Device, "0x7f.1", 22).expect("0x7f.1"), ["127.0.0.1"]);
        assert_eq!(dns.permit(&Access::Device, "2130706433", 22).expect("number"), ["127.0.0.1"]);
        assert_eq!(dns.permit(&Access::Device, "localhost", 22).expect("localhost"), ["::1", "127.0.0.1"]);
        for host in ["rebound.example", "0300.0.2.1", "mapped.example"] {
            assert!(matches!(dns.permit(&Access::Device, host, 22), Err(Refusal::Denied { .. })), "{host}");
        }
    }

    #[test]
    fn of_a_name_with_several_addresses_only_the_permitted_ones_are_given_back_in_order() {
        let mut dns = names(&[("mixed", &["10.0.0.9", "192.0.2.1", "::ffff:10.0.0.1", "2001:db8::1", "10.0.0.5"])]);
        assert_eq!(
            dns.permit(&only(&["10.0.0.0/8"]), "mixed", 22).expect("mixed"),
            ["10.0.0.9", "10.0.0.1", "10.0.0.5"]
        );
        assert!(dns.permit(&only(&["[2001:db8::]:80"]), "mixed", 80).is_err());
        assert_eq!(dns.permit(&Access::Any, "mixed", 22).expect("mixed").len(), 5);
    }

    #[test]
    fn the_port_asked_for_counts_not_one_that_the_resolver_made_up() {
        let permitted = Access::Any.permit("x", 22, &mut |_, _| Ok(vec![socket_address("::ffff:10.0.0.1", 99)]));
        assert_eq!(permitted.expect("x"), [socket_address("10.0.0.1", 22)]);
        let permitted = Access::Any.permit("x", 22, &mut |_, _| Ok(vec![socket_address("fe80::1%2", 99)]));
        assert_eq!(permitted.expect("x"), [socket_address("fe80::1%2", 22)]);
    }

    #[test]
    fn a_rule_holds_for_its_ports_only() {
        let access = only(&["10.0.0.1:22", "10.0.0.1:8000-8100", "10.0.0.2"]);
        for (host, port) in
            [("10.0.0.1", 22), ("10.0.0.1", 8000), ("10.0.0.1", 8100), ("10.0.0.2", 1), ("10.0.0.2", 65_535)]
        {
            assert!(permits(&access, host, port), "{host}:{port}");
        }
        for (host, port) in
            [("10.0.0.1", 21), ("10.0.0.1", 23), ("10.0.0.1", 7999), ("10.0.0.1", 8101), ("10.0.0.3", 22)]
        {
            assert!(!permits(&access, host, port), "{host}:{port}");
        }
    }

    #[test]
    fn ports_alone_are_those_of_the_device_itself() {
        let access = only(&["22", "8000-8100"]);
        for (host, port) in [("127.0.0.1", 22), ("::1", 8050), ("0.0.0.0", 22), ("::ffff:127.0.0.1", 22)] {
            assert!(permits(&access, host, port), "{host}:{port}");
        }
        assert!(!permits(&access, "127.0.0.1", 23));
        assert!(!permits(&access, "192.0.2.1", 22));
    }

    #[test]
    fn networks_hold_exactly_the_addresses_that_share_their_prefix() {
        let access = only(&["10.0.0.0/8", "192.168.4.0/22", "[fd00::/8]", "203.0.113.7/32"]);
        for host in
            ["10.0.0.0", "10.255.255.255", "192.168.7.255", "fd00::1", "fdff::", "203.0.113.7", "::ffff:10.1.1.1"]
        {
            assert!(permits(&access, host, 22), "{host}");
        }
        for host in ["9.255.255.255", "11.0.0.0", "192.168.8.0", "192.168.3.255", "fe00::", "203.0.113.6", "::10.1.1.1"]
        {
            assert!(!permits(&access, host, 22), "{host}");
        }
        assert!(permits(&only(&["0.0.0.0/0"]), "203.0.113.7", 22));
        assert!(!permits(&only(&["0.0.0.0/0"]), "2001:db8::1", 22));
        assert!(permits(&only(&["[::/0]"]), "2001:db8::1", 22));
        assert!(!permits(&only(&["[::/0]"]), "::ffff:10.0.0.1", 22), "it is an IPv4 address");
    }

    #[test]
    fn a_rule_in_ipv6_clothes_holds_for_the_ipv4_address() {
        assert!(permits(&only(&["[::ffff:10.0.0.1]:22"]), "10.0.0.1", 22));
        assert!(permits(&only(&["[::ffff:10.0.0.0/104]"]), "10.255.0.1", 22));
        assert!(!permits(&only(&["[::ffff:10.0.0.0/104]"]), "11.0.0.1", 22));
    }

    #[test]
    fn an_empty_list_permits_nothing_and_any_permits_all() {
        assert!(!permits(&only(&[]), "127.0.0.1", 22));
        assert!(permits(&only(&["any"]), "192.0.2.1", 1));
        assert!(permits(&only(&["any:80"]), "2001:db8::1", 80));
        assert!(!permits(&only(&["any:80"]), "127.0.0.1", 81));
        assert!(permits(&Access::Any, "192.0.2.1", 1));
    }

    #[test]
    fn a_named_rule_permits_its_name_in_any_case_and_whatever_that_resolves_to() {
        let mut dns = names(&[("Printer.LAN", &["10.0.0.7", "192.0.2.9"]), ("other.lan", &["10.0.0.8"])]);
        let access = only(&["printer.lan:9100"]);
        assert_eq!(dns.permit(&access, "Printer.LAN", 9100).expect("name"), ["10.0.0.7", "192.0.2.9"]);
        assert_eq!(dns.asked, ["Printer.LAN"], "the rule's own name needs no second lookup");
        assert!(dns.permit(&access, "Printer.LAN", 9101).is_err());
        assert!(dns.permit(&access, "other.lan", 9100).is_err());
    }

    #[test]
    fn a_named_rule_permits_an_address_of_its_name() {
        let mut dns = names(&[
            ("printer.lan", &["::ffff:10.0.0.7"]),
            ("alias.lan", &["10.0.0.7"]),
            ("printer.lan.", &["10.0.0.7"]),
        ]);
        let access = only(&["printer.lan:9100"]);
        for host in ["10.0.0.7", "::ffff:10.0.0.7", "alias.lan", "printer.lan."] {
            assert_eq!(dns.permit(&access, host, 9100).expect(host), ["10.0.0.7"]);
        }
        assert!(matches!(dns.permit(&access, "10.0.0.8", 9100), Err(Refusal::Denied { .. })));
    }

    #[test]
    fn a_rules_name_is_looked_up_only_where_its_ports_match_and_nothing_else_permits() {
        let mut dns = names(&[("printer.lan", &["10.0.0.7"])]);
        let access = only(&["printer.lan:9100", "10.0.0.8"]);
        assert!(dns.permit(&access, "10.0.0.7", 22).is_err());
        assert!(dns.permit(&access, "10.0.0.8", 9100).is_ok());
        assert!(dns.asked.is_empty(), "{:?}", dns.asked);
        assert!(dns.permit(&access, "10.0.0.7", 9100).is_ok());
        assert_eq!(dns.asked, ["printer.lan"]);
    }

    #[test]
    fn a_rules_name_that_does_not_resolve_permits_nothing_and_spoils_nothing() {
        let mut dns = names(&[("good.lan", &["10.0.0.7"])]);
        let access = only(&["gone.lan", "good.lan"]);
        assert!(dns.permit(&access, "10.0.0.7", 22).is_ok());
        assert!(matches!(dns.permit(&access, "10.0.0.8", 22), Err(Refusal::Denied { .. })));
        assert!(matches!(dns.permit(&access, "gone.lan", 22), Err(Refusal::Unresolved { .. })));
    }

    #[test]
    fn link_local_addresses_differ_by_interface() {
        let mut dns =
            names(&[("fe80::1%eth0", &["fe80::1%2"]), ("fe80::1%eth1", &["fe80::1%3"]), ("fe80::1%2", &["fe80::1%2"])]);
        let access = only(&["[fe80::1%eth0]:22"]);
        assert!(dns.permit(&access, "fe80::1%eth0", 22).is_ok());
        assert!(dns.permit(&access, "fe80::1%2", 22).is_ok());
        assert!(dns.permit(&access, "fe80::1%eth1", 22).is_err());
        assert!(dns.permit(&only(&["fe80::1"]), "fe80::1%eth1", 22).is_ok(), "a rule without interface means them all");
    }

    #[test]
    fn the_service_of_a_call_is_all_that_it_permits() {
        let access = Access::only([&Address::new("10.41.51.152", 23).expect("address")]);
        assert!(permits(&access, "10.41.51.152", 23));
        assert!(permits(&access, "::ffff:10.41.51.152", 23));
        assert!(!permits(&access, "10.41.51.152", 22));
        assert!(!permits(&access, "127.0.0.1", 23));
        let mut dns = names(&[("any", &["10.0.0.1"]), ("localhost", &["::1", "127.0.0.1"])]);
        let access = Access::only([&Address::new("any", 23).expect("address")]);
        assert!(dns.permit(&access, "any", 23).is_ok());
        assert!(dns.permit(&access, "10.0.0.2", 23).is_err(), "here 'any' is a host's name");
        let access = Access::only([&Address::new("localhost", 23).expect("address")]);
        assert_eq!(dns.permit(&access, "127.0.0.1", 23).expect("127.0.0.1"), ["127.0.0.1"]);
        assert!(dns.permit(&access, "127.0.0.2", 23).is_err());
    }

    #[test]
    fn a_name_is_looked_up_only_where_it_decides() {
        let access = only(&["printer.lan:9100", "10.0.0.8", "22"]);
        for (host, port) in [("10.0.0.8", 9100), ("10.0.0.7", 22), ("127.0.0.1", 22), ("::1", 80)] {
            assert!(!asks(&access, host, port), "{host}:{port}");
        }
        for (host, port) in [("printer.lan", 22), ("10.0.0.7", 9100), ("0x7f.1", 22), ("fe80::1%lo", 22), ("", 22)] {
            assert!(asks(&access, host, port), "{host}:{port}");
        }
        for access in [Access::Any, Access::Device] {
            assert!(!asks(&access, "192.0.2.1", 80));
            assert!(asks(&access, "localhost", 80));
        }
    }

    #[test]
    fn a_refusal_shows_the_rule_that_would_permit_the_service() {
        assert_eq!(
            refusal(&Access::Device, "10.1.2.3", 80),
            "10.1.2.3:80 is not permitted; allow = { \"1-65535\", \"10.1.2.3:80\" } would permit it beside the device's \
             own ports"
        );
        assert_eq!(
            refusal(&only(&["22"]), "::ffff:10.1.2.3", 80),
            "10.1.2.3:80 is not permitted; add \"10.1.2.3:80\" to allow to permit it (LocalAddress and LocalPort replace \
             that list)"
        );
        assert!(refusal(&Access::Device, "2001:db8::1", 80).contains("\"[2001:db8::1]:80\""));
        assert!(refusal(&Access::Device, "db.example", 80).starts_with("'db.example', which is 10.1.2.3:80, is not"));
        assert!(refusal(&Access::Device, "any", 80).contains("\"10.9.9.9:80\""), "not the rule that permits all");
        assert!(refusal(&Access::Any, "10.1.2.3", 0).starts_with("port 0 of '10.1.2.3' is not permitted"));
    }

    #[test]
    fn the_rule_in_a_refusal_permits_just_the_service() {
        for (host, port) in [("10.1.2.3", 80), ("2001:db8::1", 443), ("::ffff:10.0.0.1", 22)] {
            let told = refusal(&only(&[]), host, port);
            let rule = told.split('"').nth(1).expect("a quoted rule");
            assert!(permits(&only(&[rule]), host, port), "{told}");
            assert!(!permits(&only(&[rule]), host, port + 1), "{told}");
            assert!(!permits(&only(&[rule]), "127.0.0.1", port), "{told}");
        }
        let told = refusal(&only(&[]), "link", 22);
        assert!(told.split('"').nth(1).expect("a quoted rule").parse::<Rule>().is_ok(), "{told}");
    }

    #[test]
    fn what_a_peer_wrote_cannot_break_or_flood_the_log() {
        let told = refusal(&Access::Device, "a\nb\u{1b}[2J", 80);
        assert_eq!(told, "cannot resolve 'a\\nb\\u{1b}[2J': no such name; check the name and the device's DNS");
        assert!(refusal(&Access::Device, &"é".repeat(60_000), 80).len() < 1000);
    }

    #[test]
    fn a_name_without_addresses_is_unresolved() {
        let refusal = names(&[("empty", &[])]).permit(&Access::Any, "empty", 80).expect_err("empty").to_string();
        assert_eq!(refusal, "cannot resolve 'empty': it has no address; check the name and the device's DNS");
    }
}
