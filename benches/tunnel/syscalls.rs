//! How many system calls a contestant makes, counted in the kernel by perf: strace would stop its processes at each, and
//! a slow process makes others than a fast one.

use std::io;
use std::process::{self, Command};
use std::time::Duration;

use nix::unistd::Pid;

use crate::process::find_program;

const CALLS: &str = "raw_syscalls:sys_enter";
/// The wall clock of the count. The event duration_time would be summed over the threads that are counted.
const TIME: &str = "seconds time elapsed";

/// If they cannot be counted on this machine: why.
pub(crate) fn missing() -> Option<String> {
    if find_program("perf").is_none() {
        return Some("perf is not installed: apt-get install linux-perf".into());
    }
    let itself = Pid::from_raw(process::id().cast_signed());
    count(&[itself], Duration::from_millis(1)).err().map(|error| error.to_string())
}

/// Calls per second of these processes, over `window`.
pub(crate) fn count(pids: &[Pid], window: Duration) -> io::Result<f64> {
    let pids: Vec<String> = pids.iter().map(Pid::to_string).collect();
    let output = Command::new(find_program("perf").unwrap_or_default())
        .env("LC_ALL", "C")
        .args(["stat", "--no-big-num", "-e", CALLS, "-p", &pids.join(","), "--"])
        .args(["sleep", &window.as_secs_f64().to_string()])
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    // One line each: the value, then what it is of.
    let value = |what: &str| {
        let (value, _) = said.lines().find_map(|line| line.split_once(what))?;
        match value.trim() {
            // What slept all the time.
            "<not counted>" => Some(0.0),
            value => value.parse::<f64>().ok(),
        }
    };
    let counted = value(CALLS).zip(value(TIME));
    let (calls, seconds) = counted.ok_or_else(|| {
        let reason = said.lines().find(|line| !line.trim().is_empty()).unwrap_or("no reason given");
        io::Error::other(format!("perf counts no system calls here ({reason}); it may need to be run as root"))
    })?;
    Ok(calls / seconds)
}
