//! What comes over the link.

use std::ops::Bound;
use std::time::Instant;

use super::delivery_rate::DeliveryRate;
use super::introduction::{Greeting, MAX_GREETING};
use super::stream::Receiving;
use super::{MAX_BACKLOG, Mux, Output, Role, Timer};
use crate::connection::{Delivery, Reset, StreamKey};
use crate::protocol::ProtocolError;
use crate::protocol::v2::{Flags, GoAway, Item};

/// CLOSEs that may wait beyond one for every stream before the peer counts as hostile.
const MAX_CLOSES: usize = 1024;

impl Mux {
    /// [`receive`](crate::connection::Connection::receive), without a GOAWAY on an error.
    pub(super) fn receive_items<'a>(
        &mut self,
        now: Instant,
        input: &mut &'a [u8],
    ) -> Result<Option<Delivery<'a>>, ProtocolError> {
        loop {
            let before = input.len();
            let item = self.decoder.next(input)?;
            self.reading.note(now, before - input.len(), item.as_ref());
            if let Greeting::Awaited(came) = self.greeting {
                let came = came + before - input.len();
                self.greeting = Greeting::Awaited(came);
                let is_first = matches!(item, None | Some(Item::Settings(_)));
                if came > MAX_GREETING || !is_first {
                    return Err(ProtocolError::NoSettings);
                }
            }
            // Once it is refused it may say what it likes.
            let is_early = self.greeting == Greeting::Undecided && !self.has_introduced;
            if is_early && !matches!(item, None | Some(Item::GoAway(_))) {
                return Err(ProtocolError::TooEarly);
            }
            let Some(item) = item else { return Ok(None) };
            let delivery = self.handle_item(now, item)?;
            self.assign_numbers(now);
            if delivery.is_some() {
                return Ok(delivery);
            }
            if self.send_buffer.exceeds(MAX_BACKLOG) || self.closes.len() > self.limits.streams as usize + MAX_CLOSES {
                return Err(ProtocolError::Backlog(self.send_buffer.len()));
            }
        }
    }

    fn handle_item<'a>(&mut self, now: Instant, item: Item<'a>) -> Result<Option<Delivery<'a>>, ProtocolError> {
        match item {
            Item::Data { stream, bytes, flags } => return self.handle_data(now, stream, bytes, flags),
            Item::Connect { stream, connect } => self.handle_connect(now, stream, connect)?,
            Item::Connected { .. } if self.role == Role::Device => {
                return Err(ProtocolError::WrongDirection("CONNECTED"));
            }
            Item::Connected { stream } => {
                if let Some(key) = self.lookup(stream)? {
                    self.handle_connected_frame(stream, key)?;
                }
            }
            Item::Close { stream, close } => match self.lookup(stream)? {
                Some(key) => self.end_after_delivery(now, key, Reset::Closed(close)),
                // Ours crossed it, and is of no use any more.
                None => self.closes.cancel(stream),
            },
            Item::Credit { stream, limit } => self.handle_credit(now, stream, limit)?,
            Item::Settings(settings) => self.handle_settings(now, settings)?,
            Item::Ack { offset, clock } => self.handle_ack(now, offset, clock)?,
            Item::Ping { ack: true, payload } => {
                if let Some(sample) = self.liveness.handle_answer(now, payload) {
                    self.timers.set(Timer::Liveness, self.liveness.poll_timeout());
                    self.handle_round_trip(now, sample);
                } else {
                    self.note_abuse(now)?;
                }
            }
            Item::Ping { ack: false, payload } => {
                self.note_abuse(now)?;
                self.pending_pong = Some(payload);
            }
            Item::GoAway(go_away) => {
                // Each is an output for the owner, and a link needs one or two.
                self.note_abuse(now)?;
                self.handle_go_away(now, go_away);
            }
            Item::Unknown(_) => {
                self.counters.ignored += 1;
                self.note_abuse(now)?;
            }
        }
        Ok(None)
    }

    fn handle_data<'a>(
        &mut self,
        now: Instant,
        number: u32,
        bytes: &'a [u8],
        flags: Flags,
    ) -> Result<Option<Delivery<'a>>, ProtocolError> {
        let Some(key) = self.lookup(number)? else {
            // It was in flight when we ended the stream: as much as there was credit for.
            let left = self.stale_credit.checked_sub(bytes.len() as u64);
            self.stale_credit = left.ok_or(ProtocolError::FlowControl(number))?;
            self.counters.ignored += 1;
            return Ok(None);
        };
        let fin = flags.has(Flags::FIN);
        let Some(stream) = self.streams.get_mut(key) else { return Ok(None) };
        let has_socket = stream.has_socket(self.role);
        let Some(open) = stream.open_mut() else { return Ok(None) };
        if self.role == Role::Relay && !open.connected {
            return Err(ProtocolError::NotConnected(number));
        }
        if open.receiving != Receiving::Open {
            return Err(ProtocolError::AfterFin(number));
        }
        if fin {
            open.receiving = Receiving::Finished;
        }
        if !stream.window.receive(now, bytes.len(), &mut self.budget) {
            return Err(ProtocolError::FlowControl(number));
        }
        if flags.has(Flags::LIMITED) {
            stream.window.note_limited();
        }
        self.counters.received += bytes.len() as u64;
        if self.pacing.is_none() {
            self.round_trip.note_received(bytes.len());
            let round_trip = self.round_trip.least();
            let delivery_rate = self.delivery_rate.get_or_insert_with(|| Box::new(DeliveryRate::new(now)));
            delivery_rate.note(now, bytes.len(), round_trip);
        }
        let deliverable = !bytes.is_empty() && stream.pending.is_empty() && has_socket;
        if !deliverable {
            self.hold(key, bytes);
        }
        if fin {
            self.leave_if_finished(now, key);
            // What is delivered now is still to be counted: not before that can the end be passed on.
            if !deliverable {
                self.end_if_delivered(key);
            }
        }
        Ok(deliverable.then_some(Delivery { stream: key, bytes }))
    }

    fn handle_credit(&mut self, now: Instant, number: u32, limit: u64) -> Result<(), ProtocolError> {
        let Some(key) = self.lookup(number)? else { return Ok(()) };
        let Some(stream) = self.streams.get_mut(key) else { return Ok(()) };
        if limit < stream.credit {
            return Err(ProtocolError::CreditBackwards(number));
        }
        if limit == stream.credit {
            return self.note_abuse(now);
        }
        stream.credit = limit;
        self.unblock(key);
        Ok(())
    }

    fn handle_go_away(&mut self, now: Instant, go_away: GoAway) {
        self.stop_opening(Reset::PeerLeaves);
        if self.role == Role::Relay {
            // The device did not take these, and will not answer for them.
            let not_taken = (Bound::Excluded(go_away.last_stream), Bound::Unbounded);
            let lost: Vec<StreamKey> = self.numbers.range(not_taken).map(|(_, &key)| key).collect();
            for key in lost {
                self.end_after_delivery(now, key, Reset::PeerLeaves);
            }
        }
        self.outputs.push_back(Output::GoAway(go_away));
    }

    pub(super) fn unblock(&mut self, key: StreamKey) {
        if let Some(stream) = self.streams.get_mut(key)
            && std::mem::take(&mut stream.blocked)
        {
            self.unblocked.push_back(key);
        }
    }

    /// The stream of that number; `None` if it is over.
    fn lookup(&self, number: u32) -> Result<Option<StreamKey>, ProtocolError> {
        let key = self.numbers.get(&number).copied();
        if key.is_none() && number > self.newest { Err(ProtocolError::NeverOpened(number)) } else { Ok(key) }
    }

    /// Another frame of no use.
    pub(super) fn note_abuse(&mut self, now: Instant) -> Result<(), ProtocolError> {
        if self.abuse.take(now) { Ok(()) } else { Err(ProtocolError::Flood) }
    }
}
