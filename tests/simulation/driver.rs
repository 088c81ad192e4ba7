//! The owner of a session under test: it accepts clients, connects to services, and watches what the session does.

use std::collections::BTreeMap;
use std::time::Duration;

use tcpremote::address::Address;
use tcpremote::connection::{Connection, Destination, Output, Reset, StreamKey};
use tcpremote::identity::{Pin, Pins};
use tcpremote::io::Io;
use tcpremote::io::event_loop::{Readiness, Source};
use tcpremote::io::session::{LinkLost, Session};
use tcpremote::protocol::v2::Code;
use tcpremote::tls::{Acceptor, Key, Opener, Scratch, Tls, TlsError};

use crate::core::{Core, Seen, Tested, Watched};
use crate::random::Random;
use crate::run::Party;
use crate::sealer::FakeTls;
use crate::socket::SimLoop;
use crate::wire::{self, Queued};
use crate::world::{CLIENT, Dial, SERVICE, Sealing, World};

/// Bytes that one read of the link takes at most.
const LINK_BUFFER: usize = 128 * 1024;
/// Turns in a row that may say that there is more to do, and move nothing: calls can be interrupted.
const MOST_IDLE_TURNS: usize = 20;

/// A session and its owner.
#[derive(Debug)]
pub(crate) struct Driver<C: Core> {
    session: Tested<C>,
    io: Io<SimLoop>,
    /// The conversations of the streams that there are.
    streams: BTreeMap<StreamKey, Stream>,
    /// Conversations whose sockets failed, until the core confirms it.
    failed: BTreeMap<StreamKey, usize>,
    dials: BTreeMap<StreamKey, (Duration, bool)>,
    /// Once it is fixed.
    version: Option<u8>,
    is_closing: bool,
    /// When a socket that is closing has had its time.
    closing_due: Option<Duration>,
    idle_turns: usize,
    buffer: Vec<u8>,
    /// What passed over the link, until the outputs that belong to it are known.
    passed: Vec<Seen>,
}

#[derive(Debug)]
struct Stream {
    conversation: usize,
    has_socket: bool,
}

impl<C: Core> Party for Driver<C> {
    fn turn(&mut self, world: &mut World) -> bool {
        let now = world.instant();
        self.io.event_loop.set_now(world.now);
        let moved_before = self.io.event_loop.moved();
        let mut moved = C::SIDE == CLIENT && self.accept(world);
        moved |= self.answer_dials(world);
        moved |= self.handle_events(world);
        let most = if world.random.chance(10) { world.random.between(1, 5000) as usize } else { LINK_BUFFER };
        let most = most.min(world.weather.grain);
        let mut buffer = std::mem::take(&mut self.buffer);
        let turned = self.session.turn(now, &mut self.io, &mut buffer[..most]);
        self.buffer = buffer;
        let has_more = match turned {
            Ok(has_more) => has_more,
            Err(LinkLost::Protocol(error)) => panic!("{} thinks that the protocol is broken: {error}", name::<C>()),
            Err(LinkLost::Ended | LinkLost::Failed(_) | LinkLost::Tls(TlsError::Cut | TlsError::EndInHandshake)) => {
                self.session.abort_link(now, &mut self.io);
                world.note(format_args!("{} has no link any more", name::<C>()));
                true
            }
            Err(LinkLost::Tls(error)) => panic!("{} thinks that the sealing is broken: {error}", name::<C>()),
        };
        moved |= self.carry_out(world);
        if self.is_closing && self.session.has_link() && !self.session.has_unsent() {
            self.session.close_link(now, &mut self.io);
            world.note(format_args!("{} has closed the link", name::<C>()));
            self.carry_out(world);
            moved = true;
        }
        self.io.closing.handle_timeout(now, &mut self.io.event_loop);
        self.closing_due = self.io.closing.poll_timeout().map(|at| world.time(at));
        moved |= self.io.event_loop.moved() > moved_before;
        self.idle_turns = if moved || !has_more { 0 } else { self.idle_turns + 1 };
        assert!(self.idle_turns <= MOST_IDLE_TURNS, "{} spins: {:?}", name::<C>(), self.session);
        self.check_marks(world);
        moved || has_more
    }

