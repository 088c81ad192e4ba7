//! The mio driver of the relay's cores: the device port, the client ports, and the links between.

mod client_log;
mod clients;
mod devices;
mod log_limits;
mod shares;
mod stray;
mod totals;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use client_log::{Client, Ending};
use clients::PendingClient;
use log_limits::{Kind, LogLimits};
use totals::{Share, Totals};
use tracing::{debug, info};

use super::descriptors::{Descriptors, Shortage};
use super::listener::{Listener, hold, resolve};
use super::{Config, Mapping};
use crate::Error;
use crate::address::Address;
use crate::connection::relay::Relay;
use crate::connection::{Output, Reset, StreamKey};
use crate::io::Io;
use crate::io::event_loop::{EventLoop, Source};
use crate::io::mailbox::{Mailbox, Request};
use crate::io::session::{LINK_BUFFER, Session};
use crate::io::table::Table;
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
    /// What other threads ask for.
    requests: Mailbox,
    device_listeners: Vec<Listener>,
    /// They listen while there is a device; each with its place in `client_ports`.
    client_listeners: Table<(Listener, usize)>,
    /// Whether clients can only come from this machine.
    is_local: bool,
    /// When to try again to open client ports that could not be.
    reopen_at: Option<Instant>,
    client_ports: Vec<ClientPort>,
    sessions: Table<Peer>,
    totals: Totals,
    /// The relay has no more to do than to deliver last bytes: a link that has them is closed.
    is_flushing: bool,
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
    requests: Mailbox,
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
    stage: Stage,
    /// What it has added to the totals.
    share: Share,
}

/// How far a link is, and since when where that matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// It was accepted, and has not said yet what it is.
    Pending(Instant),
    /// Its device is served on it, or was until now.
    InUse,
    /// It takes no new clients.
    Draining(Instant),
    /// It is gone, and only what is left is delivered.
    Lost(Instant),
}

impl Stopper {
    /// Makes [`Server::run`] end: no client is accepted any more, and open ones have the time of [`Config::drain`]. A
    /// second call ends that time. What was read is delivered, within a second.
    pub fn stop(&self) {
        if self.requests.post(Request::Stop) {
            self.requests.post(Request::StopNow);
        }
    }
}

impl Server {
    /// Opens the device port, and holds every client port, which opens when a device is there.
    ///
    /// # Errors
    /// [`Error::System`] with the address that cannot be bound, and the reason; or if the process may not have enough
    /// descriptors to serve a client.
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
        let for_clients = client_addresses.iter().map(Vec::len).sum::<usize>();
        let descriptors = Descriptors::of_process(device_addresses.len() + for_clients, config.clients as usize)?;

