//! One line of what is permitted, and how it is written.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::str::FromStr;

use super::{is_own, shown};
use crate::address::Address;

/// One thing that the relay may reach, written `target:ports`.
///
/// The target is an address, a network (`10.0.0.0/8`), a name (just that name, in any case, or an address that it
/// resolves to) or `any`. The ports are one number or a range (`8000-8100`); without them every port is meant.
/// An IPv6 address or network stands in brackets: `[fd00::/8]:22`. Ports alone (`22`, `8000-8100`) are those of
/// the device itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    target: Target,
    ports: RangeInclusive<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Target {
    Any,
    /// Loopback and the addresses of the interfaces.
    Device,
    /// Every address that begins with the `prefix` first bits of `base`.
    Network {
        base: IpAddr,
        prefix: u8,
    },
    /// A name, or an IPv6 address with an interface (`fe80::1%eth0`), which only the system's resolver understands.
    Name(String),
}

impl Rule {
    /// Just this service.
    pub(super) fn service(service: &Address) -> Self {
        let target = service.ip().map_or_else(|| Target::Name(service.host().into()), Target::address);
        Self { target, ports: service.port()..=service.port() }
    }

    pub(super) fn covers(&self, port: u16) -> bool {
        self.ports.contains(&port)
    }

    /// The name to resolve before it is known which addresses are meant.
    pub(super) fn name(&self) -> Option<&str> {
        match &self.target {
            Target::Name(name) => Some(name),
            Target::Any | Target::Device | Target::Network { .. } => None,
        }
    }

    /// Whether the address is meant, as far as can be told without a resolver.
    pub(super) fn holds(&self, address: &SocketAddr) -> bool {
        match &self.target {
            Target::Any => true,
            Target::Device => is_own(address),
            Target::Network { base, prefix } => masked(address.ip(), *prefix) == Some(*base),
            Target::Name(_) => false,
        }
    }
}

impl Target {
    fn address(ip: IpAddr) -> Self {
        let base = ip.to_canonical();
        Self::Network { base, prefix: width(base) }
    }
}

/// How many bits an address of this family has.
fn width(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 32 } else { 128 }
}

/// The first `prefix` bits of the address, then zeros; `None` if it has not so many.
fn masked(ip: IpAddr, prefix: u8) -> Option<IpAddr> {
    let shift = u32::from(width(ip).checked_sub(prefix)?);
    Some(match ip {
        IpAddr::V4(ip) => IpAddr::V4((ip.to_bits() & u32::MAX.checked_shl(shift).unwrap_or(0)).into()),
        IpAddr::V6(ip) => IpAddr::V6((ip.to_bits() & u128::MAX.checked_shl(shift).unwrap_or(0)).into()),
    })
}

/// Why a text is no [`Rule`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("rule '{rule}': {problem}")]
pub struct RuleError {
    /// The text, escaped.
    pub rule: String,
    /// What is wrong with it.
    pub problem: RuleProblem,
}

