//! Which stream may send next, on a link whose peer acknowledges: interactive ones at once, bulk in turns.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::liveness::LATE;
use super::pacing::Pacing;
use super::stream::Turn;
use super::{Greeting, Mux, QUANTUM, Timer};
use crate::connection::StreamKey;
use crate::protocol::ProtocolError;

/// How long a peer may take to acknowledge anything, once a frame has left that asks for it.
const ACK_WITHIN: Duration = Duration::from_secs(60);

/// Interactive streams that are named at once: the others cost nothing meanwhile, however many they are.
const INTERACTIVE_AT_ONCE: usize = 8;

/// Streams that have something to send and must wait: each is named by
/// [`poll_unblocked`](crate::connection::Connection::poll_unblocked) when it is its turn.
#[derive(Debug, Default)]
pub(super) struct WaitingStreams {
    interactive: VecDeque<StreamKey>,
    bulk: VecDeque<StreamKey>,
    /// The most that the stream may send whose socket is being read.
    offered: usize,
}

impl WaitingStreams {
    /// The streams that stand in line with one of this kind. Those that were named are among the first.
    fn line(&mut self, is_bulk: bool) -> &mut VecDeque<StreamKey> {
        if is_bulk { &mut self.bulk } else { &mut self.interactive }
    }
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
        let line = self.waiting_streams.line(stream.bulk);
        let is_turn = stream.turn == Turn::Come || line.is_empty();
        let may_send = if stream.bulk { pacing.may_send_bulk() } else { pacing.may_send_interactive() };
        if is_turn && may_send {
            let offered = most.min(pacing.most_at_once() - self.send_buffer.data_len());
            self.waiting_streams.offered = offered;
            // Not only when it has sent something: its socket may have nothing after all.
            self.stop_sending(key);
            return Some(offered);
        }
        if stream.turn == Turn::None {
            line.push_back(key);
        }
        // Where it stood, if it did.
        stream.turn = Turn::Awaited;
        if may_send {
            self.release_next();
        } else {
            pacing.note_held_back();
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

    /// The stream stands in line no more: it sends, or has nothing to send, for now or for good. None stays there that is not
    /// to be named: it might never be read then, and the others would wait for it.
    pub(super) fn stop_sending(&mut self, key: StreamKey) {
        let Some(stream) = self.streams.get_mut(key) else { return };
        if std::mem::replace(&mut stream.turn, Turn::None) == Turn::None {
            return;
        }
        let line = self.waiting_streams.line(stream.bulk);
        // One whose turn has come is among the first.
        if let Some(place) = line.iter().position(|&other| other == key) {
            line.remove(place);
        }
        self.release_next();
    }

    /// Names the streams whose turn it is: a few that are interactive, and one of bulk.
    fn release_next(&mut self) {
        let Some(pacing) = &self.pacing else { return };
        let WaitingStreams { interactive, bulk, .. } = &self.waiting_streams;
        let interactive = interactive.iter().take(if pacing.may_send_interactive() { INTERACTIVE_AT_ONCE } else { 0 });
        let bulk = bulk.iter().take(usize::from(pacing.may_send_bulk()));
        for &key in interactive.chain(bulk) {
            if let Some(stream) = self.streams.get_mut(key)
                && stream.turn == Turn::Awaited
            {
                stream.turn = Turn::Come;
                self.unblocked.push_back(key);
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
