//! The relay's command lines, exit status, signals and log; all else is [`tcpremote::relay`].

#[path = "tcp-remote-relay/ask.rs"]
mod ask;
#[path = "tcp-remote-relay/commands.rs"]
mod commands;
#[path = "tcp-remote-relay/files.rs"]
mod files;
#[path = "tcp-remote-relay/init.rs"]
mod init;
#[path = "tcp-remote-relay/log.rs"]
mod log;
#[path = "tcp-remote-relay/output.rs"]
mod output;
#[path = "tcp-remote-relay/positional.rs"]
mod positional;
#[path = "tcp-remote-relay/process.rs"]
mod process;
#[path = "tcp-remote-relay/rotate.rs"]
mod rotate;
#[path = "tcp-remote-relay/run.rs"]
mod run;

use std::process::ExitCode;

/// A first argument that is no command is an address, which has a colon.
fn main() -> ExitCode {
    let first = std::env::args_os().nth(1);
    if first.is_some_and(|word| commands::is_command(&word)) { commands::run() } else { positional::run() }
}
