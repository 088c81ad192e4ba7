//! What the driver of a link calls.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::control::PendingCloses;
use super::send_buffer::{SendBuffer, data_len};
use super::stream::{Sending, State, Stream};
use super::{Mux, QUANTUM, Role, Timer};
use crate::connection::{Connection, Counters, Delivery, Output, Reset, Room, StreamKey, whole_frames};
use crate::protocol::ProtocolError;
use crate::protocol::v2::{Code, Flags, GoAway, Header, Settings};

/// No less is read of a stream at once for a link that has to leave room for others.
const LEAST_READ: u64 = 4 * 1024;

impl Connection for Mux {
    fn receive<'a>(&mut self, now: Instant, input: &mut &'a [u8]) -> Result<Option<Delivery<'a>>, ProtocolError> {
        self.liveness.note_input(now);
        let result = self.receive_items(now, input);
        self.begin_rest(now);
        self.say_why(now, result)
    }

    fn goes_on(&self, key: StreamKey, input: &[u8]) -> bool {
        let number = self.streams.get(key).and_then(Stream::number);
        number.is_some() && self.decoder.data_ahead(input) == number
    }

    fn read_size(&self, room: usize) -> usize {
        whole_frames(room, self.decoder.left())
    }

    fn wants_input(&self) -> bool {
        // Whatever happens: credit bounds what can come.
        true
    }

    fn go_away(&mut self, _now: Instant, code: Code, retry_after: u16, reason: &str) {
        let last_stream = self.newest;
        if !self.has_introduced {
            self.has_introduced = true;
            self.send_buffer.push_uncounted(&Settings { refuses: true, ..Settings::default() }.frame());
        }
        self.send_buffer.push_control(&GoAway { code, retry_after, last_stream, reason: reason.into() }.frame());
        self.stop_opening(if code == Code::Shutdown {
            Reset::Shutdown
        } else if code == Code::Replaced {
            Reset::LinkLost
        } else {
            Reset::NoPlace
        });
    }

    fn close(&mut self, now: Instant) {
        let reason = match self.role {
            Role::Device => "the device closed the tunnel",
            Role::Relay => "the relay has ended",
        };
        if !self.is_going_away() {
            self.go_away(now, Code::Shutdown, 0, reason);
        }
        for key in self.streams.keys() {
            if self.streams.get(key).is_some_and(|stream| !matches!(stream.state, State::Delivering(_))) {
                self.push_close_of(key, Code::Shutdown, reason);
                self.end_after_delivery(now, key, Reset::Shutdown);
            }
        }
    }

    fn delivered(&mut self, now: Instant, key: StreamKey, bytes: &[u8], taken: usize) {
        self.hold(key, &bytes[taken..]);
        self.consume(now, key, taken);
    }

    fn pending(&self, key: StreamKey) -> &[u8] {
        self.streams
            .get(key)
            .filter(|stream| stream.has_socket(self.role))
            .map_or(&[], |stream| stream.pending.as_slice())
    }

    fn advance(&mut self, now: Instant, key: StreamKey, count: usize) {
        let Some(stream) = self.streams.get_mut(key) else { return };
        stream.pending.advance(count);
        self.held -= count as u64;
        if let Some(progress) = self.delivering.get_mut(&key) {
            *progress = now;
        }
        self.consume(now, key, count);
    }

    fn may_read(&self, key: StreamKey) -> bool {
        let stream = self.streams.get(key).filter(|stream| stream.is_sending(self.role));
        stream.is_some_and(|stream| stream.sent < stream.credit)
    }

    fn reserve(&mut self, key: StreamKey, contended: bool) -> Room<'_> {
        if self.send_buffer.len() == 0 {
            // Made before there is DATA they leave in one write with it.
            self.make_control_frames();
        }
        let role = self.role;
        let Some(stream) = self.streams.get_mut(key).filter(|stream| stream.is_sending(role)) else {
            self.stop_sending(key);
            return Room::Unwanted;
        };
        let credit = stream.credit - stream.sent;
        if credit == 0 {
            stream.blocked = true;
            self.stop_sending(key);
            return Room::Blocked;
        }
        // Frames are cut late, so that what comes next has to wait for little.
        if self.pacing.as_ref().is_some_and(|pacing| self.send_buffer.data_len() > pacing.most_at_once() / 2) {
            return Room::Full;
        }
        // More waits for other links than all may have, or for this one; and less than this in one read costs too much.
        let room = self.budget.queue_room().saturating_sub(self.send_buffer.data_len() as u64);
        if room < LEAST_READ {
            return Room::Full;
        }
        let most = if contended { QUANTUM } else { usize::MAX }.min(room.try_into().unwrap_or(usize::MAX));
        let Some(most) = self.claim_room(key, most.min(credit.try_into().unwrap_or(most))) else { return Room::Paced };
        self.send_buffer.reserve(most).map_or(Room::Full, Room::Free)
    }

    fn commit(&mut self, now: Instant, key: StreamKey, count: usize) {
        let Some(stream) = self.streams.get_mut(key) else { return };
        let Some(number) = stream.number() else { return };
        debug_assert!((1..=stream.credit - stream.sent).contains(&(count as u64)));
        stream.sent += count as u64;
        self.counters.sent += count as u64;
        let is_limited = self.pacing.is_some() && stream.sent == stream.credit;
        let bytes = data_len(count);
        let asks = self.spend_room(now, key, count, bytes, self.send_buffer.queued() + bytes as u64);
        let flags = Flags::NONE.with(Flags::ASK, asks).with(Flags::LIMITED, is_limited);
        self.send_buffer.commit(number, count, flags);
        self.budget.note_queue(self.send_buffer.data_len() as u64);
    }

    fn handle_end(&mut self, now: Instant, key: StreamKey) {
        let Some(open) = self.streams.get_mut(key).and_then(Stream::open_mut) else { return };
        if open.sending == Sending::Open {
            open.sending = Sending::Finished;
            self.send_buffer.push_behind_data(&Header::data(open.number, 0, true).encode());
            self.stop_sending(key);
            self.leave_if_finished(now, key);
            self.end_if_delivered(key);
            self.assign_numbers(now);
        }
    }

    fn handle_failure(&mut self, now: Instant, key: StreamKey, code: Code, reason: &str) {
        self.push_close_of(key, code, reason);
        self.forget(key);
        self.outputs.push_back(Output::Gone { stream: key });
        self.assign_numbers(now);
    }

    fn link_low_water(&self) -> Option<u32> {
        self.pacing.as_ref().map(|pacing| pacing.low_water())
    }

    fn link_keepalive(&self) -> Option<Duration> {
        self.peer.has_keepalive.then(|| self.liveness.longest_silence())
    }

    fn poll_pacing(&self) -> Option<Instant> {
        self.next_release()
    }

    fn handle_pacing(&mut self, now: Instant) {
        self.release_due(now);
    }

    fn poll_unblocked(&mut self) -> Option<StreamKey> {
        self.unblocked.pop_front()
    }

    fn has_unsent(&self) -> bool {
        let close = self.closes.is_due(self.send_buffer.sent());
        let answer = self.pending_pong.is_some() || self.reading.has_ack();
        self.send_buffer.len() > 0 || answer || close || !self.pending_control.is_empty()
    }

    fn unsent(&mut self) -> &[u8] {
        // DATA must not pass the control frames of its stream.
        if self.send_buffer.batch_len() == 0 {
            self.make_control_frames();
        }
        self.send_buffer.unsent()
    }

    fn advance_link(&mut self, now: Instant, count: usize) {
        self.send_buffer.advance(count);
        self.budget.note_queue(self.send_buffer.data_len() as u64);
        if let Some(pacing) = &mut self.pacing {
            pacing.handle_left(now, self.send_buffer.sent(), self.send_buffer.offset());
        }
        self.await_ack();
        while self.finishing.front().is_some_and(|&end| end <= self.send_buffer.sent()) {
            self.finishing.pop_front();
        }
        self.assign_numbers(now);
        self.begin_rest(now);
    }

    fn note_link_full(&mut self) {
        if let Some(pacing) = &mut self.pacing {
            pacing.note_kernel_full();
        }
    }

    fn handle_fruitless(&mut self, now: Instant, count: usize) -> Result<(), ProtocolError> {
        let result = (0..count).try_for_each(|_| self.note_abuse(now));
        self.say_why(now, result)
    }

    fn handle_link_lost(&mut self, _now: Instant) {
        for key in self.streams.keys() {
            if self.streams.get(key).is_some_and(|stream| !matches!(stream.state, State::Delivering(_))) {
                self.reset(key, Reset::LinkLost);
            }
        }
        self.send_buffer = SendBuffer::default();
        self.budget.note_queue(0);
        self.closes = PendingCloses::default();
        self.finishing.clear();
        self.pending_control.clear();
        self.pending_pong = None;
        self.reading.take_ack();
        self.end_pacing();
        self.going_away.get_or_insert(Reset::LinkLost);
        for timer in [Timer::Settings, Timer::Liveness, Timer::Ack, Timer::OpenRate, Timer::Sign, Timer::Rest] {
            self.timers.cancel(timer);
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }

    fn handle_timeout(&mut self, now: Instant) -> Result<(), ProtocolError> {
        while let Some(timer) = self.timers.pop_due(now) {
            let result = self.handle_timer(now, timer);
            self.say_why(now, result)?;
        }
        Ok(())
    }

    fn poll_output(&mut self) -> Option<Output> {
        let output = self.outputs.pop_front();
        if output.is_none() && self.streams.len() == 0 {
            self.outputs = VecDeque::new();
        }
        output
    }

    fn counters(&self) -> Counters {
        let round_trip =
            self.pacing.as_ref().and_then(|pacing| pacing.round_trip()).or_else(|| self.round_trip.smoothed());
        Counters { open: self.numbers.len() as u64, round_trip, ..self.counters }
    }

    fn streams(&self) -> usize {
        self.streams.len()
    }

    fn held(&self) -> u64 {
        self.held + self.send_buffer.len() as u64
    }
}
