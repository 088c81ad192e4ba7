//! One line of what is permitted, and how it is written.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;

use super::{OwnAddresses, shown};
use crate::address::Address;
pub use text::{RuleError, RuleProblem};

mod mistake;
mod text;

/// One thing that the relay may reach, written `target:ports`.
///
/// The target is an address, a network (`10.0.0.0/8`), a name (just that name, in any case, or an address that it
/// resolves to) or `any`. The ports are one number or a range (`8000-8100`); without them every port is meant.
/// An IPv6 address or network stands in brackets: `[fd00::/8]:22`. Ports alone (`22`, `8000-8100`) are those of
/// the device itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    target: Target,
    ports: RangeInclusive<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Target {
    Any,
    /// Loopback and the addresses of the interfaces.
    Device,
    /// Every address that begins with the `prefix` first bits of `base`.
    Network {
        base: IpAddr,
        prefix: u8,
    },
    /// A name, or an IPv6 address with an interface (`fe80::1%eth0`), which only the system's resolver understands.
    Name(String),
}

impl Rule {
    /// Every port of the device itself.
    pub(super) fn device() -> Self {
        Self { target: Target::Device, ports: 1..=u16::MAX }
    }

    /// Just this service.
    pub(super) fn service(service: &Address) -> Self {
        let target = service.ip().map_or_else(|| Target::Name(service.host().into()), Target::address);
        Self { target, ports: service.port()..=service.port() }
    }

    pub(super) fn covers(&self, port: u16) -> bool {
        self.ports.contains(&port)
    }

    /// The name to resolve before it is known which addresses are meant.
    pub(super) fn name(&self) -> Option<&str> {
        match &self.target {
            Target::Name(name) => Some(name),
            Target::Any | Target::Device | Target::Network { .. } => None,
        }
    }

    /// Whether the address matches, as far as that is known without a resolver.
    pub(super) fn holds(&self, address: &SocketAddr, own: &OwnAddresses) -> bool {
        match &self.target {
            Target::Any => true,
            Target::Device => own.has(address),
            Target::Network { base, prefix } => masked(address.ip(), *prefix) == Some(*base),
            Target::Name(_) => false,
        }
    }
}

impl Target {
    fn address(ip: IpAddr) -> Self {
        let base = ip.to_canonical();
        Self::Network { base, prefix: width(base) }
    }
}

/// How many bits an address of this family has.
fn width(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 32 } else { 128 }
}

/// The first `prefix` bits of the address, then zeros; `None` if it has not so many.
fn masked(ip: IpAddr, prefix: u8) -> Option<IpAddr> {
    let shift = u32::from(width(ip).checked_sub(prefix)?);
    Some(match ip {
        IpAddr::V4(ip) => IpAddr::V4((ip.to_bits() & u32::MAX.checked_shl(shift).unwrap_or(0)).into()),
        IpAddr::V6(ip) => IpAddr::V6((ip.to_bits() & u128::MAX.checked_shl(shift).unwrap_or(0)).into()),
    })
}
