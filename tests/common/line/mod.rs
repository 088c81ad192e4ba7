//! A slow line between a device and its relay, each in a network namespace of its own (Linux only, as root).
//!
//! ```text
//! device: line == delay, in this process == line :router: uplink -- veth -- uplink :relay
//! ```
//!
//! The router has a FIFO toward each side, the kernel's own (`tbf`): packets wait there, and those that find it full are
//! lost. The kernels that this runs on have no `netem`, so packets are delayed by a thread that holds them. The FIFOs are
//! one hop away from both ends: a sender's own TCP would not let a FIFO on its own machine fill up.
//!
//! The namespaces have no names. They vanish with the last thread, process and socket in them, however this process ends.

mod delay;
mod namespace;
mod tun;

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use delay::Delay;
use namespace::{Namespace, run};
use tun::Tun;

/// The relay's address, as the device sees it.
pub(crate) const RELAY: Ipv4Addr = Ipv4Addr::new(10, 213, 2, 2);

/// The device's address, as the relay sees it.
#[allow(dead_code, reason = "the benchmark opens nothing there")]
pub(crate) const DEVICE: Ipv4Addr = Ipv4Addr::new(10, 213, 1, 2);

/// Bytes that may leave a FIFO at once: two packets with their headers, or no rate is reached.
const BURST: usize = 3100;

/// What holds for each direction of a line.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    /// Bytes a second.
    pub(crate) rate: u32,
    /// There and back again, through empty queues.
    pub(crate) round_trip: Duration,
    /// Bytes that wait at most.
    pub(crate) queue: usize,
}

/// One line; it carries nothing more once it is dropped.
#[derive(Debug)]
pub(crate) struct Line {
    device: Namespace,
    relay: Namespace,
    router: Namespace,
    delay: Delay,
    queue: usize,
}

impl Line {
    /// # Errors
    /// Such a line cannot be made here, and why.
    pub(crate) fn open(shape: Shape) -> io::Result<Self> {
        let [device, router, relay] = [Namespace::new()?, Namespace::new()?, Namespace::new()?];
        let (near, far) = (device.run(|| Tun::open("line"))?, router.run(|| Tun::open("line"))?);
        device.run(|| {
            up("lo")?;
            address("line", &format!("{DEVICE}/30"))?;
            run("ip", "route add default via 10.213.1.1")
        })?;
        router.run(|| {
            let peer = relay.path();
            run("ip", &format!("link add uplink type veth peer name uplink netns {}", peer.display()))?;
            address("line", "10.213.1.1/30")?;
            address("uplink", "10.213.2.1/30")?;
            fifos("add", shape.rate, shape.queue)?;
            fs::write("/proc/sys/net/ipv4/ip_forward", "1")
        })?;
        relay.run(|| {
            up("lo")?;
            address("uplink", &format!("{RELAY}/30"))?;
            run("ip", "route add default via 10.213.2.1")
        })?;
        let delay = Delay::start(near, far, shape.round_trip / 2)?;
        Ok(Self { device, relay, router, delay, queue: shape.queue })
    }

    /// From now on it takes so long there and back again, through empty queues.
    #[allow(dead_code, reason = "lines change only in tests")]
    pub(crate) fn set_round_trip(&self, round_trip: Duration) {
        self.delay.weather.delay.store((round_trip / 2).as_micros() as u64, Relaxed);
    }

    /// From now on it carries so many bytes a second.
    #[allow(dead_code, reason = "lines change only in tests")]
    pub(crate) fn set_rate(&self, rate: u32) -> io::Result<()> {
        self.router.run(|| fifos("change", rate, self.queue))
    }

    /// From now on one packet of so many is lost; none if this is 0.
    #[allow(dead_code, reason = "lines change only in tests")]
    pub(crate) fn lose_one_of(&self, packets: u64) {
        self.delay.weather.lost_of.store(packets, Relaxed);
    }

    /// What is opened or started in `work` is where the device is, and stays there.
    pub(crate) fn on_device_side<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.device.run(work)
    }

    /// What is opened or started in `work` is where the relay is, and stays there.
    pub(crate) fn on_relay_side<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.relay.run(work)
    }
}

/// Adds or changes the FIFOs of the router, which this thread's namespace is.
fn fifos(change: &str, rate: u32, queue: usize) -> io::Result<()> {
    ["line", "uplink"].iter().try_for_each(|interface| {
        run("tc", &format!("qdisc {change} dev {interface} root tbf rate {rate}bps burst {BURST} limit {queue}"))
    })
}

fn address(interface: &str, address: &str) -> io::Result<()> {
    run("ip", &format!("address add {address} dev {interface}"))?;
    // A segment that is cut into packets only by the driver would pass the FIFO as one.
    run("ip", &format!("link set {interface} gso_max_segs 1"))?;
    up(interface)
}

fn up(interface: &str) -> io::Result<()> {
    run("ip", &format!("link set {interface} up"))
}
