//! What a relay is to do, and whether it can.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::{Network, ServicePort};
use crate::Error;
use crate::address::Address;
use crate::connection::{Limits, Protocol};
use crate::identity::{Name, Pin};
use crate::relay::registry::Registry;
use crate::tls::Key;

/// The settings of a relay.
#[derive(Clone, Debug)]
pub struct Config {
    /// Devices without an identity, each with a port of its own that it connects to.
    pub devices: Vec<PlainDevice>,
    /// Where devices with an identity connect.
    pub tls: Option<TlsPort>,
    /// Client ports that lead to services of devices that have a name.
    pub ports: Vec<ServicePort>,
    /// Load balancers: a connection from there begins with a header of the PROXY protocol, version 2, on the ports of
    /// devices and of clients alike, and its client is whom that names.
    pub proxy_protocol_from: Vec<Network>,
    /// How long a service may be silent once its client has ended its sending side; then the client is closed.
    pub half_close: Duration,
    /// How long clients that are open may go on once the relay is to end.
    pub drain: Duration,
    /// Clients of each device at once, from 1 to [`MAX_CLIENTS`](Self::MAX_CLIENTS).
    pub clients: u32,
    /// After which time a client for which nothing moves either way is ended; never, if there is none.
    pub idle: Option<Duration>,
    /// The newest version of the protocol to speak.
    pub protocol: Protocol,
    /// The oldest one: a device that speaks none that is as new is not served.
    pub min_protocol: Protocol,
    /// What is taken from a device, and how much is kept.
    pub limits: Limits,
}

/// The port for links in TLS, and who may come there.
#[derive(Clone)]
pub struct TlsPort {
    /// Where devices connect.
    pub listen: Address,
    /// The relay's key.
    pub key: Arc<Key>,
    /// The key that follows it, as devices are told.
    pub next: Pin,
    /// Where the relay is to be found, as devices are told; none if that is only known to them.
    pub addresses: Vec<Address>,
    /// Who is admitted.
    pub registry: Arc<dyn Registry>,
}

impl fmt::Debug for TlsPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { listen, key, next, addresses, registry: _ } = self;
        let mut debug = f.debug_struct("TlsPort");
        debug.field("listen", listen).field("key", key).field("next", next).field("addresses", addresses);
        debug.finish_non_exhaustive()
    }
}

/// A device without an identity: whatever sends LISTEN at its port is this device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlainDevice {
    /// By what [`ServicePort`]s call it.
    pub name: Option<Name>,
    /// Where it connects: the document's ServerAddress:ServerPort.
    pub listen: Address,
    /// At least one, unless the device has a name; each with a client port of its own.
    pub mappings: Vec<Mapping>,
}

/// One client port and what is behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// Where clients connect: the document's HostAddress:HostPort.
    pub client: Address,
    /// What the device then connects to, as seen from there: the document's LocalAddress:LocalPort.
    pub service: Address,
}

impl Config {
    /// 1 s; 0 is the document's behaviour.
    pub const HALF_CLOSE: Duration = Duration::from_secs(1);
    /// The longest `half_close`.
    pub const MAX_HALF_CLOSE: Duration = Duration::from_secs(3600);
    /// As many as version 1 has numbers for, and as a device of ours takes.
    pub const MAX_CLIENTS: u32 = 256;
    /// 8 s, which is less than the ten after which `docker stop` kills.
    pub const DRAIN: Duration = Duration::from_secs(8);

    /// The longest `drain`.
    pub const MAX_DRAIN: Duration = Duration::from_secs(3600);
    /// The shortest `idle`.
    pub const MIN_IDLE: Duration = Duration::from_millis(100);
    /// The longest `idle`: a week.
    pub const MAX_IDLE: Duration = Duration::from_secs(7 * 24 * 3600);

    /// A relay of these devices, with defaults for all else.
    ///
    /// # Errors
    /// See [`check`](Self::check).
    pub fn new(devices: Vec<PlainDevice>, half_close: Duration) -> Result<Self, Error> {
        let config = Self {
            devices,
            tls: None,
            ports: Vec::new(),
            proxy_protocol_from: Vec::new(),
            half_close,
            drain: Self::DRAIN,
            clients: Self::MAX_CLIENTS,
            idle: None,
            protocol: Protocol::default(),
            min_protocol: Protocol::V1,
            limits: Limits::RELAY,
        };
        config.check()?;
        Ok(config)
    }

