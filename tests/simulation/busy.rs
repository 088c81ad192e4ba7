//! Many streams on a line with a queue: it is to be busy, and its queue short. Both cores are real; of their sockets there
//! is only what they say and how fast they read.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use tcpremote::address::Address;
use tcpremote::connection::device::Device;
use tcpremote::connection::relay::{Relay, Settings};
use tcpremote::connection::{Connection, Destination, Limits, Output, Protocol, Room, StreamKey};

use crate::path::{Line, Path};
use crate::random::Random;

/// Of the two ends.
pub(crate) const RELAY: usize = 0;
pub(crate) const DEVICE: usize = 1;
/// A keystroke, and the pause behind its echo.
const KEY: u64 = 64;
const PAUSE: Duration = Duration::from_millis(50);
/// What a slow reader reads: 20 kB a second.
const SLOW: (usize, Duration) = (400, Duration::from_millis(20));
/// What bulk waits for beyond a round trip: a gate opens early by so much.
const GRAIN: Duration = Duration::from_millis(1);

/// What a stream is for. The first is always the one that echoes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Load {
    Echo,
    /// As much as the line gives, to the client.
    Download,
    /// The same to a client that is slow.
    SlowDownload,
    /// As much as the line gives, to the service.
    Upload,
}

/// One end: its core, and what its sockets have to say, by the number of the stream's client.
struct End<C> {
    core: C,
    base: Instant,
    /// By how much its clock is too fast.
    skew: f64,
    /// Its host is suspended until then, and was for so long before: its clock stood still.
    wakes_at: Duration,
    slept: Duration,
    keys: Vec<Option<StreamKey>>,
    /// Bytes that each socket has for the link, and has got from it.
    unsent: Vec<u64>,
    received: Vec<u64>,
    is_slow: Vec<bool>,
    /// Those whose streams have no credit.
    is_blocked: Vec<bool>,
    /// When the core wants to be called for its pacing, as far as was seen.
    pacing: Option<Instant>,
    /// Those whose sockets may be read.
    ready: VecDeque<usize>,
    next_slow_read: Duration,
}

impl<C: Connection> End<C> {
    fn new(core: impl Fn(Instant) -> C, skew: f64, streams: usize) -> Self {
        let base = Instant::now() + Duration::from_secs(1000);
        Self {
            core: core(base),
            base,
            skew,
            wakes_at: Duration::ZERO,
            slept: Duration::ZERO,
            keys: vec![None; streams],
            unsent: vec![0; streams],
            received: vec![0; streams],
            is_slow: vec![false; streams],
            is_blocked: vec![false; streams],
            pacing: None,
            ready: VecDeque::new(),
            next_slow_read: Duration::ZERO,
        }
    }

    fn instant(&self, now: Duration) -> Instant {
        self.base + (now - self.slept).mul_f64(1.0 + self.skew)
    }

    fn find(&self, key: StreamKey) -> usize {
        self.keys.iter().position(|&other| other == Some(key)).expect("a stream that is there")
    }

    fn say(&mut self, stream: usize, bytes: u64) {
        if self.unsent[stream] == 0 && self.keys[stream].is_some() {
            self.ready.push_back(stream);
        }
        self.unsent[stream] += bytes;
    }

    /// What [`Session`](tcpremote) does in a turn, but for the sockets; true if something moved.
    fn turn(&mut self, now: Duration, inward: &mut Path, outward: &mut Path) -> bool {
        if now < self.wakes_at {
            return false;
        }
        let instant = self.instant(now);
        let arrived = inward.read(now);
        let mut moved = !arrived.is_empty();
        let mut input = &arrived[..];
        while let Some(delivery) = self.core.receive(instant, &mut input).expect("the protocol is kept") {
            let stream = self.find(delivery.stream);
            let taken = if self.is_slow[stream] { 0 } else { delivery.bytes.len() };
            self.received[stream] += taken as u64;
            self.core.delivered(instant, delivery.stream, delivery.bytes, taken);
        }
        if now >= self.next_slow_read {
            self.next_slow_read = now + SLOW.1;
            for stream in (0..self.keys.len()).filter(|&stream| self.is_slow[stream]) {
                let Some(key) = self.keys[stream] else { continue };
                let count = self.core.pending(key).len().min(SLOW.0);
                self.core.advance(instant, key, count);
                self.received[stream] += count as u64;
            }
        }
        if self.core.poll_timeout().is_some_and(|at| at <= instant) {
            self.core.handle_timeout(instant).expect("the peer is in time");
            moved = true;
        }
        let round_trip = self.core.counters().round_trip;
        self.core.handle_pacing(instant);
        loop {
            while let Some(key) = self.core.poll_unblocked() {
                let stream = self.find(key);
                self.is_blocked[stream] = false;
                if self.unsent[stream] > 0 && !self.ready.contains(&stream) {
                    self.ready.push_back(stream);
                }
            }
            let read = self.read_sockets(instant);
            let wrote = self.write(now, instant, outward);
            if !read && !wrote {
                self.check_pacing(instant, round_trip);
                return moved;
            }
            moved = true;
        }
    }

