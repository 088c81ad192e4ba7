//! Devices that announce that they acknowledge, and do it as they like.

use std::net::SocketAddr;
use std::time::Duration;

use crate::common::Peer;
use crate::common::relay::Relay;
use crate::common::wire_v2::{self as wire, Frame, Link, code};

/// No connection is made to it: the device is scripted.
const SERVICE: &str = "127.0.0.1:57847";

/// A device that acknowledges, behind its SETTINGS.
struct Reader {
    link: Link,
    clients: SocketAddr,
    /// Bytes that were read behind the relay's SETTINGS.
    offset: u64,
}

impl Reader {
    fn new(relay: &Relay) -> Self {
        let mut link = Link::greet(relay.device_addr());
        link.expect_settings();
        link.send(&wire::settings_that_acknowledge());
        Self { link, clients: relay.client_addrs()[0], offset: 0 }
    }

    fn read(&mut self) -> Frame {
        let frame = self.link.read_frame();
        if frame.kind != wire::ACKNOWLEDGE {
            self.offset += 8 + frame.payload.len() as u64;
        }
        frame
    }

    /// A client, whose stream is connected.
    fn open(&mut self) -> (Peer, u32) {
        let client = Peer::connect(self.clients);
        let connect = loop {
            let frame = self.read();
            if frame.kind == wire::CONNECT {
                break frame;
            }
        };
        self.link.send(&wire::connected(connect.stream));
        (client, connect.stream)
    }
}

#[test]
fn whatever_clock_a_device_acknowledges_with_a_client_has_all_its_bytes_carried() {
    const BYTES: usize = 900_000;
    let clocks: [fn(u32) -> u32; 4] =
        [|_| 7, |nth| u32::MAX - nth * 1_000_000, |nth| nth.wrapping_mul(0x9e37_79b9), |nth| nth * 1000];
    for (which, clock) in clocks.into_iter().enumerate() {
        let relay = Relay::start(&[SERVICE]);
        let mut device = Reader::new(&relay);
        let (mut client, _) = device.open();
        client.send(&vec![b'x'; BYTES]);
        let (mut read, mut asked) = (0, 0);
        while read < BYTES {
            let frame = device.read();
            if frame.kind == wire::DATA {
                read += frame.payload.len();
            }
            if frame.kind == wire::DATA && frame.flags & wire::ASK != 0 {
                asked += 1;
                device.link.send(&wire::acknowledge(device.offset, clock(asked)));
            }
        }
        assert!(asked >= 3, "clock {which}: {asked} frames ask");
    }
}

#[test]
fn a_device_that_acknowledges_only_the_last_that_can_be_sent_holds_nothing_up_for_ever() {
    const BYTES: usize = 300_000;
    let relay = Relay::start(&[SERVICE]);
    let mut device = Reader::new(&relay);
    let (mut client, _) = device.open();
    client.send(&vec![b'x'; BYTES]);
    let (mut read, mut asked) = (0, None);
    while read < BYTES {
        if device.link.peer.is_quiet_for(Duration::from_millis(100)) {
            // On a busy machine that may be no sign that the relay waits.
            asked.take().into_iter().for_each(|offset| device.link.send(&wire::acknowledge(offset, 7)));
            continue;
        }
        let frame = device.read();
        if frame.kind == wire::DATA {
            read += frame.payload.len();
            asked = (frame.flags & wire::ASK != 0).then_some(device.offset).or(asked);
        }
    }
}

#[test]
fn acknowledgements_that_were_not_asked_for_end_the_link() {
    for offset in [0, 7, u64::MAX] {
        let relay = Relay::start(&[SERVICE]);
        let mut device = Reader::new(&relay);
        device.open();
        device.link.send(&wire::acknowledge(offset, 7).repeat(300));
        device.link.expect_goodbye(code::OVERLOAD);
    }
}
