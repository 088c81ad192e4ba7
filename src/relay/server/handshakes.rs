//! Connections on the port for TLS that are no links yet: which of them are in a handshake, and which wait for their turn.
//!
//! A source that has many in progress makes others of its own wait, and refuses nobody: a whole fleet may be behind one
//! address.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};

use mio::net::TcpStream;

/// Handshakes of one source that may be in progress.
pub(super) const MOST_OF_SOURCE: usize = 64;

/// A connection that was accepted, and not looked at yet.
pub(super) type Accepted = (TcpStream, SocketAddr);

/// All of them, by their source.
#[derive(Debug, Default)]
pub(super) struct Handshakes {
    by_source: BTreeMap<IpAddr, Source>,
    /// In progress or waiting.
    count: usize,
    /// Sources of which one that waits may begin.
    ready: VecDeque<IpAddr>,
}

#[derive(Debug, Default)]
struct Source {
    in_progress: usize,
    waiting: VecDeque<Accepted>,
}

impl Handshakes {
    /// One more has come; it is given back if it may begin, which counts as begun.
    pub(super) fn arrive(&mut self, source: IpAddr, accepted: Accepted) -> Option<Accepted> {
        self.count += 1;
        let of_source = self.by_source.entry(source).or_default();
        if of_source.in_progress < MOST_OF_SOURCE {
            of_source.in_progress += 1;
            return Some(accepted);
        }
        of_source.waiting.push_back(accepted);
        None
    }

    /// One of the source is over.
    pub(super) fn end(&mut self, source: IpAddr) {
        let Some(of_source) = self.by_source.get_mut(&source) else { return };
        of_source.in_progress -= 1;
        self.count -= 1;
        if !of_source.waiting.is_empty() {
            self.ready.push_back(source);
        } else if of_source.in_progress == 0 {
            self.by_source.remove(&source);
        }
    }

    /// The next of those that waited and may begin, which counts as begun; and its source.
    pub(super) fn next(&mut self) -> Option<(IpAddr, Accepted)> {
        while let Some(source) = self.ready.pop_front() {
            let Some(of_source) = self.by_source.get_mut(&source) else { continue };
            if of_source.in_progress < MOST_OF_SOURCE
                && let Some(accepted) = of_source.waiting.pop_front()
            {
                of_source.in_progress += 1;
                return Some((source, accepted));
            }
            if of_source.in_progress == 0 && of_source.waiting.is_empty() {
                self.by_source.remove(&source);
            }
        }
        None
    }

    /// Whether [`next`](Self::next) would give one.
    pub(super) fn has_next(&self) -> bool {
        !self.ready.is_empty()
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// Gives up the one that waits and came last, of the source that has the most; if none waits, which source has the most.
    pub(super) fn drop_one(&mut self) -> Result<SocketAddr, Option<IpAddr>> {
        let most =
            self.by_source.iter_mut().max_by_key(|(_, of_source)| of_source.in_progress + of_source.waiting.len());
        let Some((&source, of_source)) = most else { return Err(None) };
        let Some((_, address)) = of_source.waiting.pop_back() else { return Err(Some(source)) };
        self.count -= 1;
        Ok(address)
    }

    /// Gives up all that wait.
    pub(super) fn drop_waiting(&mut self) {
        for of_source in self.by_source.values_mut() {
            self.count -= of_source.waiting.len();
            of_source.waiting.clear();
        }
        self.by_source.retain(|_, of_source| of_source.in_progress > 0);
        self.ready.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A connection that goes nowhere.
    fn accepted() -> Accepted {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
        let address = listener.local_addr().expect("address");
        (TcpStream::connect(address).expect("connect"), address)
    }

    #[test]
    fn one_source_has_so_many_in_progress_and_its_others_wait_while_another_begins_at_once() {
        let (one, other) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        let mut handshakes = Handshakes::default();
        let begun = (0..MOST_OF_SOURCE + 3).filter(|_| handshakes.arrive(one, accepted()).is_some()).count();
        assert_eq!((begun, handshakes.len(), handshakes.has_next()), (MOST_OF_SOURCE, MOST_OF_SOURCE + 3, false));
        assert!(handshakes.arrive(other, accepted()).is_some());
        handshakes.end(one);
        assert_eq!(handshakes.next().map(|(source, _)| source), Some(one));
        assert!(handshakes.next().is_none() && !handshakes.has_next());
        assert!(handshakes.drop_one().is_ok() && handshakes.drop_one().is_ok());
        assert_eq!(handshakes.drop_one(), Err(Some(one)), "none waits any more");
        for _ in 0..MOST_OF_SOURCE {
            handshakes.end(one);
        }
        handshakes.end(other);
        assert!(handshakes.len() == 0 && handshakes.by_source.is_empty());
    }
}
