//! A line that changes while downloads fill it.

use std::thread;
use std::time::{Duration, Instant};

use portable_atomic::AtomicU64;

use crate::common::Peer;
use crate::line::Shape;
use crate::{SHAPE, Tunnel, keys, on_a_line, rates_while, say, share_of};

const WARM_UP: Duration = Duration::from_secs(6);
/// Keys are typed for so long, again and again, until line and echo are as they should be.
const SPAN: Duration = Duration::from_secs(4);
/// A longer path is known within some 17 s on a quiet machine. All other changes need less.
const PATIENCE: Duration = Duration::from_secs(60);
/// What downloads are to have of the line, in %.
const SHARE_AT_LEAST: f64 = 60.0;

/// Until downloads have the line again and the echo is short, which it says; or it fails.
#[track_caller]
fn recover(what: &str, rate: u32, echo: Duration, keys: &Peer, bytes: &AtomicU64) {
    let changed = Instant::now();
    let shape = Shape { rate, ..SHAPE };
    loop {
        let (echoes, [rate]) = rates_while([bytes], || keys::type_for(SPAN, keys));
        let (p50, share) = (echoes.at(50), share_of(shape, rate));
        let figures = format!(
            "{what}: {:.1?} later an echo takes {p50:.1?} (p50) beside downloads that have {share:.1} % of the line",
            changed.elapsed()
        );
        if p50 <= echo && share >= SHARE_AT_LEAST {
            return say(&figures);
        }
        assert!(changed.elapsed() < PATIENCE, "{figures}");
    }
}

/// Half of the echoes are to be back after so long on a line with this round trip: the queue alone would be 2 s.
fn short(round_trip: Duration) -> Duration {
    round_trip + Duration::from_millis(350)
}

#[test]
#[ignore = "it takes minutes: make soak"]
fn the_echo_is_short_again_and_the_line_busy_after_its_rate_has_changed_and_while_it_loses_packets() {
    on_a_line(SHAPE, |line| {
        let tunnel = Tunnel::with_endless(line);
        let (keys, bytes) = (tunnel.keys(), tunnel.download(4));
        let echo = short(SHAPE.round_trip);
        thread::sleep(WARM_UP);
        for rate in [10 * SHAPE.rate, SHAPE.rate] {
            line.set_rate(rate).unwrap();
            recover(&format!("{rate} bytes a second"), rate, echo, &keys, &bytes);
        }
        line.lose_one_of(100);
        recover("1 % of the packets is lost", SHAPE.rate, echo, &keys, &bytes);
    });
}

#[test]
#[ignore = "it takes minutes: make soak"]
fn the_echo_is_short_again_and_the_line_busy_after_it_has_become_longer_and_shorter() {
    on_a_line(SHAPE, |line| {
        let tunnel = Tunnel::with_endless(line);
        let (keys, bytes) = (tunnel.keys(), tunnel.download(4));
        thread::sleep(WARM_UP);
        for round_trip in [Duration::from_millis(300), SHAPE.round_trip] {
            line.set_round_trip(round_trip);
            recover(&format!("a round trip of {round_trip:?}"), SHAPE.rate, short(round_trip), &keys, &bytes);
        }
    });
}
