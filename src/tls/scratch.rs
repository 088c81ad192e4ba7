//! Where bytes stand on their way to a socket.

/// A buffer for what is to be written, which a loop has for all its links: each uses it for a turn, and leaves it empty.
#[derive(Debug)]
pub struct Scratch {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl Scratch {
    /// Room for this many bytes of records.
    pub fn new(capacity: usize) -> Self {
        Self { bytes: vec![0; capacity], start: 0, end: 0 }
    }

    /// Whether nothing is to be written.
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    pub(super) fn unsent(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    pub(super) fn advance(&mut self, count: usize) {
        self.start += count;
        debug_assert!(self.start <= self.end);
        if self.is_empty() {
            self.clear();
        }
    }

    pub(super) fn clear(&mut self) {
        (self.start, self.end) = (0, 0);
    }

    /// What is free.
    pub(super) fn room(&mut self) -> &mut [u8] {
        &mut self.bytes[self.end..]
    }

    /// What is free, grown to `count` bytes if it is less: what TLS itself has to say cannot wait.
    pub(super) fn room_for(&mut self, count: usize) -> &mut [u8] {
        if self.room().len() < count {
            self.bytes.resize(self.end + count, 0);
        }
        self.room()
    }

    /// The first `count` free bytes were filled.
    pub(super) fn fill(&mut self, count: usize) {
        self.end += count;
        debug_assert!(self.end <= self.bytes.len());
    }
}
