//! One socat hop, which makes a process for each connection; for the echo rows only.

use std::io;
use std::net::SocketAddr;
use std::process::Command;

use crate::case::Case;
use crate::contestant::{Contestant, Role, Tunnel, free_address};
use crate::process::{Process, find_program, version};

pub(crate) struct Socat;

impl Contestant for Socat {
    fn name(&self) -> &'static str {
        "socat"
    }

    fn role(&self) -> Role {
        Role::Yardstick
    }

    fn missing(&self) -> Option<String> {
        find_program("socat").is_none().then(|| "not installed: apt-get install socat".into())
    }

    fn describe(&self) -> String {
        format!("{}, one hop, TCP-LISTEN with fork", version("socat", "-V", 1))
    }

    fn takes(&self, case: Case) -> bool {
        matches!(case, Case::Echo { .. })
    }

    fn start(&self, service: SocketAddr) -> io::Result<Tunnel> {
        let directory = tempfile::tempdir()?;
        let entrance = free_address()?;
        let mut command = Command::new(find_program("socat").unwrap_or_default());
        command
            .arg(format!("TCP-LISTEN:{},bind={},fork,reuseaddr,nodelay,backlog=128", entrance.port(), entrance.ip()))
            .arg(format!("TCP:{service},nodelay"));
        let process = Process::spawn("socat", &mut command, directory.path())?;
        Tunnel::ready(entrance, vec![process], directory)
    }
}
