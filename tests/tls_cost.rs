//! What a TLS connection costs: memory when it is idle, and, if asked for, time.
#![cfg(feature = "tls")]
#![allow(unsafe_code, reason = "an allocator that counts")]
#![allow(clippy::print_stdout, reason = "the figures are what it is for")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::hint::black_box;
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};
use tcpremote::identity::Pins;
use tcpremote::tls::{Acceptor, Key, Opener, Scratch, Tls};

thread_local! {
    /// Bytes that this thread has allocated and not freed.
    static LIVE: Cell<isize> = const { Cell::new(0) };
}

struct Counting;

// Sound: it only counts, and the system's allocator does the rest.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE.set(LIVE.get() + layout.size() as isize);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, bytes: *mut u8, layout: Layout) {
        LIVE.set(LIVE.get() - layout.size() as isize);
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
