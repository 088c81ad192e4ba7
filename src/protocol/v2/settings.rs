//! What each side can take and who it is, said once at the start.

mod identity;
#[cfg(test)]
mod tests;

use std::time::Duration;

#[cfg(feature = "tls")]
pub use identity::Join;
pub use identity::{MAX_ADDRESSES, MAX_SERVICES, MAX_SERVICES_LEN, Service, ServiceFlags, services_len};

use super::field;
use super::header::{Flags, Header, Type};
use crate::address::Address;
use crate::identity::{Name, Pins};
use crate::protocol::ProtocolError;

/// The payload of SETTINGS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// A relay's, and all it says: it does not take the peer, and GOAWAY behind it tells why. There are no fields.
    pub refuses: bool,
    /// Bytes that the peer may send on a new stream before the first CREDIT.
    pub window: u32,
    /// Streams that the relay may have open at once; sent by the device.
    pub streams: u32,
    /// Streams that the relay may open in a second, and at once; sent by the device.
    pub open_rate: u32,
    /// The sender answers DATA that asks with ACK.
    pub acknowledges: bool,
    /// Name and version of the sender, for logs. At most 64 bytes are kept.
    pub software: String,
    /// The silence after which a peer is asked on a link without streams, in whole seconds, at least one; `None` of a
    /// sender that asks as on a link with streams.
    pub keepalive: Option<Duration>,
    /// A device's: what it offers by name, at most [`MAX_SERVICES`]; `None` of one that knows no names.
    pub services: Option<Vec<Service>>,
    /// A device's wish, with `join`, or its claim; a relay's: the name that the device has. In TLS alone.
    pub name: Option<Name>,
    /// A device's: random bytes, new at each start of its process. In TLS alone.
    pub instance: Option<[u8; 16]>,
    /// A device's: the token that admits it. In TLS alone; elsewhere it is
    /// [`JoinInTheClear`](ProtocolError::JoinInTheClear).
    #[cfg(feature = "tls")]
    pub join: Option<Join>,
    /// A relay's: seconds since 1970, for the device's log and for no decision. In TLS alone.
    pub time: Option<u64>,
    /// A relay's: its key and the one that follows it. In TLS alone.
    pub pins: Option<Pins>,
    /// A relay's: where it is to be found, at most [`MAX_ADDRESSES`]. In TLS alone.
    pub addresses: Vec<Address>,
}

/// What a field means. 11, 13 and 15 are kept free for what they are to mean.
mod tag {
    pub(super) const NAME: u16 = 1;
    pub(super) const INSTANCE: u16 = 2;
    pub(super) const SOFTWARE: u16 = 3;
    pub(super) const WINDOW: u16 = 4;
    pub(super) const STREAMS: u16 = 5;
    pub(super) const OPEN_RATE: u16 = 6;
    pub(super) const SERVICES: u16 = 7;
    pub(super) const JOIN: u16 = 8;
    pub(super) const KEEPALIVE: u16 = 9;
    pub(super) const ACKNOWLEDGES: u16 = 10;
    pub(super) const TIME: u16 = 12;
    pub(super) const PINS: u16 = 14;
    pub(super) const ADDRESSES: u16 = 16;
}

/// The longest name of a software that is kept, in bytes.
const MAX_SOFTWARE: usize = 64;

impl Default for Settings {
    /// What a side assumes of the other before its SETTINGS are here: the least that any may say.
    fn default() -> Self {
        Self {
            refuses: false,
            window: 16 * 1024,
            streams: 16,
            open_rate: 10_000,
            acknowledges: false,
            software: String::new(),
            keepalive: None,
            services: None,
            name: None,
            instance: None,
            #[cfg(feature = "tls")]
            join: None,
            time: None,
            pins: None,
            addresses: Vec::new(),
        }
    }
}

impl Settings {
    /// The whole frame.
    ///
    /// Lists that are longer than may be sent are cut.
    pub fn frame(&self) -> Vec<u8> {
        let payload = if self.refuses { Vec::new() } else { self.payload() };
        let header = Header { size: payload.len() as u16, kind: Type::Settings, flags: Flags::NONE, stream: 0 };
        [&header.encode()[..], &payload].concat()
    }

