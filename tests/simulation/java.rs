//! The relay of 2012 (Java) as it was observed, with the behaviour that a device must tolerate.
//!
//! It reads a client before it announces it, takes a number again while it is in use, writes to clients from the one
//! thread that reads the link, and closes a client only when the device has answered.

use std::collections::VecDeque;
use std::time::Duration;

use crate::pipe::Read;
use crate::run::Party;
use crate::wire::{CLOSE, CONNECT, DATA, Frame, Frames, LISTEN};
use crate::world::{CLIENT, Conversation, SERVICE, World};

/// Its buffer is 8,192 bytes, header and all.
const MOST_PAYLOAD: usize = 8188;
/// Its threads wait to write to the link while more than this waits.
const BACKLOG: usize = 16 * 1024;

#[derive(Debug)]
pub(crate) struct JavaRelay {
    /// It takes number 0 again after so many: 256 in truth, and less to meet numbers again soon.
    count: usize,
    next: usize,
    numbers: Vec<Number>,
    /// The client that was accepted last, until its CONNECT is sent; no other is accepted before.
    announcing: Option<(Duration, u8, usize)>,
    /// CLOSEs that slow threads are still to send.
    late: Vec<(Duration, u8)>,
    listening: bool,
    has_link: bool,
    frames: Frames,
    inbox: VecDeque<Frame>,
    /// What the link's thread is writing to a client: nothing else is read meanwhile.
    writing: Option<(usize, Vec<u8>)>,
    unsent: Vec<u8>,
}

/// What has become of one number.
#[derive(Clone, Debug, Default)]
struct Number {
    client: Option<Client>,
    /// The conversations that ever had it, how many of them were announced, and how many the device has closed.
    had: Vec<usize>,
    connects: usize,
    closes: usize,
    /// It was taken again too early: from there on neither side knows what the other means by it.
    confused: bool,
}

#[derive(Clone, Copy, Debug)]
struct Client {
    conversation: usize,
    /// Its thread still reads it, and has not sent CLOSE.
    reading: bool,
}

impl Party for JavaRelay {
    fn turn(&mut self, world: &mut World) -> bool {
        let mut moved = self.accept(world) | self.announce(world) | self.send_late(world);
        moved |= self.read_link(world);
        for id in 0..=u8::MAX {
            moved |= self.read_client(world, id);
        }
        moved | self.write_link(world)
    }

    /// It is killed.
    fn shut(&mut self, world: &mut World) {
        if self.has_link {
            world.link[CLIENT].finish(world.now);
            world.link[SERVICE].sink();
            self.lose_link(world);
        }
    }

    fn next_event(&self, world: &World) -> Option<Duration> {
        let late = self.late.iter().map(|&(at, _)| at);
        late.chain(self.announcing.map(|(at, ..)| at)).filter(|&at| at > world.now).min()
    }

    fn has_link(&self) -> bool {
        self.has_link
    }

    fn check_empty(&self) {
        let left = self.numbers.iter().position(|number| number.client.is_some() && !number.confused);
        assert_eq!(left, None, "the device has closed every client");
        assert!(self.unsent.is_empty() && self.writing.is_none());
    }
}

impl JavaRelay {
    pub(crate) fn new(count: usize) -> Self {
        Self {
            count,
            next: 1,
            numbers: vec![Number::default(); 256],
            announcing: None,
            late: Vec::new(),
            listening: false,
            has_link: true,
            frames: Frames::default(),
            inbox: VecDeque::new(),
            writing: None,
            unsent: Vec::new(),
        }
    }

    fn accept(&mut self, world: &mut World) -> bool {
        let mut moved = false;
        for conversation in 0..world.conversations.len() {
            let Conversation { arrived, arrives, .. } = world.conversations[conversation];
            if arrived || arrives > world.now {
                continue;
            }
            if !self.has_link {
                world.conversations[conversation].arrived = true;
                moved = true;
            } else if self.listening && self.announcing.is_none() {
                self.accept_one(world, conversation);
                moved = true;
            }
        }
        moved
    }

