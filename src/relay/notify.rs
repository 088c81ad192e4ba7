//! What a relay that systemd started tells it. Without `NOTIFY_SOCKET` in the environment nothing is sent.
//!
//! A message may wait for systemd to read, so none is sent by the loop's thread.

use std::thread;
use std::time::Duration;

use sd_notify::NotifyState::{self, Ready, Reloading, Status, Stopping, Watchdog};
use tracing::warn;

use super::server::Controller;

/// The relay serves.
pub fn ready() {
    send(&[Ready, Status("serving")]);
}

/// The relay serves, but not as its configuration says now.
pub fn not_reloaded() {
    send(&[Ready, Status("serving; the configuration was not reloaded, and the log says why")]);
}

/// The relay reads its configuration again.
pub fn reloading() {
    if let Ok(now) = NotifyState::monotonic_usec_now() {
        send(&[Reloading, now, Status("reading its configuration again")]);
    }
}

/// The relay ends, once clients have had their time.
pub fn stopping() {
    send(&[Stopping, Status("waiting for clients to end")]);
}

/// Tells systemd again and again that the loop turns, if systemd wants to know. A loop that stands still says nothing, and
/// so is ended.
pub fn watch(controller: Controller) {
    let Some(interval) = sd_notify::watchdog_enabled() else { return };
    // As sd_watchdog_enabled(3) advises.
    let interval = (interval / 2).max(Duration::from_millis(1));
    let watch = move || {
        while let Some(is_alive) = controller.is_alive(interval) {
            if is_alive {
                send(&[Watchdog]);
                thread::sleep(interval);
            }
        }
    };
    if let Err(reason) = thread::Builder::new().name("watchdog".into()).spawn(watch) {
        warn!(%reason, "cannot tell systemd that the relay is alive");
    }
}

fn send(state: &[NotifyState<'_>]) {
    if let Err(reason) = sd_notify::notify(state) {
        warn!(%reason, "cannot tell systemd how the relay is");
    }
}
