//! One run: parties, weather, and what must hold at the end.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Duration;

use tcpremote::connection::Limits;
use tcpremote::connection::Protocol::{self, V1, V2};
use tcpremote::connection::device::Device;
use tcpremote::connection::relay::{Relay, Settings};
use tcpremote::tls::Key;

use crate::app::{End, Plan};
use crate::driver::Driver;
use crate::java::JavaRelay;
use crate::lua::LuaDevice;
use crate::random::Random;
use crate::world::{CLIENT, Conversation, Dial, SERVICE, Sealing, Weather, World};

/// After the last fault everything that is alive must end within this time: two stalls and the slowest timers.
const DEADLINE: Duration = Duration::from_secs(200);

/// One end of the link, with its sockets.
pub(crate) trait Party: std::fmt::Debug {
    /// Does what can be done now, in any order; true if something moved.
    fn turn(&mut self, world: &mut World) -> bool;
    /// Its owner ends it.
    fn shut(&mut self, world: &mut World);
    /// Its owner wants no new streams on it; version 2 only.
    fn leave(&mut self, _: &mut World) {
        unreachable!("it has no GOAWAY");
    }
    /// Streams that wait for their share of the link.
    fn paced(&self) -> usize {
        0
    }
    /// When something is due here.
    fn next_event(&self, world: &World) -> Option<Duration>;
    /// Whether the link is there, as far as it knows.
    fn has_link(&self) -> bool;
    /// Nothing is left of anything.
    fn check_empty(&self);
}

/// What a run leaves.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) hash: u64,
    /// Streams that waited for their share of the link when a fault came.
    pub(crate) paced_at_fault: usize,
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

/// Our device and our relay, in version 1: one or both are held to it.
pub(crate) fn pair(seed: u64, loud: bool) -> Outcome {
    let mut world = draw(seed, loud);
    let (relay_speaks, device_speaks) = world.random.pick(&[(V1, V1), (V1, V2), (V2, V1)]);
    let (relay, device) = (relay(&mut world, relay_speaks), device(&mut world, device_speaks));
    run(world, relay, device)
}

/// Our device and our relay, in version 2.
pub(crate) fn pair_v2(seed: u64, loud: bool) -> Outcome {
    let mut world = draw(seed, loud);
    world.use_version_2();
    world.seal(seed);
    let (relay, device) = (relay(&mut world, V2), device(&mut world, V2));
    run(world, relay, device)
}

/// The same, with TLS between each session and its socket.
pub(crate) fn pair_in_tls(seed: u64, loud: bool) -> Outcome {
    let mut world = draw(seed, loud);
    world.use_version_2();
    world.sealing = Sealing::Tls(Key::generate().expect("random bytes"));
    let (relay, device) = (relay(&mut world, V2), device(&mut world, V2));
    run(world, relay, device)
}

/// Version 2, on a line that is too slow for what all have to say, with one fault while streams wait for their share of it:
/// all that was read is delivered, and nothing hangs until a timeout ends it.
pub(crate) fn paced(seed: u64, loud: bool) -> Outcome {
    let mut random = Random::new(seed);
    let mut weather = Weather::draw(&mut random);
    weather.link_capacity = 1024 * 1024;
    weather.capacity = weather.capacity.max(16 * 1024);
    weather.grain = usize::MAX;
    weather.tick = Duration::from_micros(100);
    weather.heals = Duration::from_secs(3600);
    let latency = Duration::from_micros(random.between(500, 100_000));
    let (rate, clients) = (random.between(20_000, 400_000), random.between(2, 12));
    let seconds = random.between(2, 6);
    let moment = Duration::from_millis(300 + random.below(700 * seconds));
    let side = random.pick(&[CLIENT, SERVICE]);
    let fault = random.below(5);
    match fault {
        0 => weather.link_loss = Some(moment),
        1 => weather.close = Some((side, moment)),
        2 => weather.leaves = Some((side, moment)),
        _ => {}
    }
    let conversations = (0..clients as usize).map(|index| {
        let total = rate * seconds / clients;
        let mut plans = [(); 2].map(|()| Plan::plain(random.magnitude(total), End::Half));
        plans[random.below(2) as usize].total = total;
        // One may wait for the other's end, but not both.
        plans[random.below(2) as usize].end = random.pick(&[End::Half, End::Last]);
        // Half of them are reset once they have sent so much.
        if fault > 2 && index % 2 == 0 {
            let plan = &mut plans[side];
            plan.end = End::Reset(random.below(plan.total + 1));
        }
        let [client, service] = plans;
        let arrives = if random.chance(20) { moment } else { Duration::ZERO };
        Conversation::new(index, arrives, Dial::Connects(Duration::ZERO), client, service)
    });
    let conversations = conversations.collect();
    let mut world = World::new(random, weather, conversations, loud);
    world.use_version_2();
    world.seal(seed);
    world.limits = Limits { window: 32 * 1024, ..Limits::RELAY };
    for pipe in &mut world.link {
        pipe.set_line(latency, rate);
    }
    world.over_by = Some(moment + Duration::from_secs(2 * seconds + 8));
    let (relay, device) = (relay(&mut world, V2), device(&mut world, V2));
    run(world, relay, device)
}

