//! The device port, and the links that come from it: the newest that sent LISTEN is the one that is served.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tracing::field::display;
use tracing::{debug, info, warn};

use super::super::Config;
use super::client_log::Ending;
use super::log_limits::Kind;
use super::stray::protocol_of;
use super::totals::{Order, Share};
use super::{Peer, Server, Stage};
use crate::connection::relay::{Relay, Settings};
use crate::connection::{Connection, Reset};
use crate::io::event_loop::Source;
use crate::io::net;
use crate::io::retired::{self, MAX_DRAINING, MAX_LOST};
use crate::io::session::{LinkLost, Session};
use crate::protocol::v2::Code;

/// How long a link may finish beside the one in use.
pub(super) const DRAIN_TIMEOUT: Duration = Duration::from_secs(300);

impl Server {
    pub(super) fn accept_devices(&mut self, now: Instant) {
        for place in 0..self.device_listeners.len() {
            let Some((mut io, address)) = self.device_listeners[place].accept(now, &mut self.shortage) else {
                continue;
            };
            self.drop_oldest_pending(now);
            // The options only hasten what the protocol does without them.
            let _ = net::tune_link(&io);
            let number = self.sessions.reserve();
            let token = match self.io.event_loop.register(&mut io, Source::Link(number)) {
                Ok(token) => token,
                Err(reason) => {
                    self.sessions.remove(number);
                    if self.log_limits.admit(now, Kind::Stray) {
                        warn!(link = %address, %reason, "cannot watch a connection on the device port");
                    }
                    continue;
                }
            };
            debug!(link = %address, "a connection on the device port");
            let Config { protocol, min_protocol, half_close, limits, .. } = self.config;
            let connection = Relay::new(now, Settings { protocol, min_protocol, half_close, limits });
            self.add_session(now, number, Session::new(connection, number, io, token), address);
        }
    }

    pub(super) fn add_session(&mut self, now: Instant, number: usize, session: Session<Relay>, address: SocketAddr) {
        let peer =
            Peer { session, address, clients: BTreeMap::new(), stage: Stage::Pending(now), share: Share::default() };
        self.sessions.insert(number, peer);
        self.recount(number);
    }

    /// The newest device that sent LISTEN is the one that is served, at once; but not one whose link is lost, be it by what
    /// came behind LISTEN, or since it left while the relay was stopped or had much to do. It would take the place of one
    /// that is there, and leave the place empty.
    pub(super) fn activate(&mut self, now: Instant, number: usize) {
        let Some(peer) = self.sessions.get(number) else { return };
        if !peer.session.has_link() {
            return;
        }
        if let Some(reason) = peer.session.link_end() {
            return self.lose_link(now, number, &reason);
        }
        if self.log_limits.admit(now, Kind::Arrival) {
            info!(link = %peer.address, "a device is here");
        }
        if let Some(peer) = self.sessions.get_mut(number) {
            peer.stage = Stage::InUse;
        }
        let replaced = self.active.replace(number);
        if let Some(old) = replaced.and_then(|old| self.sessions.get_mut(old)) {
            let clients = old.session.connection().clients();
            if self.log_limits.admit(now, Kind::Departure) {
                info!(link = %old.address, clients, "a newer device takes the place of this one");
            }
            old.session.go_away(now, Code::Replaced, 0, "a newer link took the place of this one");
            old.session.abort_link(now, &mut self.io);
        }
        self.open_client_ports(now);
    }

    /// A link that takes no new clients is not the one to bring them to. The device closes it with its last one; those
    /// that do not must not fill the relay.
    pub(super) fn leave_if_going_away(&mut self, now: Instant, number: usize) {
        let Some(peer) = self.sessions.get_mut(number) else { return };
        if !peer.session.has_link() || !peer.session.connection().is_going_away() {
            return;
        }
        if peer.stage == Stage::InUse {
            peer.stage = Stage::Draining(now);
            self.recount(number);
            self.drop_oldest_draining(now);
        }
        if self.active == Some(number) {
            self.active = None;
            self.close_client_ports(&Ending::device_leaves());
        }
    }

