//! Peers made of rustls' parts, which show and sign what a test wants.

use std::io::{Read, Write};
use std::sync::Arc;

use rustls::client::AlwaysResolvesClientRawPublicKeys;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{AlwaysResolvesServerRawPublicKeys, ClientHello, ResolvesServerCert};
use rustls::sign::{CertifiedKey, Signer, SigningKey};
use rustls::{
    ClientConfig, ClientConnection, Connection, DigitallySignedStruct, DistinguishedName, Error, ServerConfig,
    ServerConnection, SignatureAlgorithm, SignatureScheme,
};

use super::*;

/// What a peer shows, and how it signs.
#[derive(Clone, Debug)]
pub(crate) struct Shown {
    pub(crate) keys: Vec<Vec<u8>>,
    pub(crate) sign: Sign,
}

#[derive(Clone, Debug)]
pub(crate) enum Sign {
    /// With this key, whatever is shown.
    With(Arc<dyn SigningKey>),
    /// With these bytes, whatever is signed.
    Bytes(Vec<u8>),
}

impl Shown {
    /// A key that is its own.
    pub(crate) fn honest(key: &Key) -> Self {
        Self { keys: vec![key.public().to_spki().to_vec()], sign: Sign::with(key) }
    }

    fn certified(&self) -> Arc<CertifiedKey> {
        let shown = self.keys.iter().map(|der| CertificateDer::from(der.clone())).collect();
        Arc::new(CertifiedKey::new(shown, Arc::new(self.clone())))
    }
}

impl Sign {
    pub(crate) fn with(key: &Key) -> Self {
        let pkcs8 = key.to_pkcs8();
        let pkcs8 = rustls::pki_types::PrivatePkcs8KeyDer::from(pkcs8.as_slice());
        Self::With(rustls::crypto::ring::sign::any_eddsa_type(&pkcs8).expect("a key"))
    }
}

impl SigningKey for Shown {
    fn choose_scheme(&self, _: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        Some(Box::new(self.clone()))
    }

    fn public_key(&self) -> Option<rustls::pki_types::SubjectPublicKeyInfoDer<'_>> {
        None
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::ED25519
    }
}

impl Signer for Shown {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        match &self.sign {
            Sign::With(key) => key.choose_scheme(&[SignatureScheme::ED25519]).expect("an Ed25519 key").sign(message),
            Sign::Bytes(bytes) => Ok(bytes.clone()),
        }
    }

    fn scheme(&self) -> SignatureScheme {
        SignatureScheme::ED25519
    }
}

/// It believes everything.
#[derive(Debug)]
struct Credulous {
    raw: bool,
}

macro_rules! believe {
    () => {
        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn verify_tls13_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            vec![SignatureScheme::ED25519, SignatureScheme::ECDSA_NISTP256_SHA256]
        }

        fn requires_raw_public_keys(&self) -> bool {
            self.raw
        }
    };
}

impl ServerCertVerifier for Credulous {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    believe!();
}

impl ClientCertVerifier for Credulous {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    believe!();
}

/// It shows a certificate, as any web server does.
#[derive(Debug)]
struct Certificate(Arc<CertifiedKey>);

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

impl rustls::client::ResolvesClientCert for Certificate {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

fn everything() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// What a peer is like.
#[derive(Clone)]
pub(crate) struct Habit {
    pub(crate) shown: Option<Shown>,
    /// It knows raw public keys.
    pub(crate) raw: bool,
    pub(crate) alpn: Vec<Vec<u8>>,
}

impl Habit {
    pub(crate) fn of(shown: Shown) -> Self {
        Self { shown: Some(shown), raw: true, alpn: vec![ALPN.to_vec()] }
    }

    /// It opens the connection.
    pub(crate) fn client(&self) -> Peer {
        let builder = ClientConfig::builder_with_provider(everything())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Credulous { raw: self.raw }));
        let mut config = match &self.shown {
            None => builder.with_no_client_auth(),
            Some(shown) if self.raw => {
                builder.with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(shown.certified())))
            }
            Some(shown) => builder.with_client_cert_resolver(Arc::new(Certificate(shown.certified()))),
        };
        config.alpn_protocols.clone_from(&self.alpn);
        config.enable_secret_extraction = true;
        let name = ServerName::try_from("relay.example.com").expect("a name");
        Peer(ClientConnection::new(Arc::new(config), name).expect("a connection").into())
    }

    /// It takes the connection.
    pub(crate) fn server(&self) -> Peer {
        let certified = self.shown.as_ref().expect("a server shows something").certified();
        let resolver: Arc<dyn ResolvesServerCert> = if self.raw {
            Arc::new(AlwaysResolvesServerRawPublicKeys::new(certified))
        } else {
            Arc::new(Certificate(certified))
        };
        let builder = ServerConfig::builder_with_provider(everything())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3");
        let builder = if self.raw {
            builder.with_client_cert_verifier(Arc::new(Credulous { raw: true }))
        } else {
            builder.with_no_client_auth()
        };
        let mut config = builder.with_cert_resolver(resolver);
        config.alpn_protocols.clone_from(&self.alpn);
        config.enable_secret_extraction = true;
        config.send_tls13_tickets = 0;
        Peer(ServerConnection::new(Arc::new(config)).expect("a connection").into())
    }
}

/// One end that is no [`Tls`].
pub(crate) struct Peer(pub(crate) Connection);

impl Peer {
    pub(crate) fn send(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        while self.0.wants_write() {
            self.0.write_tls(&mut bytes).expect("a vector takes all");
        }
        bytes
    }

    pub(crate) fn receive(&mut self, mut bytes: &[u8]) -> Result<Vec<u8>, Error> {
        let mut plaintext = Vec::new();
        while !bytes.is_empty() {
            self.0.read_tls(&mut bytes).expect("a slice gives all");
            self.0.process_new_packets()?;
            // That nothing is there yet is no error here.
            let _ = self.0.reader().read_to_end(&mut plaintext);
        }
        Ok(plaintext)
    }

    pub(crate) fn write(&mut self, plaintext: &[u8]) -> Vec<u8> {
        self.0.writer().write_all(plaintext).expect("a vector takes all");
        self.send()
    }

    /// Asks for a change of the keys.
    pub(crate) fn key_update(&mut self) -> Vec<u8> {
        self.0.refresh_traffic_keys().expect("an established connection");
        self.send()
    }

    /// Carries bytes until both ends are silent.
    pub(super) fn meet(&mut self, end: &mut End) -> (Result<(), TlsError>, Result<(), Error>) {
        let (mut ours, mut theirs) = (Ok(()), Ok(()));
        loop {
            let (there, back) = (end.send(), self.send());
            if there.is_empty() && back.is_empty() {
                return (ours, theirs);
            }
            theirs = theirs.and_then(|()| self.receive(&there).map(|_| ()));
            ours = ours.and_then(|()| end.receive(&back));
        }
    }
}
