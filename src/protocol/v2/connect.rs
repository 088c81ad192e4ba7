//! The payload of CONNECT: what a client is to reach, and on whose behalf.

use std::net::SocketAddr;
use std::str::from_utf8;

use super::field;
use super::frame::frame;
use super::header::Type;
use crate::address::Address;
use crate::identity::{Name, UserName};
use crate::protocol::{Malformed, v1};

/// What a field means.
mod tag {
    pub(super) const SERVICE: u16 = 1;
    pub(super) const CLIENT: u16 = 2;
    pub(super) const USER: u16 = 3;
    pub(super) const DEVICE: u16 = 5;
    pub(super) const REQUEST: u16 = 8;
}

/// The payload of CONNECT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connect {
    /// What is to be reached.
    pub target: Target,
    /// The client's address, as the relay sees it.
    pub client: Option<SocketAddr>,
    /// The user whose client it is, as the relay has found.
    pub user: Option<UserName>,
    /// By what the relay's records call the stream.
    pub request: Option<[u8; 16]>,
}

/// What a stream leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// What is at an address, as seen from the device.
    Address(Address),
    /// A service by its name; for a device that has announced services.
    Service(Name),
    /// On a client's link: something of a device, or of the relay itself where none is named.
    Device(Option<Name>, Part),
}

/// Something of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// The service of that name.
    Service(Name),
    /// The service with that number, or else that port of the device itself.
    Port(u16),
}

impl Connect {
    /// One that leads there, and says nothing of its client.
    pub fn to(target: Target) -> Self {
        Self { target, client: None, user: None, request: None }
    }

    /// The whole frame that opens `stream`.
    pub fn frame(&self, stream: u32) -> Vec<u8> {
        let (mut payload, service, device) = match &self.target {
            Target::Address(address) => (v1::Connect { service: address.clone() }.payload(), None, None),
            Target::Service(service) => (without_host(0), Some(service), None),
            Target::Device(device, Part::Service(service)) => (without_host(0), Some(service), Some(device)),
            Target::Device(device, Part::Port(port)) => (without_host(*port), None, Some(device)),
        };
        let mut push = |tag, value: &[u8]| field::push(&mut payload, tag, value);
        if let Some(service) = service {
            push(tag::SERVICE, service.as_str().as_bytes());
        }
        if let Some(client) = self.client {
            push(tag::CLIENT, client.to_string().as_bytes());
        }
        if let Some(user) = &self.user {
            push(tag::USER, user.as_str().as_bytes());
        }
        if let Some(device) = device {
            push(tag::DEVICE, device.as_ref().map_or(b"", |name| name.as_str().as_bytes()));
        }
        if let Some(request) = &self.request {
            push(tag::REQUEST, request);
        }
        frame(Type::Connect, stream, &payload)
    }

    pub(super) fn decode(payload: &[u8]) -> Result<Self, Malformed> {
        let (host_and_port, fields) = match payload {
            // An empty host is none of version 1; which fields it needs is seen below.
            [0, 0, high, low, fields @ ..] => (Err(u16::from_be_bytes([*high, *low])), fields),
            _ => {
                let (v1::Connect { service }, fields) = v1::Connect::decode(payload)?;
                (Ok(service), fields)
            }
        };
        let fields = Fields::decode(payload, fields)?;
        let Fields { service, client, user, device, request } = fields;
        let target = match (host_and_port, service, device) {
            (Ok(address), None, None) => Target::Address(address),
            (Err(0), Some(service), None) => Target::Service(service),
            (Err(0), Some(service), Some(device)) => Target::Device(device, Part::Service(service)),
            (Err(port), None, Some(device)) if port > 0 => Target::Device(device, Part::Port(port)),
            // As ever: the host is empty.
            (Err(_), None, None) => return Err(v1::Connect::decode(payload).err().unwrap_or(Malformed::Target)),
            (Ok(_) | Err(_), ..) => return Err(Malformed::Target),
        };
        Ok(Self { target, client, user, request })
    }
}

