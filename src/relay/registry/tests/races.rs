use std::sync::Barrier;
use std::thread;
use std::time::Instant;

use super::*;
use crate::io::event_loop::{EventLoop, Source};

/// What each of these threads gets, which all begin at once.
fn at_once<T: Send>(count: usize, run: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let barrier = Barrier::new(count);
    thread::scope(|scope| {
        let start = |index| {
            let (barrier, run) = (&barrier, &run);
            scope.spawn(move || {
                barrier.wait();
                run(index)
            })
        };
        let threads: Vec<_> = (0..count).map(start).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    })
}

#[test]
fn of_many_keys_for_one_token_one_wins() {
    let bench = Bench::new();
    for round in 0..20 {
        bench.token(token(round, &format!("pump-{round}")));
        let decisions = at_once(8, |index| bench.join(u32::from(round) * 8 + index as u32, round));
        let winners: Vec<_> = decisions.iter().filter(|decision| name_of(decision).is_some()).collect();
        assert_eq!(winners.len(), 1, "{decisions:?}");
        let refused = decisions
            .iter()
            .filter(|decision| matches!(decision, Decision::Refused(Refusal::Token(TokenFault::Used(_)))));
        assert_eq!(refused.count(), 7);
    }
}

#[test]
fn of_many_tokens_for_one_name_one_wins_and_the_others_stay_good() {
    let bench = Bench::new();
    for id in 0..8 {
        bench.token(token(id, "pump-1"));
    }
    let decisions = at_once(8, |index| bench.join(index as u32, index as u8));
    assert_eq!(decisions.iter().filter(|decision| name_of(decision).is_some()).count(), 1);
    let taken = Decision::Refused(Refusal::NameTaken(device("pump-1")));
    assert_eq!(decisions.iter().filter(|decision| **decision == taken).count(), 7);
    assert_eq!((bench.contents(), bench.open_tokens().len()), (vec!["pump-1 active [] 1".into()], 7));
}

#[test]
fn one_key_that_comes_many_times_at_once_uses_one_token_once() {
    let bench = Bench::new();
    bench.token(NewToken { uses: 8, ..token(1, "line7-*") });
    let decisions = at_once(8, |_| bench.join(1, 1));
    let joined = |decision: &&Decision| matches!(decision, Decision::Admitted { joined: true, .. });
    assert_eq!(decisions.iter().filter(joined).count(), 1);
    assert!(decisions.iter().all(|decision| name_of(decision) == name_of(&decisions[0])), "{decisions:?}");
    assert_eq!(bench.open_tokens()[0].used, 1);
}

#[test]
fn an_answer_is_in_the_snapshot_already() {
    let bench = Bench::new();
    at_once(8, |index| {
        let name = format!("pump-{index}");
        let principal = bench.add(&name, index as u32).expect("added");
        assert_eq!(bench.registry().snapshot().by_name(&device(&name)), Some(&principal));
        bench.revoke(&name).expect("revoked");
        assert!(matches!(bench.come(index as u32), Decision::Refused(Refusal::Revoked(_))));
    });
}

#[test]
fn an_answer_can_wake_a_loop_which_waits_for_no_disk() {
    let bench = Bench::new();
    let mut event_loop = EventLoop::new().expect("poll");
    let (waker, (sender, answers)) = (event_loop.waker(), mpsc::channel());
    let answer = move |result: Result<Arc<Principal>, _>| {
        sender.send(result.expect("added").name.clone()).expect("somebody waits");
        waker.wake().expect("woken");
    };
    bench.registry().add(newcomer("pump-1", 1), NOW, Box::new(answer));
    let deadline = Instant::now() + DEADLINE;
    let name = loop {
        event_loop.wait(Some(deadline)).expect("wait");
        assert_eq!(event_loop.next_ready().map(|event| event.source), Some(Source::Waker));
        if let Ok(name) = answers.try_recv() {
            break name;
        }
    };
    assert_eq!(name, device("pump-1"));
}

#[test]
fn more_than_the_queue_holds_is_refused_at_once_and_what_waits_is_done_to_the_end() {
    let directory = tempfile::tempdir().expect("a directory");
    let state = directory.path().join("state");
    let registry = SqliteRegistry::open_with(&state, 2).expect("a registry");
    let (hold, held) = mpsc::channel::<()>();
    let (begun, has_begun) = mpsc::channel();
    let (sender, answers) = mpsc::channel();
    // The registry's thread is held up in the first answer.
    let first = move |_| {
        begun.send(()).expect("somebody waits");
        held.recv().expect("let go");
    };
    registry.add(newcomer("pump-0", 0), NOW, Box::new(first));
    has_begun.recv_timeout(DEADLINE).expect("begun");
    for key in 1..=3 {
        let sender = sender.clone();
        let answer = move |result: Result<_, RegistryError>| {
            sender.send((key, result.map(drop).map_err(|error| error.to_string()))).expect("somebody waits");
        };
        registry.add(newcomer(&format!("pump-{key}"), key), NOW, Box::new(answer));
    }
    let refused = answers.try_recv().expect("refused already");
    assert_eq!(refused, (3, Err("the registry has too much to do; try again".into())));
    hold.send(()).expect("held");
    drop(registry);
    assert_eq!(Vec::from_iter(answers.try_iter()), [(1, Ok(())), (2, Ok(()))]);
    let names = SqliteRegistry::open(&state).expect("free again").list().len();
    assert_eq!(names, 3);
}
