//! rathole: the device's end keeps a connection for control and makes one for each client; plain or encrypted by the Noise
//! protocol.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::process::Command;

use crate::case::Case;
use crate::contestant::{Contestant, Role, Tunnel, free_address, free_port, wait_for_listener};
use crate::line::Line;
use crate::process::{Process, find_program, version};

/// What its connections are.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rathole {
    Plain,
    Noise,
}

impl Contestant for Rathole {
    fn name(&self) -> &'static str {
        match self {
            Self::Plain => "rathole",
            Self::Noise => "rathole, noise",
        }
    }

    fn role(&self) -> Role {
        Role::Peer
    }

    fn missing(&self) -> Option<String> {
        find_program("rathole").is_none().then(|| "not installed: make bench-peers".into())
    }

    fn describe(&self) -> String {
        let how = match self {
            Self::Plain => "not encrypted",
            Self::Noise => "encrypted by noise",
        };
        format!("{}, its defaults, {how}, a connection for each client", version("rathole", "-V", 0))
    }

    fn takes(&self, case: Case) -> bool {
        match self {
            Self::Plain => !case.is_encrypted() && !matches!(case, Case::LongLine { .. }),
            Self::Noise => matches!(case, Case::Encrypted(_)),
        }
    }

    fn start(&self, service: SocketAddr) -> io::Result<Tunnel> {
        self.start_across(service, &Line::Loopback)
    }

    fn start_across(&self, service: SocketAddr, line: &Line) -> io::Result<Tunnel> {
        let directory = tempfile::tempdir()?;
        let (control, entrance) = (free_port(line.server_host())?, free_address()?);
        let [server_transport, client_transport] = match self {
            Self::Plain => [String::new(), String::new()],
            Self::Noise => transports()?,
        };
        let end = |name, argument, config: String| {
            let path = directory.path().join(format!("{name}.toml"));
            fs::write(&path, config)?;
            let mut command = Command::new(find_program("rathole").unwrap_or_default());
            Process::spawn(name, command.arg(argument).arg(path), directory.path())
        };
        let mut server = end(
            "rathole-server",
            "--server",
            format!(
                "[server]\nbind_addr = \"{control}\"\ndefault_token = \"bench\"\n\
                 {server_transport}[server.services.bench]\nbind_addr = \"{entrance}\"\n"
            ),
        )?;
        wait_for_listener(control, &mut server)?;
        let control = line.toward(control)?;
        let config = format!(
            "[client]\nremote_addr = \"{control}\"\ndefault_token = \"bench\"\n\
             {client_transport}[client.services.bench]\nlocal_addr = \"{service}\"\n"
        );
        let client = line.on_device_side(|| end("rathole-client", "--client", config))?;
        Tunnel::ready(entrance, vec![server, client], directory)
    }
}

/// The server's part of a configuration and the client's, with a key that the client knows.
fn transports() -> io::Result<[String; 2]> {
    let made = Command::new(find_program("rathole").unwrap_or_default()).arg("--genkey").output()?;
    let said = String::from_utf8_lossy(&made.stdout).into_owned();
    let keys: Vec<&str> = said.lines().map(str::trim).filter(|line| line.ends_with('=')).collect();
    let &[private, public] = &keys[..] else {
        return Err(io::Error::other(format!("rathole --genkey printed no two keys: {said}")));
    };
    let transport =
        |end: &str, key: &str| format!("[{end}.transport]\ntype = \"noise\"\n[{end}.transport.noise]\n{key}\n");
    Ok([
        transport("server", &format!("local_private_key = \"{private}\"")),
        transport("client", &format!("remote_public_key = \"{public}\"")),
    ])
}
