//! The links of a loop, and which of them its next wake visits: those that something has happened to, and those that are
//! due. The others cost a wake nothing, however many there are.
//!
//! An entry is on the ready list from when it is inserted or borrowed mutably ([`Table::get_mut`]) until it is visited, so
//! that nothing can be given to one that does not act on it. A visit ends with [`Table::end_visit`], which tells whether
//! there is more to do at once, and when something is due.

use std::collections::VecDeque;
use std::time::Instant;

use crate::connection::Timers;

/// Entries by their number. A number is used again once its entry is gone.
#[derive(Debug)]
pub(crate) struct Table<T> {
    slots: Vec<Slot<T>>,
    free: Vec<usize>,
    /// Each number that is [`Turn::Ready`] once, in the order in which they became so.
    ready: VecDeque<usize>,
    /// For each entry when it is to be visited at the latest. A deadline that moves away is left, and found out of date when
    /// it comes: most are moved by each byte.
    timers: Timers<usize>,
    /// Visits there were.
    #[cfg(test)]
    pub(crate) visits: u64,
}

#[derive(Debug)]
struct Slot<T> {
    /// Apart, so that places that are free cost little.
    value: Option<Box<T>>,
    turn: Turn,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// Nothing to do before its deadline.
    Idle,
    /// It is on the ready list.
    Ready,
    /// It is being visited.
    Visited,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            ready: VecDeque::new(),
            timers: Timers::new(),
            #[cfg(test)]
            visits: 0,
        }
    }
}

impl<T> Table<T> {
    /// A number for an entry that is to be [inserted](Self::insert), or for none after all ([`remove`](Self::remove)).
    pub(crate) fn reserve(&mut self) -> usize {
        self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { value: None, turn: Turn::Idle });
            self.slots.len() - 1
        })
    }

    /// The entry of a reserved number. It is visited next.
    pub(crate) fn insert(&mut self, number: usize, value: T) {
        debug_assert!(self.slots[number].value.is_none(), "the number was reserved");
        self.slots[number].value = Some(Box::new(value));
        self.make_ready(number);
    }

    /// Takes the entry out; its number is free.
    pub(crate) fn remove(&mut self, number: usize) -> Option<T> {
        let slot = self.slots.get_mut(number)?;
        debug_assert!(!self.free.contains(&number), "it is free");
        let value = slot.value.take();
        if slot.turn == Turn::Visited {
            slot.turn = Turn::Idle;
        }
        self.timers.cancel(number);
        self.free.push(number);
        value.map(|value| *value)
    }

    pub(crate) fn get(&self, number: usize) -> Option<&T> {
        self.slots.get(number)?.value.as_deref()
    }

    /// The entry. It is put on the ready list; during its own visit [`end_visit`](Self::end_visit) decides about the next.
    pub(crate) fn get_mut(&mut self, number: usize) -> Option<&mut T> {
        self.slots.get(number)?.value.as_ref()?;
        self.make_ready(number);
        self.slots[number].value.as_deref_mut()
    }

    /// How many numbers are in use.
    #[cfg(feature = "relay")]
    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Whether no number is in use.
    pub(crate) fn is_empty(&self) -> bool {
        self.slots.len() == self.free.len()
    }

    /// All entries.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (usize, &T)> + Clone {
        self.slots.iter().enumerate().filter_map(|(number, slot)| Some((number, slot.value.as_deref()?)))
    }

    /// All numbers of entries, for what is done to each of them.
    pub(crate) fn numbers(&self) -> Vec<usize> {
        self.iter().map(|(number, _)| number).collect()
    }

    /// How many entries are on the ready list now, those that are due among them: one [`next_visit`](Self::next_visit) for
    /// each is a round. What becomes ready meanwhile is in the next one, so that a round has an end.
    pub(crate) fn begin_round(&mut self, now: Instant) -> usize {
        while let Some(number) = self.timers.pop_due(now) {
            self.make_ready(number);
        }
        self.ready.len()
    }

    /// The entry whose turn it is.
    pub(crate) fn next_visit(&mut self) -> Option<usize> {
        let number = self.ready.pop_front()?;
        let slot = &mut self.slots[number];
        slot.turn = if slot.value.is_some() { Turn::Visited } else { Turn::Idle };
        #[cfg(test)]
        {
            self.visits += 1;
        }
        slot.value.is_some().then_some(number)
    }

    /// The visit is over: `again` if there is more to do at once; else at `timeout`, if nothing happens before.
    pub(crate) fn end_visit(&mut self, number: usize, again: bool, timeout: Option<Instant>) {
        let slot = &mut self.slots[number];
        if slot.value.is_none() {
            return;
        }
        if slot.turn == Turn::Visited {
            slot.turn = Turn::Idle;
        }
        if again {
            self.make_ready(number);
        }
        if let Some(at) = timeout
            && self.timers.get(number).is_none_or(|armed| at < armed)
        {
            self.timers.set(number, at);
        }
    }

    /// Whether there is an entry to visit now.
    pub(crate) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// When an entry is to be visited without an event.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// The entries that are on no list. It looks at all of them: for assertions.
    pub(crate) fn idle(&self) -> impl Iterator<Item = (usize, &T)> {
        self.iter().filter(|&(number, _)| self.slots[number].turn == Turn::Idle)
    }

    /// Whether every entry that is idle will be visited when it is due, by its own word. It looks at all of them: for
    /// assertions.
    pub(crate) fn is_armed(&self, timeout: impl Fn(&T) -> Option<Instant>) -> bool {
        let due = self.idle().filter_map(|(number, value)| Some((number, timeout(value)?)));
        due.into_iter().all(|(number, at)| self.timers.get(number).is_some_and(|armed| armed <= at))
    }

    fn make_ready(&mut self, number: usize) {
        let slot = &mut self.slots[number];
        if slot.turn == Turn::Idle {
            slot.turn = Turn::Ready;
            self.ready.push_back(number);
        }
    }
}

#[cfg(test)]
mod tests;
