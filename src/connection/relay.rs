//! The relay's end of a link: sans-IO, see [`Endpoint`] for the order of calls.
//!
//! It takes LISTEN, and then waits a little for a HELLO: version 2 is spoken with a device that sends it at once, as
//! ours does, and version 1 with any other.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::v1::relay as v1;
use crate::address::Address;
use crate::connection::{
    Counters, Delivery, Endpoint, Limits, Mux, MuxOutput, Protocol, Reset, Role, Room, StreamKey, delegate_streams,
    with_version,
};
use crate::protocol::ProtocolError;
use crate::protocol::v1::{Command, Header};
use crate::protocol::v2::{self, Code, GoAway};

/// How long a connection may take until its LISTEN is here.
const LISTEN_TIMEOUT: Duration = Duration::from_secs(5);
/// How long HELLO may take behind LISTEN.
const HELLO_TIMEOUT: Duration = Duration::from_millis(250);

/// The relay's end of a link.
#[derive(Debug)]
pub struct Relay {
    speaking: Speaking,
    settings: Settings,
    /// What the end of the version that was chosen does not tell itself.
    outputs: VecDeque<Output>,
}

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

/// What the shell is to carry out.
#[derive(Debug, PartialEq, Eq)]
pub enum Output {
    /// LISTEN is here, and the device may be served: open the client ports.
    Listening,
    /// The version is fixed: clients may be [opened](Relay::open).
    Version(u8),
    /// The device has introduced itself: its software's name and version.
    Introduced(String),
    /// The client has its number, and CONNECT is queued: its socket may be read.
    Opened {
        /// The stream.
        stream: StreamKey,
        /// Its number.
        client: u32,
    },
    /// The client's service is connected; version 1 does not tell.
    Connected {
        /// The stream.
        stream: StreamKey,
    },
    /// The service sends no more, and everything is delivered: end the sending side of the client's socket.
    ShutdownWrite {
        /// The stream.
        stream: StreamKey,
    },
    /// Everything is delivered: end the client's socket with FIN. The key is void.
    Finish {
        /// The stream.
        stream: StreamKey,
    },
    /// Something could not be delivered: end the client's socket with RST. The key is void.
    Reset {
        /// The stream.
        stream: StreamKey,
        /// Why.
        reason: Reset,
    },
    /// The client's socket failed, as the shell has told. The key is void.
    Gone {
        /// The stream.
        stream: StreamKey,
    },
    /// The device takes no new clients on this link.
    GoAway(GoAway),
}

#[derive(Debug)]
enum Speaking {
    Greeting(Greeting),
    V1(Box<v1::Relay>),
    V2(Box<Mux>),
}

/// The frames before the version is fixed.
#[derive(Debug)]
struct Greeting {
    /// LISTEN has come; what comes now may be HELLO.
    listening: bool,
    bytes: [u8; Header::LEN],
    have: usize,
    /// When the wait for the next of them is over.
    deadline: Option<Instant>,
}

impl Relay {
    /// The end of a connection that was just accepted on the device port.
    pub fn new(now: Instant, settings: Settings) -> Self {
        let deadline = Some(now + LISTEN_TIMEOUT);
        let greeting = Greeting { listening: false, bytes: [0; Header::LEN], have: 0, deadline };
        Self { speaking: Speaking::Greeting(greeting), settings, outputs: VecDeque::new() }
    }

    /// Whether LISTEN has come, and HELLO behind it where a device without it is not served.
    pub fn is_listening(&self) -> bool {
        match &self.speaking {
            Speaking::Greeting(greeting) => greeting.listening && !self.needs_hello(),
            Speaking::V1(_) | Speaking::V2(_) => true,
        }
    }

    /// Whether the version is fixed, so that clients can be [opened](Self::open).
    pub fn is_ready(&self) -> bool {
        !matches!(self.speaking, Speaking::Greeting(_))
    }

    /// Whether there will be no new clients on this link, by either side's wish.
    pub fn is_going_away(&self) -> bool {
        match &self.speaking {
            Speaking::V2(end) => end.is_going_away(),
            Speaking::Greeting(_) | Speaking::V1(_) => false,
        }
    }

    /// Whether a byte has come.
    pub fn has_input(&self) -> bool {
        match &self.speaking {
            Speaking::Greeting(greeting) => greeting.listening || greeting.have > 0,
            Speaking::V1(_) | Speaking::V2(_) => true,
        }
    }

