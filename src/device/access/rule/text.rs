//! How a rule is written, and what is said of one that is written otherwise.

use std::net::{IpAddr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::str::FromStr;

use super::{Rule, Target, masked, mistake, shown, width};
use crate::address::Address;

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
    /// Several rules in one text.
    #[error("it is several rules; write each as an item of its own: {0}")]
    Several(String),
    /// Spaces, commas or semicolons around a rule or in it.
    #[error("a rule has no spaces, commas or semicolons; write \"{0}\"")]
    Separators(String),
    /// A URL.
    #[error("a rule has no scheme; write for example \"{0}\"")]
    Scheme(String),
    /// A protocol stands behind the rule.
    #[error("a rule has no protocol, since only TCP is carried; write \"{0}\"")]
    Protocol(String),
    /// There is no target before the colon.
    #[error("nothing stands before the colon; for ports of the device itself write them alone, for example \"22\"")]
    NoTarget,
    /// The ports are not numbers from 1 to 65,535.
    #[error("'{0}' is no port; write a number from 1 to 65535, or a range such as 8000-8100")]
    BadPort(String),
    /// There are no ports behind the colon.
    #[error("nothing stands behind the colon; write \"{0}\" for every port, or the ports, for example \"{0}:22\"")]
    NoPorts(String),
    /// The name of a service where its port is wanted.
    #[error("'{0}' is no port; write its number, {1}")]
    ServiceName(String, u16),
    /// The name of a service alone.
    #[error("'{0}' is the name of a service; write its port, \"{1}\", or \"{0}:1-65535\" if it is a host")]
    ServiceAlone(String, u16),
    /// A word for every port.
    #[error("'{0}' is no port; for every port write the target alone")]
    EveryPort(String),
    /// The range has one end only.
    #[error("the range has one end only; write {0}")]
    OpenRange(String),
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
    #[error(
        "it has several colons; write one, as in plc.local:80, and an IPv6 address in brackets, as in [fd00::1]:22"
    )]
    Ambiguous,
    /// An IPv6 address without brackets, whose last part may be a port.
    #[error("it has no brackets; write [{0}]:{1} for that port of {0}, or [{0}:{1}] for every port of {0}:{1}")]
    PortOrAddress(String, String),
    /// An IPv6 address or network without brackets, and ports.
    #[error("it has no brackets; write [{0}]:{1}")]
    Unbracketed(String, String),
    /// Digits and dots that make no IPv4 address.
    #[error("'{0}' is no IPv4 address; write four numbers from 0 to 255, for example 10.1.2.3")]
    NotIpv4(String),
    /// The first and last address of a range.
    #[error("'{0}' is no address; write a range of addresses as networks, for example 10.0.0.0/29")]
    AddressRange(String),
    /// What stands before the slash is no address, or what follows it no number of bits.
    #[error("'{0}' is no network; write for example 10.0.0.0/8 (up to /32) or [fd00::/8] (up to /128)")]
    NotNetwork(String),
    /// The address has bits set behind the prefix.
    #[error("'{0}' is an address inside a network; write {1} for the network, or the address alone")]
    HostBits(String, String),
    /// Names are matched whole.
    #[error("names have no wildcards; write the whole name, a network, or \"any\"")]
    Wildcard,
    /// A word for everything that is not the one.
    #[error("'{0}' does not stand for everything; write \"any\"")]
    All(String),
    /// The target has characters that no name has, or is too long for one.
    #[error("'{0}' is neither an address nor a name (at most 253 letters, digits, '-', '_' and '.')")]
    BadName(String),
}

impl FromStr for Rule {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        parse(text).map_err(|problem| RuleError { rule: shown(text), problem })
    }
}

fn parse(text: &str) -> Result<Rule, RuleProblem> {
    if text.trim().is_empty() {
        return Err(RuleProblem::Empty);
    }
    if let Some(problem) = mistake::foreign(text) {
        return Err(problem);
    }
    if text.bytes().all(|b| b.is_ascii_digit() || b == b'-') {
        return Ok(Rule { target: Target::Device, ports: parse_ports(text)? });
    }
    let (target, ports) = split(text)?;
    let ports = match ports {
        Some("") => return Err(RuleProblem::NoPorts(shown(text.trim_end_matches(':')))),
        Some(ports) => parse_ports(ports)?,
        None => match mistake::service_port(target) {
            Some(port) => return Err(RuleProblem::ServiceAlone(target.into(), port)),
            None => 1..=u16::MAX,
        },
    };
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
        Some(_) => without_brackets(text),
    }
}

