//! Ports of named services, with a device of ours and real services.

use std::io::ErrorKind;
use std::net::{Shutdown, TcpListener};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::thread;

use super::*;
use crate::device::{self, Access, EventKind};
use crate::identity::Name;
use crate::protocol::proxy::HeaderReader;
use crate::relay::{Network, ServicePort};

/// A load balancer's address; the device's own is 127.0.0.1.
const BALANCER: u8 = 9;

/// A relay that runs, and a device of that name that is known by its port.
struct Tunnel {
    stopper: Stopper,
    running: Option<thread::JoinHandle<Outcome>>,
    ports: Vec<SocketAddr>,
    device: device::Handle,
}

impl Tunnel {
    /// A client port for each of `to`, of the device `pump-3`.
    fn start(to: &[&str], configure: impl FnOnce(&mut device::Config)) -> Self {
        let listen = || Address::listen("127.0.0.1:0").expect("an address");
        let name = Some(Name::device("pump-3").expect("a name"));
        let device = PlainDevice { name, listen: listen(), mappings: Vec::new() };
        let ports = to.iter().map(|to| ServicePort::new(listen(), to).expect("a port")).collect();
        let config = Config::new(vec![device], Config::HALF_CLOSE);
        let mut config = config.expect("a configuration");
        config.ports = ports;
        config.drain = Duration::ZERO;
        config.proxy_protocol_from = vec![format!("127.0.0.{BALANCER}").parse::<Network>().expect("an address")];
        let server = Server::bind(config).expect("ports");
        let ports = (0..to.len()).map(|port| server.client_addr_of(0, port)).collect();
        let mut config = device::Config::new(server.device_addr().to_string().parse().expect("an address"));
        configure(&mut config);
        let stopper = server.stopper();
        let running = Some(thread::spawn(|| server.run().expect("it runs")));
        Self { stopper, running, ports, device: device::Handle::start(config).expect("a device") }
    }

    /// A client of this port, as soon as the device is there.
    fn client(&self, port: usize) -> TcpStream {
        let began = Instant::now();
        loop {
            match TcpStream::connect(self.ports[port]) {
                Ok(client) => return timed(client),
                Err(error) => assert!(began.elapsed() < DEADLINE, "{error}"),
            }
            thread::sleep(MS);
        }
    }

    /// The same, through the load balancer.
    fn proxied_client(&self, port: usize) -> TcpStream {
        drop(self.client(port));
        timed(client_from(BALANCER, self.ports[port]))
    }

    /// The next event of this kind.
    fn event(&self, kind: EventKind) -> device::Event {
        let began = Instant::now();
        loop {
            match self.device.next_event().expect("the tunnel is there") {
                Some(event) if event.kind == kind => return event,
                Some(_) => {}
                None => drop(self.device.wait(Some(MS))),
            }
            assert!(began.elapsed() < DEADLINE, "not in time: {kind:?}");
        }
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        self.stopper.stop();
        let _ = self.running.take().map(thread::JoinHandle::join);
    }
}

fn timed(io: TcpStream) -> TcpStream {
    io.set_nonblocking(false).expect("mode");
    io.set_read_timeout(Some(DEADLINE)).expect("deadline");
    io
}

fn listener() -> (TcpListener, Address) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = listener.local_addr().expect("address").to_string().parse().expect("an address");
    (listener, address)
}

/// A service that says its name, and ends.
fn named(name: &'static str) -> Address {
    let (listener, address) = listener();
    thread::spawn(move || {
        for io in listener.incoming() {
            let _ = io.and_then(|mut io| io.write_all(name.as_bytes()));
        }
    });
    address
}

fn service(name: &str, target: &Address) -> device::Service {
    device::Service::new(Name::service(name).expect(name), target.clone())
}

fn offer(services: &[device::Service]) -> impl FnOnce(&mut device::Config) + use<> {
    let services = device::Services::new(services.to_vec()).expect("services");
    move |config| config.offer(services)
}

fn answer(mut client: TcpStream) -> String {
    let mut text = String::new();
    client.read_to_string(&mut text).expect("an answer");
    text
}

/// Whether the client is cut without a byte.
fn is_refused(mut client: TcpStream) -> bool {
    let end = client.read(&mut [0]);
    end.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset)
}

/// The next connection to a service: whose it is by its header, and all that follows.
fn passed_on(service: &TcpListener, answer: &[u8]) -> (Option<SocketAddr>, Vec<u8>) {
    let (io, _) = service.accept().expect("accepted");
    let mut io = timed(io);
    let mut reader = HeaderReader::default();
    let client = loop {
        let mut bytes = vec![0; reader.wanted()];
        io.read_exact(&mut bytes).expect("a header");
        if let Some(client) = reader.receive(&bytes).expect("a header") {
            break client;
        }
    };
    let mut rest = Vec::new();
    io.read_to_end(&mut rest).expect("its end");
    io.write_all(answer).expect("sent");
    (client, rest)
}

