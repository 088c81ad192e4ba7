//! Links in TLS, over real sockets, with a registry on disk, and devices of this crate.

mod adversaries;
mod cuts;
mod echo;
mod joining;
mod races;
mod refusals;
mod replacing;

use std::net::{SocketAddr, TcpListener};
use std::sync::mpsc;
use std::thread;

use super::ports::PortService;
use super::*;
use crate::device::{self, Handle, Identity, State};
use crate::identity::{Name, Pattern, Pin, Pins, Secret, TokenId};
use crate::protocol::v2::Join;
use crate::relay::TlsPort;
use crate::relay::listener::hold;
use crate::relay::registry::{Answer, Labels, NewToken, Registry, SecretDigest, SqliteRegistry, TokenSubject};
use crate::tls::Key;

/// A relay with a port for TLS, and its registry.
pub(super) struct Secure {
    bench: Bench,
    registry: Arc<SqliteRegistry>,
    key: Arc<Key>,
    next: Pin,
    _directory: tempfile::TempDir,
    tokens: u8,
}

fn key() -> Arc<Key> {
    Arc::new(Key::generate().expect("random bytes"))
}

fn name(text: &str) -> Name {
    Name::device(text).expect("a name")
}

/// Waits for the answer.
fn ask<T: Send + 'static>(operation: impl FnOnce(Answer<T>)) -> T {
    let (sender, receiver) = mpsc::channel();
    operation(Box::new(move |result| sender.send(result).expect("somebody waits")));
    receiver.recv_timeout(DEADLINE).expect("an answer").expect("done")
}

impl Secure {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let registry = Arc::new(SqliteRegistry::open(&directory.path().join("state")).expect("a registry"));
        let (key, next) = (key(), key().public().pin());
        let port = TlsPort {
            listen: Address::listen("127.0.0.1:0").expect("an address"),
            key: Arc::clone(&key),
            next,
            addresses: vec!["relay.example.com:443".parse().expect("an address")],
            registry: Arc::clone(&registry) as Arc<dyn Registry>,
        };
        let bench = Bench::with_devices(0, 1, |config| config.tls = Some(port));
        Self { bench, registry, key, next, _directory: directory, tokens: 0 }
    }

    fn port(&self) -> SocketAddr {
        self.bench.server.device_ports.iter().next().expect("a port").1.listener.address()
    }

    fn pins(&self) -> Pins {
        Pins { current: self.key.public().pin(), next: self.next }
    }

    /// A token for a device of that name, changed as is wanted.
    fn token(&mut self, subject: &str, change: impl FnOnce(&mut NewToken)) -> Join {
        self.tokens += 1;
        let secret = Secret::random().expect("random bytes");
        let mut token = NewToken {
            id: TokenId([self.tokens; 8]),
            secret: SecretDigest(secret.digest()),
            subject: TokenSubject::Device(subject.parse::<Pattern>().expect("a pattern")),
            uses: 1,
            expires: u64::MAX / 2,
            labels: Labels::default(),
            pending: false,
            replace: false,
            pins: self.pins(),
            creator: "a test".into(),
            created: 0,
        };
        change(&mut token);
        let id = token.id;
        ask(|answer| self.registry.create_token(token, answer));
        Join { token: id, secret }
    }

    fn identity(&self, key: &Arc<Key>, join: Option<Join>) -> Identity {
        Identity { key: Arc::clone(key), pins: self.pins(), name: None, join, instance: [1; 16] }
    }

    fn config(&self, identity: Identity) -> device::Config {
        let mut config = device::Config::new(self.port().to_string().parse().expect("an address"));
        config.identity = Some(identity);
        config
    }

    /// A device with this key and token, which has begun to connect, and does so until it is let in.
    fn start(&self, key: &Arc<Key>, join: Option<Join>) -> Handle {
        self.start_as(self.identity(key, join))
    }

    fn start_as(&self, identity: Identity) -> Handle {
        let mut config = self.config(identity);
        config.keep_trying = true;
        Handle::start(config).expect("a tunnel")
    }

    /// The same, and it is there.
    fn device(&mut self, key: &Arc<Key>, join: Option<Join>) -> Handle {
        let handle = self.start(key, join);
        self.await_state(&handle, State::Listening);
        handle
    }

    fn await_state(&mut self, handle: &Handle, state: State) {
        self.bench.run_until(&format!("{state:?}"), |_| handle.status().expect("a status").state == state);
    }

    /// What the device says of its last error, once it waits or is over: text and code.
    fn error_of(&mut self, handle: &Handle) -> (String, &'static str) {
        let is_refused = |state| matches!(state, State::Waiting | State::Closed);
        self.bench.run_until("it is refused", |_| is_refused(handle.status().expect("a status").state));
        handle.status().expect("a status").last_error.expect("an error")
    }

    /// A client port of the device that leads to an echo.
    fn port_of(&mut self, text: &str) -> SocketAddr {
        let server = &mut self.bench.server;
        let number = server.named(&name(text));
        let listener = hold(&[SocketAddr::from(([127, 0, 0, 1], 0))], server.places.len()).expect("a port").remove(0);
        let at = listener.address();
        let device = server.devices.get_mut(number).expect("a device");
        let place = device.listeners.reserve();
        device.listeners.insert(place, (listener, 0));
        let service = echo_service().to_string().parse().expect("an address");
        let client = at.to_string().parse().expect("an address");
        device.ports.push(ClientPort::new(client, PortService::Address(Arc::new(service))));
        server.places.push(Place::Clients(number, place));
        at
    }

    /// Sends the bytes, and reads as many.
    fn echo(&mut self, client: &mut TcpStream, bytes: &[u8]) -> Vec<u8> {
        client.set_nonblocking(true).expect("mode");
        let (mut sent, mut came) = (0, Vec::new());
        self.bench.run_until("the echo is here", |_| {
            while let Ok(count @ 1..) = client.write(&bytes[sent..]) {
                sent += count;
            }
            let mut buffer = [0; 16 * 1024];
            while let Ok(count @ 1..) = client.read(&mut buffer) {
                came.extend(&buffer[..count]);
            }
            came.len() >= bytes.len()
        });
        came
    }
}

/// A service that sends back what it gets.
fn echo_service() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = listener.local_addr().expect("address");
    thread::spawn(move || {
        for io in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || {
                let (mut reader, mut writer) = (&io, &io);
                // A client that is gone ends it.
                let _ = io::copy(&mut reader, &mut writer);
            });
        }
    });
    address
}
