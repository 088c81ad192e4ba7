//! Connections to services that are being made: a few at a time for each service, and the others in their order.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use super::dial::{Client, Dial, Progress};
use crate::connection::{CONNECT_TIMEOUT, StreamKey, Timers};
use crate::io::event_loop::{EventLoop, Source};

/// Connections that are made to one service of a link at a time: a relay must not make a device attack its network.
const MOST: usize = 32;

/// The streams of a link whose services are not connected yet.
#[derive(Debug)]
pub(super) struct Dials {
    streams: BTreeMap<StreamKey, (Arc<str>, Pending)>,
    services: BTreeMap<Arc<str>, Service>,
    /// Streams whose turn has come.
    ready: VecDeque<StreamKey>,
    /// When the dials are due without an event.
    timers: Timers<StreamKey>,
}

/// How far a stream is.
#[derive(Debug)]
pub(super) enum Pending {
    /// As many as may be are being made to its service.
    Waiting(Wanted),
    /// Its turn has come.
    Ready(Wanted),
    Dialling(Box<Dial>),
}

/// The connection that a stream wants.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    /// Where to.
    pub(super) addresses: Vec<SocketAddr>,
    /// On whose behalf, if the service is told that.
    pub(super) proxied: Option<Client>,
}

/// The streams that connect to a service.
#[derive(Debug, Default)]
struct Service {
    /// Streams that are ready or dialling.
    in_progress: usize,
    waiting: VecDeque<StreamKey>,
}

impl Dials {
    pub(super) fn new() -> Self {
        let (streams, services, ready) = (BTreeMap::new(), BTreeMap::new(), VecDeque::new());
        Self { streams, services, ready, timers: Timers::new() }
    }

    /// The stream is to be connected to one of the addresses of its service.
    pub(super) fn add(&mut self, key: StreamKey, name: Arc<str>, wanted: Wanted) {
        let service = self.services.entry(Arc::clone(&name)).or_default();
        let pending = if service.in_progress < MOST {
            service.in_progress += 1;
            self.ready.push_back(key);
            Pending::Ready(wanted)
        } else {
            service.waiting.push_back(key);
            Pending::Waiting(wanted)
        };
        self.streams.insert(key, (name, pending));
    }

    /// Begins with the next stream whose turn has come; its dial is to be polled.
    pub(super) fn start_next(&mut self, now: Instant, link: usize) -> Option<StreamKey> {
        loop {
            let key = self.ready.pop_front()?;
            let Some((_, pending)) = self.streams.get_mut(&key) else { continue };
            if let Pending::Ready(Wanted { addresses, proxied }) = pending {
                // The core keeps the deadline of the whole.
                let dial = Dial::new(Source::Stream(link as u32, key), addresses, now, now + CONNECT_TIMEOUT);
                *pending = Pending::Dialling(Box::new(dial.on_behalf_of(*proxied)));
                return Some(key);
            }
        }
    }

    /// Whether the stream's connection is being made.
    pub(super) fn is_dialling(&self, key: StreamKey) -> bool {
        matches!(self.streams.get(&key), Some((_, Pending::Dialling(_))))
    }

    /// Goes on with the stream's connection, which is forgotten when it is made or has failed.
    pub(super) fn poll(&mut self, now: Instant, event_loop: &mut EventLoop, key: StreamKey) -> Progress {
        let Some((_, Pending::Dialling(dial))) = self.streams.get_mut(&key) else { return Progress::Pending };
        let progress = dial.poll(now, event_loop);
        if let Progress::Pending = progress {
            match dial.poll_timeout() {
                Some(at) => self.timers.set(key, at),
                None => self.timers.cancel(key),
            }
        } else {
            self.remove(key);
        }
        progress
    }

    /// The stream is connected, or given up: how far it was. The next one that waits for its service has its turn.
    pub(super) fn remove(&mut self, key: StreamKey) -> Option<Pending> {
        let (name, pending) = self.streams.remove(&key)?;
        self.timers.cancel(key);
        let service = self.services.get_mut(&name)?;
        if let Pending::Waiting(_) = pending {
            service.waiting.retain(|&waiting| waiting != key);
            return Some(pending);
        }
        service.in_progress -= 1;
        if let Some(next) = service.waiting.pop_front() {
            service.in_progress += 1;
            if let Some((_, pending)) = self.streams.get_mut(&next)
                && let Pending::Waiting(wanted) = pending
            {
                *pending = Pending::Ready(std::mem::take(wanted));
                self.ready.push_back(next);
            }
        } else if service.in_progress == 0 {
            self.services.remove(&name);
        }
        Some(pending)
    }

