//! The device port, and the links that come from it: the newest that sent LISTEN is the one that is served.

use std::time::Instant;

use tracing::{debug, info, warn};

use super::super::Config;
use super::super::core::{Relay, Settings};
use super::{Peer, Server};
use crate::event_loop::{EventLoop, Source};
use crate::link::Endpoint;
use crate::net;
use crate::protocol::v2::Code;
use crate::session::{LinkLost, Session};

/// Connections on the device port that may be without LISTEN at once.
const MAX_PENDING: usize = 64;
/// Links that may finish beside the one in use.
pub(super) const MAX_DRAINING: usize = 8;
/// Links that are gone and whose last bytes may still be delivered. Each may hold as much as one in use.
pub(super) const MAX_LOST: usize = 4;

impl Server {
    pub(super) fn accept_devices(&mut self, now: Instant) -> bool {
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
            let peer = Peer {
                session: Session::new(endpoint, number, io, token),
                address,
                draining_since: None,
                lost_since: None,
            };
            if number == self.sessions.len() {
                self.sessions.push(None);
            }
            self.sessions[number] = Some(peer);
        }
        busy
    }

    /// The newest device that sent LISTEN is the one that is served, at once.
    pub(super) fn activate(&mut self, now: Instant, number: usize) {
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

    /// A link that takes no new clients is not the one to bring them to. The device closes it with its last one; those
    /// that do not must not fill the relay.
    pub(super) fn leave_if_going_away(&mut self, now: Instant, number: usize) {
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

    pub(super) fn lose_link(&mut self, now: Instant, number: usize, reason: &LinkLost) {
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

    pub(super) fn close_link(&mut self, number: usize) {
        if let Some(Some(peer)) = self.sessions.get_mut(number)
            && peer.session.has_link()
        {
            peer.session.close_link(Instant::now(), &mut self.event_loop, &mut self.lingering);
        }
    }

    /// A session without a link lives until its complete streams have delivered what is left.
    pub(super) fn forget_if_over(&mut self, now: Instant, number: usize) {
        let Some(slot) = self.sessions.get_mut(number) else { return };
        let Some(peer) = slot.as_mut().filter(|peer| !peer.session.has_link()) else { return };
        if peer.session.endpoint.streams() == 0 {
            *slot = None;
        } else if peer.lost_since.is_none() {
            peer.lost_since = Some(now);
            // At the relay's own end all links are gone at once, for a second.
            if !self.device_listeners.is_empty() {
                drop_oldest_lost(now, &mut self.event_loop, &mut self.sessions);
            }
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

/// Makes room for the last bytes of one more link that is gone: who has had the longest time for theirs is reset.
fn drop_oldest_lost(now: Instant, event_loop: &mut EventLoop, sessions: &mut [Option<Peer>]) {
    let lost_since = |slot: &Option<Peer>| slot.as_ref().and_then(|peer| peer.lost_since);
    if sessions.iter().filter(|slot| lost_since(slot).is_some()).count() <= MAX_LOST {
        return;
    }
    let oldest = sessions.iter_mut().filter(|slot| lost_since(slot).is_some()).min_by_key(|slot| lost_since(slot));
    if let Some(mut oldest) = oldest.and_then(Option::take) {
        let clients = oldest.session.endpoint.streams();
        warn!(address = %oldest.address, clients, "reset clients of a link that is gone: {MAX_LOST} others are, too");
        oldest.session.abort(now, event_loop);
    }
}
