//! An echo through one device, beside each attack on another one of the same relay.

#![allow(clippy::print_stdout, reason = "it prints the times")]

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError, mpsc};
use std::thread;

use super::*;
use crate::device;

/// Echoes of one measurement.
const ECHOES: usize = 200;
/// The bounds of what half, and 99 of 100, of the echoes may take, on a machine that is busy with other things as well: an
/// echo that waits for the end of an attack takes longer.
const MEDIAN: Duration = Duration::from_secs(1);
const P99: Duration = Duration::from_secs(5);
/// One attack at a time: each takes what the machine has.
static TURN: Mutex<()> = Mutex::new(());

/// A relay that runs, of two devices: the first one's is attacked, and through the second one goes the echo.
struct Relay {
    stopper: Stopper,
    running: Option<thread::JoinHandle<Outcome>>,
    device_port: SocketAddr,
    client_port: SocketAddr,
    echo_port: SocketAddr,
    _device: device::Handle,
}

impl Relay {
    fn start() -> Self {
        let service = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
        let address: Address = service.local_addr().expect("address").to_string().parse().expect("an address");
        thread::spawn(move || {
            // Of the two clients that there will be.
            for io in service.incoming().take(2) {
                let mut io = io.expect("accepted");
                let mut buffer = [0; 64];
                while io.read_exact(&mut buffer).and_then(|()| io.write_all(&buffer)).is_ok() {}
            }
        });
        let listen = Address::listen("127.0.0.1:0").expect("an address");
        let mapping = Mapping { client: listen.clone(), service: address };
        let device = PlainDevice { name: None, listen, mappings: vec![mapping] };
        let mut config = Config::new(vec![device; 2], Config::HALF_CLOSE).expect("a configuration");
        config.drain = Duration::ZERO;
        let server = Server::bind(config).expect("ports");
        let (device_port, victim) = (server.device_addr_of(0), server.device_addr_of(1));
        let (client_port, echo_port) = (server.client_addr_of(0, 0), server.client_addr_of(1, 0));
        let stopper = server.stopper();
        let running = Some(thread::spawn(|| server.run().expect("it runs")));
        let config = device::Config::new(victim.to_string().parse().expect("an address"));
        let _device = device::Handle::start(config).expect("a device");
        Self { stopper, running, device_port, client_port, echo_port, _device }
    }

    /// A client of this port, as soon as there is a device.
    fn connect(port: SocketAddr) -> TcpStream {
        let began = Instant::now();
        loop {
            match TcpStream::connect(port) {
                Ok(client) => return client,
                Err(error) => assert!(began.elapsed() < DEADLINE, "{error}"),
            }
            thread::sleep(MS);
        }
    }

    /// The attacked device has come, and has sent these bytes.
    fn attacked_device(&self) -> TcpStream {
        let mut link = TcpStream::connect(self.device_port).expect("connect");
        link.write_all(GREETING).expect("sent");
        link
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stopper.stop();
        if let Some(running) = self.running.take() {
            let ended = running.join();
            assert!(ended.is_ok() || thread::panicking(), "the relay has ended as it should");
        }
    }
}

/// What the echoes took, in order; none may fail.
fn echoes(port: SocketAddr) -> Vec<Duration> {
    let mut client = Relay::connect(port);
    client.set_nodelay(true).expect("nodelay");
    client.set_read_timeout(Some(DEADLINE)).expect("timeout");
    let mut buffer = [7; 64];
    let mut times: Vec<Duration> = (0..ECHOES)
        .map(|_| {
            let began = Instant::now();
            client.write_all(&buffer).expect("sent");
            client.read_exact(&mut buffer).expect("its echo");
            began.elapsed()
        })
        .collect();
    times.sort_unstable();
    times
}

