//! What can go wrong for the caller, one variant per cause.

use std::io;
use std::time::Duration;

use crate::address::{Address, AddressError};
use crate::device::ProxyError;
#[cfg(feature = "tls")]
use crate::device::StateDirError;
#[cfg(feature = "tls")]
use crate::identity::{JoinError, NoRandomness};
use crate::protocol::ProtocolError;
use crate::protocol::v2::Code;

/// An error of the public API. The text says what was wrong, with which value, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A setting is missing, of the wrong kind or out of range.
    #[error("{0}")]
    Usage(String),
    /// An address cannot be read.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// A name has no address, or the resolver did not answer.
    #[error("cannot resolve '{host}': {reason}; check the name and the device's DNS")]
    Unresolved {
        /// The name that was looked up.
        host: String,
        /// What the resolver said.
        reason: String,
    },
    /// The server answered that no socket listens there.
    #[error("the link to {0} was refused; start the relay there, or correct the address")]
    Refused(Address),
    /// There is no way to the server.
    #[error("the link to {address} cannot be made: {reason}; check the address and the device's network")]
    Unreachable {
        /// Where the connection was to go.
        address: Address,
        /// What the system said.
        reason: io::Error,
    },
    /// The server did not answer in time.
    #[error(
        "the link to {address} was not answered within {seconds} s; check the address and any firewall between, or give a \
         longer connect_timeout"
    )]
    Timeout {
        /// Where the connection was to go.
        address: Address,
        /// The time that was given, in seconds.
        seconds: f64,
    },
    /// The link was there and is lost.
    #[error("the link to {address} was lost: {reason}")]
    Lost {
        /// The relay.
        address: Address,
        /// What ended the link.
        reason: String,
    },
    /// Another link of this device, or a device that poses as it, took this one's place.
    #[error("the link to {0} was taken over by another device; let each device have a relay, or a port, of its own")]
    Replaced(Address),
    /// Another link by the same key took this one's place.
    #[error(
        "the link to {0} was taken over by another program or device that has the same key; give each a state_dir of its \
         own, and let it join by a string of its own"
    )]
    KeyTakenOver(Address),
    /// The relay does not admit this device, and says why.
    #[error("the link to {address} was refused by the relay: {}", bar(*.code, .reason))]
    NotAdmitted {
        /// The relay.
        address: Address,
        /// Its code.
        code: Code,
        /// What it says itself; may be empty.
        reason: String,
    },
    /// The relay proves a key that is not pinned, or cannot prove one.
    #[error("the link to {address} was given up: {reason}")]
    Pin {
        /// The relay.
        address: Address,
        /// The key that it has, and those that were expected.
        reason: String,
    },
    /// Something on the way answers in the relay's place.
    #[error(
        "the link to {0} was given up: something between opens TLS, or it is no relay; pass its port through untouched"
    )]
    Intercepted(Address),
    /// There is no TLS on the link.
    #[error("the link to {address} was given up: {reason}")]
    Tls {
        /// The relay.
        address: Address,
        /// What is wrong.
        reason: String,
    },
    /// The relay speaks only versions of the protocol that are older than `min_protocol`.
    #[error(
        "the link to {0} was given up: the relay speaks version 1 of the protocol, and min_protocol is 2; update the relay, \
         or leave min_protocol off"
    )]
    OldRelay(Address),
    /// The proxy on the way does not let the link through.
    #[error("the link to {address} cannot be made through the proxy {proxy}: {problem}")]
    Proxy {
        /// The relay.
        address: Address,
        /// The proxy.
        proxy: Address,
        /// What it says, or what is wrong with it.
        problem: ProxyError,
    },
    /// The relay was found at none of its addresses.
    #[cfg(feature = "tls")]
    #[error("{worst}; its other addresses failed, too: {}", list(.others))]
    Everywhere {
        /// What says most about the cause.
        worst: Box<Self>,
        /// The other addresses, and the codes of what went wrong there.
        others: Vec<(Address, &'static str)>,
    },
    /// The string with which the device was to join a relay is none.
    #[cfg(feature = "tls")]
    #[error("join: {0}")]
    Join(#[from] JoinError),
    /// The directory in which the device keeps its identity cannot be used.
    #[cfg(feature = "tls")]
    #[error(transparent)]
    StateDir(#[from] StateDirError),
    /// The system gave no random bytes.
    #[cfg(feature = "tls")]
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
    /// The peer sent what it must not.
    #[error("the peer broke the protocol: {0}")]
    Protocol(#[from] ProtocolError),
    /// The tunnel was closed by its owner.
    #[error("closed")]
    Closed,
    /// The loop thread panicked; a defect to be reported.
    #[error("the tunnel's thread failed, please report this: {0}")]
    Internal(String),
    /// The process forked; the tunnel lives on in the parent only.
    #[error("forked: this tunnel belongs to the parent process; connect again in this one")]
    Forked,
    /// The system refused what the tunnel needs to run.
    #[error("{what}: {reason}")]
    System {
        /// What was attempted.
        what: String,
        /// What the system said.
        reason: io::Error,
    },
}

impl Error {
    /// [`Self::Timeout`], with the time as a person wants to read it.
    pub(crate) fn timeout(address: Address, time: Duration) -> Self {
        Self::Timeout { address, seconds: (time.as_secs_f64() * 10.0).ceil() / 10.0 }
    }

    /// What came of the addresses of a relay, in this order, as one error.
    #[cfg(feature = "tls")]
    pub(crate) fn everywhere(before: Vec<(Address, Self)>, (address, last): (Address, Self)) -> Self {
        // It has spoken itself, or is the only one that was tried.
        if before.is_empty() || matches!(last, Self::NotAdmitted { .. }) {
            return last;
        }
        let mut all = before;
        all.push((address, last));
        // Of two that say as much the one that was tried first counts.
        let worst = (0..all.len()).max_by_key(|place| (all[*place].1.says(), usize::MAX - place)).unwrap_or(0);
        let (_, worst) = all.remove(worst);
        Self::Everywhere {
            worst: Box::new(worst),
            others: all.into_iter().map(|(address, error)| (address, error.code())).collect(),
        }
    }

    /// How much it says about why there is no link: what answers in the relay's place more than that nothing does.
    #[cfg(feature = "tls")]
    fn says(&self) -> u8 {
        match self.code() {
            "system" => 7,
            "pin" => 6,
            "tls" => 5,
            "lost" | "replaced" | "version" | "proxy" => 4,
            "timeout" => 3,
            "refused" | "unreachable" => 2,
            "unresolved" => 1,
            _ => 8,
        }
    }

    /// A stable lowercase word for programs: `usage`, `unresolved`, `refused`, `unreachable`, `timeout`,
    /// `lost`, `replaced`, `unknown`, `revoked`, `token`, `pending`, `pin`, `tls`, `version`, `proxy`, `state_dir`,
    /// `protocol`, `closed`, `internal`, `forked` or `system`.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Usage(_) | Self::Address(_) => "usage",
            Self::Unresolved { .. } => "unresolved",
            Self::Refused(_) => "refused",
            Self::Unreachable { .. } => "unreachable",
            Self::Timeout { .. } => "timeout",
            Self::Lost { .. } => "lost",
            Self::Replaced(_) | Self::KeyTakenOver(_) => "replaced",
            Self::NotAdmitted { code, .. } => code.name(),
            Self::Pin { .. } => "pin",
            Self::Intercepted(_) | Self::Tls { .. } => "tls",
            Self::OldRelay(_) => "version",
            Self::Proxy { .. } => "proxy",
            #[cfg(feature = "tls")]
            Self::Everywhere { worst, .. } => worst.code(),
            #[cfg(feature = "tls")]
            Self::Join(_) => "usage",
            #[cfg(feature = "tls")]
            Self::StateDir(_) => "state_dir",
            #[cfg(feature = "tls")]
            Self::NoRandomness(_) => "system",
            Self::Protocol(_) => "protocol",
            Self::Closed => "closed",
            Self::Internal(_) => "internal",
            Self::Forked => "forked",
            Self::System { .. } => "system",
        }
    }
}

/// Addresses, and what went wrong there.
#[cfg(feature = "tls")]
fn list(others: &[(Address, &'static str)]) -> String {
    const SHOWN: usize = 4;
    let shown = others.iter().take(SHOWN).map(|(address, code)| format!("{address} ({code})"));
    let shown = shown.collect::<Vec<_>>().join(", ");
    if others.len() > SHOWN { format!("{shown} and {} more", others.len() - SHOWN) } else { shown }
}

/// Why a device is not admitted, in the relay's words, and what to do.
fn bar(code: Code, reason: &str) -> String {
    let (text, remedy) = if code == Code::UnknownDevice {
        ("it does not know this device's key", "join it with a token")
    } else if code == Code::Revoked {
        (
            "this device's key is revoked",
            "ask the relay's operator to unrevoke the device, or for a token that replaces the key",
        )
    } else if code == Code::Token {
        ("the join token is unknown, used or expired", "ask the relay's operator for another")
    } else {
        ("this device's key waits for approval", "ask the relay's operator to approve it")
    };
    if reason.contains("; ") {
        // It says what to do itself.
        return reason.into();
    }
    let text = if reason.is_empty() { text } else { reason };
    format!("{text}; {remedy}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_has_one_name_in_all_messages_and_each_can_be_followed_by_when_it_is_tried_again() {
        let address = || "relay.example.com:2065".parse::<Address>().expect("an address");
        let reason = || io::Error::other("no route");
        for error in [
            Error::Refused(address()),
            Error::Unreachable { address: address(), reason: reason() },
            Error::Timeout { address: address(), seconds: 10.0 },
            Error::Lost { address: address(), reason: "the other end closed it".into() },
            Error::Replaced(address()),
            Error::KeyTakenOver(address()),
            Error::NotAdmitted { address: address(), code: Code::Revoked, reason: String::new() },
            Error::NotAdmitted { address: address(), code: Code::Token, reason: "the token is used".into() },
            Error::OldRelay(address()),
            Error::Pin { address: address(), reason: "the relay has another key".into() },
            Error::Intercepted(address()),
            Error::Tls { address: address(), reason: "the other end speaks no TLS".into() },
        ] {
            let text = error.to_string();
            assert!(text.starts_with("the link to relay.example.com:2065 "), "{text}");
            assert_eq!(text.matches("relay.example.com").count(), 1, "{text}");
            assert!(text.ends_with(char::is_alphabetic), "{text}");
        }
    }

    #[cfg(feature = "tls")]
    #[test]
    fn of_several_addresses_what_says_most_is_told_and_the_others_are_named() {
        let address = |number: u16| Address::new("relay.example.com", number).expect("an address");
        let refused = |number| (address(number), Error::Refused(address(number)));
        let tls = |number| (address(number), Error::Tls { address: address(number), reason: "no TLS".into() });
        let text = |before: Vec<(Address, Error)>, last| {
            let error = Error::everywhere(before, last);
            (error.code(), error.to_string())
        };
        let expected = "the link to relay.example.com:1 was given up: no TLS; its other addresses failed, too: \
                        relay.example.com:2 (refused)";
        assert_eq!(text(vec![tls(1)], refused(2)), ("tls", expected.into()));
        assert!(text(vec![refused(1)], refused(2)).1.contains("link to relay.example.com:1 was refused"), "the first");
        assert!(text(vec![refused(1)], tls(2)).1.contains("link to relay.example.com:2 was given up"));
        assert_eq!(text(Vec::new(), refused(1)).1, Error::Refused(address(1)).to_string());
        let many = text((1..8).map(refused).collect(), tls(8)).1;
        assert!(many.ends_with("relay.example.com:4 (refused) and 3 more") && !many.contains(":5 "), "{many}");
        let spoken = Error::NotAdmitted { address: address(2), code: Code::Token, reason: String::new() };
        assert!(!text(vec![tls(1)], (address(2), spoken)).1.contains(":1"), "the relay has spoken");
    }

    #[test]
    fn a_device_that_is_not_admitted_is_told_why_and_what_to_do() {
        let error = |code, reason: &str| {
            let address = "relay:443".parse().expect("an address");
            let error = Error::NotAdmitted { address, code, reason: reason.into() };
            (error.code(), error.to_string())
        };
        let text = |text: &str| format!("the link to relay:443 was refused by the relay: {text}");
        let unknown = text("it does not know this device's key; join it with a token");
        assert_eq!(error(Code::UnknownDevice, ""), ("unknown", unknown));
        let token = text("the token was used by another key; ask the relay's operator for another");
        assert_eq!(error(Code::Token, "the token was used by another key"), ("token", token));
        assert_eq!((error(Code::Revoked, "").0, error(Code::Pending, "").0), ("revoked", "pending"));
    }
}
