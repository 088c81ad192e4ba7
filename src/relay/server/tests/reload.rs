//! Another configuration while the relay runs: what is in both is not touched.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU16, Ordering::Relaxed};
use std::{process, thread};

use super::proxied::HEADER;
use super::*;
use crate::relay::listener::{Listener, hold};
use crate::relay::{Controller, Inherited, ServicePort};

fn address(text: &str) -> Address {
    Address::listen(text).expect(text)
}

/// A port that nobody has, to be opened later: below those that the system gives to connections, of which there are many beside a test, and
/// to none twice.
fn free_address() -> Address {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = process::id() as u16 % 10_000;
    loop {
        let port = 20_000 + first.wrapping_add(NEXT.fetch_add(1, Relaxed)) % 12_000;
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket.set_reuse_address(true).expect("an option");
        if socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)).into()).is_ok() {
            return address(&format!("127.0.0.1:{port}"));
        }
    }
}

fn device(listen: &Address, clients: &[&Address]) -> PlainDevice {
    let mapping = |client: &&Address| Mapping { client: (*client).clone(), service: address("127.0.0.1:7") };
    PlainDevice { name: None, listen: listen.clone(), mappings: clients.iter().map(mapping).collect() }
}

fn config(devices: Vec<PlainDevice>) -> Config {
    Config::new(devices, Config::HALF_CLOSE).expect("a configuration")
}

impl Bench {
    fn of(config: &Config) -> Self {
        Self { server: Server::bind(config.clone()).expect("ports"), buffer: vec![0; LINK_BUFFER] }
    }

    /// Has another thread ask while the loop turns.
    fn ask<T: Send + 'static>(&mut self, ask: impl FnOnce(&Controller) -> T + Send + 'static) -> T {
        let controller = self.server.controller();
        let asker = thread::spawn(move || ask(&controller));
        self.run_until("an answer", |_| asker.is_finished());
        asker.join().expect("no panic")
    }

    fn reconfigure(&mut self, old: &Config, new: &Config) -> Result<(), Error> {
        let (old, new) = (old.clone(), new.clone());
        self.ask(move |controller| controller.reconfigure(&old, new))
    }
}

fn connects(to: &Address) -> bool {
    TcpStream::connect((to.host(), to.port())).is_ok()
}

#[test]
fn a_client_port_comes_and_another_goes_while_the_link_and_its_clients_stay() {
    let [listen, old_port, kept_port, new_port] = std::array::from_fn(|_| free_address());
    let old = config(vec![device(&listen, &[&old_port, &kept_port])]);
    let mut bench = Bench::of(&old);
    let _link = bench.device_of(0, GREETING);
    let mut client = bench.client_of(0);
    let link = bench.active_of(0);
    let mut new = config(vec![device(&listen, &[&new_port, &kept_port])]);
    new.clients = 7;
    bench.reconfigure(&old, &new).expect("changed");
    assert_eq!((bench.active_of(0), bench.server.clients()), (link, 1));
    assert!(!connects(&old_port) && connects(&new_port) && connects(&kept_port));
    assert_eq!(bench.server.config.clients, 7);
    client.set_nonblocking(true).expect("mode");
    let read = client.read(&mut [0]).expect_err("it is open still");
    assert_eq!(read.kind(), io::ErrorKind::WouldBlock);
    // And back: the number of the port that was taken out is used again.
    bench.reconfigure(&new, &old).expect("changed back");
    assert!(connects(&old_port) && !connects(&new_port));
    assert_eq!(bench.server.devices.get(0).expect("a device").ports.len(), 2);
}

#[test]
fn a_device_comes_and_another_goes_with_its_link_and_its_clients() {
    let [one, two, three, port, other, third] = std::array::from_fn(|_| free_address());
    let old = config(vec![device(&one, &[&port]), device(&two, &[&other])]);
    let mut bench = Bench::of(&old);
    let (mut gone, _kept) = (bench.device_of(0, GREETING), bench.device_of(1, GREETING));
    let mut client = bench.client_of(0);
    let link = bench.active_of(1);
    let new = config(vec![device(&two, &[&other]), device(&three, &[&third])]);
    bench.reconfigure(&old, &new).expect("changed");
    for stream in [&mut gone, &mut client] {
        stream.set_read_timeout(Some(DEADLINE)).expect("timeout");
        // FIN or RST; both are an end.
        while matches!(stream.read(&mut [0; 256]), Ok(1..)) {}
    }
    assert!(!connects(&one) && !connects(&port) && connects(&two) && connects(&three));
    assert_eq!((bench.active_of(1), bench.server.served), (link, 1));
    let mut joined = TcpStream::connect((three.host(), three.port())).expect("connect");
    joined.write_all(GREETING).expect("sent");
    bench.run_until("the new device is served", |server| server.served == 2 && connects(&third));
    let devices = bench.ask(Controller::devices);
    assert_eq!(devices.len(), 2);
    assert!(devices.iter().all(|device| device.link.is_some()), "{devices:?}");
}

