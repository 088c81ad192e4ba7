//! Our device and our relay together, between real clients and services: what holds whichever versions of the protocol
//! the two may speak.
#![cfg(feature = "relay")]
#![allow(clippy::unwrap_used, reason = "a test ends where its own means fail")]

mod common;

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use common::device::Device;
use common::pairing::Pairing;
use common::relay::{self, Relay};
use common::service::{Service, expect_echo};
use common::usage::Usage;
use common::{DEADLINE, End, Listener, Peer, Refusing, eventually, pattern, shortest_of_five};
use socket2::{Domain, Socket, Type};
use tcpremote::device::{EventKind, State, Status};

in_every_pairing![
    both_ends_know_the_version_that_they_agreed_on,
    every_address_may_be_ipv6_or_a_name,
    many_clients_at_once_get_their_own_bytes_back,
    a_client_that_ends_its_sending_gets_the_answer_to_all_of_it,
    all_that_a_service_sent_before_it_closed_arrives_and_then_the_end,
    all_that_a_client_sent_before_it_closed_arrives_and_then_the_end,
    a_client_that_resets_in_mid_download_ends_its_service_and_no_other,
    a_service_that_resets_in_mid_upload_ends_its_client_and_no_other,
    a_refused_service_ends_the_client_at_once,
    short_connections_in_a_row_leave_nothing_behind,
    clients_that_send_and_leave_at_once_are_delivered,
    when_the_owner_closes_the_tunnel_all_clients_end_and_the_next_device_is_served,
    a_service_that_is_not_permitted_ends_its_client_and_the_event_shows_the_rule_that_would_permit_it,
    an_echo_of_64_bytes_waits_for_no_timer,
];

fn both_ends_know_the_version_that_they_agreed_on(pairing: Pairing) {
    let (relay, device, _clients) = pairing.start(&["127.0.0.1:9".parse().unwrap()]);
    let version = pairing.version();
    relay.wait_for_log(&format!("version={version}"));
    eventually("the device knows the version", DEADLINE, || device.status().protocol == Some(version));
    if version == 2 {
        eventually("the round trip is measured", DEADLINE, || device.status().round_trip.is_some());
    }
    let status = device.status();
    assert_eq!((status.state, status.reconnects, status.next_attempt), (State::Listening, 0, None));
    assert_eq!((status.round_trip.is_some(), status.ignored_frames), (version == 2, 0));
}

fn every_address_may_be_ipv6_or_a_name(pairing: Pairing) {
    // The name has two addresses on most systems; the service listens at one, and each is tried.
    let v4 = Service::echo();
    let v6 = Listener::bind_to("[::1]:0");
    let mut command = relay::command();
    command.args(["--log", "debug"]).args(pairing.options()).args(["[::1]:0", "[::1]:0", &v6.address().to_string()]);
    command.args(["localhost:0", &format!("localhost:{}", v4.port())]);
    let relay = Relay::spawn(command, 2);
    let _device = pairing.listening(relay.device_addr());
    let clients = relay.client_addrs();
    let mut client = Peer::connect(*clients.iter().find(|address| address.is_ipv6()).unwrap());
    client.send(b"over IPv6");
    v6.accept().expect(b"over IPv6");
    expect_echo(*clients.iter().find(|address| address.is_ipv4()).unwrap());
}

fn many_clients_at_once_get_their_own_bytes_back(pairing: Pairing) {
    let echo = Service::echo();
    let (_relay, device, clients) = pairing.start(&[echo.address()]);
    let workers = (0..16).map(|seed| {
        let address = clients[0];
        thread::spawn(move || {
            let bytes = pattern(2 << 20, seed);
            let mut client = Peer::connect(address);
            let (mut sender, sent) = (client.try_clone(), bytes.clone());
            let sending = thread::spawn(move || sender.send(&sent));
            assert!(client.read(bytes.len()) == bytes, "client {seed}");
            sending.join().unwrap();
        })
    });
    let workers: Vec<_> = workers.collect();
    for worker in workers {
        worker.join().unwrap();
    }
    device.wait_until_idle(DEADLINE);
    let counted = |status: &Status| (status.clients_total, status.bytes_sent, status.bytes_received);
    device.wait_until_status(counted, (16, 32 << 20, 32 << 20));
}

