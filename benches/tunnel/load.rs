//! The clients: what they do, and what is measured while they do it.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use portable_atomic::AtomicU64;
use socket2::SockRef;

use crate::contestant::Tunnel;
use crate::service::{IO_LIMIT, Service, Sink, Wish, send_chunk};

/// What is sent and awaited for one echo.
const ECHO_SIZE: usize = 64;
/// From key to key.
const KEY: Duration = Duration::from_millis(100);
/// Before a window opens: TCP's windows have grown and every buffer has been touched.
pub(crate) const WARM_UP: Duration = Duration::from_millis(150);
/// Bytes a second of a download that leaves the machine time for others: a line of 400 Mbit/s.
pub(crate) const PACE: f64 = 50e6;
/// Within this time a download that is not read has filled every buffer on its way.
const FILLING: Duration = Duration::from_millis(300);
/// An echo that takes longer stands still.
const STANDSTILL: Duration = Duration::from_secs(1);
/// Connections in one sample, so that those in TIME_WAIT do not use up the machine's ports.
const CONNECTS_AT_MOST: usize = 4000;

/// What a window over steady traffic showed.
pub(crate) struct Traffic {
    pub(crate) elapsed: Duration,
    /// Bytes received by the clients that download.
    pub(crate) downloaded: f64,
    /// Bytes received by the services.
    pub(crate) uploaded: f64,
    pub(crate) cpu: Option<Duration>,
    /// Of every echo in the window, ascending.
    pub(crate) latencies: Vec<Duration>,
}

impl Traffic {
    pub(crate) fn bytes(&self) -> f64 {
        self.downloaded + self.uploaded
    }
}

/// Runs one client for each wish, and measures for `window` once all are connected and warm.
pub(crate) fn traffic(tunnel: &Tunnel, service: &Service, wishes: &[Wish], window: Duration) -> io::Result<Traffic> {
    traffic_during(tunnel, service, wishes, WARM_UP.min(window), || {
        thread::sleep(window);
        Ok(())
    })
}

/// Runs one client and measures it from its connection on, however slowly it begins.
pub(crate) fn traffic_from_start(
    tunnel: &Tunnel,
    service: &Service,
    wish: Wish,
    window: Duration,
) -> io::Result<Traffic> {
    traffic_during(tunnel, service, &[wish], Duration::ZERO, || {
        thread::sleep(window);
        Ok(())
    })
}

/// Runs one client for each wish, and measures while `window` runs, which begins `warm_up` after all are connected.
pub(crate) fn traffic_during(
    tunnel: &Tunnel,
    service: &Service,
    wishes: &[Wish],
    warm_up: Duration,
    window: impl FnOnce() -> io::Result<()>,
) -> io::Result<Traffic> {
    let traffic = traffic_of_clients(tunnel, service, wishes, warm_up, window)?;
    service.settle()?;
    Ok(traffic)
}

/// The same, for a tunnel that ends now: how long it takes to pass on the end of its clients does not matter.
pub(crate) fn traffic_of_clients(
    tunnel: &Tunnel,
    service: &Service,
    wishes: &[Wish],
    warm_up: Duration,
    window: impl FnOnce() -> io::Result<()>,
) -> io::Result<Traffic> {
    let state = State::default();
    thread::scope(|scope| {
        let (connected, all_connected) = mpsc::channel();
        let clients: Vec<_> = wishes
            .iter()
            .map(|&wish| {
                let (state, connected) = (&state, connected.clone());
                scope.spawn(move || {
                    let stream = connect(tunnel.entrance(), wish)?;
                    let _ = connected.send(());
                    let result = carry_on(wish, &stream, state);
                    abort(stream)?;
                    result
                })
            })
            .collect();
        drop(connected);
        let observed = await_all(&all_connected, wishes.len()).and_then(|()| {
            thread::sleep(warm_up);
            observe(tunnel, service, &state, window)
        });
        state.done.store(true, Ordering::Relaxed);

        let mut latencies = Vec::new();
        for client in clients {
            latencies.extend(client.join().map_err(|_| io::Error::other("a client's thread panicked"))??);
        }
        latencies.sort_unstable();
        observed.map(|observed| Traffic { latencies, ..observed })
    })
}

