//! How a link begins: each end says what it can, and who it is, in SETTINGS.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use super::budget::Budget;
use super::control::PendingCloses;
use super::deadlines::Deadlines;
use super::liveness::Liveness;
use super::reading::Reading;
use super::round_trip::RoundTrip;
use super::send_buffer::SendBuffer;
use super::waiting_streams::WaitingStreams;
use super::{Mux, Output, Role, Timer};
use crate::connection::{Bucket, Counters, Limits, Slab};
use crate::protocol::ProtocolError;
use crate::protocol::v2::{self, Service, Settings};

/// From the start of version 2 until SETTINGS are here.
const SETTINGS_TIMEOUT: Duration = Duration::from_secs(10);
/// The same in TLS, whose handshake is a part of it, and a relay's decision another.
const SETTINGS_TIMEOUT_IN_TLS: Duration = Duration::from_secs(20);
/// Input that may come before SETTINGS are complete.
pub(super) const MAX_GREETING: usize = 4 * 1024;
/// CONNECTs that an honest relay can have on their way, beyond what it may open in a second.
const MOST_ON_THE_WAY: u32 = 20_000;
/// Frames of no use that are forgiven: so many at once, and so many a second.
pub(super) const ABUSE: (u32, u32) = (100, 10);

/// How far the peer has introduced itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Greeting {
    /// Its SETTINGS are to come; so many bytes came.
    Awaited(usize),
    /// A relay's, in TLS: they are here, and its owner is to decide whether the device is admitted.
    Undecided,
    Done,
}

/// What holds of the peer for as long as the link is there.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) window: u32,
    pub(super) streams: u32,
    pub(super) acknowledges: bool,
    /// Whether it has said after which silence it is asked.
    pub(super) has_keepalive: bool,
    /// A relay that does not admit the device.
    pub(super) refuses: bool,
    pub(super) services: Option<Box<[Service]>>,
}

impl Peer {
    fn of(said: &Settings) -> Self {
        let Settings { window, streams, acknowledges, keepalive, refuses, services, .. } = said;
        Self {
            window: *window,
            streams: *streams,
            acknowledges: *acknowledges,
            has_keepalive: keepalive.is_some(),
            refuses: *refuses,
            services: services.as_deref().map(Box::from),
        }
    }
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
        let (timers, liveness) = (Deadlines::new(), Liveness::new(now));
        let least = Settings::default();
        // What waited on its way to a device comes all at once: ten seconds' worth is no breach, if it fits on a way.
        let (burst, rate) = match role {
            Role::Device => (open_rate.saturating_mul(10).min(open_rate.saturating_add(MOST_ON_THE_WAY)), open_rate),
            Role::Relay => (least.open_rate, least.open_rate),
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
            peer: Peer::of(&least),
            said: None,
            greeting: Greeting::Awaited(0),
            budget: Budget::new(limits.budget, streams, window.into()),
            pacing: None,
            waiting_streams: WaitingStreams::default(),
            reading: Reading::new(now),
            delivery_rate: None,
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

    /// Whether this is a device that the relay does not admit, as its SETTINGS say: all that may follow is why.
    pub(super) fn is_refused(&self) -> bool {
        self.is_in_tls && self.role == Role::Device && self.peer.refuses
    }

    /// Whether the peer's SETTINGS are here.
    pub(crate) fn has_introduction(&self) -> bool {
        self.greeting == Greeting::Done
    }

    pub(super) fn handle_settings(&mut self, now: Instant, settings: Settings) -> Result<(), ProtocolError> {
        if self.greeting == Greeting::Done {
            return self.note_abuse(now);
        }
        if settings.has_token() && !self.is_in_tls {
            return Err(ProtocolError::JoinInTheClear);
        }
        self.reading.begin();
        self.peer = Peer::of(&settings);
        self.said = Some(Box::new(settings));
        if self.is_in_tls && self.role == Role::Relay {
            self.greeting = Greeting::Undecided;
            self.outputs.push_back(Output::Presented);
        } else {
            self.greet(now);
        }
        Ok(())
    }

    /// Each end has the other's SETTINGS, or will have: streams may come.
    fn greet(&mut self, now: Instant) {
        self.greeting = Greeting::Done;
        // The end of a link on which the device is refused has its time, too.
        if !self.is_refused() {
            self.timers.cancel(Timer::Settings);
        }
        let window = self.peer.window;
        // What was assumed is only ever raised, for open streams too.
        for key in self.numbers.values().copied().collect::<Vec<_>>() {
            if let Some(stream) = self.streams.get_mut(key) {
                stream.credit = stream.credit.max(window.into());
                self.unblock(key);
            }
        }
        self.begin_pacing(now);
        let Some(said) = self.said.take() else { return };
        let Settings { open_rate, keepalive, refuses, .. } = *said;
        if self.role == Role::Relay {
            self.opens.set_rate(now, open_rate, open_rate);
        }
        if let Some(keepalive) = keepalive {
            let agreed = self.limits.keepalive.min(keepalive);
            self.liveness.agree(self.role, agreed.clamp(Limits::MIN_KEEPALIVE, Limits::MAX_KEEPALIVE));
            self.timers.set(Timer::Liveness, self.liveness.poll_timeout());
        }
        // A refusal introduces nobody; GOAWAY behind it says why.
        if !refuses {
            if self.is_in_tls {
                self.outputs.push_back(Output::Version(2));
            }
            let software = said.software.escape_debug().to_string();
            self.outputs.push_back(Output::Introduced(software));
        }
        // Its owner has looked at it before it admitted the device.
        self.said = Some(said).filter(|_| self.role == Role::Device);
        self.ask(now);
    }
}
