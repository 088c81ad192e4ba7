//! One direction of a TCP connection: latency, rate, capacity, any segmentation, FIN and RST.

use std::collections::VecDeque;
use std::time::Duration;

use crate::random::Random;

/// Bytes that leave a line with a rate at once.
const PACKET: usize = 1460;

/// What a read gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Read {
    Bytes(usize),
    Blocked,
    End,
    Reset,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    Fin,
    Rst,
}

#[derive(Debug)]
pub(crate) struct Pipe {
    segments: VecDeque<Segment>,
    held: usize,
    capacity: usize,
    latency: Duration,
    /// Bytes a second that pass the narrowest place on the way, and until when it is busy.
    rate: Option<u64>,
    busy_until: Duration,
    /// No write and no read moves more than this at once.
    grain: usize,
    newest: Duration,
    blocked_until: Duration,
    end: Option<(Duration, Ending)>,
    /// The reader is gone: what is written vanishes.
    sink: bool,
}

#[derive(Debug)]
struct Segment {
    arrival: Duration,
    bytes: Vec<u8>,
    head: usize,
}

impl Pipe {
    pub(crate) fn new(capacity: usize, latency: Duration, grain: usize) -> Self {
        Self {
            segments: VecDeque::new(),
            held: 0,
            capacity,
            latency,
            rate: None,
            busy_until: Duration::ZERO,
            grain,
            newest: Duration::ZERO,
            blocked_until: Duration::ZERO,
            end: None,
            sink: false,
        }
    }

    /// From now on the way is so long and so wide. What was written before is not affected, and never overtaken.
    pub(crate) fn set_line(&mut self, latency: Duration, rate: u64) {
        self.latency = latency;
        self.rate = Some(rate);
    }

    /// Bytes that were written and not read.
    pub(crate) fn held(&self) -> usize {
        self.held
    }

    /// How many bytes a write may move now.
    pub(crate) fn room(&self, now: Duration) -> usize {
        match now {
            _ if self.sink => usize::MAX,
            now if now < self.blocked_until => 0,
            _ => self.capacity - self.held,
        }
    }

    /// How many of `bytes` were taken; 0 is "would block".
    pub(crate) fn write(&mut self, random: &mut Random, now: Duration, bytes: &[u8]) -> usize {
        assert!(self.end.is_none(), "nobody writes behind the end");
        if self.sink {
            return bytes.len();
        }
        let free = (self.capacity - self.held).min(bytes.len());
        if free == 0 || now < self.blocked_until {
            return 0;
        }
        let count = if random.chance(20) { random.between(1, free as u64) as usize } else { free }.min(self.grain);
        if count < bytes.len() && random.chance(30) {
            self.blocked_until = now + Duration::from_micros(random.magnitude(20_000));
        }
        match self.rate {
            None => {
                let jitter = Duration::from_nanos(random.below(self.latency.as_nanos() as u64 / 4 + 1));
                self.send(now + self.latency + jitter, &bytes[..count]);
            }
            Some(rate) => {
                for packet in bytes[..count].chunks(PACKET) {
                    let time = Duration::from_secs_f64(packet.len() as f64 / rate as f64);
                    self.busy_until = self.busy_until.max(now) + time;
                    self.send(self.busy_until + self.latency, packet);
                }
            }
        }
        self.held += count;
        count
    }

    fn send(&mut self, arrival: Duration, bytes: &[u8]) {
        self.newest = self.newest.max(arrival);
        self.segments.push_back(Segment { arrival: self.newest, bytes: bytes.to_vec(), head: 0 });
    }

    /// Takes what has arrived, at most a buffer full, at times less.
    pub(crate) fn read(&mut self, random: &mut Random, now: Duration, buffer: &mut [u8]) -> Read {
        let most = buffer.len().min(self.grain);
        let most = if random.chance(10) { random.between(1, most as u64) as usize } else { most };
        let mut count = 0;
        while let Some(segment) = self.segments.front_mut().filter(|segment| segment.arrival <= now) {
            let bytes = &segment.bytes[segment.head..];
            let taken = bytes.len().min(most - count);
            buffer[count..count + taken].copy_from_slice(&bytes[..taken]);
            segment.head += taken;
            count += taken;
            if segment.head == segment.bytes.len() {
                self.segments.pop_front();
            }
            if count == most {
                break;
            }
        }
        self.held -= count;
        match self.end {
            _ if count > 0 => Read::Bytes(count),
            Some((at, end)) if at <= now && self.segments.is_empty() => match end {
                Ending::Fin => Read::End,
                Ending::Rst => Read::Reset,
            },
            _ => Read::Blocked,
        }
    }

    pub(crate) fn finish(&mut self, now: Duration) {
        if self.end.is_none() {
            self.end = Some((self.newest.max(now + self.latency), Ending::Fin));
        }
    }

    /// A RST may destroy what its receiver has not read.
    pub(crate) fn reset(&mut self, random: &mut Random, now: Duration) {
        if !matches!(self.end, Some((_, Ending::Rst))) {
            self.end = Some((self.newest.max(now + self.latency), Ending::Rst));
            if random.chance(50) {
                self.segments.clear();
                self.held = 0;
            }
        }
    }

    /// The reader reads no more, and everything that is written vanishes.
    pub(crate) fn sink(&mut self) {
        self.sink = true;
        self.segments.clear();
        self.held = 0;
    }

    pub(crate) fn has_arrived(&self, now: Duration) -> bool {
        self.segments.front().is_some_and(|segment| segment.arrival <= now)
    }

    pub(crate) fn is_reset(&self, now: Duration) -> bool {
        matches!(self.end, Some((at, Ending::Rst)) if at <= now)
    }

    pub(crate) fn is_ended(&self) -> bool {
        self.end.is_some()
    }

    /// When something changes by itself.
    pub(crate) fn next_event(&self, now: Duration) -> Option<Duration> {
        let arrival = self.segments.front().map(|segment| segment.arrival);
        let end = self.end.map(|(at, _)| at);
        [arrival, end, Some(self.blocked_until)].into_iter().flatten().filter(|&at| at > now).min()
    }
}

/// Both directions between a shell and a client or a service.
#[derive(Debug)]
pub(crate) struct Connection {
    /// From the client or service to the shell.
    pub(crate) inward: Pipe,
    pub(crate) outward: Pipe,
    /// The shell has ended it.
    pub(crate) released: bool,
}

impl Connection {
    pub(crate) fn new(inward: Pipe, outward: Pipe) -> Self {
        Self { inward, outward, released: false }
    }

    pub(crate) fn next_event(&self, now: Duration) -> Option<Duration> {
        [self.inward.next_event(now), self.outward.next_event(now)].into_iter().flatten().min()
    }

    /// The shell ends it with FIN and reads no more.
    pub(crate) fn finish(&mut self, now: Duration) {
        self.outward.finish(now);
        self.inward.sink();
        self.released = true;
    }

    /// The shell ends it with RST.
    pub(crate) fn reset(&mut self, random: &mut Random, now: Duration) {
        self.outward.reset(random, now);
        self.inward.sink();
        self.released = true;
    }
}
