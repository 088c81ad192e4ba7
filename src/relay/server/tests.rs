mod wake;

use std::io::{Read, Write};
use std::net::TcpStream;

use socket2::{Domain, SockRef, Socket, Type};

use super::clients::MAX_WAITING;
use super::devices::DRAIN_TIMEOUT;
use super::*;
use crate::connection::{Connection, Limits, Protocol, StreamKey};
use crate::io::retired::{MAX_DRAINING, MAX_LOST};

const DEADLINE: Duration = Duration::from_secs(30);
const MS: Duration = Duration::from_millis(1);

/// A relay whose loop the test steps.
struct Bench {
    server: Server,
    buffer: Vec<u8>,
}

impl Bench {
    fn new(protocol: Protocol) -> Self {
        Self::with_ports(protocol, 1)
    }

    fn with_ports(protocol: Protocol, ports: usize) -> Self {
        Self::with(ports, |config| config.protocol = protocol)
    }

    fn with(ports: usize, configure: impl FnOnce(&mut Config)) -> Self {
        let listen = Address::listen("127.0.0.1:0").expect("an address");
        let mapping = Mapping { client: listen.clone(), service: "127.0.0.1:7".parse().expect("an address") };
        let mut config = Config::new(listen, vec![mapping; ports], Config::HALF_CLOSE).expect("a configuration");
        configure(&mut config);
        let server = Server::bind(config).expect("ports");
        Self { server, buffer: vec![0; LINK_BUFFER] }
    }

    fn run_until(&mut self, what: &str, mut holds: impl FnMut(&mut Server) -> bool) {
        let began = Instant::now();
        while !holds(&mut self.server) {
            assert!(began.elapsed() < DEADLINE, "not in time: {what}");
            self.server.step(&mut self.buffer);
            self.server.wait(Some(Instant::now() + MS)).expect("wait");
        }
    }

    /// A device that has sent these bytes, and whose client ports are open.
    fn device(&mut self, greeting: &[u8]) -> TcpStream {
        let mut device = TcpStream::connect(self.server.device_addr()).expect("connect");
        device.write_all(greeting).expect("sent");
        self.run_until("the client ports are open", |server| server.are_client_ports_open());
        device
    }

    /// So many clients of the port at `place`, all on the link.
    fn clients(&mut self, place: usize, count: usize) -> Vec<TcpStream> {
        let port = self.server.client_addr(place);
        let before = self.server.clients();
        let mut clients = Vec::new();
        while clients.len() < count {
            clients.push(TcpStream::connect(port).expect("connect"));
            // No more than the port's backlog takes.
            if clients.len() % 32 == 0 || clients.len() == count {
                let all = before + clients.len() as u64;
                self.run_until("the clients are on the link", |server| server.clients() == all);
            }
        }
        clients
    }

    fn connection(&self, number: usize) -> &Relay {
        self.server.sessions.get(number).expect("a session").session.connection()
    }

    /// A client of the device in use that reads nothing, and for which bytes wait when the device of version 1 has
    /// ended it; and how many bytes are left for it.
    fn slow_client(&mut self, device: &mut TcpStream) -> (TcpStream, usize) {
        let number = self.server.active.expect("a device");
        let slow = Socket::new(Domain::IPV4, Type::STREAM, None).expect("socket");
        slow.set_recv_buffer_size(4096).expect("size");
        slow.connect(&self.server.client_addr(0).into()).expect("connect");
        slow.set_nonblocking(true).expect("mode");
        self.run_until("a client", |server| server.clients() == 1);
        let key = StreamKey { index: 0, generation: 0 };
        let frame = [&b"\x40\x00\x03\x01"[..], &[b'x'; 16 * 1024]].concat();
        let mut left = 0;
        while self.connection(number).pending(key).is_empty() {
            device.write_all(&frame).expect("sent");
            left += 16 * 1024;
            let sent = self.connection(number).counters().received;
            self.run_until("the frame is here", |server| {
                let peer = server.sessions.get(number).expect("a session");
                peer.session.connection().counters().received >= sent + 16 * 1024
            });
        }
        device.write_all(b"\x00\x00\x02\x01").expect("CLOSE");
        self.run_until("the client is off the link", |server| server.clients() == 0);
        (TcpStream::from(slow), left)
    }
}

