//! What the window is for, and what the rounds make of it; the [module above](super) has the diagram.

use super::round::Measured;
use super::{FIRST, LEAST, MOST, Pacing};

/// Acknowledgements that measure a drained path.
pub(super) const DRAINED: u32 = 4;
/// Acknowledgements in a row that show a queue, while the window still grows.
pub(super) const HOT: u32 = 3;
/// Rounds in which the kernel takes no more, and the path is no faster: then it is not the window that is too small.
const FLAT: u32 = 3;
/// Rounds without a queue, after which the window may grow freely again.
const LOW: u32 = 3;
/// Rounds with a long queue, after which the path has become slower, and those after which there is cross traffic.
const SLOWER: u32 = 3;
const CROWDED: u32 = 8;
/// A path is longer than it was known to be by so many allowed queues: another tunnel of this kind adds up to 2.4 of them
/// on a slow line, cross traffic that fills the queue many more.
const RISEN: f64 = 3.0;
/// Drains in a row that find the same longer path: then it is the path.
const AGREED: u32 = 3;
/// Rounds with a window for a longer path, and those in a row that show that it is one. A round trip that grows by half
/// beyond that path's shows at once that somebody else fills the queue.
const TRIED: u32 = 6;
const GOOD: u32 = 2;
const GROWN: f64 = 1.5;
/// Parts of the rate that the path had alone: above the first nobody else is there, below the second somebody is.
const FAST: f64 = 0.85;
const SLOW: f64 = 0.75;
/// How long TCP alone decides, and that in round trips. These are bounded: TCP fills every queue, so that the longest
/// round trip is the one that it has made itself.
const COMPETE: f64 = 10.0;
const COMPETE_TRIPS: f64 = 5.0;
const COMPETE_AT_MOST: f64 = 60.0;
/// For so long no drain is worth its cost while somebody else is there.
const COMPETE_ON: f64 = 30.0;
/// A path that was never drained is drained once it was used for so long, another one when its queue was not seen to be
/// empty for [`Pacing::stale_after`]; both after so many round trips at least, unless these are very long.
const UNKNOWN_FOR: f64 = 2.0;
const DRAIN_AFTER_TRIPS: f64 = 40.0;
const DRAIN_AT_LATEST: f64 = 20.0;

/// What the window is for just now; see the [module above](super) for the diagram.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum State {
    Start {
        /// Acknowledgements in a row that show a queue.
        hot: u32,
        /// Rounds in a row that the kernel bounded, and in which the rate did not grow by a quarter beyond this one.
        flat: u32,
        rate: f64,
    },
    Steady {
        /// Rounds in a row with a long queue.
        high: u32,
        /// Rounds in a row without a queue.
        low: u32,
    },
    Drain {
        window: u64,
        /// Where a round after the first acknowledgement that counts ends.
        end: Option<u64>,
        cause: Cause,
    },
    Try {
        window: u64,
        /// The longest round trip that is the path's own.
        longest: f64,
        /// Rounds that were used; the bytes of the first left by the window of before.
        rounds: u32,
        /// Rounds in a row that were as fast as the path was alone.
        good: u32,
    },
    Compete {
        since: f64,
        until: f64,
        agreement: Agreement,
    },
}

/// Why the path is drained.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Cause {
    /// Nothing was seen of an empty queue for long, or a clock has jumped.
    Stale,
    /// It was as fast as ever, so that nobody else is there: what is found is the path.
    Alone,
    /// It follows `Compete`.
    Competing(Agreement),
}

pub(super) const START: State = State::Start { hot: 0, flat: 0, rate: 0.0 };

/// Drains in a row that found a path of the same length.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Agreement {
    pub(super) trip: f64,
    pub(super) count: u32,
}

const NO_AGREEMENT: Agreement = Agreement { trip: f64::INFINITY, count: 0 };

