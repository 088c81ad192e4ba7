//! What can carry a client's connection to a service, and a running one.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use nix::unistd::Pid;
use tempfile::TempDir;

use crate::case::Case;
use crate::line::Line;
use crate::load;
use crate::process::Process;

/// How long a contestant may take until the first byte comes back through it.
const START_LIMIT: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(10);

/// What a contestant is measured for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// It does less than a tunnel, and shows what that costs.
    Yardstick,
    /// It takes a client as far, over two hops.
    Peer,
    /// The subject as it was with version 1 of the protocol.
    Former,
    /// The subject as it was at another commit.
    Before,
    /// What all this is about.
    Subject,
    /// The subject with its link in TLS.
    Encrypted,
}

/// One way from a client to a service.
pub(crate) trait Contestant: Sync {
    /// The column's heading.
    fn name(&self) -> &'static str;

    fn role(&self) -> Role;

    /// If it cannot be measured on this machine: how to get it.
    fn missing(&self) -> Option<String>;

    /// What exactly was measured, for the reader of the table.
    fn describe(&self) -> String;

    /// Whether a case is measured for it.
    fn takes(&self, case: Case) -> bool {
        !case.is_encrypted() && !matches!(case, Case::LongLine { .. } | Case::SlowLine { .. })
    }

    /// Starts its processes and returns when a byte has come back through them.
    fn start(&self, service: SocketAddr) -> io::Result<Tunnel>;

    /// The same, with a line between its two halves; for those that take such a case. The service is where the device
    /// is, and this is called where the server and its clients are.
    fn start_across(&self, _service: SocketAddr, _line: &Line) -> io::Result<Tunnel> {
        Err(io::Error::other("it cannot be put on a line"))
    }
}

/// A contestant's running processes, which end with it.
pub(crate) struct Tunnel {
    entrance: SocketAddr,
    processes: Vec<Process>,
    _directory: Option<TempDir>,
}

impl Tunnel {
    /// Waits until a byte comes back through the processes.
    pub(crate) fn ready(entrance: SocketAddr, mut processes: Vec<Process>, directory: TempDir) -> io::Result<Self> {
        let deadline = Instant::now() + START_LIMIT;
        while let Err(error) = load::echo_once(entrance) {
            for process in &mut processes {
                process.check_running()?;
            }
            if Instant::now() > deadline {
                return Err(io::Error::other(format!("nothing came through it within {START_LIMIT:?}: {error}")));
            }
            thread::sleep(PAUSE);
        }
        Ok(Self { entrance, processes, _directory: Some(directory) })
    }

    /// Where clients connect.
    pub(crate) fn entrance(&self) -> SocketAddr {
        self.entrance
    }

    /// User and system time that its processes have used; none if it has no process.
    pub(crate) fn cpu(&self) -> io::Result<Option<Duration>> {
        self.sum(Process::cpu)
    }

    /// Bytes of memory resident in its processes; none if it has no process.
    pub(crate) fn resident(&self) -> io::Result<Option<u64>> {
        self.sum(Process::resident)
    }

    /// The numbers of all its processes.
    pub(crate) fn pids(&self) -> io::Result<Vec<Pid>> {
        Ok(self.processes.iter().map(Process::family).collect::<io::Result<Vec<_>>>()?.concat())
    }

    fn sum<T: std::iter::Sum>(&self, of: impl Fn(&Process) -> io::Result<T>) -> io::Result<Option<T>> {
        if self.processes.is_empty() {
            return Ok(None);
        }
        self.processes.iter().map(of).sum::<io::Result<T>>().map(Some)
    }
}

/// No tunnel: clients connect to the service itself.
pub(crate) struct Plain;

impl Contestant for Plain {
    fn name(&self) -> &'static str {
        "plain"
    }

    fn missing(&self) -> Option<String> {
        None
    }

    fn role(&self) -> Role {
        Role::Yardstick
    }

    fn describe(&self) -> String {
        "loopback, no tunnel".into()
    }

    fn takes(&self, case: Case) -> bool {
        !case.is_encrypted() && !matches!(case, Case::Syscalls | Case::SlowLine { .. })
    }

    fn start(&self, service: SocketAddr) -> io::Result<Tunnel> {
        Ok(Tunnel { entrance: service, processes: Vec::new(), _directory: None })
    }

    fn start_across(&self, service: SocketAddr, line: &Line) -> io::Result<Tunnel> {
        self.start(line.toward(service)?)
    }
}

/// A port without a listener, given by the system, for programs that cannot say which one they were given.
pub(crate) fn free_address() -> io::Result<SocketAddr> {
    free_port(Ipv4Addr::LOCALHOST)
}

pub(crate) fn free_port(host: Ipv4Addr) -> io::Result<SocketAddr> {
    TcpListener::bind((host, 0))?.local_addr()
}

/// Waits until a process listens at `address`.
pub(crate) fn wait_for_listener(address: SocketAddr, process: &mut Process) -> io::Result<()> {
    wait_for(&format!("listener at {address}"), process, || TcpStream::connect(address)).map(drop)
}

/// Tries until a process has got so far that this succeeds.
pub(crate) fn wait_for<T>(
    what: &str,
    process: &mut Process,
    mut attempt: impl FnMut() -> io::Result<T>,
) -> io::Result<T> {
    let deadline = Instant::now() + START_LIMIT;
    loop {
        match attempt() {
            Ok(value) => return Ok(value),
            Err(error) if Instant::now() > deadline => {
                return Err(io::Error::other(format!("no {what} within {START_LIMIT:?}: {error}")));
            }
            Err(_) => process.check_running()?,
        }
        thread::sleep(PAUSE);
    }
}
