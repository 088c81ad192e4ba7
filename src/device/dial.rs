//! One connection to be made: the addresses of a name race (RFC 8305), within one deadline.
//!
//! The families take turns, a further address is tried 250 ms after the last or as soon as that has failed, and the
//! first connection that is made is the one. So an address that answers nothing costs 250 ms.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mio::Token;
use mio::net::TcpStream;

use crate::io::event_loop::{EventLoop, Registry as _, Source};
use crate::io::net;
use crate::protocol::proxy::HeaderWriter;

/// The time from one attempt to the next: RFC 8305's connection attempt delay.
const DELAY: Duration = Duration::from_millis(250);
/// Attempts at once. Where a name has more addresses, each has its share of the time.
const MAX_ATTEMPTS: usize = 3;

/// A connection on its way.
#[derive(Debug)]
pub(super) struct Dial {
    source: Source,
    /// Whose connection it is passed on, of one that begins with a header which says so.
    proxied: Option<Client>,
    /// The connection that is made, and not all of whose header is written.
    announcing: Option<(Attempt, HeaderWriter)>,
    addresses: VecDeque<SocketAddr>,
    /// Those that run, the oldest first.
    attempts: VecDeque<Attempt>,
    /// When the next address is tried, beside those that run.
    next_at: Option<Instant>,
    /// How long an attempt may keep its place while others wait for one.
    share: Duration,
    deadline: Instant,
    error: Option<io::Error>,
}

#[derive(Debug)]
struct Attempt {
    io: TcpStream,
    token: Token,
    address: SocketAddr,
    began: Instant,
}

/// The address of a client, where that is known.
pub(super) type Client = Option<SocketAddr>;

/// How far a [`Dial`] is.
#[derive(Debug)]
pub(super) enum Progress {
    Pending,
    Connected {
        io: TcpStream,
        token: Token,
        address: SocketAddr,
    },
    /// No address answered; the last one's error.
    Failed(io::Error),
}

impl Dial {
    /// Will try `addresses`, the resolver's first choice first; nothing happens before [`poll`](Self::poll).
    pub(super) fn new(source: Source, addresses: &[SocketAddr], now: Instant, deadline: Instant) -> Self {
        let rounds = addresses.len().div_ceil(MAX_ATTEMPTS).max(1) as u32;
        Self {
            source,
            proxied: None,
            announcing: None,
            addresses: interleaved(addresses),
            attempts: VecDeque::new(),
            next_at: Some(now),
            share: deadline.saturating_duration_since(now) / rounds,
            deadline,
            error: None,
        }
    }

    /// The connection begins with a header of the PROXY protocol, and is not there before that is written: so nothing can
    /// come before it, and whatever ends the connection meanwhile ends the dial.
    pub(super) fn on_behalf_of(mut self, proxied: Option<Client>) -> Self {
        self.proxied = proxied;
        self
    }

    /// Goes on as far as it can without waiting: at the start, at an event, and when its time has come.
    pub(super) fn poll(&mut self, now: Instant, event_loop: &mut EventLoop) -> Progress {
        let (mut attempt, mut header) = match (self.announcing.take(), self.proxied) {
            (Some(announcing), _) => announcing,
            (None, None) => return self.race(now, event_loop),
            (None, Some(client)) => match self.race(now, event_loop) {
                Progress::Connected { io, token, address } => {
                    (Attempt { io, token, address, began: now }, HeaderWriter::new(client, address))
                }
                progress @ (Progress::Pending | Progress::Failed(_)) => return progress,
            },
        };
        match header.write_to(&mut attempt.io) {
            Ok(true) => Progress::Connected { io: attempt.io, token: attempt.token, address: attempt.address },
            Ok(false) if now < self.deadline => {
                self.announcing = Some((attempt, header));
                Progress::Pending
            }
            result => {
                give_up(event_loop, &attempt.io, attempt.token);
                Progress::Failed(result.err().unwrap_or_else(|| io::ErrorKind::TimedOut.into()))
            }
        }
    }

