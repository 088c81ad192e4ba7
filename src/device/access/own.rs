//! The addresses of the device itself.

use std::cell::OnceCell;
use std::net::SocketAddr;

use nix::ifaddrs::getifaddrs;

use super::same_host;

/// Loopback and the addresses of the interfaces, for one decision: interfaces come and go, so the system is asked anew for
/// the next one. It is asked once, and only where that decides.
#[derive(Debug)]
pub(in crate::device) struct OwnAddresses {
    ask: fn() -> Vec<SocketAddr>,
    known: OnceCell<Vec<SocketAddr>>,
}

impl OwnAddresses {
    pub(in crate::device) fn new() -> Self {
        Self::asked_by(of_interfaces)
    }

    pub(super) fn asked_by(ask: fn() -> Vec<SocketAddr>) -> Self {
        Self { ask, known: OnceCell::new() }
    }

    /// Whether a connection to `address` ends on this device.
    pub(in crate::device) fn has(&self, address: &SocketAddr) -> bool {
        let ip = address.ip();
        // Connecting to the unspecified address reaches the machine itself.
        if ip.is_loopback() || ip.is_unspecified() {
            return true;
        }
        self.known.get_or_init(self.ask).iter().any(|own| same_host(own, address))
    }
}

/// None where the system cannot tell: loopback is all there is then.
fn of_interfaces() -> Vec<SocketAddr> {
    let Ok(interfaces) = getifaddrs() else { return Vec::new() };
    let address = |own: nix::sys::socket::SockaddrStorage| {
        let v4 = own.as_sockaddr_in().map(|own| SocketAddr::V4((*own).into()));
        v4.or_else(|| own.as_sockaddr_in6().map(|own| SocketAddr::V6((*own).into())))
    };
    interfaces.filter_map(|interface| interface.address.and_then(address)).collect()
}
