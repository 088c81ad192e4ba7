//! The mio shell around the relay's cores: the device port, the client ports, and the links between.

mod access;
mod clients;
mod devices;
mod log_limits;
mod shares;
mod stray;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use access::{Client, Ending};
use clients::PendingClient;
use log_limits::{Kind, LogLimits};
use mio::Waker;
use tracing::{debug, info};

use super::descriptors::{Descriptors, Shortage};
use super::listener::{Listener, hold, resolve};
use super::{Config, Mapping};
use crate::Error;
use crate::address::Address;
use crate::connection::relay::Relay;
use crate::connection::{Connection, Output, Reset, StreamKey};
use crate::io::Io;
use crate::io::event_loop::{EventLoop, Source};
use crate::io::session::{LINK_BUFFER, Session};
use crate::protocol::v2::Code;

/// How long the last bytes may take once the relay is to end.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);
/// Seconds after which a device may come back when the relay ends: the time that a restart takes.
const RETRY_AFTER: u16 = 1;

/// A relay that is bound and ready to [`run`](Self::run).
#[derive(Debug)]
pub struct Server {
    config: Config,
    io: Io,
    /// How often the relay was told to end.
    stop: Arc<AtomicUsize>,
    device_listeners: Vec<Listener>,
    /// They listen while there is a device; each with its place in `client_ports`.
    client_listeners: Vec<(Listener, usize)>,
    /// When to try again to open client ports that could not be.
    reopen_at: Option<Instant>,
    client_ports: Vec<ClientPort>,
    sessions: Vec<Option<Peer>>,
    /// The session whose device is served: the newest that sent LISTEN.
    active: Option<usize>,
    /// Clients that wait for a place.
    waiting: VecDeque<PendingClient>,
    /// Clients that were ever accepted.
    connections: u64,
    /// When clients that move nothing are looked for, where there is a limit for them.
    look_for_idle_at: Option<Instant>,
    descriptors: Descriptors,
    shortage: Shortage,
    log_limits: LogLimits,
}

/// Ends a running [`Server`] from another thread.
#[derive(Clone, Debug)]
pub struct Stopper {
    stop: Arc<AtomicUsize>,
    waker: Arc<Waker>,
}

/// How a [`Server`] ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Clients that were open at the end.
    pub clients_cut: u64,
}

/// Where clients of a service connect.
#[derive(Debug)]
struct ClientPort {
    service: Arc<Address>,
    /// Whether the log has said where it is.
    is_announced: bool,
}

#[derive(Debug)]
struct Peer {
    session: Session<Relay>,
    address: SocketAddr,
    clients: BTreeMap<StreamKey, Client>,
    /// When it was accepted.
    since: Instant,
    /// Since when it takes no new clients.
    draining_since: Option<Instant>,
    /// Since when its link is gone and it only delivers what is left.
    lost_since: Option<Instant>,
}

impl Stopper {
    /// Makes [`Server::run`] end: nobody new is taken, and who is there has the time of [`Config::drain`]. Called once
    /// more, it ends that time. What was read is delivered, within a second.
    pub fn stop(&self) {
        self.stop.fetch_add(1, Relaxed);
        // It can fail only if the server's poll is gone already.
        let _ = self.waker.wake();
    }
}

impl Server {
    /// Opens the device port, and holds every client port, which opens when a device is there.
    ///
    /// # Errors
    /// [`Error::System`] with the address that cannot be bound, and the reason; or if the process may not have enough
    /// descriptors to serve anybody.
    pub fn bind(config: Config) -> Result<Self, Error> {
        let now = Instant::now();
        let loop_failed = |reason| Error::System { what: "cannot make the event loop".into(), reason };
        let mut event_loop = EventLoop::new().map_err(loop_failed)?;
        let device_failed = |reason| cannot_listen("the device", &config.device, reason);
        let device_addresses = resolve(&config.device).map_err(device_failed)?;
        let mut client_addresses = Vec::new();
        for Mapping { client, .. } in &config.mappings {
            client_addresses.push(resolve(client).map_err(|reason| cannot_listen("clients", client, reason))?);
        }
        let ports = device_addresses.len() + client_addresses.iter().map(Vec::len).sum::<usize>();
        let descriptors = Descriptors::of_process(ports, config.clients as usize)?;

        let mut device_listeners = hold(&device_addresses, 0).map_err(device_failed)?;
        let mut client_listeners = Vec::new();
        let mut client_ports = Vec::new();
        for (place, (mapping, addresses)) in config.mappings.iter().zip(&client_addresses).enumerate() {
            // Places of client listeners follow those of the device's.
            let listeners = hold(addresses, (place + 1) << 8);
            let listeners = listeners.map_err(|reason| cannot_listen("clients", &mapping.client, reason))?;
            client_listeners.extend(listeners.into_iter().map(|listener| (listener, place)));
            client_ports.push(ClientPort { service: Arc::new(mapping.service.clone()), is_announced: false });
        }
        for listener in &mut device_listeners {
            listener.listen(&mut event_loop).map_err(device_failed)?;
            info!(at = %listener.address(), "waiting for a device");
        }
        Ok(Self {
            look_for_idle_at: config.idle.map(|_| now),
            config,
            io: Io::new(event_loop),
            stop: Arc::default(),
            device_listeners,
            client_listeners,
            reopen_at: None,
            client_ports,
            sessions: Vec::new(),
            active: None,
            waiting: VecDeque::new(),
            connections: 0,
            descriptors,
            shortage: Shortage::default(),
            log_limits: LogLimits::new(now),
        })
    }

