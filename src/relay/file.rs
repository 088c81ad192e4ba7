//! The relay's configuration file: what an operator wants, in TOML. Facts, such as which devices there are, are in the
//! [`registry`](super::registry).
//!
//! All mistakes of a file are found at once, each with its line.

mod reader;
#[cfg(test)]
mod tests;
mod values;

use std::fmt;
use std::fs::File as Open;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::config::{Config, Listeners, Mapping, PlainDevice, TlsPort};
use super::keys::Keys;
use super::permissions::hint;
use super::registry::Registry;
use super::{Network, Part, ServicePort};
use crate::Error;
use crate::address::Address;
use crate::connection::Limits;
use crate::identity::{MAX_ADDRESSES, Name};
pub use reader::Mistake;
use reader::{At, Reader, Table};

/// The largest file.
const MAX_SIZE: u64 = 1 << 20;
const NOTHING: &str = "there is nothing to listen at; write [listen], and below it tls = \"0.0.0.0:443\"";

/// Which keys there are, table by table.
const SCHEMA: &[(&str, &[&str])] = &[
    ("", &["state", "key", "next_key", "addresses", "listen", "port", "limits", "log"]),
    ("listen", &["tls", "plain", "proxy_protocol_from"]),
    ("plain", &["listen", "device"]),
    ("port", &["listen", "to"]),
    ("limits", &["clients", "idle", "keepalive", "half_close", "drain"]),
    ("log", &["level", "format"]),
];

/// What the file says, with defaults for what it leaves out. Valid once it exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// The directory of the registry and the control socket.
    pub state: PathBuf,
    /// The file of the relay's private key.
    pub key: PathBuf,
    /// The file of the public part of the key that follows it.
    pub next_key: PathBuf,
    /// Where devices find the relay: what join strings say, and links.
    pub addresses: Vec<Address>,
    /// Where devices connect with TLS.
    pub tls: Option<Address>,
    /// Where one device connects that has no key.
    pub plain: Option<Plain>,
    /// Load balancers, which must begin each connection with a PROXY protocol header.
    pub proxy_protocol_from: Vec<Network>,
    /// Ports that are one device's service each.
    pub ports: Vec<ServicePort>,
    /// Clients of each device at once.
    pub clients: u32,
    /// After which time a client for which nothing moves is ended.
    pub idle: Option<Duration>,
    /// After how long a silence an idle device is asked whether it is there.
    pub keepalive: Duration,
    /// How long a service of a version 1 device may be silent once its client has ended its sending side.
    pub half_close: Duration,
    /// How long open clients may go on when the relay ends.
    pub drain: Duration,
    /// The least that is logged.
    pub level: Level,
    /// How a line of the log is written.
    pub format: Format,
}

/// The port of a device without a key: whatever connects there is this device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plain {
    /// Where it connects.
    pub listen: Address,
    /// How it is called.
    pub device: Name,
}

/// The least that is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// What ends the relay.
    Error,
    /// What is not as it should be.
    Warn,
    /// What happens.
    Info,
    /// Each step.
    Debug,
}

/// How a line of the log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Text,
    /// One object a line.
    Json,
}

/// Why there is no configuration.
#[derive(Debug)]
pub enum FileError {
    /// The file cannot be read.
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        reason: io::Error,
    },
    /// Something in it is wrong.
    Mistakes {
        /// The file.
        path: PathBuf,
        /// At least one.
        mistakes: Vec<Mistake>,
    },
}

impl fmt::Display for FileError {
    /// A line for each mistake, `FILE:LINE: TEXT`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable { path, reason } => {
                write!(f, "cannot read {}: {reason}{}", path.display(), hint(reason))
            }
            Self::Mistakes { path, mistakes } => {
                for (index, Mistake { line, text }) in mistakes.iter().enumerate() {
                    let end = if index == 0 { "" } else { "\n" };
                    write!(f, "{end}{}:{line}: {text}", path.display())?;
                }
                Ok(())
            }
        }
    }
}