/// Several colons: an IPv6 address or network is clear without brackets unless its last part could be ports.
fn without_brackets(text: &str) -> Result<(&str, Option<&str>), RuleProblem> {
    let (address, ports) = text.rsplit_once(':').unwrap_or((text, ""));
    let is_ipv6 = address.split(['/', '%']).next().is_some_and(|ip| ip.parse::<Ipv6Addr>().is_ok());
    if is_ipv6 && parse_ports(ports).is_ok() {
        let (address, ports) = (shown(address), shown(ports));
        let whole_is_one = parse_target(text).is_ok();
        return Err(if whole_is_one {
            RuleProblem::PortOrAddress(address, ports)
        } else {
            RuleProblem::Unbracketed(address, ports)
        });
    }
    Ok((text, None))
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
    let of_address = |b: u8| b.is_ascii_digit() || b == b'.' || b == b'-';
    if text.contains('.') && text.contains('-') && text.bytes().all(of_address) {
        return Err(RuleProblem::AddressRange(text.into()));
    }
    // No name ends in a number: what does is meant as an address.
    let last = text.rsplit('.').next().unwrap_or_default();
    if !text.is_empty() && last.bytes().all(|b| b.is_ascii_digit()) && !last.is_empty() {
        return Err(RuleProblem::NotIpv4(shown(text)));
    }
    parse_name(text)
}

