//! The client ports, which are open while their device is there, and which client gets a place on its link.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use tracing::{debug, info, warn};

use super::Server;
use super::client_log::{Client, Ending, NO_PLACE};
use super::device::Device;
use super::log_limits::Kind;
use super::proxied::Goal;
use super::shares::{Shares, source};
use crate::connection::StreamKey;
use crate::io::event_loop::Source;
use crate::io::net;
use crate::protocol::v2::Code;
use crate::relay::limits::{ACCEPTS, ACCEPTS_A_TURN, MAX_WAITING, may_have_descriptor};
use crate::relay::listener::Listener;

/// How long until a client port that could not be opened is tried again.
const REOPEN: Duration = Duration::from_secs(1);
/// How long a client waits for a place before it is refused.
const PLACE_TIMEOUT: Duration = Duration::from_secs(1);
/// How often clients of a link that move nothing are looked for.
const LOOK_FOR_IDLE: Duration = Duration::from_millis(500);

/// A client that waits for a place.
#[derive(Debug)]
pub(super) struct PendingClient {
    io: TcpStream,
    pub(super) client: Client,
    pub(super) deadline: Instant,
}

impl Server {
    /// Serves clients that wait, and takes new ones, of each device that has some, in turn.
    pub(super) fn visit_devices(&mut self, now: Instant) {
        let most = self.connections + ACCEPTS_A_TURN;
        for _ in 0..self.devices.begin_round(now) {
            if self.connections >= most {
                break;
            }
            if let Some(device) = self.devices.next_visit() {
                self.visit_device(now, device, most);
            }
        }
    }

    /// Takes no more clients once so many have ever been accepted: others wait for their turn.
    fn visit_device(&mut self, now: Instant, number: usize, most: u64) {
        let before = self.connections;
        // Before others come.
        self.serve_waiting(now, number);
        self.accept_clients(now, number, most);
        if self.devices.get(number).and_then(|device| device.reopen_at).is_some_and(|at| at <= now) {
            self.open_client_ports(now, number);
        }
        let Some(device) = self.devices.get(number) else { return };
        let takes_clients = self.takes_clients(device);
        // One that was just taken may have made those that wait the next.
        let again =
            takes_clients && device.listeners.has_ready() || self.connections > before && !device.waiting.is_empty();
        let timeout = device.poll_timeout(takes_clients);
        self.devices.end_visit(number, again, timeout);
    }

    fn accept_clients(&mut self, now: Instant, number: usize, most: u64) {
        if !self.devices.get(number).is_some_and(|device| self.takes_clients(device)) {
            return;
        }
        let Some(device) = self.devices.get_mut(number) else { return };
        for _ in 0..device.listeners.begin_round(now) {
            if self.connections >= most {
                break;
            }
            let Some(place) = self.devices.get_mut(number).and_then(|device| device.listeners.next_visit()) else {
                continue;
            };
            for _ in 0..ACCEPTS {
                if !self.accept_client(now, number, place) {
                    break;
                }
            }
            let Some(device) = self.devices.get_mut(number) else { return };
            let Some((listener, _)) = device.listeners.get(place) else { continue };
            let (again, timeout) = (listener.is_ready(now), listener.paused_until());
            device.listeners.end_visit(place, again, timeout);
        }
    }

    /// Whether the device is there for clients. Until its version is fixed, and where that matters what it offers, they
    /// wait in the port's backlog.
    pub(super) fn takes_clients(&self, device: &Device) -> bool {
        let link = device.active.and_then(|number| self.sessions.get(number));
        link.is_some_and(|peer| {
            let connection = peer.session.connection();
            connection.is_ready() && (connection.has_introduction() || !device.needs_introduction())
        })
    }

    /// Something has happened to a link: if clients wait for its device, now may be their time.
    pub(super) fn wake_device(&mut self, number: usize) {
        let Some(device) = self.sessions.get(number).and_then(|peer| peer.device) else { return };
        let has_clients = |device: &Device| device.active == Some(number) && device.has_clients_to_come();
        if self.devices.get(device).is_some_and(has_clients) {
            // To be borrowed puts it on the ready list.
            let _ = self.devices.get_mut(device);
        }
    }

    /// One client of this listener of a device; false if there is none to take now.
    fn accept_client(&mut self, now: Instant, device: usize, place: usize) -> bool {
        let Some(number) = self.devices.get(device).and_then(|device| device.active) else { return false };
        let listener = self.devices.get(device).and_then(|device| device.listeners.get(place));
        if !listener.is_some_and(|(listener, _)| listener.is_ready(now)) {
            return false;
        }
        // Clients that have just left have no place any more.
        self.carry_out_all(now, number);
        // No room is made where no client has come.
        if !self.has_descriptor(device) && !self.listener(device, place).is_some_and(|(io, _)| io.poll_one()) {
            return false;
        }
        let has_descriptor = self.claim_descriptor(now, device);
        let Some(served) = self.devices.get_mut(device) else { return false };
        let Some((listener, port)) = served.listeners.get_mut(place) else { return false };
        if !has_descriptor {
            listener.pause(now);
            return false;
        }
        let port = *port;
        let Some((io, address)) = listener.accept(now, &mut self.shortage) else { return false };
        // As with the link's: only hastens.
        let _ = net::tune_accepted(&io);
        self.connections += 1;
        let connection = self.connections;
        if self.is_proxy(address) {
            self.await_header(now, io, address, Goal::Client { device, port, connection });
        } else {
            self.add_client(now, device, port, connection, io, address);
        }
        true
    }

