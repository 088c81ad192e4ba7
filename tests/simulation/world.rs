//! What all parties of one run share: the clock, the dice, the trace, the link and the conversations.

use std::collections::BTreeSet;
use std::fmt;
use std::time::{Duration, Instant};

use tcpremote::connection::{Limits, QueueRule};
use tcpremote::tls::Key;

use crate::app::{App, End, Plan};
use crate::pipe::{Connection, Ending, Pipe};
use crate::random::{Random, mix};
use crate::wire::Wire;

/// How long no conversation may stand still.
const STALL: Duration = Duration::from_secs(30);

/// Indices of a conversation's two sides.
pub(crate) const CLIENT: usize = 0;
pub(crate) const SERVICE: usize = 1;

/// What becomes of the device's connection to a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dial {
    Connects(Duration),
    Refuses(Duration),
    NeverAnswers,
}

/// One client, and the service it wants.
#[derive(Debug)]
pub(crate) struct Conversation {
    pub(crate) arrives: Duration,
    pub(crate) dial: Dial,
    /// The client's, then the service's.
    pub(crate) apps: [App; 2],
    pub(crate) connections: [Option<Connection>; 2],
    /// It came, or will not come any more.
    pub(crate) arrived: bool,
    /// Bytes that each side's driver read from its app and put on the link.
    pub(crate) committed: [u64; 2],
    /// What each side's driver has seen of its app's end.
    pub(crate) ended: [Option<Duration>; 2],
    /// Each side's driver had reason to cut it: failure, stall, number taken, tunnel closed.
    pub(crate) cut: [Option<&'static str>; 2],
    /// The relay sent CLOSE before it saw the device's: what the service sends after that is lost.
    pub(crate) closed_by_relay: bool,
}

/// The faults and sizes of one run.
#[derive(Clone, Debug)]
pub(crate) struct Weather {
    pub(crate) queue: usize,
    pub(crate) half_close: Duration,
    pub(crate) latency: Duration,
    pub(crate) link_capacity: usize,
    pub(crate) grain: usize,
    pub(crate) capacity: usize,
    /// The least step of the clock: everything between happens at once.
    pub(crate) tick: Duration,
    /// When the link is cut, when a side is closed, when the clock jumps and by how much.
    pub(crate) link_loss: Option<Duration>,
    pub(crate) close: Option<(usize, Duration)>,
    /// When a side sends GOAWAY.
    pub(crate) leaves: Option<(usize, Duration)>,
    pub(crate) jump: Option<(Duration, Duration)>,
    /// From here on no app misbehaves.
    pub(crate) heals: Duration,
}

/// What stands between each session and its socket.
#[derive(Debug)]
pub(crate) enum Sealing {
    None,
    /// Records as long as those of TLS, which cost nothing.
    Fake,
    /// TLS, in which the relay proves this key.
    Tls(Key),
}

pub(crate) struct World {
    base: Instant,
    pub(crate) now: Duration,
    pub(crate) random: Random,
    pub(crate) trace: Trace,
    pub(crate) weather: Weather,
    pub(crate) conversations: Vec<Conversation>,
    /// Those in which something may still happen.
    active: BTreeSet<usize>,
    /// What the relay writes, then what the device writes.
    pub(crate) link: [Pipe; 2],
    pub(crate) wire: Wire,
    /// The version that both ends will speak, and what they then take.
    pub(crate) version: u8,
    pub(crate) limits: Limits,
    /// So many of the first conversations are with an app that does not read; the others must not suffer. 0: no matter.
    pub(crate) in_no_hurry: usize,
    /// No app gives a reason to be reset.
    pub(crate) none_is_reset: bool,
    /// Every client gets all that its service has to say.
    pub(crate) answered: bool,
    pub(crate) sealing: Sealing,
    pub(crate) healed: bool,
    /// Nothing may hang until a timeout ends it: all is over by then.
    pub(crate) over_by: Option<Duration>,
    /// Streams that waited for their share of the link when a fault came.
    pub(crate) paced_at_fault: usize,
}

impl World {
    pub(crate) fn new(mut random: Random, weather: Weather, conversations: Vec<Conversation>, loud: bool) -> Self {
        let pipe = || Pipe::new(weather.link_capacity, weather.latency, weather.grain);
        let link = [pipe(), pipe()];
        let trace = Trace { loud, hash: 0 };
        let base = Instant::now();
        let now = Duration::ZERO;
        let active = (0..conversations.len()).collect();
        let rule = QueueRule { queue: weather.queue, stall: STALL };
        let budget = random.pick(&[2000, 50_000, Limits::RELAY.budget]);
        Self {
            base,
            now,
            random,
            trace,
            weather,
            conversations,
            active,
            link,
            wire: Wire::new(),
            version: 1,
            limits: Limits { rule, budget, ..Limits::RELAY },
            in_no_hurry: 0,
            none_is_reset: false,
            answered: false,
            sealing: Sealing::None,
            healed: false,
            over_by: None,
            paced_at_fault: 0,
        }
    }

