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

/// A first argument that is no command is an address, unless it is mistyped.
fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).take(2).collect();
    if commands::is_meant(&arguments) { commands::run() } else { positional::run() }
}
