//! What a tunnel is to do; always valid once it exists.

use std::time::Duration;

use super::Access;
use crate::address::Address;
use crate::link::QueueRule;

/// The settings of one tunnel.
#[derive(Clone, Debug)]
pub struct Config {
    /// The relay: the document's ServerAddress:ServerPort.
    pub server: Address,
    /// What the relay may reach through this device.
    pub access: Access,
    /// How long resolving and connecting to the server may take in all.
    pub connect_timeout: Duration,
    /// What is kept for a service that does not read, and for how long it may hold up the others.
    pub rule: QueueRule,
}

impl Config {
    /// 10 s, over every address of the server's name.
    pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

    /// The defaults: any port of the device itself may be reached.
    pub fn new(server: Address) -> Self {
        Self { server, access: Access::default(), connect_timeout: Self::CONNECT_TIMEOUT, rule: QueueRule::default() }
    }
}
