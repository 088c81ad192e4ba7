//! What other threads ask of a loop.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use mio::Waker;

/// What a loop can be asked for. To ask for it again before it is done changes nothing, so no more than this can wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    /// To end.
    Stop,
    /// To end without the time that open clients have.
    #[cfg_attr(not(any(test, feature = "relay")), expect(dead_code, reason = "a device gives them none"))]
    StopNow,
    /// To look at what else is asked, in the driver's own queue.
    #[cfg_attr(not(feature = "relay"), expect(dead_code, reason = "a device has none"))]
    Task,
    /// To make a new link.
    Reconnect,
    /// To look at how long it is to be held back.
    Hold,
    /// To look at what the registry has answered.
    #[cfg(feature = "relay")]
    Answers,
    /// To look at the registry, which has changed.
    #[cfg(feature = "relay")]
    Registry,
    /// To panic.
    #[cfg(any(test, feature = "fault-injection"))]
    Panic,
}

/// The requests that wait, and the waker of the loop. Any thread may [`post`](Self::post); the loop looks at each wake, and
/// waits for no lock.
#[derive(Clone, Debug)]
pub(crate) struct Mailbox {
    /// A bit for each.
    waiting: Arc<AtomicU32>,
    waker: Arc<Waker>,
}

impl Mailbox {
    pub(crate) fn new(waker: Arc<Waker>) -> Self {
        Self { waiting: Arc::default(), waker }
    }

    /// Asks for it; true if it waited already.
    pub(crate) fn post(&self, request: Request) -> bool {
        let before = self.waiting.fetch_or(bit(request), Relaxed);
        // A waker fails only where its loop's poll is gone, and then there is nothing to ask.
        let _ = self.waker.wake();
        before & bit(request) != 0
    }

    /// Whether it waits. It stays.
    pub(crate) fn has(&self, request: Request) -> bool {
        self.waiting.load(Relaxed) & bit(request) != 0
    }

    /// Whether it waited; it does not any more.
    pub(crate) fn take(&self, request: Request) -> bool {
        self.has(request) && self.waiting.fetch_and(!bit(request), Relaxed) & bit(request) != 0
    }
}

fn bit(request: Request) -> u32 {
    1 << request as u32
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::{Duration, Instant};

    use super::*;
    use crate::io::event_loop::{EventLoop, Source};

    #[test]
    fn a_request_wakes_the_loop_and_waits_once_however_often_it_was_made() {
        let mut event_loop = EventLoop::new().expect("poll");
        let mailbox = Mailbox::new(event_loop.waker());
        let other = mailbox.clone();
        let posted = thread::spawn(move || [other.post(Request::Reconnect), other.post(Request::Reconnect)]);
        let deadline = Instant::now() + Duration::from_secs(30);
        while !mailbox.has(Request::Reconnect) {
            event_loop.wait(Some(deadline)).expect("wait");
            assert_eq!(event_loop.next_ready().map(|event| event.source), Some(Source::Waker));
        }
        assert_eq!(posted.join().expect("posted"), [false, true]);
        assert!(!mailbox.has(Request::Stop) && !mailbox.take(Request::Stop));
        assert_eq!([mailbox.take(Request::Reconnect), mailbox.take(Request::Reconnect)], [true, false]);
    }

    #[test]
    fn what_was_taken_leaves_the_others() {
        let event_loop = EventLoop::new().expect("poll");
        let mailbox = Mailbox::new(event_loop.waker());
        for request in [Request::Stop, Request::StopNow, Request::Hold] {
            mailbox.post(request);
        }
        assert!(mailbox.take(Request::StopNow));
        assert!(mailbox.has(Request::Stop) && mailbox.has(Request::Hold) && !mailbox.has(Request::StopNow));
    }
}