/// A client from another address of this machine.
fn client_from(host: u8, port: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("socket");
    socket.bind(&SocketAddr::from(([127, 0, 0, host], 0)).into()).expect("bind");
    socket.connect(&port.into()).expect("connect");
    socket.into()
}

#[test]
#[cfg(target_os = "linux")]
fn a_place_that_becomes_free_is_for_the_address_that_has_the_fewest_of_those_that_wait() {
    let mut bench = Bench::new(Protocol::V1);
    bench.server.config.clients = 2;
    let _device = bench.device(LISTEN);
    let mut hogs = bench.clients(0, 2);
    let port = bench.server.client_addr(0);
    let mut waiting = Vec::new();
    for count in 1..=MAX_WAITING + 1 {
        // The last one comes from elsewhere, and there is no room for one more.
        waiting.push(client_from(if count <= MAX_WAITING { 1 } else { 2 }, port));
        bench.run_until("one more waits", |server| {
            let latest = server.waiting.back_mut();
            // However long the test takes.
            let Some(latest) = latest.filter(|_| server.connections == 2 + count as u64) else { return false };
            latest.deadline += DEADLINE;
            true
        });
    }
    assert_eq!(bench.server.waiting.len(), MAX_WAITING);
    SockRef::from(&hogs.remove(0)).set_linger(Some(Duration::ZERO)).expect("RST");
    bench.run_until("it has the place", |server| {
        let mut clients = server.sessions.iter().flat_map(|(_, peer)| peer.clients.values());
        clients.any(|client| client.address.ip().to_string() == "127.0.0.2")
    });
}

#[test]
#[cfg(target_os = "linux")]
fn places_that_become_free_together_do_not_all_go_to_one_address() {
    let mut bench = Bench::new(Protocol::V1);
    bench.server.config.clients = 8;
    let _device = bench.device(LISTEN);
    let port = bench.server.client_addr(0);
    let mut clients = Vec::new();
    for (count, host) in [9, 9, 9, 9, 9, 9, 9, 2, 1, 1, 1, 1, 1, 1, 2].into_iter().enumerate() {
        clients.push(client_from(host, port));
        bench.run_until("one more is here", |server| {
            // However long the test takes.
            server.waiting.iter_mut().for_each(|pending| pending.deadline = Instant::now() + DEADLINE);
            server.connections == 1 + count as u64
        });
    }
    for hog in clients.drain(..4) {
        SockRef::from(&hog).set_linger(Some(Duration::ZERO)).expect("RST");
    }
    bench.server.wait(Some(Instant::now() + 100 * MS)).expect("wait");
    bench.run_until("four have a place", |server| server.waiting.len() == 3);
    let clients = bench.server.sessions.iter().flat_map(|(_, peer)| peer.clients.values());
    assert_eq!(clients.filter(|client| client.address.ip().to_string() == "127.0.0.2").count(), 2);
}

const LISTEN: &[u8] = b"\x00\x00\x04\x00";

#[test]
fn a_client_that_comes_when_another_has_just_got_its_last_bytes_harms_it_not() {
    let mut bench = Bench::new(Protocol::V1);
    let mut device = bench.device(LISTEN);
    let port = bench.server.client_addr(0);
    let (mut slow, left) = bench.slow_client(&mut device);

    // Its last bytes are written where its event is taken, and the next client is accepted right after that.
    let mut read = Vec::new();
    let began = Instant::now();
    while bench.connection(0).streams() > 0 {
        assert!(began.elapsed() < DEADLINE);
        let _ = slow.read_to_end(&mut read);
        bench.server.wait(Some(Instant::now() + MS)).expect("wait");
    }
    let _next = TcpStream::connect(port).expect("connect");
    bench.server.wait(Some(Instant::now() + 100 * MS)).expect("wait");
    let mut closed_with_fin = false;
    bench.run_until("the next client", |server| {
        // It may be over before the next is there.
        closed_with_fin |= server.io.closing.len() == 1;
        server.clients() == 1
    });
    slow.set_nonblocking(false).expect("mode");
    slow.set_read_timeout(Some(DEADLINE)).expect("timeout");
    let end = slow.read_to_end(&mut read);
    assert!(end.is_ok() && read.len() == left, "{end:?} after {} of {left} bytes", read.len());
    assert!(closed_with_fin, "it was ended with FIN");
}