    /// A frame keeps the next one back for a round trip at most, as it was known before the turn or is now.
    fn check_pacing(&mut self, now: Instant, before: Option<Duration>) {
        let pacing = self.core.poll_pacing();
        if pacing != self.pacing
            && let Some(at) = pacing
        {
            let most = before.max(self.core.counters().round_trip).unwrap_or_default() + GRAIN;
            assert!(at <= now + most, "bulk waits for {:?} where the round trip is {most:?}", at - now);
        }
        self.pacing = pacing;
    }

    fn read_sockets(&mut self, now: Instant) -> bool {
        let mut moved = false;
        for _ in 0..self.ready.len() {
            let Some(stream) = self.ready.pop_front() else { break };
            let Some(key) = self.keys[stream] else { continue };
            match self.core.reserve(key, false) {
                Room::Full => {
                    self.ready.push_front(stream);
                    break;
                }
                Room::Blocked => self.is_blocked[stream] = true,
                Room::Paced | Room::Unwanted => {}
                Room::Free(room) => {
                    let room: usize = room.iter().map(|payload| payload.len()).sum();
                    let count = (room as u64).min(self.unsent[stream]);
                    self.core.commit(now, key, count as usize);
                    self.unsent[stream] -= count;
                    moved = true;
                    if self.unsent[stream] > 0 {
                        self.ready.push_back(stream);
                    }
                }
            }
        }
        moved
    }

    fn write(&mut self, now: Duration, instant: Instant, outward: &mut Path) -> bool {
        let mut moved = false;
        while self.core.has_unsent() && outward.is_writable(now) {
            let count = outward.write(now, self.core.unsent());
            self.core.advance_link(instant, count);
            moved |= count > 0;
        }
        outward.set_low_water(self.core.link_low_water());
        moved
    }

    fn next_event(&self) -> Option<Duration> {
        let at = self.core.poll_timeout().into_iter().chain(self.core.poll_pacing()).min()?;
        // A clock that is too fast rings too early for us.
        let at = at.saturating_duration_since(self.base).div_f64(1.0 + self.skew) + Duration::from_nanos(2);
        Some((at + self.slept).max(self.wakes_at))
    }

    /// Whether a socket has something for the link, and the peer has not bounded its stream.
    fn is_busy(&self) -> bool {
        let mut sockets = self.unsent.iter().zip(&self.is_blocked).zip(&self.keys);
        sockets.any(|((&unsent, &is_blocked), key)| unsent > 0 && !is_blocked && key.is_some())
    }
}

/// A link, its clients and its services.
pub(crate) struct Busy {
    relay: End<Relay>,
    device: End<Device>,
    /// What the relay writes, then what the device writes.
    pub(crate) paths: [Path; 2],
    pub(crate) now: Duration,
    loads: Vec<Load>,
    is_open: bool,
    struck_at: Option<Duration>,
    next_key: Duration,
    echoes: Vec<Duration>,
}

/// What was seen for some time.
#[derive(Debug)]
pub(crate) struct Seen {
    /// The median echo, in milliseconds.
    pub(crate) echo: f64,
    /// Bytes a second that downloads moved, those to slow readers, and uploads.
    pub(crate) down: f64,
    pub(crate) slow: f64,
    pub(crate) up: f64,
}

impl Busy {
    /// Lines from the relay and from the device, and clocks that differ by so many millionths.
    pub(crate) fn new(lines: [Line; 2], skew: f64, loads: &[(Load, usize)]) -> Self {
        let mut all = vec![Load::Echo];
        all.extend(loads.iter().flat_map(|&(load, count)| std::iter::repeat_n(load, count)));
        let settings = |limits| Settings {
            protocol: Protocol::V2,
            min_protocol: Protocol::V2,
            half_close: Duration::from_secs(1),
            limits,
        };
        let skew = skew / 2e6;
        let relay = End::new(|now| Relay::new(now, settings(Limits::RELAY)), skew, all.len());
        let device = End::new(|_| Device::new(Protocol::V2, Limits::DEVICE), -skew, all.len());
        let paths = [Path::new(lines[RELAY], Random::new(1)), Path::new(lines[DEVICE], Random::new(2))];
        Self {
            relay,
            device,
            paths,
            now: Duration::ZERO,
            loads: all,
            is_open: false,
            struck_at: None,
            next_key: Duration::ZERO,
            echoes: Vec::new(),
        }
    }

    /// Lets so many seconds pass.
    pub(crate) fn pass(&mut self, seconds: f64) -> Seen {
        let [down, slow, up] = self.moved();
        self.echoes.clear();
        let end = self.now + Duration::from_secs_f64(seconds);
        while self.now < end {
            self.step(end);
        }
        self.echoes.sort_unstable();
        let echo = self.echoes.get(self.echoes.len() / 2).map_or(f64::INFINITY, |echo| echo.as_secs_f64() * 1e3);
        let after = self.moved();
        Seen {
            echo,
            down: (after[0] - down) as f64 / seconds,
            slow: (after[1] - slow) as f64 / seconds,
            up: (after[2] - up) as f64 / seconds,
        }
    }

