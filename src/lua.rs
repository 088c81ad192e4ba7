//! `tcpremote.core`: the device side as Lua sees it. Arguments and results are converted here, nothing else;
//! the face that scripts require is `lua/tcpremote/init.lua`.
//!
//! Whatever can go wrong in operation is returned as `nil, message, code`: an error raised from here would be a
//! userdata, which no Lua program expects.

mod process;
mod services;

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, RawFd};
#[cfg(feature = "tls")]
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use mlua::{FromLua, IntoLua, IntoLuaMulti, Lua, MultiValue, Table, UserData, UserDataMethods, Value};

use crate::Error;
use crate::address::{Address, AddressError};
use crate::connection::{Limits, Protocol};
#[cfg(feature = "tls")]
use crate::device::Enrolment;
use crate::device::{Access, Config, Event, Handle, Proxy, Rule, RuleError, RuleProblem, State, Status, Wait};
#[cfg(feature = "tls")]
use crate::identity::Name;

/// The options of a device with an identity.
const ENROLMENT: [&str; 3] = ["state_dir", "join", "name"];

/// Where the registry keeps the thread that loaded the module.
const LOADER: &str = "tcpremote.loader";

/// The longest `connect_timeout`, in seconds.
const MAX_CONNECT_TIMEOUT: f64 = 3600.0;

/// One tunnel; collecting it closes it.
struct Tunnel {
    life: Life,
}

enum Life {
    /// There is a thread, or its last events were not fetched yet.
    Started(Handle),
    /// Closed by its owner, and every descriptor given back: Lua may collect this long after.
    Ended(Box<Status>, VecDeque<Event>),
}

#[mlua::lua_module(name = "tcpremote_core")]
fn open(lua: &Lua) -> mlua::Result<Table> {
    // mlua goes on using the thread it was loaded by; if that is a coroutine, it must never be collected. Only
    // the first one counts: a module that is required again keeps its first state.
    if lua.named_registry_value::<Value>(LOADER)?.is_nil() {
        lua.set_named_registry_value(LOADER, lua.current_thread())?;
    }
    let core = lua.create_table()?;
    core.set("_VERSION", env!("CARGO_PKG_VERSION"))?;
    core.set("full_version", env!("TCPREMOTE_VERSION"))?;
    core.set("start", lua.create_function(|lua, options: Table| answer(lua, start(&options)))?)?;
    core.set("check", lua.create_function(|lua, options: Table| answer(lua, config(&options).map(|_| true)))?)?;
    core.set(
        "identity",
        lua.create_function(|lua, (directory, join): (Value, Value)| answer(lua, identity(lua, directory, join)))?,
    )?;
    core.set(
        "await_approval",
        lua.create_function(|lua, (directory, join): (Value, Value)| {
            answer(lua, await_approval(lua, directory, join))
        })?,
    )?;
    core.set("parse_address", lua.create_function(|lua, text: Value| answer(lua, parse_address(lua, text)))?)?;
    core.set("process", process::functions(lua)?)?;
    Ok(core)
}

impl UserData for Tunnel {
    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        methods.add_method("status", |lua, this, ()| {
            let status = this.status().map(|status| status_table(lua, status));
            answer(lua, status.map(Raised))
        });
        methods.add_method_mut("next_event", |lua, this, ()| match this.next_event() {
            Ok(Some(event)) => event_table(lua, event)?.into_lua_multi(lua),
            Ok(None) => (Value::Nil, "timeout").into_lua_multi(lua),
            Err(error) => answer::<bool>(lua, Err(error)),
        });
        methods.add_method("wait", |lua, this, seconds: Option<f64>| match this.wait(timeout(seconds)) {
            Ok(Wait::Ready) => answer(lua, Ok(true)),
            Ok(Wait::Timeout) => (Value::Nil, "timeout").into_lua_multi(lua),
            Ok(Wait::Interrupted) => (Value::Nil, "interrupted").into_lua_multi(lua),
            Err(error) => answer::<bool>(lua, Err(error)),
        });
        methods.add_method("getfd", |lua, this, ()| answer(lua, this.fd()));
        methods.add_method("reconnect", |lua, this, ()| answer(lua, this.reconnect().map(|()| true)));
        methods.add_method("hold", |lua, this, seconds: f64| answer(lua, this.hold(seconds).map(|()| true)));
        methods.add_method_mut("close", |lua, this, seconds: Option<f64>| match this.close(timeout(seconds)) {
            Ok(false) if seconds.is_some() => (Value::Nil, "timeout").into_lua_multi(lua),
            Ok(_) => answer(lua, Ok(true)),
            Err(error) => answer::<bool>(lua, Err(error)),
        });
        #[cfg(feature = "fault-injection")]
        methods.add_method("_panic", |_, this, ()| {
            if let Life::Started(handle) = &this.life {
                handle.inject_panic();
            }
            Ok(())
        });
    }
}

