//! What a kernel does with a connection where a queue may be full: CUBIC, as far as others notice it.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Bytes in a packet.
pub(super) const PACKET: f64 = 1448.0;
/// What is left of the window after a loss.
const LEFT: f64 = 0.7;
/// Packets a cubic second.
const GROWTH: f64 = 0.4;

#[derive(Debug)]
pub(super) struct Tcp {
    window: f64,
    in_flight: f64,
    /// When what is in flight will be acknowledged.
    acks: VecDeque<(Instant, f64)>,
    /// The last loss: when that was, and the window then, in packets.
    lost: Option<(Instant, f64)>,
    /// What is lost until then is lost for the same reason.
    recovers_at: Option<Instant>,
}

impl Tcp {
    pub(super) fn new() -> Self {
        Self { window: 10.0 * PACKET, in_flight: 0.0, acks: VecDeque::new(), lost: None, recovers_at: None }
    }

    pub(super) fn may_send(&self) -> bool {
        self.in_flight < self.window
    }

    /// Bytes have left that will be acknowledged at `acked_at`.
    pub(super) fn send(&mut self, bytes: f64, acked_at: Instant) {
        self.in_flight += bytes;
        self.acks.push_back((acked_at, bytes));
    }

    /// They found the queue full, which a round trip later is known and mended.
    pub(super) fn lose(&mut self, now: Instant, round_trip: Duration) {
        if self.recovers_at.is_none_or(|at| at < now) {
            self.lost = Some((now, self.window / PACKET));
            self.recovers_at = Some(now + round_trip);
            self.window = (self.window * LEFT).max(2.0 * PACKET);
        }
    }

    /// Time has passed.
    pub(super) fn handle_time(&mut self, now: Instant) {
        while let Some((_, bytes)) = self.acks.pop_front_if(|ack| ack.0 <= now) {
            let is_full = self.in_flight + PACKET > self.window;
            self.in_flight -= bytes;
            if !is_full {
                continue;
            }
            match self.lost {
                None => self.window += bytes,
                Some((at, most)) => {
                    let turn = (most * (1.0 - LEFT) / GROWTH).cbrt();
                    let window = GROWTH * ((now - at).as_secs_f64() - turn).powi(3) + most;
                    self.window = self.window.max(window * PACKET);
                }
            }
        }
    }
}
