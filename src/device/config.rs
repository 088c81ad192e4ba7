//! What a tunnel is to do; always valid once it exists.

use std::time::Duration;

#[cfg(feature = "tls")]
use super::{Access, Enrolment, Identity, Proxy, Services};
#[cfg(not(feature = "tls"))]
use super::{Access, Proxy, Services};
use crate::address::Address;
use crate::connection::{Limits, Protocol};

/// The settings of one tunnel.
#[derive(Clone, Debug)]
pub struct Config {
    /// The relay: the document's ServerAddress:ServerPort.
    pub server: Address,
    /// Who the device is. With it the link is in TLS, and `protocol` and `min_protocol` mean nothing; without it there is no
    /// identity, and the link is plain.
    #[cfg(feature = "tls")]
    pub identity: Option<Identity>,
    /// Where the device's identity and its relay's addresses come from, in place of `identity` and `server`.
    #[cfg(feature = "tls")]
    pub enrolment: Option<Enrolment>,
    /// The HTTP proxy through which the relay is connected to.
    pub proxy: Option<Proxy>,
    /// What the relay may reach through this device.
    pub access: Access,
    /// What it offers by name; see [`offer`](Self::offer).
    pub services: Services,
    /// How long resolving and connecting to the server may take in all.
    pub connect_timeout: Duration,
    /// Whether a link that is lost is made anew, for ever, once there was one.
    pub reconnect: bool,
    /// Whether the first link is tried for until there is one, too; without it a first link that cannot be made is the
    /// end.
    pub keep_trying: bool,
    /// The newest version of the protocol to speak.
    pub protocol: Protocol,
    /// The oldest one: a relay that speaks none that is as new is no relay for this device.
    pub min_protocol: Protocol,
    /// What is taken from the relay, and how much is kept.
    pub limits: Limits,
}

impl Config {
    /// 10 s, over every address of the server's name.
    pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

    /// The defaults: any port of the device itself may be reached, and a lost link is made anew.
    pub fn new(server: Address) -> Self {
        Self {
            server,
            #[cfg(feature = "tls")]
            identity: None,
            #[cfg(feature = "tls")]
            enrolment: None,
            proxy: None,
            access: Access::default(),
            services: Services::default(),
            connect_timeout: Self::CONNECT_TIMEOUT,
            reconnect: true,
            keep_trying: false,
            protocol: Protocol::default(),
            min_protocol: Protocol::V1,
            limits: Limits::DEVICE,
        }
    }

    /// Offers these services, and lets nothing else be reached; another `access` is set afterwards.
    pub fn offer(&mut self, services: Services) {
        self.access = services.access();
        self.services = services;
    }
}