#[test]
fn of_too_many_links_that_are_gone_and_still_deliver_the_oldest_is_cut() {
    let mut bench = Bench::new(Protocol::V1);
    let mut clients = Vec::new();
    for _ in 0..MAX_LOST + 2 {
        let mut device = bench.device(LISTEN);
        clients.push(bench.slow_client(&mut device));
        drop(device);
        bench.run_until("its link is gone", |server| server.active.is_none());
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

/// Which of these clients have been reset.
fn cut(clients: &mut [TcpStream]) -> Vec<usize> {
    let is_reset = |client: &mut TcpStream| {
        client.set_nonblocking(true).expect("mode");
        let end = std::iter::repeat_with(|| client.read(&mut [0; 4096])).find(|read| !matches!(read, Ok(1..)));
        matches!(end, Some(Err(error)) if error.kind() == io::ErrorKind::ConnectionReset)
    };
    (0..clients.len()).filter(|&place| is_reset(&mut clients[place])).collect()
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
        held.push(bench.connection(bench.server.active.expect("a device")).held());
        drop(device);
        bench.run_until("its link is gone", |server| server.active.is_none());
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
        bench.run_until("it drains", |server| server.active.is_none() && !server.are_client_ports_open());
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
        let (number, mut written) = (bench.server.active.expect("a device"), 0);
        device.set_nonblocking(true).expect("mode");
        bench.run_until("all is here", |server| {
            written += device.write(&bytes[written..]).unwrap_or(0);
            let peer = server.sessions.get(number).expect("a session");
            peer.session.connection().counters().received == 16 * 17 * 0xf000
        });
        held.push(bench.connection(number).held());
        assert_eq!(device.write(LEAVING_ALL).expect("sent"), LEAVING_ALL.len());
        bench.run_until("it drains", |server| server.active.is_none() && !server.are_client_ports_open());
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
    let mut bench = Bench::with(1, |config| (config.clients, config.limits.streams) = (300, 300));
    let mut device = bench.device(GREETING);
    let mut clients = bench.clients(0, 300);
    device.write_all(LEAVING_ALL).expect("sent");
    bench.run_until("it drains", |server| server.active.is_none());
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
            bench.run_until("its link is gone", |server| server.active.is_none());
        } else {
            let number = bench.server.active.expect("a device");
            bench.server.device_listeners.clear();
            bench.server.close_link(number);
            bench.server.step(&mut bench.buffer);
        }
    }
    assert_eq!(bench.server.sessions.len(), MAX_LOST + 1);
}

/// LISTEN, HELLO, SETTINGS and GOAWAY.
const LEAVING: &[u8] = b"\0\0\x04\0\0\0\x05\xf2\0\0\x06\0\0\0\0\0\0\x08\x0a\0\0\0\0\0\0\0\0\0\0\0\0\x01";
/// LISTEN, HELLO, and SETTINGS of a device that takes 512 streams.
const GREETING: &[u8] = b"\0\0\x04\0\0\0\x05\xf2\0\x08\x06\0\0\0\0\0\0\x05\0\x04\0\0\x02\0";
/// GOAWAY of a device that has taken all streams.
const LEAVING_ALL: &[u8] = b"\0\x08\x0a\0\0\0\0\0\0\0\0\0\0\0\xff\xff";

