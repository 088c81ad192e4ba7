use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc;

use mio::{Events, Poll, Token};

use super::*;

const DEADLINE: Duration = Duration::from_secs(15);

/// A loop that waits for answers.
struct Loop {
    poll: Poll,
    pool: Pool,
}

type Work = Box<dyn FnOnce() -> io::Result<Vec<SocketAddr>> + Send>;

fn waker(poll: &Poll) -> Arc<Waker> {
    Arc::new(Waker::new(poll.registry(), Token(0)).expect("waker"))
}

fn with_idle(idle: Duration) -> Loop {
    let poll = Poll::new().expect("poll");
    let pool = Pool::with_idle(waker(&poll), idle);
    Loop { poll, pool }
}

fn start() -> Loop {
    with_idle(IDLE)
}

impl Loop {
    /// Sleeps until the waker is used, as the driver does, until that many answers are there.
    fn answers(&mut self, count: usize) -> Vec<(Arc<str>, Found)> {
        let pool = &self.pool;
        let mut answers = collect(&mut self.poll, count, || pool.poll());
        answers.sort_by(|(one, _), (other, _)| one.cmp(other));
        answers
    }

    fn threads(&self) -> usize {
        self.pool.shared.lock().threads
    }

    fn submit(&self, name: &str, work: impl FnOnce() -> io::Result<Vec<SocketAddr>> + Send + 'static) {
        self.pool.submit(name.into(), work);
    }
}

fn collect<T>(poll: &mut Poll, count: usize, mut next: impl FnMut() -> Option<T>) -> Vec<T> {
    let deadline = Instant::now() + DEADLINE;
    let mut answers = Vec::new();
    let mut events = Events::with_capacity(4);
    while answers.len() < count {
        let left = deadline.checked_duration_since(Instant::now()).expect("answers in time");
        poll.poll(&mut events, Some(left)).expect("poll");
        answers.extend(std::iter::from_fn(&mut next));
    }
    answers
}

fn address(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

fn quick() -> io::Result<Vec<SocketAddr>> {
    Ok(vec![address(1)])
}

/// Work that blocks until the sender is used or dropped, and tells when it has begun.
fn blocked(begun: &mpsc::Sender<()>) -> (mpsc::Sender<()>, Work) {
    let (release, gate) = mpsc::channel::<()>();
    let begun = begun.clone();
    let work = move || {
        begun.send(()).ok();
        gate.recv_timeout(DEADLINE).ok();
        Err(io::Error::other("released"))
    };
    (release, Box::new(work))
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what} did not happen in time");
        thread::yield_now();
    }
}

#[test]
fn answers_come_back_with_their_names() {
    let mut owner = start();
    for port in 100..200 {
        owner.submit(&port.to_string(), move || Ok(vec![address(port)]));
    }
    for (port, (name, found)) in (100..200).zip(owner.answers(100)) {
        assert_eq!((&*name, found), (&port.to_string()[..], Ok([address(port)].into())));
    }
    assert!(owner.pool.poll().is_none());
}

#[test]
fn a_blocked_lookup_holds_up_no_other() {
    let mut owner = start();
    let (begun, starts) = mpsc::channel();
    let (_gate, work) = blocked(&begun);
    owner.submit("slow", work);
    starts.recv_timeout(DEADLINE).expect("it begins");
    owner.submit("quick", quick);
    assert_eq!(&*owner.answers(1)[0].0, "quick");
}

#[test]
fn a_thread_without_work_is_used_again_and_ends_after_a_while() {
    let mut owner = start();
    for _ in 0..20 {
        owner.submit("name", quick);
        owner.answers(1);
        eventually("idleness", || owner.pool.shared.lock().idle == 1);
    }
    assert_eq!(owner.threads(), 1);
    let mut owner = with_idle(Duration::from_millis(1));
    owner.submit("name", quick);
    owner.answers(1);
    eventually("the thread's end", || owner.threads() == 0);
    owner.submit("name", quick);
    assert_eq!(owner.answers(1).len(), 1, "a new thread takes over");
}

