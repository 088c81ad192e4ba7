//! Links that are no longer in use, which drain or still deliver; and the end of the relay, at which its link drains.

use super::*;
use crate::relay::limits::MAX_DRAINING as MAX_DRAINING_OF_ALL;

/// LISTEN, HELLO, SETTINGS and GOAWAY.
const LEAVING: &[u8] = b"\0\0\x04\0\0\0\x05\xf2\0\0\x06\0\0\0\0\0\0\x08\x0a\0\0\0\0\0\0\0\0\0\0\0\0\x01";

impl Bench {
    /// So many devices, one after the other, each with a link that drains a client, but for one that has none.
    fn drain_links(&mut self, count: usize, without: usize) -> (Vec<TcpStream>, Vec<TcpStream>) {
        let (mut devices, mut clients) = (Vec::new(), Vec::new());
        for place in 0..count {
            let mut device = self.device(&LEAVING[..16]);
            if place != without {
                clients.push(TcpStream::connect(self.server.client_addr(0)).expect("connect"));
                self.run_until("it has a client", |server| {
                    let peer = server.active().and_then(|number| server.sessions.get(number));
                    peer.is_some_and(|peer| peer.session.connection().clients() == 1)
                });
            }
            device.write_all(&LEAVING[16..]).expect("sent");
            self.run_until("it drains", |server| server.active().is_none() && !server.are_client_ports_open());
            devices.push(device);
        }
        (devices, clients)
    }
}

#[test]
fn of_too_many_links_that_are_gone_and_still_deliver_the_oldest_is_cut() {
    let mut bench = Bench::new(Protocol::V1);
    let mut clients = Vec::new();
    for _ in 0..MAX_LOST + 2 {
        let mut device = bench.device(LISTEN);
        clients.push(bench.slow_client(&mut device));
        drop(device);
        bench.run_until("its link is gone", |server| server.active().is_none());
    }
    let mut cut = Vec::new();
    for (place, (client, left)) in clients.iter_mut().enumerate() {
        let (mut read, began) = (Vec::new(), Instant::now());
        let end = loop {
            assert!(began.elapsed() < DEADLINE, "client {place} has {} of {left} bytes", read.len());
            match client.read_to_end(&mut read) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    bench.server.step(&mut bench.buffer);
                    bench.server.wait(Some(Instant::now() + MS)).expect("wait");
                }
                end => break end,
            }
        };
        if end.is_err() {
            cut.push(place);
        } else {
            assert_eq!(read.len(), *left);
        }
    }
    assert_eq!(cut, [0, 1]);
}

#[test]
fn links_that_are_gone_hold_no_more_bytes_than_one_link_and_the_oldest_is_cut() {
    // Up to 16 KiB are left for each client: one fits, and a second one may or may not.
    let budget = 20 * 1024;
    let mut bench = Bench::with(1, |config| {
        (config.protocol, config.limits.budget) = (Protocol::V1, budget);
    });
    let (mut held, mut clients) = (Vec::new(), Vec::new());
    for _ in 0..MAX_LOST {
        let mut device = bench.device(LISTEN);
        clients.push(bench.slow_client(&mut device));
        held.push(bench.connection(bench.server.active().expect("a device")).held());
        drop(device);
        bench.run_until("its link is gone", |server| server.active().is_none());
        let all: u64 = bench.server.sessions.iter().map(|(_, peer)| peer.session.connection().held()).sum();
        assert!(all <= budget, "{all} bytes are held of {held:?}");
    }
    assert!(held.iter().sum::<u64>() > budget, "{held:?} would fit");
    let (mut client, left) = clients.pop().expect("clients");
    let mut read = Vec::new();
    bench.run_until("the newest link delivers", |server| {
        let _ = client.read_to_end(&mut read);
        server.sessions.is_empty()
    });
    client.set_nonblocking(false).expect("mode");
    client.set_read_timeout(Some(DEADLINE)).expect("timeout");
    let end = client.read_to_end(&mut read);
    assert!(end.is_ok() && read.len() == left, "{end:?} after {} of {left} bytes", read.len());
}

#[test]
fn links_that_drain_have_no_more_clients_than_one_link_and_the_oldest_is_cut() {
    let mut bench = Bench::new(Protocol::V2);
    let (mut devices, mut clients) = (Vec::new(), Vec::new());
    for (before, count) in [(0, 120), (120, 100), (220, 60), (160, 200)] {
        let mut device = bench.device(GREETING);
        assert_eq!(bench.server.clients(), before);
        clients.push(bench.clients(0, count));
        device.write_all(LEAVING_ALL).expect("sent");
        bench.run_until("it drains", |server| server.active().is_none() && !server.are_client_ports_open());
        devices.push(device);
    }
    assert_eq!(bench.server.clients(), 200, "what fits beside the newest");
    let cut: Vec<usize> = clients.iter_mut().map(|clients| cut(clients).len()).collect();
    assert_eq!(cut, [120, 100, 60, 0]);
}