#[test]
fn of_too_many_links_that_drain_those_without_clients_are_cut_and_then_the_oldest() {
    let mut bench = Bench::new(Protocol::V2);
    let mut clients = Vec::new();
    let mut devices = Vec::new();
    for place in 0..MAX_DRAINING + 3 {
        let mut device = bench.device(&LEAVING[..16]);
        if place != 5 {
            clients.push(TcpStream::connect(bench.server.client_addr(0)).expect("connect"));
            bench.run_until("it has a client", |server| {
                let peer = server.active.and_then(|number| server.sessions.get(number));
                peer.is_some_and(|peer| peer.session.connection().clients() == 1)
            });
        }
        device.write_all(&LEAVING[16..]).expect("sent");
        bench.run_until("it drains", |server| server.active.is_none() && !server.are_client_ports_open());
        devices.push(device);
    }
    bench.run_until("three are gone", |server| server.sessions.len() == MAX_DRAINING);
    let is_there = |device: &TcpStream| {
        let address = device.local_addr().expect("address");
        bench.server.sessions.iter().any(|(_, peer)| peer.address == address)
    };
    let cut: Vec<usize> = (0..devices.len()).filter(|&place| !is_there(&devices[place])).collect();
    assert_eq!(cut, [0, 1, 5]);
}

#[test]
fn a_link_that_drains_for_too_long_is_cut_with_its_clients_unless_the_relay_ends() {
    let mut bench = Bench::new(Protocol::V2);
    let mut device = bench.device(&LEAVING[..16]);
    let mut client = TcpStream::connect(bench.server.client_addr(0)).expect("connect");
    bench.run_until("it has a client", |server| server.clients() == 1);
    device.write_all(&LEAVING[16..]).expect("sent");
    bench.run_until("it drains", |server| server.active.is_none());
    let age = |bench: &mut Bench, by: Duration| {
        let peer = bench.server.sessions.get_mut(0).expect("a session");
        peer.draining_since = peer.draining_since.and_then(|since| since.checked_sub(by));
    };
    age(&mut bench, DRAIN_TIMEOUT - DEADLINE);
    bench.server.step(&mut bench.buffer);
    assert_eq!(bench.server.clients(), 1, "it has time left");
    age(&mut bench, DEADLINE);
    let listeners = std::mem::take(&mut bench.server.device_listeners);
    bench.server.step(&mut bench.buffer);
    assert_eq!(bench.server.clients(), 1, "the relay's own end has a time of its own");
    bench.server.device_listeners = listeners;
    assert!(bench.server.next_deadline(None).is_some_and(|at| at <= Instant::now()));
    bench.run_until("it is cut", |server| server.sessions.is_empty());
    client.set_read_timeout(Some(DEADLINE)).expect("timeout");
    let end = client.read(&mut [0]).expect_err("its client is reset");
    assert_eq!(end.kind(), io::ErrorKind::ConnectionReset);
}

#[test]
fn of_half_closed_clients_that_make_room_for_others_all_at_once_each_gets_its_end() {
    let mut bench = Bench::new(Protocol::V1);
    let _device = bench.device(LISTEN);
    let mut clients = bench.clients(0, 256);
    let port = bench.server.client_addr(0);
    let _more: Vec<TcpStream> = (0..10).map(|_| TcpStream::connect(port).expect("connect")).collect();
    bench.run_until("ten more are here", |server| server.connections == 256 + 10);
    for client in &clients[..10] {
        client.shutdown(std::net::Shutdown::Write).expect("FIN");
    }
    bench.run_until("the ten are served", |server| server.waiting.is_empty());
    for client in &mut clients[..10] {
        client.set_read_timeout(Some(DEADLINE)).expect("timeout");
        assert_eq!(client.read(&mut [0]).expect("FIN, not RST"), 0);
    }
}

#[test]
fn a_device_that_left_before_its_listen_was_read_does_not_take_the_place_of_one_that_is_there() {
    let mut bench = Bench::new(Protocol::V2);
    let _device = bench.device(GREETING);
    let active = bench.server.active;
    for is_reset in [false, true] {
        // While the relay is stopped.
        let mut gone = TcpStream::connect(bench.server.device_addr()).expect("connect");
        gone.write_all(GREETING).expect("sent");
        if is_reset {
            SockRef::from(&gone).set_linger(Some(Duration::ZERO)).expect("RST");
        }
        drop(gone);
        // A reset one may come and go in one turn.
        let mut turns = 0..50;
        bench.run_until("it has come and gone", |server| turns.next().is_none() && server.sessions.len() == 1);
        assert_eq!(bench.server.active, active);
        assert!(bench.server.are_client_ports_open());
    }
}

