//! One direction of a link as its sender finds it: a kernel that takes so much, and a line with one queue.

use std::collections::VecDeque;
use std::time::Duration;

use crate::random::Random;

/// Bytes that cross the line together.
const PACKET: usize = 1448;
/// What a kernel holds before it is on its way, where no mark was set.
const LOW_WATER: u32 = 128 * 1024;
/// The time in which cross traffic fills the queue, again and again.
const SAW: Duration = Duration::from_secs(3);

/// What a line is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Line {
    /// Bytes a second.
    pub(crate) rate: f64,
    /// From one end to the other.
    pub(crate) delay: Duration,
    /// Bytes that the queue holds. Nothing is lost: what comes beyond waits in the kernel.
    pub(crate) queue: f64,
    /// The most by which a packet is late by chance.
    pub(crate) jitter: Duration,
    /// Cross traffic keeps the queue full, and gives way by a third each time that it is.
    pub(crate) is_shared: bool,
}

#[derive(Debug)]
pub(crate) struct Path {
    pub(crate) line: Line,
    random: Random,
    /// When the line has sent all that it was given.
    busy_until: Duration,
    filled_at: Duration,
    newest: Duration,
    packets: VecDeque<(Duration, Vec<u8>)>,
    low_water: u32,
    /// When it took less than it was given: until when it takes nothing.
    full_until: Duration,
}

impl Path {
    pub(crate) fn new(line: Line, random: Random) -> Self {
        let (busy_until, filled_at, newest, full_until) = Default::default();
        let packets = VecDeque::new();
        Self { line, random, busy_until, filled_at, newest, packets, low_water: LOW_WATER, full_until }
    }

    /// Sets how much the kernel is to hold before that is on its way.
    pub(crate) fn set_low_water(&mut self, low_water: Option<u32>) {
        self.low_water = low_water.unwrap_or(LOW_WATER);
    }

    pub(crate) fn is_writable(&self, now: Duration) -> bool {
        self.full_until <= now
    }

    /// How many of the bytes the kernel took.
    pub(crate) fn write(&mut self, now: Duration, bytes: &[u8]) -> usize {
        self.fill(now);
        let time = |bytes: f64| Duration::from_secs_f64(bytes.max(0.0) / self.line.rate);
        let backlog = self.busy_until.saturating_sub(now).as_secs_f64() * self.line.rate;
        let low_water = f64::from(self.low_water);
        let room = self.line.queue + low_water - backlog;
        let count = (room.max(0.0) as usize).min(bytes.len());
        if count < bytes.len() {
            // Linux says so when half of it is on its way.
            self.full_until = now + time(backlog + count as f64 - self.line.queue - low_water / 2.0) + time(1.0);
        }
        for packet in bytes[..count].chunks(PACKET) {
            self.busy_until = self.busy_until.max(now) + time(packet.len() as f64);
            let late = Duration::from_nanos(self.random.below(self.line.jitter.as_nanos() as u64 + 1));
            self.newest = self.newest.max(self.busy_until + self.line.delay + late);
            self.packets.push_back((self.newest, packet.to_vec()));
        }
        count
    }

    /// What cross traffic has put into the queue meanwhile.
    fn fill(&mut self, now: Duration) {
        let since = now - std::mem::replace(&mut self.filled_at, now);
        let level = 0.65 + 0.35 * (now.as_secs_f64() / SAW.as_secs_f64()).fract();
        let full = now + Duration::from_secs_f64(level * self.line.queue / self.line.rate);
        if self.line.is_shared && self.busy_until < full {
            self.busy_until = full.min(self.busy_until.max(now) + since);
        }
    }

    /// What has arrived.
    pub(crate) fn read(&mut self, now: Duration) -> Vec<u8> {
        let mut arrived = Vec::new();
        while self.packets.front().is_some_and(|packet| packet.0 <= now)
            && let Some((_, packet)) = self.packets.pop_front()
        {
            arrived.extend(packet);
        }
        arrived
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    /// When something changes by itself.
    pub(crate) fn next_event(&self, now: Duration) -> Option<Duration> {
        // What is not read yet waits for its reader.
        let arrival = self.packets.iter().map(|packet| packet.0).find(|&at| at > now);
        arrival.into_iter().chain(Some(self.full_until).filter(|&at| at > now)).min()
    }
}
