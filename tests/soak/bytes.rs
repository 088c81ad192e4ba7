//! What travels: each byte is a function of its stream and place, so that lost, doubled and foreign ones show.

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    ToService,
    ToClient,
}

/// The bytes of one client in one direction.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bytes {
    key: u64,
}

/// How far from its place a byte that went astray is looked for.
const SEARCH: u64 = 8 * 1024 * 1024;
/// So many bytes in a row are no accident.
const SAMPLE: usize = 12;

impl Bytes {
    pub(crate) fn new(client: u64, way: Way) -> Self {
        Self { key: mix(client << 1 | u64::from(way == Way::ToClient)) }
    }

    /// The bytes from `offset` on.
    pub(crate) fn fill(self, offset: u64, chunk: &mut [u8]) {
        let mut at = offset;
        let mut rest = chunk;
        while !rest.is_empty() {
            let word = mix(self.key ^ (at / 8)).to_le_bytes();
            let from = (at % 8) as usize;
            let count = rest.len().min(8 - from);
            rest[..count].copy_from_slice(&word[from..from + count]);
            rest = &mut rest[count..];
            at += count as u64;
        }
    }

    /// What is wrong with a chunk that arrived at `offset`, if anything is.
    pub(crate) fn check(self, offset: u64, chunk: &[u8]) -> Option<String> {
        let mut expected = vec![0; chunk.len()];
        self.fill(offset, &mut expected);
        let wrong = (0..chunk.len()).find(|&index| chunk[index] != expected[index])?;
        let last = (0..chunk.len()).rfind(|&index| chunk[index] != expected[index])?;
        let at = offset + wrong as u64;
        let found = &chunk[wrong..chunk.len().min(wrong + SAMPLE)];
        let origin = match self.place_of(at, found) {
            Some(place) => format!("they belong at offset {place} of the same stream"),
            None => "they are not this stream's".into(),
        };
        Some(format!(
            "wrong bytes at offset {at}, up to {} before offset {}: {origin}",
            last - wrong + 1,
            offset + chunk.len() as u64
        ))
    }

    /// Where in this stream these bytes belong, if they are its own.
    fn place_of(self, near: u64, sample: &[u8]) -> Option<u64> {
        let start = near.saturating_sub(SEARCH);
        let mut around = vec![0; (near - start + SEARCH) as usize];
        self.fill(start, &mut around);
        if sample.len() < SAMPLE {
            return None;
        }
        around.windows(sample.len()).position(|window| window == sample).map(|index| start + index as u64)
    }
}

/// Spreads every bit of the input over the output (splitmix64).
pub(crate) fn mix(value: u64) -> u64 {
    let mut mixed = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
