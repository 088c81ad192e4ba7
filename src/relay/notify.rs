//! What a relay tells systemd, where that has started it.
//!
//! A message may wait for systemd to read, so none is sent by the loop's thread once that serves.

use std::env;
use std::io;
use std::thread;
use std::time::Duration;

use sd_notify::NotifyState::{self, Ready, Reloading, Status, Stopping, Watchdog};
use tracing::warn;

use super::server::Controller;
use crate::service_manager::{SOCKET, TIMEOUT, notify};

/// How long to wait for a loop that does not turn, beyond the time that it has.
const PAUSE: Duration = Duration::from_millis(10);
const SERVING: &[NotifyState<'static>] = &[Ready, Status("serving")];

/// The relay serves from now on. For this systemd has the time that it takes; but without a thread to wait in a second at
/// most, since the loop has yet to begin. Without this message systemd would end the relay.
pub fn started() {
    if env::var_os(SOCKET).is_none() {
        return;
    }
    let tell = || warn_of(send(SERVING, None));
    if thread::Builder::new().name("started".into()).spawn(tell).is_err() {
        ready();
    }
}

/// The relay serves as before.
pub fn ready() {
    warn_of(send(SERVING, Some(TIMEOUT)));
}

/// The relay serves, but not as its configuration says now.
pub fn not_reloaded() {
    let status = Status("serving; the configuration was not reloaded, and the log says why");
    warn_of(send(&[Ready, status], Some(TIMEOUT)));
}

/// The relay reads its configuration again.
pub fn reloading() {
    if let Ok(now) = NotifyState::monotonic_usec_now() {
        warn_of(send(&[Reloading, now, Status("reading its configuration again")], Some(TIMEOUT)));
    }
}

/// The relay ends, once clients have had their time.
pub fn stopping() {
    warn_of(send(&[Stopping, Status("waiting for clients to end")], Some(TIMEOUT)));
}

/// Tells systemd again and again that the loop turns, if systemd wants to know. A loop that stands still says nothing, and
/// so is ended.
pub fn watch(controller: Controller) {
    // No time at all is none, as sd_watchdog_enabled(3) has it.
    let Some(interval) = sd_notify::watchdog_enabled().filter(|time| !time.is_zero()) else { return };
    // As sd_watchdog_enabled(3) advises.
    let interval = (interval / 2).max(Duration::from_millis(1));
    let watch = move || {
        let mut is_failing = false;
        while let Some(is_alive) = controller.is_alive(interval) {
            if !is_alive {
                thread::sleep(PAUSE);
                continue;
            }
            let sent = send(&[Watchdog], Some(TIMEOUT));
            if !std::mem::replace(&mut is_failing, sent.is_err()) {
                warn_of(sent);
            }
            thread::sleep(interval);
        }
    };
    warn_of(thread::Builder::new().name("watchdog".into()).spawn(watch).map(drop));
}

fn send(state: &[NotifyState<'_>], within: Option<Duration>) -> io::Result<()> {
    let lines: Vec<String> = state.iter().map(ToString::to_string).collect();
    notify(&lines.join("\n"), within)
}

fn warn_of(sent: io::Result<()>) {
    if let Err(reason) = sent {
        warn!(%reason, "cannot tell systemd how the relay is");
    }
}
