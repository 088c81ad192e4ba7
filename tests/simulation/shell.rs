//! The shell of a core: what `session.rs` does with sockets, done with pipes, and watched.

use std::collections::BTreeMap;
use std::io::IoSliceMut;
use std::sync::Arc;
use std::time::Duration;

use tcpremote::address::Address;
use tcpremote::connection::{Room, StreamKey};
use tcpremote::protocol::v2::Code;

use crate::core::{CLOSED_BY_PEER, Core, Task};
use crate::pipe::Read;
use crate::run::Party;
use crate::wire::{self, Queued};
use crate::world::{CLIENT, Dial, SERVICE, World};

/// Bytes that one read of the link takes at most.
const LINK_BUFFER: usize = 128 * 1024;

#[derive(Debug)]
struct Socket {
    conversation: usize,
    connected: bool,
    at_end: bool,
    write_failed: bool,
}

/// A core and its sockets.
#[derive(Debug)]
pub(crate) struct Shell<E> {
    core: E,
    sockets: BTreeMap<StreamKey, Socket>,
    /// Conversations whose sockets failed, until the core confirms it.
    failed: BTreeMap<StreamKey, usize>,
    dials: BTreeMap<StreamKey, (Duration, bool)>,
    /// Once it is fixed.
    version: Option<u8>,
    has_link: bool,
    closing: bool,
    buffer: Vec<u8>,
    /// How much of what is unsent was shown to the wire's rules.
    observed: usize,
}

impl<E: Core> Party for Shell<E> {
    fn turn(&mut self, world: &mut World) -> bool {
        let mut moved = E::SIDE == CLIENT && self.accept(world);
        if self.core.poll_timeout().is_some_and(|at| at <= world.instant()) {
            self.core.handle_timeout(world.instant()).expect("the peer is in time");
            let next = self.core.poll_timeout();
            assert!(next.is_none_or(|at| at > world.instant()), "what was due is done");
            self.carry_out(world);
            moved = true;
        }
        moved |= self.answer_dials(world);
        let first = world.random.below(3);
        for step in 0..3 {
            moved |= match (first + step) % 3 {
                0 => self.read_link(world),
                1 => self.turn_streams(world),
                _ => self.write_link(world),
            };
            moved |= self.carry_out(world);
        }
        if self.closing && self.has_link && !self.core.has_unsent() {
            world.link[E::SIDE].finish(world.now);
            world.link[1 - E::SIDE].sink();
            self.lose_link(world);
            moved = true;
        }
        self.check_marks(world);
        moved
    }

    fn shut(&mut self, world: &mut World) {
        world.note(format_args!("{} closes", name::<E>()));
        self.closing = true;
        self.core.shut(world.instant());
        for socket in self.sockets.values() {
            world.conversations[socket.conversation].cut[E::SIDE].get_or_insert("closed");
        }
        self.carry_out(world);
    }

    fn next_event(&self, world: &World) -> Option<Duration> {
        let core = self.core.poll_timeout().map(|at| world.time(at));
        core.into_iter().chain(self.dials.values().map(|(at, _)| *at)).min()
    }

    fn has_link(&self) -> bool {
        self.has_link
    }

    fn check_empty(&self) {
        assert_eq!(self.core.streams(), 0, "no stream is left");
        assert_eq!(self.core.counters().open, 0, "none is open");
        assert_eq!(self.core.poll_timeout(), None, "nothing is due");
        assert!(!self.core.has_unsent(), "nothing is unsent");
        assert!(self.core.wants_input(), "nothing holds up the link");
    }
}

impl<E: Core> Shell<E> {
    pub(crate) fn new(core: E) -> Self {
        Self {
            core,
            sockets: BTreeMap::new(),
            failed: BTreeMap::new(),
            dials: BTreeMap::new(),
            version: None,
            has_link: true,
            closing: false,
            buffer: vec![0; LINK_BUFFER],
            observed: 0,
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
            if !self.has_link || self.closing {
                conversation.arrived = true;
            } else if self.version.is_some() {
                world.connect(number, CLIENT);
                let service = Address::new(&format!("c{number}"), 1).expect("an address");
                let key = self.core.open(world.instant(), Arc::new(service));
                self.insert(key, number, false);
                self.carry_out(world);
            } else {
                continue;
            }
            moved = true;
        }
        moved
    }

    fn lose_link(&mut self, world: &mut World) {
        world.note(format_args!("{} has no link any more", name::<E>()));
        self.has_link = false;
        self.core.handle_link_lost(world.instant());
        self.observed = 0;
        self.carry_out(world);
        assert!(!self.core.has_unsent() && self.core.counters().open == 0, "nothing is left of the link");
    }

