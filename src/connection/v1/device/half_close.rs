//! What a service may still say to a client that has ended its sending.
//!
//! The relay of 2012 sends CLOSE for it, and for one that is gone, and keeps it until ours is there: what comes before
//! is still written to it. Every other relay throws that away. The answer to [`Header::PROBE`] tells the one from the other.

use std::time::{Duration, Instant};

use super::{Device, Id, Output, Timer};
use crate::connection::v1::link::Side;
use crate::connection::{Connection, StreamKey};
use crate::protocol::v1::Header;

/// How long the service may be silent: the relay's own half-close time.
const MOST_SILENCE: Duration = Duration::from_secs(1);
/// How long it may speak. To a client that is gone for good it speaks in vain.
const MOST_TIME: Duration = Duration::from_secs(10);
/// How much it may say.
const MOST_BYTES: usize = 1024 * 1024;
/// The relay of 2012 gives a number anew 256 clients later. So many before that the client that had it must be over,
/// since what is on its way to it then would be the next one's.
const LEAD: u8 = 128;

/// What a service says once it has its end of stream.
#[derive(Debug)]
pub(super) struct Answer {
    /// When the link last took some of it, or stood still.
    last: Instant,
    until: Instant,
    left: usize,
}

impl Answer {
    fn new(now: Instant) -> Self {
        Self { last: now, until: now + MOST_TIME, left: MOST_BYTES }
    }

    /// So much more was said; false once it is too much.
    pub(super) fn note(&mut self, now: Instant, bytes: usize) -> bool {
        self.last = now;
        self.left = self.left.saturating_sub(bytes);
        self.left > 0
    }

    /// When it is over, if nothing more is said.
    fn due(&self) -> Instant {
        self.until.min(self.last + MOST_SILENCE)
    }
}

impl Device {
    /// Takes a CLOSE for a number that is not open: whether that is the answer to the probe, since no client has had the
    /// number yet.
    pub(super) fn take_answer_to_probe(&mut self, client: u8) -> bool {
        let answers = client == Header::PROBE.client && self.link.counters.opened < u64::from(LEAD);
        self.keeps_clients |= answers;
        answers
    }

    /// CONNECT came for `client`: one that is half-closed may be in the way of the next ones.
    pub(super) fn note_number(&mut self, now: Instant, client: u8) {
        self.latest = client;
        if let Id::HalfClosed(oldest) = self.ids[usize::from(client.wrapping_add(LEAD))] {
            self.close_stream(now, oldest);
        }
    }

    /// The client sends no more: its service gets what is left, then its end of stream, and may answer if that can reach
    /// the client.
    pub(super) fn half_close(&mut self, now: Instant, client: u8, key: StreamKey) {
        self.ids[usize::from(client)] = Id::HalfClosed(key);
        if !self.keeps_clients || self.latest.wrapping_sub(client) >= LEAD {
            self.close_stream(now, key);
        } else {
            self.link.streams.start_delivery_timer(now, key);
            self.finish_if_delivered(now, key);
        }
    }

    /// All that the client sent is delivered.
    pub(super) fn begin_answer(&mut self, now: Instant, key: StreamKey) {
        let Some(stream) = self.link.streams.get_mut(key).filter(|stream| stream.state.answer.is_none()) else {
            return;
        };
        let answer = stream.state.answer.insert(Answer::new(now));
        self.link.timers.set(Timer::Answer(key), answer.due());
        self.link.streams.stop_delivery_timer(key);
        self.link.outputs.push_back(Output::ShutdownWrite { stream: key });
    }

    /// The service may have been silent for too long.
    pub(super) fn handle_answer_due(&mut self, now: Instant, key: StreamKey) {
        let stands_still = self.has_unsent();
        let Some(answer) = self.link.streams.get_mut(key).and_then(|stream| stream.state.answer.as_mut()) else {
            return;
        };
        if stands_still {
            answer.note(now, 0);
        }
        let due = answer.due();
        if due > now {
            self.link.timers.set(Timer::Answer(key), due);
        } else {
            self.close_stream(now, key);
        }
    }
}