    fn shut(&mut self, world: &mut World) {
        world.note(format_args!("{} closes", name::<C>()));
        self.io.event_loop.set_now(world.now);
        self.is_closing = true;
        self.session.close(world.instant());
        for stream in self.streams.values() {
            world.conversations[stream.conversation].cut[C::SIDE].get_or_insert("closed");
        }
        self.carry_out(world);
    }

    fn leave(&mut self, world: &mut World) {
        if !self.session.has_link() {
            return;
        }
        world.note(format_args!("{} goes away", name::<C>()));
        self.io.event_loop.set_now(world.now);
        self.session.go_away(world.instant(), Code::Normal, 0, "it has done enough");
        self.carry_out(world);
    }

    fn paced(&self) -> usize {
        self.streams.keys().filter(|&&key| self.session.connection().is_paced(key)).count()
    }

    fn next_event(&self, world: &World) -> Option<Duration> {
        let session = self.session.poll_timeout().map(|at| world.time(at));
        session.into_iter().chain(self.closing_due).chain(self.dials.values().map(|(at, _)| *at)).min()
    }

    fn has_link(&self) -> bool {
        self.session.has_link()
    }

    fn check_empty(&self) {
        let core = self.session.connection();
        assert_eq!(core.streams(), 0, "no stream is left");
        assert_eq!(core.counters().open, 0, "none is open");
        assert_eq!(self.session.poll_timeout(), None, "nothing is due");
        assert!(!core.has_unsent(), "nothing is unsent");
        assert!(core.wants_input(), "nothing holds up the link");
        assert_eq!(self.closing_due, None, "no socket is closing");
        assert!(self.failed.is_empty(), "every end is an output: {:?}", self.failed);
    }
}

impl<C: Core> Driver<C> {
    pub(crate) fn new(core: C, world: &mut World) -> Self {
        let mut event_loop = SimLoop::new(Random::new(world.random.next()));
        let (inward, outward) = (&world.link[1 - C::SIDE], &world.link[C::SIDE]);
        let (socket, token) = event_loop.connect(Source::Link(0), inward, outward);
        let core = Watched::new(core, Random::new(world.random.next()), world.wire.watches());
        let mut io = Io::new(event_loop);
        let session = match &world.sealing {
            Sealing::None => Session::new(core, 0, socket, token),
            Sealing::Fake => Session::in_tls(core, 0, socket, token, FakeTls::new(C::SIDE == SERVICE), &mut io),
            Sealing::Tls(key) => {
                let tls = end_of_tls(C::SIDE, key, io.scratch());
                Session::in_tls(core, 0, socket, token, tls, &mut io)
            }
        };
        Self {
            session,
            io,
            streams: BTreeMap::new(),
            failed: BTreeMap::new(),
            dials: BTreeMap::new(),
            version: None,
            is_closing: false,
            closing_due: None,
            idle_turns: 0,
            buffer: vec![0; LINK_BUFFER],
            passed: Vec::new(),
        }
    }

    /// Takes clients that arrive now; true if there were any.
    fn accept(&mut self, world: &mut World) -> bool {
        let mut moved = false;
        for number in 0..world.conversations.len() {
            let conversation = &mut world.conversations[number];
            if conversation.arrived || conversation.arrives > world.now {
                continue;
            }
            if !self.session.has_link() || self.is_closing {
                conversation.arrived = true;
            } else if self.version.is_some() {
                self.carry_out(world);
                let service = Address::new(&format!("c{number}"), 1).expect("an address");
                let key = C::open(&mut self.session, world.instant(), service.into());
                self.insert(key, number);
                let (inward, outward) = world.connect(number, CLIENT);
                let (socket, token) = self.io.event_loop.connect(Source::Stream(0, key), &inward, &outward);
                self.session.attach(&mut self.io, key, socket, token);
                self.streams.get_mut(&key).expect("it was inserted").has_socket = true;
                self.carry_out(world);
            } else {
                continue;
            }
            moved = true;
        }
        moved
    }

