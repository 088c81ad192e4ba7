//! The mio shell around the relay's cores: the device port, the client ports, and the links between.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use mio::Waker;
use tracing::{debug, info, warn};

use super::core::{Output, Relay, Settings};
use super::listener::{Listener, bind};
use super::{Config, Mapping};
use crate::Error;
use crate::address::Address;
use crate::event_loop::{EventLoop, Source};
use crate::linger::Lingering;
use crate::link::{Endpoint, Reset, StreamKey};
use crate::net;
use crate::protocol::v2::Code;
use crate::session::{LINK_BUFFER, LinkLost, Session};

/// Connections on the device port that may be without LISTEN at once.
const MAX_PENDING: usize = 64;
/// Links that may finish beside the one in use.
const MAX_DRAINING: usize = 64;
/// How long the last bytes may take once the relay is to end.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);
/// Seconds after which a device may come back when the relay ends: the time that a restart takes.
const RETRY_AFTER: u16 = 1;
/// Clients taken from one port in a turn, before bytes are moved again.
const ACCEPTS: usize = 16;
/// How long until a client port that could not be opened is tried again.
const REOPEN: Duration = Duration::from_secs(1);

/// A relay that is bound and ready to [`run`](Self::run).
#[derive(Debug)]
pub struct Server {
    config: Config,
    event_loop: EventLoop,
    /// How often the relay was told to end.
    stop: Arc<AtomicUsize>,
    device_listeners: Vec<Listener>,
    /// Open while there is a device; each with the place of its mapping.
    client_listeners: Vec<(Listener, usize)>,
    /// When to try again to open client ports that were taken.
    reopen_at: Option<Instant>,
    services: Vec<Arc<Address>>,
    sessions: Vec<Option<Peer>>,
    /// The session whose device is served: the newest that sent LISTEN.
    active: Option<usize>,
    lingering: Lingering,
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

#[derive(Debug)]
struct Peer {
    session: Session<Relay>,
    address: SocketAddr,
    /// Since when it takes no new clients.
    draining_since: Option<Instant>,
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
    /// Opens the device port, and tries every client port, which opens when a device is there.
    ///
    /// # Errors
    /// [`Error::System`] with the address that cannot be bound, and the reason.
    pub fn bind(config: Config) -> Result<Self, Error> {
        let loop_failed = |reason| Error::System { what: "cannot make the event loop".into(), reason };
        let mut event_loop = EventLoop::new().map_err(loop_failed)?;
        let device_listeners = bind(&mut event_loop, &config.device, Source::Listener, 0)
            .map_err(|reason| cannot_listen("the device", &config.device, reason))?;
        for Mapping { client, .. } in &config.mappings {
            let tried = bind(&mut event_loop, client, Source::Listener, 0)
                .map_err(|reason| cannot_listen("clients", client, reason))?;
            for listener in tried {
                listener.close(&mut event_loop);
            }
        }
        let services = config.mappings.iter().map(|mapping| Arc::new(mapping.service.clone())).collect();
        for listener in &device_listeners {
            info!("waiting for a device at {}", listener.address());
        }
        Ok(Self {
            config,
            event_loop,
            stop: Arc::default(),
            device_listeners,
            client_listeners: Vec::new(),
            reopen_at: None,
            services,
            sessions: Vec::new(),
            active: None,
            lingering: Lingering::default(),
        })
    }

    /// Where devices connect; the first address, if the name has several.
    pub fn device_addr(&self) -> SocketAddr {
        self.device_listeners[0].address()
    }

    /// A way to end [`run`](Self::run).
    pub fn stopper(&self) -> Stopper {
        Stopper { stop: Arc::clone(&self.stop), waker: self.event_loop.waker() }
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
        self.close_client_ports();
        for listener in std::mem::take(&mut self.device_listeners) {
            listener.close(&mut self.event_loop);
        }
        self.active = None;
        self.drain(buffer)?;
        let now = Instant::now();
        let clients_cut = self.clients();
        for peer in self.sessions.iter_mut().flatten() {
            peer.session.close_idle_link(now, &mut self.event_loop);
            peer.session.endpoint.close(now);
        }
        let deadline = now + FLUSH_TIMEOUT;
        while Instant::now() < deadline {
            let busy = self.step(buffer);
            for number in 0..self.sessions.len() {
                if self.sessions[number].as_ref().is_some_and(|peer| !peer.session.endpoint.has_unsent()) {
                    self.close_link(number);
                }
            }
            if self.sessions.iter().all(Option::is_none) && self.lingering.len() == 0 {
                break;
            }
            self.wait(busy, Some(deadline))?;
        }
        for peer in self.sessions.iter_mut().flatten() {
            peer.session.abort(Instant::now(), &mut self.event_loop);
        }
        Ok(Outcome { clients_cut })
    }

