//! Name lookups beside the loop.
//!
//! The system's resolver blocks, for half a minute where DNS is down, and cannot be interrupted. So lookups run on a
//! few threads of their own, which nothing ever waits for: a [`Pool`] that is dropped leaves a blocked thread behind,
//! whose answer is then dropped. The services' names share one pool, the relay's own name has another.

use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::panic::{self, AssertUnwindSafe};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use mio::Waker;

use super::names::{Found, LookupError, Lookups};
use crate::connection::StreamKey;

/// How long a thread without work stays.
const IDLE: Duration = Duration::from_secs(5);
/// Lookups of the relay's name at once: one, and another beside it where that one hangs.
const MAX_RELAY: usize = 2;
/// How long an answer is good that was looked up before it is wanted.
const PREPARED: Duration = Duration::from_secs(30);
/// The name of the threads.
pub(super) const THREAD_NAME: &str = "tcpremote-names";

/// A stream that waits for a name: the number of its link, and its key.
pub(super) type Waiter = (usize, StreamKey);

/// The system's own lookup, which may block.
fn lookup(name: &str) -> io::Result<Vec<SocketAddr>> {
    Ok((name, 0).to_socket_addrs()?.collect())
}

/// The names of the services.
#[derive(Debug)]
pub(super) struct Names {
    lookups: Lookups<Waiter>,
    pool: Pool,
    lookup: fn(&str) -> io::Result<Vec<SocketAddr>>,
}

impl Names {
    /// No threads yet; `waker` is used when [`Self::poll`] has an answer.
    pub(super) fn new(waker: Arc<Waker>) -> Self {
        Self::with_lookup(waker, lookup)
    }

    pub(super) fn with_lookup(waker: Arc<Waker>, lookup: fn(&str) -> io::Result<Vec<SocketAddr>>) -> Self {
        Self { lookups: Lookups::new(), pool: Pool::new(waker), lookup }
    }

    /// Has `name` looked up for `waiter`, which [`poll`](Self::poll) gives back with the answer; where the answer is
    /// known already it is given at once.
    pub(super) fn request(&mut self, now: Instant, name: &str, waiter: Waiter) -> Option<LookupError> {
        let known = self.lookups.request(now, name, waiter);
        self.start(now);
        known
    }

    /// `waiter` is no more: a name that it has waited for, and whether the lookup of that has begun.
    pub(super) fn withdraw(&mut self, waiter: Waiter) -> Option<(Arc<str>, bool)> {
        self.lookups.withdraw(waiter)
    }

    /// An answer that came, and those that wait for it.
    pub(super) fn poll(&mut self, now: Instant) -> Option<(Arc<str>, Found, BTreeSet<Waiter>)> {
        let (name, found) = self.pool.poll()?;
        let waiting = self.lookups.complete(now, &name, &found);
        self.start(now);
        Some((name, found, waiting))
    }

    fn start(&mut self, now: Instant) {
        while let Some(name) = self.lookups.poll_start(now) {
            let (lookup, host) = (self.lookup, Arc::clone(&name));
            self.pool.submit(name, move || lookup(&host));
        }
    }
}

/// The names of a relay or of the proxy before it, of which one is waited for at a time.
#[derive(Debug)]
pub(super) struct RelayNames {
    names: Vec<RelayName>,
    waker: Arc<Waker>,
    lookup: fn(&str) -> io::Result<Vec<SocketAddr>>,
}

impl RelayNames {
    /// No threads yet; `waker` is used when [`Self::poll`] has an answer.
    pub(super) fn new(waker: Arc<Waker>) -> Self {
        Self::with_lookup(waker, lookup)
    }

    fn with_lookup(waker: Arc<Waker>, lookup: fn(&str) -> io::Result<Vec<SocketAddr>>) -> Self {
        Self { names: Vec::new(), waker, lookup }
    }

    /// Begins to look these names up at once, each of which is to be requested later: where the first name server is dead
    /// each takes some seconds, and one after the other they would take more than there is.
    #[cfg(feature = "tls")]
    pub(super) fn prepare<'a>(&mut self, now: Instant, hosts: impl IntoIterator<Item = &'a str>) {
        for host in hosts {
            let lookup = self.lookup;
            let name = self.of(host);
            if name.prepared.is_none() {
                name.prepared = Some(now);
                name.request(lookup);
            }
        }
    }

    /// Looks this name up anew, unless that was prepared a moment ago; what is found of others is not needed any more.
    pub(super) fn request(&mut self, now: Instant, host: &str) {
        for name in &mut self.names {
            if name.prepared.take_if(|at| now.saturating_duration_since(*at) >= PREPARED).is_some() {
                name.found = None;
            }
        }
        // A lookup that hangs is remembered, so that there are never many of one name.
        self.names.retain(|name| *name.name == *host || name.running > 0 || name.prepared.is_some());
        let lookup = self.lookup;
        let name = self.of(host);
        if name.prepared.take().is_none() {
            name.request(lookup);
        } else if name.found.is_some() {
            // Fails only where the loop's poll is gone.
            let _ = self.waker.wake();
        }
    }

    fn of(&mut self, host: &str) -> &mut RelayName {
        let place = self.names.iter().position(|name| *name.name == *host).unwrap_or_else(|| {
            self.names.push(RelayName::new(host, Arc::clone(&self.waker)));
            self.names.len() - 1
        });
        &mut self.names[place]
    }

    /// The answer for this name.
    pub(super) fn poll(&mut self, host: Option<&str>) -> Option<Found> {
        let mut found = None;
        for name in &mut self.names {
            let before = name.found.take();
            let answer = name.poll().or(before);
            if host == Some(&*name.name) {
                found = answer;
            } else if name.prepared.is_some() {
                name.found = answer;
            }
        }
        found
    }
}

