//! One direction of a TCP connection: latency, rate, capacity, any segmentation, FIN and RST.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
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

/// A handle of it: one end writes, the other reads.
#[derive(Clone, Debug)]
pub(crate) struct Pipe(Rc<RefCell<State>>);

#[derive(Debug)]
struct State {
    segments: VecDeque<Segment>,
    held: usize,
    /// Bytes that were ever written, and read.
    written: u64,
    taken: u64,
    capacity: usize,
    latency: Duration,
    /// Bytes a second that pass the narrowest place on the way, and until when it is busy.
    rate: Option<u64>,
    busy_until: Duration,
    /// It is not writable while so much of what was written has not left (TCP_NOTSENT_LOWAT).
    low_water: usize,
    /// No write moves more than this at once, nor does a program's read.
    grain: usize,
    newest: Duration,
    blocked_until: Duration,
    /// When FIN arrives, and RST, perhaps behind it.
    fin: Option<Duration>,
    rst: Option<Duration>,
    /// Where urgent bytes stand, if there are any: a socket's read stops before one that is not its first.
    urgent: Option<VecDeque<u64>>,
    /// The reader is gone: what is written vanishes.
    sink: bool,
    /// What had arrived when it went.
    lost: u64,
}

#[derive(Debug)]
struct Segment {
    leaves: Duration,
    arrival: Duration,
    bytes: Vec<u8>,
    head: usize,
    /// What was written up to its last byte.
    end: u64,
}

impl Pipe {
    pub(crate) fn new(capacity: usize, latency: Duration, grain: usize) -> Self {
        Self(Rc::new(RefCell::new(State {
            segments: VecDeque::new(),
            held: 0,
            written: 0,
            taken: 0,
            capacity,
            latency,
            rate: None,
            busy_until: Duration::ZERO,
            low_water: usize::MAX,
            grain,
            newest: Duration::ZERO,
            blocked_until: Duration::ZERO,
            fin: None,
            rst: None,
            urgent: None,
            sink: false,
            lost: 0,
        })))
    }

    /// Urgent bytes may stand among what is written.
    pub(crate) fn with_urgent_bytes(self) -> Self {
        self.0.borrow_mut().urgent = Some(VecDeque::new());
        self
    }

    /// From now on the way is so long and so wide. What was written before is not affected, and never overtaken.
    pub(crate) fn set_line(&self, latency: Duration, rate: u64) {
        let mut state = self.0.borrow_mut();
        state.latency = latency;
        state.rate = Some(rate);
    }

    /// From now on it is writable while less than that has not left.
    pub(crate) fn set_low_water(&self, low_water: u32) {
        self.0.borrow_mut().low_water = low_water as usize;
    }

    /// Whether one that was full is writable again: Linux says so below half of the mark.
    pub(crate) fn is_writable_again(&self, now: Duration) -> bool {
        let state = self.0.borrow();
        self.room(now) > 0 && state.unsent(now) < state.low_water.div_ceil(2)
    }

    /// Bytes that were written and not read.
    pub(crate) fn held(&self) -> usize {
        self.0.borrow().held
    }

    /// How many bytes a write may move now.
    pub(crate) fn room(&self, now: Duration) -> usize {
        let state = self.0.borrow();
        match now {
            _ if state.sink => usize::MAX,
            now if now < state.blocked_until => 0,
            _ => state.room(now),
        }
    }

