//! One end of a version 2 link: streams with credit of their own. Device and relay are both built on it.
//!
//! It is driven as every [`Connection`] is. Control frames that wait are state, not a queue: at most
//! one CREDIT, one CONNECTED and one CLOSE for a stream, and one answer to PING, wait at any time; and the link is
//! read whatever waits to be written. So no two peers can wait for each other.

mod budget;
mod control;
mod delivery_rate;
mod ending;
mod liveness;
mod opening;
mod pacing;
mod reading;
mod receiving;
mod round_trip;
mod send_buffer;
mod stream;
mod waiting_streams;
mod window;

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use budget::Budget;
pub use budget::WindowPool;
use control::PendingCloses;
use delivery_rate::DeliveryRate;
use liveness::{Due, Liveness};
use opening::PLACE_TIMEOUT;
use pacing::Pacing;
use reading::Reading;
use round_trip::{Next, RoundTrip};
use send_buffer::{SendBuffer, data_len};
use stream::{Sending, State, Stream};
use waiting_streams::WaitingStreams;
use window::Growth;

use super::{
    Bucket, Connection, Counters, Delivery, Limits, Output, Reset, Room, Slab, StreamKey, Timers, whole_frames,
};
use crate::protocol::v2::{self, Code, Flags, GoAway, Header, Settings};
use crate::protocol::{MAX_FRAME, ProtocolError};

/// The most that a stream may put on the link at a time while another waits: a quarter of a frame, header and all.
const QUANTUM: usize = MAX_FRAME / 4 - Header::LEN;
/// No less is read of a stream at once for a link that has to leave room for others.
const LEAST_READ: u64 = 4 * 1024;
/// Bytes of control frames past which no stream is opened.
const CONTROL_FULL: usize = 64 * 1024;
/// Bytes beyond a full queue that mark a peer as hostile.
const MAX_BACKLOG: usize = 256 * 1024;
/// From the start of version 2 until SETTINGS are here.
const SETTINGS_TIMEOUT: Duration = Duration::from_secs(10);
/// The same in TLS, whose handshake is a part of it, and a relay's decision another.
const SETTINGS_TIMEOUT_IN_TLS: Duration = Duration::from_secs(20);
/// Input that may come before SETTINGS are complete.
const MAX_GREETING: usize = 4 * 1024;
/// CONNECTs that an honest relay can have on their way, beyond what it may open in a second.
const MOST_ON_THE_WAY: u32 = 20_000;
/// Bytes for streams that are over that may come at once: more than any line has on its way. What streams did not use would
/// add up for as long as the link lasts, and in the end anything might come.
const MOST_STALE: u64 = 64 * 1024 * 1024;
/// Frames of no use that are forgiven: so many at once, and so many a second.
const ABUSE: (u32, u32) = (100, 10);

/// Which end of the link this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The one that connects to services.
    Device,
    /// The one that takes clients.
    Relay,
}

/// One end of a version 2 link.
#[derive(Debug)]
pub(crate) struct Mux {
    role: Role,
    /// The link is in TLS: nobody between reads it, and its relay decides about the device before it says a word.
    is_in_tls: bool,
    /// Whether our SETTINGS are on their way.
    has_introduced: bool,
    limits: Limits,
    decoder: v2::Decoder,
    send_buffer: SendBuffer,
    streams: Slab<Stream>,
    /// The streams that are on the link.
    numbers: BTreeMap<u32, StreamKey>,
    /// The newest number that was opened.
    newest: u32,
    /// What the peer can take; the least that any can, until it has said so.
    peer: Settings,
    greeting: Greeting,
    budget: Budget,
    /// What may be sent, once the peer has said that it acknowledges; without that `delivery_rate` and `round_trip` make
    /// the windows of streams, which then bound it.
    pacing: Option<Pacing>,
    waiting_streams: WaitingStreams,
    reading: Reading,
    delivery_rate: DeliveryRate,
    /// Credit of streams that we ended and whose bytes may still come; at most [`MOST_STALE`].
    stale_credit: u64,
    /// Streams for which CREDIT or CONNECTED is to be sent.
    pending_control: VecDeque<StreamKey>,
    /// CLOSEs to be sent.
    closes: PendingCloses,
    /// Streams that are over on our side and whose FIN waits among the DATA, by where it ends: the peer counts them as
    /// open until then.
    finishing: VecDeque<u64>,
    pending_pong: Option<[u8; 8]>,
    /// Streams whose sockets may be read again.
    unblocked: VecDeque<StreamKey>,
    /// Streams without a number, in the order they came.
    waiting: VecDeque<Wanted>,
    /// Streams that are off the link and only deliver what is left: when the socket of each last took something.
    delivering: BTreeMap<StreamKey, Instant>,
    /// Bytes that wait for the sockets of all streams.
    held: u64,
    liveness: Liveness,
    round_trip: RoundTrip,
    abuse: Bucket,
    opens: Bucket,
    /// We, or the peer, have said that there will be no new streams: why those that come are reset.
    going_away: Option<Reset>,
    timers: Timers<Timer>,
    outputs: VecDeque<Output>,
    counters: Counters,
}