    /// Whether a relay can be run so. It is asked for by [`Server::bind`](super::Server::bind), whoever has written what.
    ///
    /// # Errors
    /// [`Error::Usage`] if a device without a name has no mapping, two devices have one name, an address is given twice to listen at, a value is out of its range, or
    /// there is no version of the protocol that may be spoken.
    pub fn check(&self) -> Result<(), Error> {
        if self.devices.iter().any(|device| device.mappings.is_empty() && device.name.is_none()) {
            return Err(Error::Usage("no client port; give at least one pair of client and service address".into()));
        }
        let zero = Duration::ZERO;
        check_time("half-close", self.half_close, zero, Self::MAX_HALF_CLOSE)?;
        check_time("drain", self.drain, zero, Self::MAX_DRAIN)?;
        check_time("keepalive", self.limits.keepalive, Limits::MIN_KEEPALIVE, Limits::MAX_KEEPALIVE)?;
        check_time("idle", self.idle.unwrap_or(Self::MIN_IDLE), Self::MIN_IDLE, Self::MAX_IDLE)?;
        if !(1..=Self::MAX_CLIENTS).contains(&self.clients) {
            let (clients, most) = (self.clients, Self::MAX_CLIENTS);
            return Err(Error::Usage(format!("{clients} clients at once; give a number from 1 to {most}")));
        }
        if self.min_protocol > self.protocol {
            let text = "the oldest version of the protocol is above the newest, so that no device could be served";
            return Err(Error::Usage(text.into()));
        }
        check_names(&self.devices).map_err(Error::Usage)?;
        check_addresses(&self.devices, self.tls.as_ref(), &self.ports).map_err(Error::Usage)
    }
}

fn check_time(what: &str, time: Duration, least: Duration, most: Duration) -> Result<(), Error> {
    let [seconds, least, most] = [time, least, most].map(|time| time.as_secs_f64());
    if (least..=most).contains(&seconds) {
        return Ok(());
    }
    let much = if seconds > most { "long" } else { "short" };
    Err(Error::Usage(format!("{what} of {seconds} s is too {much}; give {least} to {most} s")))
}

/// Whether no two devices have one name.
fn check_names(devices: &[PlainDevice]) -> Result<(), String> {
    let names: Vec<_> = devices.iter().filter_map(|device| device.name.as_ref()).collect();
    let twice = names.iter().enumerate().find(|&(at, name)| names[..at].contains(name));
    twice.map_or(Ok(()), |(_, name)| Err(format!("two devices are called '{name}'; give one another name")))
}

/// Whether each address to listen at has a port of its own; if not, which have not.
fn check_addresses(devices: &[PlainDevice], tls: Option<&TlsPort>, ports: &[ServicePort]) -> Result<(), String> {
    #[derive(Clone, Copy, PartialEq)]
    enum For {
        Device,
        Clients,
    }
    let mut listeners = Listeners::new();
    let of_devices = devices.iter().flat_map(|PlainDevice { listen, mappings, .. }| {
        let clients = mappings.iter().map(|mapping| (&mapping.client, For::Clients));
        [(listen, For::Device)].into_iter().chain(clients)
    });
    let of_tls = tls.map(|port| (&port.listen, For::Device));
    let all = of_devices.chain(of_tls).chain(ports.iter().map(|port| (&port.listen, For::Clients)));
    for (address, whom) in all {
        let Some((other, of)) = listeners.add(address, whom) else { continue };
        return Err(match (of, whom) {
            _ if other != address => format!(
                "{other} and {address} are one port: [::] is every interface, 0.0.0.0 every one of IPv4; use another port \
                 for one"
            ),
            (For::Device, For::Device) => format!("{address} is given for two devices; use another port for one"),
            (For::Clients, For::Clients) => {
                format!("client address {address} is given twice; use another port for one of its services")
            }
            _ => format!("{address} is given for the device and for clients; use another port for one"),
        });
    }
    Ok(())
}

/// Addresses to listen at, each with what it is for. Thousands cost little, be they of one port or of many.
#[derive(Debug)]
pub(super) struct Listeners<'a, T> {
    all: HashMap<&'a Address, T>,
    by_port: HashMap<u16, OfPort<'a>>,
}

/// Those with the same port: only they can be in each other's way.
#[derive(Debug, Default)]
struct OfPort<'a> {
    /// Of every interface: few, since no address comes twice.
    general: Vec<&'a Address>,
    special: Vec<&'a Address>,
}

