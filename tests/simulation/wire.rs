//! The link as a third party sees it: a decoder of its own, and the rules that both ends must keep.

use std::time::Duration;

/// How long a number waits for the device's CLOSE.
const ECHO_TIMEOUT: Duration = Duration::from_secs(30);

/// Whose bytes: what the relay writes, or what the device writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum From {
    Relay,
    Device,
}

pub(crate) const CONNECT: u8 = 1;
pub(crate) const CLOSE: u8 = 2;
pub(crate) const DATA: u8 = 3;
pub(crate) const LISTEN: u8 = 4;
/// Command and id.
const HELLO: u8 = 5;
/// The ids of a HELLO: `0xf0` and the version that is offered.
const HELLO_IDS: [u8; 2] = [0xf1, 0xf2];

/// The id of the empty DATA by which a device asks which relay it is.
const PROBE_ID: u8 = 255;

/// A whole frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) command: u8,
    pub(crate) id: u8,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = (self.payload.len() as u16).to_be_bytes().to_vec();
        bytes.extend([self.command, self.id]);
        bytes.extend(&self.payload);
        bytes
    }

    /// The conversation that a CONNECT is for: simulated services have their number for a name.
    pub(crate) fn conversation(&self) -> usize {
        let length = usize::from(u16::from_be_bytes([self.payload[0], self.payload[1]]));
        assert_eq!(self.payload.len(), length + 4, "CONNECT has no more than host and port");
        let host = std::str::from_utf8(&self.payload[2..2 + length]).expect("a host in UTF-8");
        host.strip_prefix('c').and_then(|number| number.parse().ok()).expect("the host of a simulated service")
    }
}

/// Splits bytes into whole frames.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    bytes: Vec<u8>,
}

impl Frames {
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Vec<Frame> {
        self.bytes.extend_from_slice(bytes);
        let mut frames = Vec::new();
        let mut rest = &self.bytes[..];
        while let [high, low, command, id, more @ ..] = rest {
            let size = usize::from(u16::from_be_bytes([*high, *low]));
            if more.len() < size {
                break;
            }
            frames.push(Frame { command: *command, id: *id, payload: more[..size].to_vec() });
            rest = &more[size..];
        }
        let taken = self.bytes.len() - rest.len();
        self.bytes.drain(..taken);
        frames
    }
}

/// What has passed for one number: queued at one end, read by the other.
#[derive(Clone, Debug, Default)]
struct Passed {
    /// The conversations of its CONNECTs.
    connects: Vec<usize>,
    connects_seen: usize,
    relay_closes: usize,
    relay_closes_seen: usize,
    relay_closed_at: Duration,
    device_closes: usize,
    device_closes_seen: usize,
}

/// A frame that was queued.
#[derive(Debug)]
pub(crate) struct Queued {
    pub(crate) command: u8,
    pub(crate) id: u8,
    pub(crate) size: usize,
    /// Of a CLOSE: whose, and whether it was sent before the other's was seen.
    pub(crate) close: Option<(usize, bool)>,
}

/// The rules between a relay and a device.
#[derive(Debug)]
pub(crate) struct Wire {
    queued: [Frames; 2],
    seen: [Frames; 2],
    ids: Vec<Passed>,
    listened: bool,
    /// The device has said that it speaks version 2.
    hello: bool,
    /// The device has asked whether the relay is one of 2012.
    probed: bool,
    /// Version 2 is what both will speak: its rules are the ends' own to watch.
    pub(crate) version_2: bool,
    /// The relay is one of 2012: what the device may answer depends on more than this knows.
    pub(crate) old_relay: bool,
}

impl Wire {
    pub(crate) fn new() -> Self {
        Self {
            queued: [Frames::default(), Frames::default()],
            seen: [Frames::default(), Frames::default()],
            ids: vec![Passed::default(); 256],
            listened: false,
            hello: false,
            probed: false,
            version_2: false,
            old_relay: false,
        }
    }

    /// Whether there is something to watch.
    pub(crate) fn watches(&self) -> bool {
        !self.version_2
    }

    /// `bytes` were read by the other end.
    pub(crate) fn read(&mut self, from: From, bytes: &[u8]) {
        if !self.watches() {
            return;
        }
        for frame in self.seen[from as usize].push(bytes) {
            let passed = &mut self.ids[usize::from(frame.id)];
            match (from, frame.command) {
                (From::Relay, CONNECT) => passed.connects_seen += 1,
                // The first may be the answer to HELLO.
                (From::Relay, CLOSE) if passed.connects_seen > 0 => passed.relay_closes_seen += 1,
                (From::Device, CLOSE) => passed.device_closes_seen += 1,
                _ => {}
            }
        }
    }

