//! Which names are looked up next, and for which streams: no sockets, no threads, no clock.
//!
//! A name is looked up once for all that wait for it, and not at all once none does. A lookup that has begun cannot be
//! interrupted, so few run at once: names that were slow may have half of the places, and two are for names that were
//! quick, since any other may hang.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Lookups at once.
pub(super) const MAX_RUNNING: usize = 8;
/// Of these, the ones of names that are not known to be quick.
const MAX_UNPROVEN: usize = 6;
/// Of these, the ones of names that were slow.
const MAX_SLOW: usize = 4;
/// A lookup that takes longer makes its name a slow one, any other a quick one.
const SLOW: Duration = Duration::from_secs(1);
/// How long a name counts as slow.
const SLOW_FOR: Duration = Duration::from_secs(60);
/// How long a name counts as quick.
const QUICK_FOR: Duration = Duration::from_secs(600);
/// How long a failure is the answer to those that ask next.
const FAILED_FOR: Duration = Duration::from_secs(2);
/// Failures, slow names, and quick names, that are remembered; past it those that would be forgotten first are.
const MAX_REMEMBERED: usize = 256;

/// What a lookup has brought.
pub(super) type Found = Result<Arc<[SocketAddr]>, LookupError>;

/// Why a name has no address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LookupError {
    /// The system's number for it, where it has one.
    pub(super) os: Option<i32>,
    /// What the system said.
    pub(super) text: Arc<str>,
}

/// The lookups of a tunnel. `W` names one that waits.
#[derive(Debug)]
pub(super) struct Lookups<W> {
    /// Every name that a stream waits for, or whose lookup runs.
    names: BTreeMap<Arc<str>, Lookup<W>>,
    /// Those whose lookup has not begun, in the order in which they were asked for.
    queue: VecDeque<Arc<str>>,
    failed: Memory<LookupError>,
    slow: Memory<()>,
    quick: Memory<()>,
}

#[derive(Debug)]
struct Lookup<W> {
    waiting: BTreeSet<W>,
    /// When it began.
    running_since: Option<Instant>,
}

impl<W: Copy + Ord> Lookups<W> {
    pub(super) fn new() -> Self {
        Self {
            names: BTreeMap::new(),
            queue: VecDeque::new(),
            failed: Memory::new(),
            slow: Memory::new(),
            quick: Memory::new(),
        }
    }

    /// `waiter` wants the addresses of `name`: what is known of it at once, or else it is among those that
    /// [`complete`](Self::complete) gives back.
    pub(super) fn request(&mut self, now: Instant, name: &str, waiter: W) -> Option<LookupError> {
        if let Some(error) = self.failed.get(now, name) {
            return Some(error.clone());
        }
        let name: Arc<str> = name.into();
        let lookup = self.names.entry(Arc::clone(&name)).or_insert_with(|| {
            self.queue.push_back(name);
            Lookup { waiting: BTreeSet::new(), running_since: None }
        });
        lookup.waiting.insert(waiter);
        None
    }

    /// `waiter` wants no answer any more: a name that it has waited for, and whether the lookup of that has begun.
    pub(super) fn withdraw(&mut self, waiter: W) -> Option<(Arc<str>, bool)> {
        let mut names = self.names.iter().filter(|(_, lookup)| lookup.waiting.contains(&waiter));
        let waited = names.next().map(|(name, lookup)| (Arc::clone(name), lookup.running_since.is_some()));
        self.names.retain(|_, lookup| {
            lookup.waiting.remove(&waiter);
            !lookup.waiting.is_empty() || lookup.running_since.is_some()
        });
        self.queue.retain(|name| self.names.contains_key(name));
        waited
    }

    /// A name whose lookup is to begin now.
    pub(super) fn poll_start(&mut self, now: Instant) -> Option<Arc<str>> {
        let running = self.names.iter().filter_map(|(name, lookup)| Some((name, lookup.running_since?)));
        let (mut all, mut unproven, mut slow) = (0, 0, 0);
        for (name, since) in running {
            let is_late = now.saturating_duration_since(since) >= SLOW;
            all += 1;
            unproven += usize::from(is_late || self.quick.get(now, name).is_none());
            slow += usize::from(is_late || self.slow.get(now, name).is_some());
        }
        if all >= MAX_RUNNING {
            return None;
        }
        let may_start = |name: &Arc<str>| {
            self.quick.get(now, name).is_some()
                || unproven < MAX_UNPROVEN && (slow < MAX_SLOW || self.slow.get(now, name).is_none())
        };
        let place = self.queue.iter().position(may_start)?;
        let name = self.queue.remove(place)?;
        self.names.get_mut(&name)?.running_since = Some(now);
        Some(name)
    }

