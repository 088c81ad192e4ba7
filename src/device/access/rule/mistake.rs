//! Texts that are no rule and show what was meant: the error names the right spelling.

use super::text::RuleProblem;
use super::{Rule, shown};

/// Services whose names people write in place of their ports.
const SERVICES: [(&str, u16); 9] = [
    ("ftp", 21),
    ("ssh", 22),
    ("telnet", 23),
    ("http", 80),
    ("https", 443),
    ("modbus", 502),
    ("mqtt", 1883),
    ("rdp", 3389),
    ("vnc", 5900),
];

/// The port of a service that is known by this name.
pub(super) fn service_port(name: &str) -> Option<u16> {
    SERVICES.iter().find(|(service, _)| service.eq_ignore_ascii_case(name)).map(|&(_, port)| port)
}

/// What is wrong with a text that no rule is like: a URL, a list, or one with a protocol behind it.
pub(super) fn foreign(text: &str) -> Option<RuleProblem> {
    scheme(text).or_else(|| list(text)).or_else(|| protocol(text))
}

fn is_rule(text: &str) -> bool {
    text.parse::<Rule>().is_ok()
}

fn scheme(text: &str) -> Option<RuleProblem> {
    let (scheme, rest) = text.split_once("://")?;
    let place = rest.split('/').next().unwrap_or_default();
    let with_port = service_port(scheme).map(|port| format!("{place}:{port}"));
    let has_port = place.rsplit_once(':').is_some_and(|(host, _)| !host.contains(':') || host.ends_with(']'));
    let right = [with_port.filter(|_| !has_port), Some(place.into())].into_iter().flatten().find(|text| is_rule(text));
    Some(RuleProblem::Scheme(right.unwrap_or_else(|| "192.168.1.10:80".into())))
}

fn list(text: &str) -> Option<RuleProblem> {
    let separated = |c: char| matches!(c, ',' | ';');
    let squeezed = |text: &str| text.split_whitespace().collect::<String>();
    let by_comma: Vec<String> = text.split(separated).map(squeezed).filter(|part| !part.is_empty()).collect();
    let by_space: Vec<String> = text.split(|c| separated(c) || c.is_whitespace()).map(Into::into).collect();
    let by_space = by_space.into_iter().filter(|part| !part.is_empty()).collect();
    for parts in [by_comma, by_space] {
        let rules = with_targets(parts);
        if rules.len() > 1 && rules.iter().all(|rule| is_rule(rule)) {
            let quoted: Vec<String> = rules.iter().map(|rule| format!("\"{rule}\"")).collect();
            return Some(RuleProblem::Several(quoted.join(", ")));
        }
    }
    let right = squeezed(text.trim_matches(|c: char| separated(c) || c.is_whitespace()));
    (right != text && is_rule(&right)).then_some(RuleProblem::Separators(right))
}

/// Ports behind a rule with a target are meant for that target: `host:22,80`.
fn with_targets(parts: Vec<String>) -> Vec<String> {
    let mut target = String::new();
    let complete = |part: String| {
        if part.bytes().all(|b| b.is_ascii_digit() || b == b'-') {
            return format!("{target}{part}");
        }
        let end = part.rfind(':').filter(|&at| !part[..at].contains(':') || part[..at].ends_with(']'));
        target = end.map_or_else(String::new, |at| part[..=at].into());
        part
    };
    parts.into_iter().map(complete).collect()
}

fn protocol(text: &str) -> Option<RuleProblem> {
    let (rule, protocol) = text.rsplit_once('/')?;
    let is_protocol = ["tcp", "udp"].iter().any(|known| known.eq_ignore_ascii_case(protocol));
    (is_protocol && is_rule(rule)).then(|| RuleProblem::Protocol(shown(rule)))
}
