//! What stands between device and relay: it forwards links, and does to them what networks do.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, Weak};
use std::thread;
use std::time::{Duration, Instant};

use socket2::SockRef;

use crate::path::{Path, Travelling};

/// How often a waiting link looks for what is to happen to it.
const LOOK: Duration = Duration::from_millis(20);
const CHUNK: usize = 64 * 1024;
/// While the network is slow: so many bytes, then a pause.
const DRIP: usize = 4 * 1024;

/// One end of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Device,
    Relay,
}

/// How a link is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    /// Both ends get RST.
    Reset,
    /// Both get FIN, wherever in a frame that is.
    Close,
    /// One end gets RST; the other gets nothing for a while, and nothing is read of it.
    HalfOpen(End, Duration),
}

/// Every link that is forwarded.
#[derive(Debug)]
pub(crate) struct Forwarder {
    address: SocketAddr,
    links: Arc<Mutex<Vec<Weak<Link>>>>,
    impairments: Arc<Mutex<Impairments>>,
}

/// What slows down every link, and until when.
#[derive(Debug, Default)]
struct Impairments {
    /// Until then nothing is taken from the device, or from the relay.
    still: [Option<Instant>; 2],
    slow: Option<Instant>,
    /// From when to when the path's delay and rate change.
    changing: Option<(Instant, Instant)>,
}

/// What slows down one end of a link now.
struct Impairment {
    is_still: bool,
    is_slow: bool,
    path: Option<Path>,
}

impl Impairments {
    fn at(&self, now: Instant, from: End) -> Impairment {
        let lasts = |until: Option<Instant>| until.is_some_and(|until| until > now);
        let changing = self.changing.filter(|&(_, until)| until > now);
        Impairment {
            is_still: lasts(self.still[from as usize]),
            is_slow: lasts(self.slow),
            path: changing.map(|(since, _)| Path::after(now.saturating_duration_since(since))),
        }
    }
}

#[derive(Debug)]
struct Link {
    device: TcpStream,
    relay: TcpStream,
    cut: Mutex<Option<Cut>>,
}

impl Forwarder {
    /// Takes devices at `address`, and connects on to the relay.
    pub(crate) fn start(address: SocketAddr, relay: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        let forwarder = Self { address, links: Arc::default(), impairments: Arc::default() };
        let (links, impairments) = (Arc::clone(&forwarder.links), Arc::clone(&forwarder.impairments));
        let accept = move || {
            for device in listener.incoming().flatten() {
                // Where there is no relay the device is dropped, and tries again.
                if let Ok(link) = Link::start(device, relay, &impairments) {
                    let mut links = links.lock().expect("no panic");
                    links.retain(|link| link.strong_count() > 0);
                    links.push(link);
                }
            }
        };
        crate::small_thread().spawn(accept)?;
        Ok(forwarder)
    }

    /// Where devices connect.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn cut(&self, cut: Cut) {
        for link in self.links.lock().expect("no panic").iter().filter_map(Weak::upgrade) {
            link.cut.lock().expect("no panic").get_or_insert(cut);
        }
    }

    /// For a while nothing is taken from this end of any link, so that it comes to a standstill.
    pub(crate) fn stand_still(&self, from: End, time: Duration) {
        self.impairments.lock().expect("no panic").still[from as usize] = Some(Instant::now() + time);
    }

    pub(crate) fn slow_down(&self, time: Duration) {
        self.impairments.lock().expect("no panic").slow = Some(Instant::now() + time);
    }

    /// For a while the path's round trip rises and falls, and its rate halves and comes back.
    pub(crate) fn change_path(&self, time: Duration) {
        let now = Instant::now();
        self.impairments.lock().expect("no panic").changing = Some((now, now + time));
    }

    /// Removes all impairments; links that were cut stay so.
    pub(crate) fn heal(&self) {
        *self.impairments.lock().expect("no panic") = Impairments::default();
    }
}

