//! What is to be written to a version 2 link: frames of the link first, then those of streams in their order.

use std::cell::Cell;

use crate::connection::{Payloads, SendQueue};
use crate::protocol::MAX_FRAME;
use crate::protocol::v2::{Flags, Header};

/// Two queues that leave as one sequence of whole frames.
#[derive(Debug, Default)]
pub(super) struct SendBuffer {
    /// CREDIT, PING and their like: they pass what waits in `data`, between two of its frames.
    control: Vec<u8>,
    control_head: usize,
    /// DATA, in the order in which it was read.
    data: SendQueue,
    /// How much at the head of `data` is of the kind that passes the rest.
    lead: usize,
    /// How much of the first frame in `data` is still to leave, once a part of it has.
    frame_left: usize,
    queued: u64,
    sent: u64,
    /// Bytes that have left in all, but for those that no offset counts.
    offset: u64,
    /// How much at the head of `control`, and of `lead`, is not counted.
    uncounted_control: usize,
    uncounted_lead: usize,
}

impl SendBuffer {
    /// A buffer whose first bytes were decided before version 2 was.
    pub(super) fn new(first: &[u8]) -> Self {
        Self { control: first.to_vec(), uncounted_control: first.len(), ..Self::default() }
    }

    /// Room for at most `most` bytes of DATA payload; `None` while the queue is full.
    pub(super) fn reserve(&mut self, most: usize) -> Option<Payloads<'_>> {
        self.data.reserve(Header::LEN, most)
    }

    /// The first `count` bytes of the room that was reserved last become DATA of that stream; its last frame has the
    /// flags.
    pub(super) fn commit(&mut self, stream: u32, count: usize, flags: Flags) {
        let left = Cell::new(count);
        let frames = self.data.commit(count, |size| {
            left.set(left.get() - usize::from(size));
            let flags = if left.get() == 0 { flags } else { Flags::NONE };
            Header::flagged_data(stream, size, flags).encode()
        });
        debug_assert_eq!(frames, data_len(count));
        self.queued += frames as u64;
    }

    /// Appends a whole frame behind the DATA that is queued, even past the capacity.
    pub(super) fn push_behind_data(&mut self, frame: &[u8]) {
        self.data.push(frame);
        self.queued += frame.len() as u64;
    }

    /// Appends a whole frame that passes the DATA that is queued. Where there is none to pass, it leaves in one write
    /// with what comes behind it.
    pub(super) fn push_control(&mut self, frame: &[u8]) {
        if self.passes_nothing() {
            self.lead += frame.len();
            self.push_behind_data(frame);
        } else {
            self.control.extend_from_slice(frame);
        }
    }

    /// The same for one that no offset counts, while nothing else waits there or all of that is not counted either.
    pub(super) fn push_uncounted(&mut self, frame: &[u8]) {
        let uncounted = if self.passes_nothing() { &mut self.uncounted_lead } else { &mut self.uncounted_control };
        *uncounted += frame.len();
        self.push_control(frame);
    }

    /// Bytes that wait where [`push_control`](Self::push_control) would put a frame now.
    pub(super) fn batch_len(&self) -> usize {
        if self.passes_nothing() { self.lead } else { self.control.len() - self.control_head }
    }

    /// Bytes of frames that pass DATA.
    pub(super) fn control_len(&self) -> usize {
        self.lead + self.control.len() - self.control_head
    }

    /// Where the queue of DATA ends, counted since the start; [`sent`](Self::sent) reaches it when all of it has left.
    pub(super) fn queued(&self) -> u64 {
        self.queued
    }

    /// Bytes of the queue of DATA that have left since the start.
    pub(super) fn sent(&self) -> u64 {
        self.sent
    }

    /// Bytes that have left in all, as the peer counts them: without SETTINGS, what was before them, and ACK.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// Bytes of DATA that wait.
    pub(super) fn data_len(&self) -> usize {
        self.data.unsent().len() - self.lead
    }

    /// Frees the memory for DATA, if none waits.
    pub(super) fn give_back(&mut self) {
        self.data.give_back();
        if self.control.is_empty() {
            self.control = Vec::new();
        }
    }

    /// The same, where it is no more than frames that are not DATA need.
    pub(super) fn give_back_little(&mut self) {
        self.data.give_back_little();
    }

    /// Bytes of memory that it owns.
    pub(super) fn memory(&self) -> usize {
        self.data.memory() + self.control.capacity()
    }

    /// Bytes that wait.
    pub(super) fn len(&self) -> usize {
        self.control.len() - self.control_head + self.data.unsent().len()
    }

    /// What the link is to be given next; not all of it where frames must pass each other.
    pub(super) fn unsent(&self) -> &[u8] {
        if self.control.is_empty() {
            self.data.unsent()
        } else if self.lead > 0 {
            &self.data.unsent()[..self.lead]
        } else if self.frame_left > 0 {
            &self.data.unsent()[..self.frame_left]
        } else {
            &self.control[self.control_head..]
        }
    }

    /// The link took `count` bytes of [`unsent`](Self::unsent).
    pub(super) fn advance(&mut self, count: usize) {
        if !self.control.is_empty() && self.lead == 0 && self.frame_left == 0 {
            let uncounted = count.min(self.uncounted_control);
            self.uncounted_control -= uncounted;
            self.offset += (count - uncounted) as u64;
            self.control_head += count;
            if self.control_head == self.control.len() {
                self.control.clear();
                self.control_head = 0;
            }
            return;
        }
        let uncounted = count.min(self.uncounted_lead);
        self.uncounted_lead -= uncounted;
        self.offset += (count - uncounted) as u64;
        self.lead = self.lead.saturating_sub(count);
        self.sent += count as u64;
        let mut left = count;
        while left > 0 {
            if self.frame_left == 0 {
                self.frame_left = frame_len(self.data.unsent());
            }
            let step = left.min(self.frame_left);
            self.data.advance(step);
            self.frame_left -= step;
            left -= step;
        }
    }

    fn passes_nothing(&self) -> bool {
        self.control.is_empty() && self.data.unsent().len() == self.lead
    }

    /// Whether more DATA waits than its queue is meant to hold.
    pub(super) fn is_full(&self) -> bool {
        self.data.exceeds(0)
    }

    /// Whether so much waits that the peer must be at fault: `excess` bytes more than DATA alone can fill.
    pub(super) fn exceeds(&self, excess: usize) -> bool {
        self.control_len() > excess || self.data.exceeds(excess)
    }
}