    /// Where devices connect; the first address, if the name has several.
    pub fn device_addr(&self) -> SocketAddr {
        self.device_listeners[0].address()
    }

    /// A way to end [`run`](Self::run).
    pub fn stopper(&self) -> Stopper {
        Stopper { stop: Arc::clone(&self.stop), waker: self.io.event_loop.waker() }
    }

    /// Serves until stopped.
    ///
    /// # Errors
    /// [`Error::System`] if the system's poll fails; nothing that a client or a device does ends it.
    pub fn run(mut self) -> Result<Outcome, Error> {
        let mut buffer = vec![0; LINK_BUFFER];
        while self.stop.load(Relaxed) == 0 {
            let busy = self.step(&mut buffer);
            self.wait(busy, None)?;
        }
        self.finish(&mut buffer)
    }

    fn finish(mut self, buffer: &mut [u8]) -> Result<Outcome, Error> {
        self.close_client_ports(&Reset::Shutdown.into());
        for mut listener in self.device_listeners.drain(..).chain(self.client_listeners.drain(..).map(|(io, _)| io)) {
            // It is closed right after.
            let _ = listener.stop(&mut self.io.event_loop);
        }
        self.active = None;
        self.drop_pending(Instant::now());
        self.drain(buffer)?;
        let now = Instant::now();
        let clients_cut = self.clients();
        for peer in self.sessions.iter_mut().flatten() {
            peer.session.close_idle_link(now, &mut self.io);
            peer.session.close(now);
        }
        let deadline = now + FLUSH_TIMEOUT;
        while Instant::now() < deadline {
            let busy = self.step(buffer);
            for number in 0..self.sessions.len() {
                if self.sessions[number].as_ref().is_some_and(|peer| !peer.session.connection().has_unsent()) {
                    self.close_link(number);
                }
            }
            if self.sessions.iter().all(Option::is_none) && self.io.closing.len() == 0 {
                break;
            }
            self.wait(busy, Some(deadline))?;
        }
        for number in 0..self.sessions.len() {
            self.cut(Instant::now(), number, Code::Shutdown, "the relay has ended");
        }
        self.log_limits.finish();
        Ok(Outcome { clients_cut })
    }

    /// No new clients, and devices are told; until the last client is gone, the time is up, or the relay is told to
    /// end once more.
    fn drain(&mut self, buffer: &mut [u8]) -> Result<(), Error> {
        let now = Instant::now();
        let deadline = now + self.config.drain;
        for peer in self.sessions.iter_mut().flatten() {
            peer.session.go_away(now, Code::Shutdown, RETRY_AFTER, "the relay is about to end");
        }
        if self.clients() == 0 || self.config.drain.is_zero() {
            return Ok(());
        }
        info!(clients = self.clients(), seconds = self.config.drain.as_secs_f64(), "waiting for clients to end");
        while Instant::now() < deadline && self.clients() > 0 && self.stop.load(Relaxed) == 1 {
            let busy = self.step(buffer);
            self.wait(busy, Some(deadline))?;
        }
        Ok(())
    }

    /// Clients on every link.
    fn clients(&self) -> u64 {
        self.sessions.iter().flatten().map(|peer| peer.session.connection().clients() as u64).sum()
    }

    /// Moves bytes, carries out outputs, and keeps time; true if there is more to do at once.
    fn step(&mut self, buffer: &mut [u8]) -> bool {
        let now = Instant::now();
        let mut busy = self.accept_devices(now);
        busy |= self.accept_clients(now);
        if self.reopen_at.is_some_and(|at| at <= now) {
            self.open_client_ports(now);
        }
        self.io.closing.handle_timeout(now, &mut self.io.event_loop);
        self.shortage.handle_timeout(now);
        self.log_limits.handle_timeout(now);
        self.end_long_drains(now);
        for number in 0..self.sessions.len() {
            busy |= self.step_session(now, number, buffer);
        }
        self.bound_retired(now);
        // Last, so that what came while the process was stopped counts.
        busy |= self.end_idle_clients(now);
        busy
    }

