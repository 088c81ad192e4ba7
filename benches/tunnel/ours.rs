//! What this project builds, as a user has it: the relay, and a Lua script that calls the command.

use std::env;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::contestant::{Contestant, Tunnel, free_address, wait_for_listener};
use crate::process::{Process, find_program, version};

/// The relay, or another one than cargo has just built.
const RELAY_VARIABLE: &str = "TCPREMOTE_RELAY";
/// The module for Lua 5.4, or another one than `target/lua54/release/libtcpremote.so`.
const MODULE_VARIABLE: &str = "TCPREMOTE_MODULE";
const RELAY: &str = env!("CARGO_BIN_EXE_tcp-remote-relay");
const SOURCES: &str = env!("CARGO_MANIFEST_DIR");
const LUA: &str = "lua5.4";

/// Ends when its standard input does.
const DEVICE: &str = r#"
local host, port = ...
local TCPRemoteConnect = require "DeviceManagement.TCPRemoteConnect"
local ok, err = TCPRemoteConnect{ ServerAddress = host, ServerPort = tonumber(port) }
if not ok then error(err, 0) end
io.read "a"
"#;

pub(crate) struct Ours {
    relay: PathBuf,
    module: PathBuf,
}

impl Ours {
    pub(crate) fn find() -> Self {
        let target = Path::new(RELAY).ancestors().nth(2).unwrap_or_else(|| Path::new("target"));
        Self {
            relay: env::var_os(RELAY_VARIABLE).map_or_else(|| RELAY.into(), PathBuf::from),
            module: env::var_os(MODULE_VARIABLE)
                .map_or_else(|| target.join("lua54/release/libtcpremote.so"), PathBuf::from),
        }
    }
}

impl Contestant for Ours {
    fn name(&self) -> &'static str {
        "ours"
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
        format!("tcp-remote-relay {}, and its module in {}", env!("CARGO_PKG_VERSION"), version(LUA, "-v", 0))
    }

    fn start(&self, service: SocketAddr) -> io::Result<Tunnel> {
        let directory = tempfile::tempdir()?;
        let (server, entrance) = (free_address()?, free_address()?);
        let mut relay = Process::spawn(
            "tcp-remote-relay",
            Command::new(&self.relay).args([server, entrance, service].map(|address| address.to_string())),
            directory.path(),
        )?;
        wait_for_listener(server, &mut relay)?;
        let device = self.device(server, directory.path())?;
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
        Process::spawn("device", &mut command, directory)
    }
}
