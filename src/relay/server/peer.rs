//! A link, or a connection that may become one, and how far it is.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Instant;

use super::Server;
use super::client_log::Client;
use super::secured::Proof;
use super::totals::Share;
use crate::connection::StreamKey;
use crate::connection::relay::Relay;
use crate::io::session::Session;

#[derive(Debug)]
pub(super) struct Peer {
    pub(super) session: Session<Relay>,
    pub(super) address: SocketAddr,
    /// The device that the port is for by which it came; none, if it is for all that are in TLS.
    pub(super) port_device: Option<usize>,
    /// The device that it is from, once that is decided.
    pub(super) device: Option<usize>,
    pub(super) clients: BTreeMap<StreamKey, Client>,
    /// When clients that move nothing are looked for, where there is a limit for them.
    pub(super) look_for_idle_at: Option<Instant>,
    pub(super) stage: Stage,
    /// What is known of one in TLS.
    pub(super) proof: Option<Proof>,
    /// What it has added to the totals.
    pub(super) share: Share,
}

/// How far a link is, and since when where that matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// It was accepted, and has not said yet what it is.
    Pending(Instant),
    /// The same in TLS.
    Handshake(Instant),
    /// Its device is served on it, or was until now.
    InUse,
    /// It takes no new clients.
    Draining(Instant),
    /// It is gone, and only what is left is delivered.
    Lost(Instant),
}

impl Peer {
    /// The device whose lines in the log it takes.
    pub(super) fn log_device(&self) -> usize {
        self.device.or(self.port_device).unwrap_or(Server::NO_DEVICE)
    }

    /// Whether a byte has come, or in TLS a whole message.
    pub(super) fn has_input(&self) -> bool {
        if self.proof.is_some() { self.session.has_hello() } else { self.session.connection().has_input() }
    }

    /// When it is to be visited though nothing has happened.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let proof = self.proof.as_ref().and_then(Proof::poll_timeout);
        let all = [self.session.poll_timeout(), self.look_for_idle_at, proof];
        all.into_iter().flatten().min()
    }
}

impl Stage {
    /// Whether it is for no new clients any more.
    pub(super) fn is_retired(self) -> bool {
        matches!(self, Self::Draining(_) | Self::Lost(_))
    }
}
