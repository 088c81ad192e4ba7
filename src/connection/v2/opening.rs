//! How streams come to be: the relay asks for them, the device takes them.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::stream::{Open, State, Stream};
use super::{CONTROL_FULL, Greeting, Mux, Output, Role, Timer, Wanted};
use crate::address::Address;
use crate::connection::{CONNECT_TIMEOUT, Connection, Destination, Reset, StreamKey};
use crate::protocol::v2::{Code, Connect, Target};
use crate::protocol::{Malformed, ProtocolError};

/// How long a new client waits for a place on the link before it is refused.
pub(super) const PLACE_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a device that was silent may take to give a sign of life, and no less than four round trips.
const SIGN_WITHIN: Duration = Duration::from_secs(3);
/// New clients that may wait at once.
const MAX_WAITING: usize = 256;

impl From<Destination> for Target {
    fn from(destination: Destination) -> Self {
        match destination {
            Destination::Address(address) => Self::Address(Address::clone(&address)),
            Destination::Service(name) => Self::Service(name),
        }
    }
}

/// What a relay does.
impl Mux {
    /// A client was accepted for `service`. Its socket is not read before [`Output::Opened`].
    pub(crate) fn open(&mut self, now: Instant, service: Destination, client: Option<SocketAddr>) -> StreamKey {
        let stream = Stream::new(now, State::Waiting, self.peer.window.into(), &self.budget);
        let key = self.streams.insert(stream);
        let full = (self.waiting.len() == MAX_WAITING).then_some(Reset::NoPlace);
        if let Some(reason) = self.going_away.clone().or(full) {
            self.reset(key, reason);
            return key;
        }
        self.waiting.push_back(Wanted { key, connect: Connect { client, ..Connect::to(service.into()) } });
        self.timers.set(Timer::Place(key), now + PLACE_TIMEOUT);
        self.assign_numbers(now);
        key
    }

    /// Opens streams for those that wait, as far as the device can take them.
    pub(super) fn assign_numbers(&mut self, now: Instant) {
        while !self.waiting.is_empty() && self.has_place() {
            let Some(number) = self.newest.checked_add(1) else {
                self.go_away(now, Code::Normal, 0, "this link has no stream numbers left; make another");
                return;
            };
            if !self.opens.take(now) {
                self.timers.set(Timer::OpenRate, self.opens.next_at());
                return;
            }
            let Some(Wanted { key, connect }) = self.waiting.pop_front() else { return };
            self.timers.cancel(Timer::Place(key));
            let Some(stream) = self.streams.get_mut(key) else { continue };
            self.newest = number;
            stream.state = State::Open(Open::new(number));
            // SETTINGS may have come while it waited.
            stream.credit = self.peer.window.into();
            let was_idle = self.numbers.is_empty();
            self.note_opened(now, number, key);
            self.send_buffer.push_control(&connect.frame(number));
            if was_idle {
                self.doubt(now);
            }
            self.outputs.push_back(Output::Opened { stream: key, client: number });
        }
    }

    /// The stream is on the link.
    fn note_opened(&mut self, now: Instant, number: u32, key: StreamKey) {
        self.numbers.insert(number, key);
        self.begin_pacing(now);
        self.counters.opened += 1;
        self.liveness.set_streams(true);
        self.timers.set(Timer::Liveness, self.liveness.poll_timeout());
    }

    fn has_place(&self) -> bool {
        !self.is_going_away() && !self.liveness.is_suspect() && self.has_number() && !self.link_is_full()
    }

    fn has_number(&self) -> bool {
        // CONNECT may pass a CLOSE or a FIN on its way, which must not make the device count one too many.
        let open = self.numbers.len() + self.closes.len() + self.finishing.len();
        // Our own limit counts, too: the budget is made for so many.
        open < self.places()
    }

    fn link_is_full(&self) -> bool {
        self.send_buffer.control_len() >= CONTROL_FULL || self.send_buffer.is_full()
    }

    /// Whether those that wait do so for the device alone: it has not said yet how many streams it takes, or it has
    /// places, but the link takes nothing.
    pub(super) fn device_is_slow(&self) -> bool {
        self.greeting != Greeting::Done || (self.has_number() && self.link_is_full())
    }

    /// No new streams: those that wait for a number are reset, and those that still come.
    pub(super) fn stop_opening(&mut self, reason: Reset) {
        for wanted in std::mem::take(&mut self.waiting) {
            self.reset(wanted.key, reason.clone());
        }
        self.going_away.get_or_insert(reason);
    }

    /// The device's service is connected.
    pub(super) fn handle_connected_frame(&mut self, number: u32, key: StreamKey) -> Result<(), ProtocolError> {
        let Some(open) = self.streams.get_mut(key).and_then(Stream::open_mut) else { return Ok(()) };
        if open.connected {
            return Err(ProtocolError::NotConnected(number));
        }
        open.connected = true;
        self.outputs.push_back(Output::Connected { stream: key });
        Ok(())
    }
}