    fn accept_one(&mut self, world: &mut World, conversation: usize) {
        let id = self.next as u8;
        self.next = (self.next + 1) % self.count;
        world.connect(conversation, CLIENT);
        world.note(format_args!("java gives number {id} to conversation {conversation}"));
        let number = &mut self.numbers[usize::from(id)];
        // What the old client's service still sends reaches the new one, and so does the CLOSE of its slow thread.
        let behind = number.confused || self.late.iter().any(|&(_, late)| late == id);
        let old = number.client.replace(Client { conversation, reading: true });
        number.had.push(conversation);
        number.confused |= behind || old.is_some();
        world.conversations[conversation].apps[CLIENT].tainted = number.confused;
        world.conversations[conversation].apps[SERVICE].tainted = behind;
        if let Some(old) = old {
            self.end_client(world, old.conversation, "number taken");
            if old.reading && world.random.chance(30) {
                world.conversations[conversation].apps[SERVICE].tainted = true;
                self.late.push((world.now + Duration::from_micros(world.random.magnitude(3_000)), id));
            }
        }
        // So late that the device has given up.
        let most = if !world.answered && world.random.chance(2) { 8_000_000 } else { 3_000 };
        let delay = Duration::from_micros(if world.random.chance(50) { 0 } else { world.random.magnitude(most) });
        self.announcing = Some((world.now + delay, id, conversation));
    }

    fn announce(&mut self, world: &mut World) -> bool {
        let due = self.announcing.take_if(|(at, ..)| *at <= world.now);
        let Some((_, id, conversation)) = due else { return false };
        let host = format!("c{conversation}");
        let mut payload = (host.len() as u16).to_be_bytes().to_vec();
        payload.extend(host.as_bytes());
        payload.extend(1u16.to_be_bytes());
        self.numbers[usize::from(id)].connects += 1;
        self.send(world, CONNECT, id, payload);
        true
    }

    fn send_late(&mut self, world: &mut World) -> bool {
        let due: Vec<u8> = self.late.iter().filter(|(at, _)| *at <= world.now).map(|&(_, id)| id).collect();
        self.late.retain(|(at, _)| *at > world.now);
        for &id in &due {
            self.send(world, CLOSE, id, Vec::new());
        }
        !due.is_empty()
    }