/// Version 2, with some who do not read for a long time: everybody else must be done long before they are healed.
pub(crate) fn slow_readers(seed: u64, loud: bool) -> Outcome {
    let mut random = Random::new(seed);
    let mut weather = Weather::draw(&mut random);
    weather.link_capacity = weather.link_capacity.max(64 * 1024);
    weather.capacity = weather.capacity.max(16 * 1024);
    weather.grain = weather.grain.max(1460);
    weather.heals = Duration::from_secs(3600);
    let slow = random.between(1, 8) as usize;
    let conversations = (0..slow + 12).map(|index| {
        let dial = Dial::Connects(Duration::from_micros(random.magnitude(5_000)));
        let arrives = Duration::from_micros(random.magnitude(1_000_000));
        let [mut client, mut service] = [(); 2].map(|()| Plan::plain(random.between(1, 100_000), End::Half));
        if index < slow {
            let stuck = if random.chance(50) { &mut client } else { &mut service };
            stuck.reads_only = Some(random.magnitude(10_000));
            client.total = 600_000;
            service.total = 600_000;
        }
        Conversation::new(index, arrives, dial, client, service)
    });
    let conversations = conversations.collect();
    let mut world = World::new(random, weather, conversations, loud);
    world.use_version_2();
    world.seal(seed);
    // Room for all of them: who waits for a place is another matter.
    world.limits.streams = world.limits.streams.max(64);
    world.limits.open_rate = 10_000;
    world.limits.budget = world.limits.budget.max(64 * u64::from(world.limits.window));
    world.in_no_hurry = slow;
    let (relay, device) = (relay(&mut world, V2), device(&mut world, V2));
    run(world, relay, device)
}

/// Version 1, with one who reads steadily, but more slowly than the link, and holds up no other: it is not reset, though
/// its queue is full for minutes.
pub(crate) fn steady_readers(seed: u64, loud: bool) -> Outcome {
    let mut random = Random::new(seed);
    let mut weather = Weather::draw(&mut random);
    weather.queue = random.pick(&[8 * 1024, 64 * 1024]);
    weather.link_capacity = weather.link_capacity.max(64 * 1024);
    weather.capacity = weather.capacity.clamp(1000, 16 * 1024);
    weather.grain = weather.grain.max(1460);
    weather.heals = Duration::from_secs(3600);
    let [mut client, mut service] = [(); 2].map(|()| Plan::plain(1000, End::Half));
    let (slow, fast) = if random.chance(50) { (&mut client, &mut service) } else { (&mut service, &mut client) };
    // Between 1 and 2 KB/s, of which an eighth of the larger queue in 30 s is a fourth.
    slow.read = (random.between(100, 200) as usize, Duration::from_millis(100));
    fast.total = 200_000;
    slow.end = End::Last;
    let conversation = Conversation::new(0, Duration::ZERO, Dial::Connects(Duration::ZERO), client, service);
    let mut world = World::new(random, weather, vec![conversation], loud);
    world.none_is_reset = true;
    let (relay, device) = (relay(&mut world, V1), device(&mut world, V1));
    run(world, relay, device)
}

/// Our device, and the relay of 2012.
pub(crate) fn old_relay(seed: u64, loud: bool) -> Outcome {
    let mut world = draw(seed, loud);
    world.wire.old_relay = true;
    let relay = JavaRelay::new(world.random.pick(&[3, 12, 256, 256]));
    let speaks = world.random.pick(&[V1, V2]);
    let device = device(&mut world, speaks);
    run(world, relay, device)
}

