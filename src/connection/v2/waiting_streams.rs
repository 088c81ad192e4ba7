//! Which stream may send next, on a link whose peer acknowledges: interactive ones at once, bulk in turns.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::liveness::LATE;
use super::pacing::Pacing;
use super::{Greeting, Mux, QUANTUM, Timer};
use crate::connection::StreamKey;
use crate::protocol::ProtocolError;

/// How long a peer may take to acknowledge anything, once a frame has left that asks for it.
const ACK_WITHIN: Duration = Duration::from_secs(60);

/// Streams that have something to send and must wait: each is named by
/// [`poll_unblocked`](crate::connection::Connection::poll_unblocked) when it is its turn.
#[derive(Debug, Default)]
pub(super) struct WaitingStreams {
    interactive: VecDeque<StreamKey>,
    bulk: VecDeque<StreamKey>,
    /// The bulk stream that was named, until it is read.
    named: Option<StreamKey>,
    /// The most that the stream may send whose socket is being read.
    offered: usize,
}

impl Mux {
    /// A peer that acknowledges is sent no more than the path carries, from the first stream on.
    pub(super) fn begin_pacing(&mut self, now: Instant) {
        let acknowledges = self.greeting == Greeting::Done && self.peer.acknowledges;
        if acknowledges && self.pacing.is_none() && !self.numbers.is_empty() {
            self.pacing = Some(Box::new(Pacing::new(now)));
        }
    }

    /// How much of `most` bytes the stream may send now; `None` if it must wait for its turn.
    pub(super) fn claim_room(&mut self, key: StreamKey, most: usize) -> Option<usize> {
        let (Some(pacing), Some(stream)) = (&mut self.pacing, self.streams.get_mut(key)) else { return Some(most) };
        let waiting = &mut self.waiting_streams;
        let was_named = waiting.named.take_if(|named| *named == key).is_some();
        let is_turn = !stream.bulk || was_named || waiting.bulk.is_empty() && waiting.named.is_none();
        let may_send = if stream.bulk { pacing.may_send_bulk() } else { pacing.may_send_interactive() };
        if is_turn && may_send {
            let offered = most.min(pacing.most_at_once() - self.send_buffer.data_len());
            waiting.offered = offered;
            self.stop_waiting(key);
            // Not only when it has sent something: its socket may have nothing after all.
            self.release_next();
            return Some(offered);
        }
        if !may_send {
            pacing.note_held_back();
        }
        if !std::mem::replace(&mut stream.paced, true) {
            if !stream.bulk {
                waiting.interactive.push_back(key);
            } else if was_named {
                waiting.bulk.push_front(key);
            } else {
                waiting.bulk.push_back(key);
            }
        }
        None
    }

    /// The stream sends `count` bytes in frames of `bytes`, which end at `place` in the queue of DATA. Returns whether the
    /// peer is to acknowledge them.
    pub(super) fn spend_room(&mut self, now: Instant, key: StreamKey, count: usize, bytes: usize, place: u64) -> bool {
        let (Some(pacing), Some(stream)) = (&mut self.pacing, self.streams.get_mut(key)) else { return false };
        let is_filled = count >= self.waiting_streams.offered;
        stream.filled = if is_filled { stream.filled + count } else { 0 };
        // A room that was short for what others have queued, or for want of credit, is filled by a small answer, too.
        if count.max(stream.filled) >= pacing.most_at_once().min(QUANTUM) {
            stream.bulk = true;
        } else if !is_filled {
            stream.bulk = false;
        }
        let more = stream.bulk || !self.waiting_streams.bulk.is_empty();
        pacing.handle_cut(now, bytes, place, stream.bulk, more)
    }

    /// The stream has nothing to send, for now or for good.
    pub(super) fn stop_sending(&mut self, key: StreamKey) {
        self.stop_waiting(key);
        if self.waiting_streams.named.take_if(|named| *named == key).is_some() {
            self.release_next();
        }
    }

    /// None waits that is not to be named: it might never be read then, and the others would wait for it.
    fn stop_waiting(&mut self, key: StreamKey) {
        if self.streams.get_mut(key).is_some_and(|stream| std::mem::take(&mut stream.paced)) {
            self.waiting_streams.interactive.retain(|&other| other != key);
            self.waiting_streams.bulk.retain(|&other| other != key);
        }
    }

    /// Names the streams whose turn it is: one of bulk at a time.
    fn release_next(&mut self) {
        let Some(pacing) = &self.pacing else { return };
        if pacing.may_send_interactive() {
            self.unblocked.extend(&self.waiting_streams.interactive);
            for key in self.waiting_streams.interactive.drain(..) {
                if let Some(stream) = self.streams.get_mut(key) {
                    stream.paced = false;
                }
            }
        }
        if pacing.may_send_bulk() && self.waiting_streams.named.is_none() {
            self.waiting_streams.named = self.waiting_streams.bulk.pop_front();
            self.unblocked.extend(self.waiting_streams.named);
            if let Some(stream) = self.waiting_streams.named.and_then(|key| self.streams.get_mut(key)) {
                stream.paced = false;
            }
        }
    }

    /// When the next stream may be named.
    pub(super) fn next_release(&self) -> Option<Instant> {
        self.pacing.as_ref().and_then(|pacing| pacing.poll_timeout())
    }

    /// Time has passed.
    pub(super) fn release_due(&mut self, now: Instant) {
        if let Some(pacing) = &mut self.pacing {
            pacing.handle_time(now);
            self.release_next();
        }
    }

    /// The peer has read so much.
    pub(super) fn handle_ack(&mut self, now: Instant, offset: u64, clock: u32) -> Result<(), ProtocolError> {
        if !self.pacing.as_mut().is_some_and(|pacing| pacing.handle_ack(now, offset, clock)) {
            return self.note_abuse(now);
        }
        self.release_due(now);
        Ok(())
    }

    /// A peer that is to acknowledge something has its time for it.
    pub(super) fn await_ack(&mut self) {
        if !self.timers.is_set(Timer::Ack)
            && let Some(since) = self.pacing.as_ref().and_then(|pacing| pacing.unanswered_since())
        {
            self.timers.set(Timer::Ack, since + ACK_WITHIN);
        }
    }

    /// That time may be over.
    pub(super) fn handle_ack_timeout(&mut self, now: Instant) -> Result<(), ProtocolError> {
        if let Some(pacing) = &mut self.pacing
            && let Some(due) = pacing.unanswered_since().map(|since| since + ACK_WITHIN)
            && due <= now
        {
            if now <= due + LATE {
                return Err(ProtocolError::Unacknowledged);
            }
            pacing.restart_wait(now);
        }
        self.await_ack();
        Ok(())
    }

    /// There is no link any more.
    pub(super) fn end_pacing(&mut self) {
        self.pacing = None;
        self.waiting_streams = WaitingStreams::default();
    }
}