    /// No new clients, and devices are told; until the last client is gone, the time is up, or the relay is told to
    /// end once more.
    fn drain(&mut self, buffer: &mut [u8]) -> Result<(), Error> {
        let now = Instant::now();
        let deadline = now + self.config.drain;
        for peer in self.sessions.iter_mut().flatten() {
            peer.session.endpoint.go_away(now, Code::Shutdown, RETRY_AFTER, "the relay is about to end");
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
        self.sessions.iter().flatten().map(|peer| peer.session.endpoint.clients() as u64).sum()
    }

    /// Moves bytes, carries out outputs, and keeps time; true if there is more to do at once.
    fn step(&mut self, buffer: &mut [u8]) -> bool {
        let now = Instant::now();
        let mut busy = self.accept_devices(now);
        busy |= self.accept_clients(now);
        if self.reopen_at.is_some_and(|at| at <= now) {
            self.open_client_ports(now);
        }
        self.lingering.handle_timeout(now, &mut self.event_loop);
        for number in 0..self.sessions.len() {
            busy |= self.step_session(now, number, buffer);
        }
        busy
    }

    fn step_session(&mut self, now: Instant, number: usize, buffer: &mut [u8]) -> bool {
        let Some(Some(peer)) = self.sessions.get_mut(number) else { return false };
        let timely = peer.session.handle_timeout(now).map_err(LinkLost::from);
        let mut busy = match timely.and_then(|()| peer.session.turn(now, &mut self.event_loop, buffer)) {
            Ok(busy) => busy,
            Err(reason) => {
                self.lose_link(now, number, &reason);
                false
            }
        };
        busy |= self.carry_out_all(now, number);
        self.leave_if_going_away(now, number);
        self.forget_if_over(number);
        busy
    }

    /// A link that takes no new clients is not the one to bring them to. The device closes it with its last one; those
    /// that do not must not fill the relay.
    fn leave_if_going_away(&mut self, now: Instant, number: usize) {
        let Some(Some(peer)) = self.sessions.get_mut(number) else { return };
        if !peer.session.has_link() || !peer.session.endpoint.is_going_away() {
            return;
        }
        if peer.draining_since.is_none() {
            peer.draining_since = Some(now);
            drop_oldest_draining(now, &mut self.event_loop, &mut self.sessions);
        }
        if self.active == Some(number) {
            self.active = None;
            self.close_client_ports();
        }
    }

    fn wait(&mut self, busy: bool, deadline: Option<Instant>) -> Result<(), Error> {
        let deadline = if busy { Some(Instant::now()) } else { self.next_deadline(deadline) };
        let poll_failed = |reason| Error::System { what: "cannot wait for events".into(), reason };
        self.event_loop.wait(deadline).map_err(poll_failed)?;
        let now = Instant::now();
        while let Some(event) = self.event_loop.next_ready() {
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
                        peer.session.handle_stream_event(now, &mut self.event_loop, key, event);
                    }
                }
                Source::Lingering(place) => self.lingering.handle_event(&mut self.event_loop, place),
                Source::Waker => {}
            }
        }
        Ok(())
    }

    fn next_deadline(&mut self, own: Option<Instant>) -> Option<Instant> {
        let sessions = self.sessions.iter().flatten().filter_map(|peer| peer.session.poll_timeout()).min();
        let lingering = self.lingering.poll_timeout();
        let listeners = self.all_listeners().filter_map(|listener| listener.paused_until()).min();
        [own, sessions, lingering, listeners, self.reopen_at].into_iter().flatten().min()
    }

    fn all_listeners(&mut self) -> impl Iterator<Item = &mut Listener> {
        let clients = self.client_listeners.iter_mut().map(|(listener, _)| listener);
        self.device_listeners.iter_mut().chain(clients)
    }

    fn accept_devices(&mut self, now: Instant) -> bool {
        let mut busy = false;
        for listener in &mut self.device_listeners {
            let Some((mut io, address)) = listener.accept(now) else { continue };
            busy = true;
            drop_oldest_stranger(now, &mut self.event_loop, &mut self.sessions);
            // The options only hasten what the protocol does without them.
            let _ = net::tune_link(&io);
            let free = self.sessions.iter().position(Option::is_none);
            let number = free.unwrap_or(self.sessions.len());
            let token = match self.event_loop.register(&mut io, Source::Link(number)) {
                Ok(token) => token,
                Err(error) => {
                    warn!(%address, "cannot watch a connection on the device port: {error}");
                    continue;
                }
            };
            debug!(%address, "a connection on the device port");
            let Config { protocol, half_close, limits, .. } = self.config;
            let endpoint = Relay::new(now, Settings { protocol, half_close, limits });
            let peer = Peer { session: Session::new(endpoint, number, io, token), address, draining_since: None };
            if number == self.sessions.len() {
                self.sessions.push(None);
            }
            self.sessions[number] = Some(peer);
        }
        busy
    }

    fn accept_clients(&mut self, now: Instant) -> bool {
        let mut busy = false;
        for place in 0..self.client_listeners.len() {
            for _ in 0..ACCEPTS {
                if !self.accept_client(now, place) {
                    break;
                }
                busy = true;
            }
        }
        busy
    }

    /// One client of the port at `place`; false if there is none to take now.
    fn accept_client(&mut self, now: Instant, place: usize) -> bool {
        let Some(number) = self.active else { return false };
        // A stream that is over must have left its slot before a new one takes it, one that the last events ended, too.
        self.carry_out_all(now, number);
        let Some(Some(peer)) = self.sessions.get_mut(number) else { return false };
        // Until then they wait in the port's backlog.
        if !peer.session.endpoint.is_ready() {
            return false;
        }
        let Some((listener, mapping)) = self.client_listeners.get_mut(place) else { return false };
        let Some((mut io, address)) = listener.accept(now) else { return false };
        let service = &self.services[*mapping];
        // As with the link's: only hastens.
        let _ = net::tune_stream(&io);
        debug!(%address, %service, "a client");
        let Some(key) = peer.session.endpoint.open(now, service, Some(address)) else { return false };
        match self.event_loop.register(&mut io, Source::Stream(number as u32, key)) {
            Ok(token) => peer.session.attach(&mut self.event_loop, key, io, token),
            Err(error) => {
                warn!(%address, "cannot watch a client: {error}");
                peer.session.endpoint.handle_failure(now, key, Code::Internal, "the relay cannot watch its socket");
            }
        }
        true
    }

    fn carry_out_all(&mut self, now: Instant, number: usize) -> bool {
        let mut some = false;
        while let Some(Some(peer)) = self.sessions.get_mut(number) {
            let Some(output) = peer.session.endpoint.poll_output() else { break };
            self.carry_out(now, number, output);
            some = true;
        }
        some
    }

    fn carry_out(&mut self, now: Instant, number: usize, output: Output) {
        let Some(Some(peer)) = self.sessions.get_mut(number) else { return };
        let (session, address) = (&mut peer.session, peer.address);
        match output {
            Output::Listening => self.activate(now, number),
            Output::Version(version) => {
                info!(%address, version, "the version of the protocol is agreed");
                if version == 2 {
                    session.tune_link_v2();
                }
            }
            Output::Introduced(software) => debug!(%address, software, "the device has introduced itself"),
            Output::Opened { stream, client } => {
                debug!(client, "CONNECT is on its way");
                session.start(now, &mut self.event_loop, stream);
            }
            Output::Connected { .. } => debug!("a client's service is connected"),
            Output::ShutdownWrite { stream } => session.shutdown_write(stream),
            Output::Finish { stream } => session.finish(now, &mut self.event_loop, &mut self.lingering, stream),
            Output::Reset { stream, reason } => {
                tell_reset(session, stream, &reason);
                session.reset(&mut self.event_loop, stream);
            }
            Output::GoAway(away) => {
                info!(%address, code = %away.code, "the device takes no new clients on this link: {}", away.reason);
            }
            Output::Gone { .. } => debug!("a client reset its connection"),
        }
    }

    /// The newest device that sent LISTEN is the one that is served, at once.
    fn activate(&mut self, now: Instant, number: usize) {
        if let Some(Some(peer)) = self.sessions.get(number) {
            info!(address = %peer.address, "a device is here");
        }
        let replaced = self.active.replace(number);
        if let Some(Some(old)) = replaced.and_then(|old| self.sessions.get_mut(old)) {
            let clients = old.session.endpoint.clients();
            info!(address = %old.address, clients, "a newer device takes the place of this one");
            old.session.endpoint.go_away(now, Code::Replaced, 0, "a newer link took the place of this one");
            old.session.abort_link(now, &mut self.event_loop);
        }
        self.open_client_ports(now);
    }

    fn open_client_ports(&mut self, now: Instant) {
        self.reopen_at = None;
        for place in 0..self.config.mappings.len() {
            if self.client_listeners.iter().any(|&(_, mapping)| mapping == place) {
                continue;
            }
            let Mapping { client, service } = &self.config.mappings[place];
            // Places of client listeners follow those of the device's.
            match bind(&mut self.event_loop, client, Source::Listener, (place + 1) << 8) {
                Ok(listeners) => {
                    for listener in listeners {
                        info!("clients of {service} may connect at {}", listener.address());
                        self.client_listeners.push((listener, place));
                    }
                }
                Err(reason) => {
                    warn!("cannot listen for clients at {client}: {reason}; trying again in 1 s");
                    self.reopen_at = Some(now + REOPEN);
                }
            }
        }
    }

    fn close_client_ports(&mut self) {
        self.reopen_at = None;
        for (listener, _) in std::mem::take(&mut self.client_listeners) {
            listener.close(&mut self.event_loop);
        }
    }

    fn lose_link(&mut self, now: Instant, number: usize, reason: &LinkLost) {
        let Some(Some(peer)) = self.sessions.get_mut(number) else { return };
        let address = peer.address;
        if peer.session.endpoint.is_listening() {
            let clients = peer.session.endpoint.clients();
            if matches!(reason, LinkLost::Ended) && peer.session.endpoint.is_going_away() {
                info!(%address, clients, "the link to the device has ended, as was announced");
            } else {
                warn!(%address, clients, "the link to the device is lost: {reason}");
            }
        } else {
            warn!(%address, "dropped a connection on the device port: {reason}");
        }
        peer.session.abort_link(now, &mut self.event_loop);
        if self.active == Some(number) {
            self.active = None;
            self.close_client_ports();
        }
    }

    fn close_link(&mut self, number: usize) {
        if let Some(Some(peer)) = self.sessions.get_mut(number)
            && peer.session.has_link()
        {
            peer.session.close_link(Instant::now(), &mut self.event_loop, &mut self.lingering);
        }
    }

    /// A session without a link lives until its complete streams have delivered what is left.
    fn forget_if_over(&mut self, number: usize) {
        if let Some(slot) = self.sessions.get_mut(number)
            && slot.as_ref().is_some_and(|peer| !peer.session.has_link() && peer.session.endpoint.streams() == 0)
        {
            *slot = None;
        }
    }
}

