//! A device joins by a string, and comes again by what its directory holds.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::thread;

use tempfile::TempDir;

use super::refusals::MINUTE;
use super::*;
use crate::Error;
use crate::device::{Enrolment, Event, EventKind};
use crate::identity::{JoinString, Kind};
use crate::relay::registry;

impl Secure {
    /// A join string for a device of that name, which says that the relay is there.
    fn join_string(&mut self, subject: &str, addresses: &[SocketAddr]) -> String {
        self.join_string_of(subject, addresses, |_| {})
    }

    /// The same, by a token that is changed as is wanted.
    fn join_string_of(
        &mut self,
        subject: &str,
        addresses: &[SocketAddr],
        change: impl FnOnce(&mut NewToken),
    ) -> String {
        let Join { token, secret } = self.token(subject, change);
        let addresses = addresses.iter().map(|address| address.to_string().parse().expect("an address")).collect();
        let join = JoinString::new(Kind::Device, addresses, self.pins(), token, secret).expect("a string");
        join.encode().to_string()
    }

    /// A tunnel by what lies in the directory, and this string.
    fn enrolled(&self, directory: &Path, join: Option<&str>, wish: Option<&str>) -> Result<Handle, Error> {
        start(Enrolment::open(directory, join, wish.map(name))?, |_| {})
    }

    /// All events until one of this kind.
    fn events_until(&mut self, handle: &Handle, kind: EventKind) -> Vec<Event> {
        let mut events = Vec::new();
        self.bench.run_until(&format!("{kind:?}"), |_| {
            events.extend(std::iter::from_fn(|| handle.next_event().expect("events")));
            events.iter().any(|event: &Event| event.kind == kind || event.kind == EventKind::Closed)
        });
        events
    }

    fn joins(&mut self, directory: &Path, join: &str) -> String {
        let handle = self.enrolled(directory, Some(join), None).expect("a tunnel");
        let events = self.events_until(&handle, EventKind::Joined);
        let joined = events.last().expect("an event");
        assert_eq!(joined.kind, EventKind::Joined, "{events:?}");
        handle.close().expect("closed");
        joined.message.clone()
    }
}

/// A relay, and the directory of a device that has not joined it yet, below one that is removed in the end.
fn with_directory() -> (Secure, TempDir, PathBuf) {
    let place = tempfile::tempdir().expect("a directory");
    let state = place.path().join("state");
    (Secure::new(), place, state)
}

/// The same, once the device has joined as pump-3.
fn with_member() -> (Secure, TempDir, PathBuf) {
    let (mut relay, place, state) = with_directory();
    let join = relay.join_string("pump-3", &[relay.port()]);
    relay.joins(&state, &join);
    (relay, place, state)
}

/// A tunnel by this enrolment, and a configuration that is changed as is wanted.
fn start(enrolment: Enrolment, change: impl FnOnce(&mut device::Config)) -> Result<Handle, Error> {
    let mut config = device::Config::new(enrolment.addresses()[0].clone());
    config.enrolment = Some(enrolment);
    change(&mut config);
    Handle::start(config)
}

/// The name and the key by which the relay knows a device.
fn who(handle: &Handle) -> (String, Pin) {
    let (name, key) = handle.status().expect("a status").identity.expect("an identity");
    (name.expect("a name").to_string(), key)
}

/// The directory of a device knows the relay's address by the join string alone: what the relay announces has none.
fn forget_announced(state: &Path) {
    let stored = fs::read_to_string(state.join("relay.toml")).expect("a file");
    fs::write(state.join("relay.toml"), stored.replace("[\"relay.example.com:443\"]", "[]")).expect("written");
}

fn refusing() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").expect("bind").local_addr().expect("address")
}

