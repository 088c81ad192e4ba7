//! Values of the configuration file, each with the text of what is right.

use std::time::Duration;

use toml::de::DeValue;

use super::reader::{describe, shown};
use super::{Format, Level};
use crate::address::{Address, AddressError};
use crate::identity::Name;
use crate::relay::{Network, NetworkError, ServicePort};

pub(super) type Value<'t> = DeValue<'t>;

/// A text, for which `example` stands in messages.
fn text<'a>(value: &'a Value<'_>, example: &str) -> Result<&'a str, String> {
    value.as_str().ok_or_else(|| format!("this is {}; write a text, for example {example}", describe(value)))
}

pub(super) fn path(value: &Value<'_>) -> Result<String, String> {
    let text = text(value, "\"/var/lib/tcp-remote-relay\"")?;
    if text.is_empty() { Err("this is empty; write a path".into()) } else { Ok(text.into()) }
}

pub(super) fn listen(value: &Value<'_>) -> Result<Address, String> {
    Address::listen(text(value, "\"0.0.0.0:443\"")?).map_err(|error| error.to_string())
}

pub(super) fn address(value: &Value<'_>) -> Result<Address, String> {
    text(value, "\"relay.example.com:443\"")?.parse().map_err(|error: AddressError| error.to_string())
}

pub(super) fn network(value: &Value<'_>) -> Result<Network, String> {
    text(value, "\"10.0.0.5\"")?.parse().map_err(|error: NetworkError| error.to_string())
}

pub(super) fn device(value: &Value<'_>) -> Result<Name, String> {
    Name::device(text(value, "\"pump-3\"")?).map_err(|error| error.to_string())
}

/// `DEVICE:SERVICE`, as a port whose own address is still to come.
pub(super) fn target(value: &Value<'_>) -> Result<ServicePort, String> {
    let text = text(value, "\"pump-3:ssh\"")?;
    let nowhere = Address::listen("127.0.0.1:0").map_err(|error| error.to_string())?;
    ServicePort::new(nowhere, text).map_err(|error| error.to_string())
}

/// A time within bounds, which the text for `range` names.
pub(super) fn duration(value: &Value<'_>, least: Duration, most: Duration, range: &str) -> Result<Duration, String> {
    let DeValue::String(text) = value else {
        return Err(format!("this is {}; write a time with its unit, {range}", describe(value)));
    };
    let read = humantime::parse_duration(text)
        .map_err(|_| format!("'{}' is no time with its unit; write {range}", shown(text)))?;
    if (least..=most).contains(&read) {
        Ok(read)
    } else {
        Err(format!("'{}' is too {}; write {range}", shown(text), if read < least { "short" } else { "long" }))
    }
}

pub(super) fn number(value: &Value<'_>, least: u32, most: u32) -> Result<u32, String> {
    let number = value.as_integer().filter(|number| number.radix() == 10);
    let number = number.and_then(|number| number.as_str().parse().ok());
    number
        .filter(|number| (least..=most).contains(number))
        .ok_or_else(|| format!("this is {}; write a whole number from {least} to {most}", describe(value)))
}

pub(super) fn level(value: &Value<'_>) -> Result<Level, String> {
    one_of(value, &[("error", Level::Error), ("warn", Level::Warn), ("info", Level::Info), ("debug", Level::Debug)])
}

pub(super) fn format(value: &Value<'_>) -> Result<Format, String> {
    one_of(value, &[("text", Format::Text), ("json", Format::Json)])
}

fn one_of<T: Copy>(value: &Value<'_>, all: &[(&str, T)]) -> Result<T, String> {
    let found = value.as_str().and_then(|text| all.iter().find(|(name, _)| *name == text));
    found.map(|(_, value)| *value).ok_or_else(|| {
        let names: Vec<String> = all.iter().map(|(name, _)| format!("\"{name}\"")).collect();
        format!("this is {}; write one of {}", describe(value), names.join(", "))
    })
}
