//! One direction of a link over a line with a rate, a delay and one queue, and nothing else.

use std::cell::Cell;
use std::rc::Rc;

use super::tcp::{PACKET, Tcp};
use super::*;

/// The step of the clock.
const TICK: Duration = Duration::from_micros(200);
const HEADER: usize = 8;
/// A keystroke: a frame of 64 bytes.
const KEY: usize = HEADER + 64;

/// What a line is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Line {
    /// Bytes a second.
    pub(super) rate: f64,
    /// There and back.
    pub(super) round_trip: Duration,
    /// Bytes that its queue holds; what comes beyond waits in the kernel.
    pub(super) queue: f64,
    /// The most that anything is late by chance.
    pub(super) jitter: Duration,
    /// Millionths by which the peer's clock is too fast.
    pub(super) skew: f64,
}

/// Kbit a second, milliseconds, KiB.
pub(super) fn line(rate: f64, round_trip: u64, queue: f64) -> Line {
    let round_trip = Duration::from_millis(round_trip);
    Line { rate: rate * 125.0, round_trip, queue: queue * KIB, jitter: Duration::ZERO, skew: 50.0 }
}

/// A controller with bulk that never ends, and a keystroke now and then.
pub(super) struct Run {
    pub(super) pacing: Pacing,
    pub(super) line: Line,
    began: Instant,
    pub(super) now: Instant,
    /// Where the bulk streams have something to send.
    pub(super) bulk: bool,
    /// What carries the link. Without it nothing is ever lost: the kernel waits before a queue that is full.
    pub(super) tcp: Option<Tcp>,
    /// A plain download by somebody else in the same queue.
    pub(super) neighbour: Option<Tcp>,
    /// Until when the line is busy with all that its queue holds.
    busy_until: Rc<Cell<Instant>>,
    newest: Instant,
    /// Frames that wait in the kernel, and the number of their bytes.
    kernel: VecDeque<(usize, bool, Option<Instant>)>,
    unsent: usize,
    sent: u64,
    /// Arrivals: when, how much, whether it asks, and if it is a keystroke when that was struck.
    there: VecDeque<(Instant, usize, bool, Option<Instant>)>,
    back: VecDeque<(Instant, u64, u32)>,
    arrived: u64,
    next_key: Instant,
    /// Milliseconds that each echo took.
    pub(super) echoes: Vec<f64>,
    pub(super) delivered: u64,
    /// Nothing arrives before this.
    pub(super) hole: Instant,
    /// Seconds by which the peer's clock has jumped.
    pub(super) jumped: f64,
    /// The most by which the loop of this end is late, now and then: others keep the processor.
    pub(super) late: Duration,
    late_until: Instant,
    random: u64,
    kernel_was_full: bool,
    /// A round trip after the last bulk frame: the gate opens by then.
    shut_until: Instant,
}

impl Run {
    pub(super) fn new(line: Line) -> Self {
        Self::begin(Instant::now() + Duration::from_secs(1000), line)
    }

    fn begin(began: Instant, line: Line) -> Self {
        Self {
            pacing: Pacing::new(began),
            line,
            began,
            now: began,
            bulk: true,
            tcp: None,
            neighbour: None,
            busy_until: Rc::new(Cell::new(began)),
            newest: began,
            kernel: VecDeque::new(),
            unsent: 0,
            sent: 0,
            there: VecDeque::new(),
            back: VecDeque::new(),
            arrived: 0,
            next_key: began,
            echoes: Vec::new(),
            delivered: 0,
            hole: began,
            jumped: 0.0,
            late: Duration::ZERO,
            late_until: began,
            random: 88_172_645_463_325_252,
            kernel_was_full: false,
            shut_until: began,
        }
    }

    /// Another tunnel on the same line. TCP carries both.
    pub(super) fn second(&mut self) -> Self {
        self.tcp.get_or_insert_with(Tcp::new);
        let line = Self { busy_until: Rc::clone(&self.busy_until), ..Self::begin(self.now, self.line) };
        Self { tcp: Some(Tcp::new()), late: self.late, random: self.random / 3, ..line }
    }

    /// Somebody else's download begins. From now on TCP carries the link, too.
    pub(super) fn begin_download(&mut self) {
        self.tcp.get_or_insert_with(Tcp::new);
        self.neighbour = Some(Tcp::new());
    }

    /// So many seconds pass for both tunnels; for each what [`Self::pass`] gives.
    pub(super) fn pass_both(&mut self, other: &mut Self, seconds: f64) -> [(f64, f64); 2] {
        let before = [self.delivered, other.delivered];
        let end = self.now + Duration::from_secs_f64(seconds);
        while self.now < end {
            for run in [&mut *self, &mut *other] {
                run.now += TICK;
                run.step();
            }
        }
        [self.seen(before[0], seconds), other.seen(before[1], seconds)]
    }

    /// So many seconds pass; the share of the line that bulk had, in percent, and the median echo in milliseconds.
    pub(super) fn pass(&mut self, seconds: f64) -> (f64, f64) {
        let before = self.delivered;
        let end = self.now + Duration::from_secs_f64(seconds);
        while self.now < end {
            self.now += TICK;
            self.step();
        }
        self.seen(before, seconds)
    }

    fn seen(&mut self, before: u64, seconds: f64) -> (f64, f64) {
        let mut echoes = std::mem::take(&mut self.echoes);
        echoes.sort_by(f64::total_cmp);
        let echo = echoes.get(echoes.len() / 2).copied().unwrap_or_default();
        (100.0 * (self.delivered - before) as f64 / seconds / self.line.rate, echo)
    }