/// How far the peer has introduced itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Greeting {
    /// Its SETTINGS are to come; so many bytes came.
    Awaited(usize),
    /// A relay's, in TLS: they are here, and its owner is to decide whether the device is admitted.
    Undecided,
    Done,
}

/// A stream that waits for a number, and what it is for.
#[derive(Debug)]
struct Wanted {
    key: StreamKey,
    connect: v2::Connect,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    Settings,
    Liveness,
    /// The peer was asked to acknowledge.
    Ack,
    /// A stream waits for a number.
    Place(StreamKey),
    /// Streams wait for the open rate.
    OpenRate,
    /// A device that was silent is to have sent something.
    Sign,
    Connect(StreamKey),
    Delivery(StreamKey),
}

impl Mux {
    /// An end that says no more in its SETTINGS than its limits.
    #[cfg(test)]
    pub(crate) fn new(now: Instant, role: Role, limits: Limits, first: &[u8]) -> Self {
        Self::saying(now, role, limits, first, Settings::default())
    }

    /// An end whose SETTINGS are to be sent, behind `first`: what was decided to be sent before version 2 was. They say its
    /// limits beside what is `said`.
    pub(crate) fn saying(now: Instant, role: Role, limits: Limits, first: &[u8], said: Settings) -> Self {
        let mut mux = Self::silent(now, role, limits, SendBuffer::new(first));
        mux.introduce(said);
        mux.timers.set(Timer::Settings, now + SETTINGS_TIMEOUT);
        mux.timers.set(Timer::Liveness, mux.liveness.poll_timeout());
        mux
    }

    /// A device's end of a link in TLS. Its SETTINGS, which say who it is, are all that it sends before the relay's.
    pub(crate) fn opener(now: Instant, limits: Limits, said: Settings) -> Self {
        let mut mux = Self { is_in_tls: true, ..Self::silent(now, Role::Device, limits, SendBuffer::default()) };
        mux.introduce(said);
        mux.timers.set(Timer::Settings, now + SETTINGS_TIMEOUT_IN_TLS);
        mux
    }

    /// A relay's end of a link in TLS. It says nothing before its owner has [admitted](Self::admit) the device.
    pub(crate) fn acceptor(now: Instant, limits: Limits) -> Self {
        let mut mux = Self { is_in_tls: true, ..Self::silent(now, Role::Relay, limits, SendBuffer::default()) };
        mux.timers.set(Timer::Settings, now + SETTINGS_TIMEOUT_IN_TLS);
        mux
    }

    /// Sends our SETTINGS: what is `said`, and our limits.
    fn introduce(&mut self, said: Settings) {
        let software = concat!("tcpremote ", env!("CARGO_PKG_VERSION")).to_owned();
        let Limits { window, streams, open_rate, .. } = self.limits;
        let keepalive = Some(self.limits.keepalive);
        let settings = Settings { window, streams, open_rate, acknowledges: true, software, keepalive, ..said };
        self.send_buffer.push_uncounted(&settings.frame());
        self.has_introduced = true;
    }

