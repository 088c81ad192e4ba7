//! Owners that end their tunnel, or their program, as soon as the device has joined.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use tcpremote::device::{Enrolment, EventKind, Wait};

use super::relay::SecureRelay;
use crate::common::device::Device;
use crate::common::{DEADLINE, eventually};

/// How often: without waiting for the disk most come too early, and not all.
const TIMES: usize = 8;

/// To join by a new string, in a directory of its own; the device hears of another address than the string has.
fn enrolment(relay: &SecureRelay, state: &Path, name: &str) -> Enrolment {
    let join = relay.join_string(name, relay.port()).encode().to_string();
    Enrolment::open(state, Some(&join), None).unwrap()
}

fn joining(relay: &SecureRelay, state: &Path, name: &str) -> Device {
    start(relay, enrolment(relay, state, name))
}

fn start(relay: &SecureRelay, enrolment: Enrolment) -> Device {
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

#[test]
fn one_who_drops_a_tunnel_or_does_not_wait_for_its_end_is_not_held_up_by_what_is_stored_behind_that() {
    let (relay, place) = (SecureRelay::start(&["pump"]), tempfile::tempdir().unwrap());
    for is_closed_first in [false, true] {
        let name = format!("pump-{is_closed_first}");
        let state = place.path().join(&name);
        let enrolment = enrolment(&relay, &state, &name);
        let lock = File::open(&state).unwrap();
        flock(&lock, FlockOperation::LockExclusive).unwrap();
        let device = start(&relay, enrolment);
        eventually("the link", DEADLINE, || device.is_listening());
        if is_closed_first {
            assert!(!device.handle.close_within(Duration::ZERO).unwrap(), "it waits for the lock");
        }
        drop(device);
        // Who waits for the lock in vain stores nothing.
        drop(lock);
        eventually("what the relay said is stored", DEADLINE, || state.join("relay.toml").exists());
    }
}