fn a_client_that_ends_its_sending_gets_the_answer_to_all_of_it(pairing: Pairing) {
    let service = Service::start(|mut peer| {
        let mut request = peer.read(1 << 20);
        thread::sleep(Duration::from_millis(300));
        request.reverse();
        peer.send(&request);
        drop(peer);
    });
    // In version 1 the answer has this long.
    let options = ["--half-close", "30"];
    let (_relay, _device, clients) = pairing.start_with(&options, &[service.address()]);
    let mut request = pattern(1 << 20, 9);
    let mut client = Peer::connect(clients[0]);
    client.send(&request);
    client.finish();
    request.reverse();
    let (answer, end) = client.read_to_end();
    assert!(answer == request, "{} bytes", answer.len());
    assert_eq!(end, End::Finished);
}

fn all_that_a_service_sent_before_it_closed_arrives_and_then_the_end(pairing: Pairing) {
    let bytes = pattern(8 << 20, 7);
    let source = Service::source(bytes.clone());
    let (_relay, _device, clients) = pairing.start(&[source.address()]);
    for _ in 0..3 {
        let (read, end) = Peer::connect(clients[0]).read_to_end();
        assert!(read == bytes, "{} of {} bytes", read.len(), bytes.len());
        assert_eq!(end, End::Finished);
    }
}

fn all_that_a_client_sent_before_it_closed_arrives_and_then_the_end(pairing: Pairing) {
    let service = Listener::bind();
    let (_relay, _device, clients) = pairing.start(&[service.address()]);
    let bytes = pattern(8 << 20, 8);
    let mut client = Peer::connect(clients[0]);
    let mut served = service.accept();
    let reading = thread::spawn(move || served.read_to_end());
    client.send(&bytes);
    drop(client);
    let (read, end) = reading.join().unwrap();
    assert!(read == bytes, "{} of {} bytes", read.len(), bytes.len());
    assert_eq!(end, End::Finished);
}

fn a_client_that_resets_in_mid_download_ends_its_service_and_no_other(pairing: Pairing) {
    let (service, echo) = (Listener::bind(), Service::echo());
    let (_relay, device, clients) = pairing.start(&[service.address(), echo.address()]);
    let mut other = Peer::connect(clients[1]);
    let mut client = Peer::connect(clients[0]);
    let mut served = service.accept();
    let sending = thread::spawn(move || while served.try_send(&[b'x'; 65_536]).is_ok() {});
    client.read(1 << 20);
    client.reset();
    sending.join().unwrap();
    other.send(b"still here");
    other.expect(b"still here");
    eventually("one client is left", DEADLINE, || device.status().clients == 1);
}

fn a_service_that_resets_in_mid_upload_ends_its_client_and_no_other(pairing: Pairing) {
    let (service, echo) = (Listener::bind(), Service::echo());
    let (_relay, device, clients) = pairing.start(&[service.address(), echo.address()]);
    let mut other = Peer::connect(clients[1]);
    let mut client = Peer::connect(clients[0]);
    let mut served = service.accept();
    let sending = thread::spawn(move || while client.try_send(&[b'x'; 65_536]).is_ok() {});
    served.read(1 << 20);
    served.reset();
    sending.join().unwrap();
    other.send(b"still here");
    other.expect(b"still here");
    eventually("one client is left", DEADLINE, || device.status().clients == 1);
}

fn a_refused_service_ends_the_client_at_once(pairing: Pairing) {
    let refusing = Refusing::bind();
    let (_relay, _device, clients) = pairing.start(&[refusing.address()]);
    // Version 1 has the same CLOSE for it as for an ordinary end.
    let end = if pairing.version() == 1 { End::Finished } else { End::Reset };
    let waited = shortest_of_five(|_| {
        let began = Instant::now();
        assert_eq!(Peer::connect(clients[0]).read_to_end(), (Vec::new(), end));
        began.elapsed()
    });
    assert!(waited < Duration::from_secs(1), "{waited:?}");
}

