//! Sockets that were ended with FIN and wait for their peer's, so that bytes on their way are not cut by a RST.
//!
//! Closing a socket with unread bytes makes the kernel send RST, and a RST destroys what the peer has not read
//! yet. So what the peer still sends is read and dropped, for a short while. What comes after that the kernel
//! itself answers with RST; we never do: while our last bytes are on their way it would cut them, and once they are
//! there it would be too late.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::time::{Duration, Instant};

use mio::Token;

use crate::io::event_loop::{Registry, Source};
use crate::io::socket::Socket;

/// How long the peer has to finish.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Sockets that wait at once; past it the oldest is closed, of the owner that has the most.
const MOST: usize = 256;
/// Reads for one event, so that no peer keeps the loop busy.
const READS: usize = 4;

/// The waiting sockets of one loop.
#[derive(Debug)]
pub struct ClosingSockets<S> {
    sockets: Vec<Option<Closing<S>>>,
    free: Vec<usize>,
    /// Their places, in the order of their deadlines.
    order: BTreeSet<(Instant, usize)>,
    /// The same, by their owners.
    by_owner: BTreeMap<usize, BTreeSet<(Instant, usize)>>,
}

#[derive(Debug)]
struct Closing<S> {
    tcp: S,
    token: Token,
    owner: usize,
    until: Instant,
}

impl<S> Default for ClosingSockets<S> {
    fn default() -> Self {
        Self { sockets: Vec::new(), free: Vec::new(), order: BTreeSet::new(), by_owner: BTreeMap::new() }
    }
}

impl<S: Socket> ClosingSockets<S> {
    /// Ends the socket with FIN and keeps it until its peer has done the same. What one owner's peers do costs no other
    /// owner the last bytes of its own.
    pub(crate) fn add(
        &mut self,
        now: Instant,
        event_loop: &mut impl Registry<Socket = S>,
        owner: usize,
        tcp: S,
        token: Token,
    ) {
        if tcp.shutdown_write().is_err() {
            event_loop.forget(token);
            return;
        }
        if self.len() == MOST {
            self.close_one(event_loop);
        }
        let place = self.free.pop().unwrap_or(self.sockets.len());
        if place == self.sockets.len() {
            self.sockets.push(None);
        }
        event_loop.rename(token, Source::Closing(place));
        let until = now + TIMEOUT;
        self.sockets[place] = Some(Closing { tcp, token, owner, until });
        self.order.insert((until, place));
        self.by_owner.entry(owner).or_default().insert((until, place));
        // The event for readable bytes may have come before.
        self.handle_event(event_loop, place);
    }

    /// Makes room for one more.
    fn close_one(&mut self, event_loop: &mut impl Registry<Socket = S>) {
        let most = self.by_owner.values().max_by_key(|sockets| sockets.len());
        if let Some(&(_, oldest)) = most.and_then(BTreeSet::first) {
            self.close(event_loop, oldest);
        }
    }

