//! Our device and our relay together, between real clients and services.
#![cfg(feature = "relay")]
#![allow(clippy::unwrap_used, reason = "a test ends where its own means fail")]

mod common;

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use common::device::Device;
use common::relay::Relay;
use common::service::Service;
use common::usage::Usage;
use common::{DEADLINE, End, Listener, Peer, Refusing, eventually, pattern};
use socket2::{Domain, Socket, Type};
use tcpremote::device::{EventKind, State};

/// A relay, its device, and where clients connect for each of the services.
fn start(services: &[SocketAddr]) -> (Relay, Device, Vec<SocketAddr>) {
    start_with(&[], services)
}

fn start_with(options: &[&str], services: &[SocketAddr]) -> (Relay, Device, Vec<SocketAddr>) {
    let services: Vec<_> = services.iter().map(ToString::to_string).collect();
    let relay = Relay::start_with(options, &services.iter().map(String::as_str).collect::<Vec<_>>());
    let mut device = Device::start(relay.device_addr());
    device.wait_for(EventKind::Listening);
    let clients = relay.client_addrs();
    (relay, device, clients)
}

/// The service answers through the tunnel.
fn expect_echo(clients: SocketAddr) {
    let mut client = Peer::connect(clients);
    client.send(b"are you there?");
    client.expect(b"are you there?");
}

#[test]
fn every_address_may_be_ipv6_or_a_name() {
    // The name has two addresses on most systems; the service listens at one, and each is tried.
    let v4 = Service::echo();
    let v6 = Listener::bind_to("[::1]:0");
    let mut command = common::relay::command();
    command.args(["--log", "debug", "[::1]:0", "[::1]:0", &v6.address().to_string()]);
    command.args(["localhost:0", &format!("localhost:{}", v4.port())]);
    let relay = Relay::spawn(command, 2);
    let mut device = Device::start(relay.device_addr());
    device.wait_for(EventKind::Listening);
    let clients = relay.client_addrs();
    let mut client = Peer::connect(*clients.iter().find(|address| address.is_ipv6()).unwrap());
    client.send(b"over IPv6");
    v6.accept().expect(b"over IPv6");
    expect_echo(*clients.iter().find(|address| address.is_ipv4()).unwrap());
}

#[test]
fn many_clients_at_once_get_their_own_bytes_back() {
    let echo = Service::echo();
    let (_relay, device, clients) = start(&[echo.address()]);
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
    let status = device.status();
    assert_eq!((status.clients_total, status.bytes_sent, status.bytes_received), (16, 32 << 20, 32 << 20));
}

#[test]
fn a_client_that_ends_its_sending_gets_the_answer_to_all_of_it() {
    let service = Service::start(|mut peer| {
        let mut request = peer.read(1 << 20);
        // Shorter than the half-close's second.
        thread::sleep(Duration::from_millis(300));
        request.reverse();
        peer.send(&request);
        drop(peer);
    });
    let (_relay, _device, clients) = start(&[service.address()]);
    let mut request = pattern(1 << 20, 9);
    let mut client = Peer::connect(clients[0]);
    client.send(&request);
    client.finish();
    request.reverse();
    let (answer, end) = client.read_to_end();
    assert!(answer == request, "{} bytes", answer.len());
    assert_eq!(end, End::Finished);
}

#[test]
fn a_service_that_needs_the_end_of_the_request_sees_it_but_its_answer_is_lost_in_version_1() {
    let count = Service::count();
    let (_relay, _device, clients) = start(&[count.address()]);
    let mut client = Peer::connect(clients[0]);
    client.send(b"one request");
    client.finish();
    // CLOSE is all that version 1 has to tell of the end, and it takes the answer's way back.
    assert_eq!(client.read_to_end(), (Vec::new(), End::Finished));
}

#[test]
fn all_that_a_service_sent_before_it_closed_arrives_and_then_the_end() {
    let bytes = pattern(8 << 20, 7);
    let source = Service::source(bytes.clone());
    let (_relay, _device, clients) = start(&[source.address()]);
    for _ in 0..3 {
        let (read, end) = Peer::connect(clients[0]).read_to_end();
        assert!(read == bytes, "{} of {} bytes", read.len(), bytes.len());
        assert_eq!(end, End::Finished);
    }
}

