//! What is owed to the peer, as state, and how it becomes frames.

use super::{Mux, OwedClose, Timer};
use crate::protocol::v2::{self, Close, Code, Flags, Header};

/// Bytes of control frames that are made ready at a time.
const CONTROL_BATCH: usize = 4 * 1024;

impl Mux {
    /// Turns what is owed into frames, as long as they are few.
    pub(super) fn make_control_frames(&mut self) {
        if let Some(payload) = self.owed_answer.take() {
            self.outbox.push_control(&v2::ping(payload, Flags::ACK));
        }
        while self.outbox.control_len() < CONTROL_BATCH
            && let Some(key) = self.owing.pop_front()
        {
            let Some(stream) = self.streams.get_mut(key) else { continue };
            let Some(number) = stream.number() else { continue };
            let (connected, credit) = stream.take_owed();
            if connected {
                self.outbox.push_control(&connected_frame(number));
            }
            if credit {
                self.outbox.push_control(&v2::credit(number, stream.window.limit()));
            }
        }
        while self.outbox.control_len() < CONTROL_BATCH
            && self.closes.front().is_some_and(|owed| owed.after <= self.outbox.sent())
            && let Some(owed) = self.closes.pop_front()
        {
            self.outbox.push_control(&owed.close.frame(owed.number));
        }
    }

    pub(super) fn push_close(&mut self, number: u32, code: Code, reason: &str) {
        let after = self.outbox.queued();
        self.closes.push_back(OwedClose { number, close: Close { code, reason: reason.into() }, after });
    }

    pub(super) fn push_ping(&mut self, payload: [u8; 8]) {
        self.outbox.push_control(&v2::ping(payload, Flags::NONE));
        self.timers.set(Timer::Liveness, self.liveness.poll_timeout());
    }
}

pub(super) fn connected_frame(stream: u32) -> [u8; Header::LEN] {
    Header { size: 0, kind: v2::Type::Connected, flags: Flags::NONE, stream }.encode()
}
