//! A device and a relay, driven by bytes: each is an order, and what it needs follows it. In version 1 or in version 2.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tcpremote::connection::device::{self, Device};
use tcpremote::connection::relay::{self, Relay, Settings};
use tcpremote::connection::{Endpoint, Limits, Protocol, QueueRule, Room, StreamKey};
use tcpremote::protocol::v2::Code;

/// Small enough that full queues and empty credit are met often.
const LIMITS: Limits = Limits {
    rule: QueueRule { queue: 4096, stall: Duration::from_secs(30) },
    window: 16 * 1024,
    streams: 20,
    open_rate: 50,
    budget: 512 * 1024,
};

struct Side<E> {
    endpoint: E,
    streams: Vec<StreamKey>,
    lost: bool,
}

impl<E: Endpoint> Side<E> {
    fn new(endpoint: E) -> Self {
        Self { endpoint, streams: Vec::new(), lost: false }
    }

    fn receive(&mut self, now: Instant, mut input: &[u8]) {
        if self.lost {
            return;
        }
        loop {
            match self.endpoint.receive(now, &mut input) {
                Ok(Some(delivery)) => {
                    // The socket takes as much as a byte of the payload tells.
                    let taken = usize::from(delivery.bytes[0]).min(delivery.bytes.len());
                    self.endpoint.delivered(now, delivery.stream, delivery.bytes, taken);
                }
                Ok(None) => return,
                Err(_) => return self.lose(now),
            }
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        if !self.lost && self.endpoint.handle_timeout(now).is_err() {
            self.lose(now);
        }
    }

    fn lose(&mut self, now: Instant) {
        self.lost = true;
        self.endpoint.handle_link_lost(now);
    }

    fn send(&mut self, now: Instant, key: StreamKey, count: usize) {
        if let Room::Free([mut room, ..]) = self.endpoint.reserve(key, count.is_multiple_of(2)) {
            let count = count.clamp(1, room.len());
            room[..count].fill(count as u8);
            self.endpoint.commit(now, key, count);
        }
    }

    fn take(&mut self, now: Instant, key: StreamKey, count: usize) {
        let count = count.min(self.endpoint.pending(key).len());
        self.endpoint.advance(now, key, count);
    }

    fn order(&mut self, now: Instant, order: u8, place: u8, count: usize) {
        let Some(&key) = self.streams.get(usize::from(place) % self.streams.len().max(1)) else { return };
        match order {
            0 => self.send(now, key, count),
            1 => self.take(now, key, count),
            2 => self.endpoint.handle_end(now, key),
            _ => self.endpoint.handle_failure(now, key, Code::Normal, "failed"),
        }
    }

    /// With no link and no end of time, nothing is left.
    fn wind_up(&mut self, mut now: Instant, mut drain: impl FnMut(&mut Self)) {
        self.lose(now);
        drain(self);
        while let Some(at) = self.endpoint.poll_timeout() {
            now = now.max(at);
            self.endpoint.handle_timeout(now).expect("there is no link any more whose peer could fail");
            drain(self);
        }
        assert_eq!((self.endpoint.streams(), self.endpoint.counters().open), (0, 0));
    }
}

/// Moves up to `count` bytes of the link; a side that does not want input keeps the other waiting.
fn carry<A: Endpoint, B: Endpoint>(now: Instant, from: &mut Side<A>, to: &mut Side<B>, count: usize) {
    if to.endpoint.wants_input() && !from.lost {
        let bytes = from.endpoint.unsent();
        let bytes = bytes[..count.min(bytes.len())].to_vec();
        from.endpoint.advance_link(now, bytes.len());
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
    let service = Arc::new("127.0.0.1:22".parse().expect("an address"));
    let mut device = Side::new(Device::new(protocol, LIMITS));
    let half_close = Duration::from_secs(1);
    let settings = Settings { protocol, min_protocol: Protocol::V1, half_close, limits: LIMITS };
    let mut relay = Side::new(Relay::new(now, settings));
    let mut data = data.iter().copied();
    while let Some(order) = data.next() {
        let (place, high, low) = (data.next().unwrap_or(0), data.next().unwrap_or(0), data.next().unwrap_or(0));
        let count = usize::from(u16::from_be_bytes([high, low]));
        match order % 16 {
            0 if relay.endpoint.is_ready() && !relay.lost => {
                for _ in 0..=place {
                    relay.streams.extend(relay.endpoint.open(now, &service, None));
                }
            }
            0 | 1 => carry(now, &mut device, &mut relay, count),
            2 => carry(now, &mut relay, &mut device, count),
            3..=6 => relay.order(now, order % 16 - 3, place, count),
            7..=10 => device.order(now, order % 16 - 7, place, count),
            11 => {
                if let Some(&key) = device.streams.get(usize::from(place)) {
                    device.endpoint.handle_connected(now, key);
                }
            }
            12 => {
                now += Duration::from_millis(count as u64);
                device.handle_timeout(now);
                relay.handle_timeout(now);
            }
            13 => device.receive(now, &data.by_ref().take(usize::from(place)).collect::<Vec<_>>()),
            14 => relay.receive(now, &data.by_ref().take(usize::from(place)).collect::<Vec<_>>()),
            _ if place % 2 == 0 => device.endpoint.close(now),
            _ => relay.endpoint.close(now),
        }
        drain_device(&mut device);
        drain_relay(&mut relay);
        assert!(device.endpoint.unsent().len() < 1 << 20 && relay.endpoint.unsent().len() < 1 << 20);
    }
    device.wind_up(now, drain_device);
    relay.wind_up(now, drain_relay);
}

fn drain_device(device: &mut Side<Device>) {
    while let Some(output) = device.endpoint.poll_output() {
        match output {
            device::Output::Connect { stream, .. } => device.streams.push(stream),
            device::Output::Finish { stream }
            | device::Output::Reset { stream, .. }
            | device::Output::Gone { stream } => end(&mut device.streams, stream),
            device::Output::Version(_)
            | device::Output::ShutdownWrite { .. }
            | device::Output::GoAway(_)
            | device::Output::Malformed { .. }
            | device::Output::EarlyDropped { .. } => {}
        }
    }
}

fn drain_relay(relay: &mut Side<Relay>) {
    while let Some(output) = relay.endpoint.poll_output() {
        match output {
            relay::Output::Finish { stream } | relay::Output::Reset { stream, .. } | relay::Output::Gone { stream } => {
                end(&mut relay.streams, stream);
            }
            relay::Output::Listening
            | relay::Output::Version(_)
            | relay::Output::Introduced(_)
            | relay::Output::Connected { .. }
            | relay::Output::ShutdownWrite { .. }
            | relay::Output::GoAway(_)
            | relay::Output::Opened { .. } => {}
        }
    }
}

/// Every stream ends exactly once.
fn end(streams: &mut Vec<StreamKey>, stream: StreamKey) {
    let place = streams.iter().position(|&key| key == stream).expect("a stream that is there");
    streams.remove(place);
}