#[test]
fn links_that_drain_hold_no_more_bytes_than_one_link_and_the_oldest_is_cut() {
    // A window that is more than the kernel takes, so that bytes wait without any CREDIT.
    let limits = Limits { window: 1 << 20, streams: 16, budget: 16 << 20, ..Limits::RELAY };
    let mut bench = Bench::with(1, |config| config.limits = limits);
    let frame = |stream: u8| [&b"\xf0\0\x03\0\0\0\0"[..], &[stream], &[b'x'; 0xf000]].concat();
    let (mut devices, mut clients, mut held) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..3 {
        let mut device = bench.device(GREETING);
        clients.push(bench.clients(0, 16));
        let mut bytes: Vec<u8> = (1..=16).flat_map(|stream| [b"\0\0\x07\0\0\0\0", &[stream][..]].concat()).collect();
        bytes.extend((1..=16).flat_map(|stream| frame(stream).repeat(17)));
        let (number, mut written) = (bench.server.active().expect("a device"), 0);
        device.set_nonblocking(true).expect("mode");
        bench.run_until("all is here", |server| {
            written += device.write(&bytes[written..]).unwrap_or(0);
            let peer = server.sessions.get(number).expect("a session");
            peer.session.connection().counters().received == 16 * 17 * 0xf000
        });
        held.push(bench.connection(number).held());
        assert_eq!(device.write(LEAVING_ALL).expect("sent"), LEAVING_ALL.len());
        bench.run_until("it drains", |server| server.active().is_none() && !server.are_client_ports_open());
        devices.push(device);
        let all: u64 = bench.server.sessions.iter().map(|(_, peer)| peer.session.connection().held()).sum();
        assert!(all <= limits.budget, "{all} bytes are held of {held:?}");
    }
    assert!(held[0] + held[1] > limits.budget, "{held:?} would fit");
    let cut: Vec<usize> = clients.iter_mut().map(|clients| cut(clients).len()).collect();
    assert_eq!(cut, [16, 16, 0]);
}

#[test]
fn a_link_that_drains_alone_keeps_all_its_clients() {
    // As many as a link can have with those that only get last bytes.
    let mut bench = Bench::with(1, |config| config.limits.streams = 300);
    bench.server.config.clients = 300;
    let mut device = bench.device(GREETING);
    let mut clients = bench.clients(0, 300);
    device.write_all(LEAVING_ALL).expect("sent");
    bench.run_until("it drains", |server| server.active().is_none());
    bench.server.step(&mut bench.buffer);
    assert_eq!((bench.server.clients(), cut(&mut clients).len()), (300, 0));
}

#[test]
fn at_the_relays_own_end_no_link_is_one_too_many() {
    let mut bench = Bench::new(Protocol::V1);
    let mut clients = Vec::new();
    for place in 0..=MAX_LOST {
        let mut device = bench.device(LISTEN);
        clients.push(bench.slow_client(&mut device));
        if place < MAX_LOST {
            drop(device);
            bench.run_until("its link is gone", |server| server.active().is_none());
        } else {
            let number = bench.server.active().expect("a device");
            bench.server.phase = Phase::Draining;
            bench.server.close_link(number);
            bench.server.step(&mut bench.buffer);
        }
    }
    assert_eq!(bench.server.sessions.len(), MAX_LOST + 1);
}

#[test]
fn of_too_many_links_that_drain_those_without_clients_are_cut_and_then_the_oldest() {
    let mut bench = Bench::new(Protocol::V2);
    let (devices, _clients) = bench.drain_links(MAX_DRAINING + 3, 5);
    bench.run_until("three are gone", |server| server.sessions.len() == MAX_DRAINING);
    let is_there = |device: &TcpStream| {
        let address = device.local_addr().expect("address");
        bench.server.sessions.iter().any(|(_, peer)| peer.address == address)
    };
    let cut: Vec<usize> = (0..devices.len()).filter(|&place| !is_there(&devices[place])).collect();
    assert_eq!(cut, [0, 1, 5]);
}