    fn read_link(&mut self, world: &mut World) -> bool {
        if !self.has_link {
            return false;
        }
        let mut moved = self.handle_inbox(world);
        if self.writing.is_none() {
            let mut buffer = [0; 8192];
            let read = world.link[SERVICE].read(&mut world.random, world.now, &mut buffer);
            match read {
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
            if let Some((conversation, bytes)) = &mut self.writing {
                let count = write(world, *conversation, bytes);
                bytes.drain(..count);
                moved |= count > 0;
                if !bytes.is_empty() {
                    return moved;
                }
                self.writing = None;
            }
            let Some(frame) = self.inbox.pop_front() else { return moved };
            moved = true;
            self.handle(world, frame);
        }
    }

    fn handle(&mut self, world: &mut World, frame: Frame) {
        let Frame { command, id, payload } = frame;
        assert!(self.listening || command == LISTEN, "LISTEN comes first");
        let number = &mut self.numbers[usize::from(id)];
        match (command, number.client) {
            (LISTEN, _) => {
                assert!(!self.listening && id == 0 && payload.is_empty(), "one LISTEN");
                self.listening = true;
            }
            (DATA, None) if payload.is_empty() => {
                assert!(number.had.is_empty(), "number {id}: an empty DATA that makes it lose framing");
                self.send(world, CLOSE, id, Vec::new());
            }
            (DATA, client) => {
                assert!(!payload.is_empty(), "no DATA is empty for a client that is there");
                assert!(number.connects > 0, "number {id}: DATA that makes it lose framing");
                assert!(client.is_some() || number.confused, "number {id}: DATA behind CLOSE");
                self.writing = client.map(|client| (client.conversation, payload));
            }
            (CLOSE, client) => {
                assert!(payload.is_empty());
                number.closes += 1;
                let most = number.had.len() + number.connects;
                assert!(number.closes <= most || number.confused, "number {id}: a CLOSE for early bytes, or a CONNECT");
                let Some(client) = client else { return };
                number.client = None;
                // A CONNECT that comes behind this has no client.
                number.confused |= self.announcing.is_some_and(|(_, announcing, _)| announcing == id);
                self.end_client(world, client.conversation, "closed by the device");
                if client.reading {
                    // Its reading thread fails, at its own time.
                    if world.random.chance(80) {
                        self.send(world, CLOSE, id, Vec::new());
                    } else {
                        self.late.push((world.now + Duration::from_micros(world.random.magnitude(3_000)), id));
                    }
                }
            }
            // Whatever it does not know, it closes.
            (_, None) if payload.is_empty() => self.send(world, CLOSE, id, Vec::new()),
            (_, _) => assert!(payload.is_empty(), "a payload of command {command} is taken for frames"),
        }
    }

    fn end_client(&mut self, world: &mut World, conversation: usize, why: &'static str) {
        world.note(format_args!("java ends conversation {conversation}: {why}"));
        let conversation = &mut world.conversations[conversation];
        if why != "closed by the device" {
            conversation.cut[CLIENT].get_or_insert(why);
            conversation.closed_by_relay = true;
        }
        if let Some(io) = &mut conversation.connections[CLIENT] {
            io.finish(world.now);
        }
    }

    /// One read of a client by its thread.
    fn read_client(&mut self, world: &mut World, id: u8) -> bool {
        let announced = self.announcing.is_none_or(|(_, announcing, _)| announcing != id);
        let number = &mut self.numbers[usize::from(id)];
        let Some(client) = &mut number.client else { return false };
        if !client.reading || self.unsent.len() > BACKLOG {
            return false;
        }
        let conversation = &mut world.conversations[client.conversation];
        let io = conversation.connections[CLIENT].as_mut().expect("an open client");
        let mut buffer = [0; MOST_PAYLOAD];
        let read = io.inward.read(&mut world.random, world.now, &mut buffer);
        match read {
            Read::Blocked => return false,
            Read::Bytes(count) => {
                conversation.committed[CLIENT] += count as u64;
                if number.confused && !announced {
                    // It goes to the service of a client that had the number before.
                    number.had.iter().for_each(|&had| world.conversations[had].apps[SERVICE].tainted = true);
                }
                self.send(world, DATA, id, buffer[..count].to_vec());
            }
            Read::End | Read::Reset => {
                client.reading = false;
                conversation.closed_by_relay = true;
                if read == Read::End {
                    conversation.ended[CLIENT] = Some(world.now);
                } else {
                    conversation.cut[CLIENT] = Some("failed");
                }
                self.send(world, CLOSE, id, Vec::new());
            }
        }
        true
    }

    fn send(&mut self, world: &mut World, command: u8, id: u8, payload: Vec<u8>) {
        world.note(format_args!("java sends command {command} for {id} with {} bytes", payload.len()));
        self.unsent.extend(Frame { command, id, payload }.encode());
    }

    fn write_link(&mut self, world: &mut World) -> bool {
        if !self.has_link || self.unsent.is_empty() || world.link[CLIENT].is_ended() {
            return false;
        }
        let count = world.link[CLIENT].write(&mut world.random, world.now, &self.unsent);
        self.unsent.drain(..count);
        count > 0
    }

    /// It closes its clients as if all were well.
    fn lose_link(&mut self, world: &mut World) {
        world.note(format_args!("java has no link any more"));
        self.has_link = false;
        self.unsent.clear();
        self.inbox.clear();
        self.late.clear();
        self.announcing = None;
        self.writing = None;
        for id in 0..self.numbers.len() {
            if let Some(client) = self.numbers[id].client.take() {
                self.end_client(world, client.conversation, "link lost");
            }
        }
    }
}

/// How many bytes a client took; what one takes that is gone, vanishes.
fn write(world: &mut World, conversation: usize, bytes: &[u8]) -> usize {
    match &mut world.conversations[conversation].connections[CLIENT] {
        Some(io) if !io.is_released() && !io.inward.is_reset(world.now) => {
            io.outward.write(&mut world.random, world.now, bytes)
        }
        _ => bytes.len(),
    }
}
