//! Sums and orders over all sessions, kept by difference whenever one was visited, so that no wake adds them up.

use std::collections::BTreeSet;
use std::time::Instant;

use super::{Peer, Stage};
use crate::connection::Connection;

/// What all sessions come to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Totals {
    /// Clients on every link.
    pub(super) clients: usize,
    /// Streams of every link, also those that only get their last bytes.
    pub(super) streams: usize,
    /// Clients that have no line in the log yet.
    pub(super) unlogged: usize,
    /// Connections that are no link yet.
    pub(super) pending: Order,
    /// Links that take no new clients.
    pub(super) draining: Order,
    /// Links that are gone and only deliver what is left.
    pub(super) lost: Order,
}

/// Sessions by number, the one first that has been there for the longest time.
pub(super) type Order = BTreeSet<(Instant, usize)>;

/// What one session adds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Share {
    clients: usize,
    streams: usize,
    unlogged: usize,
    stage: Option<Stage>,
}

impl Share {
    /// What the session adds as it is now.
    pub(super) fn of(peer: &Peer) -> Self {
        let connection = peer.session.connection();
        let (clients, streams) = (connection.clients(), connection.streams());
        Self { clients, streams, unlogged: peer.clients.len(), stage: Some(peer.stage) }
    }
}

impl Totals {
    pub(super) fn add(&mut self, number: usize, share: &Share) {
        self.clients += share.clients;
        self.streams += share.streams;
        self.unlogged += share.unlogged;
        if let Some((order, since)) = self.order(share.stage) {
            order.insert((since, number));
        }
    }

    pub(super) fn subtract(&mut self, number: usize, share: &Share) {
        self.clients -= share.clients;
        self.streams -= share.streams;
        self.unlogged -= share.unlogged;
        if let Some((order, since)) = self.order(share.stage) {
            order.remove(&(since, number));
        }
    }

    fn order(&mut self, stage: Option<Stage>) -> Option<(&mut Order, Instant)> {
        match stage? {
            Stage::Pending(since) => Some((&mut self.pending, since)),
            Stage::InUse => None,
            Stage::Draining(since) => Some((&mut self.draining, since)),
            Stage::Lost(since) => Some((&mut self.lost, since)),
        }
    }
}
