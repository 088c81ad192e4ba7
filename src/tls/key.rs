//! Ed25519 keys: the one that an end has, and the ones that others prove.

use std::fmt;
use std::str::FromStr;

use base64ct::{Base64, Encoding as _};
use ring::rand::SystemRandom;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use zeroize::Zeroizing;

use crate::identity::Pin;

/// PKCS#8 version 1 of an Ed25519 key is this and the 32 bytes of the seed (RFC 8410). Version 2 has other bytes for
/// length and version, and more behind the seed.
const PKCS8_V1: [u8; 16] = *b"\x30\x2e\x02\x01\x00\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20";
const SEED: usize = 32;

/// SubjectPublicKeyInfo of an Ed25519 key is this and the 32 bytes of the key.
const SPKI: [u8; 12] = *b"\x30\x2a\x30\x05\x06\x03\x2b\x65\x70\x03\x21\x00";

/// A private key. Its bytes are overwritten when it is dropped, and no text shows them.
pub struct Key {
    /// Version 1. On the heap, so that moving the key leaves no copy behind.
    pkcs8: Zeroizing<Vec<u8>>,
    public: PublicKey,
}

/// Why bytes are no private key, or none could be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The bytes are not PKCS#8 of an Ed25519 key, or its public part is of another key.
    #[error("this is no Ed25519 key in PKCS#8; make one with openssl genpkey -algorithm ed25519 -outform DER")]
    Malformed,
    /// The system gave no random bytes.
    #[error("the system gave no random bytes")]
    NoRandom,
}

impl Key {
    /// A new key.
    ///
    /// # Errors
    /// If the system gives no random bytes.
    pub fn generate() -> Result<Self, KeyError> {
        let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(|_| KeyError::NoRandom)?;
        let bytes = Zeroizing::new(document.as_ref().to_vec());
        Self::from_pkcs8(&bytes)
    }

    /// The key in this DER: version 1, as OpenSSL writes it, or version 2.
    ///
    /// # Errors
    /// If it is no Ed25519 key, or is damaged.
    pub fn from_pkcs8(der: &[u8]) -> Result<Self, KeyError> {
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der).map_err(|_| KeyError::Malformed)?;
        let seed = der.get(PKCS8_V1.len()..PKCS8_V1.len() + SEED).ok_or(KeyError::Malformed)?;
        let mut pkcs8 = Zeroizing::new(Vec::with_capacity(PKCS8_V1.len() + SEED));
        pkcs8.extend_from_slice(&PKCS8_V1);
        pkcs8.extend_from_slice(seed);
        // It must be the key that was read: DER can be written in longer ways, with the seed elsewhere.
        let read = Ed25519KeyPair::from_seed_unchecked(seed).map_err(|_| KeyError::Malformed)?;
        if read.public_key().as_ref() != pair.public_key().as_ref() {
            return Err(KeyError::Malformed);
        }
        let public = PublicKey::from_bytes(pair.public_key().as_ref()).map_err(|_| KeyError::Malformed)?;
        Ok(Self { pkcs8, public })
    }

    /// PKCS#8, version 1, in DER, which OpenSSL reads.
    pub fn to_pkcs8(&self) -> Zeroizing<Vec<u8>> {
        self.pkcs8.clone()
    }

    /// Its public part.
    pub fn public(&self) -> &PublicKey {
        &self.public
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("public", &self.public).finish_non_exhaustive()
    }
}

/// A public key that is safe to trust a signature of.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PublicKey([u8; 32]);

/// Why bytes are no public key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublicKeyError {
    /// They are not the 44 bytes of SubjectPublicKeyInfo of an Ed25519 key.
    #[error("it is no Ed25519 public key")]
    NotEd25519,
    /// A point of small order: whoever shows it can sign for it without a private key.
    #[error("it is a key that anybody can sign for")]
    SmallOrder,
    /// The y coordinate is not below 2^255 - 19, so that one point would have two pins.
    #[error("it is written in another way than its own")]
    NotCanonical,
}

/// The y coordinates of all eight points of small order, little-endian, and what else decodes to them: 0, 1, the two of
/// order 8, p - 1, p and p + 1. Each has two encodings, since the sign of x is one bit more.
const SMALL_ORDER: [[u8; 32]; 7] = [
    *b"\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
    *b"\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
    *b"\x26\xe8\x95\x8f\xc2\xb2\x27\xb0\x45\xc3\xf4\x89\xf2\xef\x98\xf0\xd5\xdf\xac\x05\xd3\xc6\x33\x39\xb1\x38\x02\x88\x6d\x53\xfc\x05",
    *b"\xc7\x17\x6a\x70\x3d\x4d\xd8\x4f\xba\x3c\x0b\x76\x0d\x10\x67\x0f\x2a\x20\x53\xfa\x2c\x39\xcc\xc6\x4e\xc7\xfd\x77\x92\xac\x03\x7a",
    *b"\xec\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f",
    *b"\xed\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f",
    *b"\xee\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f",
];

