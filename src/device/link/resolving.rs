//! A service whose name, or one that decides on it, is looked up.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use super::super::access::{Access, OwnAddresses, Refusal};
use super::super::names::{Found, LookupError};
use super::super::services::Services;
use crate::address::Address;

/// A service, and what is known of the names that decide on it: its own, and those of the rules.
pub(super) struct Resolving {
    pub(super) service: Address,
    /// Whether it expects a PROXY header, where the configuration says that of this very destination.
    pub(super) has_header: Option<bool>,
    pub(super) known: BTreeMap<Arc<str>, Found>,
}

/// Where a service may be connected to, and whether with a PROXY header.
pub(super) type Answer = Result<(Vec<SocketAddr>, bool), Refusal>;

impl Resolving {
    /// Where to connect to; or the names that must be known first.
    pub(super) fn decide(&self, access: &Access, services: &Services) -> Result<Answer, Vec<Arc<str>>> {
        let mut missing = Vec::new();
        let mut lookup = |name: &str, _: u16| match self.known.get(name) {
            Some(Ok(addresses)) => Ok(addresses.to_vec()),
            Some(Err(error)) => Err(error.into()),
            None => {
                missing.push(name.into());
                Err(io::ErrorKind::WouldBlock.into())
            }
        };
        let own = OwnAddresses::new();
        let permitted = access.permit(self.service.host(), self.service.port(), &own, &mut lookup);
        let answer = permitted.and_then(|addresses| match self.has_header {
            Some(has_header) => Ok((addresses, has_header)),
            None => services.recognize(addresses, &own, &mut lookup),
        });
        if missing.is_empty() { Ok(answer) } else { Err(missing) }
    }
}

impl From<&LookupError> for io::Error {
    fn from(error: &LookupError) -> Self {
        error.os.map_or_else(|| Self::other(error.text.to_string()), Self::from_raw_os_error)
    }
}
