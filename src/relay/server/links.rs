//! The device ports, and the links that come from them: pending, in use, draining, and lost.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use tracing::field::display;
use tracing::{debug, info, warn};

use super::client_log::Ending;
use super::log_limits::Kind;
use super::proxied::Goal;
use super::secured::Proof;
use super::stray::protocol_of;
use super::totals::{Order, Share, Totals};
use super::{Peer, Phase, Server, Stage};
use crate::connection::relay::{Relay, Settings};
use crate::connection::{Connection, Reset};
use crate::io::event_loop::Source;
use crate::io::net;
use crate::io::retired;
use crate::io::session::{LinkLost, Session};
use crate::protocol::v2::Code;
use crate::relay::Config;
use crate::relay::limits::{self, ACCEPTS, DEVICE_PORTS_A_TURN};
use crate::relay::listener::Listener;
use crate::tls::TlsError;

/// How long a link may finish beside the one in use.
pub(super) const DRAIN_TIMEOUT: Duration = Duration::from_secs(300);

/// Of how much use a link that drains is to its clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    /// It has none.
    None,
    /// Its device was asked whether it is there, and has not answered: where many have lost their network at once, most of
    /// their old links are dead.
    Doubtful,
    /// Its device is there.
    Certain,
}

/// Those that can be spared the most come first.
const SPARED: [Use; 3] = [Use::None, Use::Doubtful, Use::Certain];

/// Where devices connect that are known by their port.
#[derive(Debug)]
pub(super) struct DevicePort {
    pub(super) listener: Listener,
    /// The device that it is for; none, if it is for all that are in TLS.
    pub(super) device: Option<usize>,
}

impl Server {
    /// One connection of each device port that has some, in turn.
    pub(super) fn accept_devices(&mut self, now: Instant) {
        for _ in 0..self.device_ports.begin_round(now).min(DEVICE_PORTS_A_TURN) {
            let Some(place) = self.device_ports.next_visit() else { continue };
            let Some(port) = self.device_ports.get_mut(place) else { continue };
            let device = port.device;
            // A fleet may come back at once, and none of it costs much before its handshake.
            let most = if device.is_some() { 1 } else { ACCEPTS };
            let accepted: Vec<_> =
                std::iter::from_fn(|| port.listener.accept(now, &mut self.shortage)).take(most).collect();
            let (again, timeout) = (port.listener.is_ready(now), port.listener.paused_until());
            self.device_ports.end_visit(place, again, timeout);
            for (io, from) in accepted {
                if self.is_proxy(from) {
                    self.await_header(now, io, from, Goal::Device(device));
                } else {
                    self.add_connection(now, device, io, from);
                }
            }
        }
    }

    /// A connection that came by a port for links: that of this device, or the one for TLS.
    pub(super) fn add_connection(&mut self, now: Instant, device: Option<usize>, io: TcpStream, address: SocketAddr) {
        match device {
            Some(device) => self.add_pending(now, device, io, address),
            None => self.add_to_handshakes(now, io, address),
        }
    }

    /// A connection that came by the port of this device.
    fn add_pending(&mut self, now: Instant, device: usize, mut io: TcpStream, address: SocketAddr) {
        self.drop_one_pending(now);
        // The options only hasten what the protocol does without them.
        let _ = net::tune_link(&io);
        let number = self.sessions.reserve();
        let token = match self.io.event_loop.register(&mut io, Source::Link(number)) {
            Ok(token) => token,
            Err(reason) => {
                self.sessions.remove(number);
                if self.log_limits.admit(now, device, Kind::Stray) {
                    warn!(link = %address, %reason, "cannot watch a connection on the device port");
                }
                return;
            }
        };
        debug!(link = %address, "a connection on the device port");
        let Config { protocol, min_protocol, half_close, limits, .. } = self.config;
        let connection = Relay::new(now, Settings { protocol, min_protocol, half_close, limits });
        self.add_session(now, number, Session::new(connection, number, io, token), address, device);
    }

    pub(super) fn add_session(
        &mut self,
        now: Instant,
        number: usize,
        session: Session<Relay>,
        address: SocketAddr,
        port_device: usize,
    ) {
        self.insert_session(number, session, address, Some(port_device), Stage::Pending(now), None);
    }