#[test]
fn a_port_leads_to_a_service_by_its_name_or_its_number_and_a_number_of_none_to_the_device_itself() {
    let [ssh, web, own] = ["ssh", "web", "own"].map(named);
    let web = device::Service { port: 8080, ..service("web", &web) };
    let own_port = format!("pump-3:{}", own.port());
    let offer = offer(&[service("ssh", &ssh), web]);
    let ports = ["pump-3:ssh", "pump-3:web", "pump-3:8080", &own_port];
    let tunnel = Tunnel::start(&ports, |config| {
        offer(config);
        config.access = Access::Any;
    });
    let answers: Vec<_> = (0..4).map(|port| answer(tunnel.client(port))).collect();
    assert_eq!(answers, ["ssh", "web", "web", "own"]);
    let event = tunnel.event(EventKind::Connect);
    assert!(event.message.ends_with(&format!(" asks for ssh, which is {ssh}")), "{}", event.message);
    assert_eq!(event.service.as_deref(), Some(&*ssh.to_string()));
}

#[test]
fn with_services_and_no_rules_nothing_else_is_reached() {
    let [ssh, own] = ["ssh", "own"].map(named);
    let ports = ["pump-3:ssh".into(), format!("pump-3:{}", own.port()), "pump-3:db".into()];
    let tunnel = Tunnel::start(&ports.each_ref().map(String::as_str), offer(&[service("ssh", &ssh)]));
    assert_eq!(answer(tunnel.client(0)), "ssh");
    assert!(is_refused(tunnel.client(1)));
    let denied = tunnel.event(EventKind::Denied);
    assert!(denied.message.contains(&format!("{own} is not permitted")), "{}", denied.message);
    assert!(is_refused(tunnel.client(2)), "the relay knows that it is not offered");
}

#[test]
fn rules_have_the_last_word_on_a_service() {
    let ssh = named("ssh");
    let offer = offer(&[service("ssh", &ssh)]);
    let tunnel = Tunnel::start(&["pump-3:ssh"], |config| {
        offer(config);
        config.access = Access::Only(vec!["10.0.0.1:22".parse().expect("a rule")]);
    });
    assert!(is_refused(tunnel.client(0)));
    assert!(tunnel.event(EventKind::Denied).message.contains(&ssh.to_string()));
}

#[test]
fn a_device_that_knows_no_names_has_numbers() {
    let own = named("own");
    let ports = [format!("pump-3:{}", own.port()), "pump-3:ssh".into()];
    for protocol in [Protocol::V1, Protocol::V2] {
        let tunnel = Tunnel::start(&ports.each_ref().map(String::as_str), |config: &mut device::Config| {
            config.protocol = protocol
        });
        assert_eq!(answer(tunnel.client(0)), "own");
        assert!(is_refused(tunnel.client(1)));
    }
}

#[test]
fn a_service_that_wants_it_is_told_whose_connection_it_is_before_anything_else() {
    let (plc, target) = listener();
    let target = device::Service { proxy_protocol: true, ..service("plc", &target) };
    let tunnel = Tunnel::start(&["pump-3:plc"], offer(&[target]));
    let mut client = tunnel.client(0);
    client.write_all(b"question").expect("sent");
    client.shutdown(Shutdown::Write).expect("FIN");
    let (told, rest) = passed_on(&plc, b"answer");
    assert_eq!(told, Some(client.local_addr().expect("address")));
    assert_eq!((&rest[..], &*answer(client)), (&b"question"[..], "answer"));
    let status = tunnel.device.status().expect("status");
    assert!(status.bytes_received <= 8, "the header is no part of the stream: {}", status.bytes_received);
}

#[test]
fn a_client_of_a_load_balancer_is_whom_its_header_names() {
    let (plc, target) = listener();
    let target = device::Service { proxy_protocol: true, ..service("plc", &target) };
    let tunnel = Tunnel::start(&["pump-3:plc"], offer(&[target]));
    let header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x01\x0a\0\0\x02\x0f\xa0\0\x50";
    let local = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";
    // The client that looks whether the device is there is one, too.
    for (header, named) in [(&header[..], Some("192.0.2.1:4000")), (local, None)] {
        let mut client = tunnel.proxied_client(0);
        passed_on(&plc, b"");
        let own = client.local_addr().expect("address");
        client.write_all(&[header, b"question"].concat()).expect("sent");
        client.shutdown(Shutdown::Write).expect("FIN");
        let (told, rest) = passed_on(&plc, b"answer");
        assert_eq!(told, Some(named.map_or(own, |named| named.parse().expect("an address"))));
        assert_eq!((&rest[..], &*answer(client)), (&b"question"[..], "answer"));
    }
    let mut text = tunnel.proxied_client(0);
    text.write_all(b"PROXY TCP4 192.0.2.1 10.0.0.2 4000 80\r\n").expect("sent");
    assert!(is_refused(text), "version 1");
}

