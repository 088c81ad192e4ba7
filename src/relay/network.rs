//! Addresses that the configuration names together.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;

/// An address, or a network of them: `10.0.0.5`, `10.1.0.0/16`, `fd00::/8`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network(IpNet);

/// A text that is neither an address nor a network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetworkError {
    /// It is no such thing.
    #[error("'{0}' is neither an address nor a network; write it as 10.0.0.5, 10.1.0.0/16 or fd00::/8")]
    Malformed(String),
    /// Bits behind the prefix are set.
    #[error("'{0}' has bits behind its prefix; write {1} for that network")]
    Excess(String, String),
}

/// How much of a wrong value an error shows, in characters.
const SHOWN: usize = 80;

impl Network {
    /// Whether the address is one of these.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(&address.to_canonical())
    }
}

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let shown = || text.chars().take(SHOWN).flat_map(char::escape_debug).collect();
        let address = text.parse::<IpAddr>().map(|ip| IpNet::from(ip.to_canonical()));
        let network = address.or_else(|_| text.parse::<IpNet>()).map_err(|_| NetworkError::Malformed(shown()))?;
        if network.addr() == network.network() {
            Ok(Self(network))
        } else {
            Err(NetworkError::Excess(shown(), network.trunc().to_string()))
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.prefix_len() == self.0.max_prefix_len() { self.0.addr().fmt(f) } else { self.0.fmt(f) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_network_of_one() {
        let network = |text: &str| text.parse::<Network>().expect(text);
        let contains = |text: &str, ip: &str| network(text).contains(ip.parse().expect(ip));
        assert!(contains("10.0.0.5", "10.0.0.5") && !contains("10.0.0.5", "10.0.0.6"));
        assert!(contains("10.1.0.0/16", "10.1.255.255") && !contains("10.1.0.0/16", "10.2.0.0"));
        assert!(contains("10.1.0.0/16", "::ffff:10.1.0.1") && contains("::ffff:10.0.0.5", "10.0.0.5"));
        assert!(contains("fd00::/8", "fd01::1") && !contains("::/0", "10.0.0.1"));
        assert_eq!(network("10.0.0.5").to_string(), "10.0.0.5");
        assert_eq!(network("10.1.0.0/16").to_string(), "10.1.0.0/16");
    }

    #[test]
    fn an_error_says_what_to_write() {
        let error = |text: &str| text.parse::<Network>().expect_err(text).to_string();
        assert_eq!(
            error("lb.example\n"),
            "'lb.example\\n' is neither an address nor a network; write it as 10.0.0.5, 10.1.0.0/16 or fd00::/8"
        );
        assert_eq!(
            error("10.1.2.3/16"),
            "'10.1.2.3/16' has bits behind its prefix; write 10.1.0.0/16 for that network"
        );
        assert!(error("10.0.0.0/33").starts_with("'10.0.0.0/33' is neither"));
    }
}