    /// A client of this port of a device, by the number of its connection. It gets a place, waits for one, or is refused.
    pub(super) fn add_client(
        &mut self,
        now: Instant,
        device: usize,
        port: usize,
        connection: u64,
        io: TcpStream,
        address: SocketAddr,
    ) {
        let Some(served) = self.devices.get_mut(device) else { return };
        let Some(service) = served.ports.get(port).map(|port| Arc::clone(&port.service)) else { return };
        let active = served.active;
        debug!(connection, client = %address, %service, "a client");
        let client = Client { connection, address, device, port, service, since: now, moved: (0, now) };
        let Some(number) = active else {
            // It was there when the connection was accepted.
            return client.log_end(now, &mut self.log_limits, None, None, &Ending::device_leaves());
        };
        // Those that wait have no claim to this place: they were asked first.
        if self.has_place(number, port, address) {
            self.open_client(now, number, io, client);
        } else if self.make_room_to_wait(now, number, &client) {
            let deadline = now + PLACE_TIMEOUT;
            if let Some(device) = self.devices.get_mut(device) {
                device.waiting.push_back(PendingClient { io, client, deadline });
                self.waiting += 1;
            }
        } else {
            self.refuse(now, number, &client);
        }
    }

    fn listener(&mut self, device: usize, place: usize) -> Option<&mut (Listener, usize)> {
        self.devices.get_mut(device)?.listeners.get_mut(place)
    }