    pub(super) fn insert_session(
        &mut self,
        number: usize,
        mut session: Session<Relay>,
        address: SocketAddr,
        port_device: Option<usize>,
        stage: Stage,
        proof: Option<Proof>,
    ) {
        session.set_owner(port_device.unwrap_or(Self::NO_DEVICE));
        let peer = Peer {
            session,
            address,
            port_device,
            device: None,
            clients: BTreeMap::new(),
            look_for_idle_at: None,
            stage,
            proof,
            share: Share::default(),
        };
        self.sessions.insert(number, peer);
        self.recount(number);
    }

    /// A link that takes no new clients is not the one to bring them to. The device closes it with its last one; those
    /// that do not must not fill the relay.
    pub(super) fn leave_if_going_away(&mut self, now: Instant, number: usize) {
        let Some(peer) = self.sessions.get_mut(number) else { return };
        if !peer.session.has_link() || !peer.session.connection().is_going_away() {
            return;
        }
        let in_use = peer.device.filter(|_| peer.stage == Stage::InUse);
        if in_use.is_some() {
            peer.stage = Stage::Draining(now);
        }
        self.recount(number);
        // Before the bound, which may take out this very link: its number would be the next one's.
        self.leave_device(now, number, &Ending::device_leaves());
        if let Some(device) = in_use {
            self.bound_draining(now, device);
        }
    }

    /// If it was the link on which its device is served, that has none now.
    pub(super) fn leave_device(&mut self, now: Instant, number: usize, ending: &Ending) {
        if self.is_active(number)
            && let Some(device) = self.sessions.get(number).and_then(|peer| peer.device)
        {
            self.note_seen(number);
            self.serve(device, None);
            self.close_client_ports(now, device, ending);
        }
    }

    pub(super) fn lose_link(&mut self, now: Instant, number: usize, reason: &LinkLost) {
        let Some(peer) = self.sessions.get_mut(number) else { return };
        let (link, device) = (peer.address, peer.log_device());
        let is_announced = !matches!(reason, LinkLost::Protocol(_)) && peer.session.connection().is_going_away();
        if peer.session.connection().is_listening() {
            let clients = peer.session.connection().clients();
            if self.log_limits.admit(now, device, Kind::Departure) {
                if is_announced {
                    info!(%link, clients, "the link to the device has ended, as was announced");
                } else {
                    warn!(%link, clients, %reason, "the link to the device is lost");
                }
            }
        } else if !peer.has_input() && is_silent_end(reason) {
            debug!(%link, %reason, "a connection on the device port has ended without a byte");
        } else if is_announced || peer.proof.as_ref().is_some_and(Proof::is_refused) {
            // What it said, or was to be told, has a line of its own.
            debug!(%link, %reason, "a device has left before it was let in");
        } else if self.log_limits.admit(now, device, Kind::Stray) {
            let looks_like = protocol_of(reason).map(display);
            if peer.has_input() || looks_like.is_some() {
                warn!(%link, looks_like, %reason, "dropped a connection on the device port");
            } else {
                info!(%link, %reason, "dropped a connection on the device port");
            }
        }
        self.answer_in_the_clear(now, number, reason);
        let Some(peer) = self.sessions.get_mut(number) else { return };
        peer.session.abort_link(now, &mut self.io);
        self.end_handshake(number);
        self.leave_device(now, number, &Reset::LinkLost.into());
    }

    pub(super) fn close_link(&mut self, number: usize) {
        if let Some(peer) = self.sessions.get_mut(number)
            && peer.session.has_link()
        {
            peer.session.close_link(Instant::now(), &mut self.io);
        }
    }

    /// A session without a link lives until its complete streams have delivered what is left.
    pub(super) fn forget_if_over(&mut self, now: Instant, number: usize) {
        let Some(peer) = self.sessions.get_mut(number).filter(|peer| !peer.session.has_link()) else { return };
        if peer.session.connection().streams() == 0 {
            self.remove(number);
        } else if !matches!(peer.stage, Stage::Lost(_)) {
            peer.stage = Stage::Lost(now);
            let device = peer.log_device();
            self.recount(number);
            self.bound_lost(now, device);
        }
    }

    /// The relay ends: connections that have not sent LISTEN are not to become links any more.
    pub(super) fn drop_pending(&mut self, now: Instant) {
        while let Some(&(_, number)) = self.totals.pending.first() {
            self.cut(now, number, Code::Shutdown, "the relay is about to end");
        }
        if let Some(secured) = &mut self.secured {
            secured.handshakes.drop_waiting();
        }
        let in_handshake = |number: &usize| {
            let peer = self.sessions.get(*number);
            peer.is_some_and(|peer| matches!(peer.stage, Stage::Handshake(_)))
        };
        for number in self.sessions.numbers().into_iter().filter(in_handshake).collect::<Vec<_>>() {
            self.cut(now, number, Code::Shutdown, "the relay is about to end");
        }
    }

