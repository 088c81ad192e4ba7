//! What only its owner knows.

use std::fmt;

use ring::digest;
use ring::rand::{SecureRandom, SystemRandom};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// A secret of 16 random bytes. It is compared in constant time, never shown, and overwritten when it is dropped.
#[derive(Clone)]
pub struct Secret(Zeroizing<[u8; Self::LEN]>);

/// The system gave no random bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the system gave no random bytes; is /dev/urandom there?")]
pub struct NoRandomness;

impl Secret {
    /// Its length in bytes.
    pub const LEN: usize = 16;

    /// A new one, by the system's generator.
    ///
    /// # Errors
    /// The system has none.
    pub fn random() -> Result<Self, NoRandomness> {
        let mut bytes = Zeroizing::new([0; Self::LEN]);
        SystemRandom::new().fill(&mut *bytes).map_err(|_| NoRandomness)?;
        Ok(Self(bytes))
    }

    /// The secret of these bytes. The caller overwrites its own copy.
    pub fn from_bytes(bytes: [u8; Self::LEN]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// Its bytes, to be sent to the peer alone.
    pub fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }

    /// Its SHA-256, which is what the other side stores. So many random bytes cannot be guessed from that.
    pub fn digest(&self) -> [u8; 32] {
        let mut digest = [0; 32];
        digest.copy_from_slice(digest::digest(&digest::SHA256, &*self.0).as_ref());
        digest
    }

    /// Whether `stored` is its [`digest`](Self::digest), in constant time.
    pub fn has_digest(&self, stored: &[u8; 32]) -> bool {
        self.digest().ct_eq(stored).into()
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&*other.0).into()
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_known_by_its_digest_and_never_shown() {
        let secret = Secret::from_bytes(*b"sixteen bytes ok");
        assert_eq!(secret, Secret::from_bytes(*b"sixteen bytes ok"));
        assert_ne!(secret, Secret::from_bytes(*b"sixteen bytes no"));
        let digest = secret.digest();
        // printf 'sixteen bytes ok' | sha256sum
        assert_eq!(digest[..4], [0xf0, 0x4a, 0xbb, 0x2f]);
        assert!(secret.has_digest(&digest));
        for index in 0..digest.len() {
            let mut other = digest;
            other[index] ^= 1;
            assert!(!secret.has_digest(&other));
        }
        assert_eq!(format!("{secret:?}"), "Secret(…)");
    }

    #[test]
    fn no_two_secrets_are_alike() {
        let (one, other) = (Secret::random().expect("random bytes"), Secret::random().expect("random bytes"));
        assert!(one != other && *one.as_bytes() != [0; Secret::LEN]);
    }
}
