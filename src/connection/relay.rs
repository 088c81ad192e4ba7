//! The relay's end of a link: sans-IO, see [`Connection`] for the order of calls.
//!
//! It takes LISTEN, and then waits a little for a HELLO: version 2 is spoken with a device that sends it at once, as
//! ours does, and version 1 with any other.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::negotiation::{Negotiated, Negotiation, Speaking, with_version};
use super::v1::relay as v1;
use crate::connection::{Connection, Destination, Limits, Mux, Output, Protocol, Role, StreamKey, WindowPool};
use crate::protocol::ProtocolError;
use crate::protocol::v1::{Command, Header};
use crate::protocol::v2;

/// How long a connection may take until its LISTEN is here.
const LISTEN_TIMEOUT: Duration = Duration::from_secs(5);
/// How long HELLO may take behind LISTEN.
const HELLO_TIMEOUT: Duration = Duration::from_millis(250);

/// The relay's end of a link.
pub type Relay = Negotiated<Greeting>;

/// How a relay treats each of its links.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// The newest version that it speaks.
    pub protocol: Protocol,
    /// The oldest one: a device that speaks none that is as new is [`ProtocolError::OldDevice`].
    pub min_protocol: Protocol,
    /// Version 1: how long a service may be silent after its client's end of stream before the client counts as gone;
    /// zero is the document's behaviour.
    pub half_close: Duration,
    /// What it takes.
    pub limits: Limits,
}

/// The frames that come before the version is fixed: LISTEN, and HELLO from a device that sends it.
#[derive(Debug)]
pub struct Greeting {
    settings: Settings,
    /// LISTEN has come; what comes now may be HELLO.
    is_listening: bool,
    bytes: [u8; Header::LEN],
    have: usize,
    /// When the wait for the next of them is over.
    deadline: Option<Instant>,
}

impl Relay {
    /// The end of a connection that was just accepted on the device port.
    pub fn new(now: Instant, settings: Settings) -> Self {
        let deadline = Some(now + LISTEN_TIMEOUT);
        Self::begin(Greeting { settings, is_listening: false, bytes: [0; Header::LEN], have: 0, deadline })
    }

    /// What its windows take beyond those of a stream's start is taken from there, too: to be called at
    /// [`Output::Version`]. Version 1 has none.
    pub fn share_windows(&mut self, pool: &WindowPool) {
        if let Speaking::V2(end) = &mut self.speaking {
            end.share_windows(pool);
        }
    }

    /// The end of a connection that was just accepted on the port for TLS.
    pub fn in_tls(now: Instant, limits: Limits) -> Self {
        Self::begin_v2(Mux::acceptor(now, limits))
    }

    /// The token that the device of [`Output::Presented`] presents.
    pub fn take_join(&mut self) -> Option<v2::Join> {
        if let Speaking::V2(end) = &mut self.speaking { end.take_join() } else { None }
    }

    /// The device of [`Output::Presented`] is let in, and learns what is `said` to it.
    pub fn admit(&mut self, now: Instant, said: v2::Settings) {
        if let Speaking::V2(end) = &mut self.speaking {
            end.admit(now, said);
        }
    }

    /// Whether LISTEN has come, and HELLO behind it where a device without it is not served; in TLS, whether the device
    /// was admitted.
    pub fn is_listening(&self) -> bool {
        match &self.speaking {
            Speaking::Negotiating(greeting) => greeting.is_listening && !greeting.needs_hello(),
            Speaking::V1(_) => true,
            Speaking::V2(end) => end.has_begun(),
        }
    }

    /// Whether the version is fixed, so that clients can be [opened](Relay::open).
    pub fn is_ready(&self) -> bool {
        match &self.speaking {
            Speaking::Negotiating(_) => false,
            Speaking::V1(_) => true,
            Speaking::V2(end) => end.has_begun(),
        }
    }

    /// Whether there will be no new clients on this link, by either side's wish.
    pub fn is_going_away(&self) -> bool {
        match &self.speaking {
            Speaking::V2(end) => end.is_going_away(),
            Speaking::Negotiating(_) | Speaking::V1(_) => false,
        }
    }

    /// Whether a byte has come.
    pub fn has_input(&self) -> bool {
        match &self.speaking {
            Speaking::Negotiating(greeting) => greeting.is_listening || greeting.have > 0,
            Speaking::V1(_) | Speaking::V2(_) => true,
        }
    }

    /// Clients that may be on the link at once; what the device announces counts once it is here.
    pub fn places(&self) -> usize {
        match &self.speaking {
            Speaking::Negotiating(_) => 0,
            Speaking::V1(_) => v1::PLACES,
            Speaking::V2(end) => end.places(),
        }
    }

    /// Clients that leave the link for new ones when it is full: in version 1 those that have ended their sending side.
    pub fn yielding(&self) -> usize {
        if let Speaking::V1(end) = &self.speaking { end.yielding() } else { 0 }
    }

    /// Clients that are on the link or wait for a number.
    pub fn clients(&self) -> usize {
        with_version!(&self.speaking, end => end.clients(), else 0)
    }

