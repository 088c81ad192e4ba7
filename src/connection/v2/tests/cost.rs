//! What it costs to send a frame, be there one stream that has something to say or many. How much that is in instructions
//! tells `make bench-streams`.

#![allow(clippy::print_stdout, reason = "its output is for a terminal")]

use std::collections::VecDeque;
use std::process::Command;

use super::*;

/// Streams that have something to say at any time.
const BUSY: [usize; 3] = [1, 16, 256];
/// Those that say nothing beside.
const IDLE: usize = 200;
/// What bulk brings in one read: as much as it may.
const BULK: usize = usize::MAX;
/// Another interactive message, whenever the last has left: many such streams fill the line.
const MESSAGE: usize = 400;

/// A line of 1 Mbit/s, in one direction and without a queue of its own, since a sender that keeps to its rate needs none.
const A_BYTE: Duration = Duration::from_micros(8);
const WAY: Duration = Duration::from_millis(20);
/// What the kernel takes that is not on its way.
const KERNEL: Duration = Duration::from_millis(100);
const TICK: Duration = Duration::from_millis(1);

/// What a sender has done.
#[derive(Debug, Default)]
struct Work {
    frames: usize,
    /// Streams that it has looked at.
    visits: usize,
}

/// A relay that sends, and a device whose sockets take everything.
struct Bench {
    pair: Pair,
    message: usize,
    /// Streams whose sockets are read next.
    ready: VecDeque<StreamKey>,
    idle: Vec<StreamKey>,
    /// What is on the line, and when it is there.
    there: VecDeque<(Instant, Vec<u8>)>,
    back: VecDeque<(Instant, Vec<u8>)>,
    free_at: Instant,
    work: Work,
}

impl Bench {
    fn new(busy: usize, idle: usize, message: usize) -> Self {
        let streams = (busy + idle) as u32;
        let mut pair = Pair::with_limits(Limits { streams, budget: 64 << 20, ..limits() });
        let ready = (0..busy).map(|_| pair.open().relay).collect();
        let idle = (0..idle).map(|_| pair.open().relay).collect();
        let (there, back, free_at) = (VecDeque::new(), VecDeque::new(), pair.now);
        Self { pair, message, ready, idle, there, back, free_at, work: Work::default() }
    }

    fn pass(&mut self, ticks: u32) -> Work {
        self.work = Work::default();
        for _ in 0..ticks {
            self.pair.pass(TICK);
            let now = self.pair.now;
            for (line, end) in [(&mut self.there, &mut self.pair.device), (&mut self.back, &mut self.pair.relay)] {
                while let Some((at, _)) = line.front()
                    && *at <= now
                    && let Some((_, bytes)) = line.pop_front()
                {
                    let mut input = &bytes[..];
                    while let Some(Delivery { stream, bytes }) = end.receive(now, &mut input).expect("no violation") {
                        end.delivered(now, stream, bytes, bytes.len());
                    }
                }
            }
            let answers = take_all(&mut self.pair.device, now);
            self.back.push_back((now + WAY, answers));
            self.turn(now);
        }
        std::mem::take(&mut self.work)
    }

    /// As a session's: some reads, one write, until there is nothing to do.
    fn turn(&mut self, now: Instant) {
        while self.free_at <= now + KERNEL {
            while let Some(key) = self.pair.relay.poll_unblocked() {
                assert!(!self.idle.contains(&key), "it has nothing to say");
                self.ready.push_back(key);
            }
            for _ in 0..self.ready.len() {
                let Some(key) = self.ready.pop_front() else { break };
                self.work.visits += 1;
                let count = match self.pair.relay.reserve(key, false) {
                    Room::Free([room, ..]) => room.len().min(self.message),
                    Room::Paced | Room::Blocked => continue,
                    Room::Full => {
                        self.ready.push_front(key);
                        break;
                    }
                    Room::Unwanted => panic!("it is open"),
                };
                self.pair.relay.commit(now, key, count);
                self.work.frames += 1;
                self.ready.push_back(key);
            }
            let bytes = self.pair.relay.unsent().to_vec();
            if bytes.is_empty() {
                return;
            }
            self.pair.relay.advance_link(now, bytes.len());
            self.free_at = self.free_at.max(now) + bytes.len() as u32 * A_BYTE;
            self.there.push_back((self.free_at + WAY, bytes));
        }
    }
}

/// The work of some seconds, once the line is full.
fn work(busy: usize, idle: usize, message: usize, ticks: u32) -> Work {
    let mut bench = Bench::new(busy, idle, message);
    bench.pass(3000);
    bench.pass(ticks)
}

#[test]
fn a_frame_costs_a_few_visits_however_many_streams_wait_and_one_that_says_nothing_costs_none() {
    for (message, most) in [(BULK, 4.0), (MESSAGE, 10.0)] {
        for (busy, idle) in [(1, IDLE), (16, IDLE), (256, 0)] {
            let work = work(busy, idle, message, 4000);
            let visits = work.visits as f64 / work.frames as f64;
            assert!(work.frames > 300, "the line is not full: {work:?}");
            assert!(visits <= most, "{visits} visits for a frame of {message} bytes, where {busy} streams are busy");
        }
    }
}

/// What the next test runs under a simulator of the processor.
const RUN: &str = "connection::v2::tests::cost::a_run_that_is_counted";

#[test]
#[ignore = "a part of make bench-streams"]
fn a_run_that_is_counted() {
    let number = |name| std::env::var(name).expect(name).parse().expect(name);
    let work = work(number("BUSY"), IDLE, number("MESSAGE"), number("TICKS") as u32);
    println!("frames {}", work.frames);
}

/// The instructions of one frame, of both ends and of the bench itself.
fn instructions(busy: usize, message: usize) -> f64 {
    let [short, long] = [1000, 9000].map(|ticks: u32| {
        let mut command = Command::new("valgrind");
        command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--log-fd=1"]);
        command.arg(std::env::current_exe().expect("a path")).args(["--ignored", "--exact", RUN, "--nocapture"]);
        command.envs([("BUSY", busy.to_string()), ("MESSAGE", message.to_string()), ("TICKS", ticks.to_string())]);
        let output = command.output().expect("valgrind");
        let said = String::from_utf8_lossy(&output.stdout);
        let value = |name: &str| -> f64 {
            let found = said.lines().find_map(|line| line.split_once(name)?.1.trim().parse().ok());
            found.unwrap_or_else(|| panic!("no {name} in {said}"))
        };
        [value("frames"), value("Collected :")]
    });
    (long[1] - short[1]) / (long[0] - short[0])
}

#[test]
#[ignore = "a measurement: make bench-streams"]
fn a_frame_costs_as_many_instructions_beside_255_busy_streams_as_alone() {
    println!("{:>14}  {:>12}  {:>12}", "streams", "bulk", "messages");
    let all = BUSY.map(|busy| {
        let each = [BULK, MESSAGE].map(|message| instructions(busy, message));
        println!("{busy:>14}  {:>12.0}  {:>12.0}", each[0], each[1]);
        each
    });
    for kind in [0, 1] {
        let ratio = all[2][kind] / all[0][kind];
        assert!(ratio < 2.0, "{ratio} times as many");
    }
}