/// haproxy with this configuration, until it is dropped.
struct Haproxy {
    child: Child,
    _configuration: tempfile::NamedTempFile,
}

impl Haproxy {
    /// It has the listeners as its descriptors 0 and 1.
    fn start(listens: &str, [input, output]: [TcpListener; 2]) -> Option<Self> {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        let defaults = "defaults\n mode tcp\n timeout connect 30s\n timeout client 30s\n timeout server 30s\n";
        file.write_all([defaults, listens].concat().as_bytes()).expect("written");
        let mut command = Command::new("haproxy");
        command.arg("-db").arg("-f").arg(file.path()).stdin(OwnedFd::from(input)).stdout(OwnedFd::from(output));
        command.stderr(Stdio::null()).env("PATH", "/usr/sbin:/usr/local/sbin:/usr/bin:/bin");
        let child = command.spawn().ok()?;
        Some(Self { child, _configuration: file })
    }
}

impl Drop for Haproxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_real_load_balancer_in_front_and_a_real_proxy_behind_are_understood() {
    let [(front, front_address), (behind, behind_address), (plc, last)] = [(); 3].map(|()| listener());
    let front_address: SocketAddr = front_address.to_string().parse().expect("an address");
    let target = device::Service { proxy_protocol: true, ..service("plc", &behind_address) };
    let tunnel = Tunnel::start(&["pump-3:plc"], offer(&[target]));
    let listens = format!(
        "listen front\n bind fd@0\n server relay {} source 127.0.0.{BALANCER} send-proxy-v2\n\
         listen behind\n bind fd@1 accept-proxy\n server last {last} send-proxy-v2\n",
        tunnel.ports[0]
    );
    let Some(_haproxy) = Haproxy::start(&listens, [front, behind]) else {
        #[allow(clippy::print_stderr, reason = "a test that did nothing says so")]
        {
            eprintln!("haproxy is not installed: its headers were not tried");
        }
        return;
    };
    // The first comes to the relay itself, as soon as its port is open.
    for through_balancer in [false, true] {
        let client = if through_balancer { TcpStream::connect(front_address).map(timed) } else { Ok(tunnel.client(0)) };
        let mut client = client.expect("connect");
        client.write_all(b"question").expect("sent");
        client.shutdown(Shutdown::Write).expect("FIN");
        let (told, rest) = passed_on(&plc, b"answer");
        assert_eq!(told, Some(client.local_addr().expect("address")));
        assert_eq!((&rest[..], &*answer(client)), (&b"question"[..], "answer"));
    }
}

/// LISTEN and HELLO of a device, and its SETTINGS, which offer `ssh` and `web`.
const ANNOUNCED: &[u8] = b"\0\0\x04\0\0\0\x05\xf2";
const SETTINGS: &[u8] = b"\0\x12\x06\0\0\0\0\0\0\x07\0\x0e\x03ssh\0\x16\0\x03web\0\x50\x04";

#[test]
fn clients_wait_until_the_device_has_said_what_it_offers_be_they_accepted_or_not() {
    let mut bench = Bench::with(1, |config| {
        config.devices[0].name = Some(Name::device("pump-3").expect("a name"));
        let listen = Address::listen("127.0.0.1:0").expect("an address");
        config.ports = vec![ServicePort::new(listen, "pump-3:80").expect("a port")];
    });
    let _first = bench.device(GREETING);
    // It offers nothing, so the number is a port of its own; and it is full.
    bench.server.config.clients = 1;
    let _client = bench.clients(1, 1);
    let _waits = TcpStream::connect(bench.server.client_addr(1)).expect("connect");
    bench.run_until("it waits for a place", |server| server.waiting == 1);
    // It is not to be refused on a busy machine.
    waiting_clients(&mut bench.server)[0].deadline += DEADLINE;
    let mut second = TcpStream::connect(bench.server.device_addr()).expect("connect");
    second.write_all(ANNOUNCED).expect("sent");
    bench.run_until("it has taken over", |server| server.clients() == 0);
    let _comes = TcpStream::connect(bench.server.client_addr(1)).expect("connect");
    for _ in 0..20 {
        bench.server.step(&mut bench.buffer);
        bench.server.wait(Some(Instant::now() + MS)).expect("wait");
    }
    assert_eq!((bench.server.clients(), bench.server.waiting, bench.server.connections), (0, 1, 2));
    bench.server.config.clients = 8;
    second.write_all(SETTINGS).expect("sent");
    bench.run_until("both are on the link", |server| server.clients() == 2);
    let mut frames = Vec::new();
    second.set_read_timeout(Some(DEADLINE)).expect("deadline");
    // CONNECT with an empty host, port 0, and the name.
    while frames.windows(11).filter(|bytes| bytes == b"\0\0\0\0\0\x01\0\x03web").count() < 2 {
        let mut bytes = [0; 1024];
        let count = second.read(&mut bytes).expect("more");
        assert!(count > 0, "{}", frames.escape_ascii());
        frames.extend(&bytes[..count]);
    }
}