/// What stands where host and port do, if there is no host.
fn without_host(port: u16) -> Vec<u8> {
    [[0, 0], port.to_be_bytes()].concat()
}

#[derive(Default)]
struct Fields {
    service: Option<Name>,
    client: Option<SocketAddr>,
    user: Option<UserName>,
    device: Option<Option<Name>>,
    request: Option<[u8; 16]>,
}

impl Fields {
    fn decode(payload: &[u8], fields: &[u8]) -> Result<Self, Malformed> {
        let mut read = Self::default();
        let mut wrong = None;
        field::each(fields, |tag, value| {
            if !read.take(tag, value) {
                wrong.get_or_insert(tag);
            }
            Ok(())
        })
        .map_err(|_| Malformed::short(payload))?;
        wrong.map_or(Ok(read), |tag| Err(Malformed::Field(tag)))
    }

    /// Takes one field; false if it cannot be, or comes twice.
    fn take(&mut self, tag: u16, value: &[u8]) -> bool {
        let text = from_utf8(value).ok();
        match tag {
            tag::SERVICE => set(&mut self.service, text.and_then(|text| Name::service(text).ok())),
            // The first ends of version 2 take whatever stands here, and show what they can read.
            tag::CLIENT => {
                self.client = text.and_then(|text| text.parse().ok());
                true
            }
            tag::USER => set(&mut self.user, text.and_then(|text| text.parse().ok())),
            tag::DEVICE if value.is_empty() => set(&mut self.device, Some(None)),
            tag::DEVICE => set(&mut self.device, text.and_then(|text| Name::device(text).ok()).map(Some)),
            tag::REQUEST => set(&mut self.request, value.try_into().ok()),
            _ => true,
        }
    }
}

