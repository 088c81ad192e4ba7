use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

use super::super::super::Config;
use super::super::super::attempt::Reached;
use super::super::super::shared::Shared;
use super::*;
use crate::connection::device::Device;
use crate::io::event_loop::{EventLoop, Source};
use crate::io::net;

const DEADLINE: Duration = Duration::from_secs(15);

/// A relay's listener, and what a driver for it needs.
fn bench() -> (TcpListener, Config, EventLoop, Shared) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let peer = listener.local_addr().expect("address");
    let config = Config::new(peer.to_string().parse().expect("an address"));
    let event_loop = EventLoop::new().expect("poll");
    let shared = Shared::new(config.server.clone(), event_loop.waker()).expect("a report");
    (listener, config, event_loop, shared)
}

fn link(driver: &mut Driver<'_>, number: usize, peer: SocketAddr) -> Link {
    let mut io = net::connect(peer).expect("connect");
    let token = driver.context.io.event_loop.register(&mut io, Source::Link(number)).expect("register");
    Link::new(
        Device::new(driver.config.protocol, driver.config.limits),
        number,
        Reached { io, token, peer, server: driver.config.server.clone() },
    )
}

/// Adds a link as the newest one.
fn insert(driver: &mut Driver<'_>, number: usize, mut link: Link) {
    assert_eq!(driver.links.reserve(), number);
    link.sequence = number as u64;
    driver.links.insert(number, link);
}

/// Adds a link that is to be silent for longer than the test takes.
fn add_silent_link(driver: &mut Driver<'_>, number: usize, listener: &TcpListener) -> TcpStream {
    let mut link = link(driver, number, listener.local_addr().expect("address"));
    link.silent_until = Some(Instant::now() + 4 * DEADLINE);
    insert(driver, number, link);
    let (peer, _) = listener.accept().expect("accept");
    peer.set_read_timeout(Some(DEADLINE)).expect("deadline");
    peer
}

/// Adds a link whose LISTEN the owner holds back, and has the driver look at it.
fn add_held_link(driver: &mut Driver<'_>, listener: &TcpListener, shared: &Shared) -> TcpStream {
    let link = link(driver, 0, listener.local_addr().expect("address"));
    let (peer, _) = listener.accept().expect("accept");
    peer.set_read_timeout(Some(DEADLINE)).expect("deadline");
    assert_eq!(driver.links.reserve(), 0);
    driver.add_link(Instant::now(), link, 0);
    shared.hold(DEADLINE);
    driver.step(&mut [0; 1024]).expect("a step");
    peer
}

#[track_caller]
fn expect_reset_without_a_byte(mut peer: TcpStream) {
    let end = peer.read(&mut [0; 8]).expect_err("no LISTEN, and no end that looks meant");
    assert_eq!(end.kind(), std::io::ErrorKind::ConnectionReset);
}

#[test]
fn a_link_that_was_not_announced_yet_is_not_announced_by_its_end() {
    for closed_by_owner in [true, false] {
        let (listener, config, event_loop, shared) = bench();
        let mut driver = Driver::new(&config, event_loop, &shared);
        let peer = add_silent_link(&mut driver, 0, &listener);
        driver.finish(closed_by_owner, &mut [0; 1024]);
        expect_reset_without_a_byte(peer);
    }
    let (listener, config, event_loop, shared) = bench();
    let mut driver = Driver::new(&config, event_loop, &shared);
    let peer = add_silent_link(&mut driver, 0, &listener);
    driver.successor = Some(0);
    driver.reconnect(Instant::now());
    expect_reset_without_a_byte(peer);
}

#[test]
fn no_link_is_announced_while_the_owner_holds_the_tunnel_or_once_it_has_closed_it() {
    let (listener, config, event_loop, shared) = bench();
    let mut driver = Driver::new(&config, event_loop, &shared);
    let mut peer = add_held_link(&mut driver, &listener, &shared);
    assert_eq!(driver.next_deadline(None), shared.held_until());
    assert_eq!(shared.status().state, crate::device::State::Connecting);
    shared.request_stop();
    shared.hold(Duration::ZERO);
    driver.step(&mut [0; 1024]).expect("a step");
    peer.set_nonblocking(true).expect("mode");
    let nothing = peer.read(&mut [0; 8]).expect_err("no LISTEN");
    assert_eq!(nothing.kind(), std::io::ErrorKind::WouldBlock);
}

#[test]
fn a_link_that_was_held_is_announced_when_that_is_over() {
    let (listener, config, event_loop, shared) = bench();
    let mut driver = Driver::new(&config, event_loop, &shared);
    let mut peer = add_held_link(&mut driver, &listener, &shared);
    shared.hold(Duration::ZERO);
    driver.step(&mut [0; 1024]).expect("a step");
    assert_eq!(shared.status().state, crate::device::State::Greeting);
    peer.read_exact(&mut [0; 8]).expect("LISTEN and HELLO");
}

#[test]
fn of_links_that_drain_for_ever_the_oldest_is_cut() {
    let (listener, config, event_loop, shared) = bench();
    let mut driver = Driver::new(&config, event_loop, &shared);
    let now = Instant::now();
    for number in 0..MAX_DRAINING + 2 {
        let mut link = link(&mut driver, number, listener.local_addr().expect("address"));
        link.answered_at = Some(now);
        link.go_away = Some(GoAway { code: Code::Normal, retry_after: 0, last_stream: 0, reason: String::new() });
        insert(&mut driver, number, link);
        driver.current = Some(number);
        driver.leave(now, number);
    }
    let there: Vec<bool> = driver.links.iter().map(|(_, link)| link.session.has_link()).collect();
    assert_eq!(there, [&[false; 2][..], &[true; MAX_DRAINING]].concat());
}

