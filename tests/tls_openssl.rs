//! What a device says of servers that are no relay: real ones, which have never heard of raw public keys. They stand for
//! what opens TLS between a device and its relay.
#![cfg(feature = "tls")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tcpremote::identity::{Pin, Pins};
use tcpremote::tls::{Key, Opener, Scratch, TlsError};

/// An `openssl s_server` with a certificate, which ends with the test.
struct Server {
    child: Child,
    address: String,
    _directory: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `None` where there is no openssl that can do this.
fn server(key: &[&str], options: &[&str]) -> Option<Server> {
    let directory = tempfile::tempdir().expect("a directory");
    let made = Command::new("openssl")
        .args(["req", "-x509", "-nodes", "-keyout", "key.pem", "-out", "cert.pem", "-subj", "/CN=relay", "-newkey"])
        .args(key)
        .current_dir(&directory)
        .output();
    if !made.is_ok_and(|output| output.status.success()) {
        return None;
    }
    let mut child = Command::new("openssl")
        .args(["s_server", "-accept", "127.0.0.1:0", "-key", "key.pem", "-cert", "cert.pem"])
        .args(options)
        .current_dir(&directory)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let lines = BufReader::new(child.stdout.take().expect("its output")).lines();
    let address = lines.map_while(Result::ok).find_map(|line| Some(line.strip_prefix("ACCEPT ")?.to_owned()));
    let server = Server { child, address: address.unwrap_or_default(), _directory: directory };
    (!server.address.is_empty()).then_some(server)
}

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