/// Sets what is not set yet; false if it is, or there is nothing to set it to.
fn set<T>(slot: &mut Option<T>, value: Option<T>) -> bool {
    let is_first = slot.is_none();
    let is_some = value.is_some();
    *slot = value;
    is_first && is_some
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{Decoder, Header, Item};
    use super::*;

    fn name(text: &str) -> Name {
        Name::device(text).expect("a name")
    }

    fn one(frame: &[u8]) -> Result<Connect, Malformed> {
        let mut input = frame;
        let item = Decoder::default().next(&mut input).expect("a frame").expect("an item");
        let Item::Connect { stream: 7, connect } = item else { panic!("{item:?}") };
        connect
    }

    /// A CONNECT with these bytes in place of host and port, and these fields.
    fn connect(host_and_port: &[u8], fields: &[(u16, &[u8])]) -> Result<Connect, Malformed> {
        let mut payload = host_and_port.to_vec();
        for (tag, value) in fields {
            field::push(&mut payload, *tag, value);
        }
        Connect::decode(&payload)
    }

    #[test]
    fn what_is_encoded_decodes() {
        let address = Target::Address("10.41.51.152:23".parse().expect("an address"));
        let clients = Some("[::1]:4000".parse().expect("an address"));
        for target in [
            address,
            Target::Service(name("ssh")),
            Target::Device(Some(name("pump-3")), Part::Service(name("ssh"))),
            Target::Device(Some(name("pump-3")), Part::Port(22)),
            Target::Device(None, Part::Service(name("devices"))),
        ] {
            let bare = Connect::to(target);
            assert_eq!(one(&bare.frame(7)), Ok(bare.clone()));
            let user = "alice@example.com".parse().ok();
            let full = Connect { client: clients, user, request: Some([9; 16]), ..bare };
            assert_eq!(one(&full.frame(7)), Ok(full));
        }
    }

    #[test]
    fn the_connect_of_the_documents_example_has_these_bytes() {
        let service = Target::Address("127.0.0.1:57847".parse().expect("an address"));
        let connect = Connect { client: "127.0.0.1:4000".parse().ok(), ..Connect::to(service) };
        let expected = b"\x00\x1f\x01\x00\x00\x00\x00\x01\x00\x09127.0.0.1\xe1\xf7\x00\x02\x00\x0e127.0.0.1:4000";
        assert_eq!(connect.frame(1), expected);
        let named = Connect::to(Target::Service(name("ssh"))).frame(1);
        assert_eq!(named, b"\x00\x0b\x01\x00\x00\x00\x00\x01\0\0\0\0\x00\x01\x00\x03ssh");
        assert_eq!(named.len(), Header::LEN + 11);
    }

    #[test]
    fn a_connect_names_one_thing_to_reach() {
        let host = b"\0\x01a\0\x16";
        for (host_and_port, fields) in [
            (&host[..], &[(tag::SERVICE, &b"ssh"[..])][..]),
            (host, &[(tag::DEVICE, b"pump-3")]),
            (b"\0\0\0\x16", &[(tag::SERVICE, b"ssh")]),
            (b"\0\0\0\0", &[(tag::DEVICE, b"pump-3")]),
            (b"\0\0\0\x16", &[(tag::SERVICE, b"ssh"), (tag::DEVICE, b"pump-3")]),
        ] {
            assert_eq!(connect(host_and_port, fields), Err(Malformed::Target), "{host_and_port:?} {fields:?}");
        }
        let empty = connect(b"\0\0\0\x16", &[]).expect_err("no host").to_string();
        assert_eq!(empty, "CONNECT: the host is empty; write an address or a name before the port");
    }

    #[test]
    fn a_field_that_cannot_be_or_comes_twice_is_malformed_and_an_unknown_one_is_passed_over() {
        for (tag, value) in [
            (tag::SERVICE, &b"SSH"[..]),
            (tag::SERVICE, &[b's'; 32]),
            (tag::DEVICE, b"\xff"),
            (tag::USER, b""),
            (tag::USER, &[b'u'; 65]),
            (tag::USER, b"al\x1b[31mice"),
            (tag::REQUEST, &[0; 15]),
        ] {
            assert_eq!(connect(b"\0\x01a\0\x16", &[(tag, value)]), Err(Malformed::Field(tag)), "{value:?}");
        }
        for (tag, value) in
            [(tag::SERVICE, &b"ssh"[..]), (tag::USER, b"u"), (tag::DEVICE, b""), (tag::REQUEST, &[0; 16])]
        {
            assert_eq!(connect(b"\0\0\0\0", &[(tag, value), (tag, value)]), Err(Malformed::Field(tag)));
        }
        let odd = connect(b"\0\x01a\0\x16", &[(tag::CLIENT, b"nowhere"), (tag::CLIENT, b"?"), (999, b"x")]);
        assert_eq!(odd, Ok(Connect::to(Target::Address("a:22".parse().expect("an address")))), "as the first ends did");
        let cut = Connect::decode(b"\0\x01a\0\x16\0\x02\0\x05a").expect_err("cut short").to_string();
        assert!(cut.starts_with("CONNECT is cut short"), "{cut}");
    }

    proptest! {
        #[test]
        fn what_is_read_of_any_bytes_is_read_again_from_its_own_frame(
            beginning in prop::sample::select(vec![&b"\0\0\0\0"[..], b"\0\0\0\x16", b"\0\x01a\0\x16", b""]),
            fields in prop::collection::vec((0u16..10, "[a-z:0-9.]{0,20}"), 0..5),
        ) {
            let fields: Vec<(u16, &[u8])> = fields.iter().map(|(tag, value)| (*tag, value.as_bytes())).collect();
            if let Ok(connect) = connect(beginning, &fields) {
                prop_assert_eq!(Connect::decode(&connect.frame(7)[Header::LEN..]), Ok(connect));
            }
        }
    }
}
