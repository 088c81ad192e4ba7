//! What this project builds, as a user has it: the relay, and a Lua script that calls the command, or has joined the relay
//! and has its link in TLS.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::case::Case;
use crate::contestant::{Contestant, Role, Tunnel, free_address, free_port, wait_for_listener};
use crate::fleet::Fleet;
use crate::line::Line;
use crate::process::{Process, find_program, target_directory, version};

pub(crate) const RELAY: &str = env!("CARGO_BIN_EXE_tcp-remote-relay");
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

/// The same, of a device with a key.
const DEVICE_WITH_KEY: &str = r#"
local state_dir, join, service = ...
local tunnel = assert(require "tcpremote".connect {
  state_dir = state_dir, join = join, services = { bench = service },
})
io.read "a"
"#;

/// Which of them.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Variant {
    /// As it has just been built.
    Newest,
    /// The same, both ends held to version 1 of the protocol.
    VersionOne,
    /// The same as the newest, with a key for each end, and the link in TLS.
    Tls,
    /// Of another commit, which `make bench-before` has built.
    Before,
    /// The same, in TLS.
    BeforeTls,
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
            Variant::Newest | Variant::VersionOne | Variant::Tls => {
                (RELAY.into(), target.join("lua54/install/module/core.so"), Path::new(SOURCES).join("lua"))
            }
            Variant::Before | Variant::BeforeTls => {
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
            Variant::Tls => "ours, TLS",
            Variant::Before => "ours before",
            Variant::BeforeTls => "ours before, TLS",
        }
    }

    fn role(&self) -> Role {
        match self.variant {
            Variant::Newest => Role::Subject,
            Variant::VersionOne => Role::Former,
            Variant::Tls => Role::Encrypted,
            Variant::Before | Variant::BeforeTls => Role::Before,
        }
    }

    fn missing(&self) -> Option<String> {
        let is_before = matches!(self.variant, Variant::Before | Variant::BeforeTls);
        if find_program(LUA).is_none() {
            Some(format!("{LUA} is not installed: apt-get install {LUA}"))
        } else if !self.module.is_file() && is_before {
            Some("no other commit is built: make bench-before COMMIT=…".into())
        } else if !self.module.is_file() {
            Some(format!("no module is built for {LUA}: run make bench"))
        } else if self.variant == Variant::BeforeTls && !self.lua.join("tcpremote/command.lua").is_file() {
            Some("that commit has no TLS".into())
        } else {
            None
        }
    }

    fn describe(&self) -> String {
        match self.variant {
            Variant::Newest => {
                let (relay, lua) = (env!("CARGO_PKG_VERSION"), version(LUA, "-v", 0));
                format!("tcp-remote-relay {relay}, and its module in {lua}, version 2 of the protocol")
            }
            Variant::VersionOne => "the same, both held to version 1 of the protocol".into(),
            Variant::Tls => "the same, TLS 1.3 with an Ed25519 key for each end, all clients on one connection".into(),
            Variant::Before | Variant::BeforeTls => {
                let commit = fs::read_to_string(before().join("commit")).unwrap_or_default();
                format!("the same of commit {}", commit.trim())
            }
        }
    }

    fn takes(&self, case: Case) -> bool {
        match self.variant {
            Variant::Newest => !matches!(case, Case::Links { .. }),
            Variant::VersionOne => !case.is_encrypted() && !case.is_slow_line(),
            Variant::Before => !case.is_encrypted(),
            Variant::Tls => case.is_encrypted(),
            Variant::BeforeTls => matches!(case, Case::Encrypted(_)),
        }
    }

    fn start(&self, service: SocketAddr) -> io::Result<Tunnel> {
        self.start_across(service, &Line::Loopback)
    }

    fn start_across(&self, service: SocketAddr, line: &Line) -> io::Result<Tunnel> {
        let directory = tempfile::tempdir()?;
        let (server, entrance) = (free_port(line.server_host())?, free_address()?);
        let processes = match self.variant {
            Variant::Tls | Variant::BeforeTls => self.start_in_tls(server, entrance, service, directory.path()),
            Variant::Newest | Variant::VersionOne | Variant::Before => {
                self.start_plain(server, entrance, service, line, directory.path())
            }
        };
        Tunnel::ready(entrance, processes?, directory)
    }
}

impl Ours {
    fn start_plain(
        &self,
        server: SocketAddr,
        entrance: SocketAddr,
        service: SocketAddr,
        line: &Line,
        directory: &Path,
    ) -> io::Result<Vec<Process>> {
        let version: &[&str] = if self.variant == Variant::VersionOne { &["1"] } else { &[] };
        let mut command = Command::new(&self.relay);
        command.args(version.iter().flat_map(|version| ["--protocol", version]));
        command.args([server, entrance, service].map(|address| address.to_string()));
        let mut relay = Process::spawn("tcp-remote-relay", &mut command, directory)?;
        wait_for_listener(server, &mut relay)?;
        let server = line.toward(server)?;
        let (host, port) = (server.ip().to_string(), server.port().to_string());
        let arguments = [&[&*host, &*port], version].concat();
        let device = line.on_device_side(|| self.device(DEVICE, &arguments, directory))?;
        Ok(vec![relay, device])
    }

    fn start_in_tls(
        &self,
        server: SocketAddr,
        entrance: SocketAddr,
        service: SocketAddr,
        directory: &Path,
    ) -> io::Result<Vec<Process>> {
        let fleet = Fleet::init(&self.relay, directory, server, &[(entrance, "bench:bench")])?;
        let relay = fleet.run()?;
        let join = fleet.ask(&["token", "device", "bench"])?;
        let state = directory.join("device").display().to_string();
        let device = self.device(DEVICE_WITH_KEY, &[&*state, &*join, &service.to_string()], directory)?;
        Ok(vec![relay, device])
    }

    fn device(&self, script: &str, arguments: &[&str], directory: &Path) -> io::Result<Process> {
        let modules = directory.join("tcpremote");
        fs::create_dir(&modules)?;
        symlink(fs::canonicalize(&self.module)?, modules.join("core.so"))?;
        let path = directory.join("device.lua");
        fs::write(&path, script)?;
        let mut command = Command::new(find_program(LUA).unwrap_or_default());
        command
            .arg(path)
            .args(arguments)
            .env("LUA_PATH", format!("{lua}/?.lua;{lua}/?/init.lua", lua = self.lua.display()))
            .env("LUA_CPATH", format!("{}/?.so", directory.display()));
        Process::spawn("device", &mut command, directory)
    }
}
