//! Ten minutes of real life: 200 clients of mixed kinds, through a relay and a device that are killed, frozen, replaced
//! and cut off all the time, on a path that changes, with a log that is not read, names that are dead, and forked
//! children that hold copies of all sockets. No byte may be wrong, no end may pass for what it is not, and nothing may be left behind.
//!
//! `make soak`, or `cargo test --release --test soak -- --seconds 30 --seed 7`; the same seed gives the same faults and
//! the same clients. The last fifth of the time nothing is killed, so that what relay and device hold can be compared.
#![cfg(target_os = "linux")]
#![allow(clippy::expect_used, reason = "a test ends where its own means fail")]

mod bytes;
mod client;
mod connection;
mod device;
mod faults;
mod forwarder;
mod path;
mod plan;
mod process;
mod report;
mod service;
mod tunnel;
#[allow(unreachable_pub, reason = "the other tests share it")]
#[path = "../common/usage.rs"]
mod usage;

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;
use portable_atomic::AtomicU64;

use faults::{Schedule, Violence};
use plan::{Kind, Plan};
use report::{Outcome, Report};
use service::Service;
use tunnel::Tunnel;
use usage::Usage;

/// What a run may take beyond its time: clients that end, the calm between, and what was left.
const OVERTIME: Duration = Duration::from_secs(600);
/// What a process's memory may differ by at rest.
const KIB: usize = 4096;
/// Until the device has found that its link is lost, and has made the next one.
const SETTLE: Duration = Duration::from_secs(4);
/// How often a client of the calm tries to connect before the tunnel counts as down.
const ATTEMPTS: usize = 300;

/// Forked one after the other, so that each client's sockets are held by some.
const CHILDREN: usize = 10;

/// Moves bytes through a tunnel that is broken all the time, and checks each.
#[derive(Clone, Copy, Parser)]
struct Options {
    /// How long
    #[arg(long, default_value = "600")]
    seconds: u64,
    /// Which faults and clients; drawn, if not given
    #[arg(long)]
    seed: Option<u64>,
    /// How many clients at once
    #[arg(long, default_value = "200")]
    clients: usize,
}

/// One run.
struct Soak {
    options: Options,
    seed: u64,
    report: Arc<Report>,
    service: Service,
    tunnel: Tunnel,
    next_client: AtomicU64,
}

/// What a tunnel has to bear without any harm to its clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Burden {
    None,
    ChangingPath,
    /// The relay's log is not read, and children of the device hold copies of the sockets that it had.
    UnreadLogAndForkedChildren,
}

impl Burden {
    fn lay_on(self, tunnel: &Tunnel) {
        match self {
            Self::None => {}
            Self::ChangingPath => tunnel.forwarder.change_path(OVERTIME),
            Self::UnreadLogAndForkedChildren => tunnel.leave_log_unread(true),
        }
    }

    /// What is done while clients are there.
    fn keep_up(self, tunnel: &Tunnel) {
        if self == Self::UnreadLogAndForkedChildren {
            for _ in 0..CHILDREN {
                tunnel.fork_child(OVERTIME);
                thread::sleep(Duration::from_millis(100));
            }
        }
    }