impl Tunnel {
    fn status(&self) -> Result<Status, Error> {
        match &self.life {
            Life::Started(handle) => handle.status(),
            Life::Ended(status, _) => Ok(status.as_ref().clone()),
        }
    }

    /// The next event; `None` if there may be one later.
    fn next_event(&mut self) -> Result<Option<Event>, Error> {
        match &mut self.life {
            Life::Started(handle) => match handle.next_event()? {
                Some(event) => Ok(Some(event)),
                // The thread's last event comes with the state, so there is none after this.
                None if handle.status()?.state == State::Closed => handle.next_event()?.map(Some).ok_or(Error::Closed),
                None => Ok(None),
            },
            Life::Ended(_, events) => events.pop_front().map(Some).ok_or(Error::Closed),
        }
    }

    fn wait(&self, timeout: Option<Duration>) -> Result<Wait, Error> {
        match &self.life {
            Life::Started(handle) => handle.wait(timeout),
            Life::Ended(_, events) => {
                if events.is_empty() {
                    Err(Error::Closed)
                } else {
                    Ok(Wait::Ready)
                }
            }
        }
    }

    fn fd(&self) -> Result<RawFd, Error> {
        match &self.life {
            Life::Started(handle) => handle.fd(),
            Life::Ended(..) => Err(Error::Closed),
        }
    }

    /// What is readable while there are events, as long as there is a thread.
    fn notifier(&self) -> Option<BorrowedFd<'_>> {
        match &self.life {
            Life::Started(handle) => Some(handle.as_fd()),
            Life::Ended(..) => None,
        }
    }

    fn reconnect(&self) -> Result<(), Error> {
        match &self.life {
            Life::Started(handle) => handle.reconnect(),
            Life::Ended(..) => Err(Error::Closed),
        }
    }

    fn hold(&self, seconds: f64) -> Result<(), Error> {
        match &self.life {
            Life::Started(handle) => handle.hold(timeout(Some(seconds)).unwrap_or(Duration::ZERO)),
            Life::Ended(..) => Ok(()),
        }
    }

    /// True if the tunnel is over within the time.
    fn close(&mut self, timeout: Option<Duration>) -> Result<bool, Error> {
        let Life::Started(handle) = &self.life else { return Ok(true) };
        let over = handle.close_within(timeout.unwrap_or(Duration::MAX))?;
        if over {
            let status = Box::new(handle.status()?);
            let events = std::iter::from_fn(|| handle.next_event().ok().flatten()).collect();
            self.life = Life::Ended(status, events);
        }
        Ok(over)
    }
}

/// A number of seconds from Lua; one beyond what can be counted is for ever.
fn timeout(seconds: Option<f64>) -> Option<Duration> {
    Duration::try_from_secs_f64(seconds?.max(0.0)).ok()
}

/// A value whose making may raise in Lua (out of memory), inside a result whose error may not.
struct Raised<T>(mlua::Result<T>);

impl<T: IntoLua> IntoLua for Raised<T> {
    fn into_lua(self, lua: &Lua) -> mlua::Result<Value> {
        self.0?.into_lua(lua)
    }
}

fn answer<T: IntoLua>(lua: &Lua, result: Result<T, Error>) -> mlua::Result<MultiValue> {
    match result {
        Ok(value) => value.into_lua_multi(lua),
        Err(error) => (Value::Nil, error.to_string(), error.code()).into_lua_multi(lua),
    }
}

fn start(options: &Table) -> Result<Tunnel, Error> {
    Ok(Tunnel { life: Life::Started(Handle::start(config(options)?)?) })
}

