//! OpenSSH's `-R`, between an sshd of our own and its client; the user's configuration, keys and agent are left alone.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use crate::case::Case;
use crate::contestant::{Contestant, Role, Tunnel, free_address, free_port, wait_for_listener};
use crate::line::Line;
use crate::process::{Process, find_program, version};

/// As root, sshd wants this empty directory, which Debian makes when it starts the service.
const PRIVILEGE_SEPARATION: &str = "/run/sshd";

pub(crate) struct Ssh;

impl Contestant for Ssh {
    fn name(&self) -> &'static str {
        "ssh -R"
    }

    fn role(&self) -> Role {
        Role::Peer
    }

    fn missing(&self) -> Option<String> {
        ["sshd", "ssh", "ssh-keygen"]
            .into_iter()
            .find(|program| find_program(program).is_none())
            .map(|program| format!("{program} is not installed: make bench-peers"))
    }

    fn describe(&self) -> String {
        format!("{}, its defaults, so encrypted, all clients on one connection", version("ssh", "-V", 0))
    }

    fn takes(&self, case: Case) -> bool {
        !matches!(case, Case::Links { .. })
    }

    fn start(&self, service: SocketAddr) -> io::Result<Tunnel> {
        self.start_across(service, &Line::Loopback)
    }

    fn start_across(&self, service: SocketAddr, line: &Line) -> io::Result<Tunnel> {
        let directory = tempfile::tempdir()?;
        let (server, entrance) = (free_port(line.server_host())?, free_address()?);
        make_keys(directory.path())?;
        let mut sshd = sshd(server, directory.path())?;
        wait_for_listener(server, &mut sshd)?;
        let server = line.toward(server)?;
        let ssh = line.on_device_side(|| ssh(server, entrance, service, directory.path()))?;
        Tunnel::ready(entrance, vec![sshd, ssh], directory)
    }
}

fn sshd(server: SocketAddr, directory: &Path) -> io::Result<Process> {
    // Only root needs it, and can make it.
    let _ = fs::create_dir(PRIVILEGE_SEPARATION);
    let config = directory.join("sshd_config");
    let place = directory.display();
    fs::write(
        &config,
        format!(
            "ListenAddress {server}\nHostKey {place}/host\nAuthorizedKeysFile {place}/user.pub\nPidFile none\n\
             UsePAM no\nStrictModes no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n\
             PermitRootLogin prohibit-password\nUseDNS no\nLogLevel ERROR\n"
        ),
    )?;
    // It insists on an absolute path. -D: in the foreground; -e: log on standard error.
    let mut command = Command::new(find_program("sshd").unwrap_or_default());
    Process::spawn("sshd", command.args(["-D", "-e", "-f"]).arg(config), directory)
}

fn ssh(server: SocketAddr, entrance: SocketAddr, service: SocketAddr, directory: &Path) -> io::Result<Process> {
    let config = directory.join("ssh_config");
    let place = directory.display();
    let (host, port) = (server.ip(), server.port());
    fs::write(
        &config,
        format!(
            "HostName {host}\nPort {port}\nIdentityFile {place}/user\nIdentitiesOnly yes\nIdentityAgent none\n\
             UserKnownHostsFile {place}/known_hosts\nGlobalKnownHostsFile /dev/null\nStrictHostKeyChecking accept-new\n\
             BatchMode yes\nExitOnForwardFailure yes\nLogLevel ERROR\nRemoteForward {entrance} {service}\n"
        ),
    )?;
    let mut command = Command::new(find_program("ssh").unwrap_or_default());
    Process::spawn("ssh", command.arg("-F").arg(config).args(["-N", "-T", "bench"]), directory)
}

/// The server's key and the client's.
fn make_keys(directory: &Path) -> io::Result<()> {
    for name in ["host", "user"] {
        let mut command = Command::new(find_program("ssh-keygen").unwrap_or_default());
        let status = command.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(directory.join(name)).status()?;
        if !status.success() {
            return Err(io::Error::other(format!("ssh-keygen ended with {status}")));
        }
    }
    Ok(())
}