/// How long the frames are that `count` bytes of one stream become.
pub(super) fn data_len(count: usize) -> usize {
    count + count.div_ceil(MAX_FRAME - Header::LEN) * Header::LEN
}

/// The length of the whole frame that `bytes` begin with.
fn frame_len(bytes: &[u8]) -> usize {
    bytes.first_chunk().map_or(bytes.len(), |&header| Header::LEN + usize::from(Header::decode(header).size))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::protocol::v2::{Decoder, Item};

    proptest! {
        #[test]
        fn frames_leave_whole_however_they_are_written_and_control_waits_for_one_frame_at_most(
            steps in prop::collection::vec((0u8..5, 1usize..3000), 1..200)
        ) {
            let mut send_buffer = SendBuffer::default();
            let mut decoder = Decoder::default();
            let (mut queued, mut read, mut finished) = (0u64, 0u64, 0u32);
            let mut left = 0;
            let (mut credits, mut credits_read) = (0u64, 0u64);
            let mut take = |send_buffer: &mut SendBuffer, most: usize| {
                let bytes = send_buffer.unsent();
                let bytes = bytes[..bytes.len().min(most)].to_vec();
                send_buffer.advance(bytes.len());
                left += bytes.len() as u64;
                let mut input = &bytes[..];
                while let Some(item) = decoder.next(&mut input).expect("whole frames") {
                    if let Item::Data { bytes, flags, .. } = item {
                        read += bytes.len() as u64;
                        finished += u32::from(flags.has(Flags::FIN));
                    } else if !matches!(item, Item::Ack { .. }) {
                        credits_read += 1;
                        assert_eq!(item, Item::Credit { stream: 1, limit: credits_read }, "control keeps its order");
                    }
                }
                bytes.len()
            };
            let (mut fins, mut acks) = (0, 0);
            for (step, size) in steps {
                match step {
                    4 => if send_buffer.batch_len() == 0 {
                        acks += 1;
                        send_buffer.push_uncounted(&crate::protocol::v2::ack(7, 7));
                    },
                    0 => {
                        if let Some(room) = send_buffer.reserve(size) {
                            let size = room.iter().map(|payload| payload.len()).sum::<usize>().min(size);
                            send_buffer.commit(1, size, Flags::NONE);
                            queued += size as u64;
                        }
                    }
                    1 => {
                        credits += 1;
                        send_buffer.push_control(&crate::protocol::v2::credit(1, credits));
                        prop_assert!(send_buffer.unsent().len() <= Header::LEN + 3000 || send_buffer.frame_left == 0);
                    }
                    2 => {
                        fins += 1;
                        send_buffer.push_behind_data(&Header::data(2, 0, true).encode());
                    }
                    _ => { take(&mut send_buffer, size); }
                }
            }
            while take(&mut send_buffer, 1000) > 0 {}
            prop_assert_eq!((read, finished, credits_read), (queued, fins, credits));
            prop_assert_eq!((send_buffer.len(), send_buffer.sent()), (0, send_buffer.queued()));
            prop_assert_eq!(send_buffer.offset(), left - acks * crate::protocol::v2::ACK_LEN as u64);
        }
    }
}