fn config(options: &Table) -> Result<Config, Error> {
    let service = address(options, "local_address", "local_port")?;
    let services = option::<Table>(options, "services")?.map(|table| services::services(&table)).transpose()?;
    if services.is_some() && service.is_some() {
        let text = "services: local_address and local_port name the one thing that may be reached; leave them off";
        return Err(Error::Usage(text.into()));
    }
    let proxy = option::<String>(options, "proxy")?.map(|proxy| proxy.parse::<Proxy>()).transpose();
    let proxy = proxy.map_err(|error| Error::Usage(format!("proxy: {error}")))?;
    let allow = option::<Value>(options, "allow")?;
    let access = match service {
        Some(service) => Some(Access::Call(service)),
        None => allow.map(|allow| access(&allow)).transpose()?,
    };
    let connect_timeout = option::<f64>(options, "connect_timeout")?;
    if let Some(seconds) = connect_timeout.filter(|seconds| !(*seconds > 0.0 && *seconds <= MAX_CONNECT_TIMEOUT)) {
        let range = format!("above 0 and at most {MAX_CONNECT_TIMEOUT}");
        return Err(Error::Usage(format!("connect_timeout: {seconds} is not a number of seconds {range}")));
    }
    let keepalive = option::<f64>(options, "keepalive")?;
    let (shortest, longest) = (Limits::MIN_KEEPALIVE.as_secs(), Limits::MAX_KEEPALIVE.as_secs());
    let is_keepalive = |seconds: &f64| seconds.fract() == 0.0 && (shortest as f64..=longest as f64).contains(seconds);
    if let Some(seconds) = keepalive.filter(|seconds| !is_keepalive(seconds)) {
        let range = format!("from {shortest} to {longest}");
        return Err(Error::Usage(format!("keepalive: {seconds} is not a whole number of seconds {range}")));
    }
    let reconnect = option::<bool>(options, "reconnect")?;
    let keep_trying = option::<bool>(options, "keep_trying")?;
    let known = "1, as the programs of 2012, or 2, which is used where the relay knows it";
    let protocol = version(options, "protocol", known)?;
    let known = "1, or 2 for a relay that knows it and no other";
    let min_protocol = version(options, "min_protocol", known)?;

    // Behind all that, since a device that has yet to join may be waited for, and a mistake may not.
    let mut config = relay(options)?;
    if let Some(services) = services {
        config.offer(services);
    }
    config.proxy = proxy;
    config.access = access.unwrap_or(config.access);
    config.connect_timeout = connect_timeout.map_or(config.connect_timeout, Duration::from_secs_f64);
    config.limits.keepalive = keepalive.map_or(config.limits.keepalive, Duration::from_secs_f64);
    config.reconnect = reconnect.unwrap_or(config.reconnect);
    config.keep_trying = keep_trying.unwrap_or(config.keep_trying);
    config.protocol = protocol.unwrap_or(config.protocol);
    config.min_protocol = min_protocol.unwrap_or(config.min_protocol);
    if config.min_protocol > config.protocol {
        let text = "min_protocol: 2 is above protocol, which is 1, so that no relay would do; leave one of them off";
        return Err(Error::Usage(text.into()));
    }
    Ok(config)
}

/// The settings of a tunnel to the relay that is named, or that has admitted this device.
fn relay(options: &Table) -> Result<Config, Error> {
    let server = address(options, "server_address", "server_port")?;
    let enrolled =
        ENROLMENT.into_iter().find(|name| options.raw_get::<Value>(*name).is_ok_and(|value| !value.is_nil()));
    match (server, enrolled) {
        (Some(server), None) => Ok(Config::new(server)),
        (None, Some(name)) => enrolled_config(options, name),
        (Some(_), Some(name)) => Err(Error::Usage(format!(
            "{name} and server_address are given, and state_dir says where the relay is; leave server_address and \
             server_port off, or {name} for a relay without TLS"
        ))),
        (None, None) => Err(Error::Usage(
            "server_address and server_port are missing; they name the relay to connect to, or give state_dir for one \
             that this device has joined"
                .into(),
        )),
    }
}

#[cfg(feature = "tls")]
fn enrolled_config(options: &Table, name: &str) -> Result<Config, Error> {
    let Some(directory) = option::<String>(options, "state_dir")? else {
        let text = format!("{name} is given without state_dir, the directory in which this device keeps its key");
        return Err(Error::Usage(text));
    };
    for version in ["protocol", "min_protocol"] {
        if option::<f64>(options, version)?.is_some() {
            let text =
                format!("{version} and state_dir are given, and links in TLS are of version 2; leave {version} off");
            return Err(Error::Usage(text));
        }
    }
    let join = option::<String>(options, "join")?;
    let wish = option::<String>(options, "name")?.map(|name| Name::device(&name)).transpose();
    let wish = wish.map_err(|error| Error::Usage(format!("name: {error}")))?;
    if wish.is_some() && join.is_none() {
        let text =
            "name is given without join; it is a wish for when this device joins, and the relay's word counts then";
        return Err(Error::Usage(text.into()));
    }
    let enrolment = Enrolment::open(Path::new(&directory), join.as_deref(), wish)?;
    let mut config = Config::new(enrolment.addresses()[0].clone());
    config.enrolment = Some(enrolment);
    Ok(config)
}

