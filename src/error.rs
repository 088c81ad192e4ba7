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
    /// The server answered that nobody listens there.
    #[error("{0} refused the connection; is the relay running there?")]
    Refused(Address),
    /// There is no way to the server.
    #[error("cannot reach {address}: {reason}")]
    Unreachable {
        /// Where the connection was to go.
        address: Address,
        /// What the system said.
        reason: io::Error,
    },
    /// The server did not answer in time.
    #[error("{address} did not answer within {seconds} s; check the address and any firewall between")]
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
    #[error("another device took the place of this one at {0}; let each device have a relay, or a port, of its own")]
    Replaced(Address),
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
    /// `lost`, `replaced`, `protocol`, `closed`, `internal`, `forked` or `system`.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Usage(_) | Self::Address(_) => "usage",
            Self::Unresolved { .. } => "unresolved",
            Self::Refused(_) => "refused",
            Self::Unreachable { .. } => "unreachable",
            Self::Timeout { .. } => "timeout",
            Self::Lost { .. } => "lost",
            Self::Replaced(_) => "replaced",
            Self::Protocol(_) => "protocol",
            Self::Closed => "closed",
            Self::Internal(_) => "internal",
            Self::Forked => "forked",
            Self::System { .. } => "system",
        }
    }
}