    /// Hands on what the event loop has found; true if there was something, or is to be.
    fn handle_events(&mut self, world: &mut World) -> bool {
        let mut moved = self.io.event_loop.poll();
        while let Some(event) = self.io.event_loop.next_ready() {
            match event {
                Readiness { source: Source::Link(_), .. } => self.session.handle_link_event(event),
                Readiness { source: Source::Stream(_, key), .. } => {
                    self.session.handle_stream_event(world.instant(), &mut self.io, key, event);
                }
                Readiness { source: Source::Closing(place), .. } => {
                    self.io.closing.handle_event(&mut self.io.event_loop, place);
                }
                Readiness { source: Source::Waker | Source::Listener(_) | Source::Header(_), .. } => {
                    unreachable!("there is none")
                }
            }
            moved |= self.carry_out(world);
        }
        moved
    }

    /// Everything that the session asks for; true if there was something.
    fn carry_out(&mut self, world: &mut World) -> bool {
        let mut moved = false;
        self.handle_seen(world);
        while let Some(output) = self.session.poll_output(world.instant(), &mut self.io) {
            moved = true;
            self.handle_seen(world);
            self.carry_out_one(world, output);
        }
        self.handle_seen(world);
        self.check_passed(world);
        moved
    }

    fn carry_out_one(&mut self, world: &mut World, output: Output) {
        match output {
            Output::Version(version) => {
                world.note(format_args!("{} speaks version {version}", name::<C>()));
                assert_eq!(version, world.version, "the version that both speak");
                self.version = Some(version);
            }
            Output::Opened { stream, .. } => {
                self.find_connected(stream);
            }
            Output::Connect { stream, service, .. } => {
                let Destination::Address(service) = service else { panic!("a name") };
                let number = service.host().strip_prefix('c').and_then(|number| number.parse().ok());
                self.connect(world, stream, number.expect("a simulated service"));
            }
            Output::ShutdownWrite { stream } => {
                let number = self.find_connected(stream);
                world.note(format_args!("{} conversation {number}: no more for its socket", name::<C>()));
                if let Some(io) = &world.conversations[number].connections[C::SIDE] {
                    assert!(
                        io.outward.is_ended() || io.inward.is_reset(world.now),
                        "conversation {number}: FIN is sent"
                    );
                }
            }
            Output::Finish { stream } => {
                let number = self.end(world, stream, "finishes");
                if let Some(io) = &world.conversations[number].connections[C::SIDE] {
                    let (is_reset, lost) = (io.inward.is_reset(world.now), io.inward.lost());
                    assert!(io.outward.is_ended() || is_reset, "conversation {number}: FIN is sent");
                    assert!(lost == 0 || is_reset, "conversation {number}: {lost} bytes are answered with RST");
                }
            }
            Output::Reset { stream, reason } => {
                let (is_closed, reason) = (matches!(reason, Reset::Closed(_)), reason_name(&reason));
                assert!(!world.none_is_reset, "{} resets a stream: {reason}", name::<C>());
                let number = self.end(world, stream, reason);
                let conversation = &mut world.conversations[number];
                let peer_cut = conversation.cut[1 - C::SIDE];
                assert!(!is_closed || peer_cut.is_some(), "conversation {number}: CLOSE has a reason");
                conversation.cut[C::SIDE].get_or_insert(reason);
                if let Some(io) = &conversation.connections[C::SIDE] {
                    let is_lost = conversation.apps[C::SIDE].gone || io.inward.is_reset(world.now);
                    let came = (io.outward.written(), conversation.committed[1 - C::SIDE]);
                    assert!(
                        world.version == 1 || !is_closed || is_lost || came.0 == came.1,
                        "conversation {number}: {came:?} bytes of those before CLOSE are delivered"
                    );
                    assert!(io.outward.is_cut() && io.inward.is_sunk(), "conversation {number}: RST is sent");
                }
            }
            Output::Gone { stream } => {
                let number = self.failed.remove(&stream).expect("a stream that failed, once");
                world.note(format_args!("{} conversation {number}: gone", name::<C>()));
            }
            Output::Malformed { .. } => panic!("no relay here sends a malformed CONNECT"),
            Output::EarlyDropped { .. }
            | Output::Listening
            | Output::Presented
            | Output::Introduced(_)
            | Output::Connected { .. }
            | Output::GoAway(_) => world.note(format_args!("{} {output:?}", name::<C>())),
        }
    }

