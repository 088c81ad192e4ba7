//! Two chained haproxy hops: a mature proxy with as many hops as the tunnel has.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use crate::contestant::{Contestant, Role, Tunnel, free_address};
use crate::process::{Process, find_program, version};

pub(crate) const NAME: &str = "haproxy x2";

pub(crate) struct Haproxy;

impl Contestant for Haproxy {
    fn name(&self) -> &'static str {
        NAME
    }

    fn role(&self) -> Role {
        Role::Peer
    }

    fn missing(&self) -> Option<String> {
        find_program("haproxy").is_none().then(|| "not installed: apt-get install haproxy".into())
    }

    fn describe(&self) -> String {
        let version = version("haproxy", "-v", 0);
        format!(
            "{}, mode tcp, two processes in a chain, one thread each",
            version.trim_end_matches(" - https://haproxy.org/")
        )
    }

    fn start(&self, service: SocketAddr) -> io::Result<Tunnel> {
        let directory = tempfile::tempdir()?;
        let (near, far) = (free_address()?, free_address()?);
        let processes = vec![
            hop("haproxy-far", far, service, directory.path())?,
            hop("haproxy-near", near, far, directory.path())?,
        ];
        Tunnel::ready(near, processes, directory)
    }
}

fn hop(name: &'static str, from: SocketAddr, to: SocketAddr, directory: &Path) -> io::Result<Process> {
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
