//! Real cores and their real sessions on a virtual clock, over sockets that do whatever TCP and the kernel may do, with
//! every fault drawn from a seed.
//!
//! `SIM_SEED=7 cargo test --test simulation NAME -- --nocapture` replays one seed of one test and prints what
//! happens; `SIM_SEEDS=10000` tries so many, instead of 256 in all.
#![cfg(feature = "relay")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "a test ends where its means fail")]

mod app;
mod busy;
mod core;
mod driver;
mod java;
mod line;
mod lua;
mod path;
mod pipe;
mod random;
mod run;
mod sealer;
mod socket;
mod table;
mod wire;
mod world;

use run::{
    Outcome, for_each_seed, half_closed_clients, old_device, old_relay, paced, pair, pair_in_tls, pair_v2, pressure,
    slow_readers, steady_readers,
};

#[test]
fn our_device_and_our_relay_keep_every_promise_under_any_faults() {
    for_each_seed("our_device_and_our_relay", 2, pair);
}

#[test]
fn in_version_2_they_keep_every_promise_under_any_credit() {
    for_each_seed("in_version_2", 1, pair_v2);
}

#[test]
fn in_tls_they_keep_every_promise_too() {
    for_each_seed("in_tls", 8, pair_in_tls);
}

#[test]
fn in_version_2_clients_that_do_not_read_do_not_hold_up_the_others() {
    for_each_seed("clients_that_do_not_read", 8, slow_readers);
}

#[test]
fn in_version_2_whatever_ends_while_streams_are_paced_nothing_is_lost_and_nothing_hangs() {
    for_each_seed("in_version_2_whatever_ends", 4, paced);
    let faults = (0..20).filter(|&seed| paced(seed, false).paced_at_fault > 0).count();
    assert!(faults >= 5, "only {faults} of 20 runs have a fault beside streams that are paced");
}

#[test]
fn in_version_1_a_slow_steady_reader_that_holds_up_no_other_is_not_reset() {
    for_each_seed("a_slow_steady_reader", 16, steady_readers);
}

#[test]
fn our_device_keeps_every_promise_with_the_relay_of_2012() {
    for_each_seed("our_device_keeps", 4, old_relay);
}

#[test]
fn behind_the_relay_of_2012_a_client_that_sends_no_more_gets_its_answer() {
    for_each_seed("a_client_that_sends_no_more", 4, half_closed_clients);
}

#[test]
fn our_relay_keeps_every_promise_with_the_device_of_2012() {
    for_each_seed("our_relay_keeps", 4, old_device);
}

#[test]
fn more_clients_than_numbers_are_served_in_their_turn() {
    for_each_seed("more_clients", 16, pressure);
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for simulate in [pair, pair_v2] {
        for seed in 0..5 {
            let [first, second]: [Outcome; 2] = [simulate(seed, false), simulate(seed, false)];
            assert_eq!(first.hash, second.hash, "seed {seed}");
        }
    }
    assert_ne!(pair(0, false).hash, pair(1, false).hash);
}
