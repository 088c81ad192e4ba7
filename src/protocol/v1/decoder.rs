//! Bytes to frames, however the bytes were cut.

use super::connect::MAX_CONNECT;
use super::{Command, Connect, Header};
use crate::protocol::Malformed;

/// Reads frames from a byte stream. DATA is handed on piece by piece as it arrives, without a copy.
#[derive(Debug, Default)]
pub struct Decoder {
    state: State,
}

/// One thing that was read.
#[derive(Debug, PartialEq, Eq)]
pub enum Item<'a> {
    /// A piece of a DATA payload, never empty, in order.
    Data {
        /// Whose bytes they are.
        client: u8,
        /// The piece, borrowed from the input.
        bytes: &'a [u8],
    },
    /// CONNECT, whole.
    Connect {
        /// The frame's header.
        header: Header,
        /// Where to connect, if it can be read.
        connect: Result<Connect, Malformed>,
    },
    /// CLOSE; a payload, which it must not have, is skipped.
    Close {
        /// The client that is gone.
        client: u8,
    },
    /// LISTEN; a payload, which it must not have, is skipped.
    Listen(Header),
    /// An unknown command or an empty DATA; the payload is skipped.
    Ignored(Header),
}

impl Item<'_> {
    /// The header of the frame that the item came from; of a piece of DATA, one of the piece's size.
    pub fn header(&self) -> Header {
        match self {
            Self::Data { client, bytes } => Header::data(*client, bytes.len() as u16),
            Self::Connect { header, .. } | Self::Listen(header) | Self::Ignored(header) => *header,
            Self::Close { client } => Header::close(*client),
        }
    }
}

#[derive(Debug)]
enum State {
    Header { bytes: [u8; Header::LEN], have: usize },
    Data { client: u8, left: usize },
    Connect { header: Header, payload: Vec<u8> },
    Skip { left: usize },
}

impl Default for State {
    fn default() -> Self {
        Self::Header { bytes: [0; Header::LEN], have: 0 }
    }
}

impl Decoder {
    /// Bytes that are still to come of the DATA that is being read.
    pub fn left(&self) -> usize {
        if let State::Data { left, .. } = &self.state { *left } else { 0 }
    }

    /// The client whose DATA `input` begins with: the next item is a piece of it.
    pub fn data_ahead(&self, input: &[u8]) -> Option<u8> {
        let &State::Header { have: 0, .. } = &self.state else { return None };
        let header = Header::decode(*input.first_chunk()?);
        let is_piece = header.command == Command::Data && header.size > 0;
        (is_piece && input.len() > Header::LEN).then_some(header.client)
    }

    /// The next item in `input`, which is advanced past it; `None` when all of `input` was taken.
    pub fn next<'a>(&mut self, input: &mut &'a [u8]) -> Option<Item<'a>> {
        while !input.is_empty() {
            match &mut self.state {
                State::Header { bytes, have } => {
                    let taken = take(input, Header::LEN - *have);
                    bytes[*have..*have + taken.len()].copy_from_slice(taken);
                    *have += taken.len();
                    if *have == Header::LEN {
                        let header = Header::decode(*bytes);
                        if let Some(item) = self.begin(header) {
                            return Some(item);
                        }
                    }
                }
                State::Data { client, left } => {
                    let (client, bytes) = (*client, take(input, *left));
                    *left -= bytes.len();
                    if *left == 0 {
                        self.state = State::default();
                    }
                    return Some(Item::Data { client, bytes });
                }
                State::Connect { header, payload } => {
                    payload.extend_from_slice(take(input, usize::from(header.size) - payload.len()));
                    if payload.len() == usize::from(header.size) {
                        let item = Item::Connect { header: *header, connect: decode(payload) };
                        self.state = State::default();
                        return Some(item);
                    }
                }
                State::Skip { left } => {
                    *left -= take(input, *left).len();
                    if *left == 0 {
                        self.state = State::default();
                    }
                }
            }
        }
        None
    }

    /// A header is complete: how to go on, and the item if the header alone makes one.
    fn begin(&mut self, header: Header) -> Option<Item<'static>> {
        let size = usize::from(header.size);
        let client = header.client;
        let skip = if size == 0 { State::default() } else { State::Skip { left: size } };
        let (state, item) = match header.command {
            Command::Data if size > 0 => (State::Data { client, left: size }, None),
            Command::Connect if size > MAX_CONNECT => {
                (skip, Some(Item::Connect { header, connect: Err(Malformed::Long(header.size)) }))
            }
            Command::Connect if size > 0 => (State::Connect { header, payload: Vec::with_capacity(size) }, None),
            Command::Connect => (skip, Some(Item::Connect { header, connect: decode(&[]) })),
            Command::Close => (skip, Some(Item::Close { client })),
            Command::Listen => (skip, Some(Item::Listen(header))),
            Command::Data | Command::Other(_) => (skip, Some(Item::Ignored(header))),
        };
        self.state = state;
        item
    }
}