    /// How many of `bytes` were taken; 0 is "would block".
    pub(crate) fn write(&self, random: &mut Random, now: Duration, bytes: &[u8]) -> usize {
        let state = &mut *self.0.borrow_mut();
        assert!(state.fin.is_none() && state.rst.is_none(), "no write behind the end");
        if state.sink {
            return bytes.len();
        }
        let free = state.room(now).min(bytes.len());
        if free == 0 || now < state.blocked_until {
            return 0;
        }
        let count = if random.chance(20) { random.between(1, free as u64) as usize } else { free }.min(state.grain);
        if count < bytes.len() && random.chance(30) {
            state.blocked_until = now + Duration::from_micros(random.magnitude(20_000));
        }
        match state.rate {
            None => {
                let jitter = Duration::from_nanos(random.below(state.latency.as_nanos() as u64 / 4 + 1));
                state.send(now, now + state.latency + jitter, &bytes[..count]);
            }
            Some(rate) => {
                for packet in bytes[..count].chunks(PACKET) {
                    let time = Duration::from_secs_f64(packet.len() as f64 / rate as f64);
                    state.busy_until = state.busy_until.max(now) + time;
                    state.send(state.busy_until, state.busy_until + state.latency, packet);
                }
            }
        }
        state.held += count;
        if let Some(urgent) = &mut state.urgent
            && random.chance(3)
        {
            urgent.push_back(state.written);
        }
        count
    }

    /// Takes what has arrived, at most a buffer full, at times less.
    pub(crate) fn read(&self, random: &mut Random, now: Duration, buffer: &mut [u8]) -> Read {
        let state = &mut *self.0.borrow_mut();
        let most = buffer.len().min(state.grain);
        let most = if random.chance(10) { random.between(1, most as u64) as usize } else { most };
        state.take(now, &mut buffer[..most])
    }

    /// Takes what has arrived as a kernel's socket does: less than a buffer full only where there is no more, or before an
    /// urgent byte.
    pub(crate) fn read_fully(&self, now: Duration, buffer: &mut [u8]) -> Read {
        let state = &mut *self.0.borrow_mut();
        let mut most = buffer.len();
        if let Some(urgent) = &mut state.urgent {
            while urgent.front().is_some_and(|&at| at <= state.taken) {
                urgent.pop_front();
            }
            if let Some(at) = urgent.front() {
                most = most.min((at - state.taken) as usize);
            }
        }
        state.take(now, &mut buffer[..most])
    }

    pub(crate) fn finish(&self, now: Duration) {
        let state = &mut *self.0.borrow_mut();
        if state.fin.is_none() && state.rst.is_none() {
            state.fin = Some(state.newest.max(now + state.latency));
        }
    }

    /// A RST may destroy what its receiver has not read, unless it has FIN behind it already.
    pub(crate) fn reset(&self, random: &mut Random, now: Duration) {
        let state = &mut *self.0.borrow_mut();
        if state.rst.is_none() {
            state.rst = Some(state.newest.max(now + state.latency));
            if state.fin.is_none() && random.chance(50) {
                state.clear();
            }
        }
    }

    /// The reader reads no more, and everything that is written vanishes.
    pub(crate) fn sink(&self) {
        let state = &mut *self.0.borrow_mut();
        state.sink = true;
        state.clear();
    }

    /// The same, and what has arrived by then is counted.
    pub(crate) fn leave(&self, now: Duration) {
        if !self.is_sunk() {
            let lost = self.arrived(now) - self.0.borrow().taken;
            self.0.borrow_mut().lost = lost;
        }
        self.sink();
    }

    /// Bytes that were there to be read when the reader left.
    pub(crate) fn lost(&self) -> u64 {
        self.0.borrow().lost
    }

    pub(crate) fn is_sunk(&self) -> bool {
        self.0.borrow().sink
    }

    /// Bytes that were ever written.
    pub(crate) fn written(&self) -> u64 {
        self.0.borrow().written
    }

    /// Bytes that ever arrived.
    pub(crate) fn arrived(&self, now: Duration) -> u64 {
        let state = self.0.borrow();
        let count = state.segments.partition_point(|segment| segment.arrival <= now);
        if count == 0 { state.taken } else { state.segments[count - 1].end }
    }

    pub(crate) fn has_arrived(&self, now: Duration) -> bool {
        self.0.borrow().segments.front().is_some_and(|segment| segment.arrival <= now)
    }

    /// Whether an urgent byte is there that no read has passed.
    pub(crate) fn is_urgent(&self, now: Duration) -> bool {
        let arrived = self.arrived(now);
        self.0.borrow().urgent.iter().flatten().any(|&at| at <= arrived)
    }