    fn read_link(&mut self, world: &mut World) -> bool {
        if !self.has_link || !self.core.wants_input() {
            return false;
        }
        let most = if world.random.chance(10) { world.random.between(1, 5000) as usize } else { LINK_BUFFER };
        let mut buffer = std::mem::take(&mut self.buffer);
        let read = world.link[1 - E::SIDE].read(&mut world.random, world.now, &mut buffer[..most]);
        match read {
            Read::Blocked => {}
            Read::End | Read::Reset => self.lose_link(world),
            Read::Bytes(count) => self.receive(world, &buffer[..count]),
        }
        self.buffer = buffer;
        read != Read::Blocked
    }

    fn receive(&mut self, world: &mut World, mut input: &[u8]) {
        world.wire.read(if E::SIDE == CLIENT { wire::From::Device } else { wire::From::Relay }, input);
        while let Some(delivery) = self.core.receive(world.instant(), &mut input).expect("the protocol is kept") {
            let key = delivery.stream;
            let mut pieces = vec![delivery.bytes];
            while self.core.goes_on(key, input) && world.random.chance(90) {
                let next = self.core.receive(world.instant(), &mut input).expect("the protocol is kept");
                let next = next.expect("it goes on");
                assert_eq!(next.stream, key, "it goes on");
                pieces.push(next.bytes);
            }
            assert!(pieces.iter().all(|piece| !piece.is_empty()));
            let bytes = &pieces.concat();
            let socket = self.sockets.get_mut(&key).expect("bytes are delivered to streams that exist");
            assert!(socket.connected, "bytes wait for the connection");
            let taken =
                if socket.write_failed { Some(bytes.len()) } else { write(world, socket.conversation, E::SIDE, bytes) };
            let mut left = taken.unwrap_or(bytes.len());
            for piece in pieces {
                let taken = left.min(piece.len());
                left -= taken;
                self.core.delivered(world.instant(), key, piece, taken);
            }
            if taken.is_none() {
                // What came behind may have ended the stream.
                self.carry_out(world);
                if self.sockets.contains_key(&key) {
                    self.handle_write_failure(world, key);
                }
            }
        }
        assert!(input.is_empty(), "all input is taken");
    }

    fn turn_streams(&mut self, world: &mut World) -> bool {
        let mut keys: Vec<StreamKey> = self.sockets.keys().copied().collect();
        if !keys.is_empty() {
            let middle = world.random.below(keys.len() as u64) as usize;
            keys.rotate_left(middle);
        }
        let mut moved = false;
        for key in keys {
            moved |= self.flush_stream(world, key) | self.read_stream(world, key);
            moved |= self.carry_out(world);
        }
        moved
    }

    fn flush_stream(&mut self, world: &mut World, key: StreamKey) -> bool {
        let Some(socket) = self.sockets.get(&key).filter(|socket| socket.connected) else { return false };
        let pending = self.core.pending(key);
        if pending.is_empty() {
            return false;
        }
        let result =
            if socket.write_failed { Some(pending.len()) } else { write(world, socket.conversation, E::SIDE, pending) };
        match result {
            Some(0) => false,
            Some(count) => {
                self.core.advance(world.instant(), key, count);
                true
            }
            None => {
                self.handle_write_failure(world, key);
                true
            }
        }
    }

    fn read_stream(&mut self, world: &mut World, key: StreamKey) -> bool {
        let Some(socket) = self.sockets.get_mut(&key).filter(|socket| socket.connected) else { return false };
        let now = world.instant();
        let conversation = &mut world.conversations[socket.conversation];
        let io = conversation.connections[E::SIDE].as_mut().expect("a socket");
        if socket.at_end {
            // It closed after its end of stream, and answers what it gets with RST.
            let failed = io.inward.is_reset(world.now);
            if failed {
                self.fail(world, key);
            }
            return failed;
        }
        let contended = world.random.chance(30);
        let Room::Free(mut room) = self.core.reserve(key, contended) else { return false };
        let fits = |payload: &IoSliceMut<'_>| payload.len() <= usize::from(u16::MAX);
        assert!(!room[0].is_empty() && room.iter().all(fits), "a frame's worth of room each");
        let mut read = io.inward.read(&mut world.random, world.now, &mut room[0]);
        let mut filled = room[0].len();
        for payload in &mut room[1..] {
            if let Read::Bytes(count) = &mut read
                && *count == filled
                && !payload.is_empty()
                && let Read::Bytes(more) = io.inward.read(&mut world.random, world.now, payload)
            {
                *count += more;
                filled += payload.len();
            }
        }
        match read {
            Read::Blocked if socket.write_failed => self.fail(world, key),
            Read::Blocked => return false,
            Read::Bytes(count) => {
                self.core.commit(now, key, count);
                conversation.committed[E::SIDE] += count as u64;
            }
            Read::End if socket.write_failed => self.fail(world, key),
            Read::End => {
                socket.at_end = true;
                conversation.ended[E::SIDE] = Some(world.now);
                self.core.handle_end(now, key);
            }
            Read::Reset => self.fail(world, key),
        }
        true
    }

