//! A link that the test drives, in version 1, byte for byte, without any of the crate's code.

use std::net::SocketAddr;

use super::{End, Listener, Peer, head};

pub const CONNECT: u8 = 1;
pub const CLOSE: u8 = 2;
pub const DATA: u8 = 3;
pub const LISTEN: [u8; 4] = [0, 0, 4, 0];
/// "I speak version 2."
pub const HELLO: [u8; 4] = [0, 0, 5, 0xf2];
/// "I speak version 1, and want an answer."
pub const HELLO_V1: [u8; 4] = [0, 0, 5, 0xf1];

/// "Are you a relay of 2012?"
pub const PROBE: [u8; 4] = [0, 0, 3, 0xff];

/// Bytes as the captures print them: `00 0d 01 01`.
pub fn hex(text: &str) -> Vec<u8> {
    text.split_whitespace().map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect()
}

pub fn frame(command: u8, client: u8, payload: &[u8]) -> Vec<u8> {
    let size = u16::try_from(payload.len()).unwrap().to_be_bytes();
    [&size[..], &[command, client], payload].concat()
}

pub fn connect(client: u8, host: &str, port: u16) -> Vec<u8> {
    let length = u16::try_from(host.len()).unwrap().to_be_bytes();
    frame(CONNECT, client, &[&length[..], host.as_bytes(), &port.to_be_bytes()].concat())
}

pub fn data(client: u8, bytes: &[u8]) -> Vec<u8> {
    frame(DATA, client, bytes)
}

pub fn close(client: u8) -> Vec<u8> {
    frame(CLOSE, client, &[])
}

/// One end of a link.
#[derive(Debug)]
pub struct Link {
    pub peer: Peer,
}

impl Link {
    /// What a device does: connects to the relay and sends LISTEN.
    pub fn listen(relay: SocketAddr) -> Self {
        let mut peer = Peer::connect(relay);
        peer.send(&LISTEN);
        Self { peer }
    }

    /// What a relay of 2012 does: takes a device's connection and its LISTEN, and answers HELLO and the probe as
    /// whatever is for a client that it does not have.
    pub fn accept(listener: &Listener) -> Self {
        let mut link = Self::accept_as_newer(listener);
        link.send(&close(PROBE[3]));
        link
    }

    /// What a newer relay that is held to version 1 does: it answers HELLO alone.
    pub fn accept_as_newer(listener: &Listener) -> Self {
        let mut peer = listener.accept();
        peer.expect(&LISTEN);
        peer.expect(&HELLO);
        peer.send(&close(HELLO[3]));
        peer.expect(&PROBE);
        Self { peer }
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.peer.send(bytes);
    }

    /// These bytes come next.
    #[track_caller]
    pub fn expect(&mut self, bytes: &[u8]) {
        self.peer.expect(bytes);
    }

    /// The next frame: command, client and payload.
    pub fn read_frame(&mut self) -> (u8, u8, Vec<u8>) {
        let header = self.peer.read(4);
        let payload = self.peer.read(usize::from(u16::from_be_bytes([header[0], header[1]])));
        (header[2], header[3], payload)
    }

    /// The next frames are this client's DATA, of any size, and carry these bytes; gives back the payload sizes.
    #[track_caller]
    pub fn expect_data(&mut self, client: u8, bytes: &[u8]) -> Vec<usize> {
        let mut sizes = Vec::new();
        let mut read = Vec::new();
        while read.len() < bytes.len() {
            let (command, from, payload) = self.read_frame();
            assert_eq!((command, from), (DATA, client), "after {} bytes: {:?}", read.len(), head(&payload));
            assert!(!payload.is_empty(), "empty DATA");
            sizes.push(payload.len());
            read.extend(payload);
        }
        assert!(read == bytes, "expected {:?}, read {:?}", head(bytes), head(&read));
        sizes
    }

    #[track_caller]
    pub fn expect_end(&mut self, end: End) {
        self.peer.expect_end(end);
    }
}