    pub(super) fn lose_link(&mut self, now: Instant, number: usize, reason: &LinkLost) {
        let Some(peer) = self.sessions.get_mut(number) else { return };
        let link = peer.address;
        if peer.session.connection().is_listening() {
            let clients = peer.session.connection().clients();
            if self.log_limits.admit(now, Kind::Departure) {
                if !matches!(reason, LinkLost::Protocol(_)) && peer.session.connection().is_going_away() {
                    info!(%link, clients, "the link to the device has ended, as was announced");
                } else {
                    warn!(%link, clients, %reason, "the link to the device is lost");
                }
            }
        } else if !peer.session.connection().has_input() && is_silent_end(reason) {
            debug!(%link, %reason, "a connection on the device port has ended without a byte");
        } else if self.log_limits.admit(now, Kind::Stray) {
            let looks_like = protocol_of(reason).map(display);
            if peer.session.connection().has_input() {
                warn!(%link, looks_like, %reason, "dropped a connection on the device port");
            } else {
                info!(%link, %reason, "dropped a connection on the device port");
            }
        }
        peer.session.abort_link(now, &mut self.io);
        if self.active == Some(number) {
            self.active = None;
            self.close_client_ports(&Reset::LinkLost.into());
        }
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
            self.recount(number);
            // At the relay's own end all links are gone at once, for a second.
            if !self.is_ending() {
                self.drop_oldest_lost(now);
            }
        }
    }

    /// The relay ends: connections that have not sent LISTEN are not to become links any more.
    pub(super) fn drop_pending(&mut self, now: Instant) {
        while let Some(&(_, number)) = self.totals.pending.first() {
            self.cut(now, number, Code::Shutdown, "the relay is about to end");
        }
    }

    /// Makes room for one more connection without LISTEN. A device sends it at once, so the oldest is the least likely
    /// to be one.
    fn drop_oldest_pending(&mut self, now: Instant) {
        if self.totals.pending.len() < self.descriptors.pending {
            return;
        }
        let Some((number, peer)) = self.first(&self.totals.pending) else { return };
        let (link, others) = (peer.address, self.descriptors.pending);
        if self.log_limits.admit(now, Kind::Stray) {
            warn!(%link, others, "dropped a connection on the device port: too many others have not sent LISTEN yet");
        }
        self.cut(now, number, Code::Overload, "");
    }

    /// Makes room for one more link that drains: of those without clients, if there are any, the oldest goes.
    fn drop_oldest_draining(&mut self, now: Instant) {
        if self.totals.draining.len() <= MAX_DRAINING {
            return;
        }
        if let Some(number) = self.oldest_drain(false).or_else(|| self.oldest_drain(true)) {
            self.cut_draining(now, number, "too many others do, too");
        }
    }

    /// The link that has drained for the longest time makes room; false if none drains.
    pub(super) fn cut_oldest_drain(&mut self, now: Instant, reason: &str) -> bool {
        let oldest = self.oldest_drain(true);
        if let Some(number) = oldest {
            self.cut_draining(now, number, reason);
        }
        oldest.is_some()
    }

    /// The link that has drained for the longest time, of those that have clients or of those that have none.
    fn oldest_drain(&self, has_clients: bool) -> Option<usize> {
        let numbers = self.totals.draining.iter().map(|&(_, number)| number);
        let has_streams = |peer: &Peer| peer.session.connection().streams() > 0;
        numbers.into_iter().find(|&number| self.sessions.get(number).map(has_streams) == Some(has_clients))
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
        let clients = peer.session.connection().streams();
        if self.log_limits.admit(now, Kind::Departure) {
            warn!(link = %peer.address, clients, %reason, "cut a link that drains");
        }
        peer.session.abort_link(now, &mut self.io);
        self.carry_out_all(now, number);
        self.forget_if_over(now, number);
    }

    /// Makes room for the last bytes of one more link that is gone: the one that has had the longest time for them is
    /// reset.
    fn drop_oldest_lost(&mut self, now: Instant) {
        if self.totals.lost.len() <= MAX_LOST {
            return;
        }
        let Some((number, peer)) = self.first(&self.totals.lost) else { return };
        let (link, clients) = (peer.address, peer.session.connection().streams());
        if self.log_limits.admit(now, Kind::Departure) {
            warn!(%link, clients, others = MAX_LOST, "reset clients of a link that is gone: too many others are, too");
        }
        self.cut(now, number, Code::Overload, "too many links that are gone have last bytes to deliver");
    }

    /// Links that are not in use any more hold no more than one that is, all together: else the oldest is cut. At the
    /// relay's own end there are none in use, nor any new ones.
    pub(super) fn bound_retired(&mut self, now: Instant) {
        while !self.is_ending() {
            let retired = self.totals.draining.iter().chain(&self.totals.lost);
            let sessions =
                retired.filter_map(|&(since, number)| Some((since, number, &self.sessions.get(number)?.session)));
            let Some(number) = retired::excess(sessions, self.config.limits.budget) else { return };
            if let Some(peer) = self.sessions.get(number)
                && self.log_limits.admit(now, Kind::Departure)
            {
                let (link, clients) = (peer.address, peer.session.connection().streams());
                warn!(%link, clients, "cut a link that is not in use any more: all of these together hold too much");
            }
            self.cut(now, number, Code::Overload, "links that are not in use any more hold too much");
        }
    }

    /// No new device or client is taken.
    fn is_ending(&self) -> bool {
        self.device_listeners.is_empty()
    }

    fn first(&self, order: &Order) -> Option<(usize, &Peer)> {
        let &(_, number) = order.first()?;
        Some((number, self.sessions.get(number)?))
    }
}

/// A load balancer that looks whether the port is open does this, every few seconds.
fn is_silent_end(reason: &LinkLost) -> bool {
    match reason {
        LinkLost::Ended => true,
        LinkLost::Failed(error) => error.kind() == io::ErrorKind::ConnectionReset,
        LinkLost::Protocol(_) => false,
    }
}