#[test]
fn a_device_joins_by_a_string_once_and_by_its_directory_for_ever() {
    let (mut relay, _place, state) = with_directory();
    let none = Enrolment::open(&state, None, None).expect_err("nothing there").to_string();
    let expected = format!(
        "has joined no relay yet; run 'tcpremote join - --state-dir {}', or give join, with the string that \
         'tcp-remote-relay token device NAME' prints",
        state.display()
    );
    assert!(none.ends_with(&expected), "{none}");
    assert!(!state.exists(), "looking makes no directory");

    // The first address does not answer, and the relay announces one that cannot be resolved.
    let join = relay.join_string("pump-3", &[refusing(), relay.port()]);
    let message = relay.joins(&state, &join);
    let key = Enrolment::open(&state, None, None).expect("joined").fingerprint();
    assert_eq!(message, format!("this device has joined the relay as pump-3; its key is {key}"));
    let stored = fs::read_to_string(state.join("relay.toml")).expect("a file");
    assert!(stored.contains("\nname = \"pump-3\"\n"), "{stored}");
    assert!(stored.contains("\naddresses = [\"relay.example.com:443\"]\n"), "{stored}");

    for join in [None, Some(&*join)] {
        // The token is used, and is not looked at.
        let enrolment = Enrolment::open(&state, join, None).expect("a member");
        assert!(enrolment.has_joined() && !enrolment.is_joining());
        forget_announced(&state);
        let handle = relay.enrolled(&state, join, None).expect("a tunnel");
        relay.await_state(&handle, State::Listening);
        assert_eq!(who(&handle), ("pump-3".into(), key));
        handle.close().expect("closed");
    }
}

#[test]
fn a_token_that_is_used_is_refused_and_the_key_stays_for_the_next_try() {
    let mut relay = Secure::new();
    let place = tempfile::tempdir().expect("a directory");
    let join = relay.join_string("pump-3", &[relay.port()]);
    relay.joins(&place.path().join("first"), &join);
    let state = place.path().join("second");
    let handle = relay.enrolled(&state, Some(&join), None).expect("a tunnel");
    let (message, code) = relay.error_of(&handle);
    assert_eq!(code, "token");
    assert!(message.contains(" was refused by the relay: "), "{message}");
    let mut names: Vec<_> = fs::read_dir(&state).expect("files").map(|entry| entry.expect("one").file_name()).collect();
    names.sort();
    assert_eq!(names, ["joining", "key"], "nothing but the key is there, and for which relay it is");
    let before = fs::read(state.join("key")).expect("a key");
    let wished = relay.join_string("pump-*", &[relay.port()]);
    let handle = relay.enrolled(&state, Some(&wished), Some("pump-4")).expect("a tunnel");
    relay.events_until(&handle, EventKind::Joined);
    assert_eq!(who(&handle).0, "pump-4");
    assert_eq!(fs::read(state.join("key")).expect("a key"), before);
}

#[test]
fn another_join_string_changes_the_key_once_it_has_succeeded_and_not_before() {
    let (mut relay, place, state) = with_member();
    let key = Enrolment::open(&state, None, None).expect("joined").fingerprint();

    // A string that another device has used: the device goes on as pump-3.
    let used = relay.join_string("pump-4", &[relay.port()]);
    relay.joins(&place.path().join("other"), &used);
    forget_announced(&state);
    let handle = relay.enrolled(&state, Some(&used), None).expect("a tunnel");
    relay.await_state(&handle, State::Listening);
    assert_eq!(who(&handle), ("pump-3".into(), key));
    let events = relay.events_until(&handle, EventKind::Listening);
    let given_up = events.iter().find(|event| event.kind == EventKind::Identity).expect("an event");
    let text = "the relay does not take the new join string (token), so this device goes on as it was; ask the relay's \
         operator for another";
    assert_eq!((&*given_up.message, given_up.code), (text, Some("token")));
    handle.close().expect("closed");

    // A relay that is not there. The one that is has said again where it is to be found.
    forget_announced(&state);
    let nowhere = relay.join_string("pump-6", &[refusing()]);
    let handle = relay.enrolled(&state, Some(&nowhere), None).expect("a tunnel");
    let events = relay.events_until(&handle, EventKind::Listening);
    assert_eq!((events[0].kind, events[0].code), (EventKind::Identity, Some("refused")));
    let text = "; this device goes on as it was, and tries to join with its next link";
    assert!(events[0].message.ends_with(text), "{events:?}");
    assert_eq!(who(&handle), ("pump-3".into(), key));
    handle.close().expect("closed");

    let other = relay.join_string("pump-5", &[relay.port()]);
    let new = Enrolment::open(&state, Some(&other), None).expect("both").fingerprint();
    assert_ne!(new, key);
    let message = relay.joins(&state, &other);
    assert_eq!(message, format!("this device has joined the relay as pump-5; its key is {new}"));
    let mut names: Vec<_> = fs::read_dir(&state).expect("files").map(|entry| entry.expect("one").file_name()).collect();
    names.sort();
    assert_eq!(names, ["key", "relay.toml"]);
    assert_eq!(Enrolment::open(&state, None, None).expect("joined").fingerprint(), new);
}

