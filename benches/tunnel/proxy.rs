//! A line that needs no root: what goes through it takes its time and is slowed to a rate, in each direction for itself.
//!
//! It is a TCP proxy. It holds what is under way in memory, as a line does in flight and a router in its queue, and takes
//! no more than these would: then its senders have to wait.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, SockRef, Socket, Type};

use crate::fifo::Shape;

/// What is put on the line at once: so much time of it, within these bounds.
const PACKET_TIME: f64 = 0.0007;
const PACKETS: (usize, usize) = (1448, 8 * 1024);
/// What the kernel may hold beside it, for each socket: one part of the queue in so many, and at most so many bytes.
/// Loopback would take megabytes.
const KERNEL_PART: usize = 4;
const KERNEL_MOST: usize = 256 * 1024;

/// One line. It carries every connection to its address on to where it leads, and shares its rate among them.
pub(crate) struct Proxy {
    address: SocketAddr,
    end: Arc<End>,
}

#[derive(Default)]
struct End {
    target: OnceLock<SocketAddr>,
    closed: AtomicBool,
}

impl Proxy {
    pub(crate) fn open(shape: Shape) -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        // What is accepted inherits it; set later, it would not bound the window.
        socket.set_recv_buffer_size(kernel_buffer(shape))?;
        socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
        socket.listen(128)?;
        let listener = TcpListener::from(socket);
        let address = listener.local_addr()?;
        let end = Arc::new(End::default());
        let accepting = Arc::clone(&end);
        thread::spawn(move || accept(&listener, &accepting, shape));
        Ok(Self { address, end })
    }

    /// Lets the line lead to `target`, and returns where it begins.
    pub(crate) fn toward(&self, target: SocketAddr) -> io::Result<SocketAddr> {
        self.end.target.set(target).map_err(|_| io::Error::other("a line leads to one place only"))?;
        Ok(self.address)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.end.closed.store(true, Ordering::Relaxed);
        // Wakes the thread that accepts. The others end with their connections.
        let _ = TcpStream::connect(self.address);
    }
}

fn kernel_buffer(shape: Shape) -> usize {
    KERNEL_MOST.min(shape.queue / KERNEL_PART)
}

fn accept(listener: &TcpListener, end: &End, shape: Shape) {
    let directions = [Arc::new(Direction::new(shape)), Arc::new(Direction::new(shape))];
    while let Ok((near, _)) = listener.accept() {
        if end.closed.load(Ordering::Relaxed) {
            return;
        }
        // The ends report a connection that is closed; the line need not.
        let _ = carry(near, end, &directions);
    }
}

fn carry(near: TcpStream, end: &End, directions: &[Arc<Direction>; 2]) -> io::Result<()> {
    let target = *end.target.get().ok_or_else(|| io::Error::other("the line leads nowhere yet"))?;
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    let buffer = kernel_buffer(directions[0].shape);
    socket.set_recv_buffer_size(buffer)?;
    socket.connect(&target.into())?;
    let far = TcpStream::from(socket);
    for stream in [&near, &far] {
        stream.set_nodelay(true)?;
        SockRef::from(stream).set_send_buffer_size(buffer)?;
    }
    let ways = [(near.try_clone()?, far.try_clone()?), (far, near)];
    for ((from, to), direction) in ways.into_iter().zip(directions) {
        let direction = Arc::clone(direction);
        let (packets, arriving) = mpsc::channel();
        thread::spawn(move || fill(&from, &direction, &packets));
        thread::spawn(move || {
            // What cannot be delivered is lost, and then both ends have to know.
            if deliver(arriving, &to).is_err() {
                let _ = to.shutdown(Shutdown::Both);
            }
        });
    }
    Ok(())
}

/// Takes what one end sends, until its end or that of the other direction's socket.
fn fill(mut from: &TcpStream, direction: &Arc<Direction>, packets: &mpsc::Sender<Packet>) {
    let mut buffer = vec![0; direction.packet()];
    // A reset ends the stream at the other end too, though more politely.
    while let Ok(size @ 1..) = from.read(&mut buffer) {
        if packets.send(direction.send(&buffer[..size])).is_err() {
            return;
        }
    }
}

fn deliver(packets: mpsc::Receiver<Packet>, mut to: &TcpStream) -> io::Result<()> {
    for packet in packets {
        thread::sleep(packet.arrival.saturating_duration_since(Instant::now()));
        to.write_all(&packet.bytes)?;
    }
    to.shutdown(Shutdown::Write)
}

/// What is on the line until it is dropped.
struct Packet {
    arrival: Instant,
    bytes: Vec<u8>,
    direction: Arc<Direction>,
}

impl Drop for Packet {
    fn drop(&mut self) {
        self.direction.lock().bytes -= self.bytes.len();
        self.direction.changed.notify_all();
    }
}

/// What the connections share in this direction.
struct Direction {
    shape: Shape,
    state: Mutex<Shared>,
    /// Bytes have left it.
    changed: Condvar,
}

struct Shared {
    /// When it can take the next packet.
    free: Instant,
    /// In flight and queued.
    bytes: usize,
}

impl Direction {
    fn new(shape: Shape) -> Self {
        let state = Mutex::new(Shared { free: Instant::now(), bytes: 0 });
        Self { shape, state, changed: Condvar::new() }
    }

    fn packet(&self) -> usize {
        ((f64::from(self.shape.rate) * PACKET_TIME) as usize).clamp(PACKETS.0, PACKETS.1)
    }

    /// Puts a packet behind those that wait already, as soon as there is room.
    fn send(self: &Arc<Self>, bytes: &[u8]) -> Packet {
        let (rate, size) = (f64::from(self.shape.rate), bytes.len());
        let capacity = self.shape.queue + (rate * self.shape.round_trip.as_secs_f64()) as usize;
        let waited = self.changed.wait_while(self.lock(), |shared| shared.bytes + size > capacity);
        let mut shared = waited.unwrap_or_else(PoisonError::into_inner);
        shared.free = shared.free.max(Instant::now()) + Duration::from_secs_f64(size as f64 / rate);
        shared.bytes += size;
        Packet { arrival: shared.free + self.shape.round_trip / 2, bytes: bytes.to_vec(), direction: Arc::clone(self) }
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