/// A link that nobody has used for long may be dead, and nobody knows: a client that comes then is not to wait for as long
/// as it takes to be sure of that.
impl Mux {
    /// A client was announced on a link without others. If that was silent, the device is to give a sign of life.
    fn doubt(&mut self, now: Instant) {
        if self.liveness.is_silent(now) {
            self.ask(now);
            let until = self.liveness.doubt(now, self.sign_within());
            self.timers.set(Timer::Sign, until);
            self.timers.set(Timer::Liveness, self.liveness.poll_timeout());
        }
    }

    fn sign_within(&self) -> Duration {
        self.counters().round_trip.map_or(SIGN_WITHIN, |time| SIGN_WITHIN.max(4 * time))
    }

    /// The device has another link: on this one it gives a sign of life soon, or it is gone.
    pub(crate) fn require_sign(&mut self, now: Instant) {
        self.ask(now);
        self.liveness.require(now, self.sign_within());
        self.timers.set(Timer::Liveness, self.liveness.poll_timeout());
    }

    /// Whether the device was asked for a sign of life, and has not given one since.
    pub(crate) fn owes_sign(&self) -> bool {
        self.liveness.is_awaited()
    }

    /// The time for a sign of life is over. Without one the clients that wait for their services have their answer, and
    /// others wait as for a place until something comes, or the link is given up.
    pub(super) fn handle_sign_timeout(&mut self, now: Instant) {
        if let Some(until) = self.liveness.handle_sign_timeout(now) {
            self.timers.set(Timer::Sign, until);
        }
        if !self.liveness.is_suspect() {
            return;
        }
        for key in self.numbers.values().copied().collect::<Vec<_>>() {
            if self.streams.get(key).and_then(Stream::open).is_some_and(|open| !open.connected) {
                self.push_close_of(key, Code::Timeout, "the device did not answer");
                self.reset(key, Reset::Unanswered);
            }
        }
    }
}

/// What a device does.
impl Mux {
    /// The connection that [`Output::Connect`] asked for is made.
    pub(crate) fn handle_connected(&mut self, _now: Instant, key: StreamKey) {
        self.timers.cancel(Timer::Connect(key));
        let Some(stream) = self.streams.get_mut(key) else { return };
        let Some(open) = stream.open_mut() else { return };
        open.connected = true;
        if stream.set_connected_pending() {
            self.pending_control.push_back(key);
        }
        self.end_if_delivered(key);
    }

    /// CONNECT came: the stream is taken, or answered with CLOSE.
    pub(super) fn handle_connect(
        &mut self,
        now: Instant,
        number: u32,
        connect: Result<Connect, Malformed>,
    ) -> Result<(), ProtocolError> {
        if self.role == Role::Relay {
            return Err(ProtocolError::WrongDirection("CONNECT"));
        }
        if self.is_refused() {
            return Err(ProtocolError::AfterRefusal);
        }
        if self.newest.checked_add(1) != Some(number) {
            return Err(ProtocolError::BadNumber { got: number, expected: self.newest.saturating_add(1) });
        }
        self.newest = number;
        if self.is_going_away() {
            // It crossed our GOAWAY, which says that it was not taken.
            self.add_stale_credit(self.limits.window.into());
            return Ok(());
        }
        if self.numbers.len() >= self.limits.streams as usize || !self.opens.take(now) {
            self.refuse(number, Code::Overload, "more streams than this device takes");
            return Ok(());
        }
        let connect = match connect {
            Ok(connect) => connect,
            Err(reason) => {
                self.refuse(number, Code::Protocol, &reason.to_string());
                self.outputs.push_back(Output::Malformed { client: number, reason });
                return Ok(());
            }
        };
        let service = match connect.target {
            Target::Address(service) => service.into(),
            // Its owner knows which it offers.
            Target::Service(service) => Destination::Service(service),
            Target::Device(..) => {
                self.refuse(number, Code::Denied, "this is a device, and leads to no other");
                return Ok(());
            }
        };
        let stream = Stream::new(now, State::Open(Open::new(number)), self.peer.window.into(), &self.budget);
        let key = self.streams.insert(stream);
        self.note_opened(now, number, key);
        self.timers.set(Timer::Connect(key), now + CONNECT_TIMEOUT);
        self.outputs.push_back(Output::Connect { stream: key, client: number, service, from: connect.client });
        Ok(())
    }

    /// A stream that never was.
    fn refuse(&mut self, number: u32, code: Code, reason: &str) {
        self.add_stale_credit(self.limits.window.into());
        self.push_close(number, code, reason);
    }
}
