//! The relay and the device as processes, on ports that stay the same, and the forwarder between them.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use socket2::{Domain, Socket, Type};

use crate::client::Entrances;
use crate::device;
use crate::forwarder::Forwarder;
use crate::process::Process;
use crate::report::Report;
use crate::usage::Usage;

const RELAY: &str = env!("CARGO_BIN_EXE_tcp-remote-relay");
/// What the relay says once it can be connected to.
const READY: &str = "waiting for a device";
/// A name that has no address anywhere, and for which no name server is asked: its label is too long.
const DEAD_NAME: &str = "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx.invalid:80";
/// How long a process may take to start, and a port to be free again.
const START_LIMIT: Duration = Duration::from_secs(20);
/// How long the tunnel may take until it carries clients again.
const UP_LIMIT: Duration = Duration::from_secs(60);
/// How long a relay may take to end: its own time for open clients is 10 s, and 1 s for the last bytes.
const END_LIMIT: Duration = Duration::from_secs(15);
/// Ended on request; and so, with clients that were open.
const STATUSES: [i32; 2] = [0, 3];

/// Everything between clients and their service.
#[derive(Debug)]
pub(crate) struct Tunnel {
    report: Arc<Report>,
    logs: PathBuf,
    started: usize,
    ports: Ports,
    service: SocketAddr,
    pub(crate) forwarder: Forwarder,
    relay: Process,
    device: Process,
    /// Relays that drain, and by when they must have ended.
    leaving: Vec<(Process, Instant)>,
    /// Holds the port that refuses, so that no other program listens there.
    _refusing: Socket,
}

/// All on loopback, below those that the system gives to clients: such a port could be a client's when it is wanted, and
/// a client that connects to its own port while no socket listens there is connected to itself.
#[derive(Clone, Copy, Debug)]
struct Ports {
    device: SocketAddr,
    entrances: Entrances,
    /// No socket listens here.
    refusing: SocketAddr,
}

impl Tunnel {
    pub(crate) fn start(report: &Arc<Report>, service: SocketAddr, logs: &Path) -> io::Result<Self> {
        let mut free = free_addresses()?;
        let mut next = || free.next().ok_or_else(|| io::Error::other("no free port"));
        let device = next()?;
        let entrances = Entrances { served: next()?, named: next()?, refused: next()?, unresolved: next()? };
        let ports = Ports { device, entrances, refusing: next()? };
        let refusing = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        refusing.bind(&ports.refusing.into())?;
        let forwarder = Forwarder::start(next()?, ports.device)?;
        let mut started = 0;
        let relay = start_relay(&ports, service, logs, &mut started)?;
        let device = start_device(&forwarder, logs, &mut started)?;
        let (report, logs) = (Arc::clone(report), logs.to_owned());
        Ok(Self {
            report,
            logs,
            started,
            ports,
            service,
            forwarder,
            relay,
            device,
            leaving: Vec::new(),
            _refusing: refusing,
        })
    }

    pub(crate) fn entrances(&self) -> Entrances {
        self.ports.entrances
    }