/// What is wrong with the text of a rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RuleProblem {
    /// There is no text.
    #[error("it is empty; write for example \"127.0.0.1:22\", \"10.0.0.0/8\", \"22\" or \"any\"")]
    Empty,
    /// There is no target before the colon.
    #[error("nothing stands before the colon; for ports of the device itself write them alone, for example \"22\"")]
    NoTarget,
    /// The ports are not numbers from 1 to 65,535.
    #[error("'{0}' is no port; write a number from 1 to 65535, or a range such as 8000-8100")]
    BadPort(String),
    /// The range ends before it begins.
    #[error("the range ends before it begins; write {1}-{0}")]
    Backwards(u16, u16),
    /// A bracket without its other half, or text between it and the colon.
    #[error("the brackets do not match; write [fd00::1]:22 or [fd00::/8]:22")]
    Brackets,
    /// What stands in brackets is not of IPv6.
    #[error("'{0}' is no IPv6 address or network, and only those stand in brackets; write for example [fd00::1]:22")]
    NotIpv6(String),
    /// Several colons outside of brackets, and the whole is no IPv6 address.
    #[error("it has several colons; write an IPv6 address in brackets, for example [fd00::1]:22")]
    Ambiguous,
    /// Digits and dots that make no IPv4 address.
    #[error("'{0}' is no IPv4 address; write four numbers from 0 to 255, for example 10.1.2.3")]
    NotIpv4(String),
    /// What stands before the slash is no address, or what follows it no number of bits.
    #[error("'{0}' is no network; write for example 10.0.0.0/8 (up to /32) or [fd00::/8] (up to /128)")]
    NotNetwork(String),
    /// The address has bits set behind the prefix.
    #[error("'{0}' is an address inside a network; write {1} for the network, or the address alone")]
    HostBits(String, String),
    /// Names are matched whole.
    #[error("names have no wildcards; write the whole name, a network, or \"any\"")]
    Wildcard,
    /// The target has characters that no name has, or is too long for one.
    #[error("'{0}' is neither an address nor a name (1 to 253 characters, no spaces)")]
    BadName(String),
}

impl FromStr for Rule {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        parse(text).map_err(|problem| RuleError { rule: shown(text), problem })
    }
}

fn parse(text: &str) -> Result<Rule, RuleProblem> {
    if text.is_empty() {
        return Err(RuleProblem::Empty);
    }
    if text.bytes().all(|b| b.is_ascii_digit() || b == b'-') {
        return Ok(Rule { target: Target::Device, ports: parse_ports(text)? });
    }
    let (target, ports) = split(text)?;
    let ports = ports.map_or(Ok(1..=u16::MAX), parse_ports)?;
    Ok(Rule { target: parse_target(target)?, ports })
}

/// Target, without brackets, and ports.
fn split(text: &str) -> Result<(&str, Option<&str>), RuleProblem> {
    if let Some(rest) = text.strip_prefix('[') {
        let (inside, after) = rest.split_once(']').ok_or(RuleProblem::Brackets)?;
        let ip = inside.split(['/', '%']).next().unwrap_or_default();
        if ip.parse::<Ipv6Addr>().is_err() {
            return Err(RuleProblem::NotIpv6(shown(inside)));
        }
        return match after.strip_prefix(':') {
            Some(ports) => Ok((inside, Some(ports))),
            None if after.is_empty() => Ok((inside, None)),
            None => Err(RuleProblem::Brackets),
        };
    }
    if text.contains(['[', ']']) {
        return Err(RuleProblem::Brackets);
    }
    match text.split_once(':') {
        None => Ok((text, None)),
        Some(("", ports)) if !ports.contains(':') => Err(RuleProblem::NoTarget),
        Some((target, ports)) if !ports.contains(':') => Ok((target, Some(ports))),
        // An IPv6 address or network with no ports is clear without brackets.
        Some(_) => Ok((text, None)),
    }
}

fn parse_target(text: &str) -> Result<Target, RuleProblem> {
    if text.eq_ignore_ascii_case("any") {
        return Ok(Target::Any);
    }
    if let Some((base, prefix)) = text.split_once('/') {
        return parse_network(text, base, prefix);
    }
    if let Ok(ip) = text.parse() {
        return Ok(Target::address(ip));
    }
    if text.contains(':') {
        let scoped = text.split_once('%').is_some_and(|(ip, _)| ip.parse::<IpAddr>().is_ok());
        return if scoped { parse_name(text) } else { Err(RuleProblem::Ambiguous) };
    }
    if text.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return Err(RuleProblem::NotIpv4(text.into()));
    }
    parse_name(text)
}

fn parse_name(text: &str) -> Result<Target, RuleProblem> {
    if text.contains('*') {
        return Err(RuleProblem::Wildcard);
    }
    Address::new(text, 1).map_err(|_| RuleProblem::BadName(shown(text)))?;
    Ok(Target::Name(text.into()))
}

