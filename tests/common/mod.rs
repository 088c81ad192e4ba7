//! What the tests with real sockets share. Every wait has a deadline, every port is the system's choice.
#![allow(dead_code, reason = "each test file uses its part")]
#![allow(unreachable_pub, reason = "the file that includes this is the crate")]
#![allow(clippy::unwrap_used, reason = "a test ends where its own means fail")]

pub mod device;
pub mod openssl;
pub mod pairing;
pub mod relay;
pub mod service;
pub mod usage;
pub mod wire;
pub mod wire_v2;

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use socket2::SockRef;

/// For whatever must happen soon. A machine that is busy, or stops this process for some seconds, must not reach it.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// Polls until `holds`. Fails with `what` where it does not hold within `limit`.
pub fn eventually(what: &str, limit: Duration, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + limit;
    while !holds() {
        assert!(Instant::now() < deadline, "not within {limit:?}: {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// The shortest of five times: a wait that should not be is in each of them, and what a busy machine adds in some.
pub fn shortest_of_five(once: impl FnMut(usize) -> Duration) -> Duration {
    (0..5).map(once).min().unwrap()
}

/// How a stream of bytes ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// With FIN: complete.
    Finished,
    /// With RST: cut.
    Reset,
}

/// One end of a TCP connection, which the test drives.
#[derive(Debug)]
pub struct Peer {
    stream: TcpStream,
}

impl Peer {
    pub fn new(stream: TcpStream) -> Self {
        stream.set_nonblocking(false).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream }
    }

    /// A reset that comes before the system reports the connection counts as connected and reset.
    pub fn connect(address: SocketAddr) -> Self {
        match TcpStream::connect_timeout(&address, DEADLINE) {
            Ok(stream) => Self::new(stream),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => Self::already_reset(),
            Err(error) => panic!("{address}: {error}"),
        }
    }

    fn already_reset() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let peer = Self::new(TcpStream::connect_timeout(&listener.local_addr().unwrap(), DEADLINE).unwrap());
        Self::new(listener.accept().unwrap().0).reset();
        peer
    }

    pub fn try_clone(&self) -> Self {
        Self { stream: self.stream.try_clone().unwrap() }
    }

    pub fn local_addr(&self) -> SocketAddr {
        self.stream.local_addr().unwrap()
    }

    /// In one write, so that it travels in one segment where it fits.
    pub fn send(&mut self, bytes: &[u8]) {
        self.try_send(bytes).unwrap();
    }

    /// Fails where nothing more is taken.
    pub fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.try_send_within(bytes, DEADLINE)
    }

    /// The same; the limit is for each write, so that the number of bytes does not matter.
    pub fn try_send_within(&mut self, mut bytes: &[u8], limit: Duration) -> io::Result<()> {
        self.stream.set_write_timeout(Some(limit))?;
        while !bytes.is_empty() {
            match self.stream.write(bytes) {
                Ok(count) => bytes = &bytes[count..],
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// What one read brings; nothing at the end.
    pub fn try_read(&mut self, limit: Duration) -> io::Result<Vec<u8>> {
        let mut buffer = vec![0; 64 * 1024];
        let count = self.read_some(&mut buffer, limit)?;
        buffer.truncate(count);
        Ok(buffer)
    }

    /// One read that no signal ends: a process that was stopped and goes on has its reads interrupted.
    fn read_some(&mut self, buffer: &mut [u8], limit: Duration) -> io::Result<usize> {
        let deadline = Instant::now() + limit;
        loop {
            // What came while the process was stopped is still read.
            let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
            self.stream.set_read_timeout(Some(left))?;
            match self.stream.read(buffer) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }

    /// Whether nothing comes for so long.
    pub fn is_quiet_for(&self, time: Duration) -> bool {
        self.stream.set_read_timeout(Some(time)).unwrap();
        self.stream.peek(&mut [0]).is_err()
    }

    /// Exactly so many bytes.
    pub fn read(&mut self, count: usize) -> Vec<u8> {
        self.read_within(count, DEADLINE)
    }

    /// The limit is for each read, so that the number of bytes does not matter.
    pub fn read_within(&mut self, count: usize, limit: Duration) -> Vec<u8> {
        let mut bytes = vec![0; count];
        let mut filled = 0;
        while filled < count {
            match self.read_some(&mut bytes[filled..], limit) {
                Ok(0) => panic!("the end, after {filled} of {count} bytes: {:?}", head(&bytes[..filled])),
                Ok(read) => filled += read,
                Err(error) => panic!("{error}, after {filled} of {count} bytes: {:?}", head(&bytes[..filled])),
            }
        }
        bytes
    }

    /// Exactly so many bytes, or how it ended before they came.
    pub fn try_read_exactly(&mut self, count: usize, limit: Duration) -> Result<Vec<u8>, End> {
        let mut bytes = vec![0; count];
        let mut filled = 0;
        while filled < count {
            match self.read_some(&mut bytes[filled..], limit) {
                Ok(0) => return Err(End::Finished),
                Ok(read) => filled += read,
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return Err(End::Reset),
                Err(error) => panic!("{error}, after {filled} of {count} bytes"),
            }
        }
        Ok(bytes)
    }

    /// These bytes come next.
    #[track_caller]
    pub fn expect(&mut self, bytes: &[u8]) {
        self.expect_within(bytes, DEADLINE);
    }

    #[track_caller]
    pub fn expect_within(&mut self, bytes: &[u8], limit: Duration) {
        let read = self.read_within(bytes.len(), limit);
        assert!(read == bytes, "expected {:?}, read {:?}", head(bytes), head(&read));
    }

    /// Everything that is still to come, and how it ends.
    pub fn read_to_end(&mut self) -> (Vec<u8>, End) {
        let mut bytes = Vec::new();
        loop {
            match self.try_read(DEADLINE) {
                Ok(read) if read.is_empty() => return (bytes, End::Finished),
                Ok(read) => bytes.extend(read),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return (bytes, End::Reset),
                Err(error) => panic!("{error}, after {} bytes", bytes.len()),
            }
        }
    }

    /// Nothing more comes but this end.
    #[track_caller]
    pub fn expect_end(&mut self, end: End) {
        let (bytes, ended) = self.read_to_end();
        assert!(bytes.is_empty(), "still {} bytes: {:?}", bytes.len(), head(&bytes));
        assert_eq!(ended, end);
    }

    /// Sends FIN; what the peer sends can still be read.
    pub fn finish(&mut self) {
        self.stream.shutdown(Shutdown::Write).unwrap();
    }

    /// The socket itself, for a program to use.
    pub fn into_stream(self) -> TcpStream {
        self.stream
    }

    /// Ends with RST.
    pub fn reset(self) {
        SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)).unwrap();
    }
}

/// A listening socket whose connections the test takes itself.
#[derive(Debug)]
pub struct Listener {
    listener: TcpListener,
}

impl Listener {
    pub fn bind() -> Self {
        Self::bind_to("127.0.0.1:0")
    }

    pub fn bind_to(address: &str) -> Self {
        Self::new(TcpListener::bind(address).unwrap())
    }

    pub fn new(listener: TcpListener) -> Self {
        listener.set_nonblocking(true).unwrap();
        Self { listener }
    }

    pub fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap()
    }

    pub fn port(&self) -> u16 {
        self.address().port()
    }

    pub fn accept(&self) -> Peer {
        let mut accepted = None;
        eventually("a connection", DEADLINE, || {
            accepted = self.try_accept();
            accepted.is_some()
        });
        accepted.unwrap()
    }

    /// A connection that is already there.
    pub fn try_accept(&self) -> Option<Peer> {
        match self.listener.accept() {
            Ok((stream, _)) => Some(Peer::new(stream)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => None,
            Err(error) => panic!("{error}"),
        }
    }
}

/// An address where no socket listens; held so that no other program is given it.
#[derive(Debug)]
pub struct Refusing {
    socket: socket2::Socket,
}

impl Refusing {
    pub fn bind() -> Self {
        use socket2::{Domain, Socket, Type};
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        Self { socket }
    }

    pub fn address(&self) -> SocketAddr {
        self.socket.local_addr().unwrap().as_socket().unwrap()
    }

    pub fn port(&self) -> u16 {
        self.address().port()
    }
}

/// So many bytes that no other position repeats soon, so that lost, doubled and swapped bytes show.
pub fn pattern(count: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    let mut bytes = Vec::with_capacity(count + 8);
    while bytes.len() < count {
        bytes.extend(next());
    }
    bytes.truncate(count);
    bytes
}

/// The first bytes, as text, for the message of an assertion.
pub fn head(bytes: &[u8]) -> String {
    let mut text = bytes.iter().take(64).flat_map(|&byte| std::ascii::escape_default(byte)).map(char::from).collect();
    if bytes.len() > 64 {
        text = format!("{text}… ({} bytes)", bytes.len());
    }
    text
}