impl<'a, T: Copy> Listeners<'a, T> {
    /// None yet.
    pub(super) fn new() -> Self {
        Self { all: HashMap::new(), by_port: HashMap::new() }
    }

    /// Adds an address, unless one that came earlier is the same port, in part at least: that one, and what it is for.
    pub(super) fn add(&mut self, address: &'a Address, whom: T) -> Option<(&'a Address, T)> {
        // The system gives each its own.
        if address.port() == 0 {
            return None;
        }
        if let Some(&of) = self.all.get(address) {
            return Some((address, of));
        }
        let OfPort { general, special } = self.by_port.entry(address.port()).or_default();
        let is_general = address.ip().is_some_and(|ip| ip.is_unspecified());
        let others = general.iter().chain(special.iter().take(if is_general { usize::MAX } else { 0 }));
        let other = others.copied().find(|other| overlap(other, address));
        if let Some((other, of)) = other.and_then(|other| Some((other, *self.all.get(other)?))) {
            return Some((other, of));
        }
        if is_general {
            general.push(address)
        } else {
            special.push(address)
        }
        self.all.insert(address, whom);
        None
    }
}

/// Whether the port at one of the addresses is, in part, that at the other, as far as can be said without a name server.
pub(super) fn overlap(one: &Address, other: &Address) -> bool {
    let (Some(one_ip), Some(other_ip)) = (one.ip(), other.ip()) else { return false };
    let covers = |all: IpAddr, ip: IpAddr| all.is_unspecified() && (all.is_ipv6() || ip.is_ipv4());
    one.port() == other.port() && (covers(one_ip, other_ip) || covers(other_ip, one_ip))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(device: &str, mappings: &[(&str, &str)], half_close: u64) -> Result<Config, String> {
        let listen = |text: &str| Address::listen(text).expect(text);
        let mapping = |&(client, service): &(&str, &str)| Mapping {
            client: listen(client),
            service: service.parse().expect(service),
        };
        let mappings = mappings.iter().map(mapping).collect();
        let device = PlainDevice { name: None, listen: listen(device), mappings };
        Config::new(vec![device], Duration::from_secs(half_close)).map_err(|error| error.to_string())
    }

    #[test]
    fn several_client_ports_may_lead_to_one_service() {
        let config = config("[::]:2065", &[("localhost:2222", "device:22"), ("0.0.0.0:2223", "device:22")], 0);
        assert_eq!(config.expect("config").devices[0].mappings.len(), 2);
    }

    #[test]
    fn port_0_may_stand_for_many_ports() {
        assert!(config("127.0.0.1:0", &[("127.0.0.1:0", "a:1"), ("127.0.0.1:0", "b:2")], 1).is_ok());
    }

    #[test]
    fn an_address_given_twice_is_refused() {
        assert_eq!(
            config("localhost:1", &[("localhost:2", "a:1"), ("localhost:2", "b:1")], 1).expect_err("twice"),
            "client address localhost:2 is given twice; use another port for one of its services"
        );
        assert_eq!(
            config("localhost:1", &[("localhost:1", "a:1")], 1).expect_err("twice"),
            "localhost:1 is given for the device and for clients; use another port for one"
        );
    }

    #[test]
    fn an_address_of_one_device_is_not_to_be_had_for_another() {
        let listen = |text: &str| Address::listen(text).expect(text);
        let device = |at: &str, client: &str| PlainDevice {
            name: None,
            listen: listen(at),
            mappings: vec![Mapping { client: listen(client), service: listen("127.0.0.1:22") }],
        };
        let config = |one, other| Config::new(vec![one, other], Duration::ZERO).map_err(|error| error.to_string());
        assert!(config(device("[::]:1", "[::]:2"), device("[::]:3", "[::]:4")).is_ok());
        assert_eq!(
            config(device("[::]:1", "[::]:2"), device("[::]:1", "[::]:4")).expect_err("one port"),
            "[::]:1 is given for two devices; use another port for one"
        );
        assert_eq!(
            config(device("[::]:1", "[::]:2"), device("[::]:3", "[::]:1")).expect_err("one port"),
            "[::]:1 is given for the device and for clients; use another port for one"
        );
        let overlapping = config(device("[::]:1", "[::]:2"), device("[::]:3", "0.0.0.0:2")).expect_err("one port");
        assert!(overlapping.starts_with("[::]:2 and 0.0.0.0:2 are one port"), "{overlapping}");
    }

    #[test]
    fn ports_of_named_services_have_addresses_of_their_own_and_devices_names_of_their_own() {
        let listen = |text: &str| Address::listen(text).expect(text);
        let name = Some(Name::device("pump-3").expect("a name"));
        let device = |at: &str| PlainDevice { name: name.clone(), listen: listen(at), mappings: Vec::new() };
        let config = || Config::new(vec![device("[::]:1")], Duration::ZERO).expect("a name is enough");
        let ports = |all: &[&str]| all.iter().map(|at| ServicePort::new(listen(at), "pump-3:ssh")).collect();
        let with = |all: &[&str]| {
            let ports: Result<Vec<_>, _> = ports(all);
            let config = Config { ports: ports.expect("ports"), ..config() };
            config.check().map(|()| config).map_err(|error| error.to_string())
        };
        assert_eq!(with(&["[::]:2", "[::]:3"]).expect("a configuration").ports.len(), 2);
        assert_eq!(
            with(&["[::]:2", "[::]:2"]).expect_err("twice"),
            "client address [::]:2 is given twice; use another port for one of its services"
        );
        assert_eq!(
            with(&["[::]:1"]).expect_err("twice"),
            "[::]:1 is given for the device and for clients; use another port for one"
        );
        let both = Config::new(vec![device("[::]:1"), device("[::]:2")], Duration::ZERO).expect_err("one name");
        assert_eq!(both.to_string(), "two devices are called 'pump-3'; give one another name");
    }

    #[test]
    fn addresses_of_which_one_is_part_of_the_other_are_refused() {
        for (one, other) in [("[::]:1", "0.0.0.0:1"), ("127.0.0.1:1", "0.0.0.0:1"), ("[::1]:1", "[::]:1")] {
            let refused = [format!("{one} and {other} are one port"), format!("{other} and {one} are one port")];
            for (device, mappings) in [(one, &[(other, "a:1")][..]), ("[::]:9", &[(one, "a:1"), (other, "b:1")])] {
                let error = config(device, mappings, 1).expect_err("one port");
                assert!(refused.iter().any(|text| error.starts_with(text)), "{error}");
            }
        }
        for (one, other) in [("[::]:1", "0.0.0.0:2"), ("[::1]:1", "0.0.0.0:1"), ("127.0.0.1:1", "127.0.0.2:1")] {
            assert!(config("[::]:9", &[(one, "a:1"), (other, "b:1")], 1).is_ok(), "{one} {other}");
        }
    }

    #[test]
    fn no_mapping_and_endless_waiting_are_refused() {
        assert!(config("localhost:1", &[], 1).expect_err("nothing").starts_with("no client port; give at least one"));
        let refused = config("localhost:1", &[("localhost:2", "a:1")], 3601).expect_err("too long");
        assert_eq!(refused, "half-close of 3601 s is too long; give 0 to 3600 s");
    }

    #[test]
    fn a_relay_that_drains_has_ended_before_docker_kills_it() {
        assert!(Config::DRAIN <= Duration::from_secs(10) - Duration::from_secs(2));
    }

    #[test]
    fn a_server_is_bound_with_no_value_that_is_out_of_its_range() {
        let refused = |change: &dyn Fn(&mut Config)| {
            let mut config = config("127.0.0.1:0", &[("127.0.0.1:0", "a:1")], 1).expect("config");
            assert!(config.check().is_ok());
            change(&mut config);
            super::super::Server::bind(config).expect_err("refused").to_string()
        };
        let keepalive = |seconds| move |config: &mut Config| config.limits.keepalive = Duration::from_secs(seconds);
        assert_eq!(refused(&keepalive(4)), "keepalive of 4 s is too short; give 5 to 3600 s");
        assert_eq!(refused(&keepalive(3601)), "keepalive of 3601 s is too long; give 5 to 3600 s");
        assert!(refused(&|config| config.drain = Duration::MAX).starts_with("drain of "));
        let idle = refused(&|config| config.idle = Some(Duration::ZERO));
        assert_eq!(idle, "idle of 0 s is too short; give 0.1 to 604800 s");
        for clients in [0, 257] {
            let expected = format!("{clients} clients at once; give a number from 1 to 256");
            assert_eq!(refused(&|config| config.clients = clients), expected);
        }
        let newest = refused(&|config| (config.min_protocol, config.protocol) = (Protocol::V2, Protocol::V1));
        assert!(newest.starts_with("the oldest version of the protocol is above the newest"), "{newest}");
        assert!(refused(&|config| config.devices[0].mappings.clear()).starts_with("no client port"));
    }
}
