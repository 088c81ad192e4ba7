//! Keys that somebody types, and how long the echo of each takes.

use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use crate::common::Peer;

/// One key after the other, whether or not the echo of the last is back.
const KEY: Duration = Duration::from_millis(100);
const ECHO_SIZE: usize = 64;
/// An echo may wait behind a full queue, and behind a retransmission there.
const PATIENCE: Duration = Duration::from_secs(60);

/// One echo has come back, so the tunnel is there.
pub(crate) fn begin(keys: &mut Peer) {
    keys.send(&[b'k'; ECHO_SIZE]);
    keys.expect_within(&[b'k'; ECHO_SIZE], PATIENCE);
}

/// How long each echo took, ascending.
#[derive(Debug)]
pub(crate) struct Latencies(Vec<Duration>);

impl Latencies {
    /// Half, or so many percent, were not longer.
    pub(crate) fn at(&self, percent: usize) -> Duration {
        self.0.get(self.0.len() * percent / 100).copied().unwrap_or(Duration::MAX)
    }

    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }
}

/// Types for so long, and waits for the last echo.
pub(crate) fn type_for(time: Duration, keys: &Peer) -> Latencies {
    let (mut writer, mut reader) = (keys.try_clone(), keys.try_clone());
    let (sent, typed) = mpsc::channel();
    let end = Instant::now() + time;
    let mut latencies: Vec<Duration> = thread::scope(|scope| {
        scope.spawn(move || {
            while Instant::now() < end {
                sent.send(Instant::now()).unwrap();
                writer.send(&[b'k'; ECHO_SIZE]);
                thread::sleep(KEY);
            }
        });
        let echoes = typed.into_iter().map(|sent| {
            reader.expect_within(&[b'k'; ECHO_SIZE], PATIENCE);
            sent.elapsed()
        });
        echoes.collect()
    });
    latencies.sort_unstable();
    Latencies(latencies)
}
