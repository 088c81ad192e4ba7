//! What an end brings to all its connections: its key, and whom it expects.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use rustls::client::{AlwaysResolvesClientRawPublicKeys, Resumption, UnbufferedClientConnection};
use rustls::crypto::ring::sign::any_eddsa_type;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName};
use rustls::server::{AlwaysResolvesServerRawPublicKeys, NoServerSessionStorage, UnbufferedServerConnection};
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;
use rustls::{ClientConfig, ServerConfig};

use super::ALPN;
use super::engine::{Connection, Tls};
use super::error::TlsError;
use super::key::Key;
use super::provider::{NoClock, provider};
use super::scratch::Scratch;
use super::verifier::{AnyKey, Pinned};
use crate::identity::Pins;

/// The end that opens connections: a device.
#[derive(Clone, Debug)]
pub struct Opener(Arc<ClientConfig>);

impl Opener {
    /// It proves `key`, and expects one of the keys of `pins`.
    ///
    /// # Errors
    /// If rustls refuses the configuration, which would be a defect.
    pub fn new(key: &Key, pins: Pins) -> Result<Self, TlsError> {
        let mut config = ClientConfig::builder_with_details(provider(), Arc::new(NoClock))
            .with_protocol_versions(&[&TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Pinned(pins)))
            .with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(raw_key(key)?)));
        config.alpn_protocols = vec![ALPN.to_vec()];
        // A ticket would be a second credential.
        config.resumption = Resumption::disabled();
        Ok(Self(Arc::new(config)))
    }

    /// For an end that breaks the rules.
    #[cfg(all(test, feature = "relay"))]
    pub(crate) fn config(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.0)
    }

    /// Begins a handshake with `host`, the name or address that was dialled; its first bytes stand in the scratch. No
    /// name is sent if this is an address, or a name that DNS does not allow.
    ///
    /// # Errors
    /// If the system gives no random bytes.
    pub fn start(&self, host: &str, scratch: &mut Scratch) -> Result<Tls, TlsError> {
        let name = ServerName::try_from(host.to_owned()).unwrap_or_else(|_| IpAddr::V4(Ipv4Addr::UNSPECIFIED).into());
        let connection = UnbufferedClientConnection::new(Arc::clone(&self.0), name)?;
        let mut tls = Tls::new(Connection::Opener(connection));
        tls.open(&mut [], &mut Vec::new(), scratch)?;
        Ok(tls)
    }
}

/// The end that takes connections: a relay.
#[derive(Clone, Debug)]
pub struct Acceptor(Arc<ServerConfig>);

impl Acceptor {
    /// It proves `key`.
    ///
    /// # Errors
    /// If rustls refuses the configuration, which would be a defect.
    pub fn new(key: &Key) -> Result<Self, TlsError> {
        let mut config = ServerConfig::builder_with_details(provider(), Arc::new(NoClock))
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(Arc::new(AnyKey))
            .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(raw_key(key)?)));
        config.alpn_protocols = vec![ALPN.to_vec()];
        // Where nothing is stored no ticket is sent: a ticket would be a second credential.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(Self(Arc::new(config)))
    }

    /// Waits for a handshake.
    ///
    /// # Errors
    /// If the system gives no random bytes.
    pub fn start(&self) -> Result<Tls, TlsError> {
        Ok(Tls::new(Connection::Acceptor(UnbufferedServerConnection::new(Arc::clone(&self.0))?)))
    }
}

/// The key as rustls takes it: in the place of a certificate stands SubjectPublicKeyInfo.
fn raw_key(key: &Key) -> Result<Arc<CertifiedKey>, TlsError> {
    let pkcs8 = key.to_pkcs8();
    let signing = any_eddsa_type(&PrivatePkcs8KeyDer::from(pkcs8.as_slice()))?;
    Ok(Arc::new(CertifiedKey::new(vec![CertificateDer::from(key.public().to_spki().to_vec())], signing)))
}
