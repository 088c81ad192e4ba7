//! Devices made of rustls' parts, which break the rules of a link in TLS.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;

use ring::aead::{AES_128_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use rustls::client::AlwaysResolvesClientRawPublicKeys;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring::{default_provider, sign::any_eddsa_type};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{
    ClientConfig, ClientConnection, ConnectionTrafficSecrets, DigitallySignedStruct, Error, SignatureScheme, Stream,
};
use socket2::{Domain, Socket, Type};
use tcpremote::tls::{ALPN, Key};

use crate::common::{DEADLINE, wire_v2};

/// Kinds of records.
pub(super) const CHANGE_CIPHER_SPEC: u8 = 20;
pub(super) const ALERT: u8 = 21;
pub(super) const HANDSHAKE: u8 = 22;
pub(super) const DATA: u8 = 23;

/// A connection from this address of this machine.
pub(super) fn connect_from(host: Ipv4Addr, port: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((host, 0)).into()).unwrap();
    socket.connect(&port.into()).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    socket.set_write_timeout(Some(DEADLINE)).unwrap();
    socket.into()
}

/// The key as rustls takes it.
pub(super) fn raw_key(key: &Key) -> Arc<CertifiedKey> {
    let pkcs8 = key.to_pkcs8();
    let signing = any_eddsa_type(&PrivatePkcs8KeyDer::from(pkcs8.as_slice())).unwrap();
    Arc::new(CertifiedKey::new(vec![CertificateDer::from(key.public().to_spki().to_vec())], signing))
}

/// A client that shows this key and takes any relay.
pub(super) fn client(key: &Key) -> ClientConnection {
    let mut config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Credulous))
        .with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(raw_key(key))));
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.enable_secret_extraction = true;
    ClientConnection::new(Arc::new(config), ServerName::try_from("relay.example.com").unwrap()).unwrap()
}

/// The first message of a client.
pub(super) fn hello(key: &Key) -> Vec<u8> {
    let mut bytes = Vec::new();
    client(key).write_tls(&mut bytes).unwrap();
    bytes
}

/// A connection whose handshake is done.
#[derive(Debug)]
pub(super) struct TlsPeer {
    pub(super) tls: ClientConnection,
    pub(super) tcp: TcpStream,
}

impl TlsPeer {
    pub(super) fn connect(host: Ipv4Addr, port: SocketAddr, key: &Key) -> Self {
        let mut peer = Self { tls: client(key), tcp: connect_from(host, port) };
        while peer.tls.is_handshaking() {
            peer.tls.complete_io(&mut peer.tcp).unwrap();
        }
        peer
    }

    /// The same, and the relay has admitted it.
    pub(super) fn admitted(host: Ipv4Addr, port: SocketAddr, key: &Key) -> Self {
        let mut peer = Self::connect(host, port, key);
        peer.send(&wire_v2::settings());
        assert_eq!(peer.read_frame().0, wire_v2::SETTINGS);
        peer
    }

    pub(super) fn send(&mut self, bytes: &[u8]) {
        Stream::new(&mut self.tls, &mut self.tcp).write_all(bytes).unwrap();
    }

    /// Sends this and ends the link, all at once.
    pub(super) fn leave_with(&mut self, bytes: &[u8]) {
        self.tls.writer().write_all(bytes).unwrap();
        self.tls.send_close_notify();
        let mut all = Vec::new();
        self.tls.write_tls(&mut all).unwrap();
        self.tcp.write_all(&all).unwrap();
    }

    /// A frame's kind, stream and payload.
    pub(super) fn read_frame(&mut self) -> (u8, u32, Vec<u8>) {
        let mut stream = Stream::new(&mut self.tls, &mut self.tcp);
        let mut header = [0; 8];
        stream.read_exact(&mut header).unwrap();
        let [high, low, kind, _, a, b, c, d] = header;
        let mut payload = vec![0; u16::from_be_bytes([high, low]).into()];
        stream.read_exact(&mut payload).unwrap();
        (kind, u32::from_be_bytes([a, b, c, d]), payload)
    }

    /// The next frame of this kind.
    pub(super) fn expect(&mut self, kind: u8) -> (u32, Vec<u8>) {
        loop {
            let (is, stream, payload) = self.read_frame();
            if is == kind {
                return (stream, payload);
            }
        }
    }

    /// From here on it seals what it likes.
    pub(super) fn forge(self) -> Forger {
        let (sequence, secrets) = self.tls.dangerous_extract_secrets().unwrap().tx;
        let (algorithm, key, iv) = match secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&AES_128_GCM, key, iv),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (&CHACHA20_POLY1305, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { .. } | _ => unreachable!("the relay does not know it"),
        };
        let key = LessSafeKey::new(UnboundKey::new(algorithm, key.as_ref()).unwrap());
        Forger { key, iv: iv.as_ref().try_into().unwrap(), sequence, tcp: self.tcp }
    }
}

/// Seals records that rustls would not send.
#[derive(Debug)]
pub(super) struct Forger {
    key: LessSafeKey,
    iv: [u8; 12],
    sequence: u64,
    pub(super) tcp: TcpStream,
}

impl Forger {
    pub(super) fn record(&mut self, kind: u8, content: &[u8]) -> Vec<u8> {
        let mut inner = [content, &[kind]].concat();
        let [high, low] = u16::try_from(inner.len() + 16).unwrap().to_be_bytes();
        let header = [DATA, 3, 3, high, low];
        let mut nonce = self.iv;
        for (byte, part) in nonce[4..].iter_mut().zip(self.sequence.to_be_bytes()) {
            *byte ^= part;
        }
        self.sequence += 1;
        let nonce = Nonce::assume_unique_for_key(nonce);
        self.key.seal_in_place_append_tag(nonce, Aad::from(header), &mut inner).unwrap();
        [&header[..], &inner].concat()
    }
}

/// It believes everything.
#[derive(Debug)]
struct Credulous;

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
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}
