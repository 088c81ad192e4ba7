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
}

#[cfg(test)]
mod tests {
    use super::*;

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