#[derive(Default)]
struct State {
    measuring: AtomicBool,
    done: AtomicBool,
    downloaded: AtomicU64,
}

fn await_all(connected: &mpsc::Receiver<()>, clients: usize) -> io::Result<()> {
    for number in 1..=clients {
        connected
            .recv_timeout(IO_LIMIT)
            .map_err(|_| io::Error::other(format!("client {number} of {clients} did not get through")))?;
    }
    Ok(())
}

fn observe(
    tunnel: &Tunnel,
    service: &Service,
    state: &State,
    window: impl FnOnce() -> io::Result<()>,
) -> io::Result<Traffic> {
    let bytes = || [state.downloaded.load(Ordering::Relaxed), service.uploaded()];
    let (cpu, before, start) = (tunnel.cpu()?, bytes(), Instant::now());
    state.measuring.store(true, Ordering::Relaxed);
    window()?;
    state.measuring.store(false, Ordering::Relaxed);
    let (elapsed, after, cpu_after) = (start.elapsed(), bytes(), tunnel.cpu()?);
    Ok(Traffic {
        elapsed,
        downloaded: (after[0] - before[0]) as f64,
        uploaded: (after[1] - before[1]) as f64,
        cpu: cpu_after.zip(cpu).map(|(after, before)| after.saturating_sub(before)),
        latencies: Vec::new(),
    })
}

/// A client's part until the window is over. Returns the time that each echo took.
fn carry_on(wish: Wish, stream: &TcpStream, state: &State) -> io::Result<Vec<Duration>> {
    let mut latencies = Vec::new();
    let mut sink = Sink::default();
    let (start, mut taken) = (Instant::now(), 0);
    while !state.done.load(Ordering::Relaxed) {
        match wish {
            Wish::Download | Wish::PacedDownload => match sink.discard(stream)? {
                0 => return Err(io::Error::other("a download ended early")),
                size => {
                    state.downloaded.fetch_add(size, Ordering::Relaxed);
                    taken += size;
                    if wish == Wish::PacedDownload {
                        let due = Duration::from_secs_f64(taken as f64 / PACE);
                        thread::sleep(due.saturating_sub(start.elapsed()));
                    }
                }
            },
            Wish::Upload => send_chunk(stream)?,
            Wish::Echo => {
                let start = Instant::now();
                echo(stream)?;
                if state.measuring.load(Ordering::Relaxed) {
                    latencies.push(start.elapsed());
                }
            }
            Wish::Keys => return type_keys(stream, state),
        }
    }
    Ok(latencies)
}