    /// A client at `from` was accepted for `service`. Its socket is not read before [`Output::Opened`]. To be
    /// called only when the end [is ready](Relay::is_ready).
    pub fn open(&mut self, now: Instant, service: Destination, from: Option<SocketAddr>) -> Option<StreamKey> {
        match (&mut self.speaking, service) {
            // Version 1 has no words for a name.
            (Speaking::Negotiating(_), _) | (Speaking::V1(_), Destination::Service(_)) => None,
            (Speaking::V1(end), Destination::Address(service)) => Some(end.open(now, service)),
            (Speaking::V2(end), service) => Some(end.open(now, service, from)),
        }
    }

    /// The device has another link: on this one something comes soon, or it is [`ProtocolError::Silent`]. Version 1 has no
    /// question for that.
    pub fn require_sign(&mut self, now: Instant) {
        if let Speaking::V2(end) = &mut self.speaking {
            end.require_sign(now);
        }
    }

    /// Whether the device was asked whether it is there, and nothing has come from it since.
    pub fn owes_sign(&self) -> bool {
        if let Speaking::V2(end) = &self.speaking { end.owes_sign() } else { false }
    }

    /// Bytes that wait for clients. In version 1 they are few: a client that takes nothing holds the link up.
    pub fn undelivered(&self) -> u64 {
        if let Speaking::V2(end) = &self.speaking { end.undelivered() } else { 0 }
    }

    /// Resets clients that read too little, until no more than so many bytes wait.
    pub fn shed(&mut self, most: u64) {
        if let Speaking::V2(end) = &mut self.speaking {
            end.shed(most);
        }
    }

    /// What the device offers by name; `None` of one that knows no names, and before [it has said
    /// so](Self::has_introduction).
    pub fn services(&self) -> Option<&[v2::Service]> {
        if let Speaking::V2(end) = &self.speaking { end.services() } else { None }
    }

    /// Whether the device has said what it offers, or cannot.
    pub fn has_introduction(&self) -> bool {
        match &self.speaking {
            Speaking::Negotiating(_) => false,
            Speaking::V1(_) => true,
            Speaking::V2(end) => end.has_introduction(),
        }
    }
}

impl Greeting {
    /// A device that sends no HELLO, or an old one, is not served.
    fn needs_hello(&self) -> bool {
        self.settings.min_protocol > Protocol::V1
    }

    fn take_listen(&mut self, now: Instant, header: Header) -> Result<(), ProtocolError> {
        if header.command != Command::Listen {
            return Err(ProtocolError::NotListen(header));
        }
        if header != Header::LISTEN {
            return Err(ProtocolError::BadListen(header));
        }
        (self.is_listening, self.have, self.deadline) = (true, 0, Some(now + HELLO_TIMEOUT));
        Ok(())
    }

    /// The version, by HELLO or by anything else that comes behind LISTEN.
    fn decide(&self, hello: Option<u8>) -> Result<Protocol, ProtocolError> {
        if hello.is_some_and(|version| version >= 2) {
            Ok(Protocol::V2)
        } else if self.needs_hello() {
            Err(ProtocolError::OldDevice)
        } else {
            Ok(Protocol::V1)
        }
    }
}

impl Negotiation for Greeting {
    type V1 = v1::Relay;

    const ROLE: Role = Role::Relay;

    fn receive(
        &mut self,
        now: Instant,
        input: &mut &[u8],
        outputs: &mut VecDeque<Output>,
    ) -> Result<Option<Protocol>, ProtocolError> {
        while !input.is_empty() {
            let (taken, rest) = input.split_at((Header::LEN - self.have).min(input.len()));
            self.bytes[self.have..][..taken.len()].copy_from_slice(taken);
            self.have += taken.len();
            *input = rest;
            if self.have < Header::LEN {
                break;
            }
            let header = Header::decode(self.bytes);
            if self.is_listening {
                let protocol = self.decide(v2::version_in(header))?;
                if self.needs_hello() {
                    outputs.push_back(Output::Listening);
                }
                return Ok(Some(protocol));
            }
            self.take_listen(now, header)?;
            if !self.needs_hello() {
                outputs.push_back(Output::Listening);
            }
            if self.settings.protocol == Protocol::V1 {
                return self.decide(None).map(Some);
            }
        }
        Ok(None)
    }

    fn begin_v1(&mut self, now: Instant) -> Result<v1::Relay, ProtocolError> {
        let mut relay = v1::Relay::new(self.settings.half_close, self.settings.limits);
        // Fewer bytes than a header are no frame yet, and a header alone has no payload.
        let delivery = relay.receive(now, &mut &self.bytes[..self.have])?;
        debug_assert!(delivery.is_none());
        Ok(relay)
    }

    fn begin_v2(&mut self) -> (Vec<u8>, Limits, v2::Settings) {
        (v2::HELLO.encode().to_vec(), self.settings.limits, v2::Settings::default())
    }

    /// A relay is silent until it has LISTEN.
    fn unsent(&self) -> &[u8] {
        &[]
    }

    fn advance_link(&mut self, _now: Instant, _count: usize) {}

    /// The relay's owner cuts a link without LISTEN.
    fn close(&mut self) {}

    fn is_closed(&self) -> bool {
        false
    }

    fn handle_link_lost(&mut self) {
        self.deadline = None;
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.deadline
    }

    fn handle_timeout(&mut self) -> Result<Option<Protocol>, ProtocolError> {
        if self.is_listening { self.decide(None).map(Some) } else { Err(ProtocolError::NoListen) }
    }
}

#[cfg(test)]
mod tests;
