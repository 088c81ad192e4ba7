//! What a device says of servers that are no relay: real ones, which have never heard of raw public keys. They stand for
//! what opens TLS between a device and its relay.
#![cfg(feature = "tls")]

#[allow(unreachable_pub, reason = "the other tests share it")]
#[path = "common/openssl.rs"]
mod openssl;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use openssl::{Server, server};

use tcpremote::identity::{Pin, Pins};
use tcpremote::tls::{Key, Opener, Scratch, TlsError};

/// Why a device of ours does not get in there.
fn refusal(server: &Server) -> TlsError {
    let pins = Pins { current: Pin([1; 32]), next: Pin([2; 32]) };
    let key = Key::generate().expect("a key");
    let mut scratch = Scratch::new(64 * 1024);
    let mut tls = Opener::new(&key, pins).expect("a configuration").start("relay", &mut scratch).expect("a handshake");
    let mut socket = TcpStream::connect(&server.address).expect("the server");
    socket.set_read_timeout(Some(Duration::from_secs(60))).expect("a socket");
    let mut buffer = vec![0; 64 * 1024];
    loop {
        while !tls.unsent(&scratch).is_empty() {
            let count = socket.write(tls.unsent(&scratch)).expect("the server reads");
            tls.advance(&mut scratch, count);
        }
        let count = socket.read(&mut buffer).expect("the server answers");
        let result = match count {
            0 => tls.handle_end(),
            count => tls.open(&mut buffer[..count], &mut Vec::new(), &mut scratch),
        };
        if let Err(error) = result {
            return error;
        }
        assert!(!tls.is_established());
    }
}

#[test]
fn a_server_with_certificates_is_told_from_a_relay() {
    let cases: [(&[&str], &[&str]); 4] = [
        (&["rsa:2048"], &[]),
        (&["ed25519"], &[]),
        (&["ed25519"], &["-alpn", "tcpremote/2"]),
        (&["rsa:2048"], &["-tls1_2"]),
    ];
    for (key, options) in cases {
        let Some(server) = server(key, options) else { continue };
        let error = refusal(&server);
        let text = error.to_string();
        assert!(text.contains("something between opens TLS"), "{key:?} {options:?}: {error:?}, {text}");
    }
}
