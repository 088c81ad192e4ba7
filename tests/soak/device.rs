//! The device: this program once more, in a process that can be killed.

use std::io;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use fork::{Fork, fork};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{Signal, kill, raise};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use tcpremote::address::Address;
use tcpremote::device::{Config, EventKind, Handle, State};

/// The argument by which this program is a device.
pub(crate) const ARGUMENT: &str = "be-a-device";

/// The longest wait for the next attempt; then the tunnel is closed and made anew, as an owner may do.
const IMPATIENCE: Duration = Duration::from_millis(1500);

/// How long it waits after another device took its place.
const STAYS_AWAY: Duration = Duration::from_secs(5);

/// A device's commands, on its standard input: to fork a child that holds copies of all sockets for so many
/// milliseconds.
pub(crate) const FORK: &str = "fork ";
/// To end the children that it has.
pub(crate) const END: &str = "end";

/// Holds a tunnel to this relay until standard input ends.
pub(crate) fn run(relay: &str) -> ExitCode {
    let Ok(relay) = relay.parse::<Address>() else { return ExitCode::from(2) };
    thread::spawn(|| {
        obey();
        std::process::exit(0);
    });
    loop {
        let Ok(tunnel) = Handle::start(Config::new(relay.clone())) else { return ExitCode::FAILURE };
        if let Err(message) = hold(&tunnel) {
            crate::say(&message);
            return ExitCode::FAILURE;
        }
        drop(tunnel);
        thread::sleep(Duration::from_millis(100));
    }
}

/// Carries out the commands of standard input, to its end.
fn obey() {
    let mut children = Vec::new();
    for line in io::stdin().lines().map_while(Result::ok) {
        if let Some(millis) = line.strip_prefix(FORK).and_then(|millis| millis.parse().ok()) {
            match fork() {
                Ok(Fork::Child) => hold_copies(Duration::from_millis(millis)),
                Ok(Fork::Parent(child)) => children.push(Pid::from_raw(child)),
                Err(error) => crate::say(&format!("device: cannot fork: {error}")),
            }
        } else if line == END {
            for child in children.drain(..) {
                // It may have ended by itself; only this process waits for it, so the number is still its own.
                let _ = kill(child, Signal::SIGKILL);
                let _ = waitpid(child, None);
            }
        }
    }
}

/// The child's life. Of a process with threads nothing but system calls may be used here; it never outlives its parent.
fn hold_copies(time: Duration) -> ! {
    let _ = set_pdeathsig(Signal::SIGKILL);
    thread::sleep(time);
    loop {
        let _ = raise(Signal::SIGKILL);
    }
}

/// Until the tunnel is over, or waits for too long.
fn hold(tunnel: &Handle) -> Result<(), String> {
    loop {
        // What it says shows in the events and the status.
        let _ = tunnel.wait(Some(Duration::from_millis(200)));
        while let Ok(Some(event)) = tunnel.next_event() {
            if event.code == Some("internal") || event.kind == EventKind::Protocol {
                return Err(format!("the device says: {}", event.message));
            }
            if matches!(event.kind, EventKind::Waiting | EventKind::Listening | EventKind::Closed | EventKind::Stalled)
            {
                crate::say(&format!("device: {}", event.message));
            }
        }
        let status = tunnel.status().map_err(|error| error.to_string())?;
        // Another device took its place: it stays away until that one has surely been killed, or each would replace the other.
        let replaced = matches!(status.last_error, Some((_, "replaced"))) && status.since < STAYS_AWAY;
        let waits_long = status.next_attempt.is_some_and(|wait| wait > IMPATIENCE);
        if status.state == State::Closed || waits_long && !replaced {
            return Ok(());
        }
    }
}
