//! What a device offers by name.

use std::fmt::Write as _;
use std::net::SocketAddr;

use super::Access;
use super::access::{Lookup, OwnAddresses, Refusal, canonical, resolve, same_host};
use crate::address::Address;
use crate::identity::Name;
use crate::protocol::v2;
use crate::protocol::v2::ServiceFlags;

/// A service that has a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its name, [as a service's](Name::service) is.
    pub name: Name,
    /// Where it is, as seen from the device.
    pub target: Address,
    /// The number by which it is asked for, too: by default its target's port.
    pub port: u16,
    /// Whether a connection to it begins with a header of the PROXY protocol, version 2.
    pub proxy_protocol: bool,
}

/// All services of a device, each with a name and a number of its own; few enough for SETTINGS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Services(Vec<Service>);

/// Why services cannot be offered together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ServicesError {
    /// One name for two.
    #[error("'{0}' is given twice; give one of them another name")]
    SameName(Name),
    /// One number for two.
    #[error(
        "'{one}' and '{other}' are both asked for by {port}; give one of them a number of its own, such as {other} = \
         {{ target = \"{target}\", port = {free} }}"
    )]
    SamePort {
        /// The one.
        one: Name,
        /// The other.
        other: Name,
        /// The number.
        port: u16,
        /// The other's target.
        target: Address,
        /// A number that none has.
        free: u16,
    },
    /// More than the relay can be told of.
    #[error("{services} services, whose names take {bytes} bytes, are more than the relay can be told of; give at most \
             {MAX_SERVICES}, and in all at most {MAX_SERVICES_LEN} bytes of names, with 4 more for each",
        MAX_SERVICES = v2::MAX_SERVICES, MAX_SERVICES_LEN = v2::MAX_SERVICES_LEN)]
    TooMany {
        /// How many there are.
        services: usize,
        /// What they take.
        bytes: usize,
    },
}

impl Service {
    /// One that is asked for by its target's port, and told nothing of its clients.
    pub fn new(name: Name, target: Address) -> Self {
        let port = target.port();
        Self { name, target, port, proxy_protocol: false }
    }
}

impl Services {
    /// These services.
    ///
    /// # Errors
    /// [`ServicesError`]: they cannot be told from each other, or are too many.
    pub fn new(services: Vec<Service>) -> Result<Self, ServicesError> {
        for (at, other) in services.iter().enumerate() {
            let before = &services[..at];
            if before.iter().any(|one| one.name == other.name) {
                return Err(ServicesError::SameName(other.name.clone()));
            }
            if let Some(one) = before.iter().find(|one| one.port == other.port) {
                let is_free = |port: &u16| services.iter().all(|service| service.port != *port);
                return Err(ServicesError::SamePort {
                    one: one.name.clone(),
                    other: other.name.clone(),
                    port: other.port,
                    target: other.target.clone(),
                    free: (10_000 + other.port % 10_000..u16::MAX).find(is_free).unwrap_or(u16::MAX),
                });
            }
        }
        let bytes = v2::services_len(services.iter().map(|service| &service.name));
        if services.len() > v2::MAX_SERVICES || bytes > v2::MAX_SERVICES_LEN {
            return Err(ServicesError::TooMany { services: services.len(), bytes });
        }
        Ok(Self(services))
    }

    /// What permits all of them, and nothing else.
    pub fn access(&self) -> Access {
        Access::offered(self.0.iter().map(|service| &service.target))
    }

    /// What SETTINGS say; `None` if there are none.
    pub(super) fn announced(&self) -> Option<Vec<v2::Service>> {
        let announced = |service: &Service| v2::Service {
            name: service.name.clone(),
            port: service.port,
            flags: if service.proxy_protocol { ServiceFlags::PROXY_PROTOCOL } else { ServiceFlags::default() },
        };
        (!self.0.is_empty()).then(|| self.0.iter().map(announced).collect())
    }

    /// The service of that name.
    pub(super) fn named(&self, name: &Name) -> Option<&Service> {
        self.0.iter().find(|service| service.name == *name)
    }

    /// The service that a relay asks for by its address, be it an old one, or one that was told to. Of several at one
    /// address one that expects a PROXY header: without it a client could write one itself.
    pub(super) fn at(&self, address: &Address) -> Option<&Service> {
        let is_there = |service: &&Service| {
            let Service { target, .. } = service;
            target.port() == address.port() && target.host().eq_ignore_ascii_case(address.host())
        };
        self.0.iter().filter(is_there).max_by_key(|service| service.proxy_protocol)
    }

