//! Why there is no TLS connection, or none any more.

use rustls::{AlertDescription, CertificateError, Error, PeerIncompatible};

use super::greeting::Greeting;
use super::key::PublicKeyError;
use crate::identity::{Pin, Pins};

/// What ended a connection. The text can stand behind "the link was lost: ".
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum TlsError {
    /// The peer proves another key than the pinned ones.
    #[error(
        "the relay has the key {shown}, and {current} or {next} was expected: it is another relay, or its key was \
         changed twice since this device was there; join again",
        current = expected.current,
        next = expected.next
    )]
    WrongPin {
        /// The key that was shown.
        shown: Pin,
        /// The keys that may be shown.
        expected: Pins,
    },
    /// What the peer shows is no key that could be trusted.
    #[error("what the other end shows is refused: {0}")]
    Key(PublicKeyError),
    /// Behind the key stands another one.
    #[error("the other end shows several keys, and one was expected")]
    SeveralKeys,
    /// The peer has not the private part of the key that it shows.
    #[error("the other end cannot sign for the key that it shows")]
    BadSignature,
    /// The peer uses certificates.
    #[error(
        "the other end uses certificates and no raw public key: something between opens TLS, and must let the relay's \
         port through untouched; or this is another kind of program"
    )]
    NoRawKey,
    /// The peer offered, or answered, no protocol or another one.
    #[error("the other end speaks TLS, but not {protocol} in it", protocol = String::from_utf8_lossy(super::ALPN))]
    NoAlpn,
    /// The peer does not speak TLS.
    #[error("the other end speaks no TLS; it sent {description}", description = .0.description())]
    NotTls(Greeting),
    /// The peer's handshake, or a message of it after the handshake, is longer than it can be.
    #[error("the other end's handshake is too long")]
    HandshakeTooLong,
    /// A record is longer than TLS allows.
    #[error("the other end sent a record longer than TLS allows")]
    RecordTooLong,
    /// The connection ended during the handshake.
    #[error("the other end closed it in the handshake; is it a port for TLS?")]
    EndInHandshake,
    /// The connection ended, and the peer did not say so in TLS: something between may have cut it.
    #[error("it was cut: it ended, and the other end did not say so")]
    Cut,
    /// The peer ended it with an alert.
    #[error("the other end ended it with {alert}", alert = alert_text(*.0))]
    Alert(AlertDescription),
    /// The keys have sealed all that they may.
    #[error("its keys are used up")]
    Exhausted,
    /// TLS failed in another way.
    #[error("TLS: {0}")]
    Tls(Error),
}

fn alert_text(alert: AlertDescription) -> String {
    let name = match alert.as_str() {
        Some(name) => format!("the alert {name}"),
        None => format!("the alert {}", u8::from(alert)),
    };
    const NOT_OURS: [AlertDescription; 3] = [
        AlertDescription::HandshakeFailure,
        AlertDescription::ProtocolVersion,
        AlertDescription::UnsupportedCertificate,
    ];
    if alert == AlertDescription::CertificateUnknown {
        format!("{name}: it does not accept the key that it was shown")
    } else if NOT_OURS.contains(&alert) {
        format!("{name}: it is another kind of program, or something between opens TLS")
    } else {
        name
    }
}

impl From<Error> for TlsError {
    fn from(error: Error) -> Self {
        const NO_RAW_KEY: [Error; 3] = [
            Error::PeerIncompatible(PeerIncompatible::IncorrectCertificateTypeExtension),
            Error::PeerIncompatible(PeerIncompatible::UnsolicitedCertificateTypeExtension),
            Error::NoCertificatesPresented,
        ];
        if let Error::InvalidCertificate(CertificateError::Other(other)) = &error
            && let Some(ours) = other.0.downcast_ref::<Self>()
        {
            ours.clone()
        } else if error == Error::InvalidCertificate(CertificateError::BadSignature) {
            Self::BadSignature
        } else if NO_RAW_KEY.contains(&error) {
            Self::NoRawKey
        } else if let Error::AlertReceived(alert) = error
            && alert != AlertDescription::NoApplicationProtocol
        {
            Self::Alert(alert)
        } else if matches!(error, Error::NoApplicationProtocol | Error::AlertReceived(_)) {
            Self::NoAlpn
        } else {
            Self::Tls(error)
        }
    }
}