    fn payload(&self) -> Vec<u8> {
        let mut payload = Vec::new();
        let mut push = |tag, value: &[u8]| field::push(&mut payload, tag, value);
        push(tag::SOFTWARE, self.software.as_bytes());
        push(tag::WINDOW, &self.window.to_be_bytes());
        push(tag::STREAMS, &self.streams.to_be_bytes());
        push(tag::OPEN_RATE, &self.open_rate.to_be_bytes());
        if self.acknowledges {
            push(tag::ACKNOWLEDGES, &[]);
        }
        if let Some(keepalive) = self.keepalive {
            let seconds = keepalive.as_secs().clamp(1, u16::MAX.into()) as u16;
            push(tag::KEEPALIVE, &seconds.to_be_bytes());
        }
        if let Some(services) = &self.services {
            push(tag::SERVICES, &identity::encode_services(services));
        }
        if let Some(name) = &self.name {
            push(tag::NAME, name.as_str().as_bytes());
        }
        if let Some(instance) = &self.instance {
            push(tag::INSTANCE, instance);
        }
        #[cfg(feature = "tls")]
        if let Some(join) = &self.join {
            push(tag::JOIN, &*join.encode());
        }
        if let Some(time) = self.time {
            push(tag::TIME, &time.to_be_bytes());
        }
        if let Some(Pins { current, next }) = self.pins {
            push(tag::PINS, &[current.0, next.0].concat());
        }
        if !self.addresses.is_empty() {
            push(tag::ADDRESSES, &identity::encode_addresses(&self.addresses));
        }
        payload
    }

    /// Reads a payload. Windows and streams only ever raise what was assumed.
    pub(super) fn decode(payload: &[u8]) -> Result<Self, ProtocolError> {
        let mut settings = Self { refuses: payload.is_empty(), ..Self::default() };
        // Bit by tag: every known one is below 32.
        let mut seen = 0u32;
        field::each(payload, |tag, value| {
            if settings.take(tag, value)? {
                let bit = 1 << tag;
                if seen & bit != 0 {
                    return Err(ProtocolError::RepeatedField(tag));
                }
                seen |= bit;
            }
            Ok(())
        })?;
        Ok(settings)
    }

    /// Takes one field; false if it is not known.
    fn take(&mut self, tag: u16, value: &[u8]) -> Result<bool, ProtocolError> {
        let wrong = || ProtocolError::BadField(tag);
        let least = Self::default();
        match tag {
            tag::SOFTWARE => self.software = field::text(&value[..value.len().min(MAX_SOFTWARE)]),
            tag::WINDOW => self.window = field::number(value)?.max(least.window),
            tag::STREAMS => self.streams = field::number(value)?.max(least.streams),
            tag::OPEN_RATE => self.open_rate = field::number(value)?.max(1),
            tag::ACKNOWLEDGES if value.is_empty() => self.acknowledges = true,
            tag::ACKNOWLEDGES => return Err(ProtocolError::TruncatedField),
            tag::KEEPALIVE => {
                let seconds = u16::from_be_bytes(value.try_into().map_err(|_| wrong())?);
                self.keepalive = Some(Duration::from_secs(seconds.into())).filter(|keepalive| !keepalive.is_zero());
                self.keepalive.ok_or_else(wrong)?;
            }
            tag::SERVICES => self.services = Some(identity::decode_services(value).ok_or_else(wrong)?),
            tag::NAME => self.name = Some(identity::decode_name(value).ok_or_else(wrong)?),
            tag::INSTANCE => self.instance = Some(value.try_into().map_err(|_| wrong())?),
            #[cfg(feature = "tls")]
            tag::JOIN => self.join = Some(Join::decode(value).ok_or_else(wrong)?),
            // Without TLS every link is in the clear.
            #[cfg(not(feature = "tls"))]
            tag::JOIN => return Err(ProtocolError::JoinInTheClear),
            tag::TIME => self.time = Some(u64::from_be_bytes(value.try_into().map_err(|_| wrong())?)),
            tag::PINS => self.pins = Some(identity::decode_pins(value).ok_or_else(wrong)?),
            tag::ADDRESSES => self.addresses = identity::decode_addresses(value).ok_or_else(wrong)?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Whether it holds a token, which belongs on a link in TLS alone.
    pub(crate) fn has_token(&self) -> bool {
        #[cfg(feature = "tls")]
        return self.join.is_some();
        #[cfg(not(feature = "tls"))]
        false
    }
}
