//! A key, by its fingerprint.

/// The SHA-256 of an Ed25519 key's SubjectPublicKeyInfo (44 bytes, DER).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pin(pub [u8; 32]);
