//! Our device, started in this process.

use std::fmt::Debug;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use tcpremote::address::Address;
use tcpremote::device::{Config, Event, EventKind, Handle, State, Status};

use super::{DEADLINE, eventually};

/// A tunnel whose events the test takes.
#[derive(Debug)]
pub struct Device {
    pub handle: Handle,
    /// Every event that was taken so far.
    pub events: Vec<Event>,
}

impl Device {
    /// Begins to connect to the relay. A link that is lost is the end, unless configured otherwise.
    pub fn start(relay: SocketAddr) -> Self {
        Self::start_with(relay, |_| {})
    }

    pub fn start_with(relay: SocketAddr, configure: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::new(Address::new(&relay.ip().to_string(), relay.port()).unwrap());
        config.reconnect = false;
        configure(&mut config);
        let handle = Handle::start(config).unwrap();
        Self { handle, events: Vec::new() }
    }

    pub fn status(&self) -> Status {
        self.handle.status().unwrap()
    }

    /// The next event of this kind; those before it are passed over.
    pub fn wait_for(&mut self, kind: EventKind) -> Event {
        self.wait_for_either(kind, kind, DEADLINE)
    }

    /// The next event of either kind.
    pub fn wait_for_either(&mut self, one: EventKind, other: EventKind, limit: Duration) -> Event {
        loop {
            if let Some(event) = self.handle.next_event().unwrap() {
                self.events.push(event.clone());
                if event.kind == one || event.kind == other {
                    return event;
                }
                continue;
            }
            let waited = self.handle.wait(Some(limit));
            assert!(
                matches!(waited, Ok(tcpremote::device::Wait::Ready | tcpremote::device::Wait::Interrupted)),
                "neither {one:?} nor {other:?}, but {waited:?} after {:?}",
                self.events
            );
        }
    }

    /// The status shows no client any more.
    pub fn wait_until_idle(&self, limit: Duration) {
        eventually("every client of the device is gone", limit, || self.status().clients == 0);
    }

    /// The status shows this. Its counters follow what has happened by a turn of the device's loop, so bytes may have
    /// arrived that are not counted yet.
    #[track_caller]
    pub fn wait_until_status<T: PartialEq + Debug>(&self, part: impl Fn(&Status) -> T, expected: T) {
        let mut seen = None;
        let began = Instant::now();
        while seen.as_ref() != Some(&expected) {
            assert!(began.elapsed() < DEADLINE, "expected {expected:?} in the status, but there is {seen:?}");
            thread::sleep(Duration::from_millis(1));
            seen = Some(part(&self.status()));
        }
    }

    pub fn is_listening(&self) -> bool {
        self.status().state == State::Listening
    }
}
