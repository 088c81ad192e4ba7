//! Counts what happened, and prints at once what must not happen.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use portable_atomic::AtomicU64;

use crate::connection::Stop;
use crate::plan::{Kind, Plan};

/// Past so many violations the run is ended: the first ones say enough.
const ENOUGH: usize = 10;

/// How long connections of a process that was killed may come to light.
const LATELY: Duration = Duration::from_secs(10);

/// How a client's life ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// All of its plan was carried out.
    Finished,
    /// A fault ended it.
    Cut,
    /// There was no tunnel to connect to.
    TurnedAway,
    /// What must not be.
    Violation,
}

#[derive(Debug, Default)]
struct Counts {
    finished: AtomicU64,
    cut: AtomicU64,
}

/// Shared by all threads of the run.
#[derive(Debug)]
pub(crate) struct Report {
    start: Instant,
    kinds: [Counts; Kind::ALL.len()],
    turned_away: AtomicU64,
    /// Bytes that arrived and were right: at services, at clients.
    up: AtomicU64,
    down: AtomicU64,
    /// Grows whenever a process is killed: its kernel ends sockets with FIN, whatever they were in the middle of.
    kills: AtomicU64,
    killed_at: Mutex<Option<Instant>>,
    faults: Mutex<BTreeMap<&'static str, u64>>,
    violations: Mutex<Vec<String>>,
    over: AtomicBool,
}

impl Report {
    pub(crate) fn new() -> Self {
        Self {
            start: Instant::now(),
            kinds: Default::default(),
            turned_away: AtomicU64::new(0),
            up: AtomicU64::new(0),
            down: AtomicU64::new(0),
            kills: AtomicU64::new(0),
            killed_at: Mutex::default(),
            faults: Mutex::default(),
            violations: Mutex::default(),
            over: AtomicBool::new(false),
        }
    }

    pub(crate) fn kills(&self) -> u64 {
        self.kills.load(Relaxed)
    }

    /// To be called before the kill, and after it.
    pub(crate) fn count_kill(&self) {
        self.kills.fetch_add(1, Relaxed);
        *self.killed_at.lock().expect("no panic") = Some(Instant::now());
    }

    /// Whether a connection that has just been found may be one of a process that was killed.
    pub(crate) fn killed_lately(&self) -> bool {
        self.killed_at.lock().expect("no panic").is_some_and(|at| at.elapsed() < LATELY)
    }

    pub(crate) fn count_fault(&self, name: &'static str) {
        *self.faults.lock().expect("no panic").entry(name).or_default() += 1;
    }

    pub(crate) fn count_up(&self, bytes: u64) {
        self.up.fetch_add(bytes, Relaxed);
    }

    pub(crate) fn count_down(&self, bytes: u64) {
        self.down.fetch_add(bytes, Relaxed);
    }

    pub(crate) fn count_client(&self, kind: Kind, outcome: Outcome) {
        let counts = &self.kinds[kind as usize];
        match outcome {
            Outcome::Finished => &counts.finished,
            Outcome::Cut => &counts.cut,
            Outcome::TurnedAway => &self.turned_away,
            Outcome::Violation => return,
        }
        .fetch_add(1, Relaxed);
    }

    /// Whether a connection may end as it did.
    pub(crate) fn judge(&self, side: &str, plan: &Plan, result: Result<(), Stop>) -> Outcome {
        let killed = self.kills() > plan.kills;
        let stop = match result {
            Ok(()) => return Outcome::Finished,
            Err(Stop::Cut | Stop::Doomed) => return Outcome::Cut,
            Err(Stop::Early { .. } | Stop::Ended) if killed => return Outcome::Cut,
            Err(stop) => stop,
        };
        let (kind, client) = (plan.kind.name(), plan.client);
        self.violation(format!("client {client} ({kind}), its {side}: {stop:?}; {plan:?}"));
        Outcome::Violation
    }

    /// What must not be; printed at once, with the time for the logs.
    pub(crate) fn violation(&self, text: String) {
        let text = format!("{:8.3} s: {text}", self.start.elapsed().as_secs_f64());
        crate::say(&format!("VIOLATION {text}"));
        let mut violations = self.violations.lock().expect("no panic");
        violations.push(text);
        if violations.len() >= ENOUGH {
            self.over.store(true, Relaxed);
        }
    }

    /// Enough has gone wrong.
    pub(crate) fn is_over(&self) -> bool {
        self.over.load(Relaxed)
    }

    /// What must not be has happened so often.
    pub(crate) fn violations(&self) -> usize {
        self.violations.lock().expect("no panic").len()
    }

    pub(crate) fn elapsed(&self) -> f64 {
        self.start.elapsed().as_secs_f64()
    }

    /// The counts, as a person reads them.
    pub(crate) fn table(&self) -> String {
        let mut text = format!("{:<20} {:>9} {:>9}\n", "clients", "finished", "cut");
        let (mut finished, mut cut) = (0, 0);
        for (kind, counts) in Kind::ALL.iter().zip(&self.kinds) {
            let (f, c) = (counts.finished.load(Relaxed), counts.cut.load(Relaxed));
            let _ = writeln!(text, "  {:<18} {f:>9} {c:>9}", kind.name());
            finished += f;
            cut += c;
        }
        let _ = writeln!(text, "  {:<18} {finished:>9} {cut:>9}", "all");
        let _ = writeln!(text, "  {:<18} {:>9}", "found no tunnel", self.turned_away.load(Relaxed));
        let mib = |bytes: &AtomicU64| bytes.load(Relaxed) >> 20;
        let _ = writeln!(text, "MiB checked: {} at services, {} at clients", mib(&self.up), mib(&self.down));
        let faults = self.faults.lock().expect("no panic");
        let _ = writeln!(text, "faults: {}", faults.values().sum::<u64>());
        for (name, count) in faults.iter() {
            let _ = writeln!(text, "  {name:<40} {count:>5}");
        }
        text
    }

    /// Kinds of which no client has finished.
    pub(crate) fn missing(&self) -> Vec<&'static str> {
        let never = |&(_, counts): &(&Kind, &Counts)| counts.finished.load(Relaxed) == 0;
        Kind::ALL.iter().zip(&self.kinds).filter(never).map(|(kind, _)| kind.name()).collect()
    }
}