#[test]
fn a_device_that_has_joined_goes_on_where_the_new_join_string_cannot_be_used() {
    let (mut relay, _place, state) = with_directory();
    assert!(Enrolment::open(&state, Some("tcpr1.x"), None).is_err());
    assert!(!state.exists(), "what cannot be read makes no directory");
    let first = relay.join_string("pump-3", &[relay.port()]);
    relay.joins(&state, &first);
    forget_announced(&state);
    // Where the key of this one is to be written there is a directory, as on a disk without room.
    let other = relay.join_string("pump-4", &[relay.port()]);
    let token = JoinString::decode(&other, Kind::Device).expect("a string").token();
    fs::create_dir(state.join(format!(".key.{token}.new"))).expect("made");
    for (join, code) in [("tcpr1.x", "usage"), ("", "usage"), (&*other, "state_dir")] {
        let enrolment = Enrolment::open(&state, Some(join), None).expect("a member");
        assert!(enrolment.has_joined() && !enrolment.is_joining());
        assert_eq!(Enrolment::open_strictly(&state, Some(join), None).expect_err("no use").code(), code);
        let handle = relay.enrolled(&state, Some(join), None).expect("a tunnel");
        let events = relay.events_until(&handle, EventKind::Listening);
        assert_eq!((events[0].kind, events[0].code), (EventKind::Identity, Some(code)));
        assert!(events[0].message.ends_with("; this device goes on as it was"), "{events:?}");
        assert_eq!(who(&handle).0, "pump-3");
        handle.close().expect("closed");
        forget_announced(&state);
    }
}

#[test]
fn what_cannot_be_stored_is_said_and_the_link_goes_on() {
    let (mut relay, _place, state) = with_directory();
    let join = relay.join_string("pump-3", &[relay.port()]);
    let enrolment = Enrolment::open(&state, Some(&join), None).expect("a key");
    // Where the file is to be written there is a directory, which even root cannot write over.
    fs::create_dir(state.join(".relay.toml.new")).expect("made");
    let handle = start(enrolment, |_| {}).expect("a tunnel");
    let mut events = Vec::new();
    relay.bench.run_until("that it cannot be stored", |_| {
        events.extend(std::iter::from_fn(|| handle.next_event().expect("events")));
        events.iter().any(|event: &Event| event.code == Some("state_dir"))
    });
    let error = events.iter().find(|event| event.code == Some("state_dir")).expect("an event");
    assert!(
        error.message.starts_with("state_dir: cannot write '") && error.message.contains("relay.toml': "),
        "{error:?}"
    );
    assert!(error.message.ends_with("is not stored, which is tried again with the next link"), "{error:?}");
    assert!(events.iter().all(|event| event.kind != EventKind::Joined));
    assert_eq!(handle.status().expect("a status").state, State::Listening);
    let stored = state.join("relay.toml");
    assert!(!stored.exists());
    fs::remove_dir(state.join(".relay.toml.new")).expect("removed");
    handle.reconnect().expect("it goes on");
    let joined = relay.events_until(&handle, EventKind::Joined);
    assert!(stored.exists(), "{joined:?}");
    handle.close().expect("closed");
    fs::remove_file(stored).expect("removed");
    // The same key presents the same token, and that is taken.
    let message = relay.joins(&state, &join);
    assert!(message.starts_with("this device has joined the relay as pump-3; "), "{message}");
}