impl Pacing {
    pub(super) fn handle_round(&mut self, now: f64, round: &Measured) {
        let competes = matches!(self.state, State::Compete { .. });
        let tells = round.held_back
            || round.rate > self.path.rate()
            || competes
            || round.kernel_full && round.rate > self.path.rate() / 2.0;
        if tells {
            self.path.note_rate(round.rate);
        }
        if round.is_used() && !competes && self.path.reference > 0.0 {
            self.path.reference = self.path.reference.max(round.rate);
        }
        let is_shorter = self.path.note_round(now, round);
        let (allowed, queue) = (self.allowed_queue(), self.path.queue);
        // A kernel that takes no more may stand before a queue that is full, and never shorter.
        if is_shorter || queue <= allowed / 4.0 && !round.kernel_full {
            self.path.fresh_at = now;
        }
        match self.state {
            State::Start { hot, flat, rate } => {
                let grows = self.path.rate() > 1.25 * rate;
                let flat = if grows || round.held_back || !round.kernel_full { 0 } else { flat + 1 };
                let rate = if grows { self.path.rate() } else { rate };
                if queue > allowed || hot >= HOT || flat >= FLAT {
                    self.settle();
                } else {
                    self.state = State::Start { hot, flat, rate };
                }
            }
            State::Steady { high, low } => self.handle_steady_round(now, round, high, low),
            State::Try { .. } => self.handle_tried_round(now, round),
            State::Compete { since, until, agreement } if now > until => {
                self.handle_competition(now, since, until, agreement);
            }
            State::Compete { .. } | State::Drain { .. } => {}
        }
    }

    fn handle_tried_round(&mut self, now: f64, round: &Measured) {
        let State::Try { longest, rounds, good, .. } = &mut self.state else { return };
        if !round.is_used() {
            return;
        }
        *rounds += 1;
        if *rounds == 1 {
            return;
        }
        *good = if round.rate >= FAST * self.path.reference { *good + 1 } else { 0 };
        if *good == GOOD {
            self.drain(Cause::Alone);
        } else if *rounds > TRIED || round.round_trip > *longest {
            self.compete(now, round.round_trip, NO_AGREEMENT);
        }
    }

    /// TCP alone has decided for as long as it is to.
    fn handle_competition(&mut self, now: f64, since: f64, until: f64, agreement: Agreement) {
        let share = self.path.late_rate() / self.path.reference;
        if self.path.reference > 0.0 && share >= FAST {
            self.drain(Cause::Alone);
        } else if share < SLOW && agreement.count == 0 && now - since < COMPETE_ON {
            self.state = State::Compete { since, until: until + COMPETE, agreement };
        } else {
            self.drain(Cause::Competing(agreement));
        }
    }

    fn handle_steady_round(&mut self, now: f64, round: &Measured, high: u32, low: u32) {
        let (allowed, queue) = (self.allowed_queue(), self.path.queue);
        let Some(trip) = self.path.trip else { return };
        // Not by the round trip: acknowledgements wait in the queue of the other direction, too.
        let high = if round.held_back && queue > 2.0 * allowed { high + 1 } else { 0 };
        let low = if round.held_back && queue < allowed / 2.0 { low + 1 } else { 0 };
        if high == SLOWER {
            self.path.forget_rates();
            self.path.note_rate(round.rate);
        }
        if high == CROWDED {
            if self.path.reference > 0.0 {
                self.try_longer(now, round.round_trip, NO_AGREEMENT);
            } else {
                self.drain(Cause::Stale);
            }
            return;
        }
        if low == LOW {
            self.state = START;
            return;
        }
        self.state = State::Steady { high, low };
        if !round.is_used() {
            self.path.used_since = now;
        } else if self.is_stale(now, trip) && !(1..SLOWER).contains(&high) {
            // Where the path may just have become slower, half of what it was known to carry would drain nothing.
            self.drain(Cause::Stale);
            return;
        }
        if round.held_back || round.kernel_full && queue > 2.0 * allowed {
            self.fit();
        }
    }

    /// Whether the path is to be seen without a queue of ours again.
    fn is_stale(&self, now: f64, trip: f64) -> bool {
        let trips = (DRAIN_AFTER_TRIPS * trip).min(DRAIN_AT_LATEST);
        if self.path.reference > 0.0 {
            now - self.path.fresh_at > self.stale_after().max(trips)
        } else {
            // Somebody else's queue may have been there from the start.
            now - self.path.used_since > UNKNOWN_FOR.max(trips)
        }
    }

