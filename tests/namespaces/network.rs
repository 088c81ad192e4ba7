//! Three network namespaces: the device's, the relay's, and between them a router that can drop everything.
//!
//! A proxy in the middle would not do: its kernel acknowledges what it takes, and ends connections when it goes.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::process::{Command, id};
use std::thread;

use nix::sched::{CloneFlags, setns};

/// The relay's address, as the device sees it.
pub(crate) const RELAY: &str = "10.213.2.2";

/// What the name of every namespace of ours begins with; the process follows.
const PREFIX: &str = "tcpremote-";

/// Removed when dropped; what still runs or is open in it goes on, cut off from everything.
#[derive(Debug)]
pub(crate) struct Network {
    name: String,
}

impl Network {
    /// # Errors
    /// Namespaces cannot be made here, and why.
    pub(crate) fn new(name: &str) -> io::Result<Self> {
        let network = Self { name: format!("{PREFIX}{}-{name}", id()) };
        let [device, router, relay] = ["device", "router", "relay"].map(|place| network.namespace(place));
        for namespace in [&device, &router, &relay] {
            ip(&format!("netns add {namespace}"))?;
            ip(&format!("-n {namespace} link set lo up"))?;
        }
        for (host, net) in [(&device, 1), (&relay, 2)] {
            ip(&format!("link add uplink netns {host} type veth peer name net{net} netns {router}"))?;
            ip(&format!("-n {host} address add 10.213.{net}.2/30 dev uplink"))?;
            ip(&format!("-n {router} address add 10.213.{net}.1/30 dev net{net}"))?;
            ip(&format!("-n {host} link set uplink up"))?;
            ip(&format!("-n {router} link set net{net} up"))?;
            ip(&format!("-n {host} route add default via 10.213.{net}.1"))?;
        }
        network.set_forwarding(true)?;
        Ok(network)
    }

    /// From here on every packet is dropped without a sign.
    pub(crate) fn cut(&self) {
        self.set_forwarding(false).expect("the router obeys");
    }

    /// Everything arrives again.
    pub(crate) fn heal(&self) {
        self.set_forwarding(true).expect("the router obeys");
    }

    /// Moves this thread, and those it starts from here on, to where the device is.
    pub(crate) fn enter_device_side(&self) {
        enter(&self.namespace("device"));
    }

    /// What is opened in `work` is opened where the relay is, and stays there.
    pub(crate) fn on_relay_side<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let inside = || {
            enter(&self.namespace("relay"));
            work()
        };
        thread::scope(|scope| scope.spawn(inside).join().expect("the work on the relay's side"))
    }

    /// A command that runs where the relay is.
    pub(crate) fn relay_command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace("relay"), program]);
        command
    }

    fn set_forwarding(&self, on: bool) -> io::Result<()> {
        let switch = format!("echo {} >/proc/sys/net/ipv4/ip_forward", u8::from(on));
        run(Command::new("ip").args(["netns", "exec", &self.namespace("router"), "sh", "-c", &switch]))
    }

    fn namespace(&self, place: &str) -> String {
        format!("{}-{place}", self.name)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for place in ["device", "router", "relay"] {
            // It may not even have been made.
            let _ = ip(&format!("netns delete {}", self.namespace(place)));
        }
    }
}

/// Removes what a run that was killed has left.
pub(crate) fn remove_leftovers() {
    let Ok(namespaces) = fs::read_dir("/run/netns") else { return };
    for namespace in namespaces.flatten().filter_map(|entry| entry.file_name().into_string().ok()) {
        let process = namespace.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        if process.is_some_and(|process| !Path::new("/proc").join(process).exists()) {
            let _ = ip(&format!("netns delete {namespace}"));
        }
    }
}

fn enter(namespace: &str) {
    let file = File::open(format!("/run/netns/{namespace}")).expect("a namespace");
    setns(file, CloneFlags::CLONE_NEWNET).expect("a way into the namespace");
}

fn ip(arguments: &str) -> io::Result<()> {
    run(Command::new("ip").args(arguments.split(' ')))
}

fn run(command: &mut Command) -> io::Result<()> {
    let output = command.output().map_err(|error| io::Error::other(format!("{command:?}: {error}")))?;
    if output.status.success() {
        return Ok(());
    }
    let message = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!("{command:?}: {}", message.trim())))
}
