//! The string with which a device, or a person's laptop, joins a relay: where the relay is, by which keys it is known,
//! and the token that admits a key that presents it.
//!
//! `tcpr1.` and base64url without padding of
//!
//! ```text
//! u8 kind | u8 count | count times (u8 n | n bytes of host:port) | current pin, 32 | next pin, 32
//!   | token id, 8 | secret, 16 | the first 4 bytes of the SHA-256 of all before
//! ```

use std::fmt;
use std::str::{FromStr, from_utf8};

use base64ct::{Base64UrlUnpadded, Encoding as _};
use ring::digest;
use zeroize::Zeroizing;

use super::{Pin, Pins, Secret};
use crate::address::Address;

/// What every join string of this version begins with.
const PREFIX: &str = "tcpr1.";
/// What those of all versions begin with, before a number and a dot.
const ANY_VERSION: &str = "tcpr";
/// Addresses of one relay, at most.
pub const MAX_ADDRESSES: usize = 4;
/// Bytes of the check at the end.
const CHECK: usize = 4;
/// Bytes of pins, token and check.
const FIXED: usize = 32 + 32 + TokenId::LEN + Secret::LEN + CHECK;
/// The longest content.
const MAX_CONTENT: usize = 2 + MAX_ADDRESSES * (1 + u8::MAX as usize) + FIXED;

/// Who may join.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A device.
    Device = 1,
    /// A person's laptop.
    User = 2,
}

/// What names a token. It is no secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenId(pub [u8; Self::LEN]);

/// All that a device needs to join a relay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinString {
    kind: Kind,
    addresses: Vec<Address>,
    pins: Pins,
    token: TokenId,
    secret: Secret,
}

/// Why a text is no join string for its reader, or values make none. The text is in no message: it may be a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JoinError {
    /// It has not the form of one.
    #[error(
        "this is no join string, which begins with '{PREFIX}'; copy the line that 'tcp-remote-relay token' printed"
    )]
    NotJoinString,
    /// Something of it is missing or was changed.
    #[error("the join string is cut or changed (its check does not fit); copy all of the line once more")]
    Damaged,
    /// It is of a version that is not known here.
    #[error("the join string is of version {0}, and 1 is the only one known here; update this program")]
    Newer(u32),
    /// Its check fits, and yet it says what cannot be.
    #[error("the join string was not made as it must be: {0}; make another with 'tcp-remote-relay token'")]
    Malformed(&'static str),
    /// It is for the other kind.
    #[error(
        "the join string is for a {is}, and a {wanted} needs one of its own: 'tcp-remote-relay token {wanted} NAME'"
    )]
    WrongKind {
        /// What it is for.
        is: Kind,
        /// What reads it.
        wanted: Kind,
    },
    /// There are none, or too many.
    #[error("a join string has 1 to {MAX_ADDRESSES} addresses of the relay, and not {0}")]
    Addresses(usize),
    /// One is longer than the field has room for.
    #[error("address '{0}' is too long for a join string; use a shorter name, of at most 249 characters")]
    LongAddress(Address),
}

impl JoinString {
    /// One that says this. All addresses are of one relay.
    ///
    /// # Errors
    /// There are no addresses, or more than [`MAX_ADDRESSES`], or one has more than 255 bytes.
    pub fn new(
        kind: Kind,
        addresses: Vec<Address>,
        pins: Pins,
        token: TokenId,
        secret: Secret,
    ) -> Result<Self, JoinError> {
        if !(1..=MAX_ADDRESSES).contains(&addresses.len()) {
            return Err(JoinError::Addresses(addresses.len()));
        }
        if let Some(long) = addresses.iter().find(|address| address.to_string().len() > usize::from(u8::MAX)) {
            return Err(JoinError::LongAddress(long.clone()));
        }
        Ok(Self { kind, addresses, pins, token, secret })
    }

    /// Reads one that is for `kind`. White space around it is passed over.
    ///
    /// # Errors
    /// It is none, is damaged, or is for the other kind.
    pub fn decode(text: &str, kind: Kind) -> Result<Self, JoinError> {
        let text = text.trim();
        let encoded = text.strip_prefix(PREFIX).ok_or_else(|| without_prefix(text))?;
        if encoded.len() > (4 * MAX_CONTENT).div_ceil(3) {
            return Err(JoinError::Damaged);
        }
        let content = Base64UrlUnpadded::decode_vec(encoded).map(Zeroizing::new);
        let content = content.map_err(|_| JoinError::Damaged)?;
        let (content, check) = content.split_last_chunk::<CHECK>().ok_or(JoinError::Damaged)?;
        if self::check(content) != *check {
            return Err(JoinError::Damaged);
        }
        let join = Self::read(content)?;
        if join.kind == kind { Ok(join) } else { Err(JoinError::WrongKind { is: join.kind, wanted: kind }) }
    }