impl PublicKey {
    /// The key in SubjectPublicKeyInfo, which is exactly 44 bytes of DER.
    ///
    /// # Errors
    /// If it is another kind of key, or one that proves nothing.
    pub fn from_spki(der: &[u8]) -> Result<Self, PublicKeyError> {
        Self::from_bytes(der.strip_prefix(&SPKI).ok_or(PublicKeyError::NotEd25519)?)
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, PublicKeyError> {
        let bytes = <[u8; 32]>::try_from(bytes).map_err(|_| PublicKeyError::NotEd25519)?;
        let mut y = bytes;
        y[31] &= 0x7f;
        if SMALL_ORDER.contains(&y) {
            return Err(PublicKeyError::SmallOrder);
        }
        if y[0] >= 0xed && y[1..31] == [0xff; 30] && y[31] == 0x7f {
            return Err(PublicKeyError::NotCanonical);
        }
        Ok(Self(bytes))
    }

    /// SubjectPublicKeyInfo in DER.
    pub fn to_spki(&self) -> [u8; 44] {
        let mut der = [0; 44];
        der[..SPKI.len()].copy_from_slice(&SPKI);
        der[SPKI.len()..].copy_from_slice(&self.0);
        der
    }

    /// What it is known by.
    pub fn pin(&self) -> Pin {
        let hash = ring::digest::digest(&ring::digest::SHA256, &self.to_spki());
        let mut pin = [0; 32];
        pin.copy_from_slice(hash.as_ref());
        Pin(pin)
    }

    /// Whether the owner of its private part signed the message.
    pub(super) fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, self.0).verify(message, signature).is_ok()
    }
}

/// A text that is no public key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{text}' is no public key of a device: {problem}; give the 60 characters of Base64 between the lines of its PEM \
     file, MCowBQYDK2VwAyEA and what follows"
)]
pub struct PublicKeyTextError {
    /// The text, escaped and cut to what a line can hold.
    pub text: String,
    /// What is wrong.
    pub problem: PublicKeyError,
}

/// SubjectPublicKeyInfo in Base64, as it is the one line of a PEM file.
impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Base64::encode_string(&self.to_spki()).fmt(f)
    }
}

impl FromStr for PublicKey {
    type Err = PublicKeyTextError;

    fn from_str(text: &str) -> Result<Self, PublicKeyTextError> {
        let der = Base64::decode_vec(text).map_err(|_| PublicKeyError::NotEd25519);
        der.and_then(|der| Self::from_spki(&der)).map_err(|problem| PublicKeyTextError {
            text: text.chars().take(80).flat_map(char::escape_debug).collect(),
            problem,
        })
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", self.pin())
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_key_reads_as_the_line_of_its_pem_file_and_is_known_by_the_sha_256_of_its_44_bytes() {
        // openssl pkey -pubout
        let text = "MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=";
        let key: PublicKey = text.parse().expect("a key");
        assert_eq!(key.to_spki()[12..16], [0x19, 0xbf, 0x44, 0x09]);
        assert_eq!(key.pin().0.as_slice(), ring::digest::digest(&ring::digest::SHA256, &key.to_spki()).as_ref());
        assert_eq!(key.to_string(), text);
    }

    #[test]
    fn a_text_that_is_no_key_is_shown_harmlessly() {
        let error = "ssh-ed25519 \u{1b}[2J".parse::<PublicKey>().expect_err("no key").to_string();
        assert!(
            error.starts_with("'ssh-ed25519 \\u{1b}[2J' is no public key of a device: it is no Ed25519"),
            "{error}"
        );
        let identity = PublicKey([0; 32]).to_string();
        let error = identity.parse::<PublicKey>().expect_err("of small order").to_string();
        assert!(error.contains("it is a key that anybody can sign for; give the 60 characters"), "{error}");
    }

    fn spki(bytes: [u8; 32]) -> Vec<u8> {
        [&SPKI[..], &bytes].concat()
    }

    #[test]
    fn a_key_reads_back_from_either_version_of_pkcs8() {
        let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).expect("a key");
        let version_2 = Key::from_pkcs8(document.as_ref()).expect("version 2");
        let version_1 = Key::from_pkcs8(&version_2.to_pkcs8()).expect("version 1");
        assert_eq!(version_1.public(), version_2.public());
        assert_eq!(version_2.to_pkcs8().len(), 48);
        assert_eq!(PublicKey::from_spki(&version_1.public().to_spki()).as_ref(), Ok(version_1.public()));
    }