    fn take_off(self, tunnel: &Tunnel) {
        match self {
            Self::None => {}
            Self::ChangingPath => tunnel.forwarder.heal(),
            Self::UnreadLogAndForkedChildren => {
                tunnel.leave_log_unread(false);
                tunnel.end_children();
            }
        }
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, argument, relay] = &arguments[..]
        && argument == device::ARGUMENT
    {
        return device::run(relay);
    }
    let options = Options::parse();
    match tempfile::tempdir().and_then(|logs| run(options, logs)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            say(&format!("error: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// True if all is well; otherwise the logs are kept.
fn run(options: Options, logs: tempfile::TempDir) -> io::Result<bool> {
    let seed = options.seed.unwrap_or_else(|| fastrand::u64(..1_000_000));
    process::guard(Duration::from_secs(options.seconds) + OVERTIME)?;
    say(&format!("soak: {} clients for {} s, --seed {seed}", options.clients, options.seconds));
    let well = Soak::start(options, seed, logs.path()).and_then(Soak::run);
    if !matches!(well, Ok(true)) {
        say(&format!("the logs of relays and devices are in {}; --seed {seed}", logs.keep().display()));
    }
    well
}

impl Soak {
    fn start(options: Options, seed: u64, logs: &Path) -> io::Result<Self> {
        let report = Arc::new(Report::new());
        let service = Service::start(Arc::clone(&report))?;
        let tunnel = Tunnel::start(&report, service.address(), logs)?;
        Ok(Self { options, seed, report, service, tunnel, next_client: AtomicU64::new(1) })
    }

    fn run(mut self) -> io::Result<bool> {
        self.tunnel.wait_until_up()?;
        let fresh = self.tunnel.usage();
        let time = Duration::from_secs(self.options.seconds);
        self.storm(time * 8 / 10, Violence::Everything)?;
        self.calm(Burden::ChangingPath)?;
        self.storm(time * 7 / 100, Violence::NoKills)?;
        self.calm(Burden::UnreadLogAndForkedChildren)?;
        let before = self.tunnel.usage();
        self.storm(time * 13 / 100, Violence::NoKills)?;
        self.calm(Burden::None)?;
        let after = self.tunnel.usage();
        self.compare(&fresh, &before, &after);
        for kind in self.report.missing() {
            self.report.violation(format!("no client of this kind has ever finished: {kind}"));
        }
        for line in self.tunnel.suspicious_lines() {
            self.report.violation(format!("a log says: {line}"));
        }
        say(&self.report.table());
        let violations = self.report.violations();
        say(&format!("{violations} violations in {:.0} s; --seed {}", self.report.elapsed(), self.seed));
        Ok(violations == 0)
    }

    /// Clients come and go, and everything that may goes wrong.
    fn storm(&mut self, time: Duration, violence: Violence) -> io::Result<()> {
        say(&format!("{:5.0} s: {violence:?} for {} s", self.report.elapsed(), time.as_secs()));
        let over = AtomicBool::new(false);
        let Self { options, seed, report, service, tunnel, next_client } = self;
        let entrances = tunnel.entrances();
        let clients = || {
            while !over.load(Relaxed) && !report.is_over() {
                let number = next_client.fetch_add(1, Relaxed);
                let mut random = fastrand::Rng::with_seed(bytes::mix(*seed) ^ number);
                let plan = Plan::draw(&mut random, number);
                if client::run(&plan, entrances, report) == Outcome::TurnedAway {
                    thread::sleep(Duration::from_millis(random.u64(20..300)));
                }
            }
        };
        thread::scope(|scope| {
            for _ in 0..options.clients {
                small_thread().spawn_scoped(scope, clients)?;
            }
            let end = Instant::now() + time;
            let mut schedule = Schedule::new(*seed, violence);
            let result = loop {
                let (wait, fault) = schedule.next();
                if Instant::now() + wait > end || report.is_over() {
                    break Ok(());
                }
                thread::sleep(wait);
                tunnel.check();
                if let Err(error) = fault.carry_out(tunnel, service, report) {
                    break Err(error);
                }
            };
            while Instant::now() < end && !report.is_over() {
                thread::sleep(Duration::from_millis(50));
            }
            over.store(true, Relaxed);
            tunnel.forwarder.heal();
            result
        })?;
        self.tunnel.wait_for_leaving();
        self.tunnel.check();
        thread::sleep(SETTLE);
        Ok(())
    }

    /// Nothing goes wrong: as many clients of each kind all finish, and their services end with them.
    fn calm(&mut self, burden: Burden) -> io::Result<()> {
        self.tunnel.wait_until_up()?;
        say(&format!("{:5.0} s: calm, {burden:?}", self.report.elapsed()));
        burden.lay_on(&self.tunnel);
        self.calm_clients(burden)?;
        self.await_services();
        burden.take_off(&self.tunnel);
        self.tunnel.check();
        Ok(())
    }

    fn calm_clients(&self, burden: Burden) -> io::Result<()> {
        let Self { options, seed, report, tunnel, next_client, .. } = self;
        let entrances = tunnel.entrances();
        let client = |kind: Kind| {
            let number = next_client.fetch_add(1, Relaxed);
            let plan = Plan::of_kind(kind, &mut fastrand::Rng::with_seed(bytes::mix(*seed) ^ number), number);
            for _ in 0..ATTEMPTS {
                match client::run(&plan, entrances, report) {
                    Outcome::TurnedAway => thread::sleep(Duration::from_millis(100)),
                    Outcome::Cut => return report.violation(format!("cut without a fault: {plan:?}")),
                    Outcome::Finished | Outcome::Violation => return,
                }
            }
            report.violation(format!("no tunnel for a client, without a fault: {plan:?}"));
        };
        thread::scope(|scope| {
            for index in 0..options.clients {
                let kind = Kind::ALL[index % Kind::ALL.len()];
                small_thread().spawn_scoped(scope, move || client(kind))?;
            }
            burden.keep_up(tunnel);
            io::Result::Ok(())
        })
    }

    /// No connection of a client that has ended is left.
    fn await_services(&self) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.service.connections() > 0 && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(50));
        }
        let left = self.service.connections();
        if left > 0 {
            self.report.violation(format!("{left} services are still connected when no client is there"));
        }
    }

    fn compare(&self, fresh: &[Usage; 2], before: &[Usage; 2], after: &[Usage; 2]) {
        for (index, name) in ["relay", "device"].into_iter().enumerate() {
            let (fresh, before, after) = (&fresh[index], &before[index], &after[index]);
            say(&format!(
                "{name}: descriptors {} fresh, {} before, {} after; KiB {} fresh, {} before, {} after",
                fresh.descriptors, before.descriptors, after.descriptors, fresh.kib, before.kib, after.kib
            ));
            if after.descriptors > before.descriptors || after.descriptors > fresh.descriptors {
                self.report.violation(format!("the {name} has kept descriptors"));
            }
            if after.kib > before.kib + KIB {
                self.report.violation(format!("the {name} has grown by {} KiB", after.kib - before.kib));
            }
        }
    }
}

/// There are many of them.
fn small_thread() -> thread::Builder {
    thread::Builder::new().stack_size(256 * 1024)
}

/// One line of progress.
fn say(line: &str) {
    let mut stderr = io::stderr();
    // Its reader may have gone.
    let _ = writeln!(stderr, "{line}");
}
