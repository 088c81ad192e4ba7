//! A line that becomes longer while a download runs. The simulation has more such lines; this one has sockets.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::{Duration, Instant};

use portable_atomic::AtomicU64;
use socket2::SockRef;

use crate::common::Peer;
use crate::common::device::Device;
use crate::common::relay::Relay;
use crate::common::service::Service;

/// Bytes a second in each direction: little enough for a machine that is busy with other tests.
const RATE: f64 = 2e6;
const PACKET: usize = 8 * 1024;
/// Packets on their way at once: a second of the line, and more than any delay here needs.
const MOST_PACKETS: usize = 256;
/// What is compared is what comes in so long.
const SPAN: Duration = Duration::from_secs(3);
/// The windows need at most 15 s; the machine may need more.
const PATIENCE: Duration = Duration::from_secs(120);

/// Carries connections to `target`, each with [`RATE`] and the present delay.
struct Line {
    address: SocketAddr,
    /// Milliseconds, in each direction.
    delay: Arc<AtomicU64>,
}

impl Line {
    fn open(target: SocketAddr, delay: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let delay = Arc::new(AtomicU64::new(delay));
        let shared = Arc::clone(&delay);
        // It ends with the test's process.
        thread::spawn(move || {
            for near in listener.incoming() {
                let (near, far) = (near.unwrap(), TcpStream::connect(target).unwrap());
                for stream in [&near, &far] {
                    stream.set_nodelay(true).unwrap();
                    SockRef::from(stream).set_recv_buffer_size(64 * 1024).unwrap();
                }
                carry(near.try_clone().unwrap(), far.try_clone().unwrap(), Arc::clone(&shared));
                carry(far, near, Arc::clone(&shared));
            }
        });
        Self { address, delay }
    }
}

/// One direction. A line takes the next packet when the last one has left.
fn carry(mut from: TcpStream, mut to: TcpStream, delay: Arc<AtomicU64>) {
    let (packets, arriving) = sync_channel::<(Instant, Vec<u8>)>(MOST_PACKETS);
    thread::spawn(move || {
        let mut free = Instant::now();
        loop {
            let mut packet = vec![0; PACKET];
            let Ok(size @ 1..) = from.read(&mut packet) else { return };
            packet.truncate(size);
            free = free.max(Instant::now()) + Duration::from_secs_f64(size as f64 / RATE);
            let arrival = free + Duration::from_millis(delay.load(Relaxed));
            if packets.send((arrival, packet)).is_err() {
                return;
            }
            thread::sleep(free.saturating_duration_since(Instant::now()));
        }
    });
    thread::spawn(move || {
        for (arrival, packet) in arriving {
            thread::sleep(arrival.saturating_duration_since(Instant::now()));
            if to.write_all(&packet).is_err() {
                break;
            }
        }
        // The other end may be gone already.
        let _ = to.shutdown(Shutdown::Write);
    });
}

/// Bytes that come within [`SPAN`].
fn count(client: &mut Peer) -> u64 {
    let began = Instant::now();
    let mut bytes = 0;
    while began.elapsed() < SPAN {
        bytes += client.read_within(1024, PATIENCE).len() as u64;
    }
    bytes
}

#[test]
fn a_download_has_the_line_again_when_the_round_trip_has_risen() {
    let endless = Service::start(|mut peer| while peer.try_send(&[b'x'; 65_536]).is_ok() {});
    let relay = Relay::start(&[&endless.address().to_string()]);
    let line = Line::open(relay.device_addr(), 10);
    let _device = Device::start(line.address);
    let mut client = Peer::connect(relay.client_addrs()[0]);
    let short = (0..4).map(|_| count(&mut client)).max().unwrap();

    line.delay.store(200, Relaxed);
    let changed = Instant::now();
    let mut plain = Peer::connect(Line::open(endless.address(), 200).address);
    count(&mut plain);
    let fair = count(&mut plain).min(short);
    drop(plain);
    let mut spans = Vec::new();
    while spans.iter().all(|&bytes| bytes < fair * 6 / 10) {
        assert!(changed.elapsed() < PATIENCE, "{short} bytes before, {fair} were fair, {spans:?} came");
        spans.push(count(&mut client));
        // What waited while it was slow is not to count.
        if changed.elapsed() < Duration::from_secs(8) {
            spans.clear();
        }
    }
}
