//! The services behind every contestant: one port, where a connection's first byte says what it wants.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::socket::{MsgFlags, Shutdown, recv, shutdown};
use portable_atomic::AtomicU64;

/// A peer that is silent or takes nothing for this long fails the measurement. On a slow line one waits behind others.
pub(crate) const IO_LIMIT: Duration = Duration::from_secs(15);
/// What one write of a source offers, and one read of a sink takes at most.
pub(crate) const CHUNK: usize = 256 * 1024;
const STACK: usize = 64 * 1024;

static BYTES: [u8; CHUNK] = [0x5a; CHUNK];

/// What a client wants, its first byte. The service answers with the same byte, so the client knows that it is through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Wish {
    /// Everything comes back.
    Echo,
    /// The same; the client sends at its own pace, as a typist does, and not only when the last echo is back.
    Keys,
    /// Bytes without end.
    Download,
    /// The same, of which the client takes no more than [`PACE`](crate::load::PACE).
    PacedDownload,
    /// Bytes are taken and counted.
    Upload,
}

impl Wish {
    pub(crate) fn byte(self) -> u8 {
        match self {
            Self::Echo => b'E',
            Self::Keys => b'K',
            Self::Download => b'D',
            Self::PacedDownload => b'P',
            Self::Upload => b'U',
        }
    }

    fn from_byte(byte: u8) -> Option<Self> {
        let all = [Self::Echo, Self::Keys, Self::Download, Self::PacedDownload, Self::Upload];
        all.into_iter().find(|wish| wish.byte() == byte)
    }
}

/// The services' threads, which end when it is dropped.
pub(crate) struct Service {
    listener: Arc<TcpListener>,
    address: SocketAddr,
    counters: Arc<Counters>,
}

#[derive(Default)]
struct Counters {
    closed: AtomicBool,
    open: AtomicUsize,
    uploaded: AtomicU64,
}

impl Service {
    /// Opens the port. All threads accept from it, so that no connection waits for a thread to be made.
    pub(crate) fn start(workers: usize) -> io::Result<Self> {
        let listener = Arc::new(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?);
        let counters = Arc::new(Counters::default());
        for _ in 0..workers {
            let (listener, counters) = (Arc::clone(&listener), Arc::clone(&counters));
            thread::Builder::new().stack_size(STACK).spawn(move || work(&listener, &counters))?;
        }
        Ok(Self { address: listener.local_addr()?, listener, counters })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Bytes taken from all uploads so far.
    pub(crate) fn uploaded(&self) -> u64 {
        self.counters.uploaded.load(Ordering::Relaxed)
    }

    /// Waits until every connection has ended: a tunnel passes the end of its clients on.
    pub(crate) fn settle(&self) -> io::Result<()> {
        let deadline = Instant::now() + IO_LIMIT;
        loop {
            let open = self.counters.open.load(Ordering::Acquire);
            if open == 0 {
                return Ok(());
            }
            if Instant::now() > deadline {
                let message = format!("{open} service connections are open {IO_LIMIT:?} after their clients closed");
                return Err(io::Error::other(message));
            }
            thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.counters.closed.store(true, Ordering::Relaxed);
        // Wakes the threads that accept. The others end with their connections.
        let _ = shutdown(self.listener.as_raw_fd(), Shutdown::Both);
    }
}

fn work(listener: &TcpListener, counters: &Counters) {
    while !counters.closed.load(Ordering::Relaxed) {
        let Ok((stream, _)) = listener.accept() else { continue };
        counters.open.fetch_add(1, Ordering::AcqRel);
        // How a connection ends is for the client to judge.
        let _ = serve(stream, counters);
        counters.open.fetch_sub(1, Ordering::AcqRel);
    }
}

fn serve(mut stream: TcpStream, counters: &Counters) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut first = [0];
    stream.read_exact(&mut first)?;
    stream.write_all(&first)?;
    match Wish::from_byte(first[0]) {
        Some(Wish::Echo | Wish::Keys) => echo(&mut stream),
        Some(Wish::Download | Wish::PacedDownload) => {
            stream.set_write_timeout(Some(IO_LIMIT))?;
            loop {
                stream.write_all(&BYTES)?;
            }
        }
        Some(Wish::Upload) => {
            stream.set_read_timeout(Some(IO_LIMIT))?;
            let mut sink = Sink::default();
            while let taken @ 1.. = sink.discard(&stream)? {
                counters.uploaded.fetch_add(taken, Ordering::Relaxed);
            }
            Ok(())
        }
        None => Err(io::Error::other(format!("no service is called '{}'", first[0].escape_ascii()))),
    }
}

fn echo(stream: &mut TcpStream) -> io::Result<()> {
    let mut buffer = [0; 4096];
    loop {
        let size = stream.read(&mut buffer)?;
        if size == 0 {
            return Ok(());
        }
        stream.write_all(&buffer[..size])?;
    }
}

/// Sends one chunk, the same bytes each time.
pub(crate) fn send_chunk(mut stream: &TcpStream) -> io::Result<()> {
    stream.write_all(&BYTES)
}

/// Takes bytes from a stream without looking at them.
pub(crate) struct Sink(Vec<u8>);

impl Default for Sink {
    fn default() -> Self {
        Self(vec![0; CHUNK])
    }
}

impl Sink {
    /// Discards what has arrived, at most a chunk, and says how much it was; 0 is the end of the stream.
    pub(crate) fn discard(&mut self, stream: &TcpStream) -> io::Result<u64> {
        loop {
            // With MSG_TRUNC, TCP drops the bytes instead of copying them.
            match recv(stream.as_raw_fd(), &mut self.0, MsgFlags::MSG_TRUNC) {
                Ok(size) => return Ok(size as u64),
                Err(nix::errno::Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}