/// Sends a key every [`KEY`], and returns the time that each echo took.
fn type_keys(mut stream: &TcpStream, state: &State) -> io::Result<Vec<Duration>> {
    let (mut latencies, mut awaited, mut received) = (Vec::new(), VecDeque::new(), 0);
    let mut due = Instant::now();
    while !state.done.load(Ordering::Relaxed) {
        let now = Instant::now();
        if due <= now {
            stream.write_all(&[b'k'; ECHO_SIZE])?;
            awaited.push_back(now);
            due += KEY;
            continue;
        }
        stream.set_read_timeout(Some(due - now))?;
        match stream.read(&mut [0; ECHO_SIZE]) {
            Ok(0) => return Err(io::Error::other("an echo ended early")),
            Ok(size) => received += size,
            Err(error) if is_timeout(&error) => {}
            Err(error) => return Err(error),
        }
        if received >= ECHO_SIZE {
            received -= ECHO_SIZE;
            let sent = awaited.pop_front();
            latencies.extend(sent.map(|sent| sent.elapsed()).filter(|_| state.measuring.load(Ordering::Relaxed)));
        }
    }
    Ok(latencies)
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

fn echo(mut stream: &TcpStream) -> io::Result<()> {
    let mut answer = [0; ECHO_SIZE];
    stream.write_all(&[b'e'; ECHO_SIZE])?;
    stream.read_exact(&mut answer)
}

/// What a client that never reads its download does to the echoes of another. Each list is ascending.
pub(crate) struct BesideStalled {
    pub(crate) alone: Vec<Duration>,
    /// None came back in time if the list is empty.
    pub(crate) beside: Vec<Duration>,
}

/// Takes the tunnel, which may stand still and is of no use afterwards.
pub(crate) fn beside_stalled(tunnel: Tunnel, service: &Service, window: Duration) -> io::Result<BesideStalled> {
    let echoing = connect(tunnel.entrance(), Wish::Echo)?;
    echoing.set_read_timeout(Some(STANDSTILL))?;
    echoes(&echoing, WARM_UP.min(window))?;
    let alone = echoes(&echoing, window)?;
    let stalled = connect(tunnel.entrance(), Wish::Download)?;
    thread::sleep(FILLING);
    let beside = match echoes(&echoing, window) {
        Err(error) if is_timeout(&error) => Vec::new(),
        result => result?,
    };
    abort(echoing)?;
    abort(stalled)?;
    drop(tunnel);
    service.settle()?;
    Ok(BesideStalled { alone, beside })
}

/// One echo after the other; the time that each took, ascending.
fn echoes(stream: &TcpStream, window: Duration) -> io::Result<Vec<Duration>> {
    let (mut latencies, end) = (Vec::new(), Instant::now() + window);
    while Instant::now() < end {
        let start = Instant::now();
        echo(stream)?;
        latencies.push(start.elapsed());
    }
    latencies.sort_unstable();
    Ok(latencies)
}

/// Connects per second: each connects, gets one byte back and closes; `parallel` clients, one after the other each.
pub(crate) fn connects(tunnel: &Tunnel, service: &Service, parallel: usize, window: Duration) -> io::Result<f64> {
    let start = Instant::now();
    let count = thread::scope(|scope| {
        let clients: Vec<_> = (0..parallel)
            .map(|_| {
                scope.spawn(|| -> io::Result<usize> {
                    let mut count = 0;
                    while count < CONNECTS_AT_MOST / parallel && start.elapsed() < window {
                        echo_once(tunnel.entrance())?;
                        count += 1;
                    }
                    Ok(count)
                })
            })
            .collect();
        clients
            .into_iter()
            .map(|client| client.join().map_err(|_| io::Error::other("a client's thread panicked"))?)
            .sum::<io::Result<usize>>()
    })?;
    let rate = count as f64 / start.elapsed().as_secs_f64();
    service.settle()?;
    Ok(rate)
}

/// Connects, gets one byte back and closes.
pub(crate) fn echo_once(entrance: SocketAddr) -> io::Result<()> {
    connect(entrance, Wish::Echo).map(drop)
}

/// Bytes of memory that each of `clients` costs once it has been served one byte and says no more.
pub(crate) fn idle_memory(tunnel: &Tunnel, service: &Service, clients: usize) -> io::Result<Option<f64>> {
    let before = tunnel.resident()?;
    let streams = (0..clients).map(|_| connect(tunnel.entrance(), Wish::Echo)).collect::<io::Result<Vec<_>>>()?;
    let after = tunnel.resident()?;
    for stream in streams {
        abort(stream)?;
    }
    service.settle()?;
    Ok(after.zip(before).map(|(after, before)| (after as f64 - before as f64) / clients as f64))
}

/// Connects and waits until the service has taken the wish.
fn connect(entrance: SocketAddr, wish: Wish) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect_timeout(&entrance, IO_LIMIT)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(IO_LIMIT))?;
    stream.set_write_timeout(Some(IO_LIMIT))?;
    let mut answer = [0];
    stream.write_all(&[wish.byte()])?;
    stream.read_exact(&mut answer)?;
    if answer != [wish.byte()] {
        return Err(io::Error::other(format!("{wish:?} was answered with byte {:#04x}", answer[0])));
    }
    Ok(stream)
}

/// Closes with RST: bytes under way are dropped, and no port stays in TIME_WAIT.
fn abort(stream: TcpStream) -> io::Result<()> {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO))
}
