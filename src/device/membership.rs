//! What a device knows of the relay that has admitted it, as it stands in the file `relay.toml`.
//!
//! The file is TOML of the plainest kind: `key = "text"`, `key = ["text", "text"]` and comments, a line each. No value
//! has a quotation mark or a backslash in it, so there are no escapes. Keys that are not known are left alone: a newer
//! program may have written them, and a device that went back to its old firmware is to start.

use std::fmt::{self, Write};
use std::str::FromStr;

use crate::address::Address;
use crate::identity::{MAX_ADDRESSES, Name, Pin, PinError, Pins, TokenId, TokenIdError};

/// How many used tokens are remembered. A program says one join string, and seldom one that is as old as that.
pub(super) const MAX_TOKENS: usize = 16;

/// What a device knows of its relay. Every value is valid once it exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Membership {
    /// The name that the relay gave the device.
    pub(super) name: Option<Name>,
    /// The key with which the device was admitted.
    pub(super) device_key: Pin,
    /// By which keys the relay is known.
    pub(super) pins: Pins,
    /// Where the relay has said that it is to be found; tried first.
    pub(super) addresses: Vec<Address>,
    /// Where the join string said that it is.
    pub(super) join_addresses: Vec<Address>,
    /// The tokens of the join strings that this directory has used, the newest last, by which a string is known again.
    pub(super) tokens: Vec<TokenId>,
}

/// Why a text is no membership.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MembershipError {
    /// A line cannot be read, or its value is not what it must be.
    #[error("line {line}: {problem}")]
    Line {
        /// Its number, from 1.
        line: usize,
        /// What is wrong.
        problem: String,
    },
    /// A value is not there.
    #[error("there is no '{0}'")]
    Missing(&'static str),
}

impl Membership {
    /// Where to look for the relay, each address once, in the order in which they are to be tried.
    pub(super) fn targets(&self) -> Vec<Address> {
        let mut targets: Vec<Address> = Vec::new();
        for address in self.addresses.iter().chain(&self.join_addresses) {
            if !targets.contains(address) {
                targets.push(address.clone());
            }
        }
        targets
    }

    /// Whether the join string with this token has been used.
    pub(super) fn has_used(&self, token: TokenId) -> bool {
        self.tokens.contains(&token)
    }

    /// Remembers tokens that were used before its own ones; the oldest are forgotten.
    pub(super) fn remember(&mut self, before: &[TokenId]) {
        let mut tokens: Vec<_> = before.iter().filter(|token| !self.has_used(**token)).copied().collect();
        tokens.append(&mut self.tokens);
        tokens.drain(..tokens.len().saturating_sub(MAX_TOKENS));
        self.tokens = tokens;
    }
}

/// The file that tells for which relay this key of a device was made that none has admitted yet.
pub(super) fn joining_text(key: &Pin, relay: &Pins) -> String {
    let Pins { current, next } = relay;
    format!(
        "# The relay that this device is to join: no other one is shown this key.\ndevice_key = \"{key}\"\n\
         relay_key = \"{current}\"\nnext_relay_key = \"{next}\"\n"
    )
}

/// The key and the relay of such a file; `None` if it cannot be read.
pub(super) fn parse_joining(text: &str) -> Option<(Pin, Pins)> {
    let mut values = Values::default();
    text.lines().try_for_each(|line| values.read(line.trim())).ok()?;
    Some((values.device_key?, Pins { current: values.current?, next: values.next? }))
}

impl fmt::Display for Membership {
    /// The whole file.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "# The relay that this device belongs to. Programs that use this directory write it.")?;
        if let Some(name) = &self.name {
            writeln!(f, "name = \"{name}\"")?;
        }
        writeln!(f, "# The fingerprint of the key of this device.")?;
        writeln!(f, "device_key = \"{}\"", self.device_key)?;
        writeln!(f, "# The keys by which the relay is known: the one that it uses, and the one that follows it.")?;
        writeln!(f, "relay_key = \"{}\"", self.pins.current)?;
        writeln!(f, "next_relay_key = \"{}\"", self.pins.next)?;
        writeln!(f, "# Where the relay says that it is, and where the join string did, which is tried after that.")?;
        writeln!(f, "addresses = {}", list(&self.addresses))?;
        writeln!(f, "join_addresses = {}", list(&self.join_addresses))?;
        if let Some((token, before)) = self.tokens.split_last() {
            writeln!(f, "# The tokens of the join strings that were used: they mean nothing here any more.")?;
            writeln!(f, "token = \"{token}\"")?;
            if !before.is_empty() {
                writeln!(f, "tokens_before = {}", list(before))?;
            }
        }
        Ok(())
    }
}

