//! How much may be on its way on the link, and when the next of it may leave: a busy line with a short queue.
//!
//! The sender asks for acknowledgements; each carries the peer's clock, so that the sender sees how long its own
//! direction takes, whatever waits on the way back. It bounds the bytes in flight by a window that fits the path, and
//! spreads them over the round trip. Neither clock is ever set: only differences count, and the offset between the two
//! clocks cancels out.
//!
//! ```text
//!              there is a queue
//!   Start ------------------------> Steady <----------------------+
//!     ^                              |  ^ |                       | the path is as short as it was,
//!     |  3 rounds without a queue    |  | | 1 to 10 s without     | or longer for good
//!     +------------------------------+  | | an empty queue        |
//!                                       | v                       |
//!                                      Drain ---------------------+
//!                                      ^ |  ^
//!                      as fast as ever | |  | 10 to 30 s
//!      8 rounds with                   | |  +----------------+
//!      a long queue                    | v it is longer      |
//!   Steady ---------------------------> Try -------------> Compete
//!                                            slower
//! ```
//!
//! - **Start**: the window grows by what is acknowledged, so it doubles in each round trip.
//! - **Steady**: the window is what the path moves in its shortest round trip and a short queue more, and as much again
//!   at most while acknowledgements wait behind the peer's own bytes.
//! - **Drain**: the window is half of the path for a round, so that the shortest round trip is seen again.
//! - **Try**: the window is what the path moved when nobody else was there, for the round trip that there is now. A path
//!   that is longer brings that; one with cross traffic in its queue does not.
//! - **Compete**: cross traffic fills the queue. A sender that holds back gets nothing there, so TCP alone decides.
//!
//! Times are in seconds, since this end began; bytes are those of DATA frames, header and all.

mod clock;
mod gate;
mod path;
mod round;
mod state;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use clock::PeerClock;
use gate::Gate;
use path::Path;
use round::Round;
use state::{DRAINED, HOT, START, State};

const KIB: f64 = 1024.0;
const MIB: f64 = 1024.0 * KIB;

/// The window before anything is known, and after a pause.
const FIRST: u64 = 16 * 1024;
/// The least window, and the largest.
const LEAST: u64 = 4 * 1024;
const MOST: u64 = 8 * 1024 * 1024;
/// What interactive streams may have in flight beyond the window.
const INTERACTIVE: u64 = 2 * 1024;
/// The least number of bytes that is worth an acknowledgement of its own.
const LEAST_ASK: u64 = 2 * 1024;
/// Where little is sent, the path is measured so often.
const ASK_AFTER: Duration = Duration::from_millis(250);
/// What is known of the path may be wrong after so long, in seconds and in round trips: where the queue was not empty it
/// is drained, and where nothing was held back all is measured anew. Clocks that differ by 250 ppm move the way there by
/// a fourth of the round trip meanwhile, and in ten seconds by more than a short queue takes.
const STALE_AFTER: (f64, f64) = (1.0, 10.0);
const STALE_AFTER_TRIPS: f64 = 1000.0;
/// Asks that may be out: as many as a full window has. A peer that acknowledges little makes them no more.
const MOST_ASKS: usize = (MOST / LEAST_ASK) as usize;

/// The sender's view of one direction of the link.
#[derive(Debug)]
pub(super) struct Pacing {
    began: Instant,
    state: State,
    /// The window of `Start` and `Steady`.
    window: u64,
    sent: u64,
    acked: u64,
    /// When anything was acknowledged last, or the wait for it began anew.
    acked_at: Instant,
    /// In the order in which they were made, at most [`MOST_ASKS`].
    asks: VecDeque<Ask>,
    /// What had been sent at the last ask, and when that was.
    asked: u64,
    asked_at: Option<Instant>,
    round: Round,
    path: Path,
    clock: PeerClock,
    gate: Gate,
    /// When bulk was last seen to be held back, by the window, the gate or the kernel.
    held_back_at: f64,
}

/// A frame that asks to be acknowledged.
#[derive(Debug)]
struct Ask {
    /// Where it ends in the queue of DATA.
    place: u64,
    /// DATA that was sent up to its end.
    sent: u64,
    /// It left while the queue was drained.
    clean: bool,
    /// Once it has left: where it ended on the link, and when that was.
    left: Option<(u64, f64)>,
}