    /// Which of these addresses, at which a relay has asked for what is no service by its words, to connect to, and whether
    /// the connection begins with a PROXY header. However an address was written, a service that expects the header has it:
    /// so addresses of such a service are taken alone.
    pub(super) fn recognize(
        &self,
        addresses: Vec<SocketAddr>,
        own: &OwnAddresses,
        lookup: Lookup<'_>,
    ) -> Result<(Vec<SocketAddr>, bool), Refusal> {
        let at_port = |service: &&Service| addresses.iter().any(|address| address.port() == service.target.port());
        let services = || self.0.iter().filter(at_port);
        if !services().any(|service| service.proxy_protocol) {
            return Ok((addresses, false));
        }
        let (mut expecting, mut others) = (Vec::new(), Vec::new());
        for Service { target, proxy_protocol, .. } in services() {
            let found = match target.ip() {
                Some(ip) => Ok(vec![canonical(SocketAddr::new(ip, 0), target.port())]),
                None => resolve(target.host(), target.port(), lookup),
            };
            match found {
                Ok(found) if *proxy_protocol => expecting.extend(found),
                Ok(found) => others.extend(found),
                Err(Refusal::Unresolved { host, reason }) if *proxy_protocol => {
                    return Err(Refusal::Unrecognized { host, reason });
                }
                Err(refusal) if *proxy_protocol => return Err(refusal),
                Err(_) => {}
            }
        }
        let is_among =
            |services: &[SocketAddr], address: &SocketAddr| services.iter().any(|other| same_host(other, address));
        // What listens on the device is mostly there at all of its addresses.
        let is_on_device = expecting.iter().any(|address| own.has(address));
        let (with_header, without): (Vec<_>, Vec<_>) = addresses.into_iter().partition(|address| {
            let is_other = is_among(&others, address);
            is_among(&expecting, address) || is_on_device && !is_other && own.has(address)
        });
        Ok(if with_header.is_empty() { (without, false) } else { (with_header, true) })
    }

