//! Who is not admitted, who is not any more, and what each gets to read.

use super::*;
use crate::device::EventKind;
use crate::relay::registry::{NewToken, Newcomer, PrincipalName};

pub(super) const MINUTE: Duration = Duration::from_secs(60);

/// The device is refused so, and stays away for a minute and more.
fn assert_refused(secure: &mut Secure, handle: &Handle, code: &str, part: &str) {
    let (text, is) = secure.error_of(handle);
    assert!(is == code && text.contains(part), "{is}: {text}");
    let status = handle.status().expect("a status");
    assert_eq!(status.state, State::Waiting);
    assert!(status.next_attempt.is_some_and(|wait| wait > MINUTE / 2), "{status:?}");
}

#[test]
fn a_key_that_nobody_knows_is_told_to_join() {
    let mut secure = Secure::new();
    let handle = secure.start(&key(), None);
    assert_refused(&mut secure, &handle, "unknown", "this key is not known here; join with a token");
    secure.bench.run_until("nothing is left of it", |server| server.sessions.is_empty());
    let handshakes = secure.bench.server.secured.as_ref().map(|secured| secured.handshakes.len());
    assert_eq!((secure.registry.knocks().len(), handshakes), (1, Some(0)));
}

#[test]
fn a_token_is_for_one_key_which_may_come_again_with_it_and_a_wrong_one_costs_a_second() {
    let mut secure = Secure::new();
    let (first, join) = (key(), secure.token("pump-3", |_| {}));
    secure.device(&first, Some(join.clone())).close().expect("in this process");
    secure.device(&first, Some(join.clone())).close().expect("in this process");
    let began = Instant::now();
    let handle = secure.start(&key(), Some(join.clone()));
    assert_refused(&mut secure, &handle, "token", "the token is unknown, expired or used");
    assert!(began.elapsed() >= Duration::from_secs(1), "{:?}", began.elapsed());
    let wrong = Join { secret: Secret::random().expect("random bytes"), ..join };
    let handle = secure.start(&key(), Some(wrong));
    assert_refused(&mut secure, &handle, "token", "the token is unknown, expired or used");
}

#[test]
fn a_token_that_does_not_give_the_wish_says_so_and_is_still_good() {
    let mut secure = Secure::new();
    let (key, join) = (key(), secure.token("line7-*", |_| {}));
    let wish = |secure: &Secure, text| Identity { name: Some(name(text)), ..secure.identity(&key, Some(join.clone())) };
    let handle = secure.start_as(wish(&secure, "pump-3"));
    assert_refused(&mut secure, &handle, "token", "does not give the name that was wished");
    let handle = secure.start_as(wish(&secure, "line7-a"));
    secure.await_state(&handle, State::Listening);
    let announced = handle.announcement().expect("in this process").expect("admitted");
    assert_eq!(announced.name, Some(name("line7-a")));
}

#[test]
fn a_key_that_waits_for_approval_is_told_how_it_gets_that_and_is_let_in_then() {
    let mut secure = Secure::new();
    let (key, join) = (key(), secure.token("pump-3", |token: &mut NewToken| token.pending = true));
    let handle = secure.start(&key, Some(join));
    let command = format!("tcp-remote-relay approve {}", key.public().pin());
    assert_refused(&mut secure, &handle, "pending", &command);
    ask(|answer| secure.registry.approve(key.public().pin(), None, 0, answer));
    handle.reconnect().expect("it goes on");
    secure.await_state(&handle, State::Listening);
}

#[test]
fn a_relay_with_another_key_is_none_for_the_device() {
    let mut secure = Secure::new();
    let others = Pins { current: key().public().pin(), next: key().public().pin() };
    let mut config = secure.config(Identity { pins: others, ..secure.identity(&key(), None) });
    config.keep_trying = true;
    let handle = Handle::start(config).expect("a tunnel");
    let shown = secure.pins().current.to_string();
    assert_refused(&mut secure, &handle, "pin", &shown);
    let handle = Handle::start(secure.config(Identity { pins: others, ..secure.identity(&key(), None) }));
    let handle = handle.expect("a tunnel");
    secure.await_state(&handle, State::Closed);
    assert_eq!(handle.status().expect("a status").last_error.map(|(_, code)| code), Some("pin"));
    secure.bench.run_until("nothing is left of it", |server| server.sessions.is_empty());
    // The next key will do.
    let next = Pins { current: others.current, next: secure.pins().current };
    let handle = secure.start_as(Identity { pins: next, ..secure.identity(&key(), None) });
    assert_refused(&mut secure, &handle, "unknown", "join");
}

#[test]
fn a_newer_link_of_a_device_takes_the_place_of_the_one_before_which_stays_away() {
    let mut secure = Secure::new();
    let port = secure.port_of("pump-3");
    let (key, join) = (key(), secure.token("pump-3", |_| {}));
    let older = secure.device(&key, Some(join));
    let mut client = TcpStream::connect(port).expect("connect");
    assert_eq!(secure.echo(&mut client, b"older"), b"older");
    // Of another process, as its instance says.
    let newer = secure.start_as(Identity { instance: [2; 16], ..secure.identity(&key, None) });
    secure.await_state(&newer, State::Listening);
    let text =
        "taken over by another program or device that has the same key; give each a state_dir of its own, and let";
    assert_refused(&mut secure, &older, "replaced", text);
    assert_eq!(cut(&mut [client]), [0], "its clients are cut");
    let mut client = TcpStream::connect(port).expect("connect");
    assert_eq!(secure.echo(&mut client, b"newer"), b"newer");
}