#[test]
fn a_join_string_that_was_used_before_another_one_means_nothing() {
    let (mut relay, _place, state) = with_directory();
    // It would be good for another key, too.
    let first = relay.join_string_of("pump-*", &[relay.port()], |token| token.uses = 5);
    relay.joins(&state, &first);
    let second = relay.join_string("pump-4", &[relay.port()]);
    relay.joins(&state, &second);
    let key = fs::read(state.join("key")).expect("a key");
    for join in [&first, &second] {
        let enrolment = Enrolment::open_strictly(&state, Some(join), None).expect("a member");
        assert!(enrolment.has_joined() && !enrolment.is_joining());
        assert_eq!(enrolment.name().map(Name::as_str), Some("pump-4"));
    }
    forget_announced(&state);
    let handle = relay.enrolled(&state, Some(&first), None).expect("a tunnel");
    relay.await_state(&handle, State::Listening);
    assert_eq!(who(&handle).0, "pump-4");
    handle.close().expect("closed");
    assert_eq!(fs::read(state.join("key")).expect("a key"), key);
}

#[test]
fn a_device_whose_key_is_barred_goes_on_by_the_key_with_which_another_program_has_joined() {
    let (mut relay, _place, state) = with_member();
    forget_announced(&state);
    let enrolment = Enrolment::open(&state, None, None).expect("a member");
    let handle = start(enrolment, |config| config.connect_timeout = Duration::from_secs(1)).expect("a tunnel");
    relay.await_state(&handle, State::Listening);
    let (_, before) = who(&handle);

    let next = relay.join_string_of("pump-3", &[relay.port()], |token| token.replace = true);
    relay.joins(&state, &next);
    let key = Enrolment::open(&state, None, None).expect("joined").fingerprint();
    assert_ne!(key, before);
    // The old key is revoked, and tried again after a minute at the earliest.
    let began = Instant::now();
    relay
        .bench
        .run_until("the new key", |_| handle.status().expect("a status").identity.is_some_and(|(_, is)| is == key));
    assert!(began.elapsed() < MINUTE, "{:?}", began.elapsed());
    let events: Vec<Event> = std::iter::from_fn(|| handle.next_event().expect("events")).collect();
    assert!(events.iter().any(|event| event.code == Some("revoked")), "{events:?}");
    let text = format!("another program has joined a relay as pump-3, and this device goes on by that key, {key}");
    assert!(events.iter().any(|event| event.kind == EventKind::Identity && event.message == text), "{events:?}");
}

#[test]
fn a_device_that_knows_none_of_the_relays_keys_any_more_takes_what_another_program_has_stored() {
    let (mut relay, _place, state) = with_member();
    forget_announced(&state);
    let file = state.join("relay.toml");
    let stored = fs::read_to_string(&file).expect("a file");
    // As it was two changes of the relay's key ago.
    let (known, old) = (relay.pins(), Pins { current: Pin([1; 32]), next: Pin([2; 32]) });
    let before = stored
        .replace(&known.current.to_string(), &old.current.to_string())
        .replace(&known.next.to_string(), &old.next.to_string());
    fs::write(&file, before).expect("written");
    let enrolment = Enrolment::open(&state, None, None).expect("a member");
    let handle = start(enrolment, |config| config.keep_trying = true).expect("a tunnel");
    let events = relay.events_until(&handle, EventKind::Waiting);
    assert_eq!(events.last().and_then(|event| event.code), Some("pin"), "{events:?}");
    fs::write(&file, stored).expect("written");
    // It would try again after a minute at the earliest.
    let began = Instant::now();
    let events = relay.events_until(&handle, EventKind::Listening);
    assert!(began.elapsed() < MINUTE, "{:?}", began.elapsed());
    let told = events.iter().find(|event| event.kind == EventKind::Identity).expect("an event");
    assert!(
        told.message.starts_with("another program has stored more of the relay, and this device goes on by that: ")
    );
}

#[test]
fn all_addresses_of_a_relay_have_one_time_in_which_the_first_link_is_to_be_there() {
    let mut relay = Secure::new();
    let place = tempfile::tempdir().expect("a directory");
    let start = |state: &str, join: &str, time: Duration| {
        let enrolment = Enrolment::open(&place.path().join(state), Some(join), None).expect("a key");
        start(enrolment, |config| config.connect_timeout = time).expect("a tunnel")
    };
    // They take connections, and never answer in TLS.
    let silent = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").expect("bind"));
    let [a, b, c] = silent.each_ref().map(|listener| listener.local_addr().expect("address"));
    let (time, began) = (Duration::from_secs(1), Instant::now());
    let join = relay.join_string("pump-3", &[a, b, c]);
    let handle = start("first", &join, time);
    assert_eq!(relay.error_of(&handle).1, "timeout");
    // Each of them alone would have 20 s for its answer.
    assert!(began.elapsed() >= time && began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());

    let join = relay.join_string("pump-4", &[a, b, relay.port()]);
    let handle = start("second", &join, Duration::from_secs(3));
    relay.await_state(&handle, State::Listening);
    assert_eq!(who(&handle).0, "pump-4");
}

