//! What the acknowledgements of one round measure together.

/// A shorter time shows how loops take turns, and not how fast a path is.
const LEAST_TIME: f64 = 1e-4;

/// A round: what was sent when it began has been acknowledged when it ends.
#[derive(Debug, Default)]
pub(super) struct Round {
    /// DATA that must be acknowledged.
    pub(super) end: u64,
    /// A stream had something to send, and the window or the gate was shut.
    pub(super) held_back: bool,
    /// The same in the round before.
    pub(super) was_held_back: bool,
    /// The kernel took no more.
    pub(super) kernel_full: bool,
    count: u32,
    forward: f64,
    back: f64,
    /// Where the last one ended: DATA, the peer's clock, and ours when that was sent.
    last: Option<(u64, f64, f64)>,
    /// Where the one before it ended.
    before_last: Option<(u64, f64, f64)>,
}

/// The means of a round.
#[derive(Debug)]
pub(super) struct Measured {
    pub(super) count: u32,
    pub(super) forward: f64,
    pub(super) back: f64,
    pub(super) round_trip: f64,
    /// Bytes a second, in this round and the one before: where a round of few acknowledgements ends is chance by a fourth
    /// of it, and the best of many rates would be one that no path has.
    pub(super) rate: f64,
    pub(super) held_back: bool,
    pub(super) kernel_full: bool,
}

impl Measured {
    /// Whether more would have been sent if the path had taken it.
    pub(super) fn is_used(&self) -> bool {
        self.held_back || self.kernel_full
    }
}

impl Round {
    /// Acknowledgements so far.
    pub(super) fn count(&self) -> u32 {
        self.count
    }

    /// One more: how long the way there took, and the way back.
    pub(super) fn add(&mut self, forward: f64, back: f64) {
        self.count += 1;
        self.forward += forward;
        self.back += back;
    }

    /// The next round begins, when so much was sent.
    pub(super) fn begin(&mut self, sent: u64) {
        *self = Self {
            end: sent,
            last: self.last,
            before_last: self.before_last,
            was_held_back: self.held_back,
            ..Self::default()
        };
    }

    /// The same, where what was measured before says nothing of what comes.
    pub(super) fn begin_anew(&mut self, sent: u64) {
        *self = Self { end: sent, ..Self::default() };
    }

    /// The round ends with the acknowledgement of `acked`, which left here at `left_at` and was read there at `clock`.
    pub(super) fn finish(&mut self, sent: u64, acked: u64, clock: f64, left_at: f64) -> Measured {
        let here = (acked, clock, left_at);
        let last = self.last.replace(here);
        let (last_acked, last_clock, last_left_at) = self.before_last.or(last).unwrap_or(here);
        self.before_last = last;
        // What was held up comes at once behind a gap: it came no faster than it was sent.
        let time = (clock - last_clock).max(left_at - last_left_at).max(LEAST_TIME);
        let count = f64::from(self.count.max(1));
        let (forward, back) = (self.forward / count, self.back / count);
        let measured = Measured {
            count: self.count,
            forward,
            back,
            round_trip: forward + back,
            rate: (acked - last_acked) as f64 / time,
            held_back: self.held_back,
            kernel_full: self.kernel_full,
        };
        self.begin(sent);
        measured
    }
}
