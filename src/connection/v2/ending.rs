//! How streams end, and what those that are over may still hold.

use std::time::Instant;

use super::owing::connected_frame;
use super::stream::{Place, Receiving, Stream};
use super::{Mux, Output, Role, Timer};
use crate::connection::{Reset, StreamKey};
use crate::protocol::v2::Code;

impl Mux {
    /// Once both sides have sent FIN the stream is off the link.
    pub(super) fn leave_if_finished(&mut self, now: Instant, key: StreamKey) {
        let Some(stream) = self.streams.get(key) else { return };
        if stream.fin_sent && stream.receiving != Receiving::Open {
            self.leave_finished(now, key);
        }
        self.finish_if_delivered(key);
    }

    /// Both sides have sent FIN, but for what its socket is owed the stream is over.
    pub(super) fn leave_finished(&mut self, now: Instant, key: StreamKey) {
        self.leave_link(key);
        // Unless all that was queued has left, and our FIN with it: then nothing may come that would tell.
        if self.outbox.sent() < self.outbox.queued() {
            self.finishing.push_back(self.outbox.queued());
        }
        self.linger(now, key);
    }

    pub(super) fn finish_if_delivered(&mut self, key: StreamKey) {
        let Some(stream) = self.streams.get(key) else { return };
        if !self.has_socket(stream) || !stream.pending.is_empty() {
            return;
        }
        if let Some(reason) = stream.reset.clone() {
            self.reset(key, *reason);
        } else if stream.receiving != Receiving::Open && stream.fin_sent {
            self.forget(key);
            self.outputs.push_back(Output::Finish { stream: key });
        } else if stream.receiving == Receiving::Ended
            && let Some(stream) = self.streams.get_mut(key)
        {
            stream.receiving = Receiving::Told;
            self.outputs.push_back(Output::ShutdownWrite { stream: key });
        }
    }

    /// The stream is over, and not in peace: its socket gets what it is owed, and then RST.
    pub(super) fn end_after_delivery(&mut self, now: Instant, key: StreamKey, reason: Reset) {
        self.leave_link(key);
        let Some(stream) = self.streams.get_mut(key) else { return };
        if stream.reset.is_none() {
            stream.reset = Some(Box::new(reason.clone()));
        }
        let stream = self.streams.get(key);
        if stream.is_some_and(|stream| self.has_socket(stream) && !stream.pending.is_empty()) {
            self.linger(now, key);
        } else {
            self.reset(key, reason);
        }
    }

    /// Whether there is a socket that bytes can be delivered to.
    pub(super) fn has_socket(&self, stream: &Stream) -> bool {
        stream.connected || self.role == Role::Relay
    }

    /// Sends the stream's one CLOSE, if it is on the link.
    pub(super) fn owe_close(&mut self, key: StreamKey, code: Code, reason: &str) {
        if let Some(number) = self.leave_link(key) {
            self.push_close(number, code, reason);
        }
    }

    /// Takes the stream off the link, or out of those that wait for it; its number, if it had one.
    pub(super) fn leave_link(&mut self, key: StreamKey) -> Option<u32> {
        let stream = self.streams.get_mut(key)?;
        match std::mem::replace(&mut stream.place, Place::Off) {
            Place::On(number) => {
                if stream.receiving == Receiving::Open {
                    self.stale_credit += stream.window.unused();
                }
                let (connected, credit) = stream.take_owed();
                // What it has sent must not come before this.
                if connected && (stream.sent > 0 || stream.fin_sent) {
                    self.outbox.push_control(&connected_frame(number));
                }
                if connected || credit {
                    // A peer that reads nothing may have any number of streams come and go.
                    self.owing.retain(|&other| other != key);
                }
                self.numbers.remove(&number);
                self.timers.cancel(Timer::Connect(key));
                Some(number)
            }
            Place::Waiting => {
                self.waiting.retain(|wanted| wanted.key != key);
                self.timers.cancel(Timer::Place(key));
                None
            }
            Place::Off => None,
        }
    }

    /// The stream is off the link, and only delivers what is left.
    pub(super) fn linger(&mut self, now: Instant, key: StreamKey) {
        if self.streams.get(key).is_none() || self.lingering.insert(key, now).is_some() {
            return;
        }
        self.timers.set(Timer::Linger(key), now + self.limits.rule.stall);
        self.bound_lingering();
    }

    /// Keeps bytes for the stream's socket.
    pub(super) fn hold(&mut self, key: StreamKey, bytes: &[u8]) {
        let Some(stream) = self.streams.get_mut(key) else { return };
        stream.pending.push(bytes);
        self.held += bytes.len() as u64;
        self.bound_lingering();
    }

    /// Bounds the number of streams off the link, and what they hold beside those on it, whose credit is within the
    /// budget. The one whose socket took nothing for the longest time goes first.
    fn bound_lingering(&mut self) {
        while self.lingering.len() > self.limits.streams as usize || self.held > self.limits.budget {
            let Some((&slowest, _)) = self.lingering.iter().min_by_key(|&(_, &at)| at) else { return };
            self.reset(slowest, Reset::Stalled);
        }
    }

    pub(super) fn reset(&mut self, key: StreamKey, reason: Reset) {
        self.forget(key);
        self.outputs.push_back(Output::Reset { stream: key, reason });
    }

    pub(super) fn forget(&mut self, key: StreamKey) {
        self.leave_link(key);
        let Some(mut stream) = self.streams.remove(key) else { return };
        stream.window.give_back(&mut self.budget);
        self.held -= stream.pending.len() as u64;
        if self.lingering.remove(&key).is_some() {
            self.timers.cancel(Timer::Linger(key));
        }
    }
}