fn parse_network(text: &str, base: &str, prefix: &str) -> Result<Target, RuleProblem> {
    let wrong = || RuleProblem::NotNetwork(shown(text));
    let ip: IpAddr = base.parse().map_err(|_| wrong())?;
    let bits = number(prefix).and_then(|bits| u8::try_from(bits).ok()).ok_or_else(wrong)?;
    let base = masked(ip, bits).ok_or_else(wrong)?;
    if base != ip {
        return Err(RuleProblem::HostBits(shown(text), format!("{base}/{bits}")));
    }
    // The prefix of an IPv4-mapped network is counted from behind the 96 bits that are dropped.
    let base = ip.to_canonical();
    Ok(Target::Network { base, prefix: bits - (width(ip) - width(base)) })
}

fn parse_ports(text: &str) -> Result<RangeInclusive<u16>, RuleProblem> {
    let port = |part: &str| {
        let port = number(part).filter(|&port| port > 0);
        port.ok_or_else(|| RuleProblem::BadPort(shown(part)))
    };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (port(first)?, port(last)?);
    if first > last { Err(RuleProblem::Backwards(first, last)) } else { Ok(first..=last) }
}

/// A number of plain digits; `str::parse` alone would take a sign.
fn number(text: &str) -> Option<u16> {
    if text.bytes().all(|b| b.is_ascii_digit()) { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(text: &str) -> Rule {
        text.parse().expect(text)
    }

    fn network(base: &str, prefix: u8, ports: RangeInclusive<u16>) -> Rule {
        Rule { target: Target::Network { base: base.parse().expect(base), prefix }, ports }
    }

    const ALL: RangeInclusive<u16> = 1..=65_535;

    #[test]
    fn addresses_and_networks_are_read_with_ports_and_without() {
        assert_eq!(rule("10.1.2.3"), network("10.1.2.3", 32, ALL));
        assert_eq!(rule("10.1.2.3:80"), network("10.1.2.3", 32, 80..=80));
        assert_eq!(rule("10.0.0.0/8:8000-8100"), network("10.0.0.0", 8, 8000..=8100));
        assert_eq!(rule("0.0.0.0/0"), network("0.0.0.0", 0, ALL));
        assert_eq!(rule("[fd00::/8]"), network("fd00::", 8, ALL));
        assert_eq!(rule("[fd00::/8]:22"), network("fd00::", 8, 22..=22));
        assert_eq!(rule("[::1]:1-65535"), network("::1", 128, ALL));
        assert_eq!(rule("fd00::/8"), network("fd00::", 8, ALL));
        assert_eq!(rule("::1"), network("::1", 128, ALL));
        assert_eq!(rule("[::ffff:10.0.0.0/104]:22"), network("10.0.0.0", 8, 22..=22));
    }

    #[test]
    fn names_any_and_bare_ports_are_read() {
        assert_eq!(rule("Printer.lan:9100"), Rule { target: Target::Name("Printer.lan".into()), ports: 9100..=9100 });
        assert_eq!(rule("printer"), Rule { target: Target::Name("printer".into()), ports: ALL });
        assert_eq!(rule("[fe80::1%eth0]:22"), Rule { target: Target::Name("fe80::1%eth0".into()), ports: 22..=22 });
        assert_eq!(rule("any"), Rule { target: Target::Any, ports: ALL });
        assert_eq!(rule("ANY:80"), Rule { target: Target::Any, ports: 80..=80 });
        assert_eq!(rule("22"), Rule { target: Target::Device, ports: 22..=22 });
        assert_eq!(rule("8000-8100"), Rule { target: Target::Device, ports: 8000..=8100 });
    }

    #[test]
    fn each_mistake_is_told_with_the_rule_and_how_to_write_it() {
        let error = |text: &str| text.parse::<Rule>().expect_err(text).to_string();
        for (text, told) in [
            ("", "rule '': it is empty; write for example \"127.0.0.1:22\""),
            (":22", "rule ':22': nothing stands before the colon"),
            ("0", "rule '0': '0' is no port; write a number from 1 to 65535, or a range such as 8000-8100"),
            ("70000", "rule '70000': '70000' is no port"),
            ("10.0.0.1:", "rule '10.0.0.1:': '' is no port"),
            ("10.0.0.1:+1", "rule '10.0.0.1:+1': '+1' is no port"),
            ("10.0.0.1:http", "rule '10.0.0.1:http': 'http' is no port"),
            ("10.0.0.1:0-65535", "rule '10.0.0.1:0-65535': '0' is no port"),
            ("22-", "rule '22-': '' is no port"),
            ("-", "rule '-': '' is no port"),
            ("1-2-3", "rule '1-2-3': '2-3' is no port"),
            ("8100-8000", "rule '8100-8000': the range ends before it begins; write 8000-8100"),
            ("[::1", "rule '[::1': the brackets do not match; write [fd00::1]:22"),
            ("::1]:22", "rule '::1]:22': the brackets do not match"),
            ("[::1]22", "rule '[::1]22': the brackets do not match"),
            ("[::1]/64", "rule '[::1]/64': the brackets do not match"),
            ("[10.0.0.1]:22", "rule '[10.0.0.1]:22': '10.0.0.1' is no IPv6 address or network"),
            ("[any]", "rule '[any]': 'any' is no IPv6 address or network"),
            ("[]:22", "rule '[]:22': '' is no IPv6 address"),
            ("a:b:c", "rule 'a:b:c': it has several colons; write an IPv6 address in brackets"),
            ("[fd00::1:g]:22", "rule '[fd00::1:g]:22': 'fd00::1:g' is no IPv6 address or network"),
            ("300.1.1.1:22", "rule '300.1.1.1:22': '300.1.1.1' is no IPv4 address; write four numbers"),
            ("10.1.2", "rule '10.1.2': '10.1.2' is no IPv4 address"),
            ("010.1.2.3", "rule '010.1.2.3': '010.1.2.3' is no IPv4 address"),
            (
                "10.0.0.0/33",
                "rule '10.0.0.0/33': '10.0.0.0/33' is no network; write for example 10.0.0.0/8 (up to /32)",
            ),
            ("10.0.0.0/+8", "rule '10.0.0.0/+8': '10.0.0.0/+8' is no network"),
            ("10.0.0.0/", "rule '10.0.0.0/': '10.0.0.0/' is no network"),
            ("fd00::/8:22", "rule 'fd00::/8:22': 'fd00::/8:22' is no network"),
            ("[fd00::/129]", "rule '[fd00::/129]': 'fd00::/129' is no network"),
            ("host/8", "rule 'host/8': 'host/8' is no network"),
            ("10.1.2.3/8", "rule '10.1.2.3/8': '10.1.2.3/8' is an address inside a network; write 10.0.0.0/8 for"),
            ("*.example.com", "rule '*.example.com': names have no wildcards; write the whole name"),
            ("*", "rule '*': names have no wildcards"),
            ("no such host:22", "rule 'no such host:22': 'no such host' is neither an address nor a name"),
            (" 22", "rule ' 22': ' 22' is neither an address nor a name"),
            ("a\nb", "rule 'a\\nb': 'a\\nb' is neither"),
        ] {
            assert!(error(text).starts_with(told), "{text}: {}", error(text));
        }
    }

    #[test]
    fn no_text_makes_the_parser_panic() {
        let parts =
            ["", "[", "]", ":", "/", "-", "%", "::", "10.0.0.1", "fd00::", "ffff", "8", "129", "any", "é", "*", " "];
        for a in parts {
            for b in parts {
                for c in parts {
                    for d in parts {
                        let _ = format!("{a}{b}{c}{d}").parse::<Rule>();
                    }
                }
            }
        }
    }
}
