//! What this project builds, as a user has it: the relay, and a Lua script that calls the command.

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

/// Which of them.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Variant {
    /// As it has just been built.
    Newest,
    /// The same, both ends held to version 1 of the protocol.
    VersionOne,
    /// Of another commit, which `make bench-before` has built.
    Before,
}

pub(crate) struct Ours {
    variant: Variant,
    relay: PathBuf,
    module: PathBuf,
    /// The files in Lua that belong to the module.
    lua: PathBuf,
}

impl Ours {
    pub(crate) fn find(variant: Variant) -> Self {
        let target = target_directory();
        let (relay, module, lua) = match variant {
            Variant::Newest | Variant::VersionOne => {
                (RELAY.into(), target.join("lua54/install/release/core.so"), Path::new(SOURCES).join("lua"))
            }
            Variant::Before => {
                let before = before();
                (before.join("tcp-remote-relay"), before.join("core.so"), before.join("lua"))
            }
        };
        Self { variant, relay, module, lua }
    }
}

/// Where `make bench-before` puts what it has built.
fn before() -> PathBuf {
    target_directory().join("bench-before")
}

impl Contestant for Ours {
    fn name(&self) -> &'static str {
        match self.variant {
            Variant::Newest => "ours",
            Variant::VersionOne => "ours v1",
            Variant::Before => "ours before",
        }
    }

    fn role(&self) -> Role {
        match self.variant {
            Variant::Newest => Role::Subject,
            Variant::VersionOne => Role::Former,
            Variant::Before => Role::Before,
        }
    }

    fn missing(&self) -> Option<String> {
        if find_program(LUA).is_none() {
            Some(format!("{LUA} is not installed: apt-get install {LUA}"))
        } else if self.module.is_file() {
            None
        } else if self.variant == Variant::Before {
            Some("no other commit is built: make bench-before COMMIT=…".into())
        } else {
            Some(format!("no module is built for {LUA}: run make bench"))
        }
    }

    fn describe(&self) -> String {
        match self.variant {
            Variant::Newest => {
                let (relay, lua) = (env!("CARGO_PKG_VERSION"), version(LUA, "-v", 0));
                format!("tcp-remote-relay {relay}, and its module in {lua}, version 2 of the protocol")
            }
            Variant::VersionOne => "the same, both held to version 1 of the protocol".into(),
            Variant::Before => {
                let commit = fs::read_to_string(before().join("commit")).unwrap_or_default();
                format!("the same of commit {}", commit.trim())
            }
        }
    }

    fn takes(&self, case: Case) -> bool {
        match self.variant {
            Variant::Newest => true,
            Variant::VersionOne => !matches!(case, Case::SlowLine { .. } | Case::Encrypted(_)),
            Variant::Before => !matches!(case, Case::Encrypted(_)),
        }
    }

    fn start(&self, service: SocketAddr) -> io::Result<Tunnel> {
        self.start_across(service, &Line::Loopback)
    }

    fn start_across(&self, service: SocketAddr, line: &Line) -> io::Result<Tunnel> {
        let directory = tempfile::tempdir()?;
        let (server, entrance) = (free_port(line.server_host())?, free_address()?);
        let mut command = Command::new(&self.relay);
        if self.variant == Variant::VersionOne {
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
            .env("LUA_PATH", format!("{lua}/?.lua;{lua}/?/init.lua", lua = self.lua.display()))
            .env("LUA_CPATH", format!("{}/?.so", directory.display()));
        if self.variant == Variant::VersionOne {
            command.arg("1");
        }
        Process::spawn("device", &mut command, directory)
    }
}