impl Link {
    fn start(device: TcpStream, relay: SocketAddr, impairments: &Arc<Mutex<Impairments>>) -> io::Result<Weak<Self>> {
        let relay = TcpStream::connect_timeout(&relay, Duration::from_secs(5))?;
        for stream in [&device, &relay] {
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(LOOK))?;
            stream.set_write_timeout(Some(LOOK))?;
        }
        let link = Arc::new(Self { device, relay, cut: Mutex::default() });
        for from in [End::Device, End::Relay] {
            let (link, impairments) = (Arc::clone(&link), Arc::clone(impairments));
            crate::small_thread().spawn(move || {
                if let Err(cut) = link.pump(from, &impairments) {
                    link.end(from, cut);
                }
            })?;
        }
        Ok(Arc::downgrade(&link))
    }

    /// Forwards until the end of what comes from there.
    fn pump(&self, from: End, impairments: &Mutex<Impairments>) -> Result<(), Cut> {
        let (mut source, mut sink) = match from {
            End::Device => (&self.device, &self.relay),
            End::Relay => (&self.relay, &self.device),
        };
        let mut chunk = vec![0; CHUNK];
        let mut travelling = Travelling::new(Instant::now());
        let mut is_over = false;
        loop {
            self.look()?;
            let now = Instant::now();
            while let Some(arrived) = travelling.pop(now) {
                self.write(&mut sink, &arrived)?;
            }
            let Some(wait) = travelling.wait(now).or_else(|| (!is_over).then_some(LOOK)) else {
                let _ = sink.shutdown(Shutdown::Write);
                return Ok(());
            };
            let impairment = impairments.lock().expect("no panic").at(now, from);
            if impairment.is_slow || impairment.is_still || is_over || travelling.is_full() {
                thread::sleep(wait.min(LOOK / 4));
            }
            if impairment.is_still || is_over || travelling.is_full() {
                continue;
            }
            let most = if impairment.is_slow { DRIP } else { CHUNK };
            // No time at all would be for ever.
            if source.set_read_timeout(Some(wait.clamp(LOOK / 20, LOOK))).is_err() {
                return Err(self.cut(Cut::Reset));
            }
            match source.read(&mut chunk[..most]) {
                Ok(0) => is_over = true,
                Ok(count) => travelling.push(Instant::now(), impairment.path, &chunk[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => return Err(self.cut(Cut::Reset)),
            }
        }
    }

    fn write(&self, sink: &mut &TcpStream, mut rest: &[u8]) -> Result<(), Cut> {
        while !rest.is_empty() {
            self.look()?;
            match sink.write(rest) {
                Ok(count) => rest = &rest[count..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => return Err(self.cut(Cut::Reset)),
            }
        }
        Ok(())
    }

    fn look(&self) -> Result<(), Cut> {
        self.cut.lock().expect("no panic").map_or(Ok(()), Err)
    }

    /// How the link is cut, which may have been decided before.
    fn cut(&self, cut: Cut) -> Cut {
        *self.cut.lock().expect("no panic").get_or_insert(cut)
    }

    /// One of the two directions has met the cut; the sockets are closed when both have.
    fn end(&self, from: End, cut: Cut) {
        let reset = |stream: &TcpStream| {
            // It may be reset already.
            let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
        };
        match cut {
            Cut::Reset => {
                reset(&self.device);
                reset(&self.relay);
            }
            Cut::Close => {}
            Cut::HalfOpen(end, time) => {
                let (ended, kept) = match end {
                    End::Device => (&self.device, &self.relay),
                    End::Relay => (&self.relay, &self.device),
                };
                reset(ended);
                reset(kept);
                if from == end
                    && let Ok(kept) = kept.try_clone()
                {
                    let hold = move || {
                        thread::sleep(time);
                        drop(kept);
                    };
                    let _ = crate::small_thread().spawn(hold);
                }
            }
        }
    }
}