impl std::error::Error for FileError {}

impl File {
    /// Reads a file. Relative paths in it begin where it stands.
    ///
    /// # Errors
    /// The file cannot be read, or something in it is wrong.
    pub fn read(path: &Path) -> Result<Self, FileError> {
        Self::read_with_text(path).map(|(file, _)| file)
    }

    /// The same, and what was read: it may be a pipe, or another file a moment later.
    ///
    /// # Errors
    /// The file cannot be read, or something in it is wrong.
    pub fn read_with_text(path: &Path) -> Result<(Self, String), FileError> {
        let unreadable = |reason| FileError::Unreadable { path: path.to_owned(), reason };
        let mut text = String::new();
        let open = Open::open(path).map_err(unreadable)?;
        open.take(MAX_SIZE + 1).read_to_string(&mut text).map_err(unreadable)?;
        if text.len() as u64 > MAX_SIZE {
            return Err(unreadable(io::Error::other(format!("it has more than {MAX_SIZE} bytes"))));
        }
        let directory = path.parent().unwrap_or_else(|| Path::new(""));
        let file = Self::parse(&text, directory);
        let file = file.map_err(|mistakes| FileError::Mistakes { path: path.to_owned(), mistakes })?;
        Ok((file, text))
    }

    /// Reads a text, of a file in this directory.
    ///
    /// # Errors
    /// What is wrong with the text.
    pub fn parse(text: &str, directory: &Path) -> Result<Self, Vec<Mistake>> {
        let (mut reader, mut top) = Reader::new(text, SCHEMA);
        let r = &mut reader;
        let state = read_path(r, &mut top, "state", directory, "state");
        let key = read_path(r, &mut top, "key", directory, "relay.key");
        let next_key = read_path(r, &mut top, "next_key", directory, "relay-next.pub");
        let addresses = r.take_each(&mut top, "addresses", "an array, [\"relay.example.com:443\"]", values::address);
        if let Some(too_many) = addresses.get(MAX_ADDRESSES) {
            r.mistake(too_many.line, format!("addresses: at most {MAX_ADDRESSES} are told to devices; leave some off"));
        }
        let listen = r.take_table(&mut top, "listen", "[listen] in a line of its own");
        let listen = match listen {
            Some(table) => Listen::read(r, table),
            None if r.is_right() => {
                r.mistake(1, NOTHING);
                Listen::default()
            }
            None => Listen::default(),
        };
        let ports = read_ports(r, &mut top);
        let limits = r.take_table(&mut top, "limits", "[limits] in a line of its own");
        let limits = limits.map_or_else(Bounds::default, |table| Bounds::read(r, table));
        let log = r.take_table(&mut top, "log", "[log] in a line of its own");
        let (level, format) = log.map_or((None, None), |table| read_log(r, table));
        r.finish(top);
        check_listeners(r, &listen, &ports);
        check_ports(r, &listen, &ports);
        let mistakes = reader.mistakes();
        if !mistakes.is_empty() {
            return Err(mistakes);
        }
        let Bounds { clients, idle, keepalive, half_close, drain } = limits;
        Ok(Self {
            state,
            key,
            next_key,
            addresses: addresses.into_iter().map(|address| address.value).collect(),
            tls: listen.tls.map(|tls| tls.value),
            plain: listen.plain.map(|plain| plain.value),
            proxy_protocol_from: listen.proxy_protocol_from,
            ports: ports.into_iter().map(|port| port.value).collect(),
            clients,
            idle,
            keepalive,
            half_close,
            drain,
            level: level.unwrap_or(Level::Info),
            format: format.unwrap_or(Format::Text),
        })
    }

