//! Owners that end their tunnel, or their program, as soon as the device has joined.

use std::path::Path;

use tcpremote::device::{Enrolment, EventKind, Wait};

use super::relay::SecureRelay;
use crate::common::device::Device;
use crate::common::{DEADLINE, eventually};

/// How often: without waiting for the disk most come too early, and not all.
const TIMES: usize = 8;

/// A device that joins by a new string, in a directory of its own; it hears of another address than the string has.
fn joining(relay: &SecureRelay, state: &Path, name: &str) -> Device {
    let join = relay.join_string(name, relay.port()).encode().to_string();
    let enrolment = Enrolment::open(state, Some(&join), None).unwrap();
    Device::start_with(relay.port(), |config| config.enrolment = Some(enrolment))
}

#[test]
fn a_device_that_has_joined_stays_so_though_its_tunnel_is_closed_at_once() {
    let (relay, place) = (SecureRelay::start(&["pump"]), tempfile::tempdir().unwrap());
    for number in 0..TIMES {
        let state = place.path().join(number.to_string());
        let mut device = joining(&relay, &state, &format!("pump-{number}"));
        eventually("the link", DEADLINE, || device.is_listening());
        device.handle.close().unwrap();
        assert!(Enrolment::open(&state, None, None).unwrap().has_joined());
        device.wait_for(EventKind::Joined);
    }
}

#[test]
fn an_owner_sees_the_first_event_of_a_device_that_joins_once_that_is_stored() {
    let (relay, place) = (SecureRelay::start(&["pump"]), tempfile::tempdir().unwrap());
    for number in 0..TIMES {
        let state = place.path().join(number.to_string());
        let mut device = joining(&relay, &state, &format!("pump-{number}"));
        assert_eq!(device.handle.wait(Some(DEADLINE)).unwrap(), Wait::Ready);
        // Whoever opened the directory would wait for what is being stored.
        assert!(state.join("relay.toml").exists());
        device.wait_for(EventKind::Joined);
        let kinds: Vec<_> = device.events.iter().map(|event| event.kind).collect();
        assert_eq!(kinds, [EventKind::Listening, EventKind::Identity, EventKind::Joined], "{:?}", device.events);
    }
}
