//! What client ports lead to: an address as the device sees it, or a service of a device that has a name.

use std::collections::HashMap;
use std::fmt;
use std::net::Ipv4Addr;
use std::sync::Arc;

use super::device::Device;
use crate::address::Address;
use crate::connection::Destination;
use crate::connection::relay::Relay;
use crate::identity::Name;
use crate::protocol::v2::{Part, Service};
use crate::relay::{Config, Mapping, PlainDevice, ServicePort};

/// What clients of a port reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum PortService {
    /// What is at an address.
    Address(Arc<Address>),
    /// A service of that device, by its name or its number.
    OfDevice(Name, Part),
}

/// A device that there is to be, with the ports of its clients.
#[derive(Debug, Default)]
pub(super) struct Wanted<'a> {
    pub(super) name: Option<&'a Name>,
    /// Where it connects, if it has a port of its own.
    pub(super) listen: Option<&'a Address>,
    pub(super) ports: Vec<(&'a Address, PortService)>,
}

impl Wanted<'_> {
    /// Whether this device is the one.
    pub(super) fn is(&self, device: &Device) -> bool {
        match self.listen {
            Some(listen) => device.listen.as_ref() == Some(listen),
            None => device.listen.is_none() && device.name.as_ref() == self.name,
        }
    }
}

/// How many services of a device a line of the log names.
const SHOWN: usize = 16;

/// Every device that the configuration knows of: those with a port of their own first, in their order.
pub(super) fn wanted(config: &Config) -> Vec<Wanted<'_>> {
    let plain = config.devices.iter().map(|PlainDevice { name, listen, mappings }| {
        let ports = mappings.iter();
        let ports = ports
            .map(|Mapping { client, service }| (client, PortService::Address(Arc::new(service.clone()))))
            .collect();
        Wanted { name: name.as_ref(), listen: Some(listen), ports }
    });
    let mut devices: Vec<_> = plain.collect();
    let named = devices.iter().enumerate().filter_map(|(at, known)| Some((known.name?, at)));
    let mut places: HashMap<&Name, usize> = named.collect();
    for ServicePort { listen, device, service } in &config.ports {
        let port = (listen, PortService::OfDevice(device.clone(), service.clone()));
        let place = *places.entry(device).or_insert(devices.len());
        if place == devices.len() {
            devices.push(Wanted { name: Some(device), listen: None, ports: Vec::new() });
        }
        devices[place].ports.push(port);
    }
    devices
}

impl PortService {
    /// Whether it takes the device's introduction to say what it is.
    pub(super) fn is_of_device(&self) -> bool {
        matches!(self, Self::OfDevice(..))
    }

    /// Where a client is to be led on this link; an error says what there is instead.
    pub(super) fn destination(&self, connection: &Relay) -> Result<Destination, String> {
        match self {
            Self::Address(address) => Ok(Destination::Address(Arc::clone(address))),
            Self::OfDevice(device, part) => find(device, part, connection.services()),
        }
    }
}

impl fmt::Display for PortService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::OfDevice(device, Part::Service(service)) => write!(f, "{device}:{service}"),
            Self::OfDevice(device, Part::Port(port)) => write!(f, "{device}:{port}"),
        }
    }
}

/// A number is a service's, or else a port of the device itself.
fn find(device: &Name, part: &Part, services: Option<&[Service]>) -> Result<Destination, String> {
    let offered = services.unwrap_or_default();
    let is_meant = |service: &&Service| match part {
        Part::Service(name) => service.name == *name,
        Part::Port(port) => service.port == *port,
    };
    match (offered.iter().find(is_meant), part) {
        (Some(service), _) => Ok(Destination::Service(service.name.clone())),
        (None, Part::Port(port)) => {
            let own = Address::new(&Ipv4Addr::LOCALHOST.to_string(), *port);
            own.map(Destination::from).map_err(|error| error.to_string())
        }
        (None, Part::Service(name)) => {
            let what = services.map_or_else(|| "no services by name".into(), |_| offer(offered));
            Err(format!("device '{device}' offers no service '{name}'; it offers {what}"))
        }
    }
}

/// The services, for a person. Names are of letters, digits and hyphens alone.
fn offer(services: &[Service]) -> String {
    let shown = services.iter().take(SHOWN).map(|Service { name, port, .. }| format!("{name} ({port})"));
    let more = services.len().saturating_sub(SHOWN);
    let more = (more > 0).then(|| format!("{more} more"));
    let all: Vec<_> = shown.chain(more).collect();
    if all.is_empty() { "none".into() } else { all.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::v2::ServiceFlags;

    fn name(text: &str) -> Name {
        Name::service(text).expect(text)
    }

    fn services(count: u16) -> Vec<Service> {
        (1..=count).map(|port| Service { name: name(&format!("s{port}")), port, flags: ServiceFlags(0xff) }).collect()
    }

    fn found(part: Part, services: Option<&[Service]>) -> Result<Destination, String> {
        find(&name("pump-3"), &part, services)
    }

    #[test]
    fn a_number_is_the_service_that_has_it_and_else_a_port_of_the_device() {
        let [all, none] = [services(3), Vec::new()];
        assert_eq!(found(Part::Port(2), Some(&all)), Ok(Destination::Service(name("s2"))));
        let own: Address = "127.0.0.1:4".parse().expect("an address");
        for services in [Some(&all[..]), Some(&none), None] {
            assert_eq!(found(Part::Port(4), services), Ok(Destination::from(own.clone())));
        }
        assert_eq!(found(Part::Service(name("s3")), Some(&all)), Ok(Destination::Service(name("s3"))));
    }

    #[test]
    fn what_a_device_does_not_offer_is_refused_with_what_it_does() {
        let error = |count: Option<u16>| {
            let services = count.map(services);
            found(Part::Service(name("ssh")), services.as_deref()).expect_err("not offered")
        };
        assert_eq!(error(Some(2)), "device 'pump-3' offers no service 'ssh'; it offers s1 (1), s2 (2)");
        assert_eq!(error(Some(0)), "device 'pump-3' offers no service 'ssh'; it offers none");
        assert_eq!(error(None), "device 'pump-3' offers no service 'ssh'; it offers no services by name");
        let many = error(Some(64));
        assert!(many.ends_with("s15 (15), s16 (16), 48 more"), "{many}");
    }
}