#[test]
fn all_that_a_client_sent_before_it_closed_arrives_and_then_the_end() {
    let service = Listener::bind();
    let (_relay, _device, clients) = start(&[service.address()]);
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

#[test]
fn a_client_that_resets_in_mid_download_ends_its_service_and_nobody_else() {
    let (service, echo) = (Listener::bind(), Service::echo());
    let (_relay, device, clients) = start(&[service.address(), echo.address()]);
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

#[test]
fn a_service_that_resets_in_mid_upload_ends_its_client_and_nobody_else() {
    let (service, echo) = (Listener::bind(), Service::echo());
    let (_relay, device, clients) = start(&[service.address(), echo.address()]);
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

#[test]
fn two_hundred_and_fifty_six_clients_are_served_at_once_and_the_next_when_one_has_gone() {
    let echo = Service::echo();
    let (relay, device, clients) = start(&[echo.address()]);
    let mut open: Vec<_> = (0..256).map(|_| Peer::connect(clients[0])).collect();
    for (number, client) in open.iter_mut().enumerate() {
        client.send(format!("client {number:03}").as_bytes());
    }
    for (number, client) in open.iter_mut().enumerate() {
        client.expect(format!("client {number:03}").as_bytes());
    }
    assert_eq!(device.status().clients, 256);
    let began = Instant::now();
    let mut refused = Peer::connect(clients[0]);
    assert_eq!(refused.read_to_end(), (Vec::new(), End::Reset));
    assert!(began.elapsed() >= Duration::from_secs(1), "it waits a second for a number");
    relay.wait_for_log("all 256 numbers of the link are in use");
    open.pop();
    // Half-closed, so its number goes to whoever needs it, at once.
    expect_echo(clients[0]);
    for (number, client) in open.iter_mut().enumerate() {
        client.send(format!("still {number:03}").as_bytes());
        client.expect(format!("still {number:03}").as_bytes());
    }
}

#[test]
fn a_service_that_never_answers_the_syn_holds_up_nobody() {
    // A backlog of one that is full: the kernel drops what comes.
    let deaf = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    deaf.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    deaf.listen(0).unwrap();
    let address = deaf.local_addr().unwrap().as_socket().unwrap();
    let _full = Peer::connect(address);
    let echo = Service::echo();
    let (_relay, mut device, clients) = start(&[address, echo.address()]);
    let began = Instant::now();
    let mut unlucky = Peer::connect(clients[0]);
    unlucky.send(b"hello?");
    for _ in 0..50 {
        expect_echo(clients[1]);
    }
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    unlucky.read_to_end();
    let waited = began.elapsed();
    assert!((Duration::from_secs(9)..Duration::from_secs(14)).contains(&waited), "{waited:?}");
    assert!(device.wait_for(EventKind::Failed).message.contains(&address.to_string()));
}

#[test]
fn a_service_that_stops_reading_holds_up_the_others_for_the_stall_time_and_is_reset() {
    let (service, echo) = (Listener::bind(), Service::echo());
    let services = [service.address(), echo.address()].map(|address| address.to_string());
    let relay = Relay::start(&[&services[0], &services[1]]);
    let stall = Duration::from_secs(1);
    let mut device = Device::start_with(relay.device_addr(), |config| config.limits.rule.stall = stall);
    let clients = relay.client_addrs();
    let mut client = Peer::connect(clients[0]);
    let mut served = service.accept();
    let sending = thread::spawn(move || while client.try_send(&[b'x'; 65_536]).is_ok() {});
    device.wait_for(EventKind::Stalled);
    assert_eq!(served.read_to_end().1, End::Reset);
    sending.join().unwrap();
    expect_echo(clients[1]);
}

#[test]
fn a_client_that_stops_reading_holds_up_the_others_for_the_stall_time_and_is_reset() {
    let echo = Service::echo();
    let endless = Service::start(|mut peer| while peer.try_send(&[b'x'; 65_536]).is_ok() {});
    let (relay, device, clients) = start(&[endless.address(), echo.address()]);
    let mut other = Peer::connect(clients[1]);
    let before = Usage::of(relay.process()).kib;
    let mut stuck = Peer::connect(clients[0]);
    stuck.read(65_536);
    // Echoes go on until the stuck client's queue is full, stand still for the stall's 30 s, and go on.
    let began = Instant::now();
    let mut longest = Duration::ZERO;
    while !relay.log().iter().any(|line| line.contains("it stood still")) {
        assert!(began.elapsed() < Duration::from_secs(60), "the stuck client is never reset");
        let asked = Instant::now();
        other.send(b"patience");
        other.expect_within(b"patience", Duration::from_secs(45));
        longest = longest.max(asked.elapsed());
    }
    assert!((Duration::from_secs(20)..Duration::from_secs(35)).contains(&longest), "{longest:?}");
    let grown = Usage::of(relay.process()).kib.saturating_sub(before) / 1024;
    assert!(grown < 16, "the relay grew by {grown} MiB");
    other.send(b"at last");
    other.expect(b"at last");
    assert_eq!(stuck.read_to_end().1, End::Reset);
    eventually("one client is left", DEADLINE, || device.status().clients == 1);
}

#[test]
fn four_endless_services_get_fair_shares_and_memory_stays_bounded() {
    let endless = Service::start(|mut peer| while peer.try_send(&[b'x'; 64 * 1024]).is_ok() {});
    let (relay, _device, clients) = start(&[endless.address()]);
    let before = Usage::of(relay.process()).kib + Usage::of(std::process::id()).kib;
    let deadline = Instant::now() + Duration::from_secs(2);
    let readers = (0..4).map(|_| {
        let mut client = Peer::connect(clients[0]);
        thread::spawn(move || {
            let mut total = 0;
            while Instant::now() < deadline {
                total += client.try_read(DEADLINE).unwrap().len();
            }
            total
        })
    });
    let shares: Vec<usize> = readers.collect::<Vec<_>>().into_iter().map(|reader| reader.join().unwrap()).collect();
    let (least, most) = (shares.iter().min().unwrap(), shares.iter().max().unwrap());
    assert!(*least > 0 && most / least < 3, "shares of {shares:?} bytes");
    let grown = (Usage::of(relay.process()).kib + Usage::of(std::process::id()).kib).saturating_sub(before);
    assert!(grown < 16 << 10, "memory grew by {grown} KiB");
}

#[test]
fn a_refused_service_ends_the_client_at_once() {
    let refusing = Refusing::bind();
    let (_relay, _device, clients) = start(&[SocketAddr::from(([127, 0, 0, 1], refusing.port()))]);
    let began = Instant::now();
    Peer::connect(clients[0]).read_to_end();
    assert!(began.elapsed() < Duration::from_secs(5));
}

#[test]
fn short_connections_in_a_row_leave_nothing_behind() {
    let echo = Service::echo();
    let (relay, device, clients) = start(&[echo.address()]);
    let sockets = |process: u32| Usage::of(process).descriptors;
    expect_echo(clients[0]);
    device.wait_until_idle(DEADLINE);
    eventually("the relay's first client is gone", DEADLINE, || sockets(relay.process()) < 16);
    let before = sockets(relay.process());
    for _ in 0..2000 {
        expect_echo(clients[0]);
    }
    device.wait_until_idle(DEADLINE);
    assert_eq!(device.status().clients_total, 2001);
    eventually("the relay's sockets are closed", DEADLINE, || sockets(relay.process()) <= before);
}

#[test]
fn clients_that_send_and_leave_at_once_are_delivered() {
    let service = Listener::bind();
    let (_relay, _device, clients) = start(&[service.address()]);
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

#[test]
fn when_the_owner_closes_the_tunnel_everybody_is_ended_and_the_next_device_is_served() {
    let service = Listener::bind();
    let (relay, device, clients) = start(&[service.address()]);
    let mut client = Peer::connect(clients[0]);
    let mut served = service.accept();
    served.send(b"last words");
    client.expect(b"last words");
    device.handle.close().unwrap();
    assert_eq!(device.status().state, State::Closed);
    client.read_to_end();
    served.read_to_end();
    relay.wait_for_log("the link to the device is lost");
    let mut next = Device::start(relay.device_addr());
    next.wait_for(EventKind::Listening);
    eventually("a client port is open", DEADLINE, || {
        relay.log().iter().filter(|line| line.contains("may connect")).count() == 2
    });
}

#[test]
fn an_idle_tunnel_closes_at_once_even_if_the_relay_stands_still() {
    let silent = Listener::bind();
    let mut device = Device::start(silent.address());
    let _link = silent.accept();
    device.wait_for(EventKind::Listening);
    let began = Instant::now();
    device.handle.close().unwrap();
    assert!(began.elapsed() < Duration::from_millis(500), "{:?}", began.elapsed());
    assert_eq!(device.status().state, State::Closed);
}

#[test]
fn what_the_device_does_not_permit_is_ended_and_told_with_the_line_that_would() {
    let (_relay, mut device, clients) = start(&["192.0.2.1:80".parse().unwrap()]);
    Peer::connect(clients[0]).read_to_end();
    let denied = device.wait_for(EventKind::Denied);
    assert_eq!(denied.code, Some("denied"));
    assert!(denied.message.contains("allow = { \"1-65535\", \"192.0.2.1:80\" }"), "{}", denied.message);
}

#[test]
fn an_echo_of_64_bytes_waits_for_no_timer() {
    let echo = Service::echo();
    let (_relay, _device, clients) = start(&[echo.address()]);
    let mut client = Peer::connect(clients[0]);
    let mut times: Vec<_> = (0..200)
        .map(|_| {
            let began = Instant::now();
            client.send(&[b'x'; 64]);
            client.expect(&[b'x'; 64]);
            began.elapsed()
        })
        .collect();
    times.sort();
    // Nagle's 40 ms would show in each; a busy machine only in some.
    assert!(times[50] < Duration::from_millis(10), "{times:?}");
}

#[test]
fn a_refused_server_is_told_as_what_it_is() {
    let refusing = Refusing::bind();
    let mut device = Device::start(SocketAddr::from(([127, 0, 0, 1], refusing.port())));
    let closed = device.wait_for(EventKind::Closed);
    assert_eq!(closed.code, Some("refused"), "{}", closed.message);
}
