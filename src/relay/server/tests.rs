mod descriptors;
mod drains;
mod many_devices;
mod proxied;
mod reload;
mod secured;
mod services;
mod wake;

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, SockRef, Socket, Type};

use super::clients::PendingClient;
use super::device::ClientPort;
use super::links::DRAIN_TIMEOUT;
use super::*;
use crate::address::Address;
use crate::connection::relay::Relay;
use crate::connection::{Connection, Limits, Protocol, Reset, StreamKey};
use crate::io::retired::{MAX_DRAINING, MAX_LOST};
use crate::relay::limits::MAX_WAITING;
use crate::relay::{Mapping, PlainDevice};

const DEADLINE: Duration = Duration::from_secs(30);
const MS: Duration = Duration::from_millis(1);
const LISTEN: &[u8] = b"\x00\x00\x04\x00";
/// LISTEN, HELLO, and SETTINGS of a device that takes 512 streams.
const GREETING: &[u8] = b"\0\0\x04\0\0\0\x05\xf2\0\x08\x06\0\0\0\0\0\0\x05\0\x04\0\0\x02\0";
/// GOAWAY of a device that has taken all streams.
const LEAVING_ALL: &[u8] = b"\0\x08\x0a\0\0\0\0\0\0\0\0\0\0\0\xff\xff";

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
        Self::with_devices(1, ports, configure)
    }

    /// So many devices, each with a port of its own and so many client ports.
    fn with_devices(devices: usize, ports: usize, configure: impl FnOnce(&mut Config)) -> Self {
        let listen = Address::listen("127.0.0.1:0").expect("an address");
        let mapping = Mapping { client: listen.clone(), service: "127.0.0.1:7".parse().expect("an address") };
        let device = PlainDevice { name: None, listen, mappings: vec![mapping; ports] };
        let mut config = Config::new(vec![device; devices], Config::HALF_CLOSE).expect("a configuration");
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
        self.slow_client_of(0, device)
    }

    fn slow_client_of(&mut self, number: usize, device: &mut TcpStream) -> (TcpStream, usize) {
        let port = self.server.client_addr_of(number, 0);
        let number = self.server.devices.get(number).and_then(|device| device.active).expect("a device");
        let slow = Socket::new(Domain::IPV4, Type::STREAM, None).expect("socket");
        slow.set_recv_buffer_size(4096).expect("size");
        slow.connect(&port.into()).expect("connect");
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

impl Server {
    /// The link of the first device that is served.
    fn active(&self) -> Option<usize> {
        self.devices.get(0)?.active
    }

    /// Where clients of the first device's listener with this number connect.
    fn client_addr(&self, number: usize) -> SocketAddr {
        self.client_addr_of(0, number)
    }

    fn client_addr_of(&self, device: usize, number: usize) -> SocketAddr {
        self.devices.get(device).and_then(|device| device.listeners.get(number)).expect("a listener").0.address()
    }

    /// Whether clients of the first device are taken at every port.
    fn are_client_ports_open(&self) -> bool {
        self.are_client_ports_open_of(0)
    }

    fn are_client_ports_open_of(&self, device: usize) -> bool {
        let listeners = &self.devices.get(device).expect("a device").listeners;
        listeners.iter().all(|(_, (listener, _))| listener.is_listening())
    }
}

/// The first device's clients that wait for a place.
fn waiting_clients(server: &mut Server) -> &mut VecDeque<PendingClient> {
    &mut server.devices.get_mut(0).expect("a device").waiting
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
            if server.connections != 2 + count as u64 {
                return false;
            }
            // However long the test takes.
            let Some(latest) = waiting_clients(server).back_mut() else { return false };
            latest.deadline += DEADLINE;
            true
        });
    }
    assert_eq!(bench.server.waiting, MAX_WAITING);
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
            waiting_clients(server).iter_mut().for_each(|pending| pending.deadline = Instant::now() + DEADLINE);
            server.connections == 1 + count as u64
        });
    }
    for hog in clients.drain(..4) {
        SockRef::from(&hog).set_linger(Some(Duration::ZERO)).expect("RST");
    }
    bench.server.wait(Some(Instant::now() + 100 * MS)).expect("wait");
    bench.run_until("four have a place", |server| server.waiting == 3);
    let clients = bench.server.sessions.iter().flat_map(|(_, peer)| peer.clients.values());
    assert_eq!(clients.filter(|client| client.address.ip().to_string() == "127.0.0.2").count(), 2);
}

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
    bench.run_until("the ten are served", |server| server.waiting == 0);
    for client in &mut clients[..10] {
        client.set_read_timeout(Some(DEADLINE)).expect("timeout");
        assert_eq!(client.read(&mut [0]).expect("FIN, not RST"), 0);
    }
}

#[test]
fn a_device_that_left_before_its_listen_was_read_does_not_take_the_place_of_one_that_is_there() {
    let mut bench = Bench::new(Protocol::V2);
    let _device = bench.device(GREETING);
    let active = bench.server.active();
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
        assert_eq!(bench.server.active(), active);
        assert!(bench.server.are_client_ports_open());
    }
}

#[test]
fn a_device_that_breaks_the_protocol_right_behind_its_listen_takes_no_place() {
    for min_protocol in [Protocol::V1, Protocol::V2] {
        let mut bench = Bench::with(1, |config| config.min_protocol = min_protocol);
        // CONNECT, which no device sends; and a frame that may not come before SETTINGS.
        for behind in [&b"\0\0\x01\x01"[..], b"\0\0\x05\xf2\0\0\x03\0\0\0\0\x01"] {
            for is_one_there in [false, true] {
                let device = is_one_there.then(|| bench.device(GREETING));
                let active = bench.server.active();
                let mut peer = TcpStream::connect(bench.server.device_addr()).expect("connect");
                peer.write_all(&[LISTEN, behind].concat()).expect("sent");
                let mut turns = 0..50;
                bench.run_until("it has come and gone", |server| {
                    turns.next().is_none() && server.sessions.len() == usize::from(is_one_there)
                });
                assert_eq!(bench.server.active(), active);
                assert_eq!(bench.server.are_client_ports_open(), is_one_there);
                drop(device);
                bench.run_until("the device is gone", |server| server.active().is_none());
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
fn a_wake_visits_the_link_and_the_port_that_have_an_event_and_none_of_those_that_are_idle() {
    let mut bench = Bench::with_ports(Protocol::V2, 50);
    let mut device = bench.device(GREETING);
    let address = bench.server.device_addr();
    let idle: Vec<TcpStream> = (0..40).map(|_| TcpStream::connect(address).expect("connect")).collect();
    bench.run_until("all are here", |server| server.sessions.len() == 1 + idle.len());
    let visits = |server: &Server| (server.sessions.visits, server.devices.get(0).expect("a device").listeners.visits);
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
#[cfg(target_os = "linux")]
fn client_ports_that_cannot_be_closed_are_lines_that_a_device_causes_and_have_their_limit() {
    let mut bench = Bench::new(Protocol::V2);
    let now = Instant::now();
    for _ in 0..200 {
        bench.server.open_client_ports(now, 0);
        let device = bench.server.devices.get(0).expect("a device");
        device.listeners.iter().for_each(|(_, (listener, _))| listener.end_listening());
        bench.server.close_client_ports(now, 0, &Reset::LinkLost.into());
    }
    assert!(bench.server.log_limits.poll_timeout().is_some(), "some were left out, and are counted");
}
