//! Peers that acknowledge as they like, with any clock.

use proptest::prelude::*;

use super::*;

/// What happens next.
#[derive(Clone, Debug)]
enum Step {
    /// Frames of so many bytes, as many as may be sent; the kernel takes them.
    Bulk { bytes: usize, frames: usize },
    /// The same for keystrokes.
    Keys { bytes: usize, frames: usize },
    /// Microseconds pass.
    Pass(u64),
    /// The ask of those that are out, with that clock.
    Ack { which: usize, clock: u32 },
    /// An offset that is anything.
    WrongAck { offset: u64, clock: u32 },
}

fn clock() -> impl Strategy<Value = u32> {
    prop_oneof![Just(7u32), any::<u32>(), (0u32..5000).prop_map(|micros| u32::MAX - micros)]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (1usize..70_000, 1usize..50).prop_map(|(bytes, frames)| Step::Bulk { bytes, frames }),
        3 => (9usize..2000, 1usize..300).prop_map(|(bytes, frames)| Step::Keys { bytes, frames }),
        2 => (1u64..3_000_000).prop_map(Step::Pass),
        1 => (1u64..10_000_000_000).prop_map(Step::Pass),
        4 => (any::<prop::sample::Index>(), clock())
            .prop_map(|(which, clock)| Step::Ack { which: which.index(64), clock }),
        1 => (any::<u64>(), clock()).prop_map(|(offset, clock)| Step::WrongAck { offset, clock }),
    ]
}

/// An end whose peer is hostile.
struct Victim {
    pacing: Pacing,
    now: Instant,
    sent: u64,
}

impl Victim {
    fn new() -> Self {
        let now = Instant::now();
        Self { pacing: Pacing::new(now), now, sent: 0 }
    }

    fn send(&mut self, bytes: usize, is_bulk: bool) {
        let may_send = if is_bulk { self.pacing.may_send_bulk() } else { self.pacing.may_send_interactive() };
        if !may_send {
            self.pacing.note_held_back();
            return;
        }
        let bytes = if is_bulk { bytes.min(self.pacing.most_at_once()) } else { bytes };
        self.sent += bytes as u64;
        self.pacing.handle_cut(self.now, bytes, self.sent, is_bulk, is_bulk);
        self.pacing.handle_left(self.now, self.sent, self.sent);
    }

    fn take(&mut self, step: &Step) {
        match *step {
            Step::Bulk { bytes, frames } => (0..frames).for_each(|_| self.send(bytes, true)),
            Step::Keys { bytes, frames } => (0..frames).for_each(|_| self.send(bytes, false)),
            Step::Pass(micros) => {
                self.now += Duration::from_micros(micros);
                self.pacing.handle_time(self.now);
            }
            Step::Ack { which, clock } => {
                let ask = self.pacing.asks.get(which % self.pacing.asks.len().max(1));
                if let Some((offset, _)) = ask.and_then(|ask| ask.left) {
                    assert!(self.pacing.handle_ack(self.now, offset, clock), "it was asked for");
                }
            }
            Step::WrongAck { offset, clock } => {
                let is_asked = self.pacing.asks.iter().any(|ask| ask.left.is_some_and(|(end, _)| end == offset));
                assert_eq!(self.pacing.handle_ack(self.now, offset, clock), is_asked);
            }
        }
    }

    fn check(&self) {
        let pacing = &self.pacing;
        assert!(pacing.asks.len() <= MOST_ASKS);
        assert!((LEAST..=MOST).contains(&pacing.window_now()) && (LEAST..=MOST).contains(&pacing.window));
        assert!((1024..=1024 * 1024).contains(&pacing.most_at_once()), "{}", pacing.most_at_once());
        assert!((4096..=128 * 1024).contains(&pacing.low_water()), "{}", pacing.low_water());
        let most = self.now + Duration::from_secs(10);
        assert!(pacing.poll_timeout().is_none_or(|at| at <= most), "the gate opens");
        // A round trip is a time.
        let _ = pacing.round_trip();
        assert!(pacing.asks.is_empty() || pacing.unanswered_since().is_some_and(|since| since <= self.now));
    }

    /// The peer becomes honest: bulk moves again.
    fn heal(&mut self) {
        let before = self.sent;
        for second in 0..20u32 {
            for _ in 0..20 {
                self.now += Duration::from_millis(50);
                self.pacing.handle_time(self.now);
                if let Some(offset) = self.pacing.asks.back().and_then(|ask| ask.left).map(|(offset, _)| offset) {
                    assert!(self.pacing.handle_ack(self.now, offset, second * 1_000_000));
                }
                (0..20).for_each(|_| self.send(1 << 20, true));
            }
        }
        assert!(self.sent > before, "nothing stands still");
    }
}

proptest! {
    #[test]
    fn whatever_is_acknowledged_with_any_clock_nothing_breaks_or_grows_and_nothing_stands_still(
        steps in prop::collection::vec(step(), 1..200)
    ) {
        let mut victim = Victim::new();
        for step in &steps {
            victim.take(step);
            victim.check();
        }
        victim.heal();
    }
}

#[test]
fn a_peer_that_acknowledges_the_oldest_alone_is_asked_for_no_more_than_a_window_has() {
    let mut victim = Victim::new();
    victim.take(&Step::Keys { bytes: 9, frames: 1 });
    // It was a fast line until then.
    victim.pacing.window = MOST;
    for _ in 0..2 * MOST_ASKS {
        victim.take(&Step::Pass(300_000));
        victim.take(&Step::Keys { bytes: 9, frames: 1 });
        victim.check();
    }
    assert_eq!(victim.pacing.asks.len(), MOST_ASKS);
    victim.take(&Step::Ack { which: 0, clock: 7 });
    victim.take(&Step::Pass(300_000));
    victim.take(&Step::Keys { bytes: 9, frames: 1 });
    assert_eq!(victim.pacing.asks.len(), MOST_ASKS, "there is room for one more");
}