#[test]
fn a_panic_in_a_lookup_is_a_failure_and_costs_no_thread() {
    let mut owner = start();
    // The panic hook is the host's, and this is no panic that it is to hear of.
    owner.submit("odd", || panic::resume_unwind(Box::new("odd")));
    let (name, found) = owner.answers(1).remove(0);
    assert_eq!((&*name, found.expect_err("it failed").text), ("odd", "the lookup failed; please report this".into()));
    eventually("idleness", || owner.pool.shared.lock().idle == 1);
    owner.submit("name", quick);
    assert!(owner.answers(1)[0].1.is_ok());
    assert_eq!(owner.threads(), 1);
}

#[test]
fn dropping_the_pool_does_not_block_and_drops_its_answers() {
    let owner = start();
    let (begun, starts) = mpsc::channel();
    let ran = Arc::new(AtomicUsize::new(0));
    let (gate, work) = blocked(&begun);
    owner.submit("slow", work);
    starts.recv_timeout(DEADLINE).expect("it begins");
    // As where the system gives no more threads: a job that waits for one that is busy.
    let counted = Arc::clone(&ran);
    let job: Work = Box::new(move || {
        counted.fetch_add(1, SeqCst);
        quick()
    });
    owner.pool.shared.lock().waiting.push_back(("waiting".into(), job));
    let shared = Arc::clone(&owner.pool.shared);
    let waker = shared.lock().waker.clone().expect("waker");
    let began = Instant::now();
    drop(owner);
    assert!(began.elapsed() < Duration::from_secs(2), "no blocked thread was waited for");
    assert_eq!(Arc::strong_count(&waker), 1, "no thread keeps the loop's waker");
    drop(gate);
    eventually("the thread's end", || Arc::strong_count(&shared) == 1);
    assert_eq!(ran.load(SeqCst), 0, "the waiting job was dropped");
    assert!(shared.lock().done.is_empty());
}

#[test]
fn an_idle_thread_ends_when_the_pool_is_dropped() {
    let mut owner = start();
    owner.submit("name", quick);
    owner.answers(1);
    let shared = Arc::clone(&owner.pool.shared);
    let began = Instant::now();
    drop(owner);
    eventually("the thread's end", || Arc::strong_count(&shared) == 1);
    assert!(began.elapsed() < IDLE);
}

/// A resolver to which no server answers about some names.
fn silent_about_the_dead(name: &str) -> io::Result<Vec<SocketAddr>> {
    if name.starts_with("dead") {
        thread::sleep(DEADLINE * 2);
    }
    quick()
}

#[test]
fn clients_of_a_name_without_an_answer_hold_up_no_other_name_and_are_forgotten_when_they_go() {
    let mut poll = Poll::new().expect("poll");
    let mut names = Names::with_lookup(waker(&poll), silent_about_the_dead);
    let now = Instant::now();
    let waiter = |index| (1, StreamKey { index, generation: 0 });
    for index in 0..391 {
        assert_eq!(names.request(now, "dead.example", waiter(index)), None);
    }
    names.request(now, "db.example", waiter(500));
    let answers = collect(&mut poll, 1, || names.poll(now));
    assert_eq!((&*answers[0].0, &answers[0].2), ("db.example", &BTreeSet::from([waiter(500)])));
    assert_eq!(names.pool.shared.lock().threads, 2, "one for each name");
    for index in 0..391 {
        names.withdraw(waiter(index));
    }
    names.request(now, "db.example", waiter(501));
    assert_eq!(collect(&mut poll, 1, || names.poll(now)).len(), 1);
}

