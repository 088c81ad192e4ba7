//! How much of the link was read, and when: what the peer asks for with DATA, and ACK answers.

use std::time::Instant;

use crate::protocol::v2::{ACK_LEN, Flags, Item};

/// The reader's count and clock.
#[derive(Debug)]
pub(super) struct Reading {
    began: Instant,
    /// Bytes behind SETTINGS, without those of ACK.
    offset: u64,
    /// The newest answer, until it is sent: it stands for those before it.
    ack: Option<(u64, u32)>,
}

impl Reading {
    pub(super) fn new(now: Instant) -> Self {
        Self { began: now, offset: 0, ack: None }
    }

    /// So many bytes were read, the last of which completed `item`.
    pub(super) fn note(&mut self, now: Instant, bytes: usize, item: Option<&Item<'_>>) {
        self.offset += bytes as u64;
        if let Some(Item::Ack { .. }) = item {
            self.offset -= ACK_LEN as u64;
        } else if let Some(Item::Data { flags, .. }) = item
            && flags.has(Flags::ASK)
        {
            // The clock wraps.
            let clock = now.saturating_duration_since(self.began).as_micros() as u32;
            self.ack = Some((self.offset, clock));
        }
    }

    /// The peer's SETTINGS were read: what comes behind them is counted.
    pub(super) fn begin(&mut self) {
        self.offset = 0;
    }

    /// The answer that is to be sent.
    pub(super) fn take_ack(&mut self) -> Option<(u64, u32)> {
        self.ack.take()
    }

    #[cfg(test)]
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    pub(super) fn has_ack(&self) -> bool {
        self.ack.is_some()
    }
}