    /// Makes room for one more connection without LISTEN. A device sends it at once, so the oldest is the least likely
    /// to be one; but not the oldest of all: a device whose port is flooded loses its own.
    fn drop_one_pending(&mut self, now: Instant) {
        if self.totals.pending.len() < self.descriptors.pending {
            return;
        }
        let Some(number) = self.oldest_of_most(self.totals.pending.iter(), |_| 1) else { return };
        let Some(peer) = self.sessions.get(number) else { return };
        let (link, device, others) = (peer.address, peer.log_device(), self.descriptors.pending);
        if self.log_limits.admit(now, device, Kind::Stray) {
            warn!(%link, others, "dropped a connection on the device port: too many others have not sent LISTEN yet");
        }
        self.cut(now, number, Code::Overload, "");
    }

    /// Of these sessions the oldest one of the device that has the most of them, by weight. It looks at all of them: for
    /// what has a bound, and has reached it.
    fn oldest_of_most<'a>(
        &self,
        order: impl Iterator<Item = &'a (Instant, usize)>,
        weight: impl Fn(&Peer) -> u64,
    ) -> Option<usize> {
        // Behind each weight the time before which none came, turned around, so that the oldest is the greatest.
        let mut by_device: BTreeMap<usize, (u64, Reverse<(Instant, usize)>)> = BTreeMap::new();
        for &(since, number) in order {
            let Some(peer) = self.sessions.get(number) else { continue };
            let (sum, oldest) = by_device.entry(peer.log_device()).or_insert((0, Reverse((since, number))));
            *sum += weight(peer);
            *oldest = (*oldest).max(Reverse((since, number)));
        }
        by_device.into_values().max().map(|(_, Reverse((_, number)))| number)
    }

    /// Makes room for one more link that drains, be it among those of its device or of all: of those that can be spared the
    /// most the oldest goes.
    pub(super) fn bound_draining(&mut self, now: Instant, device: usize) {
        let Some(totals) = self.devices.get(device).map(|device| &device.totals) else { return };
        let number = if totals.draining.len() > retired::MAX_DRAINING {
            SPARED.into_iter().find_map(|use_| self.oldest_drain(device, use_))
        } else if self.totals.draining.len() > limits::MAX_DRAINING && !self.is_ending() {
            let of_use = |use_| {
                let order = self.totals.draining.iter().filter(|&&(_, number)| self.use_of(number) == Some(use_));
                self.oldest_of_most(order, |_| 1)
            };
            SPARED.into_iter().find_map(of_use)
        } else {
            None
        };
        if let Some(number) = number {
            self.cut_draining(now, number, "too many others do, too");
        }
    }

    /// The link of this device that has drained for the longest time makes room; false if none drains.
    pub(super) fn cut_oldest_drain(&mut self, now: Instant, device: usize, reason: &str) -> bool {
        let oldest = [Use::Doubtful, Use::Certain].into_iter().find_map(|use_| self.oldest_drain(device, use_));
        if let Some(number) = oldest {
            self.cut_draining(now, number, reason);
        }
        oldest.is_some()
    }

    /// The link of a device that has drained for the longest time, of those of this use.
    fn oldest_drain(&self, device: usize, use_: Use) -> Option<usize> {
        let mut numbers = self.devices.get(device)?.totals.draining.iter().map(|&(_, number)| number);
        numbers.find(|&number| self.use_of(number) == Some(use_))
    }

    /// Of how much use a link is that drains.
    fn use_of(&self, number: usize) -> Option<Use> {
        let connection = self.sessions.get(number)?.session.connection();
        Some(match (connection.streams(), connection.owes_sign()) {
            (0, _) => Use::None,
            (_, true) => Use::Doubtful,
            (_, false) => Use::Certain,
        })
    }

    /// Links that have had their time are cut, but not while the relay ends, which has a time of its own.
    pub(super) fn end_long_drains(&mut self, now: Instant) {
        while self.drains_until().is_some_and(|at| at <= now)
            && let Some(&(_, number)) = self.totals.draining.first()
        {
            self.cut_draining(now, number, "it has had 300 s");
        }
    }

    /// When [`end_long_drains`](Self::end_long_drains) is due.
    pub(super) fn drains_until(&self) -> Option<Instant> {
        let oldest = self.totals.draining.first().filter(|_| !self.is_ending());
        oldest.map(|&(since, _)| since + DRAIN_TIMEOUT)
    }

    fn cut_draining(&mut self, now: Instant, number: usize, reason: &str) {
        let Some(peer) = self.sessions.get_mut(number) else { return };
        let (clients, device) = (peer.session.connection().streams(), peer.log_device());
        if self.log_limits.admit(now, device, Kind::Departure) {
            warn!(link = %peer.address, clients, %reason, "cut a link that drains");
        }
        peer.session.abort_link(now, &mut self.io);
        self.carry_out_all(now, number);
        self.forget_if_over(now, number);
    }

    /// Makes room for the last bytes of one more link that is gone: the one that has had the longest time for them is
    /// reset. At the relay's own end all links are gone at once, for a second.
    fn bound_lost(&mut self, now: Instant, device: usize) {
        let Some(totals) = self.devices.get(device).map(|device| &device.totals) else { return };
        let (number, others) = if self.is_ending() {
            return;
        } else if totals.lost.len() > retired::MAX_LOST {
            (first(&totals.lost), retired::MAX_LOST)
        } else if self.totals.lost.len() > limits::MAX_LOST {
            (self.oldest_of_most(self.totals.lost.iter(), |_| 1), limits::MAX_LOST)
        } else {
            return;
        };
        let Some((number, peer)) = number.and_then(|number| Some((number, self.sessions.get(number)?))) else { return };
        let (link, clients, device) = (peer.address, peer.session.connection().streams(), peer.log_device());
        if self.log_limits.admit(now, device, Kind::Departure) {
            warn!(%link, clients, others, "reset clients of a link that is gone: too many others are, too");
        }
        self.cut(now, number, Code::Overload, "too many links that are gone have last bytes to deliver");
    }

    /// What waits for clients of all links together is bounded: past that the link that has the most resets some of them.
    /// It gives up half of what it has, so that one look at all links frees much.
    pub(super) fn bound_undelivered(&mut self, now: Instant) {
        while self.totals.undelivered > self.most_undelivered {
            let most = self.sessions.iter().max_by_key(|(_, peer)| peer.share.undelivered);
            let Some((number, before)) = most.map(|(number, peer)| (number, peer.share.undelivered)) else { return };
            if let Some(peer) = self.sessions.get_mut(number) {
                peer.session.shed(before / 2);
            }
            self.carry_out_all(now, number);
            self.recount(number);
        }
    }

    /// Links of a device that are not in use any more hold no more than one that is, all together, and those of all devices
    /// no more than a few: else the oldest is cut. At the relay's own end there are none in use, nor any new ones.
    pub(super) fn bound_retired(&mut self, now: Instant, device: usize) {
        while !self.is_ending() {
            let Some(number) = self.retired_in_excess(device) else { return };
            if let Some(peer) = self.sessions.get(number)
                && self.log_limits.admit(now, peer.log_device(), Kind::Departure)
            {
                let (link, clients) = (peer.address, peer.session.connection().streams());
                warn!(%link, clients, "cut a link that is not in use any more: all of these together hold too much");
            }
            self.cut(now, number, Code::Overload, "links that are not in use any more hold too much");
        }
    }

    /// The link that is to be cut, if links that are not in use any more hold too much, be it those of this device or all.
    fn retired_in_excess(&self, device: usize) -> Option<usize> {
        let Totals { draining, lost, .. } = &self.devices.get(device)?.totals;
        let of_device = draining.iter().chain(lost);
        let of_device =
            of_device.filter_map(|&(since, number)| Some((since, number, &self.sessions.get(number)?.session)));
        let excess = retired::excess(of_device, limits::retired_bytes(&self.config.limits));
        excess.or_else(|| {
            let all = self.totals.draining.iter().chain(&self.totals.lost);
            let is_too_much = self.totals.retired_bytes > limits::retired_bytes_of_all(&self.config.limits);
            is_too_much.then(|| self.oldest_of_most(all, |peer| peer.session.held()))?
        })
    }

    /// No new device or client is taken.
    pub(super) fn is_ending(&self) -> bool {
        self.phase != Phase::Serving
    }
}

fn first(order: &Order) -> Option<usize> {
    order.first().map(|&(_, number)| number)
}

/// A load balancer that looks whether the port is open does this, every few seconds.
fn is_silent_end(reason: &LinkLost) -> bool {
    match reason {
        LinkLost::Ended => true,
        LinkLost::Failed(error) => error.kind() == io::ErrorKind::ConnectionReset,
        LinkLost::Tls(error) => *error == TlsError::EndInHandshake,
        LinkLost::Protocol(_) => false,
    }
}