    /// The lookup of `name` is over: gives back those that wait for it.
    pub(super) fn complete(&mut self, now: Instant, name: &str, found: &Found) -> BTreeSet<W> {
        let Some(lookup) = self.names.remove(name) else { return BTreeSet::new() };
        if let Err(error) = found {
            self.failed.insert(now, FAILED_FOR, name, error.clone());
        }
        if lookup.running_since.is_some_and(|since| now.saturating_duration_since(since) >= SLOW) {
            self.slow.insert(now, SLOW_FOR, name, ());
            self.quick.forget(name);
        } else {
            self.quick.insert(now, QUICK_FOR, name, ());
            self.slow.forget(name);
        }
        lookup.waiting
    }
}

/// What is known of a few names for a while.
#[derive(Debug)]
struct Memory<T> {
    entries: BTreeMap<Arc<str>, (Instant, T)>,
}

impl<T> Memory<T> {
    fn new() -> Self {
        Self { entries: BTreeMap::new() }
    }

    fn get(&self, now: Instant, name: &str) -> Option<&T> {
        self.entries.get(name).filter(|(until, _)| now < *until).map(|(_, value)| value)
    }

    fn insert(&mut self, now: Instant, lifetime: Duration, name: &str, value: T) {
        self.entries.retain(|_, (until, _)| now < *until);
        if self.entries.len() >= MAX_REMEMBERED
            && let Some(first) = self.entries.iter().min_by_key(|(_, (until, _))| *until).map(|(name, _)| name.clone())
        {
            self.entries.remove(&first);
        }
        self.entries.insert(name.into(), (now + lifetime, value));
    }

