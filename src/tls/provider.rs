//! The cryptography that a link needs, and none beside it, so that a module that holds it stays small.

use std::sync::Arc;

use ring::rand::SystemRandom;
use rustls::crypto::ring::{cipher_suite, kx_group};
use rustls::crypto::{CryptoProvider, GetRandomFailed, KeyProvider, SecureRandom, WebPkiSupportedAlgorithms};
use rustls::pki_types::{PrivateKeyDer, UnixTime};
use rustls::sign::SigningKey;
use rustls::time_provider::TimeProvider;
use rustls::{Error, SupportedCipherSuite};

/// AES-128-GCM and ChaCha20-Poly1305 over X25519. It is never installed for the process, which may be a host with other
/// users of rustls.
pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        cipher_suites: cipher_suites(has_aes()).to_vec(),
        kx_groups: vec![kx_group::X25519],
        // Of certificates, which there are none of; our verifiers check the signatures themselves.
        signature_verification_algorithms: WebPkiSupportedAlgorithms { all: &[], mapping: &[] },
        secure_random: &Random,
        key_provider: &NoFiles,
    })
}

/// The opener's order decides: a device without instructions for AES is slow with it, and a relay is fast with either.
fn cipher_suites(has_aes: bool) -> [SupportedCipherSuite; 2] {
    let (aes, chacha) = (cipher_suite::TLS13_AES_128_GCM_SHA256, cipher_suite::TLS13_CHACHA20_POLY1305_SHA256);
    if has_aes { [aes, chacha] } else { [chacha, aes] }
}

/// Whether the processor has instructions for AES.
fn has_aes() -> bool {
    #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
    let has_aes = std::arch::is_x86_feature_detected!("aes");
    #[cfg(target_arch = "aarch64")]
    let has_aes = std::arch::is_aarch64_feature_detected!("aes");
    #[cfg(not(any(target_arch = "x86", target_arch = "x86_64", target_arch = "aarch64")))]
    let has_aes = false;
    has_aes
}

#[derive(Debug)]
struct Random;

impl SecureRandom for Random {
    fn fill(&self, bytes: &mut [u8]) -> Result<(), GetRandomFailed> {
        ring::rand::SecureRandom::fill(&SystemRandom::new(), bytes).map_err(|_| GetRandomFailed)
    }
}

/// Keys come as a [`super::Key`], and never as a file of rustls'.
#[derive(Debug)]
struct NoFiles;

impl KeyProvider for NoFiles {
    fn load_private_key(&self, _: PrivateKeyDer<'static>) -> Result<Arc<dyn SigningKey>, Error> {
        Err(Error::General("keys are not loaded here".into()))
    }
}

/// Nothing on a link expires, and a device's clock may say anything: none is read.
#[derive(Debug)]
pub(super) struct NoClock;

impl TimeProvider for NoClock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(std::time::Duration::ZERO))
    }
}

#[cfg(test)]
mod tests {
    use rustls::CipherSuite;

    use super::*;

    #[test]
    fn a_processor_without_aes_asks_for_chacha() {
        assert_eq!(cipher_suites(true)[0].suite(), CipherSuite::TLS13_AES_128_GCM_SHA256);
        assert_eq!(cipher_suites(false)[0].suite(), CipherSuite::TLS13_CHACHA20_POLY1305_SHA256);
    }

    #[test]
    fn nothing_is_installed_for_the_process() {
        provider();
        assert!(CryptoProvider::get_default().is_none());
    }
}