#[cfg(not(feature = "tls"))]
fn enrolled_config(_: &Table, name: &str) -> Result<Config, Error> {
    Err(without_tls(name))
}

#[cfg(not(feature = "tls"))]
fn without_tls(name: &str) -> Error {
    Error::Usage(format!("{name}: this module was built without TLS; build it with: make module FEATURES=tls"))
}

/// What a directory says of this device, as a table; with a join string, as it is before that is used.
#[cfg(feature = "tls")]
fn identity(lua: &Lua, directory: Value, join: Value) -> Result<Raised<Table>, Error> {
    let usage = |error: mlua::Error| Error::Usage(error.to_string());
    let directory = String::from_lua(directory, lua).map_err(usage)?;
    let join = Option::<String>::from_lua(join, lua).map_err(usage)?;
    let enrolment = Enrolment::open_strictly(Path::new(&directory), join.as_deref(), None)?;
    let table = || {
        let table = lua.create_table()?;
        table.set("name", enrolment.name().map(Name::as_str))?;
        table.set("fingerprint", enrolment.fingerprint().to_string())?;
        table.set("has_joined", enrolment.has_joined())?;
        table.set("member_fingerprint", enrolment.member_fingerprint().map(|pin| pin.to_string()))?;
        table.set("is_joining", enrolment.is_joining())?;
        table.set("is_used", enrolment.is_used())?;
        table.set("relay_key", enrolment.pins().current.to_string())?;
        table.set("next_relay_key", enrolment.pins().next.to_string())?;
        let addresses = enrolment.addresses();
        table.set("addresses", addresses.iter().map(Address::to_string).collect::<Vec<_>>())?;
        Ok(table)
    };
    Ok(Raised(table()))
}

/// The key of this join string waits for approval: the directory knows it without the string from here on.
#[cfg(feature = "tls")]
fn await_approval(lua: &Lua, directory: Value, join: Value) -> Result<bool, Error> {
    let usage = |error: mlua::Error| Error::Usage(error.to_string());
    let directory = String::from_lua(directory, lua).map_err(usage)?;
    let join = String::from_lua(join, lua).map_err(usage)?;
    Enrolment::open_strictly(Path::new(&directory), Some(&join), None)?.await_approval().map(|()| true)
}

#[cfg(not(feature = "tls"))]
fn await_approval(_: &Lua, _: Value, _: Value) -> Result<bool, Error> {
    Err(without_tls("state_dir"))
}

#[cfg(not(feature = "tls"))]
fn identity(_: &Lua, _: Value, _: Value) -> Result<Raised<Table>, Error> {
    Err(without_tls("state_dir"))
}

/// A version of the protocol; `known` says which there are.
fn version(options: &Table, name: &str, known: &str) -> Result<Option<Protocol>, Error> {
    let Some(version) = option::<f64>(options, name)? else { return Ok(None) };
    if version == 1.0 {
        Ok(Some(Protocol::V1))
    } else if version == 2.0 {
        Ok(Some(Protocol::V2))
    } else {
        Err(Error::Usage(format!("{name}: {version} is not a version; give {known}")))
    }
}

/// An option that may be absent.
fn option<T: FromLua>(options: &Table, name: &str) -> Result<Option<T>, Error> {
    options.raw_get::<Option<T>>(name).map_err(|error| Error::Usage(format!("{name}: {error}")))
}

/// An address whose host and port are two options: both or neither.
fn address(options: &Table, host: &str, port: &str) -> Result<Option<Address>, Error> {
    let missing =
        |given: &str, missing: &str| Error::Usage(format!("{given} is given without {missing}; the two go together"));
    match (option::<String>(options, host)?, option::<f64>(options, port)?) {
        (None, None) => Ok(None),
        (Some(_), None) => Err(missing(host, port)),
        (None, Some(_)) => Err(missing(port, host)),
        (Some(name), Some(number)) => {
            let bad_port = || Error::Usage(format!("{port}: {}", AddressError::BadPort(number.to_string())));
            let address = Address::new(&name, self::port(number).ok_or_else(bad_port)?);
            address.map(Some).map_err(|error| Error::Usage(format!("{host}: {error}")))
        }
    }
}

fn access(allow: &Value) -> Result<Access, Error> {
    if let Some(text) = allow.as_string() {
        let text = text.to_string_lossy();
        return if text.eq_ignore_ascii_case("any") { Ok(Access::Any) } else { Err(no_list(&text)) };
    }
    let list = allow.as_table().ok_or_else(|| no_list(allow.type_name()))?;
    let rules = list.sequence_values::<Value>().map(|item| {
        let text = rule_text(&item.map_err(|error| wrong_rule(error.to_string()))?)?;
        text.parse::<Rule>().map_err(|error| wrong_rule(error.to_string()))
    });
    Ok(Access::Only(rules.collect::<Result<_, _>>()?))
}