    /// Gives all of them up.
    pub(super) fn cancel(&mut self, event_loop: &mut EventLoop) {
        for (_, pending) in std::mem::replace(self, Self::new()).streams.into_values() {
            if let Pending::Dialling(dial) = pending {
                dial.cancel(event_loop);
            }
        }
    }

    /// A stream whose dial is due without an event, and is to be [polled](Self::poll).
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<StreamKey> {
        self.timers.pop_due(now)
    }

    /// When the first is due.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use socket2::{Domain, Socket, Type};

    use super::*;

    fn key(index: usize) -> StreamKey {
        StreamKey { index: index as u32, generation: 0 }
    }

    fn wanted(addresses: Vec<SocketAddr>) -> Wanted {
        Wanted { addresses, proxied: None }
    }

    fn add(dials: &mut Dials, service: &str, keys: std::ops::Range<usize>) {
        for index in keys {
            dials.add(key(index), service.into(), wanted(vec![SocketAddr::from(([127, 0, 0, 1], 9))]));
        }
    }

    fn started(dials: &mut Dials) -> Vec<usize> {
        let now = Instant::now();
        std::iter::from_fn(|| dials.start_next(now, 0)).map(|key| key.index as usize).collect()
    }

    #[test]
    fn a_service_is_dialled_for_a_few_at_a_time_in_their_order_and_another_one_waits_for_none() {
        let mut dials = Dials::new();
        add(&mut dials, "deaf:1", 0..100);
        assert_eq!(started(&mut dials), (0..MOST).collect::<Vec<_>>());
        add(&mut dials, "good:2", 100..101);
        assert_eq!(started(&mut dials), [100]);
        assert!(matches!(dials.remove(key(50)), Some(Pending::Waiting(_))));
        assert_eq!(started(&mut dials), [0; 0], "it had no place to give");
        for index in [3, 7] {
            assert!(matches!(dials.remove(key(index)), Some(Pending::Dialling(_))));
        }
        assert_eq!(started(&mut dials), [MOST, MOST + 1]);
    }

    #[test]
    fn a_connection_that_is_not_answered_is_due_when_its_next_address_is_and_no_more_once_it_is_given_up() {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("socket");
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("bind");
        socket.listen(0).expect("listen");
        let silent = socket.local_addr().expect("address").as_socket().expect("of TCP");
        let _fills_the_queue = TcpStream::connect(silent).expect("connect");
        let mut event_loop = EventLoop::new().expect("poll");
        let mut dials = Dials::new();
        let now = Instant::now();
        dials.add(key(0), "silent:1".into(), wanted(vec![silent; 2]));
        let started = dials.start_next(now, 0).expect("its turn");
        assert!(matches!(dials.poll(now, &mut event_loop, started), Progress::Pending));
        let next = dials.poll_timeout().expect("the next address");
        assert!(next > now && next < now + CONNECT_TIMEOUT && dials.pop_due(now).is_none());
        assert_eq!((dials.pop_due(next), dials.pop_due(next)), (Some(started), None));
        assert!(matches!(dials.poll(next, &mut event_loop, started), Progress::Pending));
        assert_eq!(dials.poll_timeout(), Some(now + CONNECT_TIMEOUT));
        dials.remove(started);
        assert_eq!(dials.poll_timeout(), None);
    }

    #[test]
    fn streams_that_come_and_go_leave_nothing_behind() {
        let mut dials = Dials::new();
        for round in 0..50 {
            add(&mut dials, "deaf:1", round * 100..(round + 1) * 100);
            if round % 2 == 0 {
                started(&mut dials);
            }
            for index in round * 100..(round + 1) * 100 {
                dials.remove(key(index));
            }
            assert_eq!(started(&mut dials), [0; 0]);
        }
        add(&mut dials, "deaf:1", 0..100);
        started(&mut dials);
        dials.cancel(&mut EventLoop::new().expect("poll"));
        assert!(dials.streams.is_empty() && dials.services.is_empty() && dials.ready.is_empty());
        assert!(dials.poll_timeout().is_none());
    }
}
