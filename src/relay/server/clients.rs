//! The client ports, which are open while there is a device, and which client gets a place on its link.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use tracing::{debug, info, warn};

use super::Server;
use super::client_log::{Client, Ending, NO_PLACE};
use super::log_limits::Kind;
use super::shares::{Shares, source};
use crate::connection::StreamKey;
use crate::io::event_loop::Source;
use crate::io::net;
use crate::protocol::v2::Code;

/// Clients taken from one port in a turn, before bytes are moved again.
const ACCEPTS: usize = 16;
/// How long until a client port that could not be opened is tried again.
const REOPEN: Duration = Duration::from_secs(1);
/// How long a client waits for a place before it is refused.
const PLACE_TIMEOUT: Duration = Duration::from_secs(1);
/// Clients that may wait at once; each port has an equal part of that.
pub(super) const MAX_WAITING: usize = 256;
/// How often clients that move nothing are looked for.
const LOOK_FOR_IDLE: Duration = Duration::from_millis(500);

/// A client that waits for a place.
#[derive(Debug)]
pub(super) struct PendingClient {
    io: TcpStream,
    client: Client,
    pub(super) deadline: Instant,
}

impl Server {
    pub(super) fn accept_clients(&mut self, now: Instant) {
        // Before others come.
        if !self.waiting.is_empty() {
            self.serve_waiting(now);
        }
        if !self.takes_clients() {
            return;
        }
        for _ in 0..self.client_listeners.begin_round(now) {
            let Some(place) = self.client_listeners.next_visit() else { continue };
            for _ in 0..ACCEPTS {
                if !self.accept_client(now, place) {
                    break;
                }
            }
            let Some((listener, _)) = self.client_listeners.get(place) else { continue };
            let (again, timeout) = (listener.is_ready(now), listener.paused_until());
            self.client_listeners.end_visit(place, again, timeout);
        }
    }

    /// Whether there is a device for clients. Until its version is fixed they wait in the port's backlog.
    pub(super) fn takes_clients(&self) -> bool {
        let active = self.active.and_then(|number| self.sessions.get(number));
        active.is_some_and(|peer| peer.session.connection().is_ready())
    }

    /// One client of the listener at `place`; false if there is none to take now.
    fn accept_client(&mut self, now: Instant, place: usize) -> bool {
        let Some(number) = self.active else { return false };
        if !self.client_listeners.get(place).is_some_and(|(listener, _)| listener.is_ready(now)) {
            return false;
        }
        // Clients that have just left have no place any more.
        self.carry_out_all(now, number);
        // No room is made where no client has come.
        if self.spare_descriptors() == 0 && !self.client_listeners.get_mut(place).is_some_and(|(io, _)| io.poll_one()) {
            return false;
        }
        let has_descriptor = self.claim_descriptor(now);
        let Some((listener, port)) = self.client_listeners.get_mut(place) else { return false };
        if !has_descriptor {
            listener.pause(now);
            return false;
        }
        let port = *port;
        let Some((io, address)) = listener.accept(now, &mut self.shortage) else { return false };
        // As with the link's: only hastens.
        let _ = net::tune_stream(&io);
        self.connections += 1;
        let (connection, service) = (self.connections, Arc::clone(&self.client_ports[port].service));
        debug!(connection, client = %address, %service, "a client");
        let client = Client { connection, address, port, service, since: now, moved: (0, now) };
        // Those that wait have no claim to this place: they were asked first.
        if self.has_place(number, port, address) {
            self.open_client(now, number, io, client);
        } else if self.make_room_to_wait(now, number, port, address) {
            self.waiting.push_back(PendingClient { io, client, deadline: now + PLACE_TIMEOUT });
        } else {
            self.refuse(now, number, &client);
        }
        true
    }

