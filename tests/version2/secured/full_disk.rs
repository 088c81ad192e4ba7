//! A disk that takes nothing more while the relay runs.

use std::process::Command;
use std::time::Duration;

use tcpremote::device::EventKind;

use super::Neighbour;
use super::relay::{Place, SecureRelay, new_key};
use crate::common::service::Service;

/// How large a file of the process may become from now on; pipes and sockets have no such limit.
fn limit_files(relay: &SecureRelay, bytes: &str) -> bool {
    let process = relay.relay.process().to_string();
    let limited = Command::new("prlimit").args(["--pid", &process, &format!("--fsize={bytes}:")]).status();
    limited.is_ok_and(|status| status.success())
}

#[test]
fn a_relay_whose_disk_takes_nothing_serves_those_that_it_knows_refuses_others_for_now_and_goes_on_when_it_does() {
    // Without the signal a write beyond the limit is an error, as of a disk that is full or read-only.
    let relay = SecureRelay::start_at(Place::new(&[Neighbour::NAME, "newcomer"], "info"), 1, "trap '' XFSZ");
    let mut neighbour = Neighbour::of(&relay);
    let (token, key, echo) = (relay.token("newcomer"), new_key(), Service::echo());
    if !limit_files(&relay, "4096") {
        return;
    }
    let mut newcomer = relay.device(&key, Some(token), echo.address());
    let refused = newcomer.wait_for(EventKind::Waiting);
    assert!(refused.message.contains("the relay cannot look the key up now"), "{}", refused.message);
    // A disk is often free again soon.
    assert!(newcomer.status().next_attempt.is_none_or(|wait| wait <= Duration::from_secs(15)), "{refused:?}");
    relay.relay.wait_for_log("the registry cannot decide about a device");
    for change in [&["token", "device", "another"][..], &["revoke", Neighbour::NAME]] {
        let output = relay.output(change);
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(1) && text.contains("registry.db"), "{change:?}: {text}");
        assert!(text.contains("nothing was changed"), "{change:?}: {text}");
    }
    // It is answered from memory, for links that are there and for new ones.
    neighbour.echo();
    assert!(relay.done(&["devices"]).contains(Neighbour::NAME));
    neighbour.device.handle.reconnect().unwrap();
    neighbour.device.wait_for(EventKind::Listening);

    assert!(limit_files(&relay, "unlimited"));
    newcomer.handle.reconnect().unwrap();
    newcomer.wait_for(EventKind::Listening);
    relay.done(&["revoke", "newcomer"]);
    let revoked = newcomer.wait_for(EventKind::Waiting);
    assert_eq!(revoked.code, Some("revoked"), "{}", revoked.message);
}
