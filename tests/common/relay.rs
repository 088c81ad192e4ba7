//! Our relay, as a process of its own; its ports are read from its log.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use super::wire::Link;
use super::wire_v2;
use super::{DEADLINE, eventually};

/// A relay with its device port and client ports chosen by the system; killed when dropped.
#[derive(Debug)]
pub struct Relay {
    child: Child,
    log: Arc<Mutex<Vec<String>>>,
    reader: Option<JoinHandle<()>>,
    services: usize,
}

/// What the log says of the device port, of a device that has sent LISTEN, and of each client port.
const DEVICE: &str = "waiting for a device";
const ARRIVAL: &str = "a device is here";
const TAKEOVER: &str = "takes the place of this one";
const CLIENTS: &str = "clients may connect";

/// The relay's program.
pub fn command() -> Command {
    Command::new(env!("CARGO_BIN_EXE_tcp-remote-relay"))
}

impl Relay {
    /// One client port for each service (`host:port`, as on the command line).
    pub fn start(services: &[&str]) -> Self {
        Self::start_with(&[], services)
    }

    pub fn start_with(options: &[&str], services: &[&str]) -> Self {
        let mut command = command();
        command.args(["--log", "debug"]).args(options).arg("127.0.0.1:0");
        for service in services {
            command.args(["127.0.0.1:0", service]);
        }
        Self::spawn(command, services.len())
    }

    /// A relay with a command line of its own, which has so many services.
    pub fn spawn(mut command: Command, services: usize) -> Self {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        let (stderr, lines) = (child.stderr.take().unwrap(), Arc::clone(&log));
        let reader = thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                lines.lock().unwrap().push(line);
            }
        });
        Self { child, log, reader: Some(reader), services }
    }

    /// Every line that was logged so far.
    pub fn log(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }

    pub fn wait_for_log(&self, text: &str) -> String {
        self.wait_for_logs(text, 1).remove(0)
    }

    /// The first `count` lines that contain the text.
    pub fn wait_for_logs(&self, text: &str, count: usize) -> Vec<String> {
        let mut found = Vec::new();
        eventually(&format!("{count} times '{text}' in {:?}", self.log), DEADLINE, || {
            found = self.log().into_iter().filter(|line| line.contains(text)).collect();
            found.len() >= count
        });
        found
    }

    /// Where the device connects.
    pub fn device_addr(&self) -> SocketAddr {
        address_in(&self.wait_for_log(DEVICE))
    }

    /// A device's link that has sent LISTEN, and the client ports that the relay opened for it.
    pub fn listen(&self) -> (Link, Vec<SocketAddr>) {
        let link = Link::listen(self.device_addr());
        let clients = self.client_addrs_of(link.peer.local_addr());
        (link, clients)
    }

    /// The same in version 2, with both ends introduced.
    pub fn listen_v2(&self) -> (wire_v2::Link, Vec<SocketAddr>) {
        let link = wire_v2::Link::listen(self.device_addr());
        let clients = self.client_addrs_of(link.peer.local_addr());
        (link, clients)
    }

    /// Where clients connect, in the order of the command line, once the first device is there.
    pub fn client_addrs(&self) -> Vec<SocketAddr> {
        let lines = self.wait_for_logs(CLIENTS, self.services);
        lines.iter().map(|line| address_in(line)).collect()
    }

    /// The client ports of this device: those opened for it, or those of the link whose place it took. The relay may read
    /// LISTEN before it reads the end of the link before, whose ports then stay open and are not logged again.
    fn client_addrs_of(&self, device: SocketAddr) -> Vec<SocketAddr> {
        let device = device.to_string();
        let mut lines = Vec::new();
        eventually(&format!("client ports for {device}"), DEADLINE, || {
            lines = client_ports_in(&self.log(), &device, self.services).unwrap_or_default();
            lines.len() == self.services
        });
        lines.iter().map(|line| address_in(line)).collect()
    }

    pub fn process(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: &str) {
        let status = Command::new("kill").args([format!("-{signal}"), self.child.id().to_string()]).status();
        assert!(status.unwrap().success());
    }

    /// The exit status, once it has ended.
    pub fn wait(&mut self) -> Option<i32> {
        let mut status = None;
        eventually("the relay's end", DEADLINE, || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        let _ = self.reader.take().map(JoinHandle::join);
        status.unwrap().code()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        // Already gone, where the test ended it.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            // Cargo shows it with the test that failed.
            #[allow(clippy::print_stderr, reason = "the log explains the failure")]
            for line in self.log() {
                eprintln!("relay: {line}");
            }
        }
    }
}

/// The lines of the client ports that this device has; `None` before it is there.
fn client_ports_in(log: &[String], device: &str, services: usize) -> Option<Vec<String>> {
    let arrival = log.iter().position(|line| line.contains(ARRIVAL) && line.contains(device))?;
    let (before, after) = log.split_at(arrival + 1);
    let ports = |lines: &[String]| lines.iter().filter(|line| line.contains(CLIENTS)).cloned().collect::<Vec<_>>();
    if after.first().is_some_and(|line| line.contains(TAKEOVER)) {
        let all = ports(before);
        return Some(all[all.len().saturating_sub(services)..].to_vec());
    }
    Some(ports(after).into_iter().take(services).collect())
}

/// The last `ip:port` that a line names.
pub fn address_in(line: &str) -> SocketAddr {
    let words = line.split(|c: char| c.is_whitespace() || ",;=\"".contains(c));
    words.filter_map(|word| word.parse().ok()).next_back().unwrap_or_else(|| panic!("no address in '{line}'"))
}
