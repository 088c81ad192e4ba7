use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};
use rustls::AlertDescription;

use super::peers::{Habit, Shown, Sign};
use super::*;

/// Has an opener of ours meet such a relay: what each saw.
fn relay_is(habit: &Habit, pins: Pins) -> (TlsError, Option<rustls::Error>) {
    let mut opener = End::opener(&key(), pins);
    let (ours, theirs) = habit.server().meet(&mut opener);
    assert!(!opener.tls.is_established() && opener.plaintext.is_empty());
    (ours.expect_err("it is refused"), theirs.err())
}

/// Has an acceptor of ours meet such a device: what each saw.
fn device_is(habit: &Habit) -> (TlsError, Option<rustls::Error>) {
    let mut acceptor = End::acceptor(&key());
    let mut client = habit.client();
    let (ours, theirs) = client.meet(&mut acceptor);
    assert!(!acceptor.tls.is_established() && acceptor.plaintext.is_empty());
    (ours.expect_err("it is refused"), theirs.err())
}

fn alert(description: AlertDescription) -> Option<rustls::Error> {
    Some(rustls::Error::AlertReceived(description))
}

/// SubjectPublicKeyInfo of an ECDSA key on P-256.
pub(crate) fn ecdsa() -> Vec<u8> {
    let random = SystemRandom::new();
    let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random).expect("a key");
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, document.as_ref(), &random).expect("a key");
    let prefix =
        b"\x30\x59\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07\x03\x42\x00";
    [prefix, pair.public_key().as_ref()].concat()
}

/// The identity point, and the signature that holds for every message under it.
pub(crate) fn identity() -> Shown {
    let mut spki = key().public().to_spki().to_vec();
    spki[12..].fill(0);
    spki[12] = 1;
    let mut signature = vec![0; 64];
    signature[0] = 1;
    Shown { keys: vec![spki], sign: Sign::Bytes(signature) }
}

#[test]
fn the_peers_of_these_tests_are_honest_when_they_are_told_to_be() {
    let (device, relay) = (key(), key());
    let mut opener = End::opener(&device, pins(&relay));
    assert_eq!(Habit::of(Shown::honest(&relay)).server().meet(&mut opener), (Ok(()), Ok(())));
    assert_eq!(opener.tls.peer_key(), Some(relay.public()));
    let mut acceptor = End::acceptor(&relay);
    assert_eq!(Habit::of(Shown::honest(&device)).client().meet(&mut acceptor), (Ok(()), Ok(())));
    assert_eq!(acceptor.tls.peer_key(), Some(device.public()));
}

#[test]
fn a_relay_with_another_key_is_refused_and_both_fingerprints_are_named() {
    let (device, relay, other) = (key(), key(), key());
    let (mut opener, mut acceptor) = (End::opener(&device, pins(&relay)), End::acceptor(&other));
    let (ours, theirs) = carry(&mut opener, &mut acceptor);
    let error = ours.expect_err("it is refused");
    assert_eq!(error, TlsError::WrongPin { shown: other.public().pin(), expected: pins(&relay) });
    let text = error.to_string();
    assert!(text.contains(&other.public().pin().to_string()), "{text}");
    assert!(text.contains(&relay.public().pin().to_string()), "{text}");
    // The relay is told, and can say so.
    assert_eq!(theirs, Err(TlsError::Alert(AlertDescription::CertificateUnknown)));
    assert!(!opener.tls.is_established() && !acceptor.tls.is_established());
}

#[test]
fn a_signature_by_another_key_is_refused() {
    let (right, wrong) = (key(), key());
    let liar = Habit::of(Shown { sign: Sign::with(&wrong), ..Shown::honest(&right) });
    assert_eq!(relay_is(&liar, pins(&right)), (TlsError::BadSignature, alert(AlertDescription::DecryptError)));
    assert_eq!(device_is(&liar), (TlsError::BadSignature, alert(AlertDescription::DecryptError)));
    let empty = Habit::of(Shown { sign: Sign::Bytes(Vec::new()), ..Shown::honest(&right) });
    assert_eq!(relay_is(&empty, pins(&right)).0, TlsError::BadSignature);
    assert_eq!(device_is(&empty).0, TlsError::BadSignature);
}