    pub(crate) fn is_finished(&self, now: Duration) -> bool {
        self.0.borrow().fin.is_some_and(|at| at <= now)
    }

    pub(crate) fn is_reset(&self, now: Duration) -> bool {
        self.0.borrow().rst.is_some_and(|at| at <= now)
    }

    /// Whether its writer has reset it.
    pub(crate) fn is_cut(&self) -> bool {
        self.0.borrow().rst.is_some()
    }

    pub(crate) fn is_ended(&self) -> bool {
        let state = self.0.borrow();
        state.fin.is_some() || state.rst.is_some()
    }

    /// When something changes by itself.
    pub(crate) fn next_event(&self, now: Duration) -> Option<Duration> {
        let state = self.0.borrow();
        let arrived = state.segments.partition_point(|segment| segment.arrival <= now);
        let arrival = state.segments.get(arrived).map(|segment| segment.arrival);
        let leaves = state.segments.iter().map(|segment| segment.leaves).find(|&at| at > now);
        let leaves = leaves.filter(|_| state.low_water < usize::MAX);
        [arrival, leaves, state.fin, state.rst, Some(state.blocked_until)]
            .into_iter()
            .flatten()
            .filter(|&at| at > now)
            .min()
    }
}

impl State {
    /// What a write may bring now: packets are begun while less than the low-water mark has not left.
    fn room(&self, now: Duration) -> usize {
        let below = self.low_water.saturating_sub(self.unsent(now));
        (self.capacity - self.held).min(below.div_ceil(PACKET).saturating_mul(PACKET))
    }

    fn unsent(&self, now: Duration) -> usize {
        self.segments.iter().rev().take_while(|segment| segment.leaves > now).map(|segment| segment.bytes.len()).sum()
    }

    fn send(&mut self, leaves: Duration, arrival: Duration, bytes: &[u8]) {
        self.newest = self.newest.max(arrival);
        self.written += bytes.len() as u64;
        let (arrival, end) = (self.newest, self.written);
        self.segments.push_back(Segment { leaves, arrival, bytes: bytes.to_vec(), head: 0, end });
    }

    fn take(&mut self, now: Duration, buffer: &mut [u8]) -> Read {
        let mut count = 0;
        while count < buffer.len()
            && let Some(segment) = self.segments.front_mut().filter(|segment| segment.arrival <= now)
        {
            let bytes = &segment.bytes[segment.head..];
            let taken = bytes.len().min(buffer.len() - count);
            buffer[count..count + taken].copy_from_slice(&bytes[..taken]);
            segment.head += taken;
            count += taken;
            if segment.head == segment.bytes.len() {
                self.segments.pop_front();
            }
        }
        self.held -= count;
        self.taken += count as u64;
        let has_come = |at: Option<Duration>| at.is_some_and(|at| at <= now) && self.segments.is_empty();
        match count {
            0 if has_come(self.rst) => Read::Reset,
            0 if has_come(self.fin) => Read::End,
            0 => Read::Blocked,
            _ => Read::Bytes(count),
        }
    }

    fn clear(&mut self) {
        self.segments.clear();
        self.taken = self.written;
        self.held = 0;
    }
}

/// Both directions between a driver and a client or a service.
#[derive(Debug)]
pub(crate) struct Connection {
    /// From the client or service to the driver.
    pub(crate) inward: Pipe,
    pub(crate) outward: Pipe,
}

impl Connection {
    pub(crate) fn new(inward: Pipe, outward: Pipe) -> Self {
        Self { inward, outward }
    }

    pub(crate) fn next_event(&self, now: Duration) -> Option<Duration> {
        [self.inward.next_event(now), self.outward.next_event(now)].into_iter().flatten().min()
    }

    /// The driver has ended it, and reads no more.
    pub(crate) fn is_released(&self) -> bool {
        self.outward.is_ended() && self.inward.is_sunk()
    }

    /// The driver ends it with FIN and reads no more.
    pub(crate) fn finish(&self, now: Duration) {
        self.outward.finish(now);
        self.inward.sink();
    }
}
