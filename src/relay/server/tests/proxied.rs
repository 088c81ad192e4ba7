//! Connections of load balancers, on a relay that the test steps.

use super::*;
use crate::protocol::v2::{Decoder, Item};

/// The load balancer, and what it says of a client at 192.0.2.1:4000.
const BALANCER: u8 = 9;
pub(super) const HEADER: &[u8; 28] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x01\x0a\0\0\x02\x0f\xa0\0\x50";

fn client() -> SocketAddr {
    "192.0.2.1:4000".parse().expect("an address")
}

fn bench() -> Bench {
    Bench::with(1, |config| config.proxy_protocol_from = vec!["127.0.0.9".parse().expect("an address")])
}

impl Bench {
    fn balanced(&self, port: SocketAddr, bytes: &[u8]) -> TcpStream {
        let mut io = client_from(BALANCER, port);
        io.set_nonblocking(false).expect("mode");
        io.set_read_timeout(Some(DEADLINE)).expect("deadline");
        io.write_all(bytes).expect("sent");
        io
    }

    /// Of all connections of load balancers the headers were read, or they are gone.
    fn read_headers(&mut self) {
        self.run_until("the headers are read", |server| server.proxied.is_empty());
    }
}

/// Whether the other end has ended it; nothing is sent before.
fn is_over(io: &mut TcpStream) -> bool {
    match io.read(&mut [0]) {
        Ok(count) => count == 0,
        Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
    }
}

/// The clients that a device is told of, and what they say, in order.
fn told(device: &mut TcpStream, clients: usize) -> Vec<(Option<SocketAddr>, Vec<u8>)> {
    device.set_read_timeout(Some(DEADLINE)).expect("deadline");
    let (mut decoder, mut told, mut buffer) = (Decoder::default(), Vec::new(), [0; 4096]);
    // HELLO.
    device.read_exact(&mut buffer[..4]).expect("an answer");
    while told.len() < clients || told.iter().any(|(_, said): &(_, Vec<u8>)| !said.ends_with(b".")) {
        let count = device.read(&mut buffer).expect("more");
        assert!(count > 0, "{told:?}");
        let mut input = &buffer[..count];
        while !input.is_empty() {
            match decoder.next(&mut input).expect("frames") {
                Some(Item::Connect { connect, .. }) => told.push((connect.expect("a CONNECT").client, Vec::new())),
                Some(Item::Data { stream, bytes, .. }) => told[stream as usize - 1].1.extend(bytes),
                _ => {}
            }
        }
    }
    told
}

#[test]
fn a_header_names_the_client_and_takes_none_of_its_bytes_wherever_it_is_cut() {
    let mut bench = bench();
    let mut device = bench.device(GREETING);
    let port = bench.server.client_addr(0);
    let all = [&HEADER[..], b"hello."].concat();
    let mut clients = Vec::new();
    for cut in 0..all.len() {
        let before = bench.server.clients();
        let mut io = bench.balanced(port, &all[..cut]);
        let waits = cut < HEADER.len();
        bench.run_until(
            "it has come",
            |server| {
                if waits { server.proxied.len() == 1 } else { server.clients() > before }
            },
        );
        // Once more, so that what has come is read.
        bench.server.step(&mut vec![0; LINK_BUFFER]);
        io.write_all(&all[cut..]).expect("sent");
        bench.run_until("it is on the link", |server| server.clients() > before && server.proxied.is_empty());
        clients.push(io);
    }
    let peer = bench.server.sessions.get(bench.active_link()).expect("a link");
    assert!(peer.clients.values().all(|known| known.address == client()));
    bench.step_for_a_moment();
    for (from, said) in told(&mut device, clients.len()) {
        assert_eq!((from, &said[..]), (Some(client()), &b"hello."[..]));
    }
}

