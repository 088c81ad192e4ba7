//! Downloads over a line whose delay and rate change while they run.

use std::time::Duration;

use tcpremote::connection::Limits;
use tcpremote::connection::Protocol::V2;

use crate::app::{End, Plan};
use crate::random::Random;
use crate::run::{Party, device, relay};
use crate::world::{CLIENT, Conversation, Dial, SERVICE, Weather, World};

/// What a line is from one moment on.
#[derive(Clone, Copy, Debug)]
struct Phase {
    /// Seconds that it stays so.
    lasts: u64,
    /// Milliseconds there and back.
    round_trip: u64,
    /// KB a second.
    rate: u64,
}

fn phase(lasts: u64, round_trip: u64, rate: u64) -> Phase {
    Phase { lasts, round_trip, rate }
}

/// What is seen of a run.
#[derive(Debug, Default)]
struct Seen {
    /// Bytes that all clients together have read, second by second.
    received: Vec<u64>,
    /// The most that was on its way from the device at the end of any second.
    most_held: Vec<usize>,
}

/// So many clients who want all that the line gives, for as long as the phases last.
fn download(seed: u64, clients: usize, phases: &[Phase]) -> Seen {
    let weather = Weather {
        queue: 1024 * 1024,
        half_close: Duration::from_secs(1),
        latency: Duration::ZERO,
        link_capacity: 64 * 1024 * 1024,
        grain: usize::MAX,
        capacity: 256 * 1024,
        tick: Duration::from_millis(1),
        link_loss: None,
        close: None,
        leaves: None,
        jump: None,
        heals: Duration::from_secs(1_000_000),
    };
    let conversations = (0..clients).map(|index| {
        let (client, service) = (Plan::plain(0, End::Last), Plan::plain(1 << 40, End::Last));
        Conversation::new(index, Duration::ZERO, Dial::Connects(Duration::ZERO), client, service)
    });
    let mut world = World::new(Random::new(seed), weather, conversations.collect(), false);
    world.version = 2;
    world.wire.version_2 = true;
    world.limits = Limits::RELAY;
    let (mut relay, mut device) = (relay(&mut world, V2), device(&mut world, V2));
    let mut seen = Seen::default();
    let mut end = Duration::ZERO;
    for phase in phases {
        end += Duration::from_secs(phase.lasts);
        for pipe in &mut world.link {
            pipe.set_line(Duration::from_millis(phase.round_trip) / 2, phase.rate * 1000);
        }
        while world.now < end {
            let second = Duration::from_secs(seen.received.len() as u64 + 1);
            let moved = relay.turn(&mut world) | world.apps_turn() | device.turn(&mut world);
            let events = [world.next_event(), relay.next_event(&world), device.next_event(&world)];
            let next = events.into_iter().flatten().min().unwrap_or(second);
            let tick = world.now + world.weather.tick;
            world.now = if moved { tick } else { next.max(tick).min(second) };
            if world.now >= second {
                seen.received.push(world.conversations.iter().map(|other| other.apps[CLIENT].received).sum());
                seen.most_held.push(world.link[SERVICE].held());
            }
        }
    }
    seen
}

impl Seen {
    /// Percent of `rate` (KB/s) that came between two seconds.
    fn percent(&self, from: u64, to: u64, rate: u64) -> u64 {
        let bytes = self.received[to as usize - 1] - self.received[from as usize - 1];
        bytes / (to - from) / (rate * 10)
    }
}

/// Fifteen seconds after each change the clients have 60 % of the line again.
fn assert_recovers(clients: usize, phases: &[Phase]) {
    let seen = download(1, clients, phases);
    let mut began = 0;
    for &Phase { lasts, round_trip, rate } in phases {
        let percent = seen.percent(began + 15, began + lasts, rate);
        assert!(percent >= 60, "{percent} % of {rate} KB/s at {round_trip} ms, {seen:?}");
        began += lasts;
    }
}

#[test]
fn a_download_has_the_line_again_when_the_round_trip_has_risen_and_fallen() {
    assert_recovers(1, &[phase(20, 20, 1000), phase(30, 400, 1000), phase(20, 20, 1000)]);
}

#[test]
fn a_download_follows_a_round_trip_that_changes_by_and_by() {
    assert_recovers(1, &[phase(20, 20, 1000), phase(20, 40, 1000), phase(20, 100, 1000), phase(20, 20, 1000)]);
}

#[test]
fn a_download_follows_a_rate_that_halves_and_comes_back() {
    assert_recovers(1, &[phase(20, 50, 1000), phase(20, 50, 500), phase(20, 50, 1000)]);
}

#[test]
fn several_downloads_have_the_line_again_when_the_round_trip_has_risen() {
    assert_recovers(4, &[phase(20, 20, 1000), phase(30, 400, 1000)]);
}

#[test]
fn the_queue_of_downloads_is_never_taken_for_the_length_of_the_line() {
    for (clients, rate, most) in [(8, 125, 8 * 32), (1, 1000, 128)] {
        let seen = download(1, clients, &[phase(120, 20, rate)]);
        let held = seen.most_held.iter().max().copied().unwrap_or_default() / 1024;
        assert!(held <= most + most / 8, "{held} KiB are on their way, {seen:?}");
        let percent = seen.percent(15, 120, rate);
        assert!(percent >= 90, "{percent} %, {seen:?}");
    }
}
