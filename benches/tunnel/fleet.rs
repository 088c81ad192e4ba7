//! A relay of this project with keys, as `tcp-remote-relay init` makes it.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::contestant::wait_for;
use crate::process::Process;

/// A relay's program and its directory, whether it runs or not.
pub(crate) struct Fleet {
    program: PathBuf,
    directory: PathBuf,
}

impl Fleet {
    /// Makes keys below `directory`, and a configuration in which devices connect to `server`, or are told so at least, and
    /// each of the ports leads to a service.
    pub(crate) fn init(
        program: &Path,
        directory: &Path,
        server: SocketAddr,
        ports: &[(SocketAddr, &str)],
    ) -> io::Result<Self> {
        let fleet = Self { program: program.to_owned(), directory: directory.join("relay") };
        let made = fleet.command(&["init"]).arg(&fleet.directory).args(["--address", &server.to_string()]).output()?;
        said(made)?;
        let mut config = format!(
            "addresses = [\"{server}\"]\nstate = \"state\"\nkey = \"relay.key\"\nnext_key = \"relay-next.pub\"\n\
             [listen]\ntls = \"{server}\"\n"
        );
        for (listen, to) in ports {
            config += &format!("[[port]]\nlisten = \"{listen}\"\nto = \"{to}\"\n");
        }
        fs::write(fleet.config(), config)?;
        Ok(fleet)
    }

    /// Starts it, and returns when it answers commands.
    pub(crate) fn run(&self) -> io::Result<Process> {
        let directory = self.directory.parent().unwrap_or(&self.directory);
        let mut command = self.command(&["run", "--config"]);
        let mut relay = Process::spawn("tcp-remote-relay", command.arg(self.config()), directory)?;
        wait_for("answer from the relay", &mut relay, || self.ask(&["devices"]))?;
        Ok(relay)
    }

    /// What the running relay answers to a command.
    pub(crate) fn ask(&self, words: &[&str]) -> io::Result<String> {
        said(self.command(words).arg("--config").arg(self.config()).output()?)
    }

    /// Where its keys are.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    fn config(&self) -> PathBuf {
        self.directory.join("relay.toml")
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(words);
        command
    }
}

/// What a command that succeeded has printed.
fn said(output: std::process::Output) -> io::Result<String> {
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
    }
    Err(io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}