    /// One end's host is suspended for so many seconds from now on; the link lives through it.
    pub(crate) fn suspend(&mut self, end: usize, seconds: f64) {
        let time = Duration::from_secs_f64(seconds);
        let (wakes_at, slept) = match end {
            RELAY => (&mut self.relay.wakes_at, &mut self.relay.slept),
            _ => (&mut self.device.wakes_at, &mut self.device.slept),
        };
        *wakes_at = self.now + time;
        *slept += time;
        self.pass(seconds);
    }

    fn moved(&self) -> [u64; 3] {
        let sum = |received: &[u64], load: Load| -> u64 {
            received.iter().zip(&self.loads).filter(|(_, other)| **other == load).map(|(count, _)| count).sum()
        };
        let (client, service) = (&self.relay.received, &self.device.received);
        [sum(client, Load::Download), sum(client, Load::SlowDownload), sum(service, Load::Upload)]
    }

    fn step(&mut self, end: Duration) {
        let now = self.now;
        let [there, back] = &mut self.paths;
        let mut moved = self.relay.turn(now, back, there) | self.device.turn(now, there, back);
        let is_awake = now >= self.relay.wakes_at && now >= self.device.wakes_at;
        if is_awake {
            moved |= self.carry_out(now);
            moved |= self.echo(now);
        }
        if moved {
            return;
        }
        let is_idle = self.paths.iter().all(Path::is_empty);
        let stuck = |is_busy: bool, pacing: Option<Instant>| is_busy && is_idle && pacing.is_none() && is_awake;
        let is_stuck = stuck(self.relay.is_busy(), self.relay.core.poll_pacing())
            || stuck(self.device.is_busy(), self.device.core.poll_pacing());
        assert!(!is_stuck, "bulk is ready, nothing is on its way, and no time will change that");
        let paths = self.paths.iter().filter_map(|path| path.next_event(now));
        let ends = [self.relay.next_event(), self.device.next_event()].into_iter().flatten();
        let slow = self.loads.contains(&Load::SlowDownload).then_some(self.relay.next_slow_read);
        let key = (self.struck_at.is_none() && self.is_open && is_awake).then_some(self.next_key);
        let next = paths.chain(ends).chain(slow).chain(key).min().unwrap_or(end);
        let wake = [self.relay.wakes_at, self.device.wakes_at].into_iter().filter(|&at| at > now).min();
        self.now = next.min(wake.unwrap_or(end)).max(now + Duration::from_micros(1)).min(end);
    }

    fn carry_out(&mut self, now: Duration) -> bool {
        let mut moved = false;
        if self.relay.core.is_ready() && !self.is_open {
            self.is_open = true;
            for stream in 0..self.loads.len() {
                let service = Address::new(&format!("c{stream}"), 1).expect("an address");
                self.relay.keys[stream] = self.relay.core.open(self.relay.instant(now), service.into(), None);
                self.relay.is_slow[stream] = self.loads[stream] == Load::SlowDownload;
            }
        }
        while let Some(output) = self.relay.core.poll_output() {
            moved = true;
            if let Output::Opened { stream, .. } = output {
                let number = self.relay.find(stream);
                if self.loads[number] == Load::Upload {
                    self.relay.say(number, u64::MAX);
                }
            }
        }
        while let Some(output) = self.device.core.poll_output() {
            moved = true;
            if let Output::Connect { stream, service, .. } = output {
                let Destination::Address(service) = service else { panic!("a name") };
                let number: usize = service.host()[1..].parse().expect("a number");
                self.device.keys[number] = Some(stream);
                let instant = self.device.instant(now);
                self.device.core.handle_connected(instant, stream);
                let count = self.device.core.pending(stream).len();
                self.device.core.advance(instant, stream, count);
                self.device.received[number] += count as u64;
                if matches!(self.loads[number], Load::Download | Load::SlowDownload) {
                    self.device.say(number, u64::MAX);
                }
            }
        }
        moved
    }

    fn echo(&mut self, now: Duration) -> bool {
        let asked = self.device.received[0];
        if self.device.received[0] > 0 {
            self.device.received[0] = 0;
            self.device.say(0, asked);
            return true;
        }
        if self.relay.received[0] == KEY
            && let Some(struck_at) = self.struck_at.take()
        {
            self.relay.received[0] = 0;
            self.echoes.push(now - struck_at);
            self.next_key = now + PAUSE.mul_f64(0.5 + (self.echoes.len() % 10) as f64 / 10.0);
            return true;
        }
        if self.is_open && self.struck_at.is_none() && now >= self.next_key {
            self.struck_at = Some(now);
            self.relay.say(0, KEY);
            return true;
        }
        false
    }
}
