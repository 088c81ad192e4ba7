//! How streams end, and what those that are over may still hold.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use super::control::connected_frame;
use super::stream::{End, Open, Receiving, Sending, State, Stream};
use super::{Mux, Output, Timer};
use crate::connection::{Reset, StreamKey};
use crate::protocol::v2::Code;

/// How long a link is without streams until it gives back what they needed: the next one may come at once.
const REST_AFTER: Duration = Duration::from_secs(1);

impl Mux {
    /// Once both sides have sent FIN the stream is off the link.
    pub(super) fn leave_if_finished(&mut self, now: Instant, key: StreamKey) {
        if self.streams.get(key).and_then(Stream::open).is_some_and(Open::is_finished) {
            self.leave_link(key, End::Finish);
            // The peer counts the stream as open while our FIN waits in the queue. If it has left there is nothing to wait for.
            if self.send_buffer.sent() < self.send_buffer.queued() {
                self.finishing.push_back(self.send_buffer.queued());
            }
            self.start_delivering(now, key);
        }
    }

    /// Where the socket has everything that came, its direction ends, or all of it.
    pub(super) fn end_if_delivered(&mut self, key: StreamKey) {
        let role = self.role;
        let Some(stream) = self.streams.get_mut(key) else { return };
        if !stream.has_socket(role) || !stream.pending.is_empty() {
            return;
        }
        match &mut stream.state {
            State::Open(open) if open.receiving == Receiving::Finished => {
                open.receiving = Receiving::Delivered;
                self.outputs.push_back(Output::ShutdownWrite { stream: key });
            }
            State::Waiting | State::Open(_) => {}
            State::Delivering(End::Finish) => {
                self.forget(key);
                self.outputs.push_back(Output::Finish { stream: key });
            }
            State::Delivering(End::Reset(reason)) => {
                let reason = Reset::clone(reason);
                self.reset(key, reason);
            }
        }
    }

    /// The stream is over, and not gracefully: its socket gets what came before, and then RST.
    pub(super) fn end_after_delivery(&mut self, now: Instant, key: StreamKey, reason: Reset) {
        let Some(stream) = self.streams.get(key) else { return };
        if stream.has_socket(self.role) && !stream.pending.is_empty() {
            self.leave_link(key, End::Reset(Box::new(reason)));
            self.start_delivering(now, key);
        } else {
            self.reset(key, reason);
        }
    }

    /// Sends the stream's one CLOSE, if it is on the link, which it is to leave next.
    pub(super) fn push_close_of(&mut self, key: StreamKey, code: Code, reason: &str) {
        if let Some(number) = self.streams.get(key).and_then(Stream::number) {
            self.push_close(number, code, reason);
        }
    }

    /// Takes the stream off the link, or out of those that wait for it.
    fn leave_link(&mut self, key: StreamKey, end: End) {
        let Some(stream) = self.streams.get_mut(key) else { return };
        match std::mem::replace(&mut stream.state, State::Delivering(end)) {
            State::Open(Open { number, sending, receiving, .. }) => {
                let unused = if receiving == Receiving::Open { stream.window.unused() } else { 0 };
                let (connected, credit) = stream.take_pending();
                // What it has sent must not come before this.
                if connected && (stream.sent > 0 || sending == Sending::Finished) {
                    self.send_buffer.push_control(&connected_frame(number));
                }
                if connected || credit {
                    // A peer that reads nothing may have any number of streams come and go.
                    self.pending_control.retain(|&other| other != key);
                }
                self.add_stale_credit(unused);
                self.numbers.remove(&number);
                self.liveness.set_streams(!self.numbers.is_empty());
                self.timers.cancel(Timer::Connect(key));
            }
            State::Waiting => {
                self.waiting.retain(|wanted| wanted.key != key);
                self.timers.cancel(Timer::Place(key));
            }
            State::Delivering(_) => {}
        }
    }

    /// The stream is off the link, and only delivers what is left.
    pub(super) fn start_delivering(&mut self, now: Instant, key: StreamKey) {
        if self.streams.get(key).is_none() || self.delivering.insert(key, now).is_some() {
            return;
        }
        self.timers.set(Timer::Delivery(key), now + self.limits.rule.stall);
        self.bound_delivering();
    }

    /// Keeps bytes for the stream's socket.
    pub(super) fn hold(&mut self, key: StreamKey, bytes: &[u8]) {
        let Some(stream) = self.streams.get_mut(key) else { return };
        stream.pending.push(bytes);
        self.held += bytes.len() as u64;
        self.bound_delivering();
    }

    /// Bounds the number of streams off the link, and what they hold beside those on it, whose credit is within the
    /// budget. The one whose socket took nothing for the longest time goes first.
    fn bound_delivering(&mut self) {
        while self.delivering.len() > self.limits.streams as usize || self.held > self.limits.budget {
            let Some((&slowest, _)) = self.delivering.iter().min_by_key(|&(_, &at)| at) else { return };
            self.reset(slowest, Reset::Stalled);
        }
    }

    /// Bytes that wait for the sockets of streams.
    pub(crate) fn undelivered(&self) -> u64 {
        self.held
    }

    /// Resets streams whose sockets take too little, until no more than so many bytes wait: first those that hold the most.
    pub(crate) fn shed(&mut self, most: u64) {
        let holding = self.streams.iter().filter(|(_, stream)| !stream.pending.is_empty());
        let mut holding: Vec<_> = holding.map(|(key, stream)| (stream.pending.len(), key)).collect();
        holding.sort_unstable();
        while self.held > most
            && let Some((_, key)) = holding.pop()
        {
            self.push_close_of(key, Code::Overload, "the client read too little, and the relay holds too much");
            self.reset(key, Reset::Crowded);
        }
    }

    /// A link without streams is to have no more than it needs: there may be thousands beside it.
    pub(super) fn begin_rest(&mut self, now: Instant) {
        if self.streams.len() > 0 || self.send_buffer.len() > 0 {
            return;
        }
        // One answer to a PING is made in little, and the next comes in a minute.
        self.send_buffer.give_back_little();
        if (self.streams.has_memory() || self.send_buffer.memory() > 0) && !self.timers.is_set(Timer::Rest) {
            self.timers.set(Timer::Rest, now + REST_AFTER);
        }
    }

    /// Gives back what streams needed, unless there are some again.
    pub(super) fn rest(&mut self) {
        if self.streams.len() > 0 {
            return;
        }
        self.streams.give_back();
        self.send_buffer.give_back();
        self.timers.give_back();
        self.closes.give_back();
        (self.numbers, self.delivering) = (BTreeMap::new(), BTreeMap::new());
        // Keys of streams that are over name nothing any more.
        (self.pending_control, self.unblocked) = (VecDeque::new(), VecDeque::new());
        self.waiting.shrink_to_fit();
        self.finishing.shrink_to_fit();
    }

    pub(super) fn reset(&mut self, key: StreamKey, reason: Reset) {
        self.forget(key);
        self.outputs.push_back(Output::Reset { stream: key, reason });
    }

    pub(super) fn forget(&mut self, key: StreamKey) {
        self.leave_link(key, End::Finish);
        self.stop_sending(key);
        let Some(mut stream) = self.streams.remove(key) else { return };
        stream.window.give_back(&mut self.budget);
        self.held -= stream.pending.len() as u64;
        if self.delivering.remove(&key).is_some() {
            self.timers.cancel(Timer::Delivery(key));
        }
    }
}
