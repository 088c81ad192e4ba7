//! The device's end of a link: sans-IO, see [`Connection`] for the order of calls.
//!
//! It says LISTEN, and HELLO behind it with the newest version that it may speak; the relay's first frame decides which
//! version is spoken. Every relay answers at once: one that is silent for too long is none, and ends the link.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::negotiation::{Negotiated, Negotiation, Speaking, with_version};
use super::v1::device as v1;
#[cfg(feature = "tls")]
use crate::connection::Mux;
use crate::connection::{Connection, Limits, Output, Protocol, Role, StreamKey};
use crate::protocol::ProtocolError;
use crate::protocol::v1::{Command, Header};
use crate::protocol::v2;

/// How long the relay may take to answer. Every relay answers at once, so this is for the path alone: where a round trip
/// takes 0.3 s, TCP sends a lost segment again after 1, 3, 7 and 15 s; where it takes 2 s, after 6 and 18 s.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

/// The device's end of a link.
pub type Device = Negotiated<Greeting>;

/// LISTEN and HELLO, and the first frame that comes back.
#[derive(Debug)]
pub struct Greeting {
    /// What HELLO offers.
    hello: Header,
    /// The oldest version that may be spoken.
    min_protocol: Protocol,
    limits: Limits,
    /// What SETTINGS say beside the limits.
    said: v2::Settings,
    unsent: Vec<u8>,
    /// When the relay must have answered, once LISTEN has left.
    deadline: Option<Instant>,
    first: [u8; Header::LEN],
    have: usize,
    /// The owner ended the link before the relay said anything.
    is_closed: bool,
}

impl Device {
    /// A link that was just made: LISTEN waits to be sent.
    pub fn new(protocol: Protocol, limits: Limits) -> Self {
        let hello = match protocol {
            Protocol::V1 => v2::HELLO_V1,
            Protocol::V2 => v2::HELLO,
        };
        let unsent = [Header::LISTEN.encode(), hello.encode()].concat();
        let (min_protocol, said, first) = (Protocol::V1, v2::Settings::default(), [0; Header::LEN]);
        Self::begin(Greeting {
            hello,
            min_protocol,
            limits,
            said,
            unsent,
            deadline: None,
            first,
            have: 0,
            is_closed: false,
        })
    }

    /// The same, but a relay that speaks only versions before this one is given up, and [`ProtocolError::OldRelay`].
    #[must_use]
    pub fn at_least(mut self, min_protocol: Protocol) -> Self {
        if let Speaking::Negotiating(greeting) = &mut self.speaking {
            greeting.min_protocol = min_protocol;
        }
        self
    }

    /// A link in TLS, on which version 2 is spoken from the start. SETTINGS wait to be sent: what is `said`, and the limits.
    #[cfg(feature = "tls")]
    pub fn in_tls(now: Instant, limits: Limits, said: v2::Settings) -> Self {
        Self::begin_v2(Mux::opener(now, limits, said))
    }

    /// The same, and in version 2 the relay is told this, too, beside the limits.
    #[must_use]
    pub fn saying(mut self, said: v2::Settings) -> Self {
        if let Speaking::Negotiating(greeting) = &mut self.speaking {
            greeting.said = said;
        }
        self
    }

    /// The connection that [`Output::Connect`] asked for is made.
    pub fn handle_connected(&mut self, now: Instant, key: StreamKey) {
        with_version!(&mut self.speaking, end => end.handle_connected(now, key), else ());
    }
}

impl Negotiation for Greeting {
    type V1 = v1::Device;

    const ROLE: Role = Role::Device;

    /// Takes the relay's first frame; its header decides.
    fn receive(
        &mut self,
        _now: Instant,
        input: &mut &[u8],
        _outputs: &mut VecDeque<Output>,
    ) -> Result<Option<Protocol>, ProtocolError> {
        let (taken, rest) = input.split_at((Header::LEN - self.have).min(input.len()));
        self.first[self.have..][..taken.len()].copy_from_slice(taken);
        self.have += taken.len();
        *input = rest;
        if self.have < Header::LEN {
            return Ok(None);
        }
        let first = Header::decode(self.first);
        if !is_relays(first) {
            return Err(ProtocolError::NotRelay(first));
        }
        if first == v2::HELLO && self.hello == v2::HELLO {
            Ok(Some(Protocol::V2))
        } else if self.min_protocol > Protocol::V1 {
            Err(ProtocolError::OldRelay)
        } else {
            Ok(Some(Protocol::V1))
        }
    }

    fn begin_v1(&mut self, now: Instant) -> Result<v1::Device, ProtocolError> {
        let mut device = v1::Device::new(self.limits, &self.unsent);
        // What a relay of 2012 answers to HELLO is expected, and is no frame of a client.
        if Header::decode(self.first) != Header::close(self.hello.client) {
            // A header alone carries nothing for a service.
            let delivery = device.receive(now, &mut &self.first[..])?;
            debug_assert!(delivery.is_none());
        }
        Ok(device)
    }

    fn begin_v2(&mut self) -> (Vec<u8>, Limits, v2::Settings) {
        (std::mem::take(&mut self.unsent), self.limits, std::mem::take(&mut self.said))
    }

    fn unsent(&self) -> &[u8] {
        &self.unsent
    }

    fn advance_link(&mut self, now: Instant, count: usize) {
        drop(self.unsent.drain(..count));
        if self.unsent.is_empty() {
            self.deadline = Some(now + ANSWER_TIMEOUT);
        }
    }

    fn close(&mut self) {
        self.is_closed = true;
    }

    fn is_closed(&self) -> bool {
        self.is_closed
    }

    fn handle_link_lost(&mut self) {
        self.unsent.clear();
        self.deadline = None;
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.deadline
    }

    fn handle_timeout(&mut self) -> Result<Option<Protocol>, ProtocolError> {
        Err(ProtocolError::NoAnswer)
    }
}

/// Whether a relay sends this as its first frame: what greets every connection, such as a server for SSH or mail, or
/// sends back what it gets, is none.
fn is_relays(first: Header) -> bool {
    let known = matches!(first.command, Command::Connect | Command::Close | Command::Data);
    known || v2::version_in(first).is_some()
}

#[cfg(test)]
mod tests;
