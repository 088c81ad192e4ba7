//! Bytes that one socket would not take yet.

/// A first-in first-out queue of bytes in one piece of memory. It owns none while it is empty.
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
            steps in prop::collection::vec((any::<bool>(), prop::collection::vec(any::<u8>(), 0..50)), 0..100)
        ) {
            let mut queue = ByteQueue::default();
            let mut model = VecDeque::new();
            for (push, bytes) in steps {
                if push {
                    queue.push(&bytes);
                    model.extend(bytes);
                } else {
                    let count = bytes.len().min(queue.len());
                    queue.advance(count);
                    model.drain(..count);
                }
                prop_assert!(queue.as_slice() == model.make_contiguous(), "contents differ");
                prop_assert!(!queue.is_empty() || queue.bytes.capacity() == 0, "memory is given back");
            }
        }
    }
}