    /// The path was seen without a queue of ours.
    pub(super) fn handle_drained(&mut self, now: f64, round: &Measured, cause: Cause) {
        // By the path as it was: one that is found to be long beside a full queue would allow for as long a queue.
        let allowed = self.allowed_queue();
        self.path.note_drained(round);
        let trip = self.path.drained_trip();
        self.path.fresh_at = now;
        let rose = self.path.has_risen(now, RISEN * allowed);
        match cause {
            Cause::Competing(agreement) => {
                let agrees = (trip - agreement.trip).abs() <= allowed / 4.0;
                let agreement = if agrees {
                    Agreement { count: agreement.count + 1, ..agreement }
                } else {
                    Agreement { trip, count: 0 }
                };
                if rose && agreement.count < AGREED {
                    self.compete(now, round.round_trip, agreement);
                    return;
                }
                if rose {
                    self.path.accept(now);
                }
            }
            Cause::Alone if rose => self.path.accept(now),
            Cause::Stale if rose => {
                self.try_longer(now, trip, Agreement { trip, count: 0 });
                return;
            }
            Cause::Alone | Cause::Stale => {}
        }
        if !rose {
            self.path.reference = self.path.rate();
        }
        self.path.confirm();
        self.settle();
    }

    /// One of the two clocks has stood still, as it does while its host is suspended. What is known of the way there alone
    /// is void; a drain measures it anew, and counts nothing that left before.
    pub(super) fn handle_jump(&mut self) {
        self.path.forget_offset();
        self.round.begin_anew(self.sent);
        self.drain(match self.state {
            State::Compete { agreement, .. } => Cause::Competing(agreement),
            State::Drain { cause, .. } => cause,
            State::Start { .. } | State::Steady { .. } | State::Try { .. } => Cause::Stale,
        });
    }

    pub(super) fn settle(&mut self) {
        self.state = State::Steady { high: 0, low: 0 };
        self.fit();
    }

    /// The path has become longer, or somebody else fills its queue. A window that holds what a path of such a length moves
    /// tells them apart: beside others it brings less than the path moved alone.
    fn try_longer(&mut self, now: f64, trip: f64, agreement: Agreement) {
        let reference = self.path.reference;
        if reference > 0.0 {
            let trip = trip + self.allowed_queue();
            let window = ((reference * trip) as u64).max(self.window).clamp(LEAST, MOST);
            self.state = State::Try { window, longest: GROWN * trip, rounds: 0, good: 0 };
        } else {
            self.compete(now, trip, agreement);
        }
    }

    pub(super) fn compete(&mut self, now: f64, round_trip: f64, agreement: Agreement) {
        let lasts = (COMPETE_TRIPS * round_trip).clamp(COMPETE, COMPETE_AT_MOST);
        self.state = State::Compete { since: now, until: now + lasts, agreement };
    }

    pub(super) fn drain(&mut self, cause: Cause) {
        let half = self.path.rate() * self.path.trip.unwrap_or_default() / 2.0;
        self.state = State::Drain { window: (half as u64).clamp(LEAST, MOST), end: None, cause };
        // What is on its way already left beside a queue.
        for ask in &mut self.asks {
            ask.clean = false;
        }
    }

    /// After a pause the path may have changed, and the clocks' offset.
    pub(super) fn restart(&mut self, now: f64) {
        self.window = FIRST;
        self.path.forget_rates();
        self.path.used_since = now;
        self.path.forget_offset();
        self.state = START;
        self.round.begin_anew(self.sent);
        self.held_back_at = now;
        // What was not asked for has arrived long ago.
        self.acked = self.sent;
    }

    /// The window that fits the path.
    pub(super) fn fit(&mut self) {
        if let Some(trip) = self.path.trip {
            let allowed = self.allowed_queue();
            let fits = self.path.rate() * (trip + self.path.queue_back.min(allowed) + allowed);
            self.window = (fits as u64).clamp(LEAST, MOST);
        }
    }
}
