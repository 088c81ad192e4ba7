//! What is to be written to the link, in one piece of memory.

use crate::protocol::MAX_FRAME;

/// DATA is taken as long as this many bytes wait; one `write` carries many frames.
const CAPACITY: usize = 256 * 1024;
/// No room is offered below this many bytes of payload: tiny frames cost more than waiting.
const LEAST_ROOM: usize = 4 * 1024;

/// Frames waiting for the link. Payload is read straight into it, behind the room its header will take.
#[derive(Debug, Default)]
pub(crate) struct SendQueue {
    /// Allocated at the first use; every byte of it is initialised.
    buffer: Vec<u8>,
    head: usize,
    tail: usize,
}

impl SendQueue {
    /// Room for at most `most` bytes of a DATA payload behind a header of `header` bytes, and for no more than a frame:
    /// write into it, then [`commit`](Self::commit). `None` while the queue is full.
    pub(crate) fn reserve(&mut self, header: usize, most: usize) -> Option<&mut [u8]> {
        if self.buffer.len() < CAPACITY {
            self.buffer.resize(CAPACITY, 0);
        }
        if self.buffer.len() - self.tail < MAX_FRAME {
            self.compact();
        }
        let start = self.tail + header;
        let end = CAPACITY.min(self.tail + MAX_FRAME);
        if start + LEAST_ROOM > end { None } else { Some(&mut self.buffer[start..end.min(start.saturating_add(most))]) }
    }

    /// The first `size` bytes of the room that was reserved last become the payload behind `header`, which has the
    /// length that was told then.
    pub(crate) fn commit(&mut self, header: &[u8], size: usize) {
        self.buffer[self.tail..self.tail + header.len()].copy_from_slice(header);
        self.tail += header.len() + size;
    }

    /// Appends a whole frame, even past the capacity: the caller bounds what it sends without being asked.
    pub(crate) fn push(&mut self, frame: &[u8]) {
        if self.buffer.len() - self.tail < frame.len() {
            self.compact();
            let needed = (self.tail + frame.len()).max(1024);
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
    fn give_back(&mut self) {
        if self.head == self.tail {
            *self = Self::default();
        }
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

    fn reserve(queue: &mut SendQueue) -> Option<&mut [u8]> {
        queue.reserve(Header::LEN, usize::MAX)
    }

    fn commit(queue: &mut SendQueue, header: Header) {
        queue.commit(&header.encode(), usize::from(header.size));
    }

    #[test]
    fn a_queue_that_was_never_used_owns_no_memory() {
        assert_eq!(SendQueue::default().buffer.capacity(), 0);
    }

    #[test]
    fn a_full_queue_offers_no_room_but_takes_control_frames() {
        let mut queue = SendQueue::default();
        while let Some(room) = reserve(&mut queue) {
            let size = room.len() as u16;
            commit(&mut queue, Header::data(1, size));
        }
        assert!(queue.unsent().len() <= CAPACITY && queue.unsent().len() > CAPACITY - 2 * LEAST_ROOM);
        queue.push(&[0; 8 * 1024]);
        assert!(queue.exceeds(0) && !queue.exceeds(8 * 1024));
        queue.advance(queue.unsent().len());
        assert!(reserve(&mut queue).is_some());
    }

    #[test]
    fn a_full_queue_is_four_whole_frames() {
        let mut queue = SendQueue::default();
        let mut frames = 0;
        while let Some(room) = reserve(&mut queue) {
            assert_eq!(Header::LEN + room.len(), MAX_FRAME);
            let size = room.len() as u16;
            commit(&mut queue, Header::data(1, size));
            frames += 1;
        }
        assert_eq!(frames, 4);
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
                        if let Some(room) = reserve(&mut queue) {
                            prop_assert!(Header::LEN + room.len() <= MAX_FRAME);
                            let size = 1 + index.index(room.len());
                            room[..size].fill(fill);
                            let header = Header::data(7, size as u16);
                            commit(&mut queue, header);
                            model.extend(header.encode());
                            model.extend(std::iter::repeat_n(fill, size));
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