#[test]
fn of_addresses_that_all_fail_each_is_told_and_most_of_that_where_something_else_answers() {
    let (mut relay, _place, state) = with_directory();
    let web = TcpListener::bind("127.0.0.1:0").expect("bind");
    let (at_web, refusing) = (web.local_addr().expect("address"), refusing());
    let server = thread::spawn(move || {
        let (mut stream, _) = web.accept()?;
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")?;
        // What the device has sent is read, or its own end would be a reset.
        io::copy(&mut stream, &mut io::sink())
    });
    let join = relay.join_string("pump-3", &[at_web, refusing]);
    let enrolment = Enrolment::open(&state, Some(&join), None).expect("a key");
    let handle = start(enrolment, |_| {}).expect("a tunnel");
    let (text, code) = relay.error_of(&handle);
    let expected = format!(
        "the link to {at_web} was given up: the other end speaks no TLS; it sent HTTP; its other addresses failed, too: \
         {refusing} (refused)"
    );
    assert_eq!((text, code), (expected, "tls"));
    server.join().expect("a server").expect("served");
}

#[test]
fn a_key_that_waits_and_is_refused_for_good_is_forgotten_by_a_device_with_another() {
    let (mut relay, _place, state) = with_member();
    // The relay does not know the key, as where the operator has removed it.
    let join = relay.join_string("pump-4", &[relay.port()]);
    let enrolment = Enrolment::open_strictly(&state, Some(&join), None).expect("a key");
    enrolment.await_approval().expect("stored");
    assert!(state.join("pending.toml").exists());
    let handle = relay.enrolled(&state, None, None).expect("a tunnel");
    relay.await_state(&handle, State::Listening);
    assert_eq!(who(&handle).0, "pump-3");
    relay.bench.run_until("it is forgotten", |_| !state.join("pending.toml").exists());
    handle.close().expect("closed");
}

#[test]
fn a_key_that_was_approved_meanwhile_comes_up_without_the_string() {
    for has_joined in [false, true] {
        let (mut relay, _place, state) = if has_joined { with_member() } else { with_directory() };
        let join = relay.join_string_of("pump-4", &[relay.port()], |token| token.pending = true);
        let handle = relay.enrolled(&state, Some(&join), None).expect("a tunnel");
        let registry = Arc::clone(&relay.registry);
        let is_pending = || registry.list().iter().any(|known| known.principal.state == registry::State::Pending);
        relay.bench.run_until("its key waits", |_| is_pending());
        handle.close_within(Duration::ZERO).expect("closed");
        let enrolment = Enrolment::open_strictly(&state, Some(&join), None).expect("a key");
        let key = enrolment.fingerprint();
        enrolment.await_approval().expect("stored");
        let pending = fs::read_to_string(state.join("pending.toml")).expect("a file");
        let secret = JoinString::decode(&join, Kind::Device).expect("a string").secret().as_bytes().to_vec();
        let secret: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
        assert!(pending.contains(&key.to_string()) && !pending.contains(&secret), "{pending}");
        let waiting = Enrolment::open(&state, None, None).expect("a key that waits");
        assert_eq!((waiting.is_joining(), waiting.has_joined(), waiting.fingerprint()), (true, has_joined, key));
        ask(|answer| relay.registry.approve(key, None, 0, answer));
        let handle = relay.enrolled(&state, None, None).expect("a tunnel");
        let events = relay.events_until(&handle, EventKind::Joined);
        assert_eq!(
            (events.last().map(|event| event.kind), who(&handle)),
            (Some(EventKind::Joined), ("pump-4".into(), key))
        );
        handle.close().expect("closed");
        assert!(!state.join("pending.toml").exists());
        let now = Enrolment::open(&state, Some(&join), None).expect("a member");
        assert_eq!((now.is_joining(), now.name().map(Name::as_str)), (false, Some("pump-4")));
    }
}