/// The relay's name.
#[derive(Debug)]
pub(super) struct RelayName {
    name: Arc<str>,
    running: usize,
    pool: Pool,
    /// Since when it is looked up before it is wanted.
    prepared: Option<Instant>,
    /// What that has brought.
    found: Option<Found>,
}

impl RelayName {
    pub(super) fn new(name: &str, waker: Arc<Waker>) -> Self {
        Self { name: name.into(), running: 0, pool: Pool::new(waker), prepared: None, found: None }
    }

    /// Looks the name up anew. Where two lookups hang already, theirs is the answer.
    fn request(&mut self, lookup: fn(&str) -> io::Result<Vec<SocketAddr>>) {
        let name = Arc::clone(&self.name);
        self.request_by(move || lookup(&name));
    }

    fn request_by(&mut self, work: impl FnOnce() -> io::Result<Vec<SocketAddr>> + Send + 'static) {
        if self.running < MAX_RELAY {
            self.running += 1;
            self.pool.submit(Arc::clone(&self.name), work);
        }
    }

    /// The answer of a lookup; of a failed one only if no other runs, which may still succeed.
    pub(super) fn poll(&mut self) -> Option<Found> {
        loop {
            let (_, found) = self.pool.poll()?;
            self.running -= 1;
            if found.is_ok() || self.running == 0 {
                return Some(found);
            }
        }
    }
}

/// Runs lookups, each on a thread of its own, of which those without work are used again. How many run at once is for
/// the caller to bound.
///
/// Threads are started by [`Self::submit`], so they inherit the signal mask of the thread that calls it.
#[derive(Debug)]
struct Pool {
    shared: Arc<Shared>,
    idle: Duration,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    waiting: VecDeque<(Arc<str>, Work)>,
    done: VecDeque<(Arc<str>, Found)>,
    threads: usize,
    /// Of these, the ones without work.
    idle: usize,
    /// `None` once the pool was dropped and answers have no receiver.
    waker: Option<Arc<Waker>>,
}

type Work = Box<dyn FnOnce() -> io::Result<Vec<SocketAddr>> + Send>;

impl Pool {
    fn new(waker: Arc<Waker>) -> Self {
        Self::with_idle(waker, IDLE)
    }

    fn with_idle(waker: Arc<Waker>, idle: Duration) -> Self {
        let state = State { waiting: VecDeque::new(), done: VecDeque::new(), threads: 0, idle: 0, waker: Some(waker) };
        Self { shared: Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() }), idle }
    }

    /// Has `work` done on another thread; its answer comes back beside `name`.
    fn submit(&self, name: Arc<str>, work: impl FnOnce() -> io::Result<Vec<SocketAddr>> + Send + 'static) {
        let mut state = self.shared.lock();
        state.waiting.push_back((name, Box::new(work)));
        // A thread that was notified of an earlier job counts as idle until it has taken it.
        if state.idle >= state.waiting.len() {
            self.shared.changed.notify_one();
            return;
        }
        let (shared, idle) = (Arc::clone(&self.shared), self.idle);
        match thread::Builder::new().name(THREAD_NAME.into()).spawn(move || shared.serve(idle)) {
            Ok(_) => state.threads += 1,
            // Otherwise the job is done by one of those that run.
            Err(error) if state.threads == 0 => {
                if let Some((name, _)) = state.waiting.pop_back() {
                    let text = format!("no thread can be started for it ({error}); raise ulimit -u").into();
                    state.finish(name, Err(LookupError { os: error.raw_os_error(), text }));
                }
            }
            Err(_) => {}
        }
    }

    /// An answer that came since, oldest first.
    fn poll(&self) -> Option<(Arc<str>, Found)> {
        self.shared.lock().done.pop_front()
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.waker = None;
        state.waiting.clear();
        state.done.clear();
        self.shared.changed.notify_all();
    }
}

impl Shared {
    /// A thread's whole life.
    fn serve(&self, idle: Duration) {
        let mut state = self.lock();
        loop {
            if let Some((name, work)) = state.waiting.pop_front() {
                drop(state);
                let found = outcome(work);
                state = self.lock();
                if !state.finish(name, found) {
                    break;
                }
                continue;
            }
            state.idle += 1;
            let nothing = |state: &mut State| state.waiting.is_empty() && state.waker.is_some();
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
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Hands an answer to the loop; false if it takes none any more.
    fn finish(&mut self, name: Arc<str>, found: Found) -> bool {
        let Some(waker) = self.waker.clone() else { return false };
        self.done.push_back((name, found));
        // Fails only where the loop's poll is gone, and with it all that would ask.
        let _ = waker.wake();
        true
    }
}

/// Does the work. A panic in it is a failure like any other, and costs no thread.
fn outcome(work: Work) -> Found {
    match panic::catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(addresses)) => Ok(addresses.into()),
        Ok(Err(error)) => Err(LookupError { os: error.raw_os_error(), text: error.to_string().into() }),
        Err(_) => Err(LookupError { os: None, text: "the lookup failed; please report this".into() }),
    }
}

impl fmt::Debug for State {
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
mod tests;
