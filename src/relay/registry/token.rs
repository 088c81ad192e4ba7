//! What admits a key that nobody knows.

use std::fmt;

use super::RegistryError;
use super::principal::Labels;
use crate::identity::{Kind, Pattern, Pins, TokenId, UserName};

/// The SHA-256 of a token's secret: the registry never holds the secret itself.
#[derive(Clone, Copy)]
pub struct SecretDigest(pub [u8; 32]);

/// Whom a token names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenSubject {
    /// A device, or devices with names of that pattern.
    Device(Pattern),
    /// A user.
    User(UserName),
}

/// A token, as an operator makes it. Times are seconds since 1970.
#[derive(Clone, Debug)]
pub struct NewToken {
    /// What it is found by; random.
    pub id: TokenId,
    /// The digest of its secret.
    pub secret: SecretDigest,
    /// Whom it names.
    pub subject: TokenSubject,
    /// How many keys may use it.
    pub uses: u32,
    /// From when on it is good for nothing.
    pub expires: u64,
    /// What its principals get.
    pub labels: Labels,
    /// Whether they wait for approval.
    pub pending: bool,
    /// Whether the new key takes the place of the name's key, which is revoked then.
    pub replace: bool,
    /// By which keys those who have its join string know the relay.
    pub pins: Pins,
    /// Who made it, for those who read the list. At most 64 bytes.
    pub creator: String,
    /// When.
    pub created: u64,
}

/// A token that somebody could still use, for a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenToken {
    /// What it is found by.
    pub id: TokenId,
    /// Whom it names.
    pub subject: TokenSubject,
    /// How many keys may use it.
    pub uses: u32,
    /// How many did.
    pub used: u32,
    /// From when on it is good for nothing.
    pub expires: u64,
    /// What its principals get.
    pub labels: Labels,
    /// Whether they wait for approval.
    pub pending: bool,
    /// Whether the new key takes the place of the name's key.
    pub replace: bool,
    /// Who made it.
    pub creator: String,
    /// When.
    pub created: u64,
}

impl TokenSubject {
    /// Of which kind the principals are.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Device(_) => Kind::Device,
            Self::User(_) => Kind::User,
        }
    }
}

impl fmt::Display for TokenSubject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Device(pattern) => pattern.fmt(f),
            Self::User(name) => name.fmt(f),
        }
    }
}

impl NewToken {
    /// What a name made by a pattern adds to its beginning, at least.
    pub(super) const DERIVED: usize = 8;
    const MAX_CREATOR: usize = 64;
    const MAX_NAME: usize = 63;

    /// Whether it makes sense, whatever the registry holds.
    pub(super) fn check(&self) -> Result<(), RegistryError> {
        let is_pattern = matches!(self.subject, TokenSubject::Device(Pattern::Beginning(_)));
        let mistake = if self.uses == 0 {
            "a token is for one use at least"
        } else if self.uses > 1 && matches!(self.subject, TokenSubject::Device(Pattern::Name(_))) {
            "a name is one device's, and a token for it has one use; give a pattern, such as line7-*"
        } else if self.replace && (self.pending || is_pattern || self.subject.kind() == Kind::User) {
            "a token that replaces a key is for one device's name, and its key does not wait for approval"
        } else if self.expires <= self.created {
            "the token would be expired when it is made"
        } else if self.creator.len() > Self::MAX_CREATOR {
            "the creator's name is longer than 64 bytes"
        } else if let TokenSubject::Device(Pattern::Beginning(beginning)) = &self.subject
            && beginning.len() + Self::DERIVED > Self::MAX_NAME
        {
            "the pattern leaves no room for the 8 characters by which devices are told apart; shorten it"
        } else {
            return Ok(());
        };
        Err(RegistryError::Usage(mistake.into()))
    }
}

impl SecretDigest {
    /// Nobody's, to compare with where there is no token.
    pub(super) const NONE: Self = Self([0; 32]);

    /// Whether they are the same, in constant time.
    pub(super) fn matches(&self, other: &Self) -> bool {
        subtle::ConstantTimeEq::ct_eq(&self.0[..], &other.0[..]).into()
    }
}

impl fmt::Debug for SecretDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretDigest(…)")
    }
}
