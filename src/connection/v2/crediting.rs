//! Credit that is given for what the sockets have consumed, and the round trip that windows are made from where the peer
//! does not acknowledge.

use std::time::{Duration, Instant};

use super::Mux;
use super::round_trip::Next;
use super::window::Growth;
use crate::connection::StreamKey;

/// Bytes for streams that are over that may come at once: more than any line has on its way. What streams did not use would
/// add up for as long as the link lasts, and in the end anything might come.
pub(super) const MOST_STALE: u64 = 64 * 1024 * 1024;

impl Mux {
    /// The stream's socket consumed bytes: there may be credit for more, and the stream may be at its end.
    pub(super) fn consume(&mut self, now: Instant, key: StreamKey, count: usize) {
        let Some(stream) = self.streams.get_mut(key) else { return };
        stream.window.consume(count, &mut self.budget);
        if !self.round_trip.is_draining() {
            self.renew_credit(now, key);
        }
        self.end_if_delivered(key);
    }

    /// Gives the stream credit, if it has consumed enough; bytes that come so are reason to measure their way.
    pub(super) fn renew_credit(&mut self, now: Instant, key: StreamKey) {
        let Some(stream) = self.streams.get_mut(key) else { return };
        let is_receiving = stream.is_receiving();
        let growth = if self.pacing.is_some() {
            Growth::WhenLimited
        } else {
            // A stream whose end has come needs no more.
            let round_trip = self.round_trip.least().filter(|_| is_receiving);
            let delivery_rate = &mut self.delivery_rate;
            let window = |round_trip| delivery_rate.as_mut().map_or(0, |rate| rate.window(now, round_trip));
            Growth::To(round_trip.map_or(0, window))
        };
        if stream.window.renew(now, growth, &mut self.budget) && is_receiving {
            if stream.set_credit_pending() {
                self.pending_control.push_back(key);
            }
            if self.round_trip.is_due(now) {
                self.ask(now);
            }
        }
    }

    /// A PING measures the round trip, unless one is out.
    pub(super) fn ask(&mut self, now: Instant) {
        if let Some(payload) = self.liveness.ask(now) {
            self.round_trip.handle_ping(now);
            self.push_ping(payload);
        }
    }

    /// The answer to a PING: credit is withheld for as long as the way must be empty to be measured.
    pub(super) fn handle_round_trip(&mut self, now: Instant, sample: Duration) {
        if self.pacing.is_some() {
            self.round_trip.smooth(sample);
            return;
        }
        match self.round_trip.handle_sample(now, sample) {
            Next::Nothing => {}
            Next::Ask => self.ask(now),
            Next::Resume => {
                for key in self.numbers.values().copied().collect::<Vec<_>>() {
                    self.renew_credit(now, key);
                }
            }
        }
    }

    /// Bytes may still come for a stream that is over: as many as there is credit for.
    pub(super) fn add_stale_credit(&mut self, bytes: u64) {
        self.stale_credit = MOST_STALE.min(self.stale_credit + bytes);
    }
}