fn wrong_rule(what: String) -> Error {
    Error::Usage(format!("allow: {what}"))
}

/// A text in place of a list; the error shows the list that is meant, if that is clear.
fn no_list(text: &str) -> Error {
    let right = match text.parse::<Rule>() {
        Ok(_) => format!("{{ \"{text}\" }}"),
        Err(RuleError { problem: RuleProblem::Several(rules), .. }) => format!("{{ {rules} }}"),
        Err(RuleError { problem: RuleProblem::Separators(rule), .. }) => format!("{{ \"{rule}\" }}"),
        Err(_) => "\"any\", or a list such as { \"127.0.0.1:22\" }".into(),
    };
    wrong_rule(format!("'{}' is neither \"any\" nor a list; write {right}", text.escape_debug()))
}

/// A rule as its text; a number is a port of the device itself.
fn rule_text(item: &Value) -> Result<String, Error> {
    let Some(number) = item.as_number().or_else(|| item.as_integer().map(|number| number as f64)) else {
        let text = item.as_string().map(|text| text.to_string_lossy());
        return text.ok_or_else(|| wrong_rule(format!("a rule is a text, got {}", item.type_name())));
    };
    match port(number) {
        Some(port) => Ok(port.to_string()),
        None => Err(wrong_rule(AddressError::BadPort(number.to_string()).to_string())),
    }
}

/// A whole number from 1 to 65,535.
fn port(number: f64) -> Option<u16> {
    let whole = number.fract() == 0.0 && (1.0..=f64::from(u16::MAX)).contains(&number);
    // Whole and in range, so the cast is exact.
    whole.then_some(number as u16)
}

/// `"host:port"` as a table of `host` and `port`.
fn parse_address(lua: &Lua, text: Value) -> Result<Raised<Table>, Error> {
    let text = String::from_lua(text, lua).map_err(|error| Error::Usage(error.to_string()))?;
    let address: Address = text.parse()?;
    let table = || {
        let table = lua.create_table()?;
        table.set("host", address.host())?;
        table.set("port", address.port())?;
        Ok(table)
    };
    Ok(Raised(table()))
}

/// Before 5.3 Lua's numbers are doubles, and not every Lua's integers at its C interface have the 64 bits that mlua
/// expects on a machine of 64 bits: OpenWrt's Lua 5.1 has 32, and would drop the others.
fn count(number: u64) -> Value {
    let has_integers = !cfg!(any(feature = "lua51", feature = "lua52", feature = "luajit"));
    match i64::try_from(number) {
        Ok(number) if has_integers => Value::Integer(number),
        _ => Value::Number(number as f64),
    }
}

fn status_table(lua: &Lua, status: Status) -> mlua::Result<Table> {
    let table = lua.create_table()?;
    table.set("state", status.state.as_str())?;
    table.set("server", status.server.to_string())?;
    #[cfg(feature = "tls")]
    if let Some((name, fingerprint)) = status.identity {
        table.set("name", name.as_ref().map(Name::as_str))?;
        table.set("fingerprint", fingerprint.to_string())?;
    }
    table.set("peer", status.peer.map(|peer| peer.to_string()))?;
    table.set("protocol", status.protocol)?;
    table.set("clients", count(status.clients))?;
    table.set("clients_total", count(status.clients_total))?;
    table.set("bytes_sent", count(status.bytes_sent))?;
    table.set("bytes_received", count(status.bytes_received))?;
    table.set("ignored_frames", count(status.ignored_frames))?;
    table.set("events_dropped", count(status.events_dropped))?;
    table.set("since", status.since.as_secs_f64())?;
    table.set("reconnects", count(status.reconnects))?;
    table.set("round_trip", status.round_trip.map(|time| time.as_secs_f64()))?;
    table.set("next_attempt", status.next_attempt.map(|time| time.as_secs_f64()))?;
    if let Some((message, code)) = status.last_error {
        table.set("last_error", message)?;
        table.set("last_error_code", code)?;
    }
    Ok(table)
}

fn event_table(lua: &Lua, event: Event) -> mlua::Result<Table> {
    let table = lua.create_table()?;
    table.set("type", event.kind.as_str())?;
    table.set("severity", event.severity.as_str())?;
    table.set("time", event.time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64())?;
    table.set("message", event.message)?;
    table.set("client", event.client.map(|client| count(client.into())))?;
    table.set("service", event.service.as_deref())?;
    table.set("code", event.code)?;
    Ok(table)
}
