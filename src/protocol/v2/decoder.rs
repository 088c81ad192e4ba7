//! Bytes to frames, however the bytes were cut.

use super::connect::Connect;
use super::frame::{Close, GoAway};
use super::header::{Flags, Header, Type};
use super::settings::Settings;
use crate::protocol::{Malformed, ProtocolError};

/// The longest payload of a control frame that is read.
const MAX_CONTROL: usize = 4096;

/// Reads frames from a byte stream. DATA is handed on piece by piece as it arrives, without a copy.
#[derive(Debug, Default)]
pub struct Decoder {
    state: State,
}

/// One thing that was read.
#[derive(Debug, PartialEq, Eq)]
pub enum Item<'a> {
    /// A piece of a DATA payload, in order.
    Data {
        /// Whose bytes they are.
        stream: u32,
        /// The piece, borrowed from the input; empty only where `fin` stands alone.
        bytes: &'a [u8],
        /// What the frame says behind its last piece: [`Flags::FIN`], [`Flags::ASK`], [`Flags::LIMITED`]. None before.
        flags: Flags,
    },
    /// Open a stream.
    Connect {
        /// Its number.
        stream: u32,
        /// Where to connect, if it can be read.
        connect: Result<Connect, Malformed>,
    },
    /// The stream's service is connected.
    Connected {
        /// The stream.
        stream: u32,
    },
    /// A stream ends abruptly.
    Close {
        /// The stream.
        stream: u32,
        /// Why.
        close: Close,
    },
    /// More may be sent on a stream.
    Credit {
        /// The stream.
        stream: u32,
        /// Bytes that may have been sent on it since its start.
        limit: u64,
    },
    /// What the peer can take.
    Settings(Settings),
    /// A PING, or the answer to one.
    Ping {
        /// It is an answer.
        ack: bool,
        /// What is to come back, or has.
        payload: [u8; 8],
    },
    /// No new streams.
    GoAway(GoAway),
    /// The peer has read so much of the link.
    Ack {
        /// Bytes behind SETTINGS, without those of ACK.
        offset: u64,
        /// When, in microseconds of its own clock, which wraps.
        clock: u32,
    },
    /// A type that is not known; the payload is skipped.
    Unknown(Header),
}

#[derive(Debug)]
enum State {
    Header { bytes: [u8; Header::LEN], have: usize },
    Data { header: Header, left: usize },
    Control { header: Header, payload: Vec<u8> },
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

    /// The stream whose DATA `input` begins with: the next item is a piece of it, and not its last one if that has FIN.
    pub fn data_ahead(&self, input: &[u8]) -> Option<u32> {
        let &State::Header { have: 0, .. } = &self.state else { return None };
        let header = Header::decode(*input.first_chunk()?);
        let is_piece = header.kind == Type::Data && header.size > 0 && !header.flags.has(Flags::FIN);
        (is_piece && header.stream > 0 && input.len() > Header::LEN).then_some(header.stream)
    }