    /// What lies before the check.
    fn read(content: &[u8]) -> Result<Self, JoinError> {
        let short = || JoinError::Malformed("it is too short");
        let (&[kind, count], mut rest) = content.split_first_chunk().ok_or_else(short)?;
        let kind = match kind {
            1 => Kind::Device,
            2 => Kind::User,
            _ => return Err(JoinError::Malformed("it is for nothing that is known here")),
        };
        let mut addresses = Vec::new();
        for _ in 0..count {
            let (&length, behind) = rest.split_first().ok_or_else(short)?;
            let (address, behind) = behind.split_at_checked(length.into()).ok_or_else(short)?;
            let address = from_utf8(address).ok().and_then(|text| text.parse().ok());
            addresses.push(address.ok_or(JoinError::Malformed("an address in it is none"))?);
            rest = behind;
        }
        let (current, rest) = rest.split_first_chunk().ok_or_else(short)?;
        let (next, rest) = rest.split_first_chunk().ok_or_else(short)?;
        let (token, rest) = rest.split_first_chunk().ok_or_else(short)?;
        let (secret, rest) = rest.split_first_chunk().ok_or_else(short)?;
        if !rest.is_empty() {
            return Err(JoinError::Malformed("it is too long"));
        }
        let pins = Pins { current: Pin(*current), next: Pin(*next) };
        Self::new(kind, addresses, pins, TokenId(*token), Secret::from_bytes(*secret))
    }

    /// The string. It holds a secret: print it once, and log it never.
    pub fn encode(&self) -> Zeroizing<String> {
        // As much as is needed at once: what grows leaves copies of the secret behind.
        let mut content = Zeroizing::new(Vec::with_capacity(MAX_CONTENT));
        content.extend([self.kind as u8, self.addresses.len() as u8]);
        for address in &self.addresses {
            let address = address.to_string();
            content.push(address.len() as u8);
            content.extend(address.as_bytes());
        }
        content.extend(self.pins.current.0);
        content.extend(self.pins.next.0);
        content.extend(self.token.0);
        content.extend(self.secret.as_bytes());
        let check = check(&content);
        content.extend(check);
        let encoded = Zeroizing::new(Base64UrlUnpadded::encode_string(&content));
        let mut text = Zeroizing::new(String::with_capacity(PREFIX.len() + encoded.len()));
        text.push_str(PREFIX);
        text.push_str(&encoded);
        text
    }

    /// Who may join with it.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Where the relay is: 1 to 4 addresses, in the order in which they are to be tried.
    pub fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// The relay's key, and the one that follows it.
    pub fn pins(&self) -> Pins {
        self.pins
    }

    /// The token's name.
    pub fn token(&self) -> TokenId {
        self.token
    }

    /// The token's secret.
    pub fn secret(&self) -> &Secret {
        &self.secret
    }
}

/// Whether a text that is no join string of this version is one of another.
fn without_prefix(text: &str) -> JoinError {
    let number = text.strip_prefix(ANY_VERSION).and_then(|rest| rest.split_once('.')).map(|(number, _)| number);
    let number = number.filter(|number| number.bytes().all(|byte| byte.is_ascii_digit()));
    match number.and_then(|number| number.parse().ok()) {
        Some(version) if version > 1 => JoinError::Newer(version),
        Some(_) | None => JoinError::NotJoinString,
    }
}

fn check(content: &[u8]) -> [u8; CHECK] {
    let mut check = [0; CHECK];
    check.copy_from_slice(&digest::digest(&digest::SHA256, content).as_ref()[..CHECK]);
    check
}

impl TokenId {
    /// Its length in bytes.
    pub const LEN: usize = 8;
}

impl fmt::Display for TokenId {
    /// In hexadecimal digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A text that names no token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no id of a token, which is 16 hexadecimal digits")]
pub struct TokenIdError(String);

impl FromStr for TokenId {
    type Err = TokenIdError;

    fn from_str(text: &str) -> Result<Self, TokenIdError> {
        // A sign in front would be read, too.
        let is_id = text.len() == 2 * Self::LEN && text.bytes().all(|digit| digit.is_ascii_hexdigit());
        let id = u64::from_str_radix(text, 16).ok().filter(|_| is_id);
        id.map(|id| Self(id.to_be_bytes()))
            .ok_or_else(|| TokenIdError(text.chars().take(80).flat_map(char::escape_debug).collect()))
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Device => "device",
            Self::User => "user",
        })
    }
}

#[cfg(test)]
mod tests;