fn short_connections_in_a_row_leave_nothing_behind(pairing: Pairing) {
    let echo = Service::echo();
    // In version 1 all numbers would wait for their half-close, and the next client has only a second to get one, in
    // which this process, and so the device, may stand still.
    let (relay, device, clients) = pairing.start_with(&["--half-close", "0"], &[echo.address()]);
    let sockets = |process: u32| Usage::of(process).descriptors;
    expect_echo(clients[0]);
    device.wait_until_idle(DEADLINE);
    eventually("the relay's first client is gone", DEADLINE, || sockets(relay.process()) < 16);
    let before = sockets(relay.process());
    for _ in 0..2000 {
        expect_echo(clients[0]);
    }
    device.wait_until_idle(DEADLINE);
    device.wait_until_status(|status| status.clients_total, 2001);
    eventually("the relay's sockets are closed", DEADLINE, || sockets(relay.process()) <= before);
}

fn clients_that_send_and_leave_at_once_are_delivered(pairing: Pairing) {
    let service = Listener::bind();
    let (_relay, _device, clients) = pairing.start(&[service.address()]);
    let notes: Vec<_> = (100..200).map(|number| format!("note {number}").into_bytes()).collect();
    for note in &notes {
        Peer::connect(clients[0]).send(note);
    }
    let mut arrived: Vec<_> = notes.iter().map(|_| service.accept().read_to_end()).collect();
    arrived.sort_by(|a, b| a.0.cmp(&b.0));
    for (note, arrived) in notes.into_iter().zip(arrived) {
        assert_eq!(arrived, (note, End::Finished));
    }
}

fn when_the_owner_closes_the_tunnel_all_clients_end_and_the_next_device_is_served(pairing: Pairing) {
    let service = Listener::bind();
    let (relay, device, clients) = pairing.start(&[service.address()]);
    let mut client = Peer::connect(clients[0]);
    let mut served = service.accept();
    served.send(b"last words");
    client.expect(b"last words");
    device.handle.close().unwrap();
    device.wait_until_status(|status| status.state, State::Closed);
    client.read_to_end();
    served.read_to_end();
    relay.wait_for_log(if pairing.version() == 1 {
        "the link to the device is lost"
    } else {
        "the link to the device has ended, as was announced"
    });
    let _next = pairing.listening(relay.device_addr());
    eventually("a client port is open", DEADLINE, || {
        relay.log().iter().filter(|line| line.contains("may connect")).count() == 2
    });
}

fn a_service_that_is_not_permitted_ends_its_client_and_the_event_shows_the_rule_that_would_permit_it(pairing: Pairing) {
    let (_relay, mut device, clients) = pairing.start(&["192.0.2.1:80".parse().unwrap()]);
    Peer::connect(clients[0]).read_to_end();
    let denied = device.wait_for(EventKind::Denied);
    assert_eq!(denied.code, Some("denied"));
    assert!(denied.message.contains("allow = { \"1-65535\", \"192.0.2.1:80\" }"), "{}", denied.message);
}

fn an_echo_of_64_bytes_waits_for_no_timer(pairing: Pairing) {
    let echo = Service::echo();
    let (_relay, _device, clients) = pairing.start(&[echo.address()]);
    let mut client = Peer::connect(clients[0]);
    let mut times: Vec<_> = (0..250)
        .map(|_| {
            let began = Instant::now();
            client.send(&[b'x'; 64]);
            client.expect(&[b'x'; 64]);
            began.elapsed()
        })
        .collect();
    // The kernel acknowledges a connection's first segments at once, whatever comes later.
    let mut times = times.split_off(50);
    times.sort();
    // The 40 ms of a delayed acknowledgement would show in each; a busy machine only in some.
    assert!(times[50] < Duration::from_millis(30), "{times:?}");
}

