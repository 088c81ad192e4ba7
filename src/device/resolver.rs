//! Name lookups beside the loop.
//!
//! The system's resolver blocks, for half a minute where DNS is down, and cannot be interrupted. So lookups run on a
//! few threads of their own, which nothing ever waits for: a [`Resolver`] that is dropped leaves a blocked thread
//! behind, whose answer is then for nobody.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use mio::Waker;

use super::access::Refusal;
use crate::link::StreamKey;

/// Lookups at once.
const MAX_THREADS: usize = 4;
/// Lookups that wait for a thread.
const MAX_WAITING: usize = 4096;
/// How long a thread without work stays.
const IDLE: Duration = Duration::from_secs(5);

/// The answer to a lookup.
pub(super) type Answer = Result<Vec<SocketAddr>, Refusal>;
/// The lookups of a tunnel.
pub(super) type Names = Resolver<Lookup, Answer>;

/// What a name is looked up for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lookup {
    /// The relay, in the attempt with this number.
    Server(usize),
    /// A service, of this link's stream.
    Service(usize, StreamKey),
}

/// Runs jobs that block; each answer comes back beside the tag that its job was given.
///
/// Threads are started by [`Self::submit`], so they inherit the signal mask of the thread that calls it.
#[derive(Debug)]
pub(super) struct Resolver<T, R> {
    shared: Arc<Shared<T, R>>,
    idle: Duration,
}

#[derive(Debug)]
struct Shared<T, R> {
    state: Mutex<State<T, R>>,
    changed: Condvar,
}

struct State<T, R> {
    waiting: VecDeque<(T, Work<R>)>,
    done: VecDeque<(T, R)>,
    threads: usize,
    /// Of these, the ones without work.
    idle: usize,
    /// `None` once the resolver was dropped and nobody wants answers.
    waker: Option<Arc<Waker>>,
}

type Work<R> = Box<dyn FnOnce() -> R + Send>;

/// The system's own lookup, which may block.
pub(super) fn lookup(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    Ok((host, port).to_socket_addrs()?.collect())
}

impl<T: Send + 'static, R: Send + 'static> Resolver<T, R> {
    /// A resolver with no threads yet, which rings `waker` when [`Self::poll`] has an answer.
    pub(super) fn new(waker: Arc<Waker>) -> Self {
        Self::with_idle(waker, IDLE)
    }

    fn with_idle(waker: Arc<Waker>, idle: Duration) -> Self {
        let state = State { waiting: VecDeque::new(), done: VecDeque::new(), threads: 0, idle: 0, waker: Some(waker) };
        Self { shared: Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() }), idle }
    }

    /// Has `work` done on another thread, as soon as one is free; its answer will bear `tag`.
    ///
    /// # Errors
    /// If 4,096 jobs are waiting already, or the system gives no thread at all.
    pub(super) fn submit(&self, tag: T, work: impl FnOnce() -> R + Send + 'static) -> io::Result<()> {
        let mut state = self.shared.lock();
        if state.waiting.len() >= MAX_WAITING {
            return Err(io::Error::other(format!("{MAX_WAITING} lookups are waiting already")));
        }
        state.waiting.push_back((tag, Box::new(work)));
        // A thread that was told of an earlier job counts as idle until it has taken it.
        if state.idle >= state.waiting.len() {
            self.shared.changed.notify_one();
        } else if state.threads < MAX_THREADS {
            let (shared, idle) = (Arc::clone(&self.shared), self.idle);
            match thread::Builder::new().name("tcpremote-names".into()).spawn(move || shared.serve(idle)) {
                Ok(_) => state.threads += 1,
                // Otherwise the job is done by one of those that run.
                Err(error) if state.threads == 0 => {
                    state.waiting.pop_back();
                    return Err(error);
                }
                Err(_) => {}
            }
        }
        Ok(())
    }

    /// An answer that came since, oldest first.
    pub(super) fn poll(&self) -> Option<(T, R)> {
        self.shared.lock().done.pop_front()
    }
}

impl<T, R> Drop for Resolver<T, R> {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.waker = None;
        state.waiting.clear();
        state.done.clear();
        self.shared.changed.notify_all();
    }
}