    fn forget(&mut self, name: &str) {
        self.entries.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Bench {
        lookups: Lookups<u32>,
        now: Instant,
    }

    impl Bench {
        fn new() -> Self {
            Self { lookups: Lookups::new(), now: Instant::now() }
        }

        #[track_caller]
        fn request(&mut self, name: &str, waiter: u32) {
            assert_eq!(self.lookups.request(self.now, name, waiter), None);
        }

        /// The names whose lookups begin now.
        fn starts(&mut self) -> Vec<String> {
            std::iter::from_fn(|| self.lookups.poll_start(self.now)).map(|name| name.to_string()).collect()
        }

        fn complete(&mut self, name: &str, found: &Found) -> Vec<u32> {
            self.lookups.complete(self.now, name, found).into_iter().collect()
        }

        fn pass(&mut self, seconds: f64) {
            self.now += Duration::from_secs_f64(seconds);
        }
    }

    fn found() -> Found {
        Ok(Arc::new([SocketAddr::from(([127, 0, 0, 1], 0))]))
    }

    fn failed() -> Found {
        Err(LookupError { os: None, text: "no such name".into() })
    }

    #[test]
    fn one_lookup_serves_all_that_wait_for_the_name() {
        let mut bench = Bench::new();
        for waiter in 0..400 {
            bench.request("db.example", waiter);
        }
        bench.request("web.example", 400);
        assert_eq!(bench.starts(), ["db.example", "web.example"]);
        bench.request("db.example", 401);
        assert_eq!(bench.starts(), [""; 0], "it runs already");
        let expected: Vec<_> = (0..400).chain([401]).collect();
        assert_eq!(bench.complete("db.example", &found()), expected);
        assert_eq!(bench.complete("web.example", &found()), [400]);
        bench.request("db.example", 1);
        assert_eq!(bench.starts(), ["db.example"], "addresses are looked up anew");
    }

    #[test]
    fn a_lookup_without_a_waiter_does_not_begin() {
        let mut bench = Bench::new();
        for waiter in 0..MAX_UNPROVEN as u32 {
            bench.request(&format!("running{waiter}"), waiter);
        }
        assert_eq!(bench.starts().len(), MAX_UNPROVEN);
        for waiter in 100..491 {
            bench.request("dead.example", waiter);
        }
        bench.request("db.example", 500);
        for waiter in 100..491 {
            bench.lookups.withdraw(waiter);
        }
        assert_eq!(bench.lookups.queue, ["db.example".into()]);
        assert_eq!(bench.lookups.withdraw(501), None);
        assert_eq!(bench.lookups.withdraw(0), Some(("running0".into(), true)));
        assert_eq!(bench.complete("running0", &found()), [0; 0]);
        assert_eq!(bench.starts(), ["db.example"]);
    }

    #[test]
    fn nothing_is_left_of_names_that_were_answered_or_withdrawn() {
        let mut bench = Bench::new();
        for waiter in 0..1000 {
            bench.request(&format!("name{waiter}"), waiter);
            bench.starts();
            if waiter % 2 == 0 {
                bench.lookups.withdraw(waiter);
            }
            bench.complete(&format!("name{waiter}"), &failed());
        }
        assert_eq!((bench.lookups.names.len(), bench.lookups.queue.len()), (0, 0));
        assert_eq!(bench.lookups.failed.entries.len(), MAX_REMEMBERED);
    }

    #[test]
    fn a_failure_is_the_answer_for_two_seconds_and_then_the_name_is_tried_again() {
        let mut bench = Bench::new();
        bench.request("dead.example", 1);
        bench.starts();
        bench.complete("dead.example", &failed());
        bench.pass(1.9);
        assert_eq!(bench.lookups.request(bench.now, "dead.example", 2), failed().err());
        assert_eq!(bench.starts(), [""; 0]);
        bench.pass(0.1);
        bench.request("dead.example", 3);
        assert_eq!(bench.starts(), ["dead.example"]);
    }

    #[test]
    fn slow_names_leave_places_to_the_others() {
        let mut bench = Bench::new();
        for waiter in 0..MAX_UNPROVEN as u32 {
            bench.request(&format!("slow{waiter}"), waiter);
        }
        assert_eq!(bench.starts().len(), MAX_UNPROVEN, "none is known to be slow yet");
        bench.pass(10.0);
        for waiter in 0..MAX_UNPROVEN as u32 {
            bench.complete(&format!("slow{waiter}"), &failed());
        }
        bench.pass(2.0);
        for waiter in 0..MAX_UNPROVEN as u32 {
            bench.request(&format!("slow{waiter}"), waiter);
        }
        bench.request("db.example", 100);
        assert_eq!(bench.starts(), ["slow0", "slow1", "slow2", "slow3", "db.example"]);
        assert_eq!(bench.complete("db.example", &found()), [100]);
        bench.complete("slow0", &found());
        assert_eq!(bench.starts(), ["slow4"], "in their order, as places are free");
    }

    #[test]
    fn names_that_hang_for_the_first_time_leave_places_to_those_that_were_quick() {
        let mut bench = Bench::new();
        bench.request("db.example", 100);
        bench.starts();
        bench.complete("db.example", &found());
        for waiter in 0..MAX_RUNNING as u32 + 1 {
            bench.request(&format!("hangs{waiter}"), waiter);
        }
        assert_eq!(bench.starts().len(), MAX_UNPROVEN);
        bench.request("db.example", 100);
        assert_eq!(bench.starts(), ["db.example"]);
        assert_eq!(bench.lookups.withdraw(8), Some(("hangs8".into(), false)));
        bench.complete("db.example", &found());
        bench.pass(600.0);
        bench.request("db.example", 100);
        assert_eq!(bench.starts(), [""; 0], "that is long ago");
    }

    #[test]
    fn names_that_were_quick_and_hang_now_are_bounded_like_all() {
        let mut bench = Bench::new();
        for round in 0..2 {
            for waiter in 0..MAX_RUNNING as u32 + 2 {
                let name = format!("name{waiter}");
                bench.request(&name, waiter);
                if round == 0 {
                    bench.starts();
                    bench.complete(&name, &found());
                }
            }
        }
        assert_eq!(bench.starts().len(), MAX_RUNNING);
    }

    #[test]
    fn a_name_that_is_quick_again_is_a_name_like_any_other() {
        let mut bench = Bench::new();
        bench.request("db.example", 1);
        bench.starts();
        bench.pass(1.0);
        bench.complete("db.example", &found());
        assert!(bench.lookups.slow.get(bench.now, "db.example").is_some());
        bench.request("db.example", 1);
        bench.starts();
        bench.complete("db.example", &found());
        assert!(bench.lookups.slow.get(bench.now, "db.example").is_none());
    }
}