#[test]
fn a_first_link_that_is_refused_is_the_end_though_its_own_end_has_not_come_yet() {
    let (listener, config, event_loop, shared) = bench();
    let mut driver = Driver::new(&config, event_loop, &shared);
    let _peer = add_held_link(&mut driver, &listener, &shared);
    shared.hold(Duration::ZERO);
    driver.step(&mut [0; 1024]).expect("what it says of itself has left");
    // In TLS that alone is no success.
    driver.was_connected = false;
    let (now, link) = (Instant::now(), driver.links.get_mut(0).expect("a link"));
    link.go_away = Some(GoAway { code: Code::Token, retry_after: 60, last_stream: 0, reason: String::new() });
    driver.leave(now, 0);
    assert_eq!(driver.retry_at, None);
    let error = driver.finish_link(now, 0).expect_err("there is nothing else to try");
    assert!(matches!(error, Error::NotAdmitted { code: Code::Token, .. }), "{error:?}");
}

#[test]
fn a_link_that_is_lost_and_has_nothing_left_to_deliver_is_forgotten() {
    let (listener, config, event_loop, shared) = bench();
    let mut driver = Driver::new(&config, event_loop, &shared);
    let mut link = link(&mut driver, 0, listener.local_addr().expect("address"));
    link.stage = Stage::Announced;
    insert(&mut driver, 0, link);
    drop(listener.accept().expect("accept"));
    let began = Instant::now();
    while !driver.links.is_empty() {
        assert!(began.elapsed() < DEADLINE, "it would not be visited again");
        driver.step(&mut [0; 1024]).expect("a step");
        driver.wait(Some(Instant::now() + Duration::from_millis(1))).expect("wait");
    }
}

#[test]
fn a_wake_visits_the_link_that_has_an_event_and_none_of_those_that_are_idle() {
    let (listener, config, event_loop, shared) = bench();
    let mut driver = Driver::new(&config, event_loop, &shared);
    let mut peers = Vec::new();
    for number in 0..MAX_DRAINING {
        let mut link = link(&mut driver, number, listener.local_addr().expect("address"));
        link.stage = Stage::Announced;
        insert(&mut driver, number, link);
        let (mut peer, _) = listener.accept().expect("accept");
        peer.set_read_timeout(Some(DEADLINE)).expect("deadline");
        driver.step(&mut [0; 1024]).expect("a step");
        peer.read_exact(&mut [0; 8]).expect("LISTEN and HELLO");
        peers.push(peer);
    }
    let mut step = || {
        driver.step(&mut [0; 1024]).expect("a step");
        driver.wait(Some(Instant::now() + Duration::from_millis(1))).expect("wait");
        driver.links.visits
    };
    let (began, mut before) = (Instant::now(), 0);
    loop {
        let visits = step();
        if std::mem::replace(&mut before, visits) == visits {
            break;
        }
        assert!(began.elapsed() < DEADLINE, "they are idle");
    }
    peers[3].write_all(&[0]).expect("a byte");
    let visits = loop {
        let visits = step() - before;
        if visits > 0 {
            break visits;
        }
        assert!(began.elapsed() < DEADLINE, "the byte is here");
    };
    assert_eq!(visits, 1);
}

#[test]
fn a_link_that_is_not_answered_in_time_is_given_up_once_whatever_the_relay_has_said_before() {
    for go_away in [None, Some(GoAway { code: Code::Revoked, retry_after: 0, last_stream: 0, reason: String::new() })] {
        let (listener, config, event_loop, shared) = bench();
        let mut driver = Driver::new(&config, event_loop, &shared);
        let mut link = link(&mut driver, 0, listener.local_addr().expect("address"));
        let now = Instant::now();
        (link.go_away, link.answer_within) = (go_away.clone(), Some((DEADLINE, now)));
        insert(&mut driver, 0, link);
        driver.current = Some(0);
        let error = driver.give_up_if_late(now, 0).expect_err("it was to be the only link");
        assert_eq!(error.code(), if go_away.is_some() { "revoked" } else { "timeout" });
        assert!(driver.give_up_if_late(now, 0).is_ok(), "that is done");
        assert!(driver.links.get(0).is_some_and(|link| link.answer_within.is_none()), "it would be due for ever");
    }
}

#[cfg(feature = "tls")]
#[test]
fn a_relay_with_another_key_is_sought_as_seldom_wherever_among_its_addresses_that_was_seen() {
    let address = || "relay:443".parse::<Address>().expect("an address");
    let error = |is_pin| {
        let pin = Error::Pin { address: address(), reason: "another key".into() };
        if is_pin { pin } else { Error::Refused(address()) }
    };
    for (before, last) in [(false, false), (true, false), (false, true)] {
        for was_link in [false, true] {
            let (listener, mut config, event_loop, shared) = bench();
            config.keep_trying = true;
            let mut driver = Driver::new(&config, event_loop, &shared);
            let now = Instant::now();
            let error = Error::everywhere(vec![(address(), error(before))], (address(), error(last)));
            if was_link {
                let link = link(&mut driver, 0, listener.local_addr().expect("address"));
                insert(&mut driver, 0, link);
                driver.current = Some(0);
                driver.lose_if_needed(now, 0, error).expect("it goes on");
            } else {
                driver.fail_attempt(now, error).expect("it goes on");
            }
            let wait = driver.retry_at.expect("another attempt") - now;
            assert_eq!(wait >= Duration::from_secs(60), before || last, "{wait:?}");
        }
    }
}