    /// The conversation of a stream that has a socket, or had one which has failed meanwhile.
    fn find_connected(&self, key: StreamKey) -> usize {
        let stream = self.streams.get(&key).filter(|stream| stream.has_socket).map(|stream| stream.conversation);
        stream.or_else(|| self.failed.get(&key).copied()).expect("a stream with a socket")
    }

    fn end(&mut self, world: &mut World, key: StreamKey, how: &str) -> usize {
        self.dials.remove(&key);
        let Stream { conversation, .. } = self.streams.remove(&key).expect("a stream ends once");
        world.note(format_args!("{} conversation {conversation}: {how}", name::<C>()));
        conversation
    }

    fn connect(&mut self, world: &mut World, key: StreamKey, number: usize) {
        world.note(format_args!("device connects to {number}"));
        self.insert(key, number);
        match world.conversations[number].dial {
            Dial::Connects(after) => self.dials.insert(key, (world.now + after, true)),
            Dial::Refuses(after) => self.dials.insert(key, (world.now + after, false)),
            Dial::NeverAnswers => None,
        };
    }

    fn insert(&mut self, key: StreamKey, conversation: usize) {
        let stream = Stream { conversation, has_socket: false };
        assert!(self.streams.insert(key, stream).is_none(), "a key is one stream's for ever");
    }

    fn answer_dials(&mut self, world: &mut World) -> bool {
        let due: Vec<StreamKey> =
            self.dials.iter().filter(|(_, (at, _))| *at <= world.now).map(|(&key, _)| key).collect();
        let moved = !due.is_empty();
        for key in due {
            let Some((_, connects)) = self.dials.remove(&key) else { continue };
            let stream = self.streams.get_mut(&key).expect("its dial ends with it");
            let number = stream.conversation;
            world.note(format_args!("service {number} {}", if connects { "accepts" } else { "refuses" }));
            if connects {
                stream.has_socket = true;
                let (inward, outward) = world.connect(number, SERVICE);
                let (socket, token) = self.io.event_loop.connect(Source::Stream(0, key), &inward, &outward);
                C::handle_connected(&mut self.session, world.instant(), &mut self.io, key, socket, token);
            } else {
                world.conversations[number].cut[SERVICE] = Some("refused");
                self.session.give_up(world.instant(), &mut self.io, key, Code::Refused, "refused");
            }
            self.carry_out(world);
        }
        moved
    }

    /// Takes note of what the session's core learns of sockets.
    fn handle_seen(&mut self, world: &mut World) {
        let mut blocked = Vec::new();
        for seen in self.session.connection().take_seen() {
            match seen {
                Seen::Read(_) | Seen::Queued(_) => self.passed.push(seen),
                Seen::Blocked(key) => blocked.push(key),
                Seen::Committed(key, count) => {
                    let number = self.streams[&key].conversation;
                    world.conversations[number].committed[C::SIDE] += count as u64;
                }
                Seen::Ended(key) => {
                    let number = self.streams[&key].conversation;
                    let before = world.conversations[number].ended[C::SIDE].replace(world.now);
                    assert!(before.is_none(), "conversation {number}: the end is read once");
                    let is_reset = self.io.event_loop.is_reset_shown(key);
                    assert!(!is_reset, "conversation {number}: an end with a RST behind it is a failure");
                }
                Seen::Failed(key, is_wanted) => {
                    let Stream { conversation, .. } = self.streams.remove(&key).expect("a socket fails once");
                    self.dials.remove(&key);
                    self.failed.insert(key, conversation);
                    let conversation = &mut world.conversations[conversation];
                    conversation.cut[C::SIDE].get_or_insert("failed");
                    let lost = conversation.connections[C::SIDE].as_ref().map_or(0, |io| io.inward.lost());
                    assert!(!is_wanted || lost == 0, "{lost} bytes before a failure are not read: {conversation:?}");
                }
            }
        }
        for key in blocked {
            let waits = self.streams.contains_key(&key) && self.io.event_loop.is_reset_shown(key);
            assert!(!waits, "{} has a socket that was reset, and waits for its peer: {key:?}", name::<C>());
        }
    }