    /// What the server is to do, with these keys if there is a port for TLS.
    ///
    /// # Errors
    /// [`Error::Usage`], as of [`Config::new`].
    pub fn config(&self, keys: Option<&Keys>, registry: &Arc<dyn Registry>) -> Result<Config, Error> {
        let plain = self.plain.iter().map(|Plain { listen, device }| {
            let mappings = self.ports.iter().filter(|port| port.device == *device).filter_map(mapping);
            PlainDevice { name: Some(device.clone()), listen: listen.clone(), mappings: mappings.collect() }
        });
        let config = Config::new(plain.collect(), self.half_close)?;
        let is_mapping = |port: &&ServicePort| {
            let is_plain = self.plain.as_ref().is_some_and(|plain| plain.device == port.device);
            is_plain && mapping(port).is_some()
        };
        let ports = self.ports.iter().filter(|port| !is_mapping(port)).cloned();
        let config = Config { ports: ports.collect(), ..config };
        config.check()?;
        let tls = self.tls.clone().zip(keys).map(|(listen, keys)| TlsPort {
            listen,
            key: Arc::clone(&keys.key),
            next: keys.next,
            addresses: self.addresses.clone(),
            registry: Arc::clone(registry),
        });
        let limits = Limits { keepalive: self.keepalive, ..config.limits };
        let proxy_protocol_from = self.proxy_protocol_from.clone();
        let (drain, clients, idle) = (self.drain, self.clients, self.idle);
        Ok(Config { tls, proxy_protocol_from, drain, clients, idle, limits, ..config })
    }
}

/// A port of a device that may know no services, by its number: its own loopback is meant then.
fn mapping(port: &ServicePort) -> Option<Mapping> {
    let Part::Port(number) = port.service else { return None };
    let service = Address::new("127.0.0.1", number).ok()?;
    Some(Mapping { client: port.listen.clone(), service })
}

/// The table `[listen]`.
#[derive(Default)]
struct Listen {
    tls: Option<At<Address>>,
    plain: Option<At<Plain>>,
    proxy_protocol_from: Vec<Network>,
}

impl Listen {
    fn read<'t>(r: &mut Reader, mut table: Table<'t>) -> Self {
        if !table.has("tls") && !table.has("plain") {
            r.mistake(table.line, NOTHING);
        }
        let tls = r.take(&mut table, "tls", values::listen);
        let example = "{ listen = \"127.0.0.1:2065\", device = \"old-gateway\" }";
        let plain = r.take_table(&mut table, "plain", example).and_then(|mut plain| {
            r.require(&plain, "listen", "listen = \"127.0.0.1:2065\"");
            r.require(&plain, "device", "device = \"old-gateway\"");
            let listen = r.take(&mut plain, "listen", values::listen);
            let device = r.take(&mut plain, "device", values::device);
            let line = plain.line;
            r.finish(plain);
            let value = Plain { listen: listen?.value, device: device?.value };
            Some(At { line, value })
        });
        let from = r.take_each(&mut table, "proxy_protocol_from", "an array, [\"10.0.0.5\"]", values::network);
        r.finish(table);
        Self { tls, plain, proxy_protocol_from: from.into_iter().map(|network| network.value).collect() }
    }
}

/// The table `[limits]`.
struct Bounds {
    clients: u32,
    idle: Option<Duration>,
    keepalive: Duration,
    half_close: Duration,
    drain: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            clients: Config::MAX_CLIENTS,
            idle: None,
            keepalive: Limits::RELAY.keepalive,
            half_close: Config::HALF_CLOSE,
            drain: Config::DRAIN,
        }
    }
}

