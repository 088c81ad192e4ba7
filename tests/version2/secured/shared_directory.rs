//! Programs that have one directory, of which each joins a relay of its own.

use std::fs;

use tcpremote::device::{Enrolment, EventKind};

use super::relay::{SecureRelay, echo_at};
use crate::common::device::Device;
use crate::common::service::{Service, expect_echo};

#[test]
fn programs_that_join_two_relays_in_one_directory_show_neither_the_others_key_and_the_second_is_told() {
    let (first, second) = (SecureRelay::start(&["pump-3"]), SecureRelay::start(&["pump-4"]));
    let (place, echo) = (tempfile::tempdir().unwrap(), Service::echo());
    let state = place.path().join("state");
    let joins = [(&first, "pump-3"), (&second, "pump-4")]
        .map(|(relay, name)| relay.join_string(name, relay.port()).encode().to_string());
    // Both begin before either has joined.
    let enrolments = joins.each_ref().map(|join| Enrolment::open(&state, Some(join), None).unwrap());
    let keys = enrolments.each_ref().map(Enrolment::fingerprint);
    assert_ne!(keys[0], keys[1]);
    let start = |enrolment: Enrolment| {
        let server = enrolment.addresses()[0].to_string().parse().unwrap();
        Device::start_with(server, |config| {
            config.offer(echo_at(echo.address()));
            (config.enrolment, config.reconnect) = (Some(enrolment), true);
        })
    };
    let [one, other] = enrolments;
    let mut one = start(one);
    one.wait_for(EventKind::Joined);
    let mut other = start(other);
    other.wait_for(EventKind::Listening);
    let told = other.wait_for(EventKind::Identity);
    assert_eq!(told.code, Some("state_dir"));
    let text = format!(
        "state_dir: another program has joined another relay in '{}'; give each program a state_dir of its own, and let \
         this one join there by another join string; ",
        fs::canonicalize(&state).unwrap().display()
    );
    assert!(told.message.starts_with(&text), "{}", told.message);
    // Each serves its own relay, and the directory is the first one's.
    for (relay, name, key) in [(&first, "pump-3", keys[0]), (&second, "pump-4", keys[1])] {
        expect_echo(relay.relay.client_addrs()[0]);
        let known = relay.done(&["devices", "--json"]);
        assert!(known.contains(name) && known.contains(&key.to_string()), "{known}");
        assert!(keys.iter().all(|other| *other == key || !known.contains(&other.to_string())), "{known}");
    }
    assert_eq!(Enrolment::open(&state, None, None).unwrap().fingerprint(), keys[0]);
    assert!(one.events.iter().all(|event| event.code.is_none()), "{:?}", one.events);
}