    /// Has what passed over the link checked against its rules.
    fn check_passed(&mut self, world: &mut World) {
        let (own, peer) = match C::SIDE {
            CLIENT => (wire::From::Relay, wire::From::Device),
            _ => (wire::From::Device, wire::From::Relay),
        };
        for seen in std::mem::take(&mut self.passed) {
            match seen {
                Seen::Read(bytes) => world.wire.read(peer, &bytes),
                Seen::Queued(bytes) => {
                    for Queued { command, id, size, close } in world.wire.queue(world.now, own, &bytes) {
                        let command = ["?", "CONNECT", "CLOSE", "DATA", "LISTEN"][usize::from(command).min(4)];
                        world.note(format_args!("{} {command} {id} of {size} bytes", name::<C>()));
                        if let Some((number, true)) = close {
                            check_reason::<C>(world, number);
                        }
                    }
                }
                Seen::Committed(..) | Seen::Ended(_) | Seen::Blocked(_) | Seen::Failed(..) => {}
            }
        }
    }

    fn check_marks(&mut self, world: &World) {
        let core = self.session.connection();
        let queue = world.weather.queue.max(C::EXTRA) + LINK_BUFFER;
        let pending: usize = self.streams.keys().map(|&key| core.pending(key).len()).sum();
        let sockets = self.streams.values().filter(|stream| stream.has_socket).count();
        let is_streams = |source: &Source| matches!(source, Source::Stream(..));
        let watched = self.io.event_loop.sources().filter(is_streams).count();
        assert_eq!(watched, sockets, "the sockets of streams that are over are not watched");
        let links = self.io.event_loop.sources().filter(|source| matches!(source, Source::Link(_))).count();
        assert_eq!(links, usize::from(self.session.has_link()), "nor is a link that is");
        assert!(!self.io.event_loop.is_end_forgotten(), "a socket that is closing has read its peer's end");
        if world.version == 2 {
            assert!(pending as u64 <= world.limits.budget, "{pending} bytes wait for sockets");
            assert!(core.counters().open <= u64::from(world.limits.streams));
            return;
        }
        let most = world.limits.budget as usize + LINK_BUFFER + C::EXTRA;
        assert!(pending <= most, "{pending} bytes wait for sockets");
        for &key in self.streams.keys() {
            assert!(core.pending(key).len() <= queue, "{} bytes wait for a socket", core.pending(key).len());
        }
        assert!(core.streams() <= C::MOST_STREAMS, "{} streams", core.streams());
        assert_eq!(core.streams(), self.streams.len(), "the core's streams are the driver's");
        assert!(core.counters().open <= 256);
    }
}

fn name<C: Core>() -> &'static str {
    ["relay", "device"][C::SIDE]
}

/// The reasons, as the trace has them.
fn reason_name(reason: &Reset) -> &'static str {
    match reason {
        Reset::NoPlace => "no place",
        Reset::PeerLeaves => "peer leaves",
        Reset::ConnectTimeout => "connect timeout",
        Reset::TooSlow => "too slow",
        Reset::Stalled => "stalled",
        Reset::Replaced => "replaced",
        Reset::LinkLost => "link lost",
        Reset::Unanswered => "unanswered",
        Reset::Crowded => "crowded",
        Reset::Shutdown => "shutdown",
        Reset::Closed(_) => "closed by the peer",
    }
}

/// Who sends CLOSE first has a reason.
fn check_reason<C: Core>(world: &mut World, number: usize) {
    let pressed = world.conversations.len() > 256;
    let conversation = &mut world.conversations[number];
    conversation.closed_by_relay |= C::SIDE == CLIENT;
    let patience = if C::SIDE == CLIENT && !pressed { world.weather.half_close } else { Duration::ZERO };
    let ended = conversation.ended[C::SIDE].is_some_and(|at| at + patience <= world.now);
    let reason = ended || conversation.cut[C::SIDE].is_some();
    assert!(reason, "conversation {number}: {} has no reason for CLOSE", name::<C>());
}

/// One side's end of TLS. Its random bytes change no length, and so nothing of what is simulated.
fn end_of_tls(side: usize, relay: &Key, scratch: &mut Scratch) -> Tls {
    if side == CLIENT {
        return Acceptor::new(relay).and_then(|acceptor| acceptor.start()).expect("an end");
    }
    let pins = Pins { current: relay.public().pin(), next: Pin([0; 32]) };
    let device = Key::generate().expect("random bytes");
    Opener::new(&device, pins).and_then(|opener| opener.start("relay.example.com", scratch)).expect("an end")
}