impl Pacing {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            began: now,
            state: START,
            window: FIRST,
            sent: 0,
            acked: 0,
            acked_at: now,
            asks: VecDeque::new(),
            asked: 0,
            asked_at: None,
            round: Round::default(),
            path: Path::new(),
            clock: PeerClock::default(),
            gate: Gate::new(now),
            held_back_at: f64::NEG_INFINITY,
        }
    }

    /// Whether a bulk stream may put a frame on the link.
    pub(super) fn may_send_bulk(&self) -> bool {
        self.gate.is_open() && (self.in_flight() < self.window_now() || self.asks.is_empty())
    }

    /// Whether an interactive stream may.
    pub(super) fn may_send_interactive(&self) -> bool {
        self.in_flight() < self.window_now() + INTERACTIVE || self.asks.is_empty()
    }

    /// The most bytes that are cut from a stream at once: few enough that no other stream waits for long behind them.
    pub(super) fn most_at_once(&self) -> usize {
        if self.path.trip.is_none() {
            return FIRST as usize / 4;
        }
        let time = (self.allowed_queue() / 3.0).min(0.004);
        (self.rate() * time).clamp(KIB, MIB) as usize
    }

    /// What the kernel may hold before it is on its way: a power of two, so that it seldom changes.
    pub(super) fn low_water(&self) -> u32 {
        ((self.rate() * 0.005).clamp(4.0 * KIB, 128.0 * KIB) as u32).next_power_of_two()
    }

    /// When the gate opens, if it is shut.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        (!self.gate.is_open()).then(|| self.gate.opens_at())
    }

    /// Time has passed.
    pub(super) fn handle_time(&mut self, now: Instant) {
        self.gate.handle_time(now);
    }

    /// A stream had something to send and was not let.
    pub(super) fn note_held_back(&mut self) {
        self.round.held_back = true;
    }

    /// The kernel did not take all that it was given.
    pub(super) fn note_kernel_full(&mut self) {
        self.round.kernel_full = true;
    }

    /// `bytes` of DATA, headers and all, were queued up to `place` in the queue of DATA; with `more` others wait.
    /// Returns whether the last of their frames is to ask for an acknowledgement.
    pub(super) fn handle_cut(&mut self, now: Instant, bytes: usize, place: u64, is_bulk: bool, more: bool) -> bool {
        let time = self.time(now);
        if self.asks.is_empty() && time - self.held_back_at > self.stale_after() {
            self.restart(time);
        }
        if is_bulk && let Some(span) = self.pacing_span() {
            self.gate.spend(now, bytes as f64 / (1.25 * self.window_now() as f64), span);
        }
        self.sent += bytes as u64;
        let (since, in_flight) = (self.sent - self.asked, self.in_flight());
        let is_stale = self.asked_at.is_none_or(|at| now.saturating_duration_since(at) > ASK_AFTER);
        let asks = since >= self.ask_every()
            || !more && (since >= LEAST_ASK || is_stale)
            || in_flight >= self.window_now()
            || self.path.trip.is_none() && self.asks.is_empty() && in_flight >= LEAST_ASK;
        let asks = asks && self.asks.len() < MOST_ASKS;
        if asks {
            self.asked = self.sent;
            self.asked_at = Some(now);
            let clean = matches!(self.state, State::Drain { window, .. } if in_flight <= window + bytes as u64);
            self.asks.push_back(Ask { place, sent: self.sent, clean, left: None });
        }
        asks
    }

    /// The link took the queue of DATA up to `place`, which ends at `offset` on the link.
    pub(super) fn handle_left(&mut self, now: Instant, place: u64, offset: u64) {
        let time = self.time(now);
        for ask in self.asks.iter_mut().rev().take_while(|ask| ask.left.is_none()) {
            if let Some(beyond) = place.checked_sub(ask.place) {
                ask.left = Some((offset - beyond, time));
            }
        }
    }

    /// The peer has read up to `offset`, by its clock at `clock`. False if that was not asked for.
    #[must_use]
    pub(super) fn handle_ack(&mut self, now: Instant, offset: u64, clock: u32) -> bool {
        let found = self.asks.iter().position(|ask| ask.left.is_some_and(|(end, _)| end == offset));
        let Some(ask) = found.and_then(|found| self.asks.drain(..=found).next_back()) else { return false };
        let Some((_, left_at)) = ask.left else { return false };
        self.acked_at = now;
        let now = self.time(now);
        let clock = self.clock.unwrap(now, clock);
        let (forward, back) = (clock - left_at, now - clock);
        let newly_acked = ask.sent - self.acked;
        self.acked = ask.sent;
        if self.round.held_back || self.round.kernel_full {
            self.held_back_at = now;
        }
        if matches!(self.state, State::Start { .. }) && (self.round.held_back || self.round.was_held_back) {
            self.window = (self.window + newly_acked).min(MOST);
        }
        if self.path.shows_jump(forward, back) {
            self.handle_jump();
            return true;
        }
        if let State::Drain { end, .. } = &mut self.state {
            if !ask.clean {
                return true;
            }
            end.get_or_insert(self.sent);
        }
        self.round.add(forward, back);
        self.handle_sample(now, &ask, left_at, clock);
        true
    }

    /// Since when the peer has acknowledged nothing, though it is to.
    pub(super) fn unanswered_since(&self) -> Option<Instant> {
        let (_, left_at) = self.asks.front()?.left?;
        Some(self.acked_at.max(self.began + Duration::from_secs_f64(left_at)))
    }

    /// The wait for an acknowledgement begins anew.
    pub(super) fn restart_wait(&mut self, now: Instant) {
        self.acked_at = now;
    }

    /// Whether every ask was answered.
    #[cfg(test)]
    pub(super) fn is_answered(&self) -> bool {
        self.asks.is_empty()
    }

    /// The smoothed round trip, queue and all; `None` before it is measured.
    pub(super) fn round_trip(&self) -> Option<Duration> {
        self.path.trip.map(|trip| Duration::from_secs_f64(trip + self.path.queue.max(0.0) + self.path.queue_back))
    }

    /// One acknowledgement more: the round may be over.
    fn handle_sample(&mut self, now: f64, ask: &Ask, left_at: f64, clock: f64) {
        let allowed = self.allowed_queue();
        let is_over = match &mut self.state {
            State::Drain { end, .. } => self.round.count() >= DRAINED || end.is_some_and(|end| ask.sent >= end),
            State::Start { hot, .. } => {
                let shows_queue = self.path.trip.is_some() && clock - left_at - self.path.base > allowed / 2.0;
                *hot = if shows_queue { *hot + 1 } else { 0 };
                *hot >= HOT || ask.sent >= self.round.end
            }
            State::Steady { .. } | State::Try { .. } | State::Compete { .. } => ask.sent >= self.round.end,
        };
        if !is_over {
            return;
        }
        let sent = self.sent;
        let round = self.round.finish(sent, ask.sent, clock, left_at);
        if let State::Drain { cause, .. } = self.state {
            self.handle_drained(now, &round, cause);
        } else {
            self.handle_round(now, &round);
        }
    }

    fn stale_after(&self) -> f64 {
        let (least, most) = STALE_AFTER;
        self.path.trip.map_or(most, |trip| (STALE_AFTER_TRIPS * trip).clamp(least, most))
    }

    fn in_flight(&self) -> u64 {
        self.sent - self.acked
    }

    fn window_now(&self) -> u64 {
        match self.state {
            State::Start { .. } | State::Steady { .. } => self.window,
            State::Drain { window, .. } | State::Try { window, .. } => window,
            State::Compete { .. } => MOST,
        }
    }

    /// How many bytes apart asks are: some for each round, though on a fast link not too many.
    fn ask_every(&self) -> u64 {
        let span = match (self.state, self.path.trip) {
            (State::Compete { .. }, Some(trip)) => self.path.rate() * (trip + self.path.queue),
            _ => self.window_now() as f64,
        };
        (span / 8.0).max(LEAST_ASK as f64).max(self.path.rate() * 0.0004).min(1e6) as u64
    }

    /// The time over which a window is spread; `None` where bulk is not paced.
    fn pacing_span(&self) -> Option<f64> {
        if matches!(self.state, State::Compete { .. }) {
            return None;
        }
        self.path.trip.map(|trip| trip + self.path.queue_back)
    }

    /// The time that bytes of ours may wait in a queue: a quarter of the round trip at most, so that a round can grow by
    /// as much; a few milliseconds where loops take turns, and never less than three small frames take.
    fn allowed_queue(&self) -> f64 {
        let Some(trip) = self.path.trip else { return 0.0 };
        let rate = self.rate();
        (trip / 4.0).min(0.025).max((6.0 * MIB / rate).min(0.002)).max(3.0 * KIB / rate)
    }

    /// The path's rate, as far as the window lets it be seen.
    fn rate(&self) -> f64 {
        let assumed = self.path.trip.map_or(0.0, |trip| self.window as f64 / (2.0 * trip));
        self.path.rate().max(assumed)
    }

    fn time(&self, now: Instant) -> f64 {
        now.saturating_duration_since(self.began).as_secs_f64()
    }
}

#[cfg(test)]
mod tests;