    #[test]
    fn a_damaged_key_is_refused_at_every_byte_that_says_what_it_is() {
        let whole = Key::generate().expect("a key").to_pkcs8();
        for length in 0..whole.len() {
            assert!(Key::from_pkcs8(&whole[..length]).is_err(), "cut at {length}");
        }
        for place in 0..PKCS8_V1.len() {
            let mut bytes = whole.to_vec();
            bytes[place] ^= 0x40;
            assert!(Key::from_pkcs8(&bytes).is_err(), "damaged at {place}");
        }
        let version_2 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).expect("a key");
        for place in 0..version_2.as_ref().len() {
            // There the public part is known, so that a damaged seed is seen too.
            let mut bytes = version_2.as_ref().to_vec();
            bytes[place] ^= 0x40;
            assert!(Key::from_pkcs8(&bytes).is_err(), "version 2 damaged at {place}");
        }
    }

    #[test]
    fn no_text_shows_a_private_key() {
        let key = Key::generate().expect("a key");
        assert_eq!(format!("{key:?}"), format!("Key {{ public: PublicKey({}), .. }}", key.public().pin()));
    }

    #[test]
    fn openssl_reads_our_keys_and_we_read_its() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = |name: &str| directory.path().join(name).into_os_string().into_string().expect("UTF-8");
        let openssl = |arguments: &[&str]| Command::new("openssl").args(arguments).output();
        let theirs = path("theirs.der");
        match openssl(&["genpkey", "-algorithm", "ed25519", "-outform", "DER", "-out", &theirs]) {
            Ok(output) if output.status.success() => {}
            // Without an openssl that knows these keys there is nothing to compare with.
            _ => return,
        }
        let public = |file: &str| {
            let output =
                openssl(&["pkey", "-inform", "DER", "-in", file, "-pubout", "-outform", "DER"]).expect("openssl");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            output.stdout
        };
        let key = Key::from_pkcs8(&std::fs::read(&theirs).expect("a file")).expect("a key of openssl");
        assert_eq!(key.to_pkcs8().as_slice(), std::fs::read(&theirs).expect("a file"));
        assert_eq!(public(&theirs), key.public().to_spki());

        let (ours, key) = (path("ours.der"), Key::generate().expect("a key"));
        std::fs::write(&ours, key.to_pkcs8().as_slice()).expect("a file");
        assert_eq!(public(&ours), key.public().to_spki());
    }

    #[test]
    fn only_the_44_bytes_of_an_ed25519_key_are_a_public_key() {
        let good = Key::generate().expect("a key").public().to_spki();
        assert!(PublicKey::from_spki(&good).is_ok());
        for length in 0..good.len() {
            assert_eq!(PublicKey::from_spki(&good[..length]), Err(PublicKeyError::NotEd25519));
        }
        assert_eq!(PublicKey::from_spki(&[&good[..], &[0]].concat()), Err(PublicKeyError::NotEd25519));
        for place in 0..SPKI.len() {
            let mut bytes = good;
            bytes[place] ^= 1;
            assert_eq!(PublicKey::from_spki(&bytes), Err(PublicKeyError::NotEd25519), "byte {place}");
        }
    }

    /// ring takes a signature that nobody made: R is the identity point, and S is 0. It holds where the message's hash is
    /// a multiple of the key's order, for one message in eight at least.
    fn can_be_forged(key: [u8; 32]) -> bool {
        let mut signature = [0; 64];
        signature[0] = 1;
        (0..200u8).any(|message| UnparsedPublicKey::new(&ED25519, key).verify(&[message], &signature).is_ok())
    }

    #[test]
    fn each_encoding_of_a_point_of_small_order_is_refused() {
        let mut forged = 0;
        for y in SMALL_ORDER {
            for sign in [0, 0x80] {
                let mut key = y;
                key[31] |= sign;
                assert_eq!(PublicKey::from_spki(&spki(key)), Err(PublicKeyError::SmallOrder), "{key:x?}");
                forged += usize::from(can_be_forged(key));
            }
        }
        // The list is no fancy: without it these would let anybody in.
        assert!(forged >= 8, "ring takes {forged}");
        assert!(!can_be_forged(Key::generate().expect("a key").public().0));
    }

    #[test]
    fn a_key_has_one_encoding_and_so_one_pin() {
        for low in 0xef..=0xff {
            for high in [0x7f, 0xff] {
                let mut key = [0xff; 32];
                (key[0], key[31]) = (low, high);
                assert_eq!(PublicKey::from_spki(&spki(key)), Err(PublicKeyError::NotCanonical), "{key:x?}");
            }
        }
        // The largest that is canonical and of no small order, p - 2.
        let mut key = [0xff; 32];
        (key[0], key[31]) = (0xeb, 0x7f);
        assert!(PublicKey::from_spki(&spki(key)).is_ok());
    }
}