    /// The socket at `place` is readable, or at its end.
    pub fn handle_event(&mut self, event_loop: &mut impl Registry<Socket = S>, place: usize) {
        let mut buffer = [0; 16 * 1024];
        for _ in 0..READS {
            let Some(Some(socket)) = self.sockets.get_mut(place) else { return };
            match socket.tcp.read(&mut buffer) {
                Ok(0) => return self.close(event_loop, place),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return self.close(event_loop, place),
            }
        }
        // There may be more, and no edge to tell of it.
        if let Some(Some(socket)) = self.sockets.get_mut(place)
            && event_loop.renew(&mut socket.tcp, socket.token).is_err()
        {
            self.close(event_loop, place);
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.order.first().map(|&(at, _)| at)
    }

    /// Closes what has had its time.
    pub fn handle_timeout(&mut self, now: Instant, event_loop: &mut impl Registry<Socket = S>) {
        while let Some(&(at, place)) = self.order.first()
            && at <= now
        {
            self.close(event_loop, place);
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.sockets.len() - self.free.len()
    }

    /// How many of them this owner has.
    #[cfg(all(test, feature = "relay"))]
    pub(crate) fn len_of(&self, owner: usize) -> usize {
        self.by_owner.get(&owner).map_or(0, BTreeSet::len)
    }

    fn close(&mut self, event_loop: &mut impl Registry<Socket = S>, place: usize) {
        let Some(Closing { tcp, token, owner, until }) = self.sockets[place].take() else { return };
        tcp.finish();
        event_loop.forget(token);
        self.free.push(place);
        self.order.remove(&(until, place));
        if let Some(sockets) = self.by_owner.get_mut(&owner) {
            sockets.remove(&(until, place));
            if sockets.is_empty() {
                self.by_owner.remove(&owner);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{Shutdown, TcpListener, TcpStream as Peer};

    use mio::net::TcpStream;
    use socket2::{Domain, SockRef, Socket as Builder, Type};

    use super::*;
    use crate::io::event_loop::EventLoop;

    const DEADLINE: Duration = Duration::from_secs(30);

    struct Bench {
        event_loop: EventLoop,
        closing: ClosingSockets<TcpStream>,
    }

    impl Bench {
        fn new() -> Self {
            Self { event_loop: EventLoop::new().expect("poll"), closing: ClosingSockets::default() }
        }

        /// A socket to be ended, and its peer, whose kernel takes only a little that is not read.
        fn connect(&mut self) -> (TcpStream, Token, Peer) {
            let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
            let peer = Builder::new(Domain::IPV4, Type::STREAM, None).expect("socket");
            peer.set_recv_buffer_size(4096).expect("size");
            peer.connect(&listener.local_addr().expect("address").into()).expect("connect");
            let io = listener.accept().expect("accept").0;
            io.set_nonblocking(true).expect("mode");
            let mut io = TcpStream::from_std(io);
            let token = self.event_loop.register(&mut io, Source::Link(0)).expect("register");
            (io, token, peer.into())
        }

        /// Until no socket is closing any more; false if only the timeout could do that, which is never handled here.
        fn ends_by_itself(&mut self) -> bool {
            let deadline = Instant::now() + DEADLINE;
            while self.closing.len() > 0 {
                self.event_loop.wait(Some(deadline)).expect("wait");
                if Instant::now() >= deadline {
                    return false;
                }
                while let Some(event) = self.event_loop.next_ready() {
                    if let Source::Closing(place) = event.source {
                        self.closing.handle_event(&mut self.event_loop, place);
                    }
                }
            }
            true
        }
    }

    #[test]
    fn a_peer_that_still_sent_something_gets_all_it_is_sent_and_no_reset() {
        let mut bench = Bench::new();
        let (mut io, token, mut peer) = bench.connect();
        let mut sent = 0;
        while let Ok(count) = io.write(&[b'x'; 64 * 1024]) {
            sent += count;
        }
        peer.write_all(b"too late").expect("sent");
        peer.shutdown(Shutdown::Write).expect("FIN");
        bench.closing.add(Instant::now(), &mut bench.event_loop, 0, io, token);
        assert!(bench.ends_by_itself(), "both ends have sent FIN");
        let mut read = Vec::new();
        peer.set_read_timeout(Some(DEADLINE)).expect("timeout");
        let end = peer.read_to_end(&mut read);
        assert!(end.is_ok() && read.len() == sent, "{end:?} after {} of {sent} bytes", read.len());
    }

    #[test]
    fn what_one_event_leaves_unread_needs_no_further_edge() {
        let mut bench = Bench::new();
        let (io, token, mut peer) = bench.connect();
        peer.set_write_timeout(Some(DEADLINE)).expect("timeout");
        peer.write_all(&[b'x'; 2 * READS * 16 * 1024]).expect("sent");
        peer.shutdown(Shutdown::Write).expect("FIN");
        bench.closing.add(Instant::now(), &mut bench.event_loop, 0, io, token);
        assert!(bench.ends_by_itself(), "the peer's end stands behind its bytes");
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_peer_that_sends_on_is_refused_when_its_time_is_up_though_a_child_has_a_copy_of_the_socket() {
        let mut bench = Bench::new();
        let (io, token, mut peer) = bench.connect();
        let _copy = SockRef::from(&io).try_clone().expect("a copy");
        let now = Instant::now();
        bench.closing.add(now, &mut bench.event_loop, 0, io, token);
        bench.closing.handle_timeout(now + TIMEOUT, &mut bench.event_loop);
        peer.set_write_timeout(Some(Duration::from_secs(1))).expect("timeout");
        let mut chunks = std::iter::repeat_with(|| peer.write(&[b'x'; 64 * 1024]));
        let error = chunks.find_map(Result::err).expect("an error").kind();
        assert!(matches!(error, io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe), "{error}");
    }

    #[test]
    fn one_owner_that_has_many_loses_its_own_oldest_and_another_none() {
        let mut bench = Bench::new();
        let start = Instant::now();
        let mut peers = Vec::new();
        let mut add = |bench: &mut Bench, owner, after| {
            let (io, token, peer) = bench.connect();
            bench.closing.add(start + after, &mut bench.event_loop, owner, io, token);
            peers.push(peer);
            let places = bench.closing.by_owner[&owner].iter();
            places.map(|&(until, _)| until - TIMEOUT - start).next().expect("it waits")
        };
        let millis = Duration::from_millis;
        for count in 0..3 {
            add(&mut bench, 7, millis(count));
        }
        for count in 0..MOST as u64 + 10 {
            add(&mut bench, 1, millis(10 + count));
        }
        assert_eq!((bench.closing.len(), bench.closing.by_owner[&7].len()), (MOST, 3));
        assert_eq!(add(&mut bench, 1, millis(1000)), millis(10 + 13 + 1), "its oldest have made room");
        assert_eq!(add(&mut bench, 7, millis(1001)), millis(0));
        assert_eq!((bench.closing.len(), bench.closing.by_owner[&7].len()), (MOST, 4));
        assert_eq!(bench.closing.poll_timeout(), Some(start + TIMEOUT));
        bench.closing.handle_timeout(start + millis(1002) + TIMEOUT, &mut bench.event_loop);
        assert!(bench.closing.len() == 0 && bench.closing.by_owner.is_empty() && bench.closing.order.is_empty());
    }
}