#[test]
fn the_relays_name_is_looked_up_beside_a_lookup_that_hangs_and_its_late_failure_counts_for_nothing() {
    let mut poll = Poll::new().expect("poll");
    let mut relay = RelayName::new("relay.example", waker(&poll));
    let (begun, starts) = mpsc::channel();
    let (gate, work) = blocked(&begun);
    relay.request_by(work);
    starts.recv_timeout(DEADLINE).expect("it begins");
    relay.request_by(quick);
    assert_eq!(collect(&mut poll, 1, || relay.poll()), [Ok([address(1)].into())]);
    let (second_gate, work) = blocked(&begun);
    relay.request_by(work);
    starts.recv_timeout(DEADLINE).expect("it begins");
    relay.request_by(|| panic!("two hang already"));
    drop(gate);
    eventually("the first failure", || relay.pool.shared.lock().done.len() == 1);
    assert_eq!(relay.poll(), None, "the second may still succeed");
    drop(second_gate);
    let found = collect(&mut poll, 1, || relay.poll()).remove(0);
    assert_eq!(&*found.expect_err("the last one failed").text, "released");
}

#[cfg(feature = "tls")]
#[test]
fn names_of_relays_that_are_tried_in_turn_are_looked_up_at_once_and_each_is_there_when_it_is_wanted() {
    /// As where the first name server is dead, of a name; another has no address.
    fn slow(name: &str) -> io::Result<Vec<SocketAddr>> {
        if name == "gone.example" {
            return Err(io::Error::other("no such name"));
        }
        thread::sleep(Duration::from_millis(300));
        Ok(vec![address(1)])
    }
    let mut poll = Poll::new().expect("poll");
    let mut names = RelayNames::with_lookup(waker(&poll), slow);
    let now = Instant::now();
    names.prepare(now, ["one.example", "two.example", "gone.example", "one.example"]);
    assert_eq!(names.names.iter().map(|name| name.running).collect::<Vec<_>>(), [1, 1, 1]);
    names.request(now, "one.example");
    let mut answer = |names: &mut RelayNames, host: &str| {
        collect(&mut poll, 1, || names.poll(Some(host))).remove(0).map_err(|error| error.text.to_string())
    };
    assert_eq!(answer(&mut names, "one.example"), Ok([address(1)].into()));
    eventually("all are answered", || names.poll(None).is_none() && names.names.iter().all(|name| name.running == 0));
    // Nothing is looked up any more, but the loop is to look.
    names.request(now, "two.example");
    assert_eq!(answer(&mut names, "two.example"), Ok([address(1)].into()));
    names.request(now, "gone.example");
    assert_eq!(answer(&mut names, "gone.example"), Err("no such name".into()));
    names.request(now, "two.example");
    assert_eq!(names.names[0].running, 1, "it is looked up anew the next time");
    assert_eq!(names.names.len(), 1, "{names:?}");
}

#[cfg(feature = "tls")]
#[test]
fn a_name_that_was_looked_up_before_it_was_wanted_is_looked_up_anew_where_that_was_long_ago() {
    let poll = Poll::new().expect("poll");
    let mut names = RelayNames::with_lookup(waker(&poll), |_| Ok(vec![address(1)]));
    let now = Instant::now();
    names.prepare(now, ["one.example", "two.example"]);
    eventually("both are answered", || names.poll(None).is_none() && names.names.iter().all(|name| name.running == 0));
    // The first relay has had a link for so long.
    names.request(now + PREPARED, "two.example");
    let running: Vec<_> = names.names.iter().map(|name| (&*name.name, name.running, name.found.is_some())).collect();
    assert_eq!(running, [("two.example", 1, false)]);
}

#[test]
fn the_systems_lookup_knows_localhost_and_takes_hostile_text() {
    assert!(lookup("localhost").expect("localhost").iter().all(|address| address.ip().is_loopback()));
    assert!(lookup("").is_err());
    assert!(lookup("a\0b").is_err());
    assert!(lookup(&"x".repeat(65_531)).is_err());
}
