//! What the relay may reach through this device.

use crate::address::Address;

/// Placeholder.
#[derive(Clone, Debug, Default)]
pub enum Access {
    /// Any address and port.
    Any,
    /// Any port of the device itself: loopback and the addresses of its interfaces.
    #[default]
    Device,
    /// What one of the rules permits.
    Only(Vec<Rule>),
}

/// Placeholder.
#[derive(Clone, Debug)]
pub struct Rule;

impl Access {
    /// Only this one service: the LocalAddress:LocalPort of a call.
    pub fn only(_service: &Address) -> Self {
        todo!()
    }
}
