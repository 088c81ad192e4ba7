//! Our relay with a port for TLS and a registry, as a process of its own, and its devices.

use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::Arc;

use tcpremote::device::{Config, Identity, Service, Services};
use tcpremote::identity::{JoinString, Kind, Name, Pins, Secret};
use tcpremote::protocol::v2::Join;
use tcpremote::tls::Key;

use crate::common::device::Device;
use crate::common::relay::{Relay, address_in, command};
use crate::common::{DEADLINE, eventually};

/// A relay that `init` made; each of its client ports leads to the service `echo` of a device.
#[derive(Debug)]
pub(super) struct SecureRelay {
    pub(super) relay: Relay,
    place: Place,
    pins: Pins,
}

/// Where the relay's files are.
#[derive(Debug)]
pub(super) struct Place(tempfile::TempDir);

impl Place {
    /// With a client port for each of these devices, and lines of its log from this level on.
    pub(super) fn new(devices: &[&str], level: &str) -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        let made = command().arg("init").arg(place.path("")).args(["--address", "127.0.0.1:443"]).output().unwrap();
        assert!(made.status.success(), "{made:?}");
        let ports = devices.iter().map(|name| format!("[[port]]\nlisten = \"127.0.0.1:0\"\nto = \"{name}:echo\"\n"));
        let ports: String = ports.collect();
        let text = format!(
            "addresses = [\"127.0.0.1:443\"]\n[listen]\ntls = \"127.0.0.1:0\"\nplain = {{ listen = \"127.0.0.1:0\", device = \
             \"plain\" }}\n{ports}[[port]]\nlisten = \"127.0.0.1:0\"\nto = \"plain:9\"\n[log]\nlevel = \"{level}\"\n"
        );
        std::fs::write(place.path("relay.toml"), text).unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join("relay").join(name)
    }

    fn config(&self) -> String {
        self.path("relay.toml").into_os_string().into_string().unwrap()
    }

    /// What a command of the relay does.
    pub(super) fn output(&self, arguments: &[&str]) -> Output {
        command().args(arguments).args(["--config", &self.config()]).output().unwrap()
    }

    /// What a command prints that must succeed.
    pub(super) fn done(&self, arguments: &[&str]) -> String {
        let output = self.output(arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }
}

impl SecureRelay {
    pub(super) fn start(devices: &[&str]) -> Self {
        Self::start_at(Place::new(devices, "debug"), devices.len(), "true")
    }

    /// The same; the shell that becomes the relay does this before.
    pub(super) fn start_at(place: Place, ports: usize, before: &str) -> Self {
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("{before}; exec \"$@\""), "sh", env!("CARGO_BIN_EXE_tcp-remote-relay")]);
        shell.args(["run", "--config", &place.config()]);
        let relay = Relay::spawn(shell, ports);
        eventually("the control socket", DEADLINE, || UnixStream::connect(place.path("state/control")).is_ok());
        let join = JoinString::decode(&place.done(&["token", "device", "nobody"]), Kind::Device).unwrap();
        Self { relay, place, pins: join.pins() }
    }

    /// Where devices with a key connect.
    pub(super) fn port(&self) -> SocketAddr {
        let lines = self.relay.wait_for_logs("waiting for a device", 2);
        address_in(&lines[1])
    }

    /// Where the plain one connects.
    pub(super) fn plain_port(&self) -> SocketAddr {
        address_in(&self.relay.wait_for_log("waiting for a device"))
    }

    pub(super) fn pins(&self) -> Pins {
        self.pins
    }

    pub(super) fn output(&self, arguments: &[&str]) -> Output {
        self.place.output(arguments)
    }

    pub(super) fn done(&self, arguments: &[&str]) -> String {
        self.place.done(arguments)
    }

    /// A new key, which the relay knows by this name.
    pub(super) fn add(&self, name: &str) -> Arc<Key> {
        let key = new_key();
        self.done(&["add", name, "--key", &key.public().to_string()]);
        key
    }

    /// A token for a device of this name, in a string that says that the relay is there.
    pub(super) fn join_string(&self, name: &str, address: SocketAddr) -> JoinString {
        let made = JoinString::decode(&self.done(&["token", "device", name]), Kind::Device).unwrap();
        let address = address.to_string().parse().unwrap();
        JoinString::new(Kind::Device, vec![address], made.pins(), made.token(), made.secret().clone()).unwrap()
    }

    pub(super) fn token(&self, name: &str) -> Join {
        let made = self.join_string(name, self.port());
        Join { token: made.token(), secret: made.secret().clone() }
    }

    /// With this key, and perhaps a token.
    pub(super) fn identity(&self, key: &Arc<Key>, join: Option<Join>) -> Identity {
        let instance = *Secret::random().unwrap().as_bytes();
        Identity { key: Arc::clone(key), pins: self.pins, name: None, join, instance }
    }

    /// A device that connects there, as this one, until it is let in; it offers an echo.
    pub(super) fn device_at(
        &self,
        address: SocketAddr,
        identity: Identity,
        configure: impl FnOnce(&mut Config),
    ) -> Device {
        Device::start_with(address, |config| {
            config.reconnect = true;
            config.keep_trying = true;
            config.identity = Some(identity);
            configure(config);
        })
    }

    pub(super) fn device(&self, key: &Arc<Key>, join: Option<Join>, echo: SocketAddr) -> Device {
        self.device_at(self.port(), self.identity(key, join), |config| config.offer(echo_at(echo)))
    }
}

pub(super) fn new_key() -> Arc<Key> {
    Arc::new(Key::generate().unwrap())
}

/// The service `echo`.
pub(super) fn echo_at(address: SocketAddr) -> Services {
    let target = address.to_string().parse().unwrap();
    Services::new(vec![Service::new(Name::service("echo").unwrap(), target)]).unwrap()
}