    /// Clients that may be on the link at once; what the device announces counts once it is here.
    pub fn places(&self) -> usize {
        match &self.speaking {
            Speaking::Greeting(_) => 0,
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

    /// A client, who is at `from`, was accepted for `service`. Its socket is not read before [`Output::Opened`]. To be
    /// called only when the end [is ready](Self::is_ready).
    pub fn open(&mut self, now: Instant, service: &Arc<Address>, from: Option<SocketAddr>) -> Option<StreamKey> {
        match &mut self.speaking {
            Speaking::Greeting(_) => None,
            Speaking::V1(end) => Some(end.open(now, Arc::clone(service))),
            Speaking::V2(end) => Some(end.open(now, Address::clone(service), from)),
        }
    }

    fn needs_hello(&self) -> bool {
        self.settings.min_protocol > Protocol::V1
    }

    /// Takes LISTEN, and HELLO where it comes.
    fn greet(&mut self, now: Instant, input: &mut &[u8]) -> Result<(), ProtocolError> {
        while let Speaking::Greeting(greeting) = &mut self.speaking
            && !input.is_empty()
        {
            let (taken, rest) = input.split_at((Header::LEN - greeting.have).min(input.len()));
            greeting.bytes[greeting.have..][..taken.len()].copy_from_slice(taken);
            greeting.have += taken.len();
            *input = rest;
            if greeting.have < Header::LEN {
                return Ok(());
            }
            let header = Header::decode(greeting.bytes);
            if greeting.listening {
                self.decide(now, v2::version_in(header))?;
            } else {
                greeting.listen(now, header)?;
                if !self.needs_hello() {
                    self.outputs.push_back(Output::Listening);
                }
                if self.settings.protocol == Protocol::V1 {
                    self.decide(now, None)?;
                }
            }
        }
        Ok(())
    }

    /// The version is fixed: by HELLO, or by anything else.
    fn decide(&mut self, now: Instant, hello: Option<u8>) -> Result<(), ProtocolError> {
        let Speaking::Greeting(greeting) = &self.speaking else { return Ok(()) };
        let Settings { half_close, limits, .. } = self.settings;
        if hello.is_some_and(|version| version >= 2) {
            if self.needs_hello() {
                self.outputs.push_back(Output::Listening);
            }
            self.outputs.push_back(Output::Version(2));
            let hello = v2::HELLO.encode();
            self.speaking = Speaking::V2(Box::new(Mux::new(now, Role::Relay, limits, &hello)));
        } else if self.needs_hello() {
            return Err(ProtocolError::OldDevice);
        } else {
            self.outputs.push_back(Output::Version(1));
            let mut relay = v1::Relay::new(now, half_close, limits);
            // Fewer bytes than a header are for nobody yet, and a header alone for no client.
            let delivery = relay.receive(now, &mut &greeting.bytes[..greeting.have])?;
            debug_assert!(delivery.is_none());
            self.speaking = Speaking::V1(Box::new(relay));
        }
        Ok(())
    }
}

impl Greeting {
    fn listen(&mut self, now: Instant, header: Header) -> Result<(), ProtocolError> {
        if header.command != Command::Listen {
            return Err(ProtocolError::NotListen(header));
        }
        if header != Header::LISTEN {
            return Err(ProtocolError::BadListen(header));
        }
        *self = Self { listening: true, bytes: [0; Header::LEN], have: 0, deadline: Some(now + HELLO_TIMEOUT) };
        Ok(())
    }
}

impl Endpoint for Relay {
    type Output = Output;

    delegate_streams!();

    fn receive<'a>(&mut self, now: Instant, input: &mut &'a [u8]) -> Result<Option<Delivery<'a>>, ProtocolError> {
        self.greet(now, input)?;
        with_version!(&mut self.speaking, end => end.receive(now, input), else Ok(None))
    }

    fn has_unsent(&self) -> bool {
        with_version!(&self.speaking, end => end.has_unsent(), else false)
    }

    fn unsent(&mut self) -> &[u8] {
        with_version!(&mut self.speaking, end => end.unsent(), else &[])
    }

    fn advance_link(&mut self, now: Instant, count: usize) {
        with_version!(&mut self.speaking, end => end.advance_link(now, count), else ());
    }

    fn close(&mut self, now: Instant) {
        with_version!(&mut self.speaking, end => end.close(now), else ());
    }

    fn handle_link_lost(&mut self, now: Instant) {
        match &mut self.speaking {
            Speaking::Greeting(greeting) => greeting.deadline = None,
            Speaking::V1(end) => end.handle_link_lost(now),
            Speaking::V2(end) => end.handle_link_lost(now),
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        match &self.speaking {
            Speaking::Greeting(greeting) => greeting.deadline,
            Speaking::V1(end) => end.poll_timeout(),
            Speaking::V2(end) => end.poll_timeout(),
        }
    }

    fn handle_timeout(&mut self, now: Instant) -> Result<(), ProtocolError> {
        match &mut self.speaking {
            Speaking::Greeting(Greeting { deadline: Some(deadline), listening, .. }) if *deadline <= now => {
                if *listening {
                    self.decide(now, None)
                } else {
                    Err(ProtocolError::NoListen)
                }
            }
            Speaking::Greeting(_) => Ok(()),
            Speaking::V1(end) => end.handle_timeout(now),
            Speaking::V2(end) => end.handle_timeout(now),
        }
    }

    fn poll_output(&mut self) -> Option<Output> {
        if let Some(output) = self.outputs.pop_front() {
            return Some(output);
        }
        match &mut self.speaking {
            Speaking::Greeting(_) => None,
            Speaking::V1(end) => end.poll_output(),
            Speaking::V2(end) => loop {
                let output = end.poll_output()?;
                if let Some(output) = translate(end, output) {
                    return Some(output);
                }
            },
        }
    }
}

/// What the multiplexer asks for, in the relay's words.
fn translate(end: &Mux, output: MuxOutput) -> Option<Output> {
    Some(match output {
        MuxOutput::Settings => Output::Introduced(end.peer_software().escape_debug().to_string()),
        MuxOutput::Opened { stream, number } => Output::Opened { stream, client: number },
        MuxOutput::Connected { stream } => Output::Connected { stream },
        MuxOutput::ShutdownWrite { stream } => Output::ShutdownWrite { stream },
        MuxOutput::Finish { stream } => Output::Finish { stream },
        MuxOutput::Reset { stream, reason } => Output::Reset { stream, reason },
        MuxOutput::Gone { stream } => Output::Gone { stream },
        MuxOutput::GoAway(go_away) => Output::GoAway(go_away),
        // A device's.
        MuxOutput::Connect { .. } | MuxOutput::Malformed { .. } => return None,
    })
}

#[cfg(test)]
mod tests;
