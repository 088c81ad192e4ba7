//! What is to be written to the link, in one piece of memory.

use std::io::IoSliceMut;

use super::Payloads;
use crate::protocol::MAX_FRAME;

/// DATA is taken as long as this many bytes wait; one `write` carries many frames.
const CAPACITY: usize = 256 * 1024;
/// No room is offered below this many bytes of payload: tiny frames cost more than waiting.
const LEAST_ROOM: usize = 4 * 1024;

/// Bytes of memory for frames that are not DATA, unless more wait.
const LEAST: usize = 1024;

/// Frames that one read of a socket fills at most.
pub(crate) const FRAMES_A_READ: usize = 4;

/// Frames waiting for the link. Payload is read straight into it, behind the room its header will take.
#[derive(Debug, Default)]
pub(crate) struct SendQueue {
    /// Allocated at the first use; every byte of it is initialised.
    buffer: Vec<u8>,
    head: usize,
    tail: usize,
}

impl SendQueue {
    /// Room for at most `most` bytes of payload behind headers of `header` bytes each: read into it, then
    /// [`commit`](Self::commit). `None` while the queue is full.
    pub(crate) fn reserve(&mut self, header: usize, most: usize) -> Option<Payloads<'_>> {
        if CAPACITY - self.tail.min(CAPACITY) < MAX_FRAME {
            self.compact();
        }
        let headers = FRAMES_A_READ * header;
        let wanted = most.max(LEAST_ROOM).saturating_add(self.tail + headers).min(CAPACITY);
        if self.buffer.len() < wanted {
            self.buffer.resize(wanted.next_power_of_two(), 0);
        }
        let end = self.buffer.len().min(CAPACITY);
        let mut free = &mut self.buffer[self.tail.min(end)..end];
        let mut left = most;
        let payloads = [(); FRAMES_A_READ].map(|()| {
            let size = free.len().min(MAX_FRAME);
            let (frame, rest) = std::mem::take(&mut free).split_at_mut(size);
            free = rest;
            let payload = frame.get_mut(header..).filter(|payload| payload.len() >= LEAST_ROOM).unwrap_or_default();
            let size = payload.len().min(left);
            left -= size;
            IoSliceMut::new(&mut payload[..size])
        });
        if payloads[0].is_empty() { None } else { Some(payloads) }
    }

    /// The first `count` bytes of the room that was reserved last become frames, each behind what `header` makes for its
    /// size, as long as was reserved for it. Returns how many bytes they have in all.
    pub(crate) fn commit<const N: usize>(&mut self, count: usize, header: impl Fn(u16) -> [u8; N]) -> usize {
        let (start, mut left) = (self.tail, count);
        while left > 0 {
            let size = left.min(MAX_FRAME - N);
            self.buffer[self.tail..self.tail + N].copy_from_slice(&header(size as u16));
            self.tail += N + size;
            left -= size;
        }
        self.tail - start
    }

    /// Appends a whole frame, even past the capacity: the caller bounds what it sends without being asked.
    pub(crate) fn push(&mut self, frame: &[u8]) {
        if self.buffer.len() - self.tail < frame.len() {
            self.compact();
            let needed = (self.tail + frame.len()).max(LEAST);
            if self.buffer.len() < needed {
                self.buffer.resize(needed.next_power_of_two(), 0);
            }
        }
        self.buffer[self.tail..self.tail + frame.len()].copy_from_slice(frame);
        self.tail += frame.len();
    }

    /// What the link is to be given next.
    pub(crate) fn unsent(&self) -> &[u8] {
        &self.buffer[self.head..self.tail]
    }

    /// The link took `count` bytes of [`unsent`](Self::unsent).
    pub(crate) fn advance(&mut self, count: usize) {
        debug_assert!(count <= self.tail - self.head);
        self.head += count;
        if self.head == self.tail {
            self.head = 0;
            self.tail = 0;
            if self.buffer.len() > CAPACITY {
                self.give_back();
            }
        }
    }

    /// Whether so much waits that the peer must be at fault: `excess` bytes more than DATA alone can fill.
    pub(crate) fn exceeds(&self, excess: usize) -> bool {
        self.tail - self.head > CAPACITY + excess
    }

    /// Frees the memory, if nothing waits.
    pub(crate) fn give_back(&mut self) {
        if self.head == self.tail {
            *self = Self::default();
        }
    }

    /// Frees the memory, if nothing waits and it is the least that there may be.
    pub(crate) fn give_back_little(&mut self) {
        if self.buffer.len() <= LEAST {
            self.give_back();
        }
    }

    /// Bytes of memory that it owns.
    pub(crate) fn memory(&self) -> usize {
        self.buffer.capacity()
    }

    /// Moves what waits to the front, where that moves no more than it frees: at most one copy a byte.
    fn compact(&mut self) {
        if self.head >= self.tail - self.head {
            self.buffer.copy_within(self.head..self.tail, 0);
            self.tail -= self.head;
            self.head = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;
    use crate::protocol::v1::Header;

    /// Room for one stream's payload, at most `most` bytes; how large each part of it is.
    fn reserve(queue: &mut SendQueue, most: usize) -> Vec<usize> {
        queue.reserve(Header::LEN, most).map_or_else(Vec::new, |room| room.map(|payload| payload.len()).to_vec())
    }

    fn commit(queue: &mut SendQueue, count: usize) -> usize {
        queue.commit(count, |size| Header::data(7, size).encode())
    }

    #[test]
    fn a_queue_that_was_never_used_owns_no_memory() {
        assert_eq!(SendQueue::default().memory(), 0);
    }

    #[test]
    fn a_full_queue_offers_no_room_but_takes_control_frames() {
        let mut queue = SendQueue::default();
        while let Some(&room) = reserve(&mut queue, 5000).first() {
            commit(&mut queue, room);
        }
        assert!(queue.unsent().len() <= CAPACITY && queue.unsent().len() > CAPACITY - 2 * LEAST_ROOM);
        queue.push(&[0; 8 * 1024]);
        assert!(queue.exceeds(0) && !queue.exceeds(8 * 1024));
        queue.advance(queue.unsent().len());
        assert!(!reserve(&mut queue, 1).is_empty());
    }

    #[test]
    fn room_is_for_whole_frames_of_which_four_fill_the_queue() {
        const PAYLOAD: usize = MAX_FRAME - Header::LEN;
        let mut queue = SendQueue::default();
        assert_eq!(reserve(&mut queue, usize::MAX), [PAYLOAD; 4]);
        assert_eq!(reserve(&mut queue, PAYLOAD + 9), [PAYLOAD, 9, 0, 0]);
        assert_eq!(commit(&mut queue, 3 * PAYLOAD), 3 * MAX_FRAME);
        assert_eq!(reserve(&mut queue, usize::MAX), [PAYLOAD, 0, 0, 0]);
        assert_eq!(commit(&mut queue, PAYLOAD), MAX_FRAME);
        assert_eq!(reserve(&mut queue, usize::MAX), [0; 0]);
    }

    proptest! {
        #[test]
        fn it_holds_what_a_deque_holds(
            steps in prop::collection::vec((0u8..4, any::<prop::sample::Index>()), 0..200)
        ) {
            let mut queue = SendQueue::default();
            let mut model = VecDeque::new();
            for (step, index) in steps {
                match step {
                    0 => {
                        let fill = index.index(251) as u8;
                        if let Some(mut room) = queue.reserve(Header::LEN, usize::MAX) {
                            let size = 1 + index.index(room.iter().map(|payload| payload.len()).sum());
                            let mut left = size;
                            for payload in &mut room {
                                let size = left.min(payload.len());
                                payload[..size].fill(fill);
                                left -= size;
                                if size > 0 {
                                    model.extend(Header::data(7, size as u16).encode());
                                    model.extend(std::iter::repeat_n(fill, size));
                                }
                            }
                            commit(&mut queue, size);
                        }
                    }
                    1 => {
                        queue.push(&Header::close(9).encode());
                        model.extend(Header::close(9).encode());
                    }
                    2 => queue.give_back(),
                    _ => {
                        let count = index.index(queue.unsent().len() + 1);
                        queue.advance(count);
                        model.drain(..count);
                    }
                }
                prop_assert!(queue.unsent() == model.make_contiguous(), "contents differ");
            }
        }
    }
}
