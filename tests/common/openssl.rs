//! Servers of openssl, which have never heard of raw public keys: they stand for what opens TLS between a device and its
//! relay.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

/// An `openssl s_server` with a certificate, which ends with the test.
#[derive(Debug)]
pub struct Server {
    child: Child,
    pub address: String,
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
pub fn server(key: &[&str], options: &[&str]) -> Option<Server> {
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
