//! Who a device is on a link in TLS, and what its relay says there.

use std::sync::Arc;

use crate::address::Address;
use crate::identity::{Name, Pin, Pins};
use crate::protocol::v2::{Join, Settings};
use crate::tls::Key;

/// Who a device is, and which relay it trusts. With it the link is in TLS.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The device's key, which it proves.
    pub key: Arc<Key>,
    /// The relay's keys, one of which it must prove.
    pub pins: Pins,
    /// The name that the device wishes, with `join`, or has by its own account.
    pub name: Option<Name>,
    /// The token that admits a key that the relay does not know. It is sent each time: a key that is known is not asked.
    pub join: Option<Join>,
    /// Random bytes, new at each start of the process and never stored: a relay that sees older ones again knows that two
    /// devices have one key.
    pub instance: [u8; 16],
}

impl Identity {
    /// What it says of itself in SETTINGS.
    pub(super) fn said(&self) -> Settings {
        let Self { name, join, instance, .. } = self;
        Settings { name: name.clone(), join: join.clone(), instance: Some(*instance), ..Settings::default() }
    }
}

/// What a relay said when it admitted the device; to be stored for the next start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announcement {
    /// The key that the relay has proved; one of the two that were expected.
    pub proven: Pin,
    /// The name that the device has there.
    pub name: Option<Name>,
    /// The relay's keys by its own account. They are to be believed if it has proved the next key, or announces what is
    /// known.
    pub pins: Option<Pins>,
    /// Where the relay is to be found.
    pub addresses: Vec<Address>,
    /// Seconds since 1970 by the relay's clock, for a log and no decision.
    pub time: Option<u64>,
}
