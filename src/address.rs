//! `host:port`, as a user writes it and as CONNECT carries it.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// A host (an IPv4 or IPv6 address, or a name of 1 to 253 bytes) and a port (1 to 65,535; 0 only where
/// [`Self::listen`] took it).
///
/// Written `host:port`; an IPv6 address stands in brackets: `[::1]:22`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    host: String,
    port: u16,
}

/// How much of a wrong value an error shows, in characters.
const SHOWN: usize = 80;

/// Why a text or a pair of values is no [`Address`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// There is no colon before a port.
    #[error("'{0}' has no port; write host:port, for example relay.example.com:2065")]
    NoPort(String),
    /// More than one colon, and no brackets to tell address from port.
    #[error("'{0}' is ambiguous; write an IPv6 address in brackets, for example [::1]:2065")]
    Ambiguous(String),
    /// A scheme stands before the host.
    #[error("'{0}' begins with a scheme; leave it off and write {1}")]
    Scheme(String, String),
    /// The port is not a number from 1 to 65,535.
    #[error("port '{0}' is not a number from 1 to 65535")]
    BadPort(String),
    /// The host is empty.
    #[error("the host is empty; write an address or a name before the port")]
    NoHost,
    /// The host is longer than a name may be, or has characters that no name has.
    #[error("host '{0}' is neither an address nor a name (1 to 253 characters, no spaces)")]
    BadHost(String),
    /// The host alone is wanted, and a port stands behind it.
    #[error("host '{0}' has a port in it; write '{1}', and the port {2} in its own place")]
    PortInHost(String, String, u16),
}

impl Address {
    /// An address from its two parts. The host may be a bracketed IPv6 address; the brackets are dropped.
    pub fn new(host: &str, port: u16) -> Result<Self, AddressError> {
        let address = Self::with_any_port(host, port)?;
        if port == 0 { Err(AddressError::BadPort("0".into())) } else { Ok(address) }
    }

    /// An address to listen at: port 0 lets the system choose one.
    pub fn listen(text: &str) -> Result<Self, AddressError> {
        let (host, port) = split(text)?;
        Self::with_any_port(host, port)
    }

    fn with_any_port(host: &str, port: u16) -> Result<Self, AddressError> {
        if let Some(rest) = without_scheme(host) {
            let named = split(rest).map_or(rest, |(host, _)| host);
            return Err(AddressError::Scheme(shown(host), format!("'{}'", shown(named))));
        }
        let host = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
        if host.is_empty() {
            return Err(AddressError::NoHost);
        }
        let plausible = host.len() <= 253 && host.chars().all(|c| !c.is_whitespace() && is_seen(c));
        let colons = host.contains(':') && host.split('%').next().and_then(|ip| ip.parse::<IpAddr>().ok()).is_none();
        if !plausible || colons {
            return Err(match split(host) {
                Ok((name, port)) => AddressError::PortInHost(shown(host), shown(name), port),
                Err(_) => AddressError::BadHost(shown(host)),
            });
        }
        Ok(Self { host: host.into(), port })
    }

    /// The address or name, without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The host as an IP address, if it is one and needs no name lookup.
    pub fn ip(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let (host, port) = split(text)?;
        Self::new(host, port)
    }
}

/// Host, still in its brackets, and port.
fn split(text: &str) -> Result<(&str, u16), AddressError> {
    if let Some(rest) = without_scheme(text) {
        let right = if split(rest).is_ok() { rest } else { "host:port, for example relay.example.com:2065" };
        return Err(AddressError::Scheme(shown(text), shown(right)));
    }
    let (host, port) = text.rsplit_once(':').ok_or_else(|| AddressError::NoPort(shown(text)))?;
    if host.starts_with('[') != host.ends_with(']') {
        return Err(AddressError::NoPort(shown(text)));
    }
    if !host.starts_with('[') && host.contains(':') {
        return Err(AddressError::Ambiguous(shown(text)));
    }
    let digits = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
    let number = if digits { port.parse().ok() } else { None };
    Ok((host, number.ok_or_else(|| AddressError::BadPort(shown(port)))?))
}

