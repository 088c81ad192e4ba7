//! Memory that all links of a loop use in turn, so that an idle one needs none.

#[cfg(feature = "tls")]
use crate::tls::{RECORD_OVERHEAD, RECORD_PLAINTEXT, Scratch};

/// Where bytes of links in TLS stand for as long as a turn takes. Nothing is allocated before there is such a link.
#[derive(Debug, Default)]
pub(crate) struct Buffers {
    /// What was read, opened.
    #[cfg(feature = "tls")]
    pub(crate) plaintext: Vec<u8>,
    /// What is to be written, sealed.
    #[cfg(feature = "tls")]
    scratch: Option<Scratch>,
}

/// Records that one write carries at most. What a socket does not take of them is held for the link, and nothing may pass
/// it: it is not to be much.
#[cfg(feature = "tls")]
const RECORDS: usize = 4;

#[cfg(feature = "tls")]
impl Buffers {
    /// Where what is to be written stands. It is empty between turns.
    pub(crate) fn scratch(&mut self) -> &mut Scratch {
        self.both().1
    }

    /// Both.
    pub(super) fn both(&mut self) -> (&mut Vec<u8>, &mut Scratch) {
        // In front of a record a change of the key may go.
        let make = || Scratch::new(RECORDS * (RECORD_PLAINTEXT + RECORD_OVERHEAD) + 64);
        (&mut self.plaintext, self.scratch.get_or_insert_with(make))
    }
}