    /// Lets one more client of this port, from this address, wait for a place; false if it may not. Where no more may wait,
    /// the newest of the address that has the most makes room for one that has fewer.
    fn make_room_to_wait(&mut self, now: Instant, number: usize, port: usize, from: SocketAddr) -> bool {
        // Those that wait must not take the descriptors of places that are kept for others.
        if self.spare_descriptors() <= self.places(number).1 {
            return false;
        }
        let of_port = self.waiting.iter().filter(|pending| pending.client.port == port);
        if self.waiting.len() < MAX_WAITING && of_port.clone().count() < (MAX_WAITING / self.client_ports.len()).max(1)
        {
            return true;
        }
        let mut by_source: BTreeMap<IpAddr, usize> = BTreeMap::new();
        for pending in of_port {
            *by_source.entry(source(pending.client.address)).or_default() += 1;
        }
        let own = by_source.get(&source(from)).copied().unwrap_or_default();
        let Some((most, count)) = by_source.into_iter().max_by_key(|&(_, count)| count) else { return false };
        let is_of_most =
            |PendingClient { client, .. }: &PendingClient| client.port == port && source(client.address) == most;
        let Some(newest) = self.waiting.iter().rposition(is_of_most).filter(|_| own + 1 < count) else { return false };
        if let Some(PendingClient { client, .. }) = self.waiting.remove(newest) {
            self.refuse(now, number, &client);
        }
        true
    }

    fn refuse(&mut self, now: Instant, number: usize, client: &Client) {
        let warning = if self.shares(number).is_full() { NO_PLACE } else { NO_SHARE };
        client.log_end(now, &mut self.log_limits, None, None, &Ending::refused(warning));
    }

    fn open_client(&mut self, now: Instant, number: usize, mut io: TcpStream, client: Client) {
        // A stream that is over must have left its slot before a new one takes it, one that made room for this, too.
        self.carry_out_all(now, number);
        let Some(peer) = self.sessions.get_mut(number) else { return };
        let (connection, from) = (client.connection, client.address);
        let Some(key) = peer.session.open(now, &client.service, from) else { return };
        peer.clients.insert(key, client);
        match self.io.event_loop.register(&mut io, Source::Stream(number as u32, key)) {
            Ok(token) => peer.session.attach(&mut self.io, key, io, token),
            Err(reason) => {
                if self.log_limits.admit(now, Kind::Refusal) {
                    warn!(connection, client = %from, %reason, "cannot watch a client");
                }
                let reason = "the relay cannot watch its socket";
                peer.session.give_up(now, &mut self.io, key, Code::Internal, reason);
            }
        }
        self.recount(number);
    }

    /// Clients that wait are served where there is a place for them now, and refused when they have waited for long.
    fn serve_waiting(&mut self, now: Instant) {
        let Some(number) = self.active else { return };
        let mut shares = self.shares(number);
        // Of those that wait the one from the address with the fewest places is next, and of these the one that came first.
        loop {
            let may_have = |PendingClient { client, .. }: &PendingClient| shares.admits(client.port, client.address);
            let admitted = self.waiting.iter().enumerate().filter(|(_, pending)| may_have(pending));
            let next = admitted.min_by_key(|(_, pending)| shares.of_source(pending.client.address));
            let Some(pending) = next.map(|(at, _)| at).and_then(|at| self.waiting.remove(at)) else { break };
            shares.add(pending.client.port, pending.client.address);
            self.open_client(now, number, pending.io, pending.client);
        }
        let warning = if shares.is_full() { NO_PLACE } else { NO_SHARE };
        // They were given the same time each, so the first to come is the first to go.
        while self.waiting.front().is_some_and(|pending| pending.deadline <= now) {
            let Some(PendingClient { client, .. }) = self.waiting.pop_front() else { break };
            client.log_end(now, &mut self.log_limits, None, None, &Ending::refused(warning));
        }
    }

    /// Whether a client of this port, from this address, gets a place on the link.
    fn has_place(&self, number: usize, port: usize, from: SocketAddr) -> bool {
        let (places, free) = self.places(number);
        Shares::are_plenty(places, free) || self.shares(number).admits(port, from)
    }

    /// The places of the link, and how many of them are free.
    fn places(&self, number: usize) -> (usize, usize) {
        let Some(peer) = self.sessions.get(number) else { return (0, 0) };
        let limit = (self.config.clients as usize).min(self.descriptors.clients);
        let connection = peer.session.connection();
        let places = connection.places().min(limit);
        let free = places.saturating_sub(connection.clients());
        if free == 0 && connection.places() <= limit { (places, connection.yielding()) } else { (places, free) }
    }

    /// The places of the link, and which clients have them; those that only get their last bytes count for a moment longer.
    fn shares(&self, number: usize) -> Shares {
        let (places, free) = self.places(number);
        let mut shares = Shares::new(places, free, self.client_ports.len(), self.is_local);
        if let Some(peer) = self.sessions.get(number) {
            for client in peer.clients.values() {
                shares.note(client.port, client.address);
            }
        }
        shares
    }