#[test]
fn a_device_was_seen_last_when_its_link_ended() {
    let mut secure = Secure::new();
    let join = secure.token("pump-3", |_| {});
    let handle = secure.device(&key(), Some(join));
    let seen = |secure: &Secure| secure.registry.list()[0].seen.expect("it came");
    let came = seen(&secure);
    let passed = || std::time::SystemTime::UNIX_EPOCH.elapsed().is_ok_and(|now| now.as_secs() > came);
    secure.bench.run_until("the next second", |_| passed());
    handle.close().expect("in this process");
    secure.bench.run_until("the link is gone", |server| server.served == 0);
    assert!(seen(&secure) > came);
}

#[test]
fn a_device_that_is_revoked_is_cut_at_once_with_its_clients_and_no_other_is() {
    let mut secure = Secure::new();
    let (port, other_port) = (secure.port_of("pump-3"), secure.port_of("pump-4"));
    let (key, other_key) = (key(), key());
    let (join, other_join) = (secure.token("pump-3", |_| {}), secure.token("pump-4", |_| {}));
    let handle = secure.device(&key, Some(join));
    let _other = secure.device(&other_key, Some(other_join));
    let mut clients = [port, other_port].map(|port| TcpStream::connect(port).expect("connect"));
    for client in &mut clients {
        assert_eq!(secure.echo(client, b"there"), b"there");
    }
    // The loop sleeps, and nothing but the registry wakes it.
    while secure.bench.server.is_busy() {
        secure.bench.server.step(&mut secure.bench.buffer);
    }
    let revoked = PrincipalName::Device(name("pump-3"));
    ask(|answer| secure.registry.revoke(revoked.clone(), 0, answer));
    let began = Instant::now();
    while secure.bench.server.clients() == 2 {
        secure.bench.server.wait(Some(began + 4 * DEADLINE)).expect("wait");
        secure.bench.server.step(&mut secure.bench.buffer);
    }
    assert!(began.elapsed() < DEADLINE, "it was woken");
    let [client, mut other] = clients;
    assert_eq!(cut(&mut [client]), [0]);
    assert_refused(&mut secure, &handle, "revoked", "this key is revoked");
    assert_eq!(secure.echo(&mut other, b"still"), b"still");
    let handle = secure.start(&key, None);
    assert_refused(&mut secure, &handle, "revoked", "this key is revoked");
    ask(|answer| secure.registry.unrevoke(revoked, 0, answer));
    handle.reconnect().expect("it goes on");
    secure.await_state(&handle, State::Listening);
}

#[test]
fn a_device_that_is_removed_or_renamed_is_told_so_and_not_that_it_is_revoked() {
    let mut secure = Secure::new();
    let (key, join) = (key(), secure.token("pump-3", |_| {}));
    let handle = secure.device(&key, Some(join));
    let remove =
        |secure: &Secure| ask(|answer| secure.registry.remove(PrincipalName::Device(name("pump-3")), 0, answer));
    let add = |secure: &Secure, text| {
        let newcomer =
            Newcomer { name: PrincipalName::Device(name(text)), key: *key.public(), labels: Labels::default() };
        ask(|answer| secure.registry.add(newcomer, 0, answer))
    };
    remove(&secure);
    assert_refused(&mut secure, &handle, "unknown", "this device was removed, so its key is not known here any more");
    add(&secure, "pump-3");
    handle.reconnect().expect("it goes on");
    secure.await_state(&handle, State::Listening);
    // Both before the loop looks at the registry.
    remove(&secure);
    add(&secure, "pump-4");
    assert_refused(&mut secure, &handle, "unknown", "this key was given another name; connect again");
    handle.reconnect().expect("it goes on");
    secure.await_state(&handle, State::Listening);
    let announced = handle.announcement().expect("in this process").expect("admitted");
    assert_eq!(announced.name, Some(name("pump-4")));
}

#[test]
fn a_port_for_the_wrong_kind_of_link_says_so() {
    let mut secure = Secure::new();
    let config = device::Config::new(secure.port().to_string().parse().expect("an address"));
    let handle = Handle::start(config).expect("a tunnel");
    let (text, code) = secure.error_of(&handle);
    assert!(code == "lost" && text.contains("this port is for devices with an identity"), "{code}: {text}");
    let events: Vec<_> = std::iter::from_fn(|| handle.next_event().expect("in this process")).collect();
    assert!(events.iter().all(|event| event.kind != EventKind::Listening), "it was never up: {events:?}");

    let mut plain = Bench::with_devices(1, 1, |_| {});
    let mut config = device::Config::new(plain.server.device_addr().to_string().parse().expect("an address"));
    config.identity = Some(secure.identity(&key(), None));
    let handle = Handle::start(config).expect("a tunnel");
    plain.run_until("it is refused", |_| handle.status().expect("a status").state == State::Closed);
    let (text, code) = handle.status().expect("a status").last_error.expect("an error");
    assert!(code == "tls" && text.contains("is it a port for TLS?"), "{code}: {text}");
}