impl<T, R> Shared<T, R> {
    /// A thread's whole life.
    fn serve(&self, idle: Duration) {
        let mut state = self.lock();
        loop {
            if let Some((tag, work)) = state.waiting.pop_front() {
                drop(state);
                let answer = work();
                state = self.lock();
                let Some(waker) = state.waker.clone() else { break };
                state.done.push_back((tag, answer));
                // Fails only where the loop's poll is gone, and with it everybody who would ask.
                let _ = waker.wake();
                continue;
            }
            state.idle += 1;
            let nothing = |state: &mut State<T, R>| state.waiting.is_empty() && state.waker.is_some();
            let waited = self.changed.wait_timeout_while(state, idle, nothing);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
            state.idle -= 1;
            if state.waiting.is_empty() {
                break;
            }
        }
        state.threads -= 1;
    }

    /// No job runs under the lock, so a panic leaves nothing half done here.
    fn lock(&self) -> MutexGuard<'_, State<T, R>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T, R> fmt::Debug for State<T, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State")
            .field("waiting", &self.waiting.len())
            .field("done", &self.done.len())
            .field("threads", &self.threads)
            .field("idle", &self.idle)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
    use std::sync::mpsc;
    use std::time::Instant;

    use mio::{Events, Poll, Token};

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(10);

    /// A loop that waits for answers.
    struct Loop {
        poll: Poll,
        resolver: Resolver<u32, String>,
    }

    fn with_idle(idle: Duration) -> Loop {
        let poll = Poll::new().expect("poll");
        let waker = Arc::new(Waker::new(poll.registry(), Token(0)).expect("waker"));
        Loop { poll, resolver: Resolver::with_idle(waker, idle) }
    }

    fn start() -> Loop {
        with_idle(IDLE)
    }

    impl Loop {
        /// Sleeps until the waker rings, as the driver does, until that many answers are there.
        fn answers(&mut self, count: usize) -> Vec<(u32, String)> {
            let deadline = Instant::now() + DEADLINE;
            let mut answers = Vec::new();
            let mut events = Events::with_capacity(4);
            while answers.len() < count {
                let left = deadline.checked_duration_since(Instant::now()).expect("answers in time");
                self.poll.poll(&mut events, Some(left)).expect("poll");
                answers.extend(std::iter::from_fn(|| self.resolver.poll()));
            }
            answers.sort();
            answers
        }

        fn threads(&self) -> usize {
            self.resolver.shared.lock().threads
        }
    }

    /// Work that blocks until the sender is used or dropped, and tells when it has begun.
    fn blocked(begun: &mpsc::Sender<()>) -> (mpsc::Sender<()>, impl FnOnce() -> String + Send + use<>) {
        let (release, gate) = mpsc::channel::<()>();
        let begun = begun.clone();
        let work = move || {
            begun.send(()).ok();
            gate.recv_timeout(DEADLINE).ok();
            "released".to_owned()
        };
        (release, work)
    }

    fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
        let deadline = Instant::now() + DEADLINE;
        while !holds() {
            assert!(Instant::now() < deadline, "{what} did not happen in time");
            thread::yield_now();
        }
    }

    #[test]
    fn answers_come_back_with_their_tags() {
        let mut owner = start();
        for tag in 0..100 {
            owner.resolver.submit(tag, move || format!("answer {tag}")).expect("submit");
        }
        let expected: Vec<_> = (0..100).map(|tag| (tag, format!("answer {tag}"))).collect();
        assert_eq!(owner.answers(100), expected);
        assert!(owner.resolver.poll().is_none());
    }

    #[test]
    fn four_run_at_once_and_the_fifth_waits() {
        let mut owner = start();
        let (begun, starts) = mpsc::channel();
        let mut gates = Vec::new();
        for tag in 0..5 {
            let (gate, work) = blocked(&begun);
            gates.push(gate);
            owner.resolver.submit(tag, work).expect("submit");
        }
        for _ in 0..4 {
            starts.recv_timeout(DEADLINE).expect("four begin");
        }
        assert_eq!(owner.resolver.shared.lock().waiting.len(), 1);
        assert_eq!(owner.threads(), MAX_THREADS);
        gates.remove(0);
        starts.recv_timeout(DEADLINE).expect("the fifth begins when one ends");
        gates.clear();
        assert_eq!(owner.answers(5).len(), 5);
    }

    #[test]
    fn a_blocked_lookup_holds_up_no_other() {
        let mut owner = start();
        let (begun, starts) = mpsc::channel();
        let (_gate, work) = blocked(&begun);
        owner.resolver.submit(1, work).expect("submit");
        starts.recv_timeout(DEADLINE).expect("it begins");
        owner.resolver.submit(2, || "quick".into()).expect("submit");
        assert_eq!(owner.answers(1), [(2, "quick".to_owned())]);
    }

    #[test]
    fn a_thread_without_work_is_used_again_and_ends_after_a_while() {
        let mut owner = start();
        for tag in 0..20 {
            owner.resolver.submit(tag, String::new).expect("submit");
            owner.answers(1);
            eventually("idleness", || owner.resolver.shared.lock().idle == 1);
        }
        assert_eq!(owner.threads(), 1);
        let mut owner = with_idle(Duration::from_millis(1));
        owner.resolver.submit(0, String::new).expect("submit");
        owner.answers(1);
        eventually("the thread's end", || owner.threads() == 0);
        owner.resolver.submit(1, String::new).expect("submit");
        assert_eq!(owner.answers(1).len(), 1, "a new thread takes over");
    }

    #[test]
    fn past_4096_waiting_jobs_the_next_is_refused() {
        let mut owner = start();
        let (begun, starts) = mpsc::channel();
        let gates: Vec<_> = (0..4)
            .map(|tag| {
                let (gate, work) = blocked(&begun);
                owner.resolver.submit(tag, work).expect("submit");
                starts.recv_timeout(DEADLINE).expect("it begins");
                gate
            })
            .collect();
        for tag in 0..4096 {
            owner.resolver.submit(100 + tag, String::new).expect("submit");
        }
        let refused = owner.resolver.submit(9999, String::new).expect_err("one too many");
        assert_eq!(refused.to_string(), "4096 lookups are waiting already");
        drop(gates);
        assert_eq!(owner.answers(4100).len(), 4100);
        owner.resolver.submit(9999, String::new).expect("there is room again");
    }

    #[test]
    fn dropping_the_resolver_waits_for_nobody_and_drops_what_nobody_wants() {
        let owner = start();
        let (begun, starts) = mpsc::channel();
        let ran = Arc::new(AtomicUsize::new(0));
        let mut gates = Vec::new();
        for tag in 0..4 {
            let (gate, work) = blocked(&begun);
            gates.push(gate);
            owner.resolver.submit(tag, work).expect("submit");
            starts.recv_timeout(DEADLINE).expect("it begins");
        }
        for tag in 10..20 {
            let ran = Arc::clone(&ran);
            let work = move || {
                ran.fetch_add(1, SeqCst);
                String::new()
            };
            owner.resolver.submit(tag, work).expect("submit");
        }
        let shared = Arc::clone(&owner.resolver.shared);
        let waker = shared.lock().waker.clone().expect("waker");
        let began = Instant::now();
        drop(owner);
        assert!(began.elapsed() < Duration::from_secs(2), "no blocked thread was waited for");
        assert_eq!(Arc::strong_count(&waker), 1, "no thread keeps the loop's waker");
        drop(gates);
        eventually("the threads' end", || Arc::strong_count(&shared) == 1);
        assert_eq!(ran.load(SeqCst), 0, "waiting jobs were dropped");
        assert!(shared.lock().done.is_empty());
    }

    #[test]
    fn an_idle_thread_ends_when_the_resolver_is_dropped() {
        let mut owner = start();
        owner.resolver.submit(0, String::new).expect("submit");
        owner.answers(1);
        let shared = Arc::clone(&owner.resolver.shared);
        let began = Instant::now();
        drop(owner);
        eventually("the thread's end", || Arc::strong_count(&shared) == 1);
        assert!(began.elapsed() < IDLE);
    }

    #[test]
    fn the_systems_lookup_knows_localhost_and_takes_hostile_text() {
        assert!(lookup("localhost", 22).expect("localhost").iter().all(|address| address.ip().is_loopback()));
        assert!(lookup("", 22).is_err());
        assert!(lookup("a\0b", 22).is_err());
        assert!(lookup(&"x".repeat(65_531), 22).is_err());
    }
}