    /// An end that has said nothing yet.
    fn silent(now: Instant, role: Role, limits: Limits, send_buffer: SendBuffer) -> Self {
        let Limits { window, streams, open_rate, .. } = limits;
        let (timers, liveness, peer) = (Timers::new(), Liveness::new(now), Settings::default());
        // What waited on its way to a device comes all at once: ten seconds' worth is no breach, if it fits on a way.
        let (burst, rate) = match role {
            Role::Device => (open_rate.saturating_mul(10).min(open_rate.saturating_add(MOST_ON_THE_WAY)), open_rate),
            Role::Relay => (peer.open_rate, peer.open_rate),
        };
        Self {
            role,
            is_in_tls: false,
            has_introduced: false,
            limits,
            decoder: v2::Decoder::default(),
            send_buffer,
            streams: Slab::default(),
            numbers: BTreeMap::new(),
            newest: 0,
            peer,
            greeting: Greeting::Awaited(0),
            budget: Budget::new(limits.budget, streams, window.into()),
            pacing: None,
            waiting_streams: WaitingStreams::default(),
            reading: Reading::new(now),
            delivery_rate: DeliveryRate::new(now),
            stale_credit: 0,
            pending_control: VecDeque::new(),
            closes: PendingCloses::default(),
            finishing: VecDeque::new(),
            pending_pong: None,
            unblocked: VecDeque::new(),
            waiting: VecDeque::new(),
            delivering: BTreeMap::new(),
            held: 0,
            liveness,
            round_trip: RoundTrip::new(now),
            abuse: Bucket::new(now, ABUSE.0, ABUSE.1),
            opens: Bucket::new(now, burst, rate),
            going_away: None,
            timers,
            outputs: VecDeque::new(),
            counters: Counters::default(),
        }
    }

    /// What the peer has said of itself; what is assumed of it before that.
    pub(crate) fn peer(&self) -> &Settings {
        &self.peer
    }

    /// The peer's token, which is needed once.
    #[cfg(feature = "relay")]
    pub(crate) fn take_join(&mut self) -> Option<v2::Join> {
        self.peer.join.take()
    }

    /// Whether streams may be opened: at once, but in TLS not before the device is admitted.
    pub(crate) fn has_begun(&self) -> bool {
        !self.is_in_tls || self.greeting == Greeting::Done
    }

    /// The owner of a relay's end in TLS admits the device: what is `said` to it goes into SETTINGS.
    pub(crate) fn admit(&mut self, now: Instant, said: Settings) {
        if self.greeting == Greeting::Undecided && !self.has_introduced {
            self.introduce(said);
            self.greet(now);
        }
    }

    /// From here on its windows share what those of other links may take, too.
    #[cfg(feature = "relay")]
    pub(crate) fn share_windows(&mut self, pool: &WindowPool) {
        self.budget.share(pool);
    }

    /// Whether there will be no new streams, by either side's wish.
    pub(crate) fn is_going_away(&self) -> bool {
        self.going_away.is_some()
    }

    /// What the peer offers by name, as far as it has said so.
    pub(crate) fn services(&self) -> Option<&[v2::Service]> {
        self.peer.services.as_deref()
    }

    /// Whether the peer's SETTINGS are here.
    pub(crate) fn has_introduction(&self) -> bool {
        self.greeting == Greeting::Done
    }

    /// Streams that may be on the link at once.
    pub(crate) fn places(&self) -> usize {
        self.peer.streams.min(self.limits.streams) as usize
    }

    /// Streams on the link, or waiting for a place on it.
    pub(crate) fn clients(&self) -> usize {
        self.numbers.len() + self.waiting.len()
    }