    /// Why there is none of a name.
    pub(super) fn missing(&self) -> String {
        let mut text = String::from("the device offers no service of that name");
        for (at, service) in self.0.iter().enumerate() {
            let before = if at == 0 { "; it offers " } else { ", " };
            // Writing to a string never fails.
            let _ = write!(text, "{before}{}", service.name);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(name: &str, target: &str) -> Service {
        Service::new(Name::service(name).expect(name), target.parse().expect(target))
    }

    /// What a relay reads.
    fn read(frame: &[u8]) -> Vec<v2::Service> {
        let mut input = frame;
        match v2::Decoder::default().next(&mut input) {
            Ok(Some(v2::Item::Settings(settings))) => settings.services.expect("services"),
            other => panic!("{other:?}"),
        }
    }

    /// Where a connection to these addresses goes, of a device that offers a service with and one without a header; names
    /// have the address 10.0.0.5.
    fn recognized(expecting: &str, plain: &str, port: u16, ips: &[&str]) -> Result<(Vec<String>, bool), Refusal> {
        let expecting = Service { proxy_protocol: true, ..service("plc", expecting) };
        let plain = Service { port: 1, ..service("web", plain) };
        let services = Services::new(vec![expecting, plain]).expect("two");
        let addresses = ips.iter().map(|ip| SocketAddr::new(ip.parse().expect(ip), port)).collect();
        let (addresses, has_header) =
            services.recognize(addresses, &OwnAddresses::new(), &mut |name, port| match name {
                "plc.local" => Ok(vec![SocketAddr::from(([10, 0, 0, 5], port))]),
                _ => Err(std::io::Error::other("no such name")),
            })?;
        Ok((addresses.iter().map(|address| address.ip().to_string()).collect(), has_header))
    }

    #[test]
    fn a_service_that_expects_a_header_has_it_however_its_address_is_written() -> Result<(), Refusal> {
        let with = |ip: &str| (vec![ip.to_owned()], true);
        let without = |ip: &str| (vec![ip.to_owned()], false);
        for own in ["127.0.0.1", "127.0.0.2", "0.0.0.0", "::1", "::"] {
            assert_eq!(recognized("127.0.0.1:502", "10.0.0.5:502", 502, &[own])?, with(own));
            assert_eq!(recognized("127.0.0.1:502", "10.0.0.5:502", 503, &[own])?, without(own));
            assert_eq!(recognized("10.0.0.5:502", "127.0.0.1:502", 502, &[own])?, without(own));
        }
        // Each has what the configuration says of its own address.
        assert_eq!(recognized("127.0.0.1:502", "127.0.0.2:502", 502, &["127.0.0.2"])?, without("127.0.0.2"));
        assert_eq!(recognized("127.0.0.1:502", "127.0.0.2:502", 502, &["127.0.0.3"])?, with("127.0.0.3"));
        assert_eq!(recognized("plc.local:502", "127.0.0.1:502", 502, &["10.0.0.5"])?, with("10.0.0.5"));
        assert_eq!(recognized("plc.local:502", "127.0.0.1:502", 502, &["10.0.0.6"])?, without("10.0.0.6"));
        assert_eq!(recognized("10.0.0.5:502", "127.0.0.1:80", 502, &["10.0.0.6", "10.0.0.5"])?, with("10.0.0.5"));
        Ok(())
    }

    #[test]
    fn where_it_is_not_known_whether_a_service_expects_a_header_it_is_refused() {
        let refusal = recognized("gone.local:502", "127.0.0.1:80", 502, &["10.0.0.5"]).expect_err("it may be that one");
        assert_eq!(
            refusal.to_string(),
            "it may be the service at 'gone.local', which expects a PROXY header, and that name has no address: no such \
             name; check the name and the device's DNS"
        );
        assert!(matches!(recognized("gone.local:502", "127.0.0.1:80", 503, &["10.0.0.5"]), Ok((_, false))));
        assert!(matches!(recognized("10.0.0.5:502", "gone.local:502", 502, &["10.0.0.5"]), Ok((_, true))));
    }

    fn error(services: Vec<Service>) -> String {
        Services::new(services).expect_err("wrong").to_string()
    }

    #[test]
    fn services_have_names_and_numbers_of_their_own() {
        let [ssh, web] = [service("ssh", "127.0.0.1:22"), service("web", "10.0.0.5:22")];
        assert_eq!(
            error(vec![ssh.clone(), web.clone()]),
            "'ssh' and 'web' are both asked for by 22; give one of them a number of its own, such as web = { target = \
             \"10.0.0.5:22\", port = 10022 }"
        );
        assert_eq!(error(vec![ssh.clone(), ssh.clone()]), "'ssh' is given twice; give one of them another name");
        let services = Services::new(vec![ssh, Service { port: 23, ..web }]).expect("two");
        let announced = services.announced().expect("two");
        assert_eq!(announced.iter().map(|service| service.port).collect::<Vec<_>>(), [22, 23]);
        assert_eq!(services.missing(), "the device offers no service of that name; it offers ssh, web");
        assert_eq!(Services::default().announced(), None);
        assert_eq!(Services::default().missing(), "the device offers no service of that name");
    }

    #[test]
    fn what_is_offered_fits_into_settings_to_the_last_byte() {
        let many = |count: u16, length: usize| {
            let name = |number| format!("{:a<length$}", format!("s{number:02}"), length = length);
            (1..=count).map(|number| service(&name(number), &format!("10.0.0.1:{number}"))).collect::<Vec<_>>()
        };
        // 29 with 4 bytes each for the rest are 957 of 1,024 bytes, and one of 31 and 32 more would be too many.
        let most =
            [many(29, 29), vec![service(&"z".repeat(31), "10.0.0.1:99"), service(&"y".repeat(28), "10.0.0.1:98")]];
        let services = Services::new(most.concat()).expect("1,024 bytes");
        let said = v2::Settings { services: services.announced(), ..v2::Settings::default() };
        let read = read(&said.frame());
        assert_eq!(read.len(), 31);
        let more =
            [many(29, 29), vec![service(&"z".repeat(31), "10.0.0.1:99"), service(&"y".repeat(29), "10.0.0.1:98")]];
        assert_eq!(
            error(more.concat()),
            "31 services, whose names take 1025 bytes, are more than the relay can be told of; give at most 64, and in \
             all at most 1024 bytes of names, with 4 more for each"
        );
        assert!(Services::new(many(64, 3)).is_ok());
        assert!(error(many(65, 3)).starts_with("65 services"));
    }

    #[test]
    fn a_service_is_found_by_its_name_and_by_its_address() {
        let services = Services::new(vec![service("plc", "PLC.local:502")]).expect("one");
        let at = |text: &str| services.at(&text.parse().expect(text)).is_some();
        assert!(at("plc.LOCAL:502") && !at("plc.local:503") && !at("plc:502"));
        assert!(services.named(&Name::service("plc").expect("a name")).is_some());
        assert!(services.named(&Name::service("ssh").expect("a name")).is_none());
    }
}