fn list(items: &[impl fmt::Display]) -> String {
    let mut text = String::from("[");
    for (place, item) in items.iter().enumerate() {
        let separator = if place == 0 { "" } else { ", " };
        // Writing to a string cannot fail.
        let _ = write!(text, "{separator}\"{item}\"");
    }
    text + "]"
}

impl FromStr for Membership {
    type Err = MembershipError;

    fn from_str(text: &str) -> Result<Self, MembershipError> {
        let mut values = Values::default();
        for (number, line) in text.lines().enumerate() {
            let line_error = |problem| MembershipError::Line { line: number + 1, problem };
            values.read(line.trim()).map_err(line_error)?;
        }
        let Values { name, device_key, current, next, addresses, join_addresses, token, tokens_before } = values;
        let missing = MembershipError::Missing;
        let (addresses, join_addresses) =
            (addresses.unwrap_or_default(), join_addresses.ok_or_else(|| missing("join_addresses"))?);
        if addresses.is_empty() && join_addresses.is_empty() {
            return Err(missing("address"));
        }
        let mut membership = Self {
            name,
            device_key: device_key.ok_or_else(|| missing("device_key"))?,
            pins: Pins {
                current: current.ok_or_else(|| missing("relay_key"))?,
                next: next.ok_or_else(|| missing("next_relay_key"))?,
            },
            addresses,
            join_addresses,
            tokens: token.into_iter().collect(),
        };
        membership.remember(&tokens_before.unwrap_or_default());
        Ok(membership)
    }
}

/// What was read so far.
#[derive(Default)]
struct Values {
    name: Option<Name>,
    device_key: Option<Pin>,
    current: Option<Pin>,
    next: Option<Pin>,
    addresses: Option<Vec<Address>>,
    join_addresses: Option<Vec<Address>>,
    token: Option<TokenId>,
    tokens_before: Option<Vec<TokenId>>,
}

impl Values {
    fn read(&mut self, line: &str) -> Result<(), String> {
        if line.is_empty() || line.starts_with('#') {
            return Ok(());
        }
        let (key, value) = line.split_once('=').ok_or("it is no 'key = \"value\"'")?;
        let (key, value) = (key.trim(), value.trim());
        let result = match key {
            "name" => set(&mut self.name, text(value).and_then(|text| Name::device(text).map_err(shown))),
            "device_key" => set(&mut self.device_key, pin(value)),
            "relay_key" => set(&mut self.current, pin(value)),
            "next_relay_key" => set(&mut self.next, pin(value)),
            "addresses" => set(&mut self.addresses, addresses(value)),
            "join_addresses" => set(&mut self.join_addresses, addresses(value)),
            "token" => set(&mut self.token, token(value)),
            "tokens_before" => set(&mut self.tokens_before, tokens(value)),
            _ => Ok(()),
        };
        result.map_err(|problem| format!("{key}: {problem}"))
    }
}

fn shown<E: fmt::Display>(error: E) -> String {
    error.to_string()
}

fn set<T>(place: &mut Option<T>, value: Result<T, String>) -> Result<(), String> {
    match place.replace(value?) {
        None => Ok(()),
        Some(_) => Err("it is there twice".into()),
    }
}

/// What stands between two quotation marks.
fn text(value: &str) -> Result<&str, String> {
    let inner = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    let plain = inner.filter(|inner| !inner.contains(['"', '\\']));
    plain.ok_or_else(|| "a text in \"quotation marks\" is wanted, and nothing behind it".into())
}

fn pin(value: &str) -> Result<Pin, String> {
    text(value)?.parse().map_err(shown::<PinError>)
}

fn token(value: &str) -> Result<TokenId, String> {
    text(value)?.parse().map_err(shown::<TokenIdError>)
}

fn addresses(value: &str) -> Result<Vec<Address>, String> {
    let addresses = items(value, "relay.example.com:443")?;
    if addresses.len() > MAX_ADDRESSES {
        return Err(format!("{} are too many; a relay has at most {MAX_ADDRESSES}", addresses.len()));
    }
    addresses.into_iter().map(|item| text(item)?.parse::<Address>().map_err(shown)).collect()
}

fn tokens(value: &str) -> Result<Vec<TokenId>, String> {
    items(value, "0123456789abcdef")?.into_iter().map(token).collect()
}

/// What stands between two brackets, by its commas: none of the values has one in it.
fn items<'a>(value: &'a str, example: &str) -> Result<Vec<&'a str>, String> {
    let inner = value.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let inner = inner.ok_or_else(|| format!("a list such as [\"{example}\"] on one line is wanted"))?.trim();
    if inner.is_empty() {
        return Ok(Vec::new());
    }
    Ok(inner.strip_suffix(',').unwrap_or(inner).split(',').map(str::trim).collect())
}

#[cfg(test)]
mod tests;
