//! Control frames that are to be sent: kept as state, and made into frames when the link takes some.

use std::collections::BTreeMap;

use super::{Mux, Timer};
use crate::protocol::v2::{self, Close, Code, Flags, Header};

/// Bytes of control frames that are made ready at a time.
const CONTROL_BATCH: usize = 4 * 1024;

/// CLOSEs to be sent. However many there are, one is found in logarithmic time: a peer may name any stream as often as it likes.
#[derive(Debug, Default)]
pub(super) struct PendingCloses {
    /// By how much of the queue of DATA must have left before, and the stream.
    in_order: BTreeMap<(u64, u32), Close>,
    after: BTreeMap<u32, u64>,
}

impl PendingCloses {
    /// It leaves once the queue of DATA has up to `after`: never before the stream's own bytes.
    fn insert(&mut self, number: u32, close: Close, after: u64) {
        self.in_order.insert((after, number), close);
        self.after.insert(number, after);
    }

    /// The stream's CLOSE is of no use any more, if there is one.
    pub(super) fn cancel(&mut self, number: u32) {
        if let Some(after) = self.after.remove(&number) {
            self.in_order.remove(&(after, number));
        }
    }

    /// Whether one may leave, now that so much of the queue of DATA has.
    pub(super) fn is_due(&self, sent: u64) -> bool {
        self.in_order.first_key_value().is_some_and(|(&(after, _), _)| after <= sent)
    }

    fn pop_due(&mut self, sent: u64) -> Option<(u32, Close)> {
        if !self.is_due(sent) {
            return None;
        }
        let ((_, number), close) = self.in_order.pop_first()?;
        self.after.remove(&number);
        Some((number, close))
    }

    pub(super) fn len(&self) -> usize {
        self.in_order.len()
    }

    /// Frees the memory, if there is none.
    pub(super) fn give_back(&mut self) {
        if self.in_order.is_empty() {
            *self = Self::default();
        }
    }
}

impl Mux {
    /// Makes frames of what is pending, as long as they are few.
    pub(super) fn make_control_frames(&mut self) {
        if self.send_buffer.batch_len() == 0
            && let Some((offset, clock)) = self.reading.take_ack()
        {
            self.send_buffer.push_uncounted(&v2::ack(offset, clock));
        }
        if let Some(payload) = self.pending_pong.take() {
            self.send_buffer.push_control(&v2::ping(payload, Flags::ACK));
        }
        while self.send_buffer.batch_len() < CONTROL_BATCH
            && let Some(key) = self.pending_control.pop_front()
        {
            let Some(stream) = self.streams.get_mut(key) else { continue };
            let Some(number) = stream.number() else { continue };
            let (connected, credit) = stream.take_pending();
            if connected {
                self.send_buffer.push_control(&connected_frame(number));
            }
            if credit {
                self.send_buffer.push_control(&v2::credit(number, stream.window.limit()));
            }
        }
        while self.send_buffer.batch_len() < CONTROL_BATCH
            && let Some((number, close)) = self.closes.pop_due(self.send_buffer.sent())
        {
            self.send_buffer.push_control(&close.frame(number));
        }
    }

    pub(super) fn push_close(&mut self, number: u32, code: Code, reason: &str) {
        self.closes.insert(number, Close { code, reason: reason.into() }, self.send_buffer.queued());
    }

    pub(super) fn push_ping(&mut self, payload: [u8; 8]) {
        self.send_buffer.push_control(&v2::ping(payload, Flags::NONE));
        self.timers.set(Timer::Liveness, self.liveness.poll_timeout());
    }
}

pub(super) fn connected_frame(stream: u32) -> [u8; Header::LEN] {
    Header { size: 0, kind: v2::Type::Connected, flags: Flags::NONE, stream }.encode()
}