/// Makes room for one more connection without LISTEN. A device sends it at once, so the oldest is the least likely
/// to be one.
fn drop_oldest_stranger(now: Instant, event_loop: &mut EventLoop, sessions: &mut [Option<Peer>]) {
    let stranger = |peer: &&mut Option<Peer>| peer.as_ref().is_some_and(|peer| !peer.session.endpoint.is_listening());
    if sessions.iter_mut().filter(stranger).count() < MAX_PENDING {
        return;
    }
    // Its one deadline is that of LISTEN.
    let age = |peer: &&mut Option<Peer>| peer.as_ref().and_then(|peer| peer.session.endpoint.poll_timeout());
    if let Some(slot) = sessions.iter_mut().filter(stranger).min_by_key(age)
        && let Some(mut oldest) = slot.take()
    {
        let address = oldest.address;
        warn!(%address, "dropped a connection on the device port: {MAX_PENDING} others have not sent LISTEN yet");
        oldest.session.abort_link(now, event_loop);
    }
}

/// Makes room for one more link that drains: of those without clients, if there are any, the oldest goes.
fn drop_oldest_draining(now: Instant, event_loop: &mut EventLoop, sessions: &mut [Option<Peer>]) {
    let draining = |peer: &&mut Peer| peer.session.has_link() && peer.draining_since.is_some();
    if sessions.iter_mut().flatten().filter(draining).count() <= MAX_DRAINING {
        return;
    }
    let worth = |peer: &&mut Peer| (peer.session.endpoint.streams() > 0, peer.draining_since);
    if let Some(oldest) = sessions.iter_mut().flatten().filter(draining).min_by_key(worth) {
        warn!(address = %oldest.address, "cut a link that drains: {MAX_DRAINING} others do, too");
        oldest.session.abort_link(now, event_loop);
    }
}

fn tell_reset(session: &Session<Relay>, stream: StreamKey, reason: &Reset) {
    let client = session.peer_addr(stream).map_or_else(String::new, |address| address.to_string());
    match reason {
        Reset::NoPlace => {
            warn!(client, "refused a client: the link has no place for more; try again when one has ended");
        }
        Reset::Stalled => warn!(client, "reset a client: it stood still for too long"),
        Reset::LinkLost => debug!(client, "cut a client with its link"),
        Reset::Shutdown => debug!(client, "cut a client, since the relay ends"),
        Reset::Closed(close) if close.code == Code::Normal => debug!(client, "ended a client: {}", close.reason),
        Reset::Closed(close) => {
            info!(client, code = %close.code, "ended a client, as the device asks: {}", close.reason);
        }
        // A device's reasons.
        Reset::ConnectTimeout | Reset::Replaced => {}
    }
}

fn cannot_listen(whom: &str, address: &Address, reason: io::Error) -> Error {
    Error::System { what: format!("cannot listen for {whom} at {address}"), reason }
}

#[cfg(test)]
mod tests;
