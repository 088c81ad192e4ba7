//! DATA that came before its CONNECT, as the relay of 2012 sends it.

use std::time::{Duration, Instant};

use super::{Device, Id, Timer};
use crate::connection::{ByteQueue, Output};

/// How long it is kept.
pub(super) const EARLY_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a CONNECT may come behind early DATA that was dropped, and is refused too.
pub(super) const REFUSED_TIMEOUT: Duration = Duration::from_secs(30);
/// Early bytes kept for one client.
const MAX_BYTES: usize = 1024 * 1024;
/// Early bytes kept for all clients together.
pub(super) const MAX_EARLY: usize = 4 * 1024 * 1024;

/// What one client sent before it was announced.
#[derive(Debug, Default)]
pub(super) struct Early {
    bytes: ByteQueue,
    closed: bool,
}

impl Early {
    /// Keeps `bytes`; false if they are too many.
    pub(super) fn push(&mut self, bytes: &[u8]) -> bool {
        let fits = self.bytes.len() + bytes.len() <= MAX_BYTES;
        if fits {
            self.bytes.push(bytes);
        }
        fits
    }

    pub(super) fn bytes(&self) -> &[u8] {
        self.bytes.as_slice()
    }

    /// A CLOSE followed: it counts once the bytes are delivered.
    pub(super) fn close(&mut self) {
        self.closed = true;
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }
}

impl Device {
    /// DATA for a client that is not open.
    pub(super) fn handle_early(&mut self, now: Instant, client: u8, bytes: &[u8]) {
        if matches!(self.ids[usize::from(client)], Id::Refused { .. } | Id::Discarding) {
            self.link.counters.ignored += 1;
            return;
        }
        self.make_way(now, client);
        if matches!(self.ids[usize::from(client)], Id::Idle) {
            self.ids[usize::from(client)] = Id::Early(Early::default());
            self.link.timers.set(Timer::Early(client), now + EARLY_TIMEOUT);
        }
        let room = MAX_EARLY - self.early_bytes;
        let Id::Early(early) = &mut self.ids[usize::from(client)] else { return };
        if early.is_closed() {
            self.link.counters.ignored += 1;
        } else if bytes.len() > room || !early.push(bytes) {
            self.drop_early(now, client);
        } else {
            self.early_bytes += bytes.len();
        }
    }

    /// Early DATA that no CONNECT came for, or too much of it: answered with CLOSE.
    fn drop_early(&mut self, now: Instant, client: u8) {
        let closed = self.refuse(client);
        self.set_id(client, Id::Refused { closed });
        self.link.timers.set(Timer::Early(client), now + REFUSED_TIMEOUT);
        self.link.outputs.push_back(Output::EarlyDropped { client: client.into() });
    }

    /// The CONNECT of a number's early DATA is not here, unless it waits in an unread link.
    pub(super) fn handle_connect_overdue(&mut self, now: Instant, client: u8) {
        if let Some(due) = self.link.may_come_until(now, EARLY_TIMEOUT) {
            self.link.timers.set(Timer::Early(client), due);
            return;
        }
        match self.ids[usize::from(client)] {
            Id::Early(_) => self.drop_early(now, client),
            Id::Refused { closed } => _ = self.set_id(client, Id::closing(closed)),
            Id::Idle | Id::Open(_) | Id::HalfClosed(_) | Id::Discarding => {}
        }
    }
}
