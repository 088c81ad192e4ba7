//! Bytes that one socket would not take yet.

/// A queue that is no larger than this keeps its memory until it is empty.
const LEAST_CAPACITY: usize = 4 * 1024;
/// A larger one has memory for at most so many times what it holds.
const MOST_SPARE: usize = 4;

/// A first-in first-out queue of bytes in one piece of memory. It owns none while it is empty, and never much more than
/// it needs.
#[derive(Debug, Default)]
pub(crate) struct ByteQueue {
    bytes: Vec<u8>,
    head: usize,
}

impl ByteQueue {
    pub(crate) fn len(&self) -> usize {
        self.bytes.len() - self.head
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        &self.bytes[self.head..]
    }

    pub(crate) fn push(&mut self, more: &[u8]) {
        // Moving is worth it once it frees as much as it moves: at most one copy a byte.
        if self.head >= self.len() {
            self.bytes.drain(..self.head);
            self.head = 0;
        }
        self.bytes.extend_from_slice(more);
    }

    pub(crate) fn advance(&mut self, count: usize) {
        debug_assert!(count <= self.len());
        self.head += count;
        if self.is_empty() {
            *self = Self::default();
        } else if self.bytes.capacity() > LEAST_CAPACITY.max(MOST_SPARE * self.len()) {
            // What is left is little of what was there: at most one copy in so many bytes.
            self.bytes.drain(..self.head);
            self.head = 0;
            self.bytes.shrink_to(2 * self.bytes.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_holds_what_a_deque_holds(
            steps in prop::collection::vec((0usize..4000, any::<bool>()), 0..100)
        ) {
            let mut queue = ByteQueue::default();
            let mut model = VecDeque::new();
            for (size, push) in steps {
                if push {
                    let bytes: Vec<u8> = (0..size).map(|at| (size + at) as u8).collect();
                    queue.push(&bytes);
                    model.extend(bytes);
                } else {
                    let count = size.min(queue.len());
                    queue.advance(count);
                    model.drain(..count);
                }
                prop_assert!(queue.as_slice() == model.make_contiguous(), "contents differ");
                let most = if queue.is_empty() { 0 } else { LEAST_CAPACITY.max(MOST_SPARE * queue.len()) };
                prop_assert!(queue.bytes.capacity() <= most, "{} for {}", queue.bytes.capacity(), queue.len());
            }
        }
    }
}
