//! Services that work by themselves, one thread a connection.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use super::{DEADLINE, End, Peer};

/// How long a service waits for its client: longer than any stall, and than any test makes it wait.
const IDLE: Duration = Duration::from_secs(60);

/// A service on a port of the system's choice; it stops when dropped.
#[derive(Debug)]
pub struct Service {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    acceptor: Option<JoinHandle<()>>,
}

impl Service {
    /// Every connection is `serve`d on a thread of its own.
    pub fn start(serve: impl Fn(Peer) + Send + Sync + 'static) -> Self {
        let listener = listen();
        let address = listener.local_addr().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let serve = Arc::new(serve);
        let acceptor = thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(Relaxed) {
                    return;
                }
                let (serve, stream) = (Arc::clone(&serve), stream.unwrap());
                thread::spawn(move || serve(Peer::new(stream)));
            }
        });
        Self { address, stop, acceptor: Some(acceptor) }
    }

    /// Sends back what it gets, to the end.
    pub fn echo() -> Self {
        Self::start(|mut peer| {
            while let Ok(bytes) = peer.try_read(IDLE) {
                if bytes.is_empty() || peer.try_send_within(&bytes, IDLE).is_err() {
                    return;
                }
            }
        })
    }

    /// Reads everything, then sends how many bytes that were: a client that half-closes needs the answer.
    pub fn count() -> Self {
        Self::start(|mut peer| {
            let (bytes, end) = peer.read_to_end();
            if end == End::Finished {
                let _ = peer.try_send(format!("{} bytes\n", bytes.len()).as_bytes());
            }
        })
    }

    /// Runs a program for each connection, which is its standard input and output, as inetd does.
    pub fn program(command: impl Fn() -> Command + Send + Sync + 'static) -> Self {
        Self::start(move |peer| {
            let input = peer.into_stream();
            let output = input.try_clone().unwrap();
            // The command holds the sockets until it is dropped: then the program's end is the connection's.
            let child = command().stdin(OwnedFd::from(input)).stdout(OwnedFd::from(output)).spawn();
            child.unwrap().wait().unwrap();
        })
    }

    /// Sends this, then closes.
    pub fn source(bytes: Vec<u8>) -> Self {
        Self::start(move |mut peer| {
            let _ = peer.try_send_within(&bytes, IDLE);
        })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        // Wakes the acceptor; where that fails it is gone already.
        let _ = TcpStream::connect_timeout(&self.address, DEADLINE);
        let _ = self.acceptor.take().map(JoinHandle::join);
    }
}

/// A listening socket whose queue has room for all the clients of a test. Where it is full the kernel drops the SYN, and
/// the fourth is sent 7 s after the first, and the fifth when the device has given up.
fn listen() -> TcpListener {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    socket.listen(4096).unwrap();
    socket.into()
}

/// An echo answers, through whatever stands between.
pub fn expect_echo(address: SocketAddr) {
    let mut client = Peer::connect(address);
    client.send(b"are you there?");
    client.expect(b"are you there?");
}