#[test]
fn a_service_that_never_answers_the_syn_does_not_hold_up_the_others() {
    Pairing::each(&Pairing::ALL, one_service_that_never_answers_the_syn);
}

/// How long the device tries to connect to a service.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

fn one_service_that_never_answers_the_syn(pairing: Pairing) {
    let (_listener, address, _full) = full_service();
    let echo = Service::echo();
    let (relay, mut device, clients) = pairing.start(&[address, echo.address()]);
    let began = Instant::now();
    let mut unlucky = Peer::connect(clients[0]);
    unlucky.send(b"hello?");
    expect_echo(clients[1]);
    let served = began.elapsed();
    assert!(served < CONNECT_TIMEOUT, "the others had to wait for the end of the attempt: {served:?}");
    for _ in 0..50 {
        expect_echo(clients[1]);
    }
    unlucky.read_to_end();
    let waited = began.elapsed();
    assert!(waited >= CONNECT_TIMEOUT, "{waited:?}");
    let failed = device.wait_for(EventKind::Failed);
    assert_eq!(failed.code, Some("timeout"));
    assert!(failed.message.contains(&address.to_string()), "{}", failed.message);
    if pairing.version() == 2 {
        relay.wait_for_log("code=timeout");
    }
}

/// A service whose backlog is full, so that the kernel drops what comes, and what fills it.
fn full_service() -> (Socket, SocketAddr, Peer) {
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    listener.listen(0).unwrap();
    let address = listener.local_addr().unwrap().as_socket().unwrap();
    (listener, address, Peer::connect(address))
}

/// Connections to this port that the kernel is making.
#[cfg(target_os = "linux")]
fn connecting_to(port: u16) -> usize {
    let remote = format!(":{port:04X}");
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let columns = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    // The state 02 is SYN_SENT.
    columns.filter(|columns| columns[2].ends_with(&remote) && columns[3] == "02").count()
}

#[test]
#[cfg(target_os = "linux")]
fn connections_to_one_service_are_made_32_at_a_time_and_do_not_delay_another_service() {
    let (listener, address, full) = full_service();
    let echo = Service::echo();
    let (_relay, device, clients) = Pairing::NEW.start(&[address, echo.address()]);
    let mut waiting: Vec<_> = (0..100).map(|_| Peer::connect(clients[0])).collect();
    eventually("all of them asked", DEADLINE, || device.status().clients == 100);
    eventually("some are being connected", DEADLINE, || connecting_to(address.port()) >= 32);
    expect_echo(clients[1]);
    assert_eq!(connecting_to(address.port()), 32);
    // Once the service accepts, the waiting connections are made. It answers and closes at once, so that many see
    // their connection, its bytes and its end in one event.
    drop(full);
    listener.listen(128).unwrap();
    thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            let _ = TcpStream::from(stream).write_all(b"at last");
        }
    });
    let answers: Vec<_> = waiting.iter_mut().map(|client| client.read_to_end().0).collect();
    assert!(answers.iter().filter(|answer| *answer == b"at last").count() > 32, "{answers:?}");
}

#[test]
fn an_idle_tunnel_closes_at_once_even_if_the_relay_stands_still() {
    let silent = Listener::bind();
    for pairing in [Pairing::OLD, Pairing::NEW] {
        let waited = shortest_of_five(|_| {
            let mut device = Device::start_with(silent.address(), |config| config.protocol = pairing.device);
            device.wait_for(EventKind::Greeting);
            let _link = silent.accept();
            let began = Instant::now();
            device.handle.close().unwrap();
            let waited = began.elapsed();
            device.wait_until_status(|status| status.state, State::Closed);
            waited
        });
        assert!(waited < Duration::from_millis(500), "{waited:?}");
    }
}

#[test]
fn a_refused_link_ends_the_tunnel_with_the_code_refused() {
    let refusing = Refusing::bind();
    let mut device = Device::start(refusing.address());
    let closed = device.wait_for(EventKind::Closed);
    assert_eq!(closed.code, Some("refused"), "{}", closed.message);
}