    /// Both ends will speak version 2, within limits that are met often.
    pub(crate) fn use_version_2(&mut self) {
        self.version = 2;
        self.wire.version_2 = true;
        let random = &mut self.random;
        let window = random.pick(&[16 * 1024, 20_000, 32 * 1024, 64 * 1024]);
        let streams = random.pick(&[16, 40, 256, 256]);
        let open_rate = random.pick(&[20, 200, 10_000, 10_000]);
        let spare = random.pick(&[0, 64 * 1024, 1024 * 1024, 16 * 1024 * 1024]);
        let budget = u64::from(window) * u64::from(streams) + spare;
        self.limits = Limits { window, streams, open_rate, budget, ..self.limits };
    }

    /// Most links are sealed, since those of devices with a key are.
    pub(crate) fn seal(&mut self, seed: u64) {
        if !seed.is_multiple_of(4) {
            self.sealing = Sealing::Fake;
        }
    }

    pub(crate) fn instant(&self) -> Instant {
        self.base + self.now
    }

    /// The virtual time of what a core gave.
    pub(crate) fn time(&self, instant: Instant) -> Duration {
        instant.duration_since(self.base)
    }

    pub(crate) fn note(&mut self, what: fmt::Arguments<'_>) {
        self.trace.note(self.now, what);
    }

    /// A connection between a driver and one side of a conversation: what the driver reads from, and what it writes to.
    pub(crate) fn connect(&mut self, conversation: usize, side: usize) -> (Pipe, Pipe) {
        let capacity = self.weather.capacity;
        let latency = Duration::from_micros(self.random.magnitude(2_000));
        let pipe = || Pipe::new(capacity, latency, usize::MAX);
        let (inward, outward) = (pipe().with_urgent_bytes(), pipe());
        let connection = Connection::new(inward.clone(), outward.clone());
        self.conversations[conversation].connections[side] = Some(connection);
        self.conversations[conversation].arrived = true;
        self.active.insert(conversation);
        (inward, outward)
    }

    /// All clients and services do what they can; true if something moved.
    pub(crate) fn apps_turn(&mut self) -> bool {
        let mut moved = false;
        let mut done = Vec::new();
        for index in self.active.iter().copied().collect::<Vec<_>>() {
            for side in [CLIENT, SERVICE] {
                moved |= self.app_turn(index, side);
            }
            let conversation = &mut self.conversations[index];
            for (app, io) in conversation.apps.iter().zip(&mut conversation.connections) {
                io.take_if(|io| app.is_over() && io.is_released());
            }
            if conversation.arrived && conversation.connections.iter().all(Option::is_none) {
                done.push(index);
            }
        }
        for index in done {
            self.active.remove(&index);
        }
        moved
    }

    fn app_turn(&mut self, index: usize, side: usize) -> bool {
        let conversation = &mut self.conversations[index];
        let (app, Some(io)) = (&mut conversation.apps[side], &mut conversation.connections[side]) else { return false };
        let saw = app.saw;
        let moved = app.turn(&mut self.random, self.now, io);
        if app.saw != saw {
            let (saw, received) = (app.saw, app.received);
            let name = ["client", "service"][side];
            self.trace.note(self.now, format_args!("{name} {index} sees {saw:?} behind {received} bytes"));
            self.check_end(index, side);
        }
        moved
    }

    /// A graceful end means that every byte arrived, and a RST has a reason.
    fn check_end(&self, index: usize, side: usize) {
        let conversation = &self.conversations[index];
        let app = &conversation.apps[side];
        if app.tainted {
            return;
        }
        let other = &conversation.apps[1 - side];
        let closed_by_other = match side {
            // Version 2 has a RST for every other end.
            _ if self.version == 2 => true,
            CLIENT => !conversation.closed_by_relay,
            _ => conversation.ended[side].is_none() && conversation.cut[side].is_none(),
        };
        if self.answered && side == CLIENT {
            assert_eq!(
                (app.saw, app.received),
                (Some(Ending::Fin), other.plan.total),
                "conversation {index}: an answer"
            );
        }
        match app.saw {
            Some(Ending::Fin) if closed_by_other => {
                let committed = conversation.committed[1 - side];
                assert_eq!(app.received, committed, "conversation {index}: FIN means that every byte arrived");
                assert!(
                    self.version == 1 || conversation.ended[1 - side].is_some(),
                    "conversation {index}: FIN is real"
                );
                if conversation.ended[1 - side].is_some() && conversation.cut[1 - side].is_none() {
                    assert_eq!(app.received, other.sent, "conversation {index}: FIN behind a graceful end");
                }
            }
            Some(Ending::Rst) => {
                assert!(conversation.cut[side].is_some(), "conversation {index}: RST without a reason");
            }
            Some(Ending::Fin) | None => {}
        }
    }

    /// From here on every app reads, and ends.
    pub(crate) fn heal(&mut self) {
        self.healed = true;
        self.note(format_args!("healed"));
        for conversation in &mut self.conversations {
            conversation.apps.iter_mut().for_each(App::heal);
        }
    }

    /// Whether every conversation that began is over on both sides.
    pub(crate) fn is_over(&self) -> bool {
        (0..self.conversations.len()).all(|index| self.conversation_is_over(index))
    }

