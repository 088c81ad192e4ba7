//! A link that the test drives, in version 2, byte for byte, without any of the crate's code.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::wire::{HELLO, LISTEN};
use super::{DEADLINE, End, Listener, Peer, head};

pub const CONNECT: u8 = 1;
pub const CLOSE: u8 = 2;
pub const DATA: u8 = 3;
pub const SETTINGS: u8 = 6;
pub const CONNECTED: u8 = 7;
pub const CREDIT: u8 = 8;
pub const PING: u8 = 9;
pub const GOAWAY: u8 = 10;
pub const ACKNOWLEDGE: u8 = 11;

pub const FIN: u8 = 1;
pub const ACK: u8 = 1;
pub const ASK: u8 = 2;
pub const CRITICAL: u8 = 0x80;

/// What CLOSE and GOAWAY are for.
pub mod code {
    pub const REFUSED: u16 = 1;
    pub const FLOW_CONTROL: u16 = 7;
    pub const OVERLOAD: u16 = 10;
    pub const SHUTDOWN: u16 = 11;
    pub const PROTOCOL: u16 = 12;
    pub const REPLACED: u16 = 14;
}

/// The window that ours give a new stream.
pub const WINDOW: usize = 32 * 1024;

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let size = u16::try_from(payload.len()).unwrap().to_be_bytes();
    [&size[..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

pub fn field(tag: u16, value: &[u8]) -> Vec<u8> {
    [&tag.to_be_bytes()[..], &u16::try_from(value.len()).unwrap().to_be_bytes(), value].concat()
}

/// SETTINGS of a peer that takes much.
pub fn settings() -> Vec<u8> {
    settings_with(&[])
}

/// SETTINGS of one that acknowledges, too.
pub fn settings_that_acknowledge() -> Vec<u8> {
    settings_with(&field(10, &[]))
}

fn settings_with(more: &[u8]) -> Vec<u8> {
    let fields =
        [(4, 1 << 20), (5, 1000), (6, 10_000)].map(|(tag, value): (u16, u32)| field(tag, &value.to_be_bytes()));
    frame(SETTINGS, 0, 0, &[&field(3, b"a test"), &fields.concat(), more].concat())
}

pub fn connect(stream: u32, service: SocketAddr) -> Vec<u8> {
    let host = service.ip().to_string();
    let length = u16::try_from(host.len()).unwrap().to_be_bytes();
    frame(CONNECT, 0, stream, &[&length[..], host.as_bytes(), &service.port().to_be_bytes()].concat())
}

pub fn connected(stream: u32) -> Vec<u8> {
    frame(CONNECTED, 0, stream, &[])
}

pub fn data(stream: u32, bytes: &[u8]) -> Vec<u8> {
    frame(DATA, 0, stream, bytes)
}

pub fn fin(stream: u32) -> Vec<u8> {
    frame(DATA, FIN, stream, &[])
}

/// The peer may have sent `limit` bytes in all.
pub fn credit(stream: u32, limit: u64) -> Vec<u8> {
    frame(CREDIT, 0, stream, &limit.to_be_bytes())
}

pub fn close(stream: u32, code: u16, reason: &str) -> Vec<u8> {
    frame(CLOSE, 0, stream, &[&code.to_be_bytes()[..], reason.as_bytes()].concat())
}

pub fn ping(flags: u8, payload: [u8; 8]) -> Vec<u8> {
    frame(PING, flags, 0, &payload)
}

/// So many bytes of the link were read, when the reader's clock was that.
pub fn acknowledge(offset: u64, clock: u32) -> Vec<u8> {
    frame(ACKNOWLEDGE, 0, 0, &[&offset.to_be_bytes()[..], &clock.to_be_bytes()].concat())
}

pub fn go_away(code: u16, retry_after: u16, last_stream: u32, reason: &str) -> Vec<u8> {
    let numbers = [&code.to_be_bytes()[..], &retry_after.to_be_bytes(), &last_stream.to_be_bytes()].concat();
    frame(GOAWAY, 0, 0, &[&numbers, reason.as_bytes()].concat())
}

/// A frame that came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Frame {
    /// Of CLOSE and GOAWAY, which both begin with it.
    pub fn code(&self) -> u16 {
        u16::from_be_bytes([self.payload[0], self.payload[1]])
    }

    /// Of CLOSE and GOAWAY, for a person.
    pub fn reason(&self) -> String {
        String::from_utf8(self.payload[if self.kind == CLOSE { 2 } else { 8 }..].to_vec()).unwrap()
    }

    /// Of GOAWAY: the seconds after which another link is welcome, and the newest stream that was taken.
    pub fn retry_after_and_last_stream(&self) -> (u16, u32) {
        let p = &self.payload;
        (u16::from_be_bytes([p[2], p[3]]), u32::from_be_bytes([p[4], p[5], p[6], p[7]]))
    }
}

/// One end of a link.
#[derive(Debug)]
pub struct Link {
    pub peer: Peer,
}

impl Link {
    /// What a device does until both have said that they speak version 2.
    pub fn greet(relay: SocketAddr) -> Self {
        let mut peer = Peer::connect(relay);
        peer.send(&[LISTEN, HELLO].concat());
        peer.expect(&HELLO);
        Self { peer }
    }

    /// A device that has introduced itself, and the relay too.
    pub fn listen(relay: SocketAddr) -> Self {
        let mut link = Self::greet(relay);
        link.send(&settings());
        link.expect_settings();
        link
    }

    /// What a relay does with a device's connection; both have introduced themselves.
    pub fn accept(listener: &Listener) -> Self {
        let mut peer = listener.accept();
        peer.expect(&[LISTEN, HELLO].concat());
        let mut link = Self { peer };
        link.send(&[&HELLO[..], &settings()].concat());
        link.expect_settings();
        link
    }

    /// SETTINGS come first, and say what ours take.
    #[track_caller]
    pub fn expect_settings(&mut self) {
        let first = self.read_frame();
        assert_eq!((first.kind, first.flags, first.stream), (SETTINGS, 0, 0));
        let window = field(4, &u32::try_from(WINDOW).unwrap().to_be_bytes());
        assert!(first.payload.windows(window.len()).any(|part| part == window), "{first:?}");
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.peer.send(bytes);
    }

    pub fn read_frame(&mut self) -> Frame {
        self.try_read_frame(DEADLINE).unwrap_or_else(|end| panic!("no frame, but {end:?}"))
    }

    /// The next frame, or how the link ended.
    pub fn try_read_frame(&mut self, limit: Duration) -> Result<Frame, End> {
        let header = self.peer.try_read_exactly(8, limit)?;
        let payload = self.peer.try_read_exactly(usize::from(u16::from_be_bytes([header[0], header[1]])), limit)?;
        let stream = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
        Ok(Frame { kind: header[2], flags: header[3], stream, payload })
    }

    /// The next frame but PING and CREDIT, which may come at any time. A PING is answered.
    pub fn next(&mut self) -> Frame {
        self.try_next(DEADLINE).unwrap_or_else(|end| panic!("no frame, but {end:?}"))
    }

    pub fn try_next(&mut self, limit: Duration) -> Result<Frame, End> {
        let deadline = Instant::now() + limit;
        loop {
            let frame = self.try_read_frame(deadline.saturating_duration_since(Instant::now()))?;
            if frame.kind == PING && frame.flags == 0 {
                // A link that is about to end may not take it.
                let _ = self.peer.try_send(&ping(ACK, frame.payload.try_into().unwrap()));
            } else if frame.kind != PING && frame.kind != CREDIT {
                return Ok(frame);
            }
        }
    }

    /// The next frame but PING and CREDIT is of this kind.
    #[track_caller]
    pub fn expect(&mut self, kind: u8) -> Frame {
        let frame = self.next();
        assert_eq!(frame.kind, kind, "{frame:?}");
        frame
    }

    /// The next frames are this stream's DATA, of any size, and carry these bytes.
    #[track_caller]
    pub fn expect_data(&mut self, stream: u32, bytes: &[u8]) {
        let mut read = Vec::new();
        while read.len() < bytes.len() {
            let frame = self.expect(DATA);
            assert_eq!(frame.stream, stream, "after {} bytes: {:?}", read.len(), head(&frame.payload));
            read.extend(frame.payload);
        }
        assert!(read == bytes, "expected {:?}, read {:?}", head(bytes), head(&read));
    }

    /// The other end sends GOAWAY with this code, and resets the link. Frames before it are passed over.
    #[track_caller]
    pub fn expect_goodbye(&mut self, code: u16) -> Frame {
        let goodbye = loop {
            let frame = self.next();
            if frame.kind == GOAWAY {
                break frame;
            }
        };
        assert_eq!(goodbye.code(), code, "{}", goodbye.reason());
        let after = self.try_next(DEADLINE);
        assert!(after.is_err(), "the link is still there: {after:?}");
        goodbye
    }
}