    /// Lets one more client, of its port and from its address, wait for a place; false if it may not. Where no more may
    /// wait, the newest of the address that has the most makes room for one that has fewer.
    fn make_room_to_wait(&mut self, now: Instant, number: usize, client: &Client) -> bool {
        // Those that wait must not take the descriptors of places that are kept for others.
        if self.spare_descriptors() <= self.places(number).1 {
            return false;
        }
        let Some(device) = self.devices.get_mut(client.device) else { return false };
        let (port, waiting) = (client.port, &mut device.waiting);
        let of_port = waiting.iter().filter(|pending| pending.client.port == port);
        if waiting.len() < MAX_WAITING && of_port.clone().count() < (MAX_WAITING / device.ports.len()).max(1) {
            return true;
        }
        let mut by_source: BTreeMap<IpAddr, usize> = BTreeMap::new();
        for pending in of_port {
            *by_source.entry(source(pending.client.address)).or_default() += 1;
        }
        let own = by_source.get(&source(client.address)).copied().unwrap_or_default();
        let Some((most, count)) = by_source.into_iter().max_by_key(|&(_, count)| count) else { return false };
        let is_of_most =
            |PendingClient { client, .. }: &PendingClient| client.port == port && source(client.address) == most;
        let Some(newest) = waiting.iter().rposition(is_of_most).filter(|_| own + 1 < count) else { return false };
        if let Some(PendingClient { client, .. }) = waiting.remove(newest) {
            self.waiting -= 1;
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
        let (connection, from, device) = (client.connection, client.address, client.device);
        let destination = match client.service.destination(peer.session.connection()) {
            Ok(destination) => destination,
            Err(offer) => {
                return client.log_end(now, &mut self.log_limits, None, None, &Ending::unknown_service(offer));
            }
        };
        let Some(key) = peer.session.open(now, destination, from) else { return };
        peer.clients.insert(key, client);
        match self.io.event_loop.register(&mut io, Source::Stream(number as u32, key)) {
            Ok(token) => peer.session.attach(&mut self.io, key, io, token),
            Err(reason) => {
                if self.log_limits.admit(now, device, Kind::Refusal) {
                    warn!(connection, client = %from, %reason, "cannot watch a client");
                }
                let reason = "the relay cannot watch its socket";
                peer.session.give_up(now, &mut self.io, key, Code::Internal, reason);
            }
        }
        self.recount(number);
    }

    /// Clients that wait are served where there is a place for them now, and refused when they have waited for long.
    fn serve_waiting(&mut self, now: Instant, device: usize) {
        let Some(served) = self.devices.get(device).filter(|served| !served.waiting.is_empty()) else { return };
        let Some(number) = served.active else { return };
        let mut shares = self.shares(number);
        while let Some(served) = self.devices.get_mut(device)
            && let Some(pending) = served.next_waiting(&shares).and_then(|at| served.waiting.remove(at))
        {
            self.waiting -= 1;
            shares.add(pending.client.port, pending.client.address);
            self.open_client(now, number, pending.io, pending.client);
        }
        let warning = if shares.is_full() { NO_PLACE } else { NO_SHARE };
        // They were given the same time each, so the first to come is the first to go.
        let Some(served) = self.devices.get_mut(device) else { return };
        while served.waiting.front().is_some_and(|pending| pending.deadline <= now) {
            let Some(PendingClient { client, .. }) = served.waiting.pop_front() else { break };
            self.waiting -= 1;
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
        let device = peer.device.and_then(|device| self.devices.get(device));
        if device.is_some_and(|device| !self.takes_clients(device)) {
            return (0, 0);
        }
        let limit = (self.config.clients as usize).min(self.descriptors.clients);
        let connection = peer.session.connection();
        let places = connection.places().min(limit);
        let free = places.saturating_sub(connection.clients());
        if free == 0 && connection.places() <= limit { (places, connection.yielding()) } else { (places, free) }
    }

    /// The places of the link, and which clients have them; those that only get their last bytes count for a moment longer.
    pub(super) fn shares(&self, number: usize) -> Shares {
        let (places, free) = self.places(number);
        let peer = self.sessions.get(number);
        let device = peer.and_then(|peer| self.devices.get(peer.device?));
        let (ports, is_local) = device.map_or((1, true), |device| (device.ports.len(), device.is_local));
        let mut shares = Shares::new(places, free, ports, is_local);
        for client in peer.iter().flat_map(|peer| peer.clients.values()) {
            shares.note(client.port, client.address);
        }
        shares
    }

    /// Descriptors that are left for clients.
    fn spare_descriptors(&self) -> usize {
        self.descriptors
            .clients
            .saturating_sub(self.totals.streams + self.waiting + self.proxied.len() + self.io.closing.len())
    }

    /// Whether there is a descriptor for one more client of this device.
    fn has_descriptor(&self, device: usize) -> bool {
        let has = self.devices.get(device).map_or(0, Device::descriptors);
        may_have_descriptor(self.devices.len(), has, self.spare_descriptors())
    }

    /// Sees to a descriptor for one more client of a device; false if there is none. The clients of its links that drain
    /// give theirs up.
    fn claim_descriptor(&mut self, now: Instant, device: usize) -> bool {
        if self.has_descriptor(device) {
            return true;
        }
        if self.cut_oldest_drain(now, device, "its descriptors are wanted for new clients") {
            return true;
        }
        let reason = std::io::Error::from_raw_os_error(nix::errno::Errno::EMFILE as i32);
        self.shortage.note(now, &reason);
        false
    }

    /// Ends clients of a link that have moved nothing for the time of [`Config::idle`](crate::relay::Config::idle).
    pub(super) fn end_idle_clients(&mut self, now: Instant, number: usize) {
        let Some(limit) = self.config.idle else { return };
        let Some(peer) = self.sessions.get_mut(number) else { return };
        if peer.clients.is_empty() {
            peer.look_for_idle_at = None;
        }
        if peer.clients.is_empty() || peer.look_for_idle_at.is_some_and(|at| at > now) {
            return;
        }
        peer.look_for_idle_at = Some(now + LOOK_FOR_IDLE.min(limit));
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

    /// The device is there: its ports take clients from here on.
    pub(super) fn open_client_ports(&mut self, now: Instant, number: usize) {
        let Some(device) = self.devices.get_mut(number) else { return };
        device.reopen_at = None;
        for place in device.listeners.numbers() {
            let Some((listener, port)) = device.listeners.get_mut(place) else { continue };
            if listener.is_listening() {
                continue;
            }
            let port = &mut device.ports[*port];
            let (at, service) = (listener.address(), &port.service);
            match listener.listen(&mut self.io.event_loop) {
                // Devices come and go as they like; once is enough.
                Ok(()) if port.is_announced => debug!(%service, %at, "clients may connect"),
                Ok(()) => info!(%service, %at, "clients may connect"),
                Err(reason) => {
                    if self.log_limits.admit(now, number, Kind::Arrival) {
                        warn!(%service, %at, %reason, "cannot listen for clients; trying again in 1 s");
                    }
                    device.reopen_at = Some(now + REOPEN);
                }
            }
        }
        for port in &mut device.ports {
            port.is_announced = true;
        }
    }

    /// The device is not there for new clients: its ports refuse them, and those that wait for a place end so.
    pub(super) fn close_client_ports(&mut self, now: Instant, number: usize, ending: &Ending) {
        let Some(device) = self.devices.get_mut(number) else { return };
        device.reopen_at = None;
        self.waiting -= device.waiting.len();
        for PendingClient { client, .. } in device.waiting.drain(..) {
            client.log_end(now, &mut self.log_limits, None, None, ending);
        }
        for place in device.listeners.numbers() {
            if let Some((listener, _)) = device.listeners.get_mut(place)
                && let Err(reason) = listener.stop(&mut self.io.event_loop)
                && self.log_limits.admit(now, number, Kind::Departure)
            {
                warn!(at = %listener.address(), %reason, "cannot close a client port");
            }
        }
    }
}

/// What is logged of a client that has waited in vain for a place that is kept for others.
const NO_SHARE: &str =
    "refused a client: its port, or its address, has its share of the places; the last ones are kept for others";