/// Where a whole network was down, old links that are dead come in place of those that are not.
#[test]
fn of_too_many_links_that_drain_one_whose_device_does_not_answer_is_cut_before_one_whose_device_is_there() {
    // Too many of one device, and too many of all.
    for (devices, last) in [(1, 0), (MAX_DRAINING_OF_ALL / MAX_DRAINING + 1, MAX_DRAINING_OF_ALL / MAX_DRAINING)] {
        let mut bench = Bench::with_devices(devices, 1, |_| {});
        let (mut numbers, mut open) = (Vec::new(), Vec::new());
        for device in (0..MAX_DRAINING).flat_map(|_| 0..last.max(1)) {
            let mut link = bench.device_of(device, &LEAVING[..16]);
            let client = bench.client_of(device);
            numbers.extend(bench.active_of(device));
            link.write_all(&LEAVING[16..]).expect("sent");
            bench.run_until("it drains", |server| server.devices.get(device).expect("a device").active.is_none());
            open.push((link, client));
        }
        open.push((bench.device_of(last, GREETING), bench.client_of(last)));
        let (number, now) = (bench.active_of(last).expect("a link"), Instant::now());
        for &silent in &numbers[1..] {
            bench.server.sessions.get_mut(silent).expect("a session").session.require_sign(now);
        }
        bench.server.sessions.get_mut(number).expect("a session").stage = Stage::Draining(now);
        bench.server.recount(number);
        bench.server.bound_draining(now, last);
        let is_cut = |number: &usize| bench.server.sessions.get(*number).is_none();
        let cut: Vec<usize> = (0..numbers.len()).filter(|&place| is_cut(&numbers[place])).collect();
        assert_eq!(cut, [1], "the oldest that does not answer, of {devices} devices");
    }
}

#[test]
fn a_link_that_is_cut_as_soon_as_it_drains_leaves_its_device_without_one() {
    let mut bench = Bench::new(Protocol::V2);
    let (mut devices, _clients) = bench.drain_links(MAX_DRAINING + 1, MAX_DRAINING);
    assert_eq!(bench.server.sessions.len(), MAX_DRAINING, "that without clients made room");
    // The next link may have its number.
    devices.push(bench.device(&LEAVING[..16]));
    bench.run_until("it is served", |server| server.active().is_some() && server.are_client_ports_open());
}

#[test]
fn a_link_that_drains_for_too_long_is_cut_with_its_clients_unless_the_relay_ends() {
    let mut bench = Bench::new(Protocol::V2);
    let mut device = bench.device(&LEAVING[..16]);
    let mut client = TcpStream::connect(bench.server.client_addr(0)).expect("connect");
    bench.run_until("it has a client", |server| server.clients() == 1);
    device.write_all(&LEAVING[16..]).expect("sent");
    bench.run_until("it drains", |server| server.active().is_none());
    let age = |bench: &mut Bench, by: Duration| {
        let peer = bench.server.sessions.get_mut(0).expect("a session");
        if let Stage::Draining(since) = &mut peer.stage {
            *since = since.checked_sub(by).expect("a time");
        }
    };
    age(&mut bench, DRAIN_TIMEOUT - DEADLINE);
    bench.server.step(&mut bench.buffer);
    assert_eq!(bench.server.clients(), 1, "it has time left");
    age(&mut bench, DEADLINE);
    bench.server.phase = Phase::Draining;
    bench.server.step(&mut bench.buffer);
    assert_eq!(bench.server.clients(), 1, "the relay's own end has a time of its own");
    bench.server.phase = Phase::Serving;
    assert!(bench.server.next_deadline(None).is_some_and(|at| at <= Instant::now()));
    bench.run_until("it is cut", |server| server.sessions.is_empty());
    client.set_read_timeout(Some(DEADLINE)).expect("timeout");
    let end = client.read(&mut [0]).expect_err("its client is reset");
    assert_eq!(end.kind(), io::ErrorKind::ConnectionReset);
}

#[test]
fn a_relay_that_is_told_twice_to_end_gives_its_clients_no_more_time() {
    let mut bench = Bench::with(1, |config| config.drain = 2 * DEADLINE);
    let _device = bench.device(GREETING);
    let _clients = bench.clients(0, 1);
    let stopper = bench.server.stopper();
    stopper.stop();
    assert!(!bench.server.requests.has(Request::StopNow));
    stopper.stop();
    let began = Instant::now();
    let outcome = bench.server.finish(&mut bench.buffer).expect("its end");
    assert!(began.elapsed() < DEADLINE);
    assert_eq!(outcome, Outcome { clients_cut: 1 });
}

#[test]
fn a_relay_that_ends_closes_a_link_behind_its_last_bytes() {
    let mut bench = Bench::with(1, |config| config.drain = Duration::ZERO);
    let mut device = bench.device(GREETING);
    let _clients = bench.clients(0, 1);
    bench.server.finish(&mut bench.buffer).expect("its end");
    device.set_read_timeout(Some(DEADLINE)).expect("timeout");
    device.read_to_end(&mut Vec::new()).expect("FIN, not RST");
}

#[test]
fn a_relay_that_drains_ends_at_once_when_the_link_of_its_last_clients_is_lost() {
    let mut bench = Bench::with(1, |config| config.drain = 2 * DEADLINE);
    let device = bench.device(GREETING);
    let _clients = bench.clients(0, 1);
    drop(device);
    let began = Instant::now();
    bench.server.finish(&mut bench.buffer).expect("its end");
    assert!(began.elapsed() < DEADLINE, "no client was there to wait for");
}
