//! Which versions of the protocol the two ends may speak: ours, held to version 1 or not.

use std::net::SocketAddr;
use std::thread;

use tcpremote::connection::Protocol;
use tcpremote::device::EventKind;

use super::device::Device;
use super::relay::Relay;

/// A device and a relay, and the newest version that each may speak.
#[derive(Clone, Copy, Debug)]
pub struct Pairing {
    pub device: Protocol,
    pub relay: Protocol,
}

impl Pairing {
    pub const OLD: Self = Self { device: Protocol::V1, relay: Protocol::V1 };
    pub const OLD_DEVICE: Self = Self { device: Protocol::V1, relay: Protocol::V2 };
    pub const OLD_RELAY: Self = Self { device: Protocol::V2, relay: Protocol::V1 };
    pub const NEW: Self = Self { device: Protocol::V2, relay: Protocol::V2 };

    pub const ALL: [Self; 4] = [Self::OLD, Self::OLD_DEVICE, Self::OLD_RELAY, Self::NEW];
    /// Those that speak version 1 with each other.
    pub const OF_VERSION_1: [Self; 3] = [Self::OLD, Self::OLD_DEVICE, Self::OLD_RELAY];

    /// Runs the test for each of these, all at the same time: for tests that mostly wait.
    pub fn each(pairings: &[Self], test: fn(Self)) {
        let running = pairings.iter().map(|&pairing| {
            let named = thread::Builder::new().name(format!("{pairing:?}"));
            named.spawn(move || test(pairing)).unwrap()
        });
        let results: Vec<_> = running.collect::<Vec<_>>().into_iter().map(thread::JoinHandle::join).collect();
        for (pairing, result) in pairings.iter().zip(results) {
            assert!(result.is_ok(), "with {pairing:?}");
        }
    }

    /// The version that the two agree on.
    pub fn version(self) -> u8 {
        if self.device == Protocol::V2 && self.relay == Protocol::V2 { 2 } else { 1 }
    }

    /// A relay, its device, and where clients connect for each of the services.
    pub fn start(self, services: &[SocketAddr]) -> (Relay, Device, Vec<SocketAddr>) {
        self.start_with(&[], services)
    }

    /// The same, with options on the relay's command line.
    pub fn start_with(self, options: &[&str], services: &[SocketAddr]) -> (Relay, Device, Vec<SocketAddr>) {
        let services: Vec<_> = services.iter().map(ToString::to_string).collect();
        let services: Vec<_> = services.iter().map(String::as_str).collect();
        let relay = Relay::start_with(&[self.options(), options].concat(), &services);
        let device = self.listening(relay.device_addr());
        let clients = relay.client_addrs();
        (relay, device, clients)
    }

    /// What the relay's command line says of its version.
    pub fn options(self) -> &'static [&'static str] {
        match self.relay {
            Protocol::V1 => &["--protocol", "1"],
            Protocol::V2 => &[],
        }
    }

    /// A device whose relay has answered.
    pub fn listening(self, relay: SocketAddr) -> Device {
        let mut device = Device::start_with(relay, |config| config.protocol = self.device);
        device.wait_for(EventKind::Listening);
        device
    }
}

/// Makes four tests of each function named: one for every [`Pairing`].
#[macro_export]
macro_rules! in_every_pairing {
    ($($test:ident),* $(,)?) => {
        $(mod $test {
            use $crate::common::pairing::Pairing;

            #[test]
            fn both_of_version_1() {
                super::$test(Pairing::OLD);
            }

            #[test]
            fn device_of_version_1() {
                super::$test(Pairing::OLD_DEVICE);
            }

            #[test]
            fn relay_of_version_1() {
                super::$test(Pairing::OLD_RELAY);
            }

            #[test]
            fn both_of_version_2() {
                super::$test(Pairing::NEW);
            }
        })*
    };
}
