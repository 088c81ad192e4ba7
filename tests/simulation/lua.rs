//! The device of 2012 (Lua) as it was observed, with the behaviour that a relay must tolerate.
//!
//! It reads the link no further while it connects to a service or writes to one, loses DATA for a client that it does
//! not know and answers it with CLOSE, and takes the payload of commands that it does not know for frames.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::pipe::Read;
use crate::run::Party;
use crate::wire::{CLOSE, CONNECT, DATA, Frame, Frames, LISTEN};
use crate::world::{CLIENT, Dial, SERVICE, World};

/// It waits to write to the link while more than this waits.
const BACKLOG: usize = 64 * 1024;
/// How long it waits for a service that does not answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);

#[derive(Debug)]
pub(crate) struct LuaDevice {
    /// The conversations of the clients that it knows.
    services: BTreeMap<u8, usize>,
    has_link: bool,
    frames: Frames,
    inbox: VecDeque<Frame>,
    /// What it does instead of reading the link.
    busy: Option<Busy>,
    unsent: Vec<u8>,
}

#[derive(Debug)]
enum Busy {
    Connecting { id: u8, conversation: usize, until: Duration, succeeds: bool },
    Writing { conversation: usize, bytes: Vec<u8> },
}

impl Party for LuaDevice {
    fn turn(&mut self, world: &mut World) -> bool {
        let mut moved = self.read_link(world);
        for id in 0..=u8::MAX {
            moved |= self.read_service(world, id);
        }
        moved | self.write_link(world)
    }

    /// It is killed.
    fn shut(&mut self, world: &mut World) {
        if self.has_link {
            world.link[SERVICE].finish(world.now);
            world.link[CLIENT].sink();
            self.lose_link(world);
        }
    }

    fn next_event(&self, world: &World) -> Option<Duration> {
        match self.busy {
            Some(Busy::Connecting { until, .. }) => Some(until).filter(|&at| at > world.now),
            Some(Busy::Writing { .. }) | None => None,
        }
    }

    fn has_link(&self) -> bool {
        self.has_link
    }

    fn check_empty(&self) {
        assert!(self.services.is_empty(), "the relay has closed every client: {:?}", self.services);
        assert!(self.unsent.is_empty() && self.busy.is_none());
    }
}

impl LuaDevice {
    pub(crate) fn new() -> Self {
        Self {
            services: BTreeMap::new(),
            has_link: true,
            frames: Frames::default(),
            inbox: VecDeque::new(),
            busy: None,
            unsent: Frame { command: LISTEN, id: 0, payload: Vec::new() }.encode(),
        }
    }

    fn read_link(&mut self, world: &mut World) -> bool {
        if !self.has_link {
            return false;
        }
        let mut moved = self.handle_inbox(world);
        if self.busy.is_none() {
            let mut buffer = [0; 8192];
            match world.link[CLIENT].read(&mut world.random, world.now, &mut buffer) {
                Read::Blocked => return moved,
                Read::Bytes(count) => self.inbox.extend(self.frames.push(&buffer[..count])),
                Read::End | Read::Reset => self.lose_link(world),
            }
            self.handle_inbox(world);
            moved = true;
        }
        moved
    }

    fn handle_inbox(&mut self, world: &mut World) -> bool {
        let mut moved = false;
        loop {
            moved |= self.continue_busy(world);
            if self.busy.is_some() {
                return moved;
            }
            let Some(frame) = self.inbox.pop_front() else { return moved };
            moved = true;
            self.handle(world, frame);
        }
    }

    /// True if that led to something.
    fn continue_busy(&mut self, world: &mut World) -> bool {
        match &mut self.busy {
            None => false,
            Some(Busy::Writing { conversation, bytes }) => {
                let count = write(world, *conversation, bytes);
                bytes.drain(..count);
                if bytes.is_empty() {
                    self.busy = None;
                }
                count > 0
            }
            &mut Some(Busy::Connecting { until, .. }) if until > world.now => false,
            &mut Some(Busy::Connecting { id, conversation, succeeds, .. }) => {
                self.busy = None;
                world.note(format_args!("lua is answered by service {conversation}: {succeeds}"));
                if succeeds {
                    world.connect(conversation, SERVICE);
                    self.services.insert(id, conversation);
                } else {
                    world.conversations[conversation].cut[SERVICE] = Some("refused");
                    self.send(world, CLOSE, id, Vec::new());
                }
                true
            }
        }
    }