/// A CONNECT whose payload is complete. Bytes behind the port are passed over, as the programs of 2012 do.
fn decode(payload: &[u8]) -> Result<Connect, Malformed> {
    Connect::decode(payload).map(|(connect, _)| connect)
}

/// Cuts at most `most` bytes off the front of `input`.
fn take<'a>(input: &mut &'a [u8], most: usize) -> &'a [u8] {
    let (taken, rest) = input.split_at(most.min(input.len()));
    *input = rest;
    taken
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decode(pieces: &[&[u8]]) -> Vec<String> {
        let mut decoder = Decoder::default();
        let mut items: Vec<String> = Vec::new();
        let mut data: Option<(u8, Vec<u8>)> = None;
        for piece in pieces {
            let mut input = *piece;
            loop {
                let ahead = decoder.data_ahead(input);
                let item = decoder.next(&mut input);
                if let Some(ahead) = ahead {
                    let is_piece = matches!(item, Some(Item::Data { client, bytes: [_, ..] }) if client == ahead);
                    assert!(is_piece, "DATA of {ahead} was ahead, and {item:?} came");
                }
                let Some(item) = item else { break };
                if let Item::Data { client, bytes } = item {
                    assert!(!bytes.is_empty());
                    match &mut data {
                        Some((owner, all)) if *owner == client => all.extend_from_slice(bytes),
                        _ => items.extend(data.replace((client, bytes.to_vec())).map(|data| format!("{data:?}"))),
                    }
                } else {
                    items.extend(data.take().map(|data| format!("{data:?}")));
                    items.push(format!("{item:?}"));
                }
            }
            assert!(input.is_empty(), "all input is taken");
        }
        items.extend(data.map(|data| format!("{data:?}")));
        items
    }

    #[test]
    fn payloads_of_unknown_commands_and_of_close_are_skipped_not_parsed() {
        let bytes = b"\x00\x05\x07\x09\x00\x01\x03\x05A\x00\x05\x02\x09\x00\x01\x03\x05A\x00\x00\x03\x01";
        assert_eq!(
            decode(&[bytes]),
            [
                "Ignored(Header { size: 5, command: Other(7), client: 9 })",
                "Close { client: 9 }",
                "Ignored(Header { size: 0, command: Data, client: 1 })"
            ]
        );
    }

    #[test]
    fn what_is_ahead_is_known_where_a_piece_of_data_is_next() {
        let ahead = |bytes: &[u8]| Decoder::default().data_ahead(bytes);
        assert_eq!(ahead(b"\0\x02\x03\x07xy\0"), Some(7));
        assert_eq!(ahead(b"\0\x02\x03\x07x"), Some(7), "the rest is to come");
        assert_eq!(ahead(b"\0\x02\x03\x07"), None, "nothing of it is here");
        assert_eq!(ahead(b"\0\x02\x03"), None, "half a header");
        assert_eq!(ahead(b"\0\0\x03\x07xy"), None, "empty");
        assert_eq!(ahead(b"\0\x02\x02\x07xy"), None, "CLOSE");
        let mut decoder = Decoder::default();
        decoder.next(&mut &b"\0\x05\x03\x07x"[..]);
        assert_eq!(decoder.data_ahead(b"\0\x02\x03\x07"), None, "these are payload");
    }

    #[test]
    fn a_connect_longer_than_any_is_skipped_and_reported() {
        let mut bytes = b"\x10\x00\x01\x03".to_vec();
        bytes.resize(4 + 4096, b'x');
        bytes.extend(b"\x00\x00\x02\x03");
        let items = decode(&[&bytes]);
        assert!(items[0].contains("Long(4096)"), "{items:?}");
        assert_eq!(items[1], "Close { client: 3 }");
    }

    proptest! {
        #[test]
        fn any_split_of_any_stream_decodes_the_same(
            frames in prop::collection::vec((0u16..40, 0u8..7, 0u8..4, any::<u8>()), 0..20),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
        ) {
            let mut stream = Vec::new();
            for (size, command, client, fill) in frames {
                stream.extend(Header { size, command: command.into(), client }.encode());
                stream.extend((0..size).map(|i| fill.wrapping_add(i as u8)));
            }
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
            cuts.extend([0, stream.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|pair| &stream[pair[0]..pair[1]]).collect();
            prop_assert_eq!(decode(&pieces), decode(&[&stream]));
        }

        #[test]
        fn no_bytes_make_it_panic(stream in prop::collection::vec(any::<u8>(), 0..300)) {
            decode(&[&stream]);
        }
    }
}