#[test]
fn a_key_of_small_order_that_anybody_can_sign_for_is_refused() {
    let refused = TlsError::Key(PublicKeyError::SmallOrder);
    let forger = Habit::of(identity());
    // Even if somebody had been made to pin it.
    let hash = ring::digest::digest(&ring::digest::SHA256, &identity().keys[0]);
    let pin = Pin(hash.as_ref().try_into().expect("32 bytes"));
    let pins = Pins { current: pin, next: pin };
    assert_eq!(relay_is(&forger, pins), (refused.clone(), alert(AlertDescription::CertificateUnknown)));
    assert_eq!(device_is(&forger), (refused, alert(AlertDescription::CertificateUnknown)));
}

#[test]
fn another_kind_of_key_is_refused() {
    let right = key();
    let refused = TlsError::Key(PublicKeyError::NotEd25519);
    for shown in [ecdsa(), Vec::new(), right.public().to_spki()[..43].to_vec(), right.public().to_spki()[12..].to_vec()]
    {
        let other = Habit::of(Shown { keys: vec![shown], ..Shown::honest(&right) });
        assert_eq!(relay_is(&other, pins(&right)).0, refused);
        assert_eq!(device_is(&other).0, refused);
    }
}

#[test]
fn a_second_key_behind_the_first_is_refused() {
    let right = key();
    let mut shown = Shown::honest(&right);
    shown.keys.push(key().public().to_spki().to_vec());
    assert_eq!(relay_is(&Habit::of(shown.clone()), pins(&right)).0, TlsError::SeveralKeys);
    assert_eq!(device_is(&Habit::of(shown)).0, TlsError::SeveralKeys);
}

#[test]
fn certificates_are_refused_with_the_advice_to_let_the_port_through() {
    let key = key();
    let web = Habit { raw: false, ..Habit::of(Shown::honest(&key)) };
    assert_eq!(device_is(&web), (TlsError::NoRawKey, alert(AlertDescription::HandshakeFailure)));
    // A browser has no key of its own.
    let browser = Habit { shown: None, ..web.clone() };
    assert_eq!(device_is(&browser).0, TlsError::NoRawKey);
    // A server that knows of raw keys says itself that it has none; tests/tls_openssl.rs has those that do not.
    let (error, _) = relay_is(&web, pins(&key));
    assert_eq!(error, TlsError::Alert(AlertDescription::HandshakeFailure));
    for error in [error, TlsError::NoRawKey] {
        assert!(error.to_string().contains("something between opens TLS"), "{error}");
    }
}

#[test]
fn a_device_without_a_key_is_refused() {
    let keyless = Habit { shown: None, ..Habit::of(Shown::honest(&key())) };
    assert_eq!(device_is(&keyless).0, TlsError::NoRawKey);
}

#[test]
fn an_end_that_speaks_no_protocol_or_another_is_refused() {
    let right = key();
    let silent = Habit { alpn: Vec::new(), ..Habit::of(Shown::honest(&right)) };
    // TLS itself has nothing against it: both ends must look. The other end sees it end cleanly.
    assert_eq!(relay_is(&silent, pins(&right)), (TlsError::NoAlpn, None));
    assert_eq!(device_is(&silent), (TlsError::NoAlpn, None));
    let other = Habit { alpn: vec![b"http/1.1".to_vec()], ..silent };
    let refused = (TlsError::NoAlpn, alert(AlertDescription::NoApplicationProtocol));
    assert_eq!(device_is(&other), refused);
    // A relay that speaks another protocol says so itself.
    let (ours, theirs) = relay_is(&other, pins(&right));
    assert_eq!((ours, theirs), (TlsError::NoAlpn, Some(rustls::Error::NoApplicationProtocol)));
    assert!(refused.0.to_string().contains("not tcpremote/2 in it"), "{}", refused.0);
}