#[test]
fn an_address_may_go_from_one_device_to_another() {
    let [one, two, port, other] = std::array::from_fn(|_| free_address());
    let old = config(vec![device(&one, &[&port]), device(&two, &[&other])]);
    let mut bench = Bench::of(&old);
    let _links = [bench.device_of(0, GREETING), bench.device_of(1, GREETING)];
    let new = config(vec![device(&one, &[&other]), device(&two, &[&port])]);
    bench.reconfigure(&old, &new).expect("changed");
    assert!(connects(&port) && connects(&other));
    bench.run_until("one client each", |server| {
        let clients = |device| server.devices.get(device).map_or(0, |device| device.totals.streams);
        (clients(0), clients(1)) == (1, 1)
    });
}

#[test]
fn a_service_that_changes_is_that_of_the_clients_that_come_from_then_on() {
    let [listen, port] = std::array::from_fn(|_| free_address());
    let old = config(vec![device(&listen, &[&port])]);
    let mut bench = Bench::of(&old);
    let mut new = old.clone();
    new.devices[0].mappings[0].service = address("127.0.0.1:8");
    bench.reconfigure(&old, &new).expect("changed");
    let mut link = bench.device_of(0, LISTEN);
    let _client = TcpStream::connect((port.host(), port.port())).expect("connect");
    link.set_nonblocking(true).expect("mode");
    let mut read = Vec::new();
    bench.run_until("CONNECT names the other service", |_| {
        // What is not there yet is an error.
        let _ = link.read_to_end(&mut read);
        read.windows(2).any(|window| window == [0, 8])
    });
}

#[test]
fn what_waits_for_a_header_goes_with_its_port_and_comes_to_no_other_device() {
    let [one, two, ports @ .., other] = std::array::from_fn::<_, 5, _>(|_| free_address());
    let mut old = config(vec![device(&one, &[&ports[0], &ports[1]])]);
    old.proxy_protocol_from = vec!["127.0.0.1".parse().expect("an address")];
    let mut bench = Bench::of(&old);
    let mut link = TcpStream::connect((one.host(), one.port())).expect("connect");
    link.write_all(&HEADER[..27]).expect("sent");
    bench.run_until("half a header", |server| server.proxied.len() == 1);
    // No load balancer is before the device itself.
    bench.server.config.proxy_protocol_from.clear();
    let _device = bench.device_of(0, GREETING);
    bench.server.config.proxy_protocol_from.clone_from(&old.proxy_protocol_from);
    let mut client = TcpStream::connect((ports[1].host(), ports[1].port())).expect("connect");
    client.write_all(&HEADER[..27]).expect("sent");
    bench.run_until("half a header each", |server| server.proxied.len() == 2);
    let mut new = config(vec![device(&two, &[&other])]);
    new.proxy_protocol_from.clone_from(&old.proxy_protocol_from);
    bench.reconfigure(&old, &new).expect("changed");
    assert!(bench.server.proxied.is_empty());
    for stream in [&mut link, &mut client] {
        // It may be closed already.
        let _ = stream.write_all(&HEADER[27..]).and_then(|()| stream.write_all(GREETING));
        stream.set_read_timeout(Some(DEADLINE)).expect("timeout");
        assert!(!matches!(stream.read(&mut [0]), Ok(1..)));
    }
    bench.run_until("all has come", |server| !server.is_busy());
    assert_eq!((bench.server.sessions.len(), bench.server.served), (0, 0));
}

#[test]
fn a_port_of_devices_that_systemd_holds_stays_in_the_configuration() {
    let [port, other] = std::array::from_fn(|_| free_address());
    let of_systemd = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let listen = address(&of_systemd.local_addr().expect("an address").to_string());
    let old = config(vec![device(&listen, &[&port])]);
    let mut server = Server::hold(old.clone(), Inherited::of(vec![of_systemd])).expect("ports");
    server.open().expect("it listens");
    let mut bench = Bench { server, buffer: vec![0; LINK_BUFFER] };
    let _link = bench.device_of(0, GREETING);
    let link = bench.active_of(0);
    let error = bench.reconfigure(&old, &config(vec![device(&other, &[&port])])).expect_err("it stays open");
    let text =
        format!("systemd holds {listen}, which the new configuration has no more; change tcp-remote-relay.socket");
    assert!(error.to_string().starts_with(&text), "{error}");
    assert!(!connects(&other) && connects(&port));
    // What else there is to change goes on.
    bench.reconfigure(&old, &config(vec![device(&listen, &[&other])])).expect("changed");
    assert!(connects(&other) && !connects(&port));
    assert_eq!(bench.active_of(0), link);
}

#[test]
fn a_port_of_a_device_with_a_key_comes_and_goes() {
    let [listen, port, named] = std::array::from_fn(|_| free_address());
    let old = config(vec![device(&listen, &[&port])]);
    let mut bench = Bench::of(&old);
    let mut new = old.clone();
    new.ports = vec![ServicePort::new(named.clone(), "pump-3:ssh").expect("a service")];
    bench.reconfigure(&old, &new).expect("changed");
    let is_held = || std::net::TcpListener::bind((named.host(), named.port())).is_err();
    assert_eq!((bench.server.devices.len(), bench.server.names.len(), is_held()), (2, 1, true));
    bench.reconfigure(&new, &old).expect("changed back");
    assert_eq!((bench.server.devices.len(), bench.server.names.len(), is_held()), (1, 0, false));
}

