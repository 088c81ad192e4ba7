//! Many devices with keys at one relay, each with a link in TLS that carries nothing.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use tcpremote::device::{Config, Handle, Identity, State};
use tcpremote::identity::{Name, Pins};
use tcpremote::relay::keys::Keys;
use tcpremote::tls::Key;

use crate::contestant::free_address;
use crate::fleet::Fleet;
use crate::ours::RELAY;

/// How long all may take to come.
const LIMIT: Duration = Duration::from_secs(60);
/// From look to look at those that have not come.
const PAUSE: Duration = Duration::from_millis(5);
/// The key of the relay, and the next one.
const KEYS: [&str; 2] = ["relay.key", "relay-next.pub"];

/// What they cost the relay.
pub(crate) struct Links {
    /// Bytes resident, for each.
    pub(crate) memory: f64,
    /// How many a second of processor time is enough for: handshake, introduction and admission.
    pub(crate) rate: f64,
    /// From the command that revokes a device until it has no link any more.
    pub(crate) cut: Duration,
    /// From the start of a relay that takes the place of the last one until all others have a link again.
    pub(crate) back: Duration,
}

pub(crate) fn measure(devices: usize) -> io::Result<Links> {
    let directory = tempfile::tempdir()?;
    let server = free_address()?;
    let fleet = Fleet::init(Path::new(RELAY), directory.path(), server, &[])?;
    let relay = fleet.run()?;
    let identities = enrol(&fleet, directory.path(), devices + 1)?;
    let (first, others) = identities.split_first().ok_or_else(|| io::Error::other("no devices"))?;

    // What the relay needs for one, be there many or not, it has then.
    let first = Device::start(server, first)?;
    first.wait_for(|device| device.links() > Some(0))?;
    let (cpu, resident) = (relay.cpu()?, relay.resident()?);
    let others = others.iter().map(|identity| Device::start(server, identity)).collect::<io::Result<Vec<_>>>()?;
    others.iter().try_for_each(|device| device.wait_for(|device| device.links() > Some(0)))?;
    let (cpu, resident) = (relay.cpu()? - cpu, relay.resident()?.saturating_sub(resident));

    let start = Instant::now();
    fleet.ask(&["revoke", "device-0"])?;
    first.wait_for(|device| device.links().is_none())?;
    let cut = start.elapsed();

    let links: Vec<Option<u64>> = others.iter().map(Device::links).collect();
    drop(relay);
    let start = Instant::now();
    let relay = fleet.run()?;
    others.iter().zip(links).try_for_each(|(device, links)| device.wait_for(|device| device.links() > links))?;
    let back = start.elapsed();
    drop(relay);
    let count = devices as f64;
    Ok(Links { memory: resident as f64 / count, rate: count / cpu.as_secs_f64(), cut, back })
}

/// Devices that the relay knows: device-0, device-1 and so on.
fn enrol(fleet: &Fleet, directory: &Path, count: usize) -> io::Result<Vec<Identity>> {
    let [key, next] = KEYS.map(|file| fleet.directory().join(file));
    let pins = Keys::read(&key, &next).map_err(io::Error::other)?.pins();
    let (mut identities, mut table) = (Vec::new(), String::new());
    for number in 0..count {
        let name = format!("device-{number}");
        let key = Key::generate().map_err(io::Error::other)?;
        table += &format!("{name},{},\n", key.public());
        identities.push(identity(key, pins, &name)?);
    }
    let path = directory.join("devices.csv");
    fs::write(&path, table)?;
    fleet.ask(&["import", &path.display().to_string()])?;
    Ok(identities)
}

fn identity(key: Key, pins: Pins, name: &str) -> io::Result<Identity> {
    let name = Name::device(name).map_err(io::Error::other)?;
    Ok(Identity { key: Arc::new(key), pins, name: Some(name), join: None, instance: [0; 16] })
}

/// A device in this process.
struct Device(Handle);

impl Device {
    fn start(server: SocketAddr, identity: &Identity) -> io::Result<Self> {
        let mut config = Config::new(server.to_string().parse().map_err(io::Error::other)?);
        config.identity = Some(identity.clone());
        config.keep_trying = true;
        Handle::start(config).map(Self).map_err(io::Error::other)
    }

    /// How many links it has had, if it has one that the relay has answered on.
    fn links(&self) -> Option<u64> {
        let status = self.0.status().ok()?;
        (status.state == State::Listening).then_some(status.reconnects + 1)
    }

    fn wait_for(&self, reached: impl Fn(&Self) -> bool) -> io::Result<()> {
        let deadline = Instant::now() + LIMIT;
        while !reached(self) {
            if Instant::now() > deadline {
                let status = self.0.status().map_err(io::Error::other)?;
                return Err(io::Error::other(format!("a device waits for {LIMIT:?}: {status:?}")));
            }
            thread::sleep(PAUSE);
        }
        Ok(())
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        let _ = self.0.close_within(Duration::ZERO);
    }
}