    /// Until the first connection is made.
    fn race(&mut self, now: Instant, event_loop: &mut EventLoop) -> Progress {
        loop {
            if let Some(Attempt { io, token, address, .. }) = self.take_connected(now, event_loop) {
                self.give_up_all(event_loop);
                return Progress::Connected { io, token, address };
            }
            if now >= self.deadline {
                self.give_up_all(event_loop);
                return Progress::Failed(io::ErrorKind::TimedOut.into());
            }
            if !self.has_place(now) {
                break;
            }
            if self.attempts.len() == MAX_ATTEMPTS
                && let Some(oldest) = self.attempts.pop_front()
            {
                give_up(event_loop, &oldest.io, oldest.token);
                self.note(io::ErrorKind::TimedOut.into());
            }
            let Some(address) = self.addresses.pop_front() else { break };
            match begin(now, event_loop, self.source, address) {
                Ok(attempt) => {
                    self.attempts.push_back(attempt);
                    self.next_at = Some(now + DELAY);
                }
                Err(error) => self.note(error),
            }
        }
        if self.attempts.is_empty() {
            return Progress::Failed(self.error.take().unwrap_or_else(|| io::ErrorKind::TimedOut.into()));
        }
        Progress::Pending
    }

    /// When [`poll`](Self::poll) is due without an event.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        if self.announcing.is_some() {
            return Some(self.deadline);
        }
        if self.attempts.is_empty() {
            // It has not begun.
            return self.next_at;
        }
        Some(self.place_at().map_or(self.deadline, |at| at.min(self.deadline)))
    }

    /// Gives up.
    pub(super) fn cancel(mut self, event_loop: &mut EventLoop) {
        self.give_up_all(event_loop);
    }

    /// The attempt that has succeeded. Those that have failed make room for the next address at once.
    fn take_connected(&mut self, now: Instant, event_loop: &mut EventLoop) -> Option<Attempt> {
        for _ in 0..self.attempts.len() {
            let attempt = self.attempts.pop_front()?;
            match net::connected(&attempt.io) {
                None => self.attempts.push_back(attempt),
                Some(Ok(())) => return Some(attempt),
                Some(Err(error)) => {
                    give_up(event_loop, &attempt.io, attempt.token);
                    self.note(error);
                    self.next_at = Some(now);
                }
            }
        }
        None
    }

    /// Whether the next address, if there is one, is to be tried now.
    fn has_place(&self, now: Instant) -> bool {
        let free = self.attempts.is_empty() || self.place_at().is_some_and(|at| at <= now);
        free && !self.addresses.is_empty()
    }

    /// When the next address, if there is one, is tried beside those that run, or in place of the oldest.
    fn place_at(&self) -> Option<Instant> {
        let next_at = self.next_at.filter(|_| !self.addresses.is_empty())?;
        let oldest = self.attempts.front().filter(|_| self.attempts.len() == MAX_ATTEMPTS);
        Some(oldest.map_or(next_at, |oldest| next_at.max(oldest.began + self.share)))
    }

    /// Keeps what says most: that there is no way from here to one family says nothing where the other was tried.
    fn note(&mut self, error: io::Error) {
        let no_way = matches!(error.kind(), io::ErrorKind::AddrNotAvailable | io::ErrorKind::NetworkUnreachable);
        if self.error.is_none() || !no_way {
            self.error = Some(error);
        }
    }

    fn give_up_all(&mut self, event_loop: &mut EventLoop) {
        for attempt in self.attempts.drain(..).chain(self.announcing.take().map(|(attempt, _)| attempt)) {
            give_up(event_loop, &attempt.io, attempt.token);
        }
    }
}

fn begin(now: Instant, event_loop: &mut EventLoop, source: Source, address: SocketAddr) -> io::Result<Attempt> {
    let mut io = net::connect(address)?;
    match event_loop.register(&mut io, source) {
        Ok(token) => Ok(Attempt { io, token, address, began: now }),
        Err(error) => {
            net::reset(&io);
            Err(error)
        }
    }
}

/// It may be connected by now: with RST its peer takes it for what it is.
pub(super) fn give_up(event_loop: &mut EventLoop, io: &TcpStream, token: Token) {
    event_loop.forget(token);
    net::reset(io);
}

