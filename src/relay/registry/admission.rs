//! What a key asks for when its link is made, and what the registry decides.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use super::principal::{Principal, PrincipalName};
use super::snapshot::{Snapshot, Standing};
use super::token::SecretDigest;
use crate::identity::{Kind, Pin, TokenId};
use crate::tls::PublicKey;

/// A key that TLS has proven, and what it says.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// As what it comes: the ALPN name tells.
    pub kind: Kind,
    /// The key.
    pub key: PublicKey,
    /// The name that it wishes, or claims.
    pub wish: Option<ClaimedName>,
    /// The token that it presents.
    pub token: Option<PresentedToken>,
    /// Where it comes from.
    pub address: IpAddr,
    /// Now, in seconds since 1970.
    pub now: u64,
}

/// A token as a peer presents it.
#[derive(Clone, Copy, Debug)]
pub struct PresentedToken {
    /// What it is found by.
    pub id: TokenId,
    /// The digest of the secret that the peer sent. It is made whether or not there is such a token, so that the time
    /// tells nothing.
    pub secret: SecretDigest,
}

/// A name that a peer gave, valid or not: at most 63 bytes of printable ASCII, and `?` for all else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimedName(Box<str>);

/// Whether a key is let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It is.
    Admitted {
        /// As whom.
        principal: Arc<Principal>,
        /// Whether it has just become so, by its token.
        joined: bool,
    },
    /// Not before an operator approves it. It is to come again.
    Pending(Arc<Principal>),
    /// It is not.
    Refused(Refusal),
}

/// Why a key is not let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Nobody knows it, or it is of the other kind.
    Unknown,
    /// It, or its principal, is revoked.
    Revoked(Arc<Principal>),
    /// Its token is good for nothing. Why, is for events and the audit log; the peer gets the same text for each.
    Token(TokenFault),
    /// The token is good, and is not used up by this; but it does not give the name that the key wishes.
    Wish,
    /// The token is good, and is not used up by this; but another has its name.
    NameTaken(PrincipalName),
    /// The same, and the other is a device without a key, of the relay's configuration.
    NameReserved(PrincipalName),
}

/// Why a token is good for nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenFault {
    /// There is none, or it is for the other kind.
    Unknown,
    /// The secret is another.
    WrongSecret,
    /// It was deleted, or voided.
    Void,
    /// Its time is over.
    Expired,
    /// Other keys have used it up, or this one did before it was removed.
    Used(Use),
}

/// How a token was used, the last time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Use {
    /// By which key.
    pub pin: Pin,
    /// From where.
    pub address: IpAddr,
    /// When, in seconds since 1970.
    pub used: u64,
}

impl Refusal {
    /// What the peer gets to read: plain ASCII, and nothing of what the peer itself sent.
    pub fn reason(&self) -> String {
        match self {
            Self::Unknown => "this key is not known here; join with a token, or have it added".into(),
            Self::Revoked(_) => "this key is revoked; join anew with another token".into(),
            Self::Token(_) => "the token is unknown, expired or used; ask for another".into(),
            Self::Wish => "the token does not give the name that was wished; leave it off, or ask for another".into(),
            Self::NameTaken(name) => format!("the name {name} is taken; replace or remove its device first"),
            Self::NameReserved(name) => {
                format!("the relay's configuration has a plain device {name}; join by another name")
            }
        }
    }
}

impl ClaimedName {
    /// As long as the longest name of a device.
    const MAX: usize = 63;

    /// What the peer gave. What is too long is cut, and ends with `?`, so that it never becomes a name.
    pub fn new(text: &str) -> Self {
        let replace = |c: char| if c.is_ascii_graphic() { c } else { '?' };
        let mut claimed: String = text.chars().take(Self::MAX).map(replace).collect();
        if text.chars().nth(Self::MAX).is_some() {
            claimed.pop();
            claimed.push('?');
        }
        Self(claimed.into())
    }

    /// The text, which may be shown anywhere.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ClaimedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Candidate {
    /// The decision for which no token is looked at: the key is known, or it has none. A key's state comes first, so a
    /// revoked key is refused whatever it presents, and a key that has a name keeps it.
    pub(super) fn decide_by_key(&self, snapshot: &Snapshot) -> Option<Decision> {
        match snapshot.standing(self.kind, &self.key.pin()) {
            Standing::Active(principal) => Some(Decision::Admitted { principal: Arc::clone(principal), joined: false }),
            Standing::Pending(principal) => Some(Decision::Pending(Arc::clone(principal))),
            Standing::Revoked(principal) => Some(Decision::Refused(Refusal::Revoked(Arc::clone(principal)))),
            Standing::OtherKind => Some(Decision::Refused(Refusal::Unknown)),
            Standing::Unknown => self.token.is_none().then_some(Decision::Refused(Refusal::Unknown)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claimed_name_is_short_and_printable_whatever_was_sent() {
        assert_eq!(ClaimedName::new("pump-3").as_str(), "pump-3");
        assert_eq!(ClaimedName::new("a b\u{1b}[2J\u{202e}\u{e9}\n").as_str(), "a?b?[2J???");
        assert_eq!(ClaimedName::new(&"a".repeat(63)).as_str(), "a".repeat(63));
        let cut = ClaimedName::new(&"a".repeat(1 << 20));
        assert_eq!(cut.as_str(), format!("{}?", "a".repeat(62)));
        assert!(PrincipalName::new(Kind::Device, cut.as_str()).is_err(), "a cut name is none");
        assert!(ClaimedName::new(&"\u{1f600}".repeat(99)).as_str().len() <= 63);
    }
}