    /// The next item in `input`, which is advanced past it; `None` when all of `input` was taken.
    ///
    /// # Errors
    /// The bytes can be no frame of version 2: there is no going on after that.
    pub fn next<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Item<'a>>, ProtocolError> {
        while !input.is_empty() {
            match &mut self.state {
                State::Header { bytes, have } => {
                    let taken = take(input, Header::LEN - *have);
                    bytes[*have..*have + taken.len()].copy_from_slice(taken);
                    *have += taken.len();
                    if *have == Header::LEN {
                        let header = Header::decode(*bytes);
                        if let Some(item) = self.begin(header)? {
                            return Ok(Some(item));
                        }
                    }
                }
                State::Data { header, left } => {
                    let (stream, bytes) = (header.stream, take(input, *left));
                    *left -= bytes.len();
                    let flags = if *left == 0 { header.flags } else { Flags::NONE };
                    if *left == 0 {
                        self.state = State::default();
                    }
                    return Ok(Some(Item::Data { stream, bytes, flags }));
                }
                State::Control { header, payload } => {
                    payload.extend_from_slice(take(input, usize::from(header.size) - payload.len()));
                    if payload.len() == usize::from(header.size) {
                        let item = decode(*header, payload)?;
                        self.state = State::default();
                        return Ok(Some(item));
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
        Ok(None)
    }

    /// A header is complete: how to go on, and the item if the header alone makes one.
    fn begin(&mut self, header: Header) -> Result<Option<Item<'static>>, ProtocolError> {
        self.state = State::default();
        let size = usize::from(header.size);
        if header.kind.names_a_stream().is_some_and(|named| named == (header.stream == 0)) {
            return Err(ProtocolError::WrongStream(header));
        }
        match header.kind {
            Type::Data if size > 0 => self.state = State::Data { header, left: size },
            Type::Data if header.flags.has(Flags::FIN) => {
                return Ok(Some(Item::Data { stream: header.stream, bytes: &[], flags: header.flags }));
            }
            Type::Data => return Err(ProtocolError::EmptyData(header)),
            Type::Other(_) if header.flags.has(Flags::CRITICAL) => return Err(ProtocolError::Critical(header)),
            Type::Other(_) => {
                if size > 0 {
                    self.state = State::Skip { left: size };
                }
                return Ok(Some(Item::Unknown(header)));
            }
            Type::Connect
            | Type::Close
            | Type::Settings
            | Type::Connected
            | Type::Credit
            | Type::Ping
            | Type::Ack
            | Type::GoAway => {
                if size > MAX_CONTROL {
                    return Err(ProtocolError::TooLong(header));
                }
                if size == 0 {
                    return decode(header, &[]).map(Some);
                }
                self.state = State::Control { header, payload: Vec::with_capacity(size) };
            }
        }
        Ok(None)
    }
}

/// A control frame whose payload is complete.
fn decode(header: Header, payload: &[u8]) -> Result<Item<'static>, ProtocolError> {
    let stream = header.stream;
    let eight = || <[u8; 8]>::try_from(payload).map_err(|_| ProtocolError::TruncatedField);
    Ok(match header.kind {
        Type::Connect => Item::Connect { stream, connect: Connect::decode(payload) },
        Type::Close => Item::Close { stream, close: Close::decode(payload)? },
        Type::Settings => Item::Settings(Settings::decode(payload)?),
        Type::Connected => Item::Connected { stream },
        Type::Credit => Item::Credit { stream, limit: u64::from_be_bytes(eight()?) },
        Type::Ping => Item::Ping { ack: header.flags.has(Flags::ACK), payload: eight()? },
        Type::GoAway => Item::GoAway(GoAway::decode(payload)?),
        Type::Ack => {
            let (offset, clock) = payload.split_first_chunk::<8>().ok_or(ProtocolError::TruncatedField)?;
            let clock = clock.try_into().map_err(|_| ProtocolError::TruncatedField)?;
            Item::Ack { offset: u64::from_be_bytes(*offset), clock: u32::from_be_bytes(clock) }
        }
        Type::Data | Type::Other(_) => Item::Unknown(header),
    })
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

    use super::super::{Code, ack, credit, ping};
    use super::*;

    /// What is read, with the pieces of each DATA put together; the error, where there is one, last.
    fn read(pieces: &[&[u8]]) -> Vec<String> {
        let mut decoder = Decoder::default();
        let mut items: Vec<String> = Vec::new();
        let mut data: Option<(u32, Vec<u8>)> = None;
        for piece in pieces {
            let mut input = *piece;
            loop {
                let ahead = decoder.data_ahead(input);
                let item = decoder.next(&mut input);
                if let Some(ahead) = ahead {
                    let is_piece = matches!(&item, Ok(Some(Item::Data { stream, flags, bytes: [_, ..] })) if *stream == ahead && !flags.has(Flags::FIN));
                    assert!(is_piece, "DATA of {ahead} was ahead, and {item:?} came");
                }
                match item {
                    Ok(Some(Item::Data { stream, bytes, flags })) => {
                        let (owner, all) = data.get_or_insert_with(|| (stream, Vec::new()));
                        if *owner == stream {
                            all.extend_from_slice(bytes);
                        } else {
                            items.extend(data.replace((stream, bytes.to_vec())).map(|data| format!("{data:?}")));
                        }
                        if flags != Flags::NONE {
                            items.extend(data.take().map(|data| format!("{data:?} {flags:?}")));
                        }
                    }
                    Ok(Some(item)) => {
                        items.extend(data.take().map(|data| format!("{data:?}")));
                        items.push(format!("{item:?}"));
                    }
                    Ok(None) => break,
                    Err(error) => {
                        items.extend(data.take().map(|data| format!("{data:?}")));
                        items.push(error.to_string());
                        return items;
                    }
                }
            }
        }
        items.extend(data.map(|data| format!("{data:?}")));
        items
    }

    fn one(frame: &[u8]) -> Item<'_> {
        let mut input = frame;
        Decoder::default().next(&mut input).expect("a frame").expect("an item")
    }

    #[test]
    fn what_is_encoded_decodes() {
        let close = Close { code: Code::Refused, reason: "no listener".into() };
        assert_eq!(one(&close.frame(9)), Item::Close { stream: 9, close });
        let away = GoAway { code: Code::Shutdown, retry_after: 5, last_stream: 77, reason: "bye".into() };
        assert_eq!(one(&away.frame()), Item::GoAway(away));
        assert_eq!(one(&credit(3, u64::MAX)), Item::Credit { stream: 3, limit: u64::MAX });
        let payload = *b"8 bytes!";
        assert_eq!(one(&ping(payload, Flags::ACK)), Item::Ping { ack: true, payload });
        assert_eq!(one(&ack(u64::MAX - 1, 77)), Item::Ack { offset: u64::MAX - 1, clock: 77 });
        assert_eq!(one(&Header::data(4, 0, true).encode()), Item::Data { stream: 4, bytes: &[], flags: Flags::FIN });
        let asks = Flags::ASK.with(Flags::LIMITED, true);
        let frame = [&Header::flagged_data(4, 2, asks).encode()[..], b"xy"].concat();
        assert_eq!(one(&frame), Item::Data { stream: 4, bytes: b"xy", flags: asks });
        assert_eq!(one(&frame[..9]), Item::Data { stream: 4, bytes: b"x", flags: Flags::NONE }, "it is not complete");
    }