    /// Descriptors that are left for clients.
    fn spare_descriptors(&self) -> usize {
        self.descriptors.clients.saturating_sub(self.totals.streams + self.waiting.len() + self.io.closing.len())
    }

    /// Sees to a descriptor for one more client; false if there is none. The clients of links that drain give theirs up.
    fn claim_descriptor(&mut self, now: Instant) -> bool {
        if self.spare_descriptors() > 0 {
            return true;
        }
        if self.cut_oldest_drain(now, "its descriptors are wanted for new clients") {
            return true;
        }
        let reason = std::io::Error::from_raw_os_error(nix::errno::Errno::EMFILE as i32);
        self.shortage.note(now, &reason);
        false
    }

    /// Ends clients that have moved nothing for the time of [`Config::idle`](super::Config::idle).
    pub(super) fn end_idle_clients(&mut self, now: Instant) {
        let Some(limit) = self.config.idle else { return };
        if self.totals.unlogged == 0 || self.look_for_idle_at.is_some_and(|at| at > now) {
            return;
        }
        self.look_for_idle_at = Some(now + LOOK_FOR_IDLE.min(limit));
        for number in self.sessions.numbers() {
            if self.sessions.get(number).is_none_or(|peer| peer.clients.is_empty()) {
                continue;
            }
            let Some(peer) = self.sessions.get_mut(number) else { continue };
            let mut idle: Vec<StreamKey> = Vec::new();
            for (&stream, client) in &mut peer.clients {
                let moved = peer.session.traffic(stream).map_or(0, |traffic| traffic.read + traffic.written);
                if moved != client.moved.0 {
                    client.moved = (moved, now);
                } else if now.saturating_duration_since(client.moved.1) >= limit {
                    idle.push(stream);
                }
            }
            for stream in idle {
                let reason = format!("nothing was sent either way for {} s", limit.as_secs_f64());
                peer.session.give_up(now, &mut self.io, stream, Code::Idle, &reason);
            }
        }
    }

    pub(super) fn open_client_ports(&mut self, now: Instant) {
        self.reopen_at = None;
        for number in self.client_listeners.numbers() {
            let Some((listener, port)) = self.client_listeners.get_mut(number) else { continue };
            if listener.is_listening() {
                continue;
            }
            let port = &mut self.client_ports[*port];
            let (at, service) = (listener.address(), &port.service);
            match listener.listen(&mut self.io.event_loop) {
                // Devices come and go as they like; once is enough.
                Ok(()) if port.is_announced => debug!(%service, %at, "clients may connect"),
                Ok(()) => info!(%service, %at, "clients may connect"),
                Err(reason) => {
                    if self.log_limits.admit(now, Kind::Arrival) {
                        warn!(%service, %at, %reason, "cannot listen for clients; trying again in 1 s");
                    }
                    self.reopen_at = Some(now + REOPEN);
                }
            }
        }
        for port in &mut self.client_ports {
            port.is_announced = true;
        }
    }

    /// There is no device for new clients; those that wait for a place end so.
    pub(super) fn close_client_ports(&mut self, ending: &Ending) {
        self.reopen_at = None;
        let now = Instant::now();
        for PendingClient { client, .. } in self.waiting.drain(..) {
            client.log_end(now, &mut self.log_limits, None, None, ending);
        }
        for number in self.client_listeners.numbers() {
            if let Some((listener, _)) = self.client_listeners.get_mut(number)
                && let Err(reason) = listener.stop(&mut self.io.event_loop)
            {
                warn!(at = %listener.address(), %reason, "cannot close a client port");
            }
        }
    }

    /// Where clients of the listener with this number connect.
    #[cfg(test)]
    pub(super) fn client_addr(&self, number: usize) -> SocketAddr {
        self.client_listeners.get(number).expect("a listener").0.address()
    }

    /// Whether clients are taken at every port.
    #[cfg(test)]
    pub(super) fn are_client_ports_open(&self) -> bool {
        self.client_listeners.iter().all(|(_, (listener, _))| listener.is_listening())
    }
}

/// What is logged of a client that has waited in vain for a place that is kept for others.
const NO_SHARE: &str =
    "refused a client: its port, or its address, has its share of the places; the last ones are kept for others";