    fn handle(&mut self, world: &mut World, frame: Frame) {
        let id = frame.id;
        let known = self.services.get(&id).copied();
        match (frame.command, known) {
            (CONNECT, None) => {
                let conversation = frame.conversation();
                let (after, succeeds) = match world.conversations[conversation].dial {
                    Dial::Connects(after) => (after, true),
                    Dial::Refuses(after) => (after, false),
                    Dial::NeverAnswers => (CONNECT_TIMEOUT, false),
                };
                let until = world.now + after;
                self.busy = Some(Busy::Connecting { id, conversation, until, succeeds });
            }
            (DATA, Some(conversation)) => self.busy = Some(Busy::Writing { conversation, bytes: frame.payload }),
            (DATA, None) => self.send(world, CLOSE, id, Vec::new()),
            (CLOSE, Some(conversation)) => {
                self.services.remove(&id);
                if let Some(io) = &mut world.conversations[conversation].connections[SERVICE] {
                    io.finish(world.now);
                }
                self.send(world, CLOSE, id, Vec::new());
            }
            (CLOSE, None) => {}
            (CONNECT, Some(_)) => panic!("number {id} is in use"),
            (command, _) => assert!(frame.payload.is_empty(), "a payload of command {command} is taken for frames"),
        }
    }

    /// One read of a service.
    fn read_service(&mut self, world: &mut World, id: u8) -> bool {
        let Some(&index) = self.services.get(&id) else { return false };
        if self.unsent.len() > BACKLOG {
            return false;
        }
        let conversation = &mut world.conversations[index];
        let io = conversation.connections[SERVICE].as_mut().expect("an open service");
        let mut buffer = vec![0; usize::from(u16::MAX)];
        let read = io.inward.read(&mut world.random, world.now, &mut buffer);
        match read {
            Read::Blocked => return false,
            Read::Bytes(count) => {
                conversation.committed[SERVICE] += count as u64;
                buffer.truncate(count);
                self.send(world, DATA, id, buffer);
            }
            Read::End | Read::Reset => {
                if read == Read::End {
                    conversation.ended[SERVICE] = Some(world.now);
                } else {
                    conversation.cut[SERVICE] = Some("failed");
                }
                io.finish(world.now);
                self.services.remove(&id);
                self.send(world, CLOSE, id, Vec::new());
            }
        }
        true
    }

    fn send(&mut self, world: &mut World, command: u8, id: u8, payload: Vec<u8>) {
        world.note(format_args!("lua sends command {command} for {id} with {} bytes", payload.len()));
        self.unsent.extend(Frame { command, id, payload }.encode());
    }

    fn write_link(&mut self, world: &mut World) -> bool {
        if !self.has_link || self.unsent.is_empty() || world.link[SERVICE].is_ended() {
            return false;
        }
        let count = world.link[SERVICE].write(&mut world.random, world.now, &self.unsent);
        self.unsent.drain(..count);
        count > 0
    }

    fn lose_link(&mut self, world: &mut World) {
        world.note(format_args!("lua has no link any more"));
        self.has_link = false;
        self.unsent.clear();
        self.inbox.clear();
        self.busy = None;
        for (_, index) in std::mem::take(&mut self.services) {
            let conversation = &mut world.conversations[index];
            conversation.cut[SERVICE].get_or_insert("link lost");
            if let Some(io) = &mut conversation.connections[SERVICE] {
                io.finish(world.now);
            }
        }
    }
}

/// How many bytes a service took; what one takes that is gone, vanishes.
fn write(world: &mut World, conversation: usize, bytes: &[u8]) -> usize {
    match &mut world.conversations[conversation].connections[SERVICE] {
        Some(io) if !io.is_released() && !io.inward.is_reset(world.now) => {
            io.outward.write(&mut world.random, world.now, bytes)
        }
        _ => bytes.len(),
    }
}
