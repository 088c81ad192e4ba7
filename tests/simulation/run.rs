//! One run: parties, weather, and what must hold at the end.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Duration;

use tcpremote::device::Device;
use tcpremote::link::QueueRule;
use tcpremote::relay::Relay;

use crate::app::Plan;
use crate::random::Random;
use crate::shell::Shell;
use crate::world::{CLIENT, Conversation, Dial, SERVICE, Weather, World};

/// After the last fault everything that is alive must end within this time: two stalls and the slowest timers.
const DEADLINE: Duration = Duration::from_secs(200);
const STALL: Duration = Duration::from_secs(30);

/// What a run leaves.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) hash: u64,
}

/// Runs `simulate` on its share of the seeds: one in `share`.
pub(crate) fn for_each_seed(name: &str, share: u64, simulate: fn(u64, bool) -> Outcome) {
    let number = |variable: &str| -> Option<u64> {
        std::env::var(variable).ok().map(|value| value.parse().unwrap_or_else(|_| panic!("{variable}={value}")))
    };
    if let Some(seed) = number("SIM_SEED") {
        println!("hash {:016x}", simulate(seed, true).hash);
        return;
    }
    for seed in 0..number("SIM_SEEDS").unwrap_or(256).div_ceil(share) {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| simulate(seed, false))) {
            println!("replay with: SIM_SEED={seed} cargo test --test simulation {name} -- --nocapture");
            resume_unwind(panic);
        }
    }
}

/// Our device and our relay, with any fault.
pub(crate) fn pair(seed: u64, loud: bool) -> Outcome {
    let mut random = Random::new(seed);
    let mut weather = Weather::draw(&mut random);
    let moment = |random: &mut Random| Duration::from_millis(random.magnitude(60_000));
    match random.below(10) {
        0 => weather.link_loss = Some(moment(&mut random)),
        1 => weather.close = Some((random.pick(&[CLIENT, SERVICE]), moment(&mut random))),
        2 => {
            weather.jump =
                Some((Duration::from_secs(1) + moment(&mut random), Duration::from_secs(random.magnitude(100_000))))
        }
        _ => {}
    }
    let clients = 1 + random.magnitude(40);
    let budget = weather.budget() / clients;
    let mut conversations = Vec::new();
    for index in 0..clients as usize {
        let dial = match random.below(20) {
            0 => Dial::NeverAnswers,
            1 => Dial::Refuses(moment(&mut random) / 10),
            2 => Dial::Connects(moment(&mut random) / 7),
            _ => Dial::Connects(Duration::from_micros(random.magnitude(50_000))),
        };
        let arrives = if random.chance(50) { Duration::ZERO } else { moment(&mut random) / 2 };
        let [client, service] = [(); 2].map(|()| Plan::draw(&mut random, budget));
        conversations.push(Conversation::new(index, arrives, dial, client, service));
    }
    run(World::new(random, weather, conversations, loud))
}

/// More clients than there are numbers, most of them short.
pub(crate) fn pressure(seed: u64, loud: bool) -> Outcome {
    let mut random = Random::new(seed);
    let mut weather = Weather::draw(&mut random);
    weather.link_capacity = weather.link_capacity.max(4096);
    weather.capacity = weather.capacity.max(1000);
    weather.grain = usize::MAX;
    weather.tick = Duration::from_millis(random.between(1, 5));
    let clients = random.between(300, 700) as usize;
    let spread = random.magnitude(2_000_000);
    let conversations = (0..clients).map(|index| {
        let arrives = Duration::from_micros(random.below(spread + 1));
        let plan = |random: &mut Random| {
            let mut plan = Plan::draw(random, 2000);
            // The holders are what makes numbers scarce.
            plan.reads_only = plan.reads_only.filter(|_| random.chance(10));
            plan
        };
        let [client, service] = [plan(&mut random), plan(&mut random)];
        let dial = Dial::Connects(Duration::from_micros(random.magnitude(5_000)));
        Conversation::new(index, arrives, dial, client, service)
    });
    let conversations = conversations.collect();
    run(World::new(random, weather, conversations, loud))
}

fn run(mut world: World) -> Outcome {
    let rule = QueueRule { queue: world.weather.queue, stall: STALL };
    let mut relay = Shell::new(Relay::new(world.instant(), world.weather.half_close, rule));
    let mut device = Shell::new(Device::new(rule));
    loop {
        let mut moved = faults(&mut world, &mut relay, &mut device);
        moved |= relay.accept(&mut world);
        moved |= relay.turn(&mut world) | world.apps_turn() | device.turn(&mut world);
        if moved {
            // A busy link still takes time.
            world.now += world.weather.tick;
            continue;
        }
        let events = [world.next_event(), relay.next_event(&world), device.next_event(&world)];
        let Some(next) = events.into_iter().flatten().min() else { break };
        assert!(next > world.now, "time goes on");
        let deadline = world.weather.heals + DEADLINE;
        if next > deadline {
            let late: Vec<usize> =
                (0..world.conversations.len()).filter(|&index| !world.conversation_is_over(index)).collect();
            panic!("by {deadline:?} all is over; not so: {late:?}, {:?}", (relay, device));
        }
        world.now = next.max(world.now + world.weather.tick);
    }
    assert!(world.is_over(), "everything that began is over");
    assert_eq!(relay.has_link, device.has_link, "both ends know that the link is gone");
    if relay.has_link {
        world.wire.check_quiet();
    }
    relay.check_empty();
    device.check_empty();
    Outcome { hash: world.trace.hash }
}

fn faults(world: &mut World, relay: &mut Shell<Relay>, device: &mut Shell<Device>) -> bool {
    if world.weather.link_loss.is_some_and(|at| at <= world.now) {
        world.weather.link_loss = None;
        world.note(format_args!("the link is cut"));
        for pipe in &mut world.link {
            pipe.reset(&mut world.random, world.now);
        }
        return true;
    }
    if let Some((side, at)) = world.weather.close
        && at <= world.now
    {
        world.weather.close = None;
        if side == CLIENT {
            relay.shut(world)
        } else {
            device.shut(world)
        }
        return true;
    }
    if let Some((at, by)) = world.weather.jump
        && at <= world.now
    {
        world.weather.jump = None;
        world.now += by;
        world.weather.heals += by;
        world.note(format_args!("the clock jumps by {by:?}"));
        return true;
    }
    if !world.healed && world.weather.heals <= world.now {
        world.heal();
        return true;
    }
    false
}
