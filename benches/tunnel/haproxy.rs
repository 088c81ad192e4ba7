//! Two chained haproxy hops: a mature proxy with as many hops as the tunnel has, plain or with TLS 1.3 between the hops.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use crate::case::Case;
use crate::contestant::{Contestant, Role, Tunnel, free_address};
use crate::process::{Process, find_program, version};

pub(crate) const PLAIN: &str = "haproxy x2";
pub(crate) const TLS: &str = "haproxy x2, TLS";

/// What is between the hops.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Haproxy {
    Plain,
    Tls,
}

impl Contestant for Haproxy {
    fn name(&self) -> &'static str {
        match self {
            Self::Plain => PLAIN,
            Self::Tls => TLS,
        }
    }

    fn role(&self) -> Role {
        Role::Peer
    }

    fn missing(&self) -> Option<String> {
        let programs: &[&str] = if *self == Self::Tls { &["haproxy", "openssl"] } else { &["haproxy"] };
        let missing = programs.iter().find(|program| find_program(program).is_none())?;
        Some(format!("{missing} is not installed: apt-get install {missing}"))
    }

    fn describe(&self) -> String {
        let version = version("haproxy", "-v", 0);
        let version = version.trim_end_matches(" - https://haproxy.org/");
        let between = match self {
            Self::Plain => "",
            Self::Tls => {
                ", TLS 1.3 between them with an Ed25519 certificate that is verified, a connection for each client"
            }
        };
        format!("{version}, mode tcp, two processes in a chain, one thread each{between}")
    }

    fn takes(&self, case: Case) -> bool {
        match self {
            Self::Plain => !case.is_encrypted() && !matches!(case, Case::LongLine { .. } | Case::SlowLine { .. }),
            Self::Tls => matches!(case, Case::Encrypted(_)),
        }
    }

    fn start(&self, service: SocketAddr) -> io::Result<Tunnel> {
        let directory = tempfile::tempdir()?;
        let (near, far) = (free_address()?, free_address()?);
        let [accept, connect] = match self {
            Self::Plain => [String::new(), String::new()],
            Self::Tls => {
                let certificate = make_certificate(directory.path())?;
                [
                    format!(" ssl crt {certificate} ssl-min-ver TLSv1.3"),
                    format!(" ssl verify required ca-file {certificate} verifyhost localhost ssl-min-ver TLSv1.3"),
                ]
            }
        };
        let processes = vec![
            hop("haproxy-far", &format!("{far}{accept}"), &service.to_string(), directory.path())?,
            hop("haproxy-near", &near.to_string(), &format!("{far}{connect}"), directory.path())?,
        ];
        Tunnel::ready(near, processes, directory)
    }
}

fn hop(name: &'static str, from: &str, to: &str, directory: &Path) -> io::Result<Process> {
    let program = find_program("haproxy").unwrap_or_default();
    let config = directory.join(format!("{name}.cfg"));
    fs::write(
        &config,
        format!(
            "global\n  nbthread 1\n  maxconn 1000\n\
             defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 1m\n  timeout server 1m\n\
             listen hop\n  bind {from}\n  server next {to}\n"
        ),
    )?;
    // -db: in the foreground, one process.
    Process::spawn(name, Command::new(program).arg("-db").arg("-f").arg(config), directory)
}

/// A file with an Ed25519 key, as the tunnel's ends have, and a certificate of it that it has signed itself.
fn make_certificate(directory: &Path) -> io::Result<String> {
    let (key, certificate) = (directory.join("key.pem"), directory.join("certificate.pem"));
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ed25519", "-nodes", "-days", "1", "-subj", "/CN=localhost"])
        .args(["-addext", "subjectAltName=DNS:localhost"])
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .output()?;
    if !made.status.success() {
        return Err(io::Error::other(format!("openssl: {}", String::from_utf8_lossy(&made.stderr).trim())));
    }
    let both = directory.join("both.pem");
    fs::write(&both, [fs::read(&certificate)?, fs::read(&key)?].concat())?;
    Ok(both.display().to_string())
}