    fn handle_timer(&mut self, now: Instant, timer: Timer) -> Result<(), ProtocolError> {
        match timer {
            Timer::Settings if self.is_in_tls => return Err(ProtocolError::NotGreeted),
            Timer::Settings => return Err(ProtocolError::NoSettings),
            Timer::Liveness => {
                match self.liveness.handle_timeout(now) {
                    Due::Nothing => {}
                    Due::Ping(payload) => {
                        // So long a silence means that nothing is sent either.
                        self.send_buffer.give_back();
                        self.round_trip.handle_ping(now);
                        self.push_ping(payload);
                    }
                    Due::Dead => return Err(ProtocolError::Silent),
                }
                self.timers.set(timer, self.liveness.poll_timeout());
            }
            Timer::Ack => return self.handle_ack_timeout(now),
            Timer::Place(key) if self.liveness.is_suspect() => self.reset(key, Reset::Unanswered),
            Timer::Place(_) if self.device_is_slow() => self.timers.set(timer, now + PLACE_TIMEOUT),
            Timer::Place(key) => self.reset(key, Reset::NoPlace),
            Timer::OpenRate => self.assign_numbers(now),
            Timer::Sign => self.handle_sign_timeout(now),
            Timer::Connect(key) => {
                let reason = "there was no connection to the service in 10 s";
                self.push_close_of(key, Code::Timeout, reason);
                self.reset(key, Reset::ConnectTimeout);
            }
            Timer::Delivery(key) => {
                let Some(&progress) = self.delivering.get(&key) else { return Ok(()) };
                let due = progress + self.limits.rule.stall;
                if due > now {
                    self.timers.set(timer, due);
                } else {
                    self.reset(key, Reset::Stalled);
                }
            }
        }
        Ok(())
    }

    /// The stream's socket consumed bytes: there may be credit for more, and the stream may be at its end.
    fn consume(&mut self, now: Instant, key: StreamKey, count: usize) {
        let Some(stream) = self.streams.get_mut(key) else { return };
        stream.window.consume(count, &mut self.budget);
        if !self.round_trip.is_draining() {
            self.renew_credit(now, key);
        }
        self.end_if_delivered(key);
    }

    /// Gives the stream credit, if it has consumed enough; bytes that come so are reason to measure their way.
    fn renew_credit(&mut self, now: Instant, key: StreamKey) {
        let Some(stream) = self.streams.get_mut(key) else { return };
        let is_receiving = stream.is_receiving();
        let growth = if self.pacing.is_some() {
            Growth::WhenLimited
        } else {
            // A stream whose end has come needs no more.
            let round_trip = self.round_trip.least().filter(|_| is_receiving);
            Growth::To(round_trip.map_or(0, |round_trip| self.delivery_rate.window(now, round_trip)))
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
    fn ask(&mut self, now: Instant) {
        if let Some(payload) = self.liveness.ask(now) {
            self.round_trip.handle_ping(now);
            self.push_ping(payload);
        }
    }

    /// The answer to a PING: credit is withheld for as long as the way must be empty to be measured.
    fn handle_round_trip(&mut self, now: Instant, sample: Duration) {
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
    fn add_stale_credit(&mut self, bytes: u64) {
        self.stale_credit = MOST_STALE.min(self.stale_credit + bytes);
    }

    /// On an error, queues a GOAWAY that says why the link ends: there is one try to send it.
    fn say_why<T>(&mut self, now: Instant, result: Result<T, ProtocolError>) -> Result<T, ProtocolError> {
        if let Err(error) = &result {
            self.go_away(now, error.code(), 0, &error.to_string());
        }
        result
    }
}

impl Connection for Mux {
    fn receive<'a>(&mut self, now: Instant, input: &mut &'a [u8]) -> Result<Option<Delivery<'a>>, ProtocolError> {
        self.liveness.note_input(now);
        let result = self.receive_items(now, input);
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
        self.pacing.as_ref().map(Pacing::low_water)
    }

    fn link_keepalive(&self) -> Option<Duration> {
        self.peer.keepalive.map(|_| self.liveness.longest_silence())
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
        for timer in [Timer::Settings, Timer::Liveness, Timer::Ack, Timer::OpenRate, Timer::Sign] {
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
        self.outputs.pop_front()
    }

    fn counters(&self) -> Counters {
        let round_trip = self.pacing.as_ref().and_then(Pacing::round_trip).or_else(|| self.round_trip.smoothed());
        Counters { open: self.numbers.len() as u64, round_trip, ..self.counters }
    }

    fn streams(&self) -> usize {
        self.streams.len()
    }

    fn held(&self) -> u64 {
        self.held + self.send_buffer.len() as u64
    }
}

#[cfg(test)]
mod tests;