    #[test]
    fn a_reason_is_cut_to_what_a_log_line_can_hold_and_escaped() {
        let long = Close { code: Code::Internal, reason: "ü".repeat(300) };
        let Item::Close { close, .. } = one(&long.frame(1)) else { panic!("no CLOSE") };
        assert_eq!(close.reason, "ü".repeat(100));
        let wild = Close { code: Code::Internal, reason: "a\nb\x1b[31m".into() };
        let Item::Close { close, .. } = one(&wild.frame(1)) else { panic!("no CLOSE") };
        assert_eq!(close.reason, "a\\nb\\u{1b}[31m");
        let quoted = Close { code: Code::Denied, reason: "the device's \"22\"".into() };
        let Item::Close { close, .. } = one(&quoted.frame(1)) else { panic!("no CLOSE") };
        assert_eq!(close.reason, "the device's \"22\"");
    }

    #[test]
    fn an_error_shows_the_bytes_of_an_impossible_frame() {
        let error = |bytes: &[u8]| Decoder::default().next(&mut &bytes[..]).expect_err("an error").to_string();
        assert!(error(b"\0\0\x03\0\0\0\0\x01").starts_with("DATA without a byte"), "empty");
        assert!(error(b"\0\0\x03\x01\0\0\0\0").contains("00 00 03 01 00 00 00 00"), "DATA of the link");
        assert!(error(b"\0\x08\x09\0\0\0\0\x01").contains("stream"), "PING of a stream");
        assert!(error(b"\x20\0\x06\0\0\0\0\0").contains("too long"), "endless SETTINGS");
        assert!(error(b"\0\0\x63\x80\0\0\0\0").contains("critical"), "a critical unknown");
        assert!(error(b"\0\x01\x08\0\0\0\0\x01\x07").contains("cut short"), "half a CREDIT");
        assert!(error(b"\0\x01\x02\0\0\0\0\x01\x07").contains("cut short"), "half a code");
        assert!(error(b"\0\x08\x0b\0\0\0\0\0offsetoo").contains("cut short"), "ACK without a clock");
        assert!(error(b"\0\x0c\x0b\0\0\0\0\x01").contains("stream"), "ACK of a stream");
    }

    #[test]
    fn what_is_ahead_is_known_where_a_piece_of_data_is_next_and_its_end_is_not() {
        let ahead = |bytes: &[u8]| Decoder::default().data_ahead(bytes);
        assert_eq!(ahead(b"\0\x02\x03\0\0\0\0\x07xy\0"), Some(7));
        assert_eq!(ahead(b"\0\x02\x03\0\0\0\0\x07x"), Some(7), "the rest is to come");
        assert_eq!(ahead(b"\0\x02\x03\0\0\0\0\x07"), None, "nothing of it is here");
        assert_eq!(ahead(b"\0\x02\x03\0"), None, "half a header");
        assert_eq!(ahead(b"\0\x02\x03\x01\0\0\0\x07xy"), None, "FIN");
        assert_eq!(ahead(b"\0\0\x03\x01\0\0\0\x07xy"), None, "FIN alone");
        assert_eq!(ahead(b"\0\x02\x03\0\0\0\0\0xy"), None, "an error");
        assert_eq!(ahead(b"\0\x02\x02\0\0\0\0\x07xy"), None, "CLOSE");
        let mut decoder = Decoder::default();
        decoder.next(&mut &b"\0\x09\x03\0\0\0\0\x07x"[..]).expect("a frame");
        assert_eq!(decoder.data_ahead(b"\0\x02\x03\0\0\0\0\x07"), None, "these are payload");
    }

    #[test]
    fn an_unknown_type_is_skipped_by_its_size() {
        let bytes = b"\0\x04\x63\x01\0\0\0\x05abcd\0\0\x07\0\0\0\0\x05";
        let items = read(&[bytes]);
        assert!(items[0].starts_with("Unknown") && items[1].starts_with("Connected"), "{items:?}");
    }

    proptest! {
        #[test]
        fn any_split_of_any_stream_decodes_the_same(
            frames in prop::collection::vec((0u16..40, 0u8..13, 0u8..8, 0u32..4, any::<u8>()), 0..20),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
        ) {
            let mut stream = Vec::new();
            for (size, kind, flags, number, fill) in frames {
                stream.extend(Header { size, kind: kind.into(), flags: Flags(flags), stream: number }.encode());
                stream.extend((0..size).map(|i| fill.wrapping_add(i as u8)));
            }
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
            cuts.extend([0, stream.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|pair| &stream[pair[0]..pair[1]]).collect();
            prop_assert_eq!(read(&pieces), read(&[&stream]));
        }

        #[test]
        fn no_bytes_make_it_panic(stream in prop::collection::vec(any::<u8>(), 0..300)) {
            read(&[&stream]);
        }
    }
}