/// Our device, and the relay of 2012, with clients that send no more and wait for an answer.
pub(crate) fn half_closed_clients(seed: u64, loud: bool) -> Outcome {
    let mut random = Random::new(seed);
    let mut weather = Weather::draw(&mut random);
    weather.link_capacity = weather.link_capacity.max(64 * 1024);
    weather.capacity = weather.capacity.max(16 * 1024);
    weather.grain = weather.grain.max(1460);
    let conversations = (0..random.between(1, 20) as usize).map(|index| {
        // The relay is known by then to be one of 2012.
        let arrives = Duration::from_secs(2) + Duration::from_micros(random.magnitude(1_000_000));
        let client = Plan::plain(random.magnitude(3000), End::Half);
        let mut service = Plan::plain(random.between(1, 30_000), End::Last);
        service.write = (1 + service.total as usize / 10, Duration::from_millis(random.below(600)));
        Conversation::new(
            index,
            arrives,
            Dial::Connects(Duration::from_micros(random.magnitude(50_000))),
            client,
            service,
        )
    });
    let conversations = conversations.collect();
    let mut world = World::new(random, weather, conversations, loud);
    world.limits.budget = Limits::DEVICE.budget;
    world.limits.rule.queue = 64 * 1024;
    world.wire.old_relay = true;
    world.answered = true;
    let speaks = world.random.pick(&[V1, V2]);
    let device = device(&mut world, speaks);
    run(world, JavaRelay::new(256), device)
}

/// The device of 2012, and our relay.
pub(crate) fn old_device(seed: u64, loud: bool) -> Outcome {
    let mut world = draw(seed, loud);
    let speaks = world.random.pick(&[V1, V2]);
    let relay = relay(&mut world, speaks);
    run(world, relay, LuaDevice::new())
}

pub(crate) fn relay(world: &mut World, protocol: Protocol) -> Driver<Relay> {
    let half_close = world.weather.half_close;
    let settings = Settings { protocol, min_protocol: Protocol::V1, half_close, limits: world.limits };
    Driver::new(Relay::new(world.instant(), settings), world)
}

pub(crate) fn device(world: &mut World, protocol: Protocol) -> Driver<Device> {
    Driver::new(Device::new(protocol, world.limits), world)
}

/// Any weather, and some clients.
fn draw(seed: u64, loud: bool) -> World {
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
    World::new(random, weather, conversations, loud)
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
    let mut world = World::new(random, weather, conversations, loud);
    let speaks = world.random.pick(&[V1, V2]);
    if speaks == V2 {
        world.use_version_2();
        world.seal(seed);
    }
    let (relay, device) = (relay(&mut world, speaks), device(&mut world, speaks));
    run(world, relay, device)
}

fn run(mut world: World, mut relay: impl Party, mut device: impl Party) -> Outcome {
    let mut winds_up = false;
    loop {
        let mut moved = faults(&mut world, &mut relay, &mut device);
        moved |= relay.turn(&mut world) | world.apps_turn() | device.turn(&mut world);
        if moved {
            // A busy link still takes time.
            world.now += world.weather.tick;
            continue;
        }
        // A link of version 2 never rests: it asks whether its peer is there.
        if world.version == 2 && world.is_over() && !winds_up {
            winds_up = true;
            let is_late = world.over_by.is_some_and(|at| at < world.now);
            assert!(!is_late, "all was to be over by {:?}", world.over_by);
            device.shut(&mut world);
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
    assert_eq!(relay.has_link(), device.has_link(), "both ends know that the link is gone");
    if relay.has_link() {
        world.wire.check_quiet();
    }
    relay.check_empty();
    device.check_empty();
    Outcome { hash: world.trace.hash, paced_at_fault: world.paced_at_fault }
}

fn faults(world: &mut World, relay: &mut impl Party, device: &mut impl Party) -> bool {
    let weather = &world.weather;
    let planned = [weather.link_loss, weather.close.map(|(_, at)| at), weather.leaves.map(|(_, at)| at)];
    if planned.into_iter().flatten().any(|at| at <= world.now) {
        world.paced_at_fault += relay.paced() + device.paced();
    }
    if let Some((side, at)) = world.weather.leaves
        && at <= world.now
    {
        world.weather.leaves = None;
        if side == CLIENT {
            relay.leave(world)
        } else {
            device.leave(world)
        }
        return true;
    }
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
        let late = (world.in_no_hurry..world.conversations.len()).find(|&at| !world.conversation_is_over(at));
        assert!(world.in_no_hurry == 0 || late.is_none(), "{late:?} waits for an app that does not read");
        world.heal();
        return true;
    }
    false
}
