//! What commands ask of the running relay, and what it answers: a line of JSON each.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::identity::{Label, Name, Pattern, Pin, TokenId};
use crate::relay::reloader::Reloaded;
use crate::tls::PublicKey;

/// A value that is a text in JSON, by its own grammar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text<T>(pub T);

impl<T: fmt::Display> Serialize for Text<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de, T: FromStr<Err: fmt::Display>> Deserialize<'de> for Text<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map(Self).map_err(D::Error::custom)
    }
}

/// The name of a device, as a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceName(pub Name);

impl FromStr for DeviceName {
    type Err = crate::identity::NameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Name::device(text).map(Self)
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The id of a token, as `token list` prints it: 16 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenText(pub TokenId);

impl FromStr for TokenText {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse()
            .map(Self)
            .map_err(|_| "this is no token's id; give the 16 digits that 'tcp-remote-relay token list' shows".into())
    }
}

impl fmt::Display for TokenText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a command asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// Make a token.
    TokenDevice(TokenRequest),
    /// Which tokens are open.
    TokenList,
    /// Make a token useless.
    TokenDelete {
        /// Its id.
        id: Text<TokenText>,
    },
    /// Which devices there are, and which unknown keys came.
    Devices,
    /// Let a key in.
    Approve {
        /// The key.
        fingerprint: Text<Pin>,
        /// How its device is to be called.
        name: Option<Text<DeviceName>>,
    },
    /// Add a device by its key.
    Add {
        /// How it is to be called.
        name: Text<DeviceName>,
        /// Its key.
        key: Text<PublicKey>,
        /// Its labels.
        labels: Vec<Text<Label>>,
    },
    /// Add the devices of a table.
    Import {
        /// Lines of `name,key,labels`.
        table: String,
    },
    /// Set and remove labels.
    Label {
        /// The device.
        name: Text<DeviceName>,
        /// Labels to set.
        with: Vec<Text<Label>>,
        /// Keys of labels to remove.
        without: Vec<String>,
    },
    /// Refuse a device from now on.
    Revoke {
        /// The device.
        name: Text<DeviceName>,
    },
    /// Let it in again.
    Unrevoke {
        /// The device.
        name: Text<DeviceName>,
    },
    /// Free its name.
    Remove {
        /// The device.
        name: Text<DeviceName>,
    },
    /// Write the registry to a file.
    Backup {
        /// An absolute path.
        file: String,
    },
    /// Read the configuration again.
    Reload,
    /// What may not be meant in a configuration, if the relay went on with it.
    Check {
        /// The text of its file.
        text: String,
    },
    /// Which key the relay proves, and which one it announces.
    ProvenKey,
    /// Which devices would know the relay no more by this key.
    Lacking {
        /// The key's fingerprint.
        key: Text<Pin>,
    },
}

/// The fingerprints by which devices know the relay that runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProvenKeys {
    /// Of the key that it proves.
    pub current: Text<Pin>,
    /// Of the one that it announces.
    pub next: Text<Pin>,
}

/// The token that is wanted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenRequest {
    /// Whom it names.
    pub subject: Text<Pattern>,
    /// Labels that its devices get.
    pub labels: Vec<Text<Label>>,
    /// How many keys may use it.
    pub uses: u32,
    /// Seconds until it expires.
    pub expires: u64,
    /// Whether its keys wait for approval.
    pub pending: bool,
    /// Whether it replaces the key of the device that there is.
    pub replace: bool,
}

/// What the relay answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// It is done; what, for a person.
    Done(String),
    /// The configuration is read again.
    Reloaded(Reloaded),
    /// What may not be meant in a configuration.
    Warnings(Vec<String>),
    /// A token is made.
    Token(Made),
    /// Devices are added by their keys.
    Added(Added),
    /// The keys of the relay that runs; none without a port for TLS.
    ProvenKey(Option<ProvenKeys>),
    /// Tokens that are open.
    Tokens(Vec<TokenRow>),
    /// Devices and unknown keys.
    Devices(Devices),
    /// The names of devices.
    Lacking(Vec<String>),
    /// It is not done, and nothing is changed.
    Failed(Failure),
}

/// A token that was just made.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Made {
    /// The string with which a device joins. It is a secret, and is told once.
    pub join: String,
    /// What it is found by.
    pub id: String,
    /// When it expires, in seconds since 1970.
    pub expires: u64,
}

impl fmt::Debug for Made {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { join: _, id, expires } = self;
        f.debug_struct("Made").field("id", id).field("expires", expires).finish_non_exhaustive()
    }
}

/// Devices that were just added by their keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Added {
    /// What is done, for a person.
    pub text: String,
    /// The string with which they find and trust the relay. Its token admits no other key, so it is no secret.
    pub join: String,
}

/// A token in a list. Times are seconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRow {
    /// What it is found by.
    pub id: String,
    /// Whom it names.
    pub subject: String,
    /// How many keys may use it.
    pub uses: u32,
    /// How many did.
    pub used: u32,
    /// When it expires.
    pub expires: u64,
    /// What its devices get, by the labels' keys.
    pub labels: BTreeMap<String, String>,
    /// Whether its keys wait for approval.
    pub pending: bool,
    /// Whether it replaces a key.
    pub replace: bool,
    /// Who made it.
    pub creator: String,
    /// When it was made.
    pub created: u64,
}

/// Devices and unknown keys.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Devices {
    /// By name.
    pub devices: Vec<DeviceRow>,
    /// Keys that came and that nobody knows, the last one first.
    pub unknown: Vec<UnknownRow>,
}

/// A device in a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceRow {
    /// Its name.
    pub name: String,
    /// `up`, `down`, `pending` or `revoked`.
    pub state: String,
    /// The fingerprint of its key; a device of the plain listener has none.
    pub fingerprint: Option<String>,
    /// What the operator says of it, by the labels' keys.
    pub labels: BTreeMap<String, String>,
    /// When it was last there, in seconds since 1970.
    pub seen: Option<u64>,
    /// Whether it was there before, and does not know yet which key follows the relay's: after the next `rotate-key` it
    /// would have to join anew. A relay that is older than this, or has no port for TLS, does not say.
    #[serde(default)]
    pub lacks_next_key: Option<bool>,
    /// Its link, while it is up.
    pub link: Option<LinkRow>,
}

/// A link of a device in a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkRow {
    /// Where it comes from.
    pub address: String,
    /// Its round trip in milliseconds, once it is known.
    pub round_trip_ms: Option<u64>,
    /// Clients on it.
    pub streams: usize,
}

/// An unknown key in a list. Times are seconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnknownRow {
    /// By which it is approved.
    pub fingerprint: String,
    /// The name that it claims, which proves nothing.
    pub claimed: Option<String>,
    /// Where it came from last.
    pub address: String,
    /// When it first came.
    pub first: u64,
    /// When it last came.
    pub last: u64,
    /// How often it came.
    pub count: u64,
}

/// Why something is not done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Whose fault it is.
    pub kind: FailureKind,
    /// What is wrong, and what to do.
    pub text: String,
}

/// Whose fault it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureKind {
    /// What was asked cannot be done as things are.
    Usage,
    /// The relay, or its system, failed.
    System,
}

impl Answer {
    /// An answer that says why not.
    pub fn failed(kind: FailureKind, text: impl Into<String>) -> Self {
        Self::Failed(Failure { kind, text: text.into() })
    }
}