    fn handle_write_failure(&mut self, world: &mut World, key: StreamKey) {
        let socket = self.sockets.get_mut(&key).expect("it was written to");
        socket.write_failed = true;
        if socket.at_end || matches!(self.core.reserve(key, false), Room::Unwanted) {
            self.fail(world, key);
        }
    }

    fn fail(&mut self, world: &mut World, key: StreamKey) {
        let socket = self.sockets.remove(&key).expect("a socket fails once");
        self.failed.insert(key, socket.conversation);
        let conversation = &mut world.conversations[socket.conversation];
        conversation.cut[E::SIDE].get_or_insert("failed");
        let io = conversation.connections[E::SIDE].as_mut().expect("a socket");
        io.reset(&mut world.random, world.now);
        self.core.handle_failure(world.instant(), key, Code::Normal, "failed");
    }

    fn write_link(&mut self, world: &mut World) -> bool {
        self.observe(world);
        let unsent = self.core.unsent();
        if !self.has_link || unsent.is_empty() || world.link[E::SIDE].is_ended() {
            return false;
        }
        let count = world.link[E::SIDE].write(&mut world.random, world.now, unsent);
        self.core.advance_link(world.instant(), count);
        if world.wire.watches() {
            self.observed -= count;
        }
        count > 0
    }

    /// Shows what was queued for the link to whoever keeps its rules.
    fn observe(&mut self, world: &mut World) {
        if !world.wire.watches() {
            return;
        }
        let from = if E::SIDE == CLIENT { wire::From::Relay } else { wire::From::Device };
        let more = &self.core.unsent()[self.observed..];
        self.observed += more.len();
        for Queued { command, id, size, close } in world.wire.queue(world.now, from, more) {
            let command = ["?", "CONNECT", "CLOSE", "DATA", "LISTEN"][usize::from(command).min(4)];
            world.note(format_args!("{} {command} {id} of {size} bytes", name::<E>()));
            if let Some((number, true)) = close {
                check_reason::<E>(world, number);
            }
        }
    }

    /// Everything that the core asks for; true if there was something.
    fn carry_out(&mut self, world: &mut World) -> bool {
        let mut moved = false;
        while let Some(output) = self.core.poll_output() {
            moved = true;
            self.carry_out_one(world, E::task(output));
        }
        self.observe(world);
        moved
    }

    fn carry_out_one(&mut self, world: &mut World, task: Task) {
        match task {
            Task::Version(version) => {
                world.note(format_args!("{} speaks version {version}", name::<E>()));
                assert_eq!(version, world.version, "the version that both speak");
                self.version = Some(version);
            }
            Task::Opened(key) => {
                self.sockets.get_mut(&key).expect("what was opened came before").connected = true;
            }
            Task::Connect(key, number) => self.connect(world, key, number),
            Task::ShutdownWrite(key) => {
                let number = self.sockets[&key].conversation;
                world.note(format_args!("{} conversation {number}: no more for its socket", name::<E>()));
                let io = world.conversations[number].connections[E::SIDE].as_mut();
                io.expect("a connected socket").outward.finish(world.now);
            }
            Task::Finish(key) => {
                let number = self.end(world, key, "finishes");
                let io = world.conversations[number].connections[E::SIDE].as_mut();
                io.expect("a connected socket").finish(world.now);
            }
            Task::Reset(key, reason) => {
                assert!(!world.nobody_is_reset, "{} resets a stream: {reason}", name::<E>());
                let number = self.end(world, key, reason);
                let conversation = &mut world.conversations[number];
                let peer_cut = conversation.cut[1 - E::SIDE];
                assert!(reason != CLOSED_BY_PEER || peer_cut.is_some(), "conversation {number}: CLOSE has a reason");
                conversation.cut[E::SIDE].get_or_insert(reason);
                if let Some(io) = &mut conversation.connections[E::SIDE] {
                    io.reset(&mut world.random, world.now);
                }
            }
            Task::Gone(key) => {
                let number = self.failed.remove(&key).expect("a stream that failed, once");
                world.note(format_args!("{} conversation {number}: gone", name::<E>()));
            }
            Task::Note(text) => world.note(format_args!("{} {text}", name::<E>())),
        }
    }