#[test]
fn data_behind_a_handshake_that_is_refused_is_never_opened() {
    let mut acceptor = End::acceptor(&key());
    let mut client = Habit { alpn: Vec::new(), ..Habit::of(Shown::honest(&key())) }.client();
    acceptor.receive(&client.send()).expect("a ClientHello");
    client.receive(&acceptor.send()).expect("the acceptor's handshake");
    let mut last = client.send();
    last.extend(client.write(b"SETTINGS"));
    assert_eq!(acceptor.receive(&last), Err(TlsError::NoAlpn));
    assert!(acceptor.plaintext.is_empty());
    assert_eq!(acceptor.receive(b"more"), Err(TlsError::NoAlpn));
    assert_eq!(acceptor.tls.seal(b"data", &mut acceptor.scratch), Err(TlsError::NoAlpn));
}

#[test]
fn plain_bytes_on_a_port_for_tls_are_named() {
    let cases: [(&[u8], Greeting, &str); 5] = [
        (b"\0\0\x04\0", Greeting::PlainLink, "a link without TLS"),
        (b"GET / HTTP/1.1\r\n\r\n", Greeting::Http, "HTTP"),
        (b"HTTP/1.1 400 Bad Request\r\n", Greeting::Http, "HTTP"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", Greeting::Ssh, "SSH"),
        (b"\xff\xff\xff\xff", Greeting::Unknown, "no protocol that it knows"),
    ];
    for (bytes, greeting, text) in cases {
        for piece in [1, bytes.len()] {
            for mut end in [End::acceptor(&key()), End::opener(&key(), pins(&key()))] {
                end.send();
                let result = bytes.chunks(piece).try_for_each(|piece| end.receive(piece));
                assert_eq!(result, Err(TlsError::NotTls(greeting)), "{bytes:x?}");
                assert!(TlsError::NotTls(greeting).to_string().contains(text));
                assert!(end.send().is_empty() && end.tls.buffered() == 0);
            }
        }
    }
    let mut acceptor = End::acceptor(&key());
    acceptor.receive(b"\0\0").expect("it may become LISTEN");
    assert_eq!(acceptor.tls.handle_end(), Err(TlsError::NotTls(Greeting::Unknown)));
}

#[test]
fn a_client_hello_on_a_plain_port_can_be_told() {
    let hello = End::opener(&key(), pins(&key())).send();
    assert_eq!(Greeting::of(&hello[..4]), Some(Greeting::Tls));
}

#[test]
fn a_handshake_ends_at_16_kib() {
    let protocols = |count: usize| {
        let other = (0..count).map(|number| format!("protocol-{number:0>230}").into_bytes());
        [ALPN.to_vec()].into_iter().chain(other).collect::<Vec<_>>()
    };
    for (count, fits) in [(60, true), (70, false), (270, false)] {
        let hello = Habit { alpn: protocols(count), ..Habit::of(Shown::honest(&key())) }.client().send();
        for piece in [1, 1000, hello.len()] {
            let mut acceptor = End::acceptor(&key());
            let mut kept = 0;
            let result = hello.chunks(piece).try_for_each(|piece| {
                let result = acceptor.receive(piece);
                kept = kept.max(acceptor.tls.buffered());
                result
            });
            assert!(kept <= 2 * HANDSHAKE_LIMIT, "{kept}");
            if fits {
                assert_eq!(result, Ok(()), "{} bytes", hello.len());
            } else {
                assert_eq!(result, Err(TlsError::HandshakeTooLong), "{} bytes in pieces of {piece}", hello.len());
                assert_eq!(acceptor.tls.buffered(), 0);
            }
        }
    }
}

#[test]
fn a_handshake_in_crumbs_ends_at_16_kib_too() {
    // A ClientHello of 64 KiB in records of one byte.
    let mut acceptor = End::acceptor(&key());
    let mut sent = 0;
    let result = (0..).try_for_each(|number: usize| {
        let byte = *b"\x01\x00\xff\xff".get(number).unwrap_or(&0);
        sent += 6;
        acceptor.receive(&[0x16, 3, 3, 0, 1, byte])
    });
    assert_eq!(result, Err(TlsError::HandshakeTooLong));
    assert!(sent <= HANDSHAKE_LIMIT + 6, "{sent}");
}