        // Places of the device's listeners follow those of the clients', which are their numbers.
        let mut device_listeners = hold(&device_addresses, for_clients).map_err(device_failed)?;
        let mut client_listeners = Table::default();
        let mut client_ports = Vec::new();
        for (port, (mapping, addresses)) in config.mappings.iter().zip(&client_addresses).enumerate() {
            let listeners = hold(addresses, client_listeners.len());
            for listener in listeners.map_err(|reason| cannot_listen("clients", &mapping.client, reason))? {
                let number = client_listeners.reserve();
                client_listeners.insert(number, (listener, port));
            }
            client_ports.push(ClientPort { service: Arc::new(mapping.service.clone()), is_announced: false });
        }
        for listener in &mut device_listeners {
            listener.listen(&mut event_loop).map_err(device_failed)?;
            info!(at = %listener.address(), "waiting for a device");
        }
        let is_local = client_listeners.iter().all(|(_, (listener, _))| listener.address().ip().is_loopback());
        Ok(Self {
            look_for_idle_at: config.idle.map(|_| now),
            config,
            requests: Mailbox::new(event_loop.waker()),
            io: Io::new(event_loop),
            device_listeners,
            client_listeners,
            is_local,
            reopen_at: None,
            client_ports,
            sessions: Table::default(),
            totals: Totals::default(),
            is_flushing: false,
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
        Stopper { requests: self.requests.clone() }
    }

    /// Serves until stopped.
    ///
    /// # Errors
    /// [`Error::System`] if the system's poll fails; nothing that a client or a device does ends it.
    pub fn run(mut self) -> Result<Outcome, Error> {
        let mut buffer = vec![0; LINK_BUFFER];
        while !self.requests.has(Request::Stop) {
            self.step(&mut buffer);
            self.wait(None)?;
        }
        self.finish(&mut buffer)
    }

    fn finish(mut self, buffer: &mut [u8]) -> Result<Outcome, Error> {
        self.close_client_ports(&Reset::Shutdown.into());
        // They are closed right after.
        for mut listener in self.device_listeners.drain(..) {
            let _ = listener.stop(&mut self.io.event_loop);
        }
        for number in self.client_listeners.numbers() {
            if let Some((mut listener, _)) = self.client_listeners.remove(number) {
                let _ = listener.stop(&mut self.io.event_loop);
            }
        }
        self.active = None;
        self.drop_pending(Instant::now());
        self.drain(buffer)?;
        let now = Instant::now();
        let clients_cut = self.clients();
        for number in self.sessions.numbers() {
            if let Some(peer) = self.sessions.get_mut(number) {
                peer.session.close_idle_link(now, &mut self.io);
                peer.session.close(now);
            }
        }
        self.is_flushing = true;
        let deadline = now + FLUSH_TIMEOUT;
        while Instant::now() < deadline {
            self.step(buffer);
            if self.sessions.is_empty() && self.io.closing.len() == 0 {
                break;
            }
            self.wait(Some(deadline))?;
        }
        for number in self.sessions.numbers() {
            self.cut(Instant::now(), number, Code::Shutdown, "the relay has ended");
        }
        self.log_limits.finish();
        Ok(Outcome { clients_cut })
    }

    /// Accepts no new clients, and sends devices GOAWAY; until the last client is gone, the time is up, or
    /// [`Stopper::stop`] is called again.
    fn drain(&mut self, buffer: &mut [u8]) -> Result<(), Error> {
        let now = Instant::now();
        let deadline = now + self.config.drain;
        for number in self.sessions.numbers() {
            if let Some(peer) = self.sessions.get_mut(number) {
                peer.session.go_away(now, Code::Shutdown, RETRY_AFTER, "the relay is about to end");
            }
            self.recount(number);
        }
        if self.clients() == 0 || self.config.drain.is_zero() {
            return Ok(());
        }
        info!(clients = self.clients(), seconds = self.config.drain.as_secs_f64(), "waiting for clients to end");
        loop {
            self.step(buffer);
            // Before it waits: a session that was over in its visit is not visited again.
            if Instant::now() >= deadline || self.clients() == 0 || self.requests.has(Request::StopNow) {
                return Ok(());
            }
            self.wait(Some(deadline))?;
        }
    }

    /// Clients on every link.
    fn clients(&self) -> u64 {
        self.totals.clients as u64
    }

    /// Moves bytes, carries out outputs, and keeps time, of those for which there is something to do.
    fn step(&mut self, buffer: &mut [u8]) {
        let now = Instant::now();
        self.accept_devices(now);
        self.accept_clients(now);
        if self.reopen_at.is_some_and(|at| at <= now) {
            self.open_client_ports(now);
        }
        self.io.closing.handle_timeout(now, &mut self.io.event_loop);
        self.shortage.handle_timeout(now);
        self.log_limits.handle_timeout(now);
        self.end_long_drains(now);
        for _ in 0..self.sessions.begin_round(now) {
            if let Some(number) = self.sessions.next_visit() {
                self.visit(now, number, buffer);
            }
        }
        self.bound_retired(now);
        // Last, so that what came while the process was stopped counts.
        self.end_idle_clients(now);
    }

    fn visit(&mut self, now: Instant, number: usize, buffer: &mut [u8]) {
        let Some(peer) = self.sessions.get_mut(number) else { return };
        let mut busy = match peer.session.turn(now, &mut self.io, buffer) {
            Ok(busy) => busy,
            Err(reason) => {
                self.lose_link(now, number, &reason);
                false
            }
        };
        busy |= self.carry_out_all(now, number);
        if self.is_flushing && self.sessions.get(number).is_some_and(|peer| !peer.session.has_unsent()) {
            self.close_link(number);
            busy |= self.carry_out_all(now, number);
        }
        self.leave_if_going_away(now, number);
        self.forget_if_over(now, number);
        self.recount(number);
        let timeout = self.sessions.get(number).and_then(|peer| peer.session.poll_timeout());
        self.sessions.end_visit(number, busy, timeout);
    }

    /// Keeps the totals when something was done to a session: at once where a client may have gone, and at the latest at
    /// the end of the visit that follows.
    fn recount(&mut self, number: usize) {
        let Some(peer) = self.sessions.get_mut(number) else { return };
        let share = Share::of(peer);
        if share != peer.share {
            self.totals.subtract(number, &peer.share);
            self.totals.add(number, &share);
            peer.share = share;
        }
    }

    /// Takes the session out.
    fn remove(&mut self, number: usize) -> Option<Peer> {
        let peer = self.sessions.remove(number)?;
        self.totals.subtract(number, &peer.share);
        Some(peer)
    }

    /// Whether there is something to do without an event.
    fn is_busy(&self, now: Instant) -> bool {
        self.sessions.has_ready()
            || self.takes_clients() && self.client_listeners.has_ready()
            || self.device_listeners.iter().any(|listener| listener.is_ready(now))
    }

    fn wait(&mut self, deadline: Option<Instant>) -> Result<(), Error> {
        debug_assert!(self.is_consistent(), "something was done to a session without a visit");
        let now = Instant::now();
        let deadline = if self.is_busy(now) { Some(now) } else { self.next_deadline(deadline) };
        let poll_failed = |reason| Error::System { what: "cannot wait for events".into(), reason };
        self.io.event_loop.wait(deadline).map_err(poll_failed)?;
        let now = Instant::now();
        while let Some(event) = self.io.event_loop.next_ready() {
            match event.source {
                Source::Listener(place) => {
                    let of_clients = self.client_listeners.get_mut(place).map(|(listener, _)| listener);
                    for listener in of_clients.into_iter().chain(&mut self.device_listeners) {
                        listener.handle_event(place);
                    }
                }
                Source::Link(number) => {
                    if let Some(peer) = self.sessions.get_mut(number) {
                        peer.session.handle_link_event(event);
                    }
                }
                Source::Stream(number, key) => {
                    let number = number as usize;
                    if let Some(peer) = self.sessions.get_mut(number) {
                        peer.session.handle_stream_event(now, &mut self.io, key, event);
                        // A client that is gone has given up its descriptor, for one that is accepted before the visit.
                        self.recount(number);
                    }
                }
                Source::Closing(place) => self.io.closing.handle_event(&mut self.io.event_loop, place),
                Source::Waker => {}
            }
        }
        Ok(())
    }

    fn next_deadline(&mut self, own: Option<Instant>) -> Option<Instant> {
        let (sessions, closing) = (self.sessions.poll_timeout(), self.io.closing.poll_timeout());
        let clients = self.client_listeners.poll_timeout().filter(|_| self.takes_clients());
        let devices = self.device_listeners.iter().filter_map(Listener::paused_until).min();
        let logs = [self.shortage.poll_timeout(), self.log_limits.poll_timeout()].into_iter().flatten().min();
        // They were given the same time each.
        let pending = self.waiting.front().map(|pending| pending.deadline);
        let idle = self.look_for_idle_at.filter(|_| self.totals.unlogged > 0);
        let drains = self.drains_until();
        let all = [own, sessions, closing, clients, devices, self.reopen_at, logs, pending, idle, drains];
        all.into_iter().flatten().min()
    }

    /// Whether nothing was forgotten, which would show only when something else happens. For assertions: it looks at
    /// everything.
    fn is_consistent(&self) -> bool {
        let mut totals = Totals::default();
        self.sessions.iter().for_each(|(number, peer)| totals.add(number, &peer.share));
        self.sessions.is_armed(|peer| peer.session.poll_timeout())
            && self.sessions.idle().all(|(_, peer)| peer.share == Share::of(peer))
            && self.client_listeners.is_armed(|(listener, _)| listener.paused_until())
            && self.totals == totals
    }

    fn carry_out_all(&mut self, now: Instant, number: usize) -> bool {
        let mut some = false;
        while let Some(peer) = self.sessions.get_mut(number) {
            let output = peer.session.poll_output(now, &mut self.io);
            let Some(output) = output else { break };
            self.carry_out(now, number, output);
            some = true;
        }
        some
    }

    fn carry_out(&mut self, now: Instant, number: usize, output: Output) {
        let Some(peer) = self.sessions.get_mut(number) else { return };
        let link = peer.address;
        let connection = |peer: &Peer, stream| peer.clients.get(&stream).map(|client| client.connection);
        match output {
            Output::Listening => self.activate(now, number),
            Output::Version(version) => {
                if self.log_limits.admit(now, Kind::Arrival) {
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
                if self.log_limits.admit(now, Kind::Departure) {
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