/// A wrong value, fit for a line of a log.
fn shown(text: &str) -> String {
    text.chars().take(SHOWN).flat_map(char::escape_debug).collect()
}

/// Whether a person sees the character as it is: it moves no cursor, turns no letters around, and has a width.
fn is_seen(c: char) -> bool {
    matches!(c, '"' | '\'' | '\\') || c.escape_debug().len() == 1
}

/// What stands between the scheme of a URL and its path.
fn without_scheme(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once("://")?;
    rest.split('/').next()
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_addresses_and_bracketed_ipv6_are_read_and_shown_alike() {
        for text in ["localhost:1", "127.0.0.1:65535", "[::1]:22", "[fe80::1%eth0]:22", "relay.example.com:2065"] {
            assert_eq!(text.parse::<Address>().expect(text).to_string(), text);
        }
    }

    #[test]
    fn only_an_address_to_listen_at_may_have_port_0() {
        assert_eq!(Address::listen("[::]:0").expect("port 0").to_string(), "[::]:0");
        assert_eq!(Address::listen("localhost:22"), "localhost:22".parse());
        assert!("[::]:0".parse::<Address>().is_err());
        assert!(Address::listen("localhost:70000").is_err());
    }

    #[test]
    fn each_error_shows_the_value() {
        let error = |text: &str| text.parse::<Address>().expect_err(text).to_string();
        assert!(error("relay").starts_with("'relay' has no port"));
        assert!(error("::1:22").contains("in brackets"));
        assert!(error("[::1]").contains("has no port"));
        assert_eq!(error("a:70000"), "port '70000' is not a number from 1 to 65535");
        assert_eq!(error("a:0"), "port '0' is not a number from 1 to 65535");
        assert_eq!(error("a:+1"), "port '+1' is not a number from 1 to 65535");
        assert_eq!(error(":22"), "the host is empty; write an address or a name before the port");
        assert!(error("no such host:1").starts_with("host 'no such host' is neither"));
        assert!(error("[x:y]:1").contains("neither an address nor a name"));
        let scheme = |text: &str, right: &str| {
            assert_eq!(error(text), format!("'{text}' begins with a scheme; leave it off and write {right}"));
        };
        scheme("tcp://relay.example.com:2065", "relay.example.com:2065");
        scheme("http://[::1]:2065/path", "[::1]:2065");
        scheme("http://relay.example.com", "host:port, for example relay.example.com:2065");
        scheme("a://b://c:1", "host:port, for example relay.example.com:2065");
    }

    #[test]
    fn a_name_has_no_character_that_is_not_seen_as_it_is_and_an_error_shows_a_line_of_it() {
        for host in ["moc.\u{202e}elpmaxe", "a\u{200b}b", "\u{feff}a", "a\u{2066}b\u{2069}", "a\u{ad}b", "a\u{1b}[2J"] {
            let error = Address::new(host, 1).expect_err(host).to_string();
            assert!(error.contains("\\u{") && !error.chars().any(|c| !is_seen(c) && c != ' '), "{error}");
        }
        assert!(Address::new("ger\u{e4}t.example.com", 1).is_ok());
        for long in ["\u{202e}".repeat(1 << 16), format!("a://{}", "\u{202e}".repeat(1 << 16))] {
            let error = Address::new(&long, 1).expect_err("too long").to_string();
            assert!(error.len() < 2000, "{} bytes", error.len());
        }
    }

    #[test]
    fn a_host_alone_has_no_scheme_and_no_port() {
        let error = |host: &str| Address::new(host, 1).expect_err(host).to_string();
        assert_eq!(error("tcp://relay"), "'tcp://relay' begins with a scheme; leave it off and write 'relay'");
        assert_eq!(error("tcp://relay:22"), "'tcp://relay:22' begins with a scheme; leave it off and write 'relay'");
        assert_eq!(
            error("relay:22"),
            "host 'relay:22' has a port in it; write 'relay', and the port 22 in its own place"
        );
        assert!(error("[::1]:22").contains("write '[::1]', and the port 22"));
        assert!(error("relay:").contains("neither an address nor a name"));
    }
}
