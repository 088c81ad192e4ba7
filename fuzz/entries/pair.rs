//! A device and a relay, driven by bytes: each is an order, and what it needs follows it. In version 1 or in version 2.

use std::time::{Duration, Instant};

use tcpremote::address::Address;
use tcpremote::connection::device::Device;
use tcpremote::connection::relay::{Relay, Settings};
use tcpremote::connection::{Connection, Destination, Limits, Output, Protocol, QueueRule, Room, StreamKey};
use tcpremote::protocol::v2::Code;

/// Small enough that full queues and empty credit are met often.
const LIMITS: Limits = Limits {
    rule: QueueRule { queue: 4096, stall: Duration::from_secs(30) },
    window: 16 * 1024,
    streams: 20,
    open_rate: 50,
    budget: 512 * 1024,
    keepalive: Duration::from_secs(90),
};

struct Side<E> {
    connection: E,
    streams: Vec<StreamKey>,
    lost: bool,
}

impl<E: Connection> Side<E> {
    fn new(connection: E) -> Self {
        Self { connection, streams: Vec::new(), lost: false }
    }

    fn receive(&mut self, now: Instant, mut input: &[u8]) {
        if self.lost {
            return;
        }
        loop {
            match self.connection.receive(now, &mut input) {
                Ok(Some(delivery)) => {
                    // A byte of the payload says how much the socket takes.
                    let taken = usize::from(delivery.bytes[0]).min(delivery.bytes.len());
                    self.connection.delivered(now, delivery.stream, delivery.bytes, taken);
                }
                Ok(None) => return,
                Err(_) => return self.lose(now),
            }
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.connection.handle_pacing(now);
        if !self.lost && self.connection.handle_timeout(now).is_err() {
            self.lose(now);
        }
    }

    fn lose(&mut self, now: Instant) {
        self.lost = true;
        self.connection.handle_link_lost(now);
    }

    fn send(&mut self, now: Instant, key: StreamKey, count: usize) {
        if let Room::Free([mut room, ..]) = self.connection.reserve(key, count.is_multiple_of(2)) {
            let count = count.clamp(1, room.len());
            room[..count].fill(count as u8);
            self.connection.commit(now, key, count);
        }
    }

    fn take(&mut self, now: Instant, key: StreamKey, count: usize) {
        let count = count.min(self.connection.pending(key).len());
        self.connection.advance(now, key, count);
    }

    fn order(&mut self, now: Instant, order: u8, place: u8, count: usize) {
        let Some(&key) = self.streams.get(usize::from(place) % self.streams.len().max(1)) else { return };
        match order {
            0 => self.send(now, key, count),
            1 => self.take(now, key, count),
            2 => self.connection.handle_end(now, key),
            _ => self.connection.handle_failure(now, key, Code::Normal, "failed"),
        }
    }

    /// With no link and no end of time, nothing is left.
    fn wind_up(&mut self, mut now: Instant) {
        self.lose(now);
        drain(self);
        while let Some(at) = self.connection.poll_timeout() {
            now = now.max(at);
            self.connection.handle_timeout(now).expect("there is no link any more whose peer could fail");
            drain(self);
        }
        assert_eq!((self.connection.streams(), self.connection.counters().open), (0, 0));
    }
}

/// Moves up to `count` bytes of the link; a side that does not want input keeps the other waiting.
fn carry<A: Connection, B: Connection>(now: Instant, from: &mut Side<A>, to: &mut Side<B>, count: usize) {
    if to.connection.wants_input() && !from.lost {
        let bytes = from.connection.unsent();
        let bytes = bytes[..count.min(bytes.len())].to_vec();
        from.connection.advance_link(now, bytes.len());
        to.receive(now, &bytes);
    }
}

/// Runs the orders in `data`, in version 1.
pub(crate) fn run_v1(data: &[u8]) {
    run(Protocol::V1, data);
}

/// Runs the orders in `data`, in version 2.
pub(crate) fn run_v2(data: &[u8]) {
    run(Protocol::V2, data);
}

fn run(protocol: Protocol, data: &[u8]) {
    let mut now = Instant::now();
    let service: Destination = "127.0.0.1:22".parse::<Address>().expect("an address").into();
    let mut device = Side::new(Device::new(protocol, LIMITS));
    let half_close = Duration::from_secs(1);
    let settings = Settings { protocol, min_protocol: Protocol::V1, half_close, limits: LIMITS };
    let mut relay = Side::new(Relay::new(now, settings));
    let mut data = data.iter().copied();
    while let Some(order) = data.next() {
        let (place, high, low) = (data.next().unwrap_or(0), data.next().unwrap_or(0), data.next().unwrap_or(0));
        let count = usize::from(u16::from_be_bytes([high, low]));
        match order % 16 {
            0 if relay.connection.is_ready() && !relay.lost => {
                for _ in 0..=place {
                    relay.streams.extend(relay.connection.open(now, service.clone(), None));
                }
            }
            0 | 1 => carry(now, &mut device, &mut relay, count),
            2 => carry(now, &mut relay, &mut device, count),
            3..=6 => relay.order(now, order % 16 - 3, place, count),
            7..=10 => device.order(now, order % 16 - 7, place, count),
            11 => {
                if let Some(&key) = device.streams.get(usize::from(place)) {
                    device.connection.handle_connected(now, key);
                }
            }
            12 => {
                now += Duration::from_millis(count as u64);
                device.handle_timeout(now);
                relay.handle_timeout(now);
            }
            13 => device.receive(now, &data.by_ref().take(usize::from(place)).collect::<Vec<_>>()),
            14 => relay.receive(now, &data.by_ref().take(usize::from(place)).collect::<Vec<_>>()),
            _ if place % 2 == 0 => device.connection.close(now),
            _ => relay.connection.close(now),
        }
        drain(&mut device);
        drain(&mut relay);
        assert!(device.connection.unsent().len() < 1 << 20 && relay.connection.unsent().len() < 1 << 20);
    }
    device.wind_up(now);
    relay.wind_up(now);
}

/// A device's streams begin with Connect, and a relay's with [`Relay::open`].
fn drain(side: &mut Side<impl Connection>) {
    while let Some(output) = side.connection.poll_output() {
        match output {
            Output::Connect { stream, .. } => side.streams.push(stream),
            Output::Finish { stream } | Output::Reset { stream, .. } | Output::Gone { stream } => {
                end(&mut side.streams, stream);
            }
            Output::Listening
            | Output::Presented
            | Output::Version(_)
            | Output::Introduced(_)
            | Output::Malformed { .. }
            | Output::EarlyDropped { .. }
            | Output::Opened { .. }
            | Output::Connected { .. }
            | Output::ShutdownWrite { .. }
            | Output::GoAway(_) => {}
        }
    }
}

/// Every stream ends exactly once.
fn end(streams: &mut Vec<StreamKey>, stream: StreamKey) {
    let place = streams.iter().position(|&key| key == stream).expect("a stream that is there");
    streams.remove(place);
}