    pub(crate) fn conversation_is_over(&self, index: usize) -> bool {
        let conversation = &self.conversations[index];
        let mut sides = conversation.apps.iter().zip(&conversation.connections);
        conversation.arrived && sides.all(|(app, io)| io.is_none() || app.is_over())
    }

    /// When something changes by itself, apart from the two ends of the link.
    pub(crate) fn next_event(&self) -> Option<Duration> {
        let link = self.link.iter().filter_map(|pipe| pipe.next_event(self.now));
        let conversations = self.active.iter().flat_map(|&index| {
            let conversation = &self.conversations[index];
            let arrival = (!conversation.arrived).then_some(conversation.arrives);
            let sockets = conversation.connections.iter().flatten().filter_map(|io| io.next_event(self.now));
            let live = conversation.apps.iter().zip(&conversation.connections).filter(|(_, io)| io.is_some());
            let apps = live.filter_map(|(app, _)| app.next_event(self.now));
            arrival.into_iter().chain(sockets).chain(apps).collect::<Vec<_>>()
        });
        let close = self.weather.close.map(|(_, at)| at);
        let leaves = self.weather.leaves.map(|(_, at)| at);
        let jump = self.weather.jump.map(|(at, _)| at);
        let heals = (!self.healed).then_some(self.weather.heals);
        let planned = [self.weather.link_loss, close, leaves, jump, heals].into_iter().flatten();
        link.chain(conversations).chain(planned).filter(|&at| at > self.now).min()
    }
}

/// Everything that happened, as one number, and as text when a seed is replayed.
#[derive(Debug)]
pub(crate) struct Trace {
    loud: bool,
    pub(crate) hash: u64,
}

impl Trace {
    fn note(&mut self, now: Duration, what: fmt::Arguments<'_>) {
        let line = format!("{:>14.6} {what}", now.as_secs_f64());
        for byte in line.bytes() {
            self.hash = self.hash.wrapping_mul(0x0100_0000_01b3) ^ u64::from(byte);
        }
        self.hash = mix(self.hash);
        if self.loud {
            println!("{line}");
        }
    }
}

impl Conversation {
    pub(crate) fn new(index: usize, arrives: Duration, dial: Dial, client: Plan, service: Plan) -> Self {
        Self {
            arrives,
            dial,
            apps: [App::new(index, CLIENT, client), App::new(index, SERVICE, service)],
            connections: [None, None],
            arrived: false,
            committed: [0; 2],
            ended: [None; 2],
            cut: [None; 2],
            closed_by_relay: false,
        }
    }
}

impl Weather {
    pub(crate) fn draw(random: &mut Random) -> Self {
        let link_capacity = random.pick(&[1, 7, 100, 4 * 1024, 64 * 1024, 1024 * 1024]);
        // A window of a few bytes on a long line would make every run last for hours.
        let latency = random.magnitude(if link_capacity < 4096 { 3_000 } else { 200_000 });
        Self {
            queue: random.pick(&[1, 1000, 8 * 1024, 64 * 1024, 256 * 1024, 1024 * 1024]),
            half_close: Duration::from_millis(random.pick(&[0, 50, 1000, 1000, 1000])),
            latency: Duration::from_micros(latency),
            link_capacity,
            grain: random.pick(&[1, 3, 60, 1460, usize::MAX, usize::MAX, usize::MAX]),
            capacity: random.pick(&[1, 1000, 16 * 1024, 256 * 1024]),
            tick: Duration::from_micros(random.pick(&[1, 100, 1000])),
            link_loss: None,
            close: None,
            leaves: None,
            jump: None,
            heals: Duration::from_secs(100),
        }
    }

    /// Bytes that a run of this weather can move without taking for ever.
    pub(crate) fn budget(&self) -> u64 {
        let step = self.grain.min(self.link_capacity).min(self.capacity * 4) as u64;
        (step * 2_000).min(1_500_000)
    }
}

impl Plan {
    pub(crate) fn draw(random: &mut Random, budget: u64) -> Self {
        let pause = |random: &mut Random| {
            let most = if random.chance(70) { 0 } else { 300_000 };
            Duration::from_micros(random.magnitude(most))
        };
        let total = random.magnitude(budget);
        let end = match random.below(20) {
            0..7 => End::Half,
            7..15 => End::Last,
            15..18 => End::Full,
            _ => End::Reset(random.below(total + 1)),
        };
        // Tiny chunks with pauses make a long run, not a better one.
        let chunk = 1 + random.magnitude(64 * 1024) as usize;
        let write = (chunk.max(total as usize / 50), pause(random));
        let read = (1 + random.magnitude(64 * 1024).max(total / 50) as usize, pause(random));
        Self { total, write, read, reads_only: random.chance(5).then(|| random.below(budget)), end }
    }

    /// Sends `total` bytes and reads all, as fast as it goes.
    pub(crate) fn plain(total: u64, end: End) -> Self {
        let fast = (64 * 1024, Duration::ZERO);
        Self { total, write: fast, read: fast, reads_only: None, end }
    }
}
