//! What a TLS connection costs: memory when it is idle, and, if asked for, time; and what an idle device costs a relay.
#![cfg(feature = "tls")]
#![allow(unsafe_code, reason = "an allocator that counts")]
#![allow(clippy::print_stdout, reason = "the figures are what it is for")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::hint::black_box;
#[cfg(feature = "relay")]
use std::io::{Read, Write};
#[cfg(feature = "relay")]
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::AtomicIsize;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};
use tcpremote::identity::Pins;
use tcpremote::tls::{Acceptor, Key, Opener, Scratch, Tls};

thread_local! {
    /// Bytes that this thread has allocated and not freed.
    static LIVE: Cell<isize> = const { Cell::new(0) };
    /// Whether the thread is a test's own, and not one of a relay's.
    static IS_TEST: Cell<bool> = const { Cell::new(false) };
}

/// The same of all threads but those of tests, and how many allocations that are.
static OF_OTHERS: AtomicIsize = AtomicIsize::new(0);
static BLOCKS_OF_OTHERS: AtomicIsize = AtomicIsize::new(0);

fn count(bytes: isize, blocks: isize) {
    LIVE.set(LIVE.get() + bytes);
    if !IS_TEST.get() {
        OF_OTHERS.fetch_add(bytes, Relaxed);
        BLOCKS_OF_OTHERS.fetch_add(blocks, Relaxed);
    }
}

struct Counting;