fn parse_name(text: &str) -> Result<Target, RuleProblem> {
    if text.contains('*') {
        return Err(RuleProblem::Wildcard);
    }
    if text.eq_ignore_ascii_case("all") {
        return Err(RuleProblem::All(text.into()));
    }
    let scoped = text.contains('%');
    let of_label = |c: char| c.is_alphanumeric() || c == '-' || c == '_';
    let whole = text.strip_suffix('.').unwrap_or(text);
    let is_name = scoped || whole.split('.').all(|label| !label.is_empty() && label.chars().all(of_label));
    if !is_name || Address::new(text, 1).is_err() {
        return Err(RuleProblem::BadName(shown(text)));
    }
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
        port.ok_or_else(|| match mistake::service_port(part) {
            Some(port) => RuleProblem::ServiceName(shown(part), port),
            None if ["any", "all", "*"].contains(&part) => RuleProblem::EveryPort(part.into()),
            None => RuleProblem::BadPort(shown(part)),
        })
    };
    let (first, last) = match text.split_once('-') {
        Some(("", last)) if !last.is_empty() => return Err(RuleProblem::OpenRange(format!("1-{}", port(last)?))),
        Some((first, "")) if !first.is_empty() => {
            return Err(RuleProblem::OpenRange(format!("{}-65535", port(first)?)));
        }
        Some((first, last)) => (port(first)?, port(last)?),
        None => (port(text)?, port(text)?),
    };
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
    fn each_error_shows_the_rule_and_how_to_write_it() {
        let error = |text: &str| text.parse::<Rule>().expect_err(text).to_string();
        for (text, told) in [
            ("", "rule '': it is empty; write for example \"127.0.0.1:22\""),
            (":22", "rule ':22': nothing stands before the colon"),
            ("0", "rule '0': '0' is no port; write a number from 1 to 65535, or a range such as 8000-8100"),
            ("70000", "rule '70000': '70000' is no port"),
            (
                "10.0.0.1:",
                "rule '10.0.0.1:': nothing stands behind the colon; write \"10.0.0.1\" for every port, or the",
            ),
            ("10.0.0.1:+1", "rule '10.0.0.1:+1': '+1' is no port"),
            ("10.0.0.1:http", "rule '10.0.0.1:http': 'http' is no port; write its number, 80"),
            ("host:ssh", "rule 'host:ssh': 'ssh' is no port; write its number, 22"),
            ("host:what", "rule 'host:what': 'what' is no port; write a number"),
            (
                "ssh",
                "rule 'ssh': 'ssh' is the name of a service; write its port, \"22\", or \"ssh:1-65535\" if it is a",
            ),
            ("host:any", "rule 'host:any': 'any' is no port; for every port write the target alone"),
            ("host:*", "rule 'host:*': '*' is no port; for every port"),
            ("10.0.0.1:0-65535", "rule '10.0.0.1:0-65535': '0' is no port"),
            ("22-", "rule '22-': the range has one end only; write 22-65535"),
            ("-22", "rule '-22': the range has one end only; write 1-22"),
            ("host:8000-", "rule 'host:8000-': the range has one end only; write 8000-65535"),
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
            (
                "a:b:c",
                "rule 'a:b:c': it has several colons; write one, as in plc.local:80, and an IPv6 address in brack",
            ),
            ("localhost:22:80", "rule 'localhost:22:80': it has several colons; write one"),
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
            ("fd00::/8:22", "rule 'fd00::/8:22': it has no brackets; write [fd00::/8]:22"),
            (
                "::1:8001",
                "rule '::1:8001': it has no brackets; write [::1]:8001 for that port of ::1, or [::1:8001] for every port",
            ),
            ("::1:8000-8100", "rule '::1:8000-8100': it has no brackets; write [::1]:8000-8100"),
            ("::ffff:10.0.0.1:22", "rule '::ffff:10.0.0.1:22': it has no brackets; write [::ffff:10.0.0.1]:22"),
            ("fe80::1%eth0:22", "rule 'fe80::1%eth0:22': it has no brackets; write [fe80::1%eth0]:22 for that port"),
            ("[fd00::/129]", "rule '[fd00::/129]': 'fd00::/129' is no network"),
            ("host/8", "rule 'host/8': 'host/8' is no network"),
            ("10.1.2.3/8", "rule '10.1.2.3/8': '10.1.2.3/8' is an address inside a network; write 10.0.0.0/8 for"),
            ("*.example.com", "rule '*.example.com': names have no wildcards; write the whole name"),
            ("*", "rule '*': names have no wildcards"),
            ("all", "rule 'all': 'all' does not stand for everything; write \"any\""),
            ("all:22", "rule 'all:22': 'all' does not stand for everything"),
            ("10.0.0.1-10.0.0.9", "rule '10.0.0.1-10.0.0.9': '10.0.0.1-10.0.0.9' is no address; write a range of addr"),
            ("10.0.0.1-9:22", "rule '10.0.0.1-9:22': '10.0.0.1-9' is no address; write a range"),
            ("l27.0.0.1:22", "rule 'l27.0.0.1:22': 'l27.0.0.1' is no IPv4 address"),
            ("user@host:22", "rule 'user@host:22': 'user@host' is neither an address nor a name (at most 253 letters"),
            ("8000–8100", "rule '8000–8100': '8000–8100' is neither an address nor a name"),
            ("a..b:22", "rule 'a..b:22': 'a..b' is neither"),
            ("a\u{7}b", "rule 'a\\u{7}b': 'a\\u{7}b' is neither"),
            ("  ", "rule '  ': it is empty"),
        ] {
            assert!(error(text).starts_with(told), "{text}: {}", error(text));
        }
    }

    #[test]
    fn what_was_meant_is_shown_as_it_is_to_be_written() {
        let problem = |text: &str| text.parse::<Rule>().expect_err(text).problem;
        for (text, rules) in [
            ("8001,22", r#""8001", "22""#),
            ("22 80", r#""22", "80""#),
            ("22; 8000-8100", r#""22", "8000-8100""#),
            ("8000 - 8100, 22", r#""8000-8100", "22""#),
            ("localhost:22,80", r#""localhost:22", "localhost:80""#),
            ("[::1]:22,80, 10.0.0.1", r#""[::1]:22", "[::1]:80", "10.0.0.1""#),
            ("10.0.0.1, 22", r#""10.0.0.1", "22""#),
            ("no such host:22", r#""no", "such", "host:22""#),
        ] {
            assert_eq!(problem(text), RuleProblem::Several(rules.into()), "{text}");
        }
        for (text, right) in [
            (" 22", "22"),
            ("22,", "22"),
            ("8000 - 8100", "8000-8100"),
            ("10.0.0.1 : 22", "10.0.0.1:22"),
            ("10.0.0.1:22\n", "10.0.0.1:22"),
        ] {
            assert_eq!(problem(text), RuleProblem::Separators(right.into()), "{text}");
        }
        for (text, right) in [
            ("tcp://10.0.0.1:80", "10.0.0.1:80"),
            ("http://plc.local/index.html", "plc.local:80"),
            ("https://[fd00::1]", "[fd00::1]:443"),
            ("http://plc.local:8080", "plc.local:8080"),
            ("tcp://", "192.168.1.10:80"),
        ] {
            assert_eq!(problem(text), RuleProblem::Scheme(right.into()), "{text}");
        }
        for (text, right) in [("22/tcp", "22"), ("10.0.0.1:53/UDP", "10.0.0.1:53")] {
            assert_eq!(problem(text), RuleProblem::Protocol(right.into()), "{text}");
        }
        assert_eq!(problem("tcp://10.0.0.1:80").to_string(), "a rule has no scheme; write for example \"10.0.0.1:80\"");
    }

    #[test]
    fn no_text_makes_the_parser_panic() {
        let parts = ["", "[", "]", ":", "/", "-", "%", "::", "10.0.0.1", "fd00::", "8", "any", "é", " ", ",", "://"];
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
