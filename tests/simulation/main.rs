//! Real cores on a virtual clock, over pipes that do to bytes whatever TCP may do, with every fault drawn from a seed.
//!
//! `SIM_SEED=7 cargo test --test simulation NAME -- --nocapture` replays one seed of one test and prints what
//! happens; `SIM_SEEDS=10000` tries so many, instead of 256 in all.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "a test ends where its means fail")]
#![allow(
    dead_code,
    clippy::collapsible_if,
    clippy::wildcard_enum_match_arm,
    reason = "the parts for peers of 2012 follow"
)]

mod app;
mod pipe;
mod random;
mod run;
mod shell;
mod wire;
mod world;

use run::{Outcome, for_each_seed, pair, pressure};

#[test]
fn our_device_and_our_relay_keep_every_promise_in_any_weather() {
    for_each_seed("our_device_and_our_relay", 2, pair);
}

#[test]
fn more_clients_than_numbers_are_served_in_their_turn() {
    for_each_seed("more_clients", 16, pressure);
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    let hashes = |seed: u64| -> [Outcome; 2] { [pair(seed, false), pair(seed, false)] };
    for seed in 0..5 {
        let [first, second] = hashes(seed);
        assert_eq!(first.hash, second.hash, "seed {seed}");
    }
    assert_ne!(pair(0, false).hash, pair(1, false).hash);
}
