//! What this project builds, as a user has it: the relay, and a Lua script that calls the command.

use std::env;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::case::Case;
use crate::contestant::{Contestant, Role, Tunnel, free_address, free_port, wait_for_listener};
use crate::line::Line;
use crate::process::{Process, find_program, target_directory, version};

/// The relay, or another one than cargo has just built.
const RELAY_VARIABLE: &str = "TCPREMOTE_RELAY";
/// The module for Lua 5.4, or another one than `target/lua54/install/release/core.so`.
const MODULE_VARIABLE: &str = "TCPREMOTE_MODULE";
const RELAY: &str = env!("CARGO_BIN_EXE_tcp-remote-relay");
const SOURCES: &str = env!("CARGO_MANIFEST_DIR");
const LUA: &str = "lua5.4";

/// Ends when its standard input does.
const DEVICE: &str = r#"
local host, port, protocol = ...
local TCPRemoteConnect = require "DeviceManagement.TCPRemoteConnect"
local ok, err = TCPRemoteConnect{
  ServerAddress = host, ServerPort = tonumber(port), protocol = tonumber(protocol),
}
if not ok then error(err, 0) end
io.read "a"
"#;

/// The newest version of the protocol that both ends may speak.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// The default of both.
    Newest,
    One,
}

pub(crate) struct Ours {
    relay: PathBuf,
    module: PathBuf,
    protocol: Protocol,
}

impl Ours {
    pub(crate) fn find(protocol: Protocol) -> Self {
        Self {
            relay: env::var_os(RELAY_VARIABLE).map_or_else(|| RELAY.into(), PathBuf::from),
            module: env::var_os(MODULE_VARIABLE)
                .map_or_else(|| target_directory().join("lua54/install/release/core.so"), PathBuf::from),
            protocol,
        }
    }
}

impl Contestant for Ours {
    fn name(&self) -> &'static str {
        match self.protocol {
            Protocol::Newest => "ours",
            Protocol::One => "ours v1",
        }
    }

    fn role(&self) -> Role {
        match self.protocol {
            Protocol::Newest => Role::Subject,
            Protocol::One => Role::Former,
        }
    }

    fn missing(&self) -> Option<String> {
        if find_program(LUA).is_none() {
            Some(format!("{LUA} is not installed: apt-get install {LUA}"))
        } else if !self.module.is_file() {
            Some(format!(
                "no module is built for {LUA}: run make bench, or set {MODULE_VARIABLE} to its libtcpremote.so"
            ))
        } else {
            None
        }
    }

    fn describe(&self) -> String {
        match self.protocol {
            Protocol::Newest => {
                let (relay, lua) = (env!("CARGO_PKG_VERSION"), version(LUA, "-v", 0));
                format!("tcp-remote-relay {relay}, and its module in {lua}, version 2 of the protocol")
            }
            Protocol::One => "the same, both held to version 1 of the protocol".into(),
        }
    }

    fn takes(&self, case: Case) -> bool {
        self.protocol == Protocol::Newest || !matches!(case, Case::SlowLine { .. })
    }

    fn start(&self, service: SocketAddr) -> io::Result<Tunnel> {
        self.start_across(service, &Line::Loopback)
    }

    fn start_across(&self, service: SocketAddr, line: &Line) -> io::Result<Tunnel> {
        let directory = tempfile::tempdir()?;
        let (server, entrance) = (free_port(line.server_host())?, free_address()?);
        let mut command = Command::new(&self.relay);
        if self.protocol == Protocol::One {
            command.args(["--protocol", "1"]);
        }
        command.args([server, entrance, service].map(|address| address.to_string()));
        let mut relay = Process::spawn("tcp-remote-relay", &mut command, directory.path())?;
        wait_for_listener(server, &mut relay)?;
        let server = line.toward(server)?;
        let device = line.on_device_side(|| self.device(server, directory.path()))?;
        Tunnel::ready(entrance, vec![relay, device], directory)
    }
}

impl Ours {
    fn device(&self, server: SocketAddr, directory: &Path) -> io::Result<Process> {
        let modules = directory.join("tcpremote");
        fs::create_dir(&modules)?;
        symlink(fs::canonicalize(&self.module)?, modules.join("core.so"))?;
        let script = directory.join("device.lua");
        fs::write(&script, DEVICE)?;
        let mut command = Command::new(find_program(LUA).unwrap_or_default());
        command
            .arg(script)
            .args([server.ip().to_string(), server.port().to_string()])
            .env("LUA_PATH", format!("{SOURCES}/lua/?.lua;{SOURCES}/lua/?/init.lua"))
            .env("LUA_CPATH", format!("{}/?.so", directory.display()));
        if self.protocol == Protocol::One {
            command.arg("1");
        }
        Process::spawn("device", &mut command, directory)
    }
}