    fn step_session(&mut self, now: Instant, number: usize, buffer: &mut [u8]) -> bool {
        let Some(Some(peer)) = self.sessions.get_mut(number) else { return false };
        let mut busy = match peer.session.turn(now, &mut self.io, buffer) {
            Ok(busy) => busy,
            Err(reason) => {
                self.lose_link(now, number, &reason);
                false
            }
        };
        busy |= self.carry_out_all(now, number);
        self.leave_if_going_away(now, number);
        self.forget_if_over(now, number);
        busy
    }

    fn wait(&mut self, busy: bool, deadline: Option<Instant>) -> Result<(), Error> {
        let deadline = if busy { Some(Instant::now()) } else { self.next_deadline(deadline) };
        let poll_failed = |reason| Error::System { what: "cannot wait for events".into(), reason };
        self.io.event_loop.wait(deadline).map_err(poll_failed)?;
        let now = Instant::now();
        while let Some(event) = self.io.event_loop.next_ready() {
            match event.source {
                Source::Listener(place) => {
                    for listener in self.all_listeners() {
                        listener.handle_event(place);
                    }
                }
                Source::Link(number) => {
                    if let Some(Some(peer)) = self.sessions.get_mut(number) {
                        peer.session.handle_link_event(event);
                    }
                }
                Source::Stream(number, key) => {
                    let number = number as usize;
                    if let Some(Some(peer)) = self.sessions.get_mut(number) {
                        peer.session.handle_stream_event(now, &mut self.io, key, event);
                    }
                }
                Source::Closing(place) => self.io.closing.handle_event(&mut self.io.event_loop, place),
                Source::Waker => {}
            }
        }
        Ok(())
    }

    fn next_deadline(&mut self, own: Option<Instant>) -> Option<Instant> {
        let sessions = self.sessions.iter().flatten().filter_map(|peer| peer.session.poll_timeout()).min();
        let closing = self.io.closing.poll_timeout();
        let listeners = self.all_listeners().filter_map(|listener| listener.paused_until()).min();
        let logs = [self.shortage.poll_timeout(), self.log_limits.poll_timeout()].into_iter().flatten().min();
        let pending = self.waiting.iter().map(|pending| pending.deadline).min();
        let idle =
            self.look_for_idle_at.filter(|_| self.sessions.iter().flatten().any(|peer| !peer.clients.is_empty()));
        let drains = self.drains_until();
        let all = [own, sessions, closing, listeners, self.reopen_at, logs, pending, idle, drains];
        all.into_iter().flatten().min()
    }

    fn all_listeners(&mut self) -> impl Iterator<Item = &mut Listener> {
        let clients = self.client_listeners.iter_mut().map(|(listener, _)| listener);
        self.device_listeners.iter_mut().chain(clients)
    }

    fn carry_out_all(&mut self, now: Instant, number: usize) -> bool {
        let mut some = false;
        while let Some(Some(peer)) = self.sessions.get_mut(number) {
            let output = peer.session.poll_output(now, &mut self.io);
            let Some(output) = output else { break };
            self.carry_out(now, number, output);
            some = true;
        }
        some
    }

    fn carry_out(&mut self, now: Instant, number: usize, output: Output) {
        let Some(Some(peer)) = self.sessions.get_mut(number) else { return };
        let link = peer.address;
        let connection = |peer: &Peer, stream| peer.clients.get(&stream).map(|client| client.connection);
        match output {
            Output::Listening => self.activate(now, number),
            Output::Version(version) => {
                if self.log_limits.permits(now, Kind::Arrival) {
                    info!(%link, version, "the version of the protocol is agreed");
                }
            }
            Output::Introduced(software) => debug!(%link, %software, "the device has introduced itself"),
            Output::Opened { stream, client } => {
                debug!(connection = connection(peer, stream), stream = client, %link, "CONNECT is on its way");
            }
            Output::Connected { stream } => {
                debug!(connection = connection(peer, stream), %link, "a client's service is connected");
            }
            Output::Finish { stream } => self.log_client_end(now, number, stream, &Ending::FINISHED),
            Output::Reset { stream, reason } => self.log_client_end(now, number, stream, &Ending::from(reason)),
            Output::GoAway(go_away) => {
                if self.log_limits.permits(now, Kind::Departure) {
                    let reason = go_away.reason;
                    info!(%link, code = %go_away.code, %reason, "the device takes no new clients on this link");
                }
            }
            Output::Gone { stream } => {
                let failure = peer.session.traffic(stream).and_then(|traffic| traffic.failure.clone());
                let ending = Ending::from(failure.unwrap_or((Code::Normal, String::new())));
                self.log_client_end(now, number, stream, &ending);
            }
            // The session has done it; and what only a device is asked for.
            Output::ShutdownWrite { .. }
            | Output::Connect { .. }
            | Output::Malformed { .. }
            | Output::EarlyDropped { .. } => {}
        }
    }
}

fn cannot_listen(whom: &str, address: &Address, reason: io::Error) -> Error {
    Error::System { what: format!("cannot listen for {whom} at {address}"), reason }
}

#[cfg(test)]
mod tests;