#[test]
fn of_too_many_connections_that_are_no_link_yet_the_oldest_is_dropped_and_not_the_one_whose_hello_is_on_its_way() {
    let mut bench = Bench::with(1, |config| config.min_protocol = Protocol::V2);
    let address = bench.server.device_addr();
    let mut silent = Vec::new();
    for _ in 1..bench.server.descriptors.pending {
        silent.push(TcpStream::connect(address).expect("connect"));
        let count = silent.len();
        bench.run_until("one more", |server| server.sessions.len() == count);
    }
    let mut device = TcpStream::connect(address).expect("connect");
    device.write_all(LISTEN).expect("sent");
    bench.run_until("LISTEN is here", |server| {
        server.sessions.iter().any(|(_, peer)| peer.session.connection().has_input())
    });
    silent.push(TcpStream::connect(address).expect("connect"));
    let (first, all) = (silent[0].local_addr().expect("address"), silent.len());
    bench.run_until("the oldest is dropped", |server| {
        let mut peers = server.sessions.iter().map(|(_, peer)| peer);
        peers.clone().count() == all && peers.all(|peer| peer.address != first)
    });
    device.write_all(&GREETING[4..]).expect("sent");
    bench.run_until("the device is served", |server| server.are_client_ports_open());
}

#[test]
fn a_device_that_breaks_the_protocol_right_behind_its_listen_takes_no_place() {
    for min_protocol in [Protocol::V1, Protocol::V2] {
        let mut bench = Bench::with(1, |config| config.min_protocol = min_protocol);
        // CONNECT, which no device sends; and a frame that may not come before SETTINGS.
        for behind in [&b"\0\0\x01\x01"[..], b"\0\0\x05\xf2\0\0\x03\0\0\0\0\x01"] {
            for is_one_there in [false, true] {
                let device = is_one_there.then(|| bench.device(GREETING));
                let active = bench.server.active;
                let mut peer = TcpStream::connect(bench.server.device_addr()).expect("connect");
                peer.write_all(&[LISTEN, behind].concat()).expect("sent");
                let mut turns = 0..50;
                bench.run_until("it has come and gone", |server| {
                    turns.next().is_none() && server.sessions.len() == usize::from(is_one_there)
                });
                assert_eq!(bench.server.active, active);
                assert_eq!(bench.server.are_client_ports_open(), is_one_there);
                drop(device);
                bench.run_until("the device is gone", |server| server.active.is_none());
            }
        }
        let _device = bench.device(GREETING);
        bench.clients(0, 1);
    }
}

#[test]
fn a_port_that_is_hammered_takes_no_place_that_is_kept_for_another_one() {
    let mut bench = Bench::with_ports(Protocol::V1, 2);
    let _device = bench.device(LISTEN);
    let _clients = bench.clients(0, 240);
    let port = bench.server.client_addr(0);
    let _hammer: Vec<TcpStream> = (0..300).map(|_| TcpStream::connect(port).expect("connect")).collect();
    bench.run_until("they are here", |server| server.connections == 240 + 300);
    bench.clients(1, 1);
    assert_eq!(bench.server.clients(), 241);
}

#[test]
fn clients_that_come_all_at_once_have_no_more_descriptors_than_there_are() {
    let mut bench = Bench::new(Protocol::V2);
    let mut old = bench.device(GREETING);
    let _cut = bench.clients(0, 3);
    old.write_all(LEAVING_ALL).expect("sent");
    bench.run_until("it drains", |server| server.active.is_none() && !server.are_client_ports_open());
    let _device = bench.device(GREETING);
    bench.server.descriptors.clients = 5;
    let port = bench.server.client_addr(0);
    let _clients: Vec<TcpStream> = (0..4).map(|_| TcpStream::connect(port).expect("connect")).collect();
    bench.run_until("they are served", |server| {
        let streams: usize = server.sessions.iter().map(|(_, peer)| peer.session.connection().streams()).sum();
        assert!(streams <= 5, "{streams} streams");
        server.connections == 3 + 4
    });
    assert_eq!(bench.server.clients(), 4, "the link that drains has made room");
}