    /// This host was suspended for so many seconds, or the other one if they are below zero: its clock stood still, and
    /// what was on its way to it comes when it goes on. We see it when both do, and a connection lives through minutes.
    pub(super) fn suspend(&mut self, seconds: f64) {
        self.jumped += seconds;
        if seconds < 0.0 {
            self.hole = self.now + Duration::from_secs_f64(seconds.abs().min(5.0));
            for arrival in &mut self.there {
                arrival.0 = arrival.0.max(self.hole);
            }
            self.pass(seconds.abs().min(5.0));
        }
    }

    fn step(&mut self) {
        let now = self.now;
        let queued = Duration::from_secs_f64(self.line.queue / self.line.rate);
        while let Some(&(at, bytes, asks, key)) = self.there.front().filter(|arrival| arrival.0 <= now) {
            self.there.pop_front();
            self.arrived += bytes as u64;
            self.delivered += bytes as u64;
            let answered = at + self.line.round_trip / 2;
            if let Some(struck) = key {
                self.echoes.push((answered - struck).as_secs_f64() * 1e3);
            }
            if asks {
                let clock = (at - self.began).as_secs_f64() * (1e6 + self.line.skew) + self.jumped * 1e6 + 4e9;
                self.back.push_back((answered, self.arrived, clock as i64 as u32));
            }
        }
        // Either may be the first to find room in the queue.
        if self.neighbour.is_some() && self.chance(2) == 0 {
            self.transmit(queued);
        }
        self.download(queued);
        self.transmit(queued);
        if now < self.late_until {
            return;
        }
        if !self.late.is_zero() && self.chance(500) == 0 {
            self.late_until = now + self.late.mul_f64(self.chance(1000) as f64 / 1000.0);
        }
        while let Some(&(_, offset, clock)) = self.back.front().filter(|ack| ack.0 <= now) {
            self.back.pop_front();
            // The newest replaces those that wait.
            if self.back.front().is_none_or(|ack| ack.0 > now) {
                assert!(self.pacing.handle_ack(now, offset, clock), "it was asked for");
            }
        }
        self.pacing.handle_time(now);
        if now >= self.next_key && self.pacing.may_send_interactive() {
            self.send(KEY, Some(self.next_key));
            self.next_key = now + Duration::from_millis(25 + self.chance(50));
        }
        self.kernel_was_full = false;
        while self.bulk {
            if self.unsent >= self.pacing.low_water() as usize {
                self.pacing.note_kernel_full();
                self.kernel_was_full = true;
                break;
            }
            if !self.pacing.may_send_bulk() {
                self.pacing.note_held_back();
                assert!(
                    !self.pacing.asks.is_empty() || self.pacing.poll_timeout().is_some_and(|at| at <= self.shut_until),
                    "an acknowledgement will come, or the gate opens within a round trip"
                );
                break;
            }
            self.send(HEADER + self.pacing.most_at_once(), None);
        }
        assert!(self.pacing.window_now() <= MOST && self.pacing.window >= LEAST);
        assert!(
            !self.bulk || self.kernel_was_full || self.pacing.in_flight() > 0 || now < self.shut_until,
            "bulk is ready, so something is sent, or was less than a round trip ago"
        );
    }

    fn send(&mut self, bytes: usize, key: Option<Instant>) {
        self.sent += bytes as u64;
        if key.is_none() {
            let span = self.pacing.pacing_span().unwrap_or_default();
            self.shut_until = self.now + Duration::from_secs_f64(span);
        }
        let asks = self.pacing.handle_cut(self.now, bytes, self.sent, key.is_none(), self.bulk);
        self.pacing.handle_left(self.now, self.sent, self.sent);
        self.kernel.push_back((bytes, asks, key));
        self.unsent += bytes;
        self.transmit(Duration::from_secs_f64(self.line.queue / self.line.rate));
    }

    /// Somebody else's download goes on.
    fn download(&mut self, queued: Duration) {
        let Some(tcp) = &mut self.neighbour else { return };
        let now = self.now;
        tcp.handle_time(now);
        while tcp.may_send() {
            if self.busy_until.get() > now + queued {
                tcp.lose(now, self.line.round_trip + queued);
                break;
            }
            let left = self.busy_until.get().max(now) + Duration::from_secs_f64(PACKET / self.line.rate);
            self.busy_until.set(left);
            tcp.send(PACKET, left + self.line.round_trip);
        }
    }

    /// The kernel puts into the queue what that takes, and its TCP.
    fn transmit(&mut self, queued: Duration) {
        let now = self.now;
        if let Some(tcp) = &mut self.tcp {
            tcp.handle_time(now);
        }
        while let Some(&(bytes, asks, key)) = self.kernel.front() {
            if self.tcp.as_ref().is_some_and(|tcp| !tcp.may_send()) {
                return;
            }
            if self.busy_until.get() > now + queued {
                if let Some(tcp) = &mut self.tcp {
                    tcp.lose(now, self.line.round_trip + queued);
                }
                return;
            }
            self.kernel.pop_front();
            self.unsent -= bytes;
            let left = self.busy_until.get().max(now) + Duration::from_secs_f64(bytes as f64 / self.line.rate);
            self.busy_until.set(left);
            if let Some(tcp) = &mut self.tcp {
                tcp.send(bytes as f64, left + self.line.round_trip);
            }
            let jitter = self.line.jitter.mul_f64(self.chance(1000) as f64 / 1000.0);
            self.newest = self.newest.max(left + self.line.round_trip / 2 + jitter).max(self.hole);
            self.there.push_back((self.newest, bytes, asks, key));
        }
    }

    fn chance(&mut self, below: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % below
    }
}
