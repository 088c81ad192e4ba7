//! Holds the packets that pass between two interfaces for a while, both ways, and loses some.

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use portable_atomic::AtomicU64;

use super::tun::Tun;

/// Packets that are held in each direction at most, far more than pass in a delay.
const MOST: usize = 10_000;
/// The interfaces have the usual MTU of 1500.
const PACKET: usize = 2048;

/// What happens to packets just now.
#[derive(Debug, Default)]
pub(crate) struct Weather {
    /// Microseconds that each is held.
    pub(crate) delay: AtomicU64,
    /// One of so many is lost; none if this is 0.
    pub(crate) lost_of: AtomicU64,
}

/// The thread that does it; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Delay {
    pub(crate) weather: Arc<Weather>,
    stop: Option<UnixStream>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl Delay {
    pub(crate) fn start(near: Tun, far: Tun, delay: Duration) -> io::Result<Self> {
        let (stop, stopped) = UnixStream::pair()?;
        let weather = Arc::new(Weather { delay: AtomicU64::new(delay.as_micros() as u64), ..Weather::default() });
        let seen = Arc::clone(&weather);
        let thread = thread::Builder::new().name("delay".into()).spawn(move || carry([near, far], &seen, &stopped))?;
        Ok(Self { weather, stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Delay {
    fn drop(&mut self) {
        drop(self.stop.take());
        // Where the thread has failed nothing comes through, and the measurement fails.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Until the other end of `stopped` is closed.
fn carry(ends: [Tun; 2], weather: &Weather, stopped: &UnixStream) -> io::Result<()> {
    // What was read of each end, with the time when it is due at the other.
    let mut held: [VecDeque<(Instant, Vec<u8>)>; 2] = Default::default();
    let mut buffer = [0; PACKET];
    let mut packets = 0_u64;
    loop {
        let now = Instant::now();
        let delay = Duration::from_micros(weather.delay.load(Relaxed));
        for (from, waiting) in held.iter_mut().enumerate() {
            while waiting.front().is_some_and(|&(due, _)| due <= now) {
                // An interface that takes no packet loses it.
                let _ = waiting.pop_front().map(|(_, packet)| ends[1 - from].write(&packet));
            }
            while let Some(size) = ends[from].read(&mut buffer)? {
                packets += 1;
                let is_lost = packets.checked_rem(weather.lost_of.load(Relaxed)) == Some(0);
                if waiting.len() < MOST && !is_lost {
                    // None overtakes another when the line has become shorter.
                    let last = waiting.back().map_or(now, |&(due, _)| due);
                    waiting.push_back((last.max(Instant::now() + delay), buffer[..size].to_vec()));
                }
            }
        }
        let next = held.iter().filter_map(|waiting| waiting.front()).map(|&(due, _)| due).min();
        let wait = next.map(|due| TimeSpec::from_duration(due.saturating_duration_since(Instant::now())));
        let mut readable =
            [ends[0].as_fd(), ends[1].as_fd(), stopped.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        match ppoll(&mut readable, wait, None) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        if readable[2].any().unwrap_or_default() {
            return Ok(());
        }
    }
}