// Sound: it only counts, and the system's allocator does the rest.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize, 1);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, bytes: *mut u8, layout: Layout) {
        count(-(layout.size() as isize), -1);
        unsafe { System.dealloc(bytes, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// As much as the loops read at once.
const READ: usize = 256 * 1024;

/// A loop's buffers.
struct Buffers {
    scratch: Scratch,
    plaintext: Vec<u8>,
    wire: Vec<u8>,
}

impl Buffers {
    fn new() -> Self {
        let plaintext = Vec::with_capacity(2 * READ);
        Self { scratch: Scratch::new(READ), plaintext, wire: Vec::with_capacity(2 * READ) }
    }

    /// Everything that one end has to send reaches the other.
    fn carry(&mut self, from: &mut Tls, to: &mut Tls) -> usize {
        self.wire.clear();
        loop {
            let unsent = from.unsent(&self.scratch);
            if unsent.is_empty() {
                break;
            }
            self.wire.extend_from_slice(unsent);
            let count = unsent.len();
            from.advance(&mut self.scratch, count);
        }
        self.plaintext.clear();
        to.open(&mut self.wire, &mut self.plaintext, &mut self.scratch).expect("what the other end sent");
        self.plaintext.len()
    }
}

struct Ends {
    opener: Opener,
    acceptor: Acceptor,
}

impl Ends {
    fn new() -> Self {
        let (device, relay) = (Key::generate().expect("a key"), Key::generate().expect("a key"));
        let pins = Pins { current: relay.public().pin(), next: relay.public().pin() };
        let opener = Opener::new(&device, pins).expect("a configuration");
        Self { opener, acceptor: Acceptor::new(&relay).expect("a configuration") }
    }

    fn connect(&self, buffers: &mut Buffers) -> (Tls, Tls) {
        let mut opener = self.opener.start("relay.example.com", &mut buffers.scratch).expect("a handshake");
        let mut acceptor = self.acceptor.start().expect("a handshake");
        buffers.carry(&mut opener, &mut acceptor);
        buffers.carry(&mut acceptor, &mut opener);
        buffers.carry(&mut opener, &mut acceptor);
        assert!(opener.is_established() && acceptor.is_established());
        (opener, acceptor)
    }
}

/// What this thread has allocated more afterwards.
fn live<T>(make: impl FnOnce() -> T) -> (usize, T) {
    let before = LIVE.get();
    let made = make();
    ((LIVE.get() - before) as usize, made)
}

#[test]
fn an_idle_connection_has_no_buffers() {
    const COUNT: usize = 50;
    IS_TEST.set(true);
    let (ends, mut buffers) = (Ends::new(), Buffers::new());
    ends.connect(&mut buffers);
    let (opening, mut pairs) = live(|| (0..COUNT).map(|_| ends.connect(&mut buffers)).collect::<Vec<_>>());
    let idle = (opening - size_of_val(&pairs[..])) / (2 * COUNT);
    println!("{idle} bytes of heap for each end of a new connection, and {} in place", size_of::<Tls>());
    let data = vec![7; 1 << 20];
    let (grown, ()) = live(|| {
        for (opener, acceptor) in &mut pairs {
            let mut rest = &data[..];
            while !rest.is_empty() {
                rest = &rest[opener.seal(rest, &mut buffers.scratch).expect("a connection")..];
                buffers.carry(opener, acceptor);
            }
            acceptor.seal(b"an answer", &mut buffers.scratch).expect("a connection");
            buffers.carry(acceptor, opener);
            assert_eq!((opener.buffered(), acceptor.buffered()), (0, 0));
        }
    });
    println!("{} bytes more after 1 MiB", grown / (2 * COUNT));
    assert!(idle + grown / (2 * COUNT) + size_of::<Tls>() <= 4096, "{idle} bytes, and {grown} for all later");
}

/// CPU time of this thread.
fn cpu() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("a clock").into()
}

/// cargo test --release --test tls_cost -- --ignored --nocapture
#[test]
#[ignore = "a measurement"]
fn the_time_of_a_gibibyte_and_of_a_handshake() {
    let (ends, mut buffers) = (Ends::new(), Buffers::new());
    let (mut opener, mut acceptor) = ends.connect(&mut buffers);
    let data: Vec<u8> = (0..READ).map(|place| place as u8).collect();
    let (started, before) = (Instant::now(), cpu());
    let (mut sealing, mut total) = (Duration::ZERO, 0usize);
    while total < 1 << 30 {
        let start = cpu();
        let sealed = opener.seal(&data, &mut buffers.scratch).expect("a connection");
        sealing += cpu() - start;
        total += buffers.carry(&mut opener, &mut acceptor);
        assert_eq!(buffers.plaintext, data[..sealed]);
    }
    let (wall, both) = (started.elapsed().as_secs_f64(), (cpu() - before).as_secs_f64());
    let sealing = sealing.as_secs_f64();
    println!("1 GiB: {:.0} MB/s; CPU {both:.3} s, of which sealing {sealing:.3}", total as f64 / 1e6 / wall);

    let before = cpu();
    for _ in 0..1000 {
        black_box(ends.connect(&mut buffers));
    }
    println!("a handshake: {:.3} ms of CPU for both ends", (cpu() - before).as_secs_f64());
}

/// A device with a key that the relay knows, on a link that carries nothing.
#[cfg(feature = "relay")]
mod idle {
    use std::sync::Arc;
    use std::thread;

    use tcpremote::address::Address;
    use tcpremote::identity::Pin;
    use tcpremote::protocol::v2::Settings;
    use tcpremote::relay::registry::{Registry, SqliteRegistry, wait};
    use tcpremote::relay::{Config, Server, Stopper, TlsPort};

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(30);

    struct Relay {
        address: SocketAddr,
        pin: Pin,
        stopper: Stopper,
        thread: Option<thread::JoinHandle<()>>,
        _directory: tempfile::TempDir,
    }

    impl Relay {
        /// A relay that knows these keys.
        fn start(keys: &[Key]) -> Self {
            let directory = tempfile::tempdir().expect("a directory");
            let registry = SqliteRegistry::open(&directory.path().join("state")).expect("a registry");
            let rows = keys.iter().enumerate().map(|(number, key)| format!("device-{number},{}\n", key.public()));
            let table: String = rows.collect();
            wait(|answer| registry.import(table, 0, answer)).expect("imported");
            let port = TcpListener::bind("127.0.0.1:0").expect("bind").local_addr().expect("an address").port();
            let address = SocketAddr::from(([127, 0, 0, 1], port));
            let key = Arc::new(Key::generate().expect("a key"));
            let (pin, next) = (key.public().pin(), Key::generate().expect("a key").public().pin());
            let (listen, addresses) = (Address::listen(&address.to_string()).expect("an address"), Vec::new());
            let port = TlsPort { listen, key, next, addresses, registry: Arc::new(registry) };
            let mut config = Config::new(Vec::new(), Config::HALF_CLOSE).expect("a configuration");
            config.tls = Some(port);
            let server = Server::bind(config).expect("a port");
            let stopper = server.stopper();
            let thread = thread::spawn(|| drop(server.run()));
            Self { address, pin, stopper, thread: Some(thread), _directory: directory }
        }

        /// A link by this key, once the relay has said welcome.
        fn connect(&self, key: &Key, buffers: &mut Buffers) -> (TcpStream, Tls) {
            let opener = Opener::new(key, Pins { current: self.pin, next: self.pin }).expect("a configuration");
            let mut socket = TcpStream::connect(self.address).expect("connect");
            socket.set_read_timeout(Some(DEADLINE)).expect("timeout");
            let mut tls = opener.start("relay.example.com", &mut buffers.scratch).expect("a handshake");
            let (mut is_introduced, mut input) = (false, vec![0; 64 * 1024]);
            buffers.plaintext.clear();
            while buffers.plaintext.is_empty() {
                if tls.is_established() && !std::mem::replace(&mut is_introduced, true) {
                    let settings = Settings { acknowledges: true, software: "a test".into(), ..Settings::default() };
                    let keepalive = Some(Duration::from_secs(90));
                    tls.seal(&Settings { keepalive, ..settings }.frame(), &mut buffers.scratch).expect("sealed");
                }
                let unsent = tls.unsent(&buffers.scratch).to_vec();
                socket.write_all(&unsent).expect("sent");
                tls.advance(&mut buffers.scratch, unsent.len());
                let count = socket.read(&mut input).expect("the relay is there");
                assert!(count > 0, "it is refused");
                tls.open(&mut input[..count], &mut buffers.plaintext, &mut buffers.scratch).expect("TLS");
            }
            (socket, tls)
        }
    }

    impl Drop for Relay {
        fn drop(&mut self) {
            self.stopper.stop();
            let _ = self.thread.take().map(thread::JoinHandle::join);
        }
    }

    #[test]
    fn an_idle_device_takes_little_memory_of_its_relay() {
        const COUNT: usize = 200;
        IS_TEST.set(true);
        let mut buffers = Buffers::new();
        let keys: Vec<Key> = (0..=COUNT).map(|_| Key::generate().expect("a key")).collect();
        let relay = Relay::start(&keys);
        let _first = relay.connect(&keys[0], &mut buffers);
        let count = || (OF_OTHERS.load(Relaxed), BLOCKS_OF_OTHERS.load(Relaxed));
        let (before, blocks_before) = count();
        let _links: Vec<_> = keys[1..].iter().map(|key| relay.connect(key, &mut buffers)).collect();
        let deadline = Instant::now() + DEADLINE;
        loop {
            let (bytes, blocks) = count();
            let [bytes, blocks] = [bytes - before, blocks - blocks_before].map(|sum| sum / COUNT as isize);
            if bytes <= 6400 || Instant::now() > deadline {
                println!("{bytes} bytes in {blocks} pieces for each device");
                assert!(bytes <= 6400, "{bytes} bytes");
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
    }
}