/// The addresses with their families in turn, beginning with the first one's; within a family in their order.
fn interleaved(addresses: &[SocketAddr]) -> VecDeque<SocketAddr> {
    let first = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (one, other): (Vec<_>, Vec<_>) = addresses.iter().partition(|address| address.is_ipv6() == first);
    let mut others = other.into_iter();
    let mut turns = VecDeque::new();
    for address in one {
        turns.push_back(address);
        turns.extend(others.next());
    }
    turns.extend(others);
    turns
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use socket2::{Domain, SockRef, Socket, Type};

    use super::*;

    /// An address at which connections are never answered, since its queue is full and the kernel drops what comes.
    struct Silent {
        address: SocketAddr,
        _sockets: (Socket, std::net::TcpStream),
    }

    fn silent(ip: &str) -> Silent {
        let bound = SocketAddr::new(ip.parse().expect(ip), 0);
        let socket = Socket::new(Domain::for_address(bound), Type::STREAM, None).expect("socket");
        socket.bind(&bound.into()).expect("bind");
        socket.listen(0).expect("listen");
        let address = socket.local_addr().expect("address").as_socket().expect("of TCP");
        let full = std::net::TcpStream::connect(address).expect("the one that fills it");
        Silent { address, _sockets: (socket, full) }
    }

    fn refusing() -> (Socket, SocketAddr) {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("socket");
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("bind");
        let address = socket.local_addr().expect("address").as_socket().expect("of TCP");
        (socket, address)
    }

    struct Bench {
        event_loop: EventLoop,
        dial: Dial,
        start: Instant,
    }

    const TIMEOUT: Duration = Duration::from_secs(10);

    impl Bench {
        fn new(addresses: &[SocketAddr]) -> Self {
            let start = Instant::now();
            let event_loop = EventLoop::new().expect("poll");
            Self { event_loop, dial: Dial::new(Source::Link(0), addresses, start, start + TIMEOUT), start }
        }

        /// So long after the start, by the clock of the dial.
        fn poll_at(&mut self, millis: u64) -> Progress {
            self.dial.poll(self.start + Duration::from_millis(millis), &mut self.event_loop)
        }

        /// Polls at that time until something else than waiting is to be done; connections take their real time.
        fn outcome_at(&mut self, millis: u64) -> Progress {
            let deadline = Instant::now() + Duration::from_secs(15);
            loop {
                match self.poll_at(millis) {
                    Progress::Pending => assert!(Instant::now() < deadline, "{:?}", self.dial),
                    done @ (Progress::Connected { .. } | Progress::Failed(_)) => return done,
                }
                self.event_loop.wait(Some(Instant::now() + Duration::from_millis(1))).expect("poll");
            }
        }

        fn running(&self) -> Vec<SocketAddr> {
            self.dial.attempts.iter().map(|attempt| attempt.address).collect()
        }
    }

    #[track_caller]
    fn expect_connected(progress: Progress, expected: SocketAddr) {
        match progress {
            Progress::Connected { address, .. } => assert_eq!(address, expected),
            other @ (Progress::Pending | Progress::Failed(_)) => panic!("{other:?}"),
        }
    }

    #[track_caller]
    fn expect_failed(progress: Progress, expected: io::ErrorKind) {
        match progress {
            Progress::Failed(error) => assert_eq!(error.kind(), expected, "{error}"),
            other @ (Progress::Pending | Progress::Connected { .. }) => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_first_address_is_due_at_once() {
        let bench = Bench::new(&["127.0.0.1:1".parse().expect("an address")]);
        assert_eq!(bench.dial.poll_timeout(), Some(bench.start));
        assert!(Bench::new(&[]).dial.poll_timeout().is_some(), "and that there is none is seen at once, too");
    }

    #[test]
    fn an_address_that_answers_nothing_costs_250_ms() {
        for ip in ["127.0.0.1", "::1"] {
            let silent = silent(ip);
            let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
            let there = listener.local_addr().expect("address");
            let mut bench = Bench::new(&[silent.address, there]);
            assert!(matches!(bench.poll_at(0), Progress::Pending));
            assert_eq!(bench.dial.poll_timeout(), Some(bench.start + DELAY));
            assert!(matches!(bench.poll_at(249), Progress::Pending));
            assert_eq!(bench.running(), [silent.address]);
            expect_connected(bench.outcome_at(250), there);
        }
    }

    #[test]
    fn a_connection_that_is_given_up_is_reset() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let there = listener.local_addr().expect("address");
        let mut event_loop = EventLoop::new().expect("poll");
        let attempt = begin(Instant::now(), &mut event_loop, Source::Link(0), there).expect("begun");
        // As a forked child would hold it.
        let _copy = SockRef::from(&attempt.io).try_clone().expect("a copy");
        let mut given_up = listener.accept().expect("a connection").0;
        given_up.set_read_timeout(Some(Duration::from_secs(15))).expect("deadline");
        give_up(&mut event_loop, &attempt.io, attempt.token);
        let error = std::io::Read::read(&mut given_up, &mut [0]).expect_err("no end that looks complete");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn an_attempt_that_is_given_up_connects_no_more_though_a_child_has_a_copy_of_its_socket() {
        let silent = silent("127.0.0.1");
        let mut bench = Bench::new(&[silent.address]);
        assert!(matches!(bench.poll_at(0), Progress::Pending));
        let copy = SockRef::from(&bench.dial.attempts[0].io).try_clone().expect("a copy");
        bench.dial.cancel(&mut bench.event_loop);
        let error = copy.take_error().expect("asked").expect("it has ended");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }

    #[test]
    fn an_address_that_refuses_costs_nothing() {
        let (_held, refusing) = refusing();
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let there = listener.local_addr().expect("address");
        expect_connected(Bench::new(&[refusing, there]).outcome_at(0), there);
    }

    #[test]
    fn an_address_that_answers_late_may_still_win() {
        let (late, never) = (silent("127.0.0.1"), silent("127.0.0.1"));
        let mut bench = Bench::new(&[late.address, never.address]);
        bench.poll_at(0);
        bench.poll_at(250);
        assert_eq!(bench.running(), [late.address, never.address]);
        // With the queue emptied, the kernel answers the next SYN, which comes a second after the first.
        drop(late._sockets.0.accept().expect("the one that filled it"));
        expect_connected(bench.outcome_at(300), late.address);
    }

    #[test]
    fn where_all_refuse_it_has_failed_at_once_and_where_none_answers_at_the_deadline() {
        let (_held, refusing) = refusing();
        expect_failed(Bench::new(&[refusing, refusing]).outcome_at(0), io::ErrorKind::ConnectionRefused);
        let silent = silent("127.0.0.1");
        let mut bench = Bench::new(&[silent.address]);
        assert!(matches!(bench.poll_at(0), Progress::Pending));
        assert_eq!(bench.dial.poll_timeout(), Some(bench.start + TIMEOUT));
        assert!(matches!(bench.poll_at(9_999), Progress::Pending));
        expect_failed(bench.poll_at(10_000), io::ErrorKind::TimedOut);
        expect_failed(Bench::new(&[]).poll_at(0), io::ErrorKind::TimedOut);
    }

    #[test]
    fn of_many_addresses_three_are_tried_at_once_and_each_has_its_share() {
        let silent: Vec<_> = (0..9).map(|_| silent("127.0.0.1")).collect();
        let addresses: Vec<_> = silent.iter().map(|silent| silent.address).collect();
        let mut bench = Bench::new(&addresses);
        let mut tried = Vec::new();
        for millis in (0..10_000).step_by(50) {
            assert!(matches!(bench.poll_at(millis), Progress::Pending));
            assert!(bench.running().len() <= MAX_ATTEMPTS);
            for address in bench.running() {
                if !tried.contains(&address) {
                    tried.push(address);
                }
            }
        }
        assert_eq!(tried, addresses);
        expect_failed(bench.poll_at(10_000), io::ErrorKind::TimedOut);
    }

    #[test]
    fn a_family_that_no_way_leads_to_does_not_hide_why_the_other_failed() {
        let mut bench = Bench::new(&[]);
        bench.dial.note(io::ErrorKind::ConnectionRefused.into());
        bench.dial.note(io::ErrorKind::NetworkUnreachable.into());
        expect_failed(bench.poll_at(0), io::ErrorKind::ConnectionRefused);
    }

    #[test]
    fn the_families_take_turns_and_the_resolvers_first_choice_is_first() {
        let addresses = |texts: &[&str]| texts.iter().map(|text| text.parse().expect(text)).collect::<Vec<_>>();
        let given = addresses(&["[::1]:1", "[::2]:1", "[::3]:1", "127.0.0.1:1", "127.0.0.2:1"]);
        assert_eq!(interleaved(&given), addresses(&["[::1]:1", "127.0.0.1:1", "[::2]:1", "127.0.0.2:1", "[::3]:1"]));
        let given = addresses(&["127.0.0.1:1", "[::1]:1", "[::2]:1"]);
        assert_eq!(interleaved(&given), given);
    }
}