#[test]
fn a_wake_visits_the_link_and_the_port_that_have_an_event_and_none_of_those_that_are_idle() {
    let mut bench = Bench::with_ports(Protocol::V2, 50);
    let mut device = bench.device(GREETING);
    let address = bench.server.device_addr();
    let idle: Vec<TcpStream> = (0..40).map(|_| TcpStream::connect(address).expect("connect")).collect();
    bench.run_until("all are here", |server| server.sessions.len() == 1 + idle.len());
    let visits = |server: &Server| (server.sessions.visits, server.client_listeners.visits);
    let rest = |bench: &mut Bench| {
        let mut last = None;
        bench.run_until("it has nothing to do", |server| last.replace(visits(server)) == Some(visits(server)));
        last.expect("visits")
    };
    let (sessions, ports) = rest(&mut bench);
    // A PING, and its answer.
    device.write_all(b"\0\x08\x09\0\0\0\0\0\0\0\0\0\0\0\0\x01").expect("sent");
    bench.run_until("it is here", |server| server.sessions.visits > sessions);
    let (after_ping, of_ports) = rest(&mut bench);
    assert!((1..=3).contains(&(after_ping - sessions)) && of_ports == ports, "{} visits", after_ping - sessions);
    let _client = TcpStream::connect(bench.server.client_addr(7)).expect("connect");
    bench.run_until("it is here", |server| server.clients() == 1);
    let (after_client, of_ports) = rest(&mut bench);
    assert!((1..=3).contains(&(of_ports - ports)), "{} visits of ports", of_ports - ports);
    assert!((1..=6).contains(&(after_client - after_ping)), "{} visits", after_client - after_ping);
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

#[test]
fn the_client_that_has_the_last_descriptor_costs_no_link_that_drains_its_clients() {
    let mut bench = Bench::new(Protocol::V2);
    let mut old = bench.device(GREETING);
    let mut draining = bench.clients(0, 1);
    old.write_all(LEAVING_ALL).expect("sent");
    bench.run_until("it drains", |server| server.active.is_none() && !server.are_client_ports_open());
    let _device = bench.device(GREETING);
    bench.server.descriptors.clients = 2;
    let _last = bench.clients(0, 1);
    assert!(bench.server.clients() == 2 && cut(&mut draining).is_empty());
    assert_eq!(bench.server.shortage.poll_timeout(), None, "no client waits for one");
}

#[test]
fn a_descriptor_that_has_just_become_free_is_for_the_next_client_and_no_link_is_cut_for_it() {
    let mut bench = Bench::new(Protocol::V2);
    let mut old = bench.device(GREETING);
    let mut draining = bench.clients(0, 1);
    old.write_all(LEAVING_ALL).expect("sent");
    bench.run_until("it drains", |server| server.active.is_none() && !server.are_client_ports_open());
    let mut device = bench.device(GREETING);
    let mut clients = bench.clients(0, 1);
    bench.server.descriptors.clients = 2;
    // Its socket's event is enough to end it, once its FIN was read.
    let leaves = clients.remove(0);
    leaves.shutdown(std::net::Shutdown::Write).expect("FIN");
    device.set_nonblocking(true).expect("mode");
    let mut frames = Vec::new();
    bench.run_until("its FIN is on the link", |_| {
        let _ = device.read_to_end(&mut frames);
        frames.ends_with(b"\0\0\x03\x01\0\0\0\x01")
    });
    SockRef::from(&leaves).set_linger(Some(Duration::ZERO)).expect("RST");
    drop(leaves);
    let _next = TcpStream::connect(bench.server.client_addr(0)).expect("connect");
    bench.run_until("the next client is here", |server| server.connections == 3);
    bench.run_until("the one that left is forgotten", |server| server.totals.streams <= 2);
    assert_eq!(cut(&mut draining), [0; 0], "the link that drains keeps its client");
}