/// Echoes beside an attack that goes on until it is ended.
fn echo_beside(name: &str, attack: impl FnOnce(&Relay, &dyn Fn() -> bool) + Send) {
    // One that has failed is no reason for the others to.
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let relay = Relay::start();
    let quiet = echoes(relay.echo_port);
    let (is_over, (begin, begun)) = (AtomicBool::new(false), mpsc::channel());
    let times = thread::scope(|scope| {
        let (relay, is_over) = (&relay, &is_over);
        scope.spawn(move || {
            attack(relay, &|| {
                // It has begun when it asks for the first time; later nothing waits for that.
                let _ = begin.send(());
                !is_over.load(Ordering::Relaxed)
            });
        });
        begun.recv().expect("the attack begins");
        let port = relay.echo_port;
        let times = std::panic::catch_unwind(|| echoes(port));
        is_over.store(true, Ordering::Relaxed);
        times
    });
    let times = times.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    let (median, p99) = (times[ECHOES / 2], times[ECHOES * 99 / 100]);
    let (quiet_median, quiet_p99) = (quiet[ECHOES / 2], quiet[ECHOES * 99 / 100]);
    println!("{name}: p50 {median:.1?}, p99 {p99:.1?}; without p50 {quiet_median:.1?}, p99 {quiet_p99:.1?}");
    assert!(median < MEDIAN && p99 < P99, "{name}: p50 {median:?}, p99 {p99:?}");
}

/// The newest connections of a flood; older ones end when a new one comes.
struct Newest {
    most: usize,
    all: VecDeque<TcpStream>,
}

impl Newest {
    fn new(most: usize) -> Self {
        Self { most, all: VecDeque::new() }
    }

    /// One more; `None` where the port takes none for now.
    fn connect(&mut self, port: SocketAddr) -> Option<&mut TcpStream> {
        let client = TcpStream::connect(port).ok()?;
        if self.all.len() == self.most {
            self.all.pop_front();
        }
        self.all.push_back(client);
        self.all.back_mut()
    }
}

#[test]
fn connections_without_listen() {
    echo_beside("connections without LISTEN", |relay, goes_on| {
        let mut newest = Newest::new(200);
        while goes_on() {
            newest.connect(relay.device_port);
        }
    });
}

#[test]
fn clients() {
    echo_beside("clients", |relay, goes_on| {
        let _device = relay.attacked_device();
        drop(Relay::connect(relay.client_port));
        let mut newest = Newest::new(600);
        while goes_on() {
            newest.connect(relay.client_port);
        }
    });
}

#[test]
fn takeovers() {
    echo_beside("takeovers", |relay, goes_on| {
        let mut newest = Newest::new(4);
        while goes_on() {
            if let Some(device) = newest.connect(relay.device_port) {
                // It may have been replaced already.
                let _ = device.write_all(GREETING);
            }
        }
    });
}

#[test]
fn resets() {
    echo_beside("resets", |relay, goes_on| {
        let _device = relay.attacked_device();
        drop(Relay::connect(relay.client_port));
        while goes_on() {
            if let Ok(client) = TcpStream::connect(relay.client_port) {
                SockRef::from(&client).set_linger(Some(Duration::ZERO)).expect("RST");
            }
        }
    });
}

#[test]
fn clients_that_do_not_read() {
    echo_beside("clients that do not read", |relay, goes_on| {
        let mut device = TcpStream::connect(relay.device_port).expect("connect");
        device.write_all(LISTEN).expect("sent");
        let _clients: Vec<TcpStream> = (0..50).map(|_| Relay::connect(relay.client_port)).collect();
        device.set_nonblocking(true).expect("mode");
        let frames: Vec<u8> =
            (1..=50).flat_map(|client| [&[0x40, 0, 3, client][..], &[b'x'; 16 * 1024]].concat()).collect();
        let mut at = 0;
        while goes_on() {
            match device.write(&frames[at..]) {
                Ok(count) => at = (at + count) % frames.len(),
                Err(_) => thread::sleep(MS),
            }
        }
    });
}

#[test]
fn a_device_that_does_not_read() {
    echo_beside("a device that does not read", |relay, goes_on| {
        let mut device = TcpStream::connect(relay.device_port).expect("connect");
        device.write_all(LISTEN).expect("sent");
        let mut clients: Vec<TcpStream> = (0..50).map(|_| Relay::connect(relay.client_port)).collect();
        for client in &clients {
            client.set_nonblocking(true).expect("mode");
        }
        while goes_on() {
            let written =
                clients.iter_mut().filter(|client| (&mut &**client).write(&[b'x'; 16 * 1024]).is_ok()).count();
            if written == 0 {
                thread::sleep(MS);
            }
        }
    });
}