    fn end(&mut self, world: &mut World, key: StreamKey, how: &str) -> usize {
        self.dials.remove(&key);
        let Socket { conversation, .. } = self.sockets.remove(&key).expect("a stream ends once");
        world.note(format_args!("{} conversation {conversation}: {how}", name::<E>()));
        conversation
    }

    fn connect(&mut self, world: &mut World, key: StreamKey, number: usize) {
        world.note(format_args!("device connects to {number}"));
        self.insert(key, number, false);
        match world.conversations[number].dial {
            Dial::Connects(after) => self.dials.insert(key, (world.now + after, true)),
            Dial::Refuses(after) => self.dials.insert(key, (world.now + after, false)),
            Dial::NeverAnswers => None,
        };
    }

    fn insert(&mut self, key: StreamKey, conversation: usize, connected: bool) {
        let socket = Socket { conversation, connected, at_end: false, write_failed: false };
        assert!(self.sockets.insert(key, socket).is_none(), "a key is one stream's for ever");
    }

    fn answer_dials(&mut self, world: &mut World) -> bool {
        let due: Vec<StreamKey> =
            self.dials.iter().filter(|(_, (at, _))| *at <= world.now).map(|(&key, _)| key).collect();
        let moved = !due.is_empty();
        for key in due {
            let Some((_, connects)) = self.dials.remove(&key) else { continue };
            let number = self.sockets[&key].conversation;
            if !connects {
                self.sockets.remove(&key);
                self.failed.insert(key, number);
            }
            world.note(format_args!("service {number} {}", if connects { "accepts" } else { "refuses" }));
            if connects {
                world.connect(number, SERVICE);
                if let Some(socket) = self.sockets.get_mut(&key) {
                    socket.connected = true;
                }
            } else {
                world.conversations[number].cut[SERVICE] = Some("refused");
            }
            self.core.answer(world.instant(), key, connects);
            self.carry_out(world);
        }
        moved
    }

    fn check_marks(&mut self, world: &World) {
        let queue = world.weather.queue.max(E::EXTRA) + LINK_BUFFER;
        let unsent = self.core.unsent().len();
        assert!(unsent <= 384 * 1024, "{unsent} bytes wait for the link");
        let pending: usize = self.sockets.keys().map(|&key| self.core.pending(key).len()).sum();
        if world.version == 2 {
            assert!(pending as u64 <= world.limits.budget, "{pending} bytes wait for sockets");
            assert!(self.core.counters().open <= u64::from(world.limits.streams));
            return;
        }
        let most = world.limits.budget as usize + LINK_BUFFER + E::EXTRA;
        assert!(pending <= most, "{pending} bytes wait for sockets");
        for &key in self.sockets.keys() {
            assert!(self.core.pending(key).len() <= queue, "{} bytes wait for a socket", self.core.pending(key).len());
        }
        assert!(self.core.streams() <= E::MOST_STREAMS, "{} streams", self.core.streams());
        assert_eq!(self.core.streams(), self.sockets.len(), "the core's streams are the shell's sockets");
        assert!(self.core.counters().open <= 256);
    }
}

/// Bytes that a conversation's side took; `None` if it is gone.
fn write(world: &mut World, conversation: usize, side: usize, bytes: &[u8]) -> Option<usize> {
    let io = world.conversations[conversation].connections[side].as_mut().expect("a connected socket");
    if io.inward.is_reset(world.now) { None } else { Some(io.outward.write(&mut world.random, world.now, bytes)) }
}

fn name<E: Core>() -> &'static str {
    ["relay", "device"][E::SIDE]
}

/// Who sends CLOSE first has a reason.
fn check_reason<E: Core>(world: &mut World, number: usize) {
    let pressed = world.conversations.len() > 256;
    let conversation = &mut world.conversations[number];
    conversation.closed_by_relay |= E::SIDE == CLIENT;
    let patience = if E::SIDE == CLIENT && !pressed { world.weather.half_close } else { Duration::ZERO };
    let ended = conversation.ended[E::SIDE].is_some_and(|at| at + patience <= world.now);
    let reason = ended || conversation.cut[E::SIDE].is_some();
    assert!(reason, "conversation {number}: {} has no reason for CLOSE", name::<E>());
}
