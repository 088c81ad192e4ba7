//! Sums and orders over sessions, of one device and of all, kept by difference whenever one was visited, so that no wake
//! adds them up.

use std::collections::BTreeSet;
use std::time::Instant;

use super::{Peer, Stage};
use crate::connection::Connection;

/// What sessions come to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Totals {
    /// Clients on every link.
    pub(super) clients: usize,
    /// Streams of every link, also those that only get their last bytes.
    pub(super) streams: usize,
    /// Connections that are no link yet.
    pub(super) pending: Order,
    /// Links that take no new clients.
    pub(super) draining: Order,
    /// Links that are gone and only deliver what is left.
    pub(super) lost: Order,
    /// Bytes that links of both of these hold.
    pub(super) retired_bytes: u64,
    /// Bytes that wait for clients of every link.
    pub(super) undelivered: u64,
}

/// Sessions by number, the one first that has been there for the longest time.
pub(super) type Order = BTreeSet<(Instant, usize)>;

/// What one session adds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Share {
    /// To the totals of which device, besides those of all.
    pub(super) device: Option<usize>,
    clients: usize,
    streams: usize,
    stage: Option<Stage>,
    retired_bytes: u64,
    pub(super) undelivered: u64,
}

impl Share {
    /// What the session adds as it is now.
    pub(super) fn of(peer: &Peer) -> Self {
        let connection = peer.session.connection();
        Self {
            device: peer.device,
            clients: connection.clients(),
            streams: connection.streams(),
            stage: Some(peer.stage),
            retired_bytes: if peer.stage.is_retired() { peer.session.held() } else { 0 },
            undelivered: connection.undelivered(),
        }
    }
}

impl Totals {
    pub(super) fn add(&mut self, number: usize, share: &Share) {
        self.clients += share.clients;
        self.streams += share.streams;
        self.retired_bytes += share.retired_bytes;
        self.undelivered += share.undelivered;
        if let Some((order, since)) = self.order(share.stage) {
            order.insert((since, number));
        }
    }

    pub(super) fn subtract(&mut self, number: usize, share: &Share) {
        self.clients -= share.clients;
        self.streams -= share.streams;
        self.retired_bytes -= share.retired_bytes;
        self.undelivered -= share.undelivered;
        if let Some((order, since)) = self.order(share.stage) {
            order.remove(&(since, number));
        }
    }

    fn order(&mut self, stage: Option<Stage>) -> Option<(&mut Order, Instant)> {
        match stage? {
            Stage::Pending(since) => Some((&mut self.pending, since)),
            Stage::Handshake(_) | Stage::InUse => None,
            Stage::Draining(since) => Some((&mut self.draining, since)),
            Stage::Lost(since) => Some((&mut self.lost, since)),
        }
    }
}
