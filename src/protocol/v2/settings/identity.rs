//! Fields that say who the sender is, and what it offers.

use std::str::from_utf8;

#[cfg(feature = "tls")]
use zeroize::Zeroizing;

use crate::address::Address;
use crate::identity::{Name, Pin, Pins};
#[cfg(feature = "tls")]
use crate::identity::{Secret, TokenId};

/// Services that a device may announce.
pub const MAX_SERVICES: usize = 64;
/// Bytes that they may take.
pub const MAX_SERVICES_LEN: usize = 1024;
/// Addresses that a relay may announce.
pub const MAX_ADDRESSES: usize = 4;

/// A service that a device offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its name.
    pub name: Name,
    /// The number by which it can be asked for, too; by default its target's port.
    pub port: u16,
    /// What is known of it.
    pub flags: ServiceFlags,
}

/// What is known of a service. Bits that are not known are kept, and mean nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServiceFlags(pub u8);

impl ServiceFlags {
    /// It speaks HTTP.
    pub const HTTP: Self = Self(1);
    /// It speaks TLS itself.
    pub const TLS: Self = Self(2);
    /// It expects a header of the PROXY protocol, version 2, which the device writes.
    pub const PROXY_PROTOCOL: Self = Self(4);

    /// Whether every flag of `other` is set.
    pub fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// A token as a device presents it.
#[cfg(feature = "tls")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Join {
    /// Which token.
    pub token: TokenId,
    /// What proves that it is the device's to use.
    pub secret: Secret,
}

#[cfg(feature = "tls")]
impl Join {
    const LEN: usize = TokenId::LEN + Secret::LEN;

    pub(super) fn encode(&self) -> Zeroizing<[u8; Self::LEN]> {
        let mut value = Zeroizing::new([0; Self::LEN]);
        value[..TokenId::LEN].copy_from_slice(&self.token.0);
        value[TokenId::LEN..].copy_from_slice(self.secret.as_bytes());
        value
    }

    pub(super) fn decode(value: &[u8]) -> Option<Self> {
        let (token, secret) = value.split_first_chunk()?;
        Some(Self { token: TokenId(*token), secret: Secret::from_bytes(secret.try_into().ok()?) })
    }
}

pub(super) fn decode_name(value: &[u8]) -> Option<Name> {
    Name::device(from_utf8(value).ok()?).ok()
}

/// Bytes that services of these names take.
pub fn services_len<'a>(names: impl Iterator<Item = &'a Name>) -> usize {
    names.map(service_len).sum()
}

/// A length, the name, a number and flags.
fn service_len(name: &Name) -> usize {
    1 + name.as_str().len() + 3
}

/// As many as fit into the field.
pub(super) fn encode_services(services: &[Service]) -> Vec<u8> {
    let mut value = Vec::new();
    for Service { name, port, flags } in services.iter().take(MAX_SERVICES) {
        if value.len() + service_len(name) > MAX_SERVICES_LEN {
            break;
        }
        let name = name.as_str().as_bytes();
        // A name is far shorter than 255 bytes.
        value.push(name.len() as u8);
        value.extend(name);
        value.extend(port.to_be_bytes());
        value.push(flags.0);
    }
    value
}

pub(super) fn decode_services(mut value: &[u8]) -> Option<Vec<Service>> {
    let mut services: Vec<Service> = Vec::new();
    if value.len() > MAX_SERVICES_LEN {
        return None;
    }
    while !value.is_empty() {
        let (name, rest) = counted(value)?;
        let (&[high, low, flags], rest) = rest.split_first_chunk()?;
        let name = Name::service(from_utf8(name).ok()?).ok()?;
        let is_new = services.iter().all(|service| service.name != name);
        if !is_new || services.len() == MAX_SERVICES {
            return None;
        }
        services.push(Service { name, port: u16::from_be_bytes([high, low]), flags: ServiceFlags(flags) });
        value = rest;
    }
    Some(services)
}

pub(super) fn decode_pins(value: &[u8]) -> Option<Pins> {
    let (current, next) = value.split_first_chunk()?;
    Some(Pins { current: Pin(*current), next: Pin(next.try_into().ok()?) })
}

/// As many as may be sent, without those that are too long for the field.
pub(super) fn encode_addresses(addresses: &[Address]) -> Vec<u8> {
    let mut value = Vec::new();
    let texts = addresses.iter().map(Address::to_string).filter(|text| text.len() <= usize::from(u8::MAX));
    for text in texts.take(MAX_ADDRESSES) {
        value.push(text.len() as u8);
        value.extend(text.as_bytes());
    }
    value
}

pub(super) fn decode_addresses(mut value: &[u8]) -> Option<Vec<Address>> {
    let mut addresses = Vec::new();
    while !value.is_empty() {
        let (text, rest) = counted(value)?;
        if addresses.len() == MAX_ADDRESSES {
            return None;
        }
        addresses.push(from_utf8(text).ok()?.parse().ok()?);
        value = rest;
    }
    Some(addresses)
}

/// What stands behind its length, and what follows it.
fn counted(value: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&length, rest) = value.split_first()?;
    rest.split_at_checked(length.into())
}