impl Bounds {
    fn read<'t>(r: &mut Reader, mut table: Table<'t>) -> Self {
        let mut time = |r: &mut Reader, key, least, most, range: &str| {
            r.take(&mut table, key, |value| values::duration(value, least, most, range)).map(|time| time.value)
        };
        let default = Self::default();
        let idle = time(r, "idle", Config::MIN_IDLE, Config::MAX_IDLE, "100ms to 7d, for example \"1h\"");
        let keepalive =
            time(r, "keepalive", Limits::MIN_KEEPALIVE, Limits::MAX_KEEPALIVE, "5s to 1h, for example \"90s\"");
        let range = "0s to 1h, for example \"10s\"";
        let half_close = time(r, "half_close", Duration::ZERO, Config::MAX_HALF_CLOSE, range);
        let drain = time(r, "drain", Duration::ZERO, Config::MAX_DRAIN, range);
        let clients = r.take(&mut table, "clients", |value| values::number(value, 1, Config::MAX_CLIENTS));
        r.finish(table);
        Self {
            clients: clients.map_or(default.clients, |clients| clients.value),
            idle,
            keepalive: keepalive.unwrap_or(default.keepalive),
            half_close: half_close.unwrap_or(default.half_close),
            drain: drain.unwrap_or(default.drain),
        }
    }
}

fn read_path<'t>(r: &mut Reader, top: &mut Table<'t>, key: &'static str, from: &Path, default: &str) -> PathBuf {
    from.join(r.take(top, key, values::path).map_or_else(|| default.into(), |path| path.value))
}

fn read_log<'t>(r: &mut Reader, mut table: Table<'t>) -> (Option<Level>, Option<Format>) {
    let level = r.take(&mut table, "level", values::level).map(|level| level.value);
    let format = r.take(&mut table, "format", values::format).map(|format| format.value);
    r.finish(table);
    (level, format)
}

fn read_ports<'t>(r: &mut Reader, top: &mut Table<'t>) -> Vec<At<ServicePort>> {
    let example = "[[port]] in a line of its own";
    let mut ports = Vec::new();
    for mut table in r.take_tables(top, "port", example) {
        r.require(&table, "listen", "listen = \"127.0.0.1:2222\"");
        r.require(&table, "to", "to = \"pump-3:ssh\"");
        let listen = r.take(&mut table, "listen", values::listen);
        let to = r.take(&mut table, "to", values::target);
        r.finish(table);
        if let (Some(At { line, value: listen }), Some(At { value: to, .. })) = (listen, to) {
            ports.push(At { line, value: ServicePort { listen, ..to } });
        }
    }
    ports
}

/// Each address to listen at must have a port of its own.
fn check_listeners(r: &mut Reader, listen: &Listen, ports: &[At<ServicePort>]) {
    let tls = listen.tls.iter().map(|tls| (tls.line, &tls.value));
    let plain = listen.plain.iter().map(|plain| (plain.line, &plain.value.listen));
    let ports = ports.iter().map(|port| (port.line, &port.value.listen));
    let mut listeners = Listeners::new();
    for (line, address) in tls.chain(plain).chain(ports) {
        match listeners.add(address, line) {
            None => {}
            Some((other, earlier)) if other == address => {
                r.mistake(line, format!("{address} stands in line {earlier} too; use another port for one"));
            }
            Some((other, earlier)) => {
                let text = format!(
                    "{address} and {other} of line {earlier} are one port: [::] is every interface, 0.0.0.0 every one of \
                     IPv4; use another port for one"
                );
                r.mistake(line, text);
            }
        }
    }
}

/// Each port must lead to a device that can come.
fn check_ports(r: &mut Reader, listen: &Listen, ports: &[At<ServicePort>]) {
    let Some(At { line, value: Plain { device: plain, .. } }) = &listen.plain else { return };
    for At { line, value: ServicePort { device, .. } } in ports {
        if listen.tls.is_none() && plain != device {
            r.mistake(*line, format!("{device} cannot come: devices with keys need tls = \"0.0.0.0:443\" in [listen]"));
        }
    }
    if !ports.iter().any(|port| port.value.device == *plain) {
        let text =
            format!("no [[port]] leads to {plain}; add one, listen = \"127.0.0.1:2222\" and to = \"{plain}:22\"");
        r.mistake(*line, text);
    }
}
