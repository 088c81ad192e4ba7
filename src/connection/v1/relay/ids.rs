//! The 256 client numbers of a version 1 link.

use std::collections::VecDeque;

use crate::connection::StreamKey;

/// What a client's number means at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Id {
    Free,
    Open(StreamKey),
    /// Our CLOSE is out, the device's is not here yet.
    AwaitingEcho,
}

/// All numbers; free ones are taken in the order in which they became free, the first round from 1 as in 2012.
#[derive(Debug)]
pub(super) struct Ids {
    ids: Box<[Id; 256]>,
    free: VecDeque<u8>,
    awaiting_echo: usize,
}

impl Ids {
    pub(super) fn new() -> Self {
        Self { ids: Box::new([Id::Free; 256]), free: (1..=u8::MAX).chain([0]).collect(), awaiting_echo: 0 }
    }

    /// The number that has been free for the longest time.
    pub(super) fn take(&mut self) -> Option<u8> {
        self.free.pop_front()
    }

    pub(super) fn get(&self, client: u8) -> Id {
        self.ids[usize::from(client)]
    }

    /// What a taken number stands for.
    pub(super) fn set(&mut self, client: u8, id: Id) {
        let old = std::mem::replace(&mut self.ids[usize::from(client)], id);
        self.awaiting_echo -= usize::from(old == Id::AwaitingEcho);
        self.awaiting_echo += usize::from(id == Id::AwaitingEcho);
    }

    /// Both CLOSEs have passed.
    pub(super) fn release(&mut self, client: u8) {
        self.set(client, Id::Free);
        self.free.push_back(client);
    }

    /// How many numbers can be had now.
    pub(super) fn free(&self) -> usize {
        self.free.len()
    }

    /// How many numbers wait for the device's CLOSE.
    pub(super) fn awaiting_echo(&self) -> usize {
        self.awaiting_echo
    }

    /// The streams that have a number.
    pub(super) fn open(&self) -> impl Iterator<Item = StreamKey> {
        self.ids.iter().filter_map(|id| match id {
            Id::Open(key) => Some(*key),
            Id::Free | Id::AwaitingEcho => None,
        })
    }
}
