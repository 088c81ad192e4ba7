//! How a key is known: by its hash.

use std::fmt;
use std::str::FromStr;

use base64ct::{Base64UrlUnpadded, Encoding as _};

/// The SHA-256 of a public key, as SubjectPublicKeyInfo in DER.
///
/// It is written as a fingerprint: `SHA256:` and base64url without padding, 50 characters in all. With its prefix a
/// fingerprint never looks like an option of a command, and it needs no quotes in a shell, a URL or a file.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pin(pub [u8; 32]);

/// A text that is no fingerprint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no fingerprint; write SHA256: and the 43 characters behind it, as they were printed")]
pub struct PinError(String);

const PREFIX: &str = "SHA256:";

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", Base64UrlUnpadded::encode_string(&self.0))
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pin({self})")
    }
}

impl FromStr for Pin {
    type Err = PinError;

    fn from_str(text: &str) -> Result<Self, PinError> {
        let bytes = text.strip_prefix(PREFIX).and_then(|rest| Base64UrlUnpadded::decode_vec(rest).ok());
        let pin = bytes.and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
        pin.map(Self).ok_or_else(|| PinError(text.chars().take(80).flat_map(char::escape_debug).collect()))
    }
}

/// The keys that one relay may prove: the one that it uses, and the one that it changes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pins {
    /// Of the key in use.
    pub current: Pin,
    /// Of the key after it.
    pub next: Pin,
}

impl Pins {
    /// Whether it is one of the two.
    pub fn contains(&self, pin: Pin) -> bool {
        pin == self.current || pin == self.next
    }

    /// Whether both are of one relay, as far as they tell: it may have changed its key between the two, once.
    pub fn are_of_relay(&self, other: &Self) -> bool {
        self.contains(other.current) || self.contains(other.next)
    }

    /// Whether they are those of the same relay after it has changed its key.
    pub fn follow(&self, before: &Self) -> bool {
        self.current == before.next && self.current != before.current
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relay_is_known_again_after_one_change_of_its_key() {
        let pins = |current, next| Pins { current: Pin([current; 32]), next: Pin([next; 32]) };
        let before = pins(1, 2);
        for (other, is_same, follows) in
            [(pins(1, 2), true, false), (pins(2, 3), true, true), (pins(2, 2), true, true), (pins(3, 4), false, false)]
        {
            assert_eq!((before.are_of_relay(&other), other.are_of_relay(&before)), (is_same, is_same), "{other:?}");
            assert_eq!((other.follow(&before), before.follow(&other)), (follows, false), "{other:?}");
        }
    }

    #[test]
    fn a_fingerprint_reads_back_as_its_pin() {
        for byte in [0, 0xfb, 0xff] {
            let pin = Pin([byte; 32]);
            assert_eq!(pin.to_string().len(), 50);
            assert_eq!(pin.to_string().parse(), Ok(pin));
        }
        assert_eq!(Pin([0; 32]).to_string(), "SHA256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA");
    }

    #[test]
    fn no_other_text_is_a_fingerprint() {
        let good = Pin([0; 32]).to_string();
        let cases = [
            "",
            "SHA256:",
            &good[7..],
            &good[..49],
            &format!("{good}A"),
            &format!("{good}="),
            // Bits behind the 256th: two texts would be one pin.
            &format!("{}B", &good[..49]),
            &good.replace("SHA256", "sha256"),
        ];
        for text in cases {
            assert!(text.parse::<Pin>().is_err(), "{text}");
        }
        let error = "SHA256:\u{1b}[31m".parse::<Pin>().expect_err("no pin");
        assert!(!error.to_string().contains('\u{1b}'), "{error}");
    }
}
