//! rathole: the device's end keeps a connection for control and makes one for each client.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::process::Command;

use crate::case::Case;
use crate::contestant::{Contestant, Role, Tunnel, free_address, free_port, wait_for_listener};
use crate::line::Line;
use crate::process::{Process, find_program, version};

pub(crate) struct Rathole;

impl Contestant for Rathole {
    fn name(&self) -> &'static str {
        "rathole"
    }

    fn role(&self) -> Role {
        Role::Peer
    }

    fn missing(&self) -> Option<String> {
        find_program("rathole").is_none().then(|| "not installed: make bench-peers".into())
    }

    fn describe(&self) -> String {
        format!("{}, its defaults, not encrypted, a connection for each client", version("rathole", "-V", 0))
    }

    fn takes(&self, case: Case) -> bool {
        !matches!(case, Case::LongLine { .. })
    }

    fn start(&self, service: SocketAddr) -> io::Result<Tunnel> {
        self.start_across(service, &Line::Loopback)
    }

    fn start_across(&self, service: SocketAddr, line: &Line) -> io::Result<Tunnel> {
        let directory = tempfile::tempdir()?;
        let (control, entrance) = (free_port(line.server_host())?, free_address()?);
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
                 [server.services.bench]\nbind_addr = \"{entrance}\"\n"
            ),
        )?;
        wait_for_listener(control, &mut server)?;
        let control = line.toward(control)?;
        let config = format!(
            "[client]\nremote_addr = \"{control}\"\ndefault_token = \"bench\"\n\
             [client.services.bench]\nlocal_addr = \"{service}\"\n"
        );
        let client = line.on_device_side(|| end("rathole-client", "--client", config))?;
        Tunnel::ready(entrance, vec![server, client], directory)
    }
}
