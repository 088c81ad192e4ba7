//! A long line: what goes through it takes its time and is slowed to a rate, in each direction for itself.
//!
//! The kernels that this runs on have no netem, so a TCP proxy stands in. It holds what is under way in memory, as a
//! line does in flight and a router in its queue, and takes no more than these would: then its sender has to wait.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, SockRef, Socket, Type};

/// There and back again.
pub(crate) const ROUND_TRIP: Duration = Duration::from_millis(100);
/// Bytes per second in each direction: 100 Mbit/s.
pub(crate) const RATE: f64 = 100e6 / 8.0;

/// What one direction holds at most, in flight and queued: twice the bytes of a round trip.
const CAPACITY: usize = (2.0 * RATE * ROUND_TRIP.as_secs_f64()) as usize;
/// What is put on the line at once; 0.7 ms at its rate.
const PACKET: usize = 8 * 1024;
/// What the kernel may hold beside it, for each socket. Loopback would take megabytes.
const KERNEL_BUFFER: usize = 256 * 1024;

/// One line. It carries every connection to its address on to where it leads, and shares its rate among them.
pub(crate) struct Line {
    address: SocketAddr,
    end: Arc<End>,
}

#[derive(Default)]
struct End {
    target: OnceLock<SocketAddr>,
    closed: AtomicBool,
}

impl Line {
    pub(crate) fn open() -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        // What is accepted inherits it; set later, it would not bound the window.
        socket.set_recv_buffer_size(KERNEL_BUFFER)?;
        socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
        socket.listen(128)?;
        let listener = TcpListener::from(socket);
        let address = listener.local_addr()?;
        let end = Arc::new(End::default());
        let accepting = Arc::clone(&end);
        thread::spawn(move || accept(&listener, &accepting));
        Ok(Self { address, end })
    }

    /// Lets the line lead to `target`, and returns where it begins.
    pub(crate) fn toward(&self, target: SocketAddr) -> io::Result<SocketAddr> {
        self.end.target.set(target).map_err(|_| io::Error::other("a line leads to one place only"))?;
        Ok(self.address)
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.end.closed.store(true, Ordering::Relaxed);
        // Wakes the thread that accepts. The others end with their connections.
        let _ = TcpStream::connect(self.address);
    }
}

fn accept(listener: &TcpListener, end: &End) {
    let directions = [Arc::new(Direction::default()), Arc::new(Direction::default())];
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
    socket.set_recv_buffer_size(KERNEL_BUFFER)?;
    socket.connect(&target.into())?;
    let far = TcpStream::from(socket);
    for stream in [&near, &far] {
        stream.set_nodelay(true)?;
        SockRef::from(stream).set_send_buffer_size(KERNEL_BUFFER)?;
    }
    let ways = [(near.try_clone()?, far.try_clone()?), (far, near)];
    for ((from, to), direction) in ways.into_iter().zip(directions) {
        let (pipe, direction) = (Arc::new(Pipe::default()), Arc::clone(direction));
        let filled = Arc::clone(&pipe);
        thread::spawn(move || filled.fill(&from, &direction));
        thread::spawn(move || {
            // What cannot be delivered is lost, and then both ends have to know.
            if pipe.empty(&to).is_err() {
                let _ = to.shutdown(Shutdown::Both);
            }
        });
    }
    Ok(())
}

/// When the line is free to take the next packet in this direction.
#[derive(Default)]
struct Direction(Mutex<Option<Instant>>);

impl Direction {
    /// Puts a packet behind those that wait already, and returns when it arrives at the far end.
    fn send(&self, size: usize) -> Instant {
        let mut free = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let sent = free.map_or(now, |free| free.max(now)) + Duration::from_secs_f64(size as f64 / RATE);
        *free = Some(sent);
        sent + ROUND_TRIP / 2
    }
}

/// What is under way in one direction of a connection.
#[derive(Default)]
struct Pipe {
    content: Mutex<Content>,
    changed: Condvar,
}

#[derive(Default)]
struct Content {
    /// With the time when each arrives; an empty one is the end of the stream.
    packets: VecDeque<(Instant, Vec<u8>)>,
    bytes: usize,
    /// Packets are not taken any more.
    broken: bool,
}

impl Pipe {
    fn fill(&self, mut from: &TcpStream, direction: &Direction) {
        let mut buffer = [0; PACKET];
        loop {
            // A reset ends the stream at the other end too, though more politely.
            let size = from.read(&mut buffer).unwrap_or(0);
            let mut content = self.lock();
            while content.bytes + size > CAPACITY && !content.broken {
                content = self.wait(content);
            }
            if content.broken {
                return;
            }
            content.packets.push_back((direction.send(size), buffer[..size].to_vec()));
            content.bytes += size;
            self.changed.notify_all();
            if size == 0 {
                return;
            }
        }
    }

    fn empty(&self, to: &TcpStream) -> io::Result<()> {
        let result = self.deliver_all(to);
        self.lock().broken = true;
        self.changed.notify_all();
        result
    }

    fn deliver_all(&self, mut to: &TcpStream) -> io::Result<()> {
        loop {
            let (arrival, packet) = self.take();
            thread::sleep(arrival.saturating_duration_since(Instant::now()));
            if packet.is_empty() {
                return to.shutdown(Shutdown::Write);
            }
            to.write_all(&packet)?;
            // Only now it is off the line.
            self.lock().bytes -= packet.len();
            self.changed.notify_all();
        }
    }

    fn take(&self) -> (Instant, Vec<u8>) {
        let mut content = self.lock();
        loop {
            if let Some(packet) = content.packets.pop_front() {
                return packet;
            }
            content = self.wait(content);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, content: MutexGuard<'a, Content>) -> MutexGuard<'a, Content> {
        self.changed.wait(content).unwrap_or_else(PoisonError::into_inner)
    }
}