    /// Until a client can connect.
    pub(crate) fn wait_until_up(&self) -> io::Result<()> {
        let deadline = Instant::now() + UP_LIMIT;
        while TcpStream::connect(self.ports.entrances.served).is_err() {
            if Instant::now() > deadline {
                return Err(io::Error::other(format!("no tunnel within {} s", UP_LIMIT.as_secs())));
            }
            thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    pub(crate) fn kill_device(&mut self, pause: Duration) -> io::Result<()> {
        kill(&mut self.device, &self.report);
        thread::sleep(pause);
        self.device = start_device(&self.forwarder, &self.logs, &mut self.started)?;
        Ok(())
    }

    pub(crate) fn kill_relay(&mut self, pause: Duration) -> io::Result<()> {
        kill(&mut self.relay, &self.report);
        thread::sleep(pause);
        self.relay = start_relay(&self.ports, self.service, &self.logs, &mut self.started)?;
        Ok(())
    }

    /// Another device comes, and the first is killed a little later.
    pub(crate) fn take_over(&mut self, pause: Duration) -> io::Result<()> {
        let newer = start_device(&self.forwarder, &self.logs, &mut self.started)?;
        thread::sleep(pause);
        kill(&mut self.device, &self.report);
        self.device = newer;
        Ok(())
    }

    /// The relay ends in its own time, while the next one takes its place.
    pub(crate) fn replace_relay(&mut self, log_is_read: bool) -> io::Result<()> {
        self.relay.leave_unread(!log_is_read);
        self.relay.signal(Signal::SIGTERM);
        let next = start_relay(&self.ports, self.service, &self.logs, &mut self.started)?;
        let former = std::mem::replace(&mut self.relay, next);
        self.leaving.push((former, Instant::now() + END_LIMIT));
        Ok(())
    }

    pub(crate) fn freeze_device(&self, time: Duration) {
        freeze(&self.device, time);
    }

    pub(crate) fn freeze_relay(&self, time: Duration) {
        freeze(&self.relay, time);
    }

    /// From now on the relay's log is not read, or read again.
    pub(crate) fn leave_log_unread(&self, is_unread: bool) {
        self.relay.leave_unread(is_unread);
    }

    /// The device forks a child that lives so long and holds copies of all sockets.
    pub(crate) fn fork_child(&self, time: Duration) {
        self.device.write_line(&format!("{}{}", device::FORK, time.as_millis()));
    }

    /// The children of the device end.
    pub(crate) fn end_children(&self) {
        self.device.write_line(device::END);
    }

    /// Only processes that a signal has ended are over, and those in time.
    pub(crate) fn check(&mut self) {
        for (name, process) in [("relay", &mut self.relay), ("device", &mut self.device)] {
            if let Some(status) = process.status() {
                self.report.violation(format!("the {name} ended ({status}): {}", process.last_words()));
            }
        }
        self.leaving.retain_mut(|(process, deadline)| match process.status() {
            None if Instant::now() < *deadline => true,
            Some(status) if STATUSES.contains(&status) => false,
            status => {
                self.report.violation(format!("a relay that a signal ended: {status:?}, {}", process.last_words()));
                false
            }
        });
    }

    /// The last relay that drains has ended.
    pub(crate) fn wait_for_leaving(&mut self) {
        while !self.leaving.is_empty() {
            self.check();
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// What relay and device hold, once that does not change any more.
    pub(crate) fn usage(&self) -> [Usage; 2] {
        let now = || [&self.relay, &self.device].map(|process| Usage::of(process.id()));
        let descriptors = |usage: &[Usage; 2]| [usage[0].descriptors, usage[1].descriptors];
        let (mut usage, mut since) = (now(), Instant::now());
        let deadline = since + Duration::from_secs(10);
        // Sockets that were ended may stay open for 2 s.
        while since.elapsed() < Duration::from_secs(3) && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(50));
            let next = now();
            if descriptors(&next) != descriptors(&usage) {
                since = Instant::now();
            }
            usage = next;
        }
        usage
    }

    /// Lines of all logs that must not be there.
    pub(crate) fn suspicious_lines(&self) -> Vec<String> {
        let logs = fs::read_dir(&self.logs).into_iter().flatten().flatten();
        let texts = logs.filter_map(|log| fs::read_to_string(log.path()).ok());
        let lines = texts.flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>());
        lines.filter(|line| ["panicked", "protocol:", "for too long"].iter().any(|word| line.contains(word))).collect()
    }
}

/// Counted twice: a client that begins while it dies is ended by it too.
fn kill(process: &mut Process, report: &Report) {
    report.count_kill();
    process.signal(Signal::SIGKILL);
    process.wait(END_LIMIT);
    report.count_kill();
}

fn freeze(process: &Process, time: Duration) {
    process.signal(Signal::SIGSTOP);
    thread::sleep(time);
    process.signal(Signal::SIGCONT);
}

/// As soon as the ports can be had.
fn start_relay(ports: &Ports, service: SocketAddr, logs: &Path, started: &mut usize) -> io::Result<Process> {
    let deadline = Instant::now() + START_LIMIT;
    loop {
        *started += 1;
        let mut command = Command::new(RELAY);
        let Ports { device, entrances, refusing } = ports;
        let mappings = [
            (entrances.served, service.to_string()),
            (entrances.named, format!("localhost:{}", service.port())),
            (entrances.refused, refusing.to_string()),
            (entrances.unresolved, DEAD_NAME.to_owned()),
        ];
        command.arg(device.to_string());
        command.args(mappings.into_iter().flat_map(|(client, service)| [client.to_string(), service]));
        let mut relay = Process::spawn(&mut command, &logs.join(format!("{started:04}-relay.log")))?;
        loop {
            if relay.has_said(READY) {
                return Ok(relay);
            }
            if Instant::now() > deadline {
                return Err(io::Error::other(format!("the relay does not start: {}", relay.last_words())));
            }
            thread::sleep(Duration::from_millis(5));
            if relay.status().is_some() {
                break;
            }
        }
    }
}

fn start_device(forwarder: &Forwarder, logs: &Path, started: &mut usize) -> io::Result<Process> {
    *started += 1;
    let mut command = Command::new(std::env::current_exe()?);
    command.args([device::ARGUMENT, &forwarder.address().to_string()]);
    Process::spawn(&mut command, &logs.join(format!("{started:04}-device.log")))
}

fn free_addresses() -> io::Result<impl Iterator<Item = SocketAddr>> {
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")?;
    let lowest: u16 = range.split_whitespace().next().and_then(|port| port.parse().ok()).unwrap_or(32768);
    let ports = (1024..lowest).rev().map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
    Ok(ports.filter(|&address| TcpListener::bind(address).is_ok()))
}
