//! A principal's public key.

use std::fmt;

use data_encoding::BASE64;
use ring::digest::{SHA256, digest};

use super::RegistryError;
use super::identity::Pin;

/// An Ed25519 public key as its SubjectPublicKeyInfo, DER.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PublicKey([u8; Self::LEN]);

impl PublicKey {
    /// The length of the SubjectPublicKeyInfo.
    pub const LEN: usize = 44;
    /// What stands before the 32 bytes of every Ed25519 key.
    const PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

    /// The key of this SubjectPublicKeyInfo; `None` unless it is an Ed25519 key's.
    pub fn from_der(der: &[u8]) -> Option<Self> {
        let der: [u8; Self::LEN] = der.try_into().ok()?;
        der.starts_with(&Self::PREFIX).then_some(Self(der))
    }

    /// The key from the Base64 text of a PEM file, which is one line.
    ///
    /// # Errors
    /// [`RegistryError::Usage`] if it is none.
    pub fn from_base64(text: &str) -> Result<Self, RegistryError> {
        let der = BASE64.decode(text.as_bytes()).ok();
        der.as_deref().and_then(Self::from_der).ok_or_else(|| {
            let shown: String = text.chars().take(80).flat_map(char::escape_debug).collect();
            RegistryError::Usage(format!(
                "'{shown}' is no Ed25519 public key; give the 60 characters of Base64 between the lines of the PEM file, \
                 MCowBQYDK2VwAyEA and what follows"
            ))
        })
    }

    /// The SubjectPublicKeyInfo.
    pub fn as_der(&self) -> &[u8; Self::LEN] {
        &self.0
    }

    /// Its SHA-256.
    pub fn pin(&self) -> Pin {
        let mut pin = Pin([0; 32]);
        pin.0.copy_from_slice(digest(&SHA256, &self.0).as_ref());
        pin
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64.encode(&self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_known_by_the_sha_256_of_its_44_bytes() {
        // openssl pkey -pubout, and -outform DER | sha256sum
        let key =
            PublicKey::from_base64("MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=").expect("a key");
        assert_eq!(key.as_der()[12..16], [0x19, 0xbf, 0x44, 0x09]);
        assert_eq!(key.pin().0.as_slice(), digest(&SHA256, key.as_der()).as_ref());
        assert_eq!(key.to_string(), "MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=");
    }

    #[test]
    fn other_keys_and_other_lengths_are_none() {
        let der = *PublicKey::from_base64("MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=")
            .expect("a key")
            .as_der();
        let mut x25519 = der;
        x25519[8] = 0x6e;
        assert!(PublicKey::from_der(&x25519).is_none() && PublicKey::from_der(&der[..43]).is_none());
        let error = PublicKey::from_base64("ssh-ed25519 \u{1b}[2J").expect_err("no key").to_string();
        assert!(error.starts_with("'ssh-ed25519 \\u{1b}[2J' is no Ed25519 public key; give the 60"), "{error}");
    }
}