#[test]
fn a_port_that_cannot_be_opened_leaves_all_as_it_was() {
    let [listen, port, free] = std::array::from_fn(|_| free_address());
    let old = config(vec![device(&listen, &[&port])]);
    let mut bench = Bench::of(&old);
    let _link = bench.device_of(0, GREETING);
    let link = bench.active_of(0);
    let other = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = address(&other.local_addr().expect("an address").to_string());
    let mut new = config(vec![device(&listen, &[&free, &taken])]);
    new.clients = 7;
    let error = bench.reconfigure(&old, &new).expect_err("taken").to_string();
    assert!(error.starts_with(&format!("cannot listen for a new port at {taken}: ")), "{error}");
    assert!(connects(&port) && !connects(&free));
    assert_eq!((bench.active_of(0), bench.server.config.clients), (link, 256));
}

#[test]
fn a_new_device_whose_port_cannot_be_opened_leaves_all_as_it_was() {
    let [listen, port, gone, free, bad, client] = std::array::from_fn(|_| free_address());
    let old = config(vec![device(&listen, &[&port]), device(&gone, &[&free_address()])]);
    let mut bench = Bench::of(&old);
    let _links = [bench.device_of(0, GREETING), bench.device_of(1, GREETING)];
    let links = [bench.active_of(0), bench.active_of(1)];
    // A client port goes, and a device, and two devices come, of which one cannot.
    let new =
        config(vec![device(&listen, &[&client]), device(&free, &[&free_address()]), device(&bad, &[&free_address()])]);
    let peer = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
    let at = SocketAddr::from((Ipv4Addr::LOCALHOST, free.port()));
    let held = hold(&[at], 0).expect("a port");
    let spare =
        HashMap::from([(free.clone(), vec![held]), (bad.clone(), vec![vec![Listener::that_cannot_listen(&peer)]])]);
    let error = bench.server.reconfigure(Instant::now(), new.clone(), spare).expect_err("it cannot listen").to_string();
    assert!(error.starts_with(&format!("cannot listen for the device at {bad}: ")), "{error}");
    assert_eq!([bench.active_of(0), bench.active_of(1)], links);
    assert!(connects(&port) && connects(&gone) && !connects(&free) && !connects(&client));
    assert_eq!((bench.server.devices.len(), bench.server.device_ports.len()), (2, 2));
    bench.reconfigure(&old, &new).expect("changed");
    assert!(!connects(&port) && !connects(&gone) && connects(&free) && connects(&bad));
}

#[test]
fn a_configuration_that_the_loop_did_not_take_in_time_is_not_taken_later() {
    let [listen, port, other] = std::array::from_fn(|_| free_address());
    let (old, new) = (config(vec![device(&listen, &[&port])]), config(vec![device(&listen, &[&other])]));
    let mut bench = Bench::of(&old);
    let _link = bench.device_of(0, GREETING);
    let controller = bench.server.controller();
    let error = controller.reconfigure_within(MS, &old, new.clone()).expect_err("nobody steps the loop").to_string();
    assert!(
        error.starts_with("the relay's loop did not take the configuration within 0.001 s, so it was taken"),
        "{error}"
    );
    assert_eq!(bench.ask(Controller::devices).len(), 1, "it has looked at what was asked before");
    assert!(connects(&port) && !connects(&other));
    bench.reconfigure(&old, &new).expect("changed");
    assert!(!connects(&port) && connects(&other));
}

#[test]
fn a_port_that_overlaps_one_that_is_open_is_an_error_that_says_what_to_do() {
    let [listen, port] = std::array::from_fn(|_| free_address());
    let old = config(vec![device(&listen, &[&port])]);
    let mut bench = Bench::of(&old);
    let _link = bench.device_of(0, GREETING);
    let all = address(&format!("0.0.0.0:{}", port.port()));
    let error = bench.reconfigure(&old, &config(vec![device(&listen, &[&all])])).expect_err("overlaps").to_string();
    let advice = format!(
        "cannot listen at {all} while {port} is open, which is the same port; restart the relay, or take {port} out, \
         reload, put {all} in, and reload again"
    );
    assert!(error.starts_with(&advice), "{error}");
    let none = config(vec![device(&listen, &[&free_address()])]);
    bench.reconfigure(&old, &none).expect("changed");
    bench.reconfigure(&none, &config(vec![device(&listen, &[&all])])).expect("as it says");
    assert!(connects(&port));
}

#[test]
fn a_server_that_has_ended_is_not_alive_and_one_that_stands_still_is_not_either() {
    let mut bench = Bench::new(Protocol::V2);
    assert_eq!(bench.ask(|controller| controller.is_alive(DEADLINE)), Some(true));
    let controller = bench.server.controller();
    assert_eq!(controller.is_alive(MS), Some(false), "nobody steps the loop");
    drop(bench);
    assert_eq!(controller.is_alive(DEADLINE), None);
    assert_eq!(controller.devices(), []);
}
