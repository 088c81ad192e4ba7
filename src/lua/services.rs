//! The option `services`: a table of names, and behind each a target, or a table that says more.

use mlua::{Table, Value};

use super::port;
use crate::Error;
use crate::address::{Address, AddressError};
use crate::device::{Service, Services};
use crate::identity::Name;

/// The version of the PROXY protocol that is spoken.
const PROXY_PROTOCOL: f64 = 2.0;

/// What a service is, in a message.
const EXAMPLE: &str = "\"127.0.0.1:22\", or { target = \"127.0.0.1:22\" }";

/// The services of the table, in the order of their names.
pub(super) fn services(table: &Table) -> Result<Services, Error> {
    let pairs = table.pairs::<Value, Value>().map(|pair| pair.map_err(|error| wrong(error.to_string())));
    let mut services = Vec::new();
    for pair in pairs {
        let (key, value) = pair?;
        let Some(name) = key.as_string() else {
            let key = key.to_string().unwrap_or_default();
            return Err(wrong(format!("{key} is no name; write them as {{ ssh = \"127.0.0.1:22\" }}")));
        };
        let name = Name::service(&name.to_string_lossy()).map_err(|error| wrong(error.to_string()))?;
        services.push(service(name, &value)?);
    }
    if services.is_empty() {
        return Err(wrong(
            "there is none in it; write one, such as { ssh = \"127.0.0.1:22\" }, or leave it off".into(),
        ));
    }
    services.sort_by(|one, other| one.name.cmp(&other.name));
    Services::new(services).map_err(|error| wrong(error.to_string()))
}

fn service(name: Name, value: &Value) -> Result<Service, Error> {
    let wrong = |what: String| wrong(format!("{name}: {what}"));
    let target = |value: &Value| {
        let text = value.as_string().map(|text| text.to_string_lossy());
        let text = text.ok_or_else(|| wrong(format!("got {}; write {EXAMPLE}", shown(value))))?;
        text.parse::<Address>().map_err(|error| wrong(error.to_string()))
    };
    let Some(table) = value.as_table() else { return target(value).map(|target| Service::new(name.clone(), target)) };
    let (mut given, mut number, mut proxy_protocol) = (None, None, false);
    for pair in table.pairs::<Value, Value>() {
        let (key, value) = pair.map_err(|error| wrong(error.to_string()))?;
        let key = key.to_string().unwrap_or_default();
        let as_number = value.as_number().or_else(|| value.as_integer().map(|number| number as f64));
        match &*key {
            "target" => given = Some(target(&value)?),
            "port" => {
                let port = as_number.and_then(port);
                let bad = || AddressError::BadPort(shown(&value)).to_string();
                number = Some(port.ok_or_else(|| wrong(bad()))?);
            }
            "proxy_protocol" if as_number == Some(PROXY_PROTOCOL) => proxy_protocol = true,
            "proxy_protocol" => {
                let version = shown(&value);
                return Err(wrong(format!(
                    "proxy_protocol is {version}; 2 is the one version there is, or leave it off"
                )));
            }
            key => {
                let key = key.escape_debug();
                return Err(wrong(format!("unknown key '{key}'; the keys are target, port, proxy_protocol")));
            }
        }
    }
    let target = given.ok_or_else(|| wrong(format!("target is missing; write {EXAMPLE}")))?;
    let port = number.unwrap_or_else(|| target.port());
    Ok(Service { name: name.clone(), target, port, proxy_protocol })
}

fn wrong(what: String) -> Error {
    Error::Usage(format!("services: {what}"))
}

/// A value that is not what it is to be.
fn shown(value: &Value) -> String {
    match value {
        Value::Integer(_) | Value::Number(_) | Value::Boolean(_) => value.to_string().unwrap_or_default(),
        Value::String(text) => format!("'{}'", text.to_string_lossy().escape_debug()),
        Value::Nil
        | Value::LightUserData(_)
        | Value::Table(_)
        | Value::Function(_)
        | Value::Thread(_)
        | Value::UserData(_)
        | Value::Error(_)
        | Value::Other(_) => value.type_name().into(),
    }
}
