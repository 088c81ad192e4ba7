//! What can go wrong for the caller, one variant per cause.

use std::io;

use crate::address::{Address, AddressError};
use crate::protocol::ProtocolError;

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
    #[error("the link to {address} was not answered within {seconds} s; check the address and any firewall between")]
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
    /// The relay speaks only versions of the protocol that are older than `min_protocol`.
    #[error(
        "the link to {0} was given up: the relay speaks version 1 of the protocol, and min_protocol is 2; update the relay, \
         or leave min_protocol off"
    )]
    OldRelay(Address),
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
    /// A stable lowercase word for programs: `usage`, `unresolved`, `refused`, `unreachable`, `timeout`,
    /// `lost`, `replaced`, `version`, `protocol`, `closed`, `internal`, `forked` or `system`.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Usage(_) | Self::Address(_) => "usage",
            Self::Unresolved { .. } => "unresolved",
            Self::Refused(_) => "refused",
            Self::Unreachable { .. } => "unreachable",
            Self::Timeout { .. } => "timeout",
            Self::Lost { .. } => "lost",
            Self::Replaced(_) => "replaced",
            Self::OldRelay(_) => "version",
            Self::Protocol(_) => "protocol",
            Self::Closed => "closed",
            Self::Internal(_) => "internal",
            Self::Forked => "forked",
            Self::System { .. } => "system",
        }
    }
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
            Error::OldRelay(address()),
        ] {
            let text = error.to_string();
            assert!(text.starts_with("the link to relay.example.com:2065 "), "{text}");
            assert_eq!(text.matches("relay.example.com").count(), 1, "{text}");
            assert!(text.ends_with(char::is_alphabetic), "{text}");
        }
    }
}
