//! What clients and services do: send, read at their own pace, end well or badly.

use std::time::Duration;

use crate::pipe::{Connection, Ending, Read};
use crate::random::{Random, mix};

/// How one side of a conversation behaves.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Bytes to send.
    pub(crate) total: u64,
    /// Most bytes of a write, and the pause behind it.
    pub(crate) write: (usize, Duration),
    /// Most bytes of a read, and the pause behind it.
    pub(crate) read: (usize, Duration),
    /// Reads nothing more after so many bytes, until all is healed.
    pub(crate) reads_only: Option<u64>,
    pub(crate) end: End,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// FIN behind the last byte, and goes on reading.
    Half,
    /// Sends all, waits for the other's end, then closes.
    Last,
    /// Closes both directions behind the last byte.
    Full,
    /// RST once so many bytes are sent.
    Reset(u64),
}

/// One side of a conversation.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) plan: Plan,
    /// Fixes every byte that this side sends.
    own: u64,
    /// Fixes every byte that this side may read.
    other: u64,
    pub(crate) sent: u64,
    pub(crate) received: u64,
    next_write: Duration,
    next_read: Duration,
    /// How what it reads ended.
    pub(crate) saw: Option<Ending>,
    /// It sends no more.
    pub(crate) ended: bool,
    /// A relay of 2012 gives it what is another's: what it reads proves nothing.
    pub(crate) tainted: bool,
    /// It is gone for good: what arrives is answered with RST.
    pub(crate) gone: bool,
}

/// The byte at `offset` of the stream that `identity` fixes.
pub(crate) fn byte(identity: u64, offset: u64) -> u8 {
    ((identity.wrapping_add(offset)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

impl App {
    pub(crate) fn new(conversation: usize, side: usize, plan: Plan) -> Self {
        let identity = |side: usize| mix((conversation * 2 + side) as u64 + 1);
        Self {
            plan,
            own: identity(side),
            other: identity(1 - side),
            sent: 0,
            received: 0,
            next_write: Duration::ZERO,
            next_read: Duration::ZERO,
            saw: None,
            ended: false,
            tainted: false,
            gone: false,
        }
    }

    /// Whether it will do nothing more.
    pub(crate) fn is_over(&self) -> bool {
        self.gone || (self.ended && self.saw.is_some())
    }

    /// Reads and writes what it can now; true if something moved.
    pub(crate) fn turn(&mut self, random: &mut Random, now: Duration, io: &mut Connection) -> bool {
        if self.gone {
            if io.outward.has_arrived(now) && !io.inward.is_reset(Duration::MAX) {
                io.outward.sink();
                io.inward.reset(random, now);
                return true;
            }
            return false;
        }
        let read = self.read(random, now, io);
        let wrote = !self.gone && !self.ended && self.write(random, now, io);
        read || wrote
    }

    fn read(&mut self, random: &mut Random, now: Duration, io: &mut Connection) -> bool {
        if self.saw.is_some() || now < self.next_read || self.plan.reads_only.is_some_and(|most| self.received >= most)
        {
            return false;
        }
        let mut buffer = vec![0; self.plan.read.0];
        match io.outward.read(random, now, &mut buffer) {
            Read::Bytes(count) => {
                for (offset, &got) in (self.received..).zip(&buffer[..count]) {
                    let right = self.tainted || got == byte(self.other, offset);
                    assert!(right, "the byte at {offset} is the one that was sent there");
                }
                self.received += count as u64;
                self.next_read = now + self.plan.read.1;
            }
            Read::Blocked => return false,
            Read::End => self.saw = Some(Ending::Fin),
            Read::Reset => {
                self.saw = Some(Ending::Rst);
                self.close(io, now);
            }
        }
        true
    }

    fn write(&mut self, random: &mut Random, now: Duration, io: &mut Connection) -> bool {
        if let End::Reset(at) = self.plan.end
            && self.sent >= at.min(self.plan.total)
        {
            io.inward.reset(random, now);
            io.outward.sink();
            self.ended = true;
            self.gone = true;
            return true;
        }
        if self.sent == self.plan.total {
            return match self.plan.end {
                End::Half => {
                    io.inward.finish(now);
                    self.ended = true;
                    true
                }
                End::Last if self.saw.is_some() => {
                    self.close(io, now);
                    true
                }
                End::Full => {
                    self.close(io, now);
                    true
                }
                End::Last | End::Reset(_) => false,
            };
        }
        if now < self.next_write {
            return false;
        }
        let room = io.inward.room(now);
        if room == 0 {
            return false;
        }
        let count = (self.plan.total - self.sent).min(self.plan.write.0.min(room) as u64);
        let bytes: Vec<u8> = (self.sent..self.sent + count).map(|offset| byte(self.own, offset)).collect();
        let count = io.inward.write(random, now, &bytes);
        self.sent += count as u64;
        if count > 0 {
            self.next_write = now + self.plan.write.1;
        }
        count > 0
    }

    fn close(&mut self, io: &mut Connection, now: Duration) {
        io.inward.finish(now);
        self.ended = true;
        self.gone = true;
    }

    /// No more faults: reads everything, sends no more, and closes.
    pub(crate) fn heal(&mut self) {
        self.plan.reads_only = None;
        self.plan.read = (64 * 1024, Duration::ZERO);
        self.plan.write.1 = Duration::ZERO;
        if !matches!(self.plan.end, End::Reset(_)) {
            self.plan.total = self.sent;
            self.plan.end = End::Half;
        }
        self.next_read = Duration::ZERO;
        self.next_write = Duration::ZERO;
    }

    pub(crate) fn next_event(&self, now: Duration) -> Option<Duration> {
        [self.next_read, self.next_write].into_iter().filter(|&at| at > now && !self.is_over()).min()
    }
}