    /// `bytes` were queued for the link; gives the frames that are whole now.
    pub(crate) fn queue(&mut self, now: Duration, from: From, bytes: &[u8]) -> Vec<Queued> {
        let frames = self.queued[from as usize].push(bytes);
        frames.iter().map(|frame| self.check(now, from, frame)).collect()
    }

    fn check(&mut self, now: Duration, from: From, frame: &Frame) -> Queued {
        let passed = &mut self.ids[usize::from(frame.id)];
        let mut close = None;
        match from {
            From::Relay if self.hello && is_answer_to_hello(frame) && passed.connects.is_empty() => self.hello = false,
            From::Device if frame.command == HELLO && HELLO_IDS.contains(&frame.id) => {
                assert!(self.listened && !self.hello && frame.payload.is_empty(), "one HELLO: {frame:?}");
                self.hello = true;
            }
            From::Relay => close = passed.check_relay(now, frame),
            From::Device if frame.command == LISTEN => {
                assert!(!self.listened && frame.payload.is_empty() && frame.id == 0, "one LISTEN: {frame:?}");
                self.listened = true;
            }
            From::Device if frame.command == DATA && frame.id == PROBE_ID && frame.payload.is_empty() => {
                assert!(self.listened && !self.probed, "one probe");
                self.probed = true;
            }
            From::Device => {
                assert!(self.listened, "LISTEN comes first, not {frame:?}");
                if !self.old_relay {
                    close = passed.check_device(frame);
                }
            }
        }
        Queued { command: frame.command, id: frame.id, size: frame.payload.len(), close }
    }

    /// Everything is over and the link still stands.
    pub(crate) fn check_quiet(&self) {
        for (id, passed) in self.ids.iter().enumerate() {
            let closes = [passed.relay_closes, passed.device_closes_seen];
            let connects = passed.connects.len();
            // A device of 2012 also answers DATA with CLOSE once its service has closed.
            assert!(
                closes[0] == connects && closes[1] >= connects,
                "number {id}: one CLOSE from each side for each of {connects} CONNECTs, not {closes:?}"
            );
        }
    }
}

fn is_answer_to_hello(frame: &Frame) -> bool {
    frame.command == CLOSE && HELLO_IDS.contains(&frame.id) && frame.payload.is_empty()
}

impl Passed {
    fn check_relay(&mut self, now: Duration, frame: &Frame) -> Option<(usize, bool)> {
        let open = self.connects.len() == self.relay_closes + 1;
        match frame.command {
            CONNECT => {
                assert!(!open, "CONNECT for an open number: {frame:?}");
                let answered = self.device_closes_seen >= self.connects.len();
                let waited = now >= self.relay_closed_at + ECHO_TIMEOUT;
                assert!(answered || waited, "CONNECT before the device's CLOSE: {frame:?}");
                self.connects.push(frame.conversation());
                None
            }
            CLOSE => {
                assert!(open && frame.payload.is_empty(), "the relay's CLOSE for an open number, once: {frame:?}");
                self.relay_closes += 1;
                self.relay_closed_at = now;
                let nth = self.relay_closes;
                Some((self.connects[nth - 1], self.device_closes_seen < nth))
            }
            DATA => {
                assert!(open && !frame.payload.is_empty(), "the relay's DATA on number {} in its time", frame.id);
                None
            }
            _ => panic!("no relay sends {frame:?}"),
        }
    }

    fn check_device(&mut self, frame: &Frame) -> Option<(usize, bool)> {
        // The relay's CONNECTs are seen some at once; the device answers them in order.
        let open = self.connects_seen > self.device_closes;
        match frame.command {
            CLOSE => {
                assert!(open && frame.payload.is_empty(), "the device's CLOSE for an open number, once: {frame:?}");
                self.device_closes += 1;
                let nth = self.device_closes;
                Some((self.connects[nth - 1], self.relay_closes_seen < nth))
            }
            DATA => {
                assert!(open && !frame.payload.is_empty(), "the device's DATA on number {} in its time", frame.id);
                None
            }
            _ => panic!("no device sends {frame:?}"),
        }
    }
}
