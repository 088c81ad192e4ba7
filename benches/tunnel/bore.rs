//! bore: the device's end keeps a connection for control and makes one for each client.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::Command;

use crate::contestant::{Contestant, Role, Tunnel, free_port, wait_for_listener};
use crate::process::{Process, find_program, version};

/// Its server has this port and no other.
const CONTROL_PORT: u16 = 7835;

pub(crate) struct Bore;

impl Contestant for Bore {
    fn name(&self) -> &'static str {
        "bore"
    }

    fn role(&self) -> Role {
        Role::Peer
    }

    fn missing(&self) -> Option<String> {
        find_program("bore").is_none().then(|| "not installed: make bench-peers".into())
    }

    fn describe(&self) -> String {
        format!("{}, its defaults, not encrypted, a connection for each client", version("bore", "--version", 0))
    }

    fn start(&self, service: SocketAddr) -> io::Result<Tunnel> {
        let directory = tempfile::tempdir()?;
        let host = free_host()?;
        let entrance = free_port(host)?;
        let spawn = |name, arguments: String| {
            let mut command = Command::new(find_program("bore").unwrap_or_default());
            Process::spawn(name, command.args(arguments.split(' ')), directory.path())
        };
        let mut server = spawn("bore-server", format!("server --bind-addr {host}"))?;
        wait_for_listener((host, CONTROL_PORT).into(), &mut server)?;
        let (near, far) = (entrance.port(), service.port());
        let client =
            spawn("bore-local", format!("local {far} --local-host {} --to {host} --port {near}", service.ip()))?;
        Tunnel::ready(entrance, vec![server, client], directory)
    }
}

/// A loopback address at which no other server of bore runs.
fn free_host() -> io::Result<Ipv4Addr> {
    (1..=250)
        .map(|last| Ipv4Addr::new(127, 78, 35, last))
        .find(|&host| TcpListener::bind((host, CONTROL_PORT)).is_ok())
        .ok_or_else(|| {
            io::Error::other(format!("port {CONTROL_PORT}, which bore needs, is taken at 127.78.35.1 to 250"))
        })
}