#[test]
fn a_device_behind_a_load_balancer_has_its_own_address() {
    let mut bench = bench();
    let _link = bench.balanced(bench.server.device_addr(), &[&HEADER[..], GREETING].concat());
    bench.run_until("the device is there", |server| server.are_client_ports_open());
    assert_eq!(bench.server.sessions.get(bench.active_link()).expect("a link").address, client());
    let is_local = |bench: &Bench| bench.server.devices.get(0).expect("a device").is_local;
    assert!(!is_local(&bench) && is_local(&Bench::new(Protocol::V2)), "clients come from anywhere");
    // One from elsewhere has no header, and one that has is no device.
    let _direct = bench.device(GREETING);
    let before = bench.active_link();
    let mut other = TcpStream::connect(bench.server.device_addr()).expect("connect");
    other.write_all(HEADER).expect("sent");
    bench.run_until("it is dropped", |server| server.totals.pending.is_empty());
    assert_eq!(bench.active_link(), before);
}

#[test]
fn what_has_no_header_of_version_2_is_dropped_and_what_ends_or_is_late_too() {
    let mut bench = bench();
    let _device = bench.device(GREETING);
    let ports = [bench.server.client_addr(0), bench.server.device_addr()];
    for port in ports {
        for bytes in [&b"GET / HTTP/1.1\r\n"[..], b"PROXY TCP4 192.0.2.1 10.0.0.2 4000 80\r\n", GREETING] {
            let mut io = bench.balanced(port, bytes);
            io.set_nonblocking(true).expect("mode");
            bench.run_until("it is dropped", |_| is_over(&mut io));
        }
        let gone = bench.balanced(port, &HEADER[..20]);
        bench.run_until("it has come", |server| !server.proxied.is_empty());
        drop(gone);
        bench.read_headers();
        let mut late = bench.balanced(port, &HEADER[..27]);
        bench.run_until("it has come", |server| !server.proxied.is_empty());
        bench.server.visit_proxied(Instant::now() + Duration::from_secs(4));
        assert_eq!(bench.server.proxied.len(), 1);
        bench.server.visit_proxied(Instant::now() + Duration::from_secs(5));
        assert!(bench.server.proxied.is_empty());
        late.set_nonblocking(true).expect("mode");
        bench.run_until("it is dropped", |_| is_over(&mut late));
    }
    assert_eq!(bench.server.clients(), 0);
}

#[test]
fn of_too_many_connections_without_a_header_the_oldest_is_dropped_and_the_end_of_the_relay_drops_all() {
    let mut bench = bench();
    let _device = bench.device(GREETING);
    bench.server.descriptors.clients = 8;
    let port = bench.server.client_addr(0);
    let mut first = bench.balanced(port, b"\r");
    bench.run_until("it has come", |server| server.proxied.len() == 1);
    let others = [(); 2].map(|()| bench.balanced(port, b"\r"));
    first.set_nonblocking(true).expect("mode");
    bench.run_until("the first is dropped", |_| is_over(&mut first));
    assert_eq!(bench.server.proxied.len(), 2);
    bench.server.drop_all_proxied();
    assert!(bench.server.proxied.is_empty());
    drop(others);
}

#[test]
fn a_client_whose_header_comes_when_the_device_is_gone_is_refused() {
    let mut bench = bench();
    let device = bench.device(GREETING);
    let mut io = bench.balanced(bench.server.client_addr(0), &HEADER[..27]);
    bench.run_until("it has come", |server| !server.proxied.is_empty());
    drop(device);
    bench.run_until("the device is gone", |server| !server.are_client_ports_open());
    io.write_all(&HEADER[27..]).expect("sent");
    bench.read_headers();
    assert!(io.read(&mut [0]).is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset));
}

impl Bench {
    fn active_link(&self) -> usize {
        self.server.devices.get(0).and_then(|device| device.active).expect("a device")
    }

    /// Until the link has taken what there is for it.
    fn step_for_a_moment(&mut self) {
        for _ in 0..100 {
            self.server.step(&mut self.buffer);
            self.server.wait(Some(Instant::now() + MS)).expect("wait");
        }
    }
}
