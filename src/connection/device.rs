//! The device's end of a link: sans-IO, see [`Endpoint`] for the order of calls.
//!
//! It says LISTEN, and HELLO behind it with the newest version that it may speak; the relay's first frame decides which
//! version is spoken. Every relay answers at once: one that is silent for too long is none, and ends the link.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::v1::device as v1;
use crate::address::Address;
use crate::connection::{
    Counters, Delivery, Endpoint, Limits, Mux, MuxOutput, Protocol, Reset, Role, Room, StreamKey, delegate_streams,
    with_version,
};
use crate::protocol::v1::{Command, Header};
use crate::protocol::v2::{self, Code, GoAway};
use crate::protocol::{Malformed, ProtocolError};

/// How long the relay may take to answer. Every relay answers at once, so this is for the path alone: where a round trip
/// takes 0.3 s, TCP sends a lost segment again after 1, 3, 7 and 15 s; where it takes 2 s, after 6 and 18 s.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

/// The device's end of a link.
#[derive(Debug)]
pub struct Device {
    speaking: Speaking,
    /// The oldest version that it may speak.
    min_protocol: Protocol,
    limits: Limits,
    /// What the end of the version that was chosen does not tell itself.
    outputs: VecDeque<Output>,
}

/// What the shell is to carry out.
#[derive(Debug, PartialEq, Eq)]
pub enum Output {
    /// The relay has answered, and this version is spoken from here on.
    Version(u8),
    /// Connect to a service; then [`Device::handle_connected`] or [`Endpoint::handle_failure`].
    Connect {
        /// The stream that the connection is for.
        stream: StreamKey,
        /// The client's number on the link.
        client: u32,
        /// Where to.
        service: Address,
        /// The client's own address, where the relay tells it.
        from: Option<SocketAddr>,
    },
    /// The client sends no more, and everything is delivered: end the sending side of the service's socket.
    ShutdownWrite {
        /// The stream.
        stream: StreamKey,
    },
    /// Everything is delivered: end the service's socket with FIN. The key is void.
    Finish {
        /// The stream.
        stream: StreamKey,
    },
    /// Something could not be delivered: end the service's socket with RST. The key is void.
    Reset {
        /// The stream.
        stream: StreamKey,
        /// Why.
        reason: Reset,
    },
    /// The service's socket failed, as the shell has told. The key is void.
    Gone {
        /// The stream.
        stream: StreamKey,
    },
    /// The relay sent a CONNECT that cannot be read; it was answered with CLOSE.
    Malformed {
        /// The client's number.
        client: u32,
        /// What is wrong.
        reason: Malformed,
    },
    /// The relay sent DATA without CONNECT; it was dropped and answered with CLOSE.
    EarlyDropped {
        /// The client's number.
        client: u32,
    },
    /// The relay will send no new clients on this link.
    GoAway(GoAway),
}

#[derive(Debug)]
enum Speaking {
    Greeting(Greeting),
    V1(Box<v1::Device>),
    V2(Box<Mux>),
}

/// LISTEN and HELLO are out, and nothing has come back.
#[derive(Debug)]
struct Greeting {
    /// What HELLO offers.
    hello: Header,
    unsent: Vec<u8>,
    /// When the relay must have answered, once LISTEN has left.
    deadline: Option<Instant>,
    first: [u8; Header::LEN],
    have: usize,
    /// The owner ended the link before the relay said anything.
    closed: bool,
}

impl Device {
    /// A link that was just made: LISTEN waits to be sent.
    pub fn new(protocol: Protocol, limits: Limits) -> Self {
        let hello = match protocol {
            Protocol::V1 => v2::HELLO_V1,
            Protocol::V2 => v2::HELLO,
        };
        let unsent = [Header::LISTEN.encode(), hello.encode()].concat();
        let greeting = Greeting { hello, unsent, deadline: None, first: [0; Header::LEN], have: 0, closed: false };
        let speaking = Speaking::Greeting(greeting);
        Self { speaking, min_protocol: Protocol::V1, limits, outputs: VecDeque::new() }
    }

    /// The same, but a relay that speaks only versions before this one is given up, and [`ProtocolError::OldRelay`].
    #[must_use]
    pub fn at_least(self, min_protocol: Protocol) -> Self {
        Self { min_protocol, ..self }
    }

    /// The connection that [`Output::Connect`] asked for is made.
    pub fn handle_connected(&mut self, now: Instant, key: StreamKey) {
        with_version!(&mut self.speaking, end => end.handle_connected(now, key), else ());
    }

    /// Takes the relay's first frame; its header decides.
    fn greet(&mut self, now: Instant, input: &mut &[u8]) -> Result<(), ProtocolError> {
        let Speaking::Greeting(greeting) = &mut self.speaking else { return Ok(()) };
        let (taken, rest) = input.split_at((Header::LEN - greeting.have).min(input.len()));
        greeting.first[greeting.have..][..taken.len()].copy_from_slice(taken);
        greeting.have += taken.len();
        *input = rest;
        if greeting.have < Header::LEN {
            return Ok(());
        }
        let closed = greeting.closed;
        let first = Header::decode(greeting.first);
        if !is_relays(first) {
            return Err(ProtocolError::NotRelay(first));
        }
        if first == v2::HELLO && greeting.hello == v2::HELLO {
            self.outputs.push_back(Output::Version(2));
            self.speaking = Speaking::V2(Box::new(Mux::new(now, Role::Device, self.limits, &greeting.unsent)));
        } else if self.min_protocol > Protocol::V1 {
            return Err(ProtocolError::OldRelay);
        } else {
            self.outputs.push_back(Output::Version(1));
            let mut device = v1::Device::new(self.limits, &greeting.unsent);
            // What a relay of 2012 answers to HELLO is expected, and is no frame of a client.
            if first != Header::close(greeting.hello.client) {
                // A header alone carries nothing for a service.
                let delivery = device.receive(now, &mut &greeting.first[..])?;
                debug_assert!(delivery.is_none());
            }
            self.speaking = Speaking::V1(Box::new(device));
        }
        if closed {
            self.close(now);
        }
        Ok(())
    }
}

impl Endpoint for Device {
    type Output = Output;

    delegate_streams!();

    fn receive<'a>(&mut self, now: Instant, input: &mut &'a [u8]) -> Result<Option<Delivery<'a>>, ProtocolError> {
        self.greet(now, input)?;
        with_version!(&mut self.speaking, end => end.receive(now, input), else Ok(None))
    }

    fn has_unsent(&self) -> bool {
        match &self.speaking {
            Speaking::Greeting(greeting) => !greeting.unsent.is_empty(),
            Speaking::V1(end) => end.has_unsent(),
            Speaking::V2(end) => end.has_unsent(),
        }
    }

    fn has_last_word(&self) -> bool {
        with_version!(&self.speaking, end => end.has_last_word(), else false)
    }

    fn unsent(&mut self) -> &[u8] {
        match &mut self.speaking {
            Speaking::Greeting(greeting) => &greeting.unsent,
            Speaking::V1(end) => end.unsent(),
            Speaking::V2(end) => end.unsent(),
        }
    }

    fn advance_link(&mut self, now: Instant, count: usize) {
        match &mut self.speaking {
            Speaking::Greeting(greeting) => {
                drop(greeting.unsent.drain(..count));
                if greeting.unsent.is_empty() {
                    greeting.deadline = Some(now + ANSWER_TIMEOUT);
                }
            }
            Speaking::V1(end) => end.advance_link(now, count),
            Speaking::V2(end) => end.advance_link(now, count),
        }
    }

    fn close(&mut self, now: Instant) {
        match &mut self.speaking {
            Speaking::Greeting(greeting) => greeting.closed = true,
            Speaking::V1(end) => end.close(now),
            Speaking::V2(end) => end.close(now),
        }
    }

    fn handle_link_lost(&mut self, now: Instant) {
        match &mut self.speaking {
            Speaking::Greeting(greeting) => {
                greeting.unsent.clear();
                greeting.deadline = None;
            }
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
            Speaking::Greeting(greeting) if greeting.deadline.is_some_and(|at| at <= now) => {
                Err(ProtocolError::NoAnswer)
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
            Speaking::V2(end) => std::iter::from_fn(|| end.poll_output()).find_map(translate),
        }
    }
}

/// Whether a relay sends this as its first frame: what greets every connection, such as a server for SSH or mail, or
/// sends back what it gets, is none.
fn is_relays(first: Header) -> bool {
    let known = matches!(first.command, Command::Connect | Command::Close | Command::Data);
    known || v2::version_in(first).is_some()
}

/// What the multiplexer asks for, in the device's words.
fn translate(output: MuxOutput) -> Option<Output> {
    Some(match output {
        MuxOutput::Connect { stream, number, connect } => {
            Output::Connect { stream, client: number, service: connect.service, from: connect.client }
        }
        MuxOutput::Malformed { number, reason } => Output::Malformed { client: number, reason },
        MuxOutput::ShutdownWrite { stream } => Output::ShutdownWrite { stream },
        MuxOutput::Finish { stream } => Output::Finish { stream },
        MuxOutput::Reset { stream, reason } => Output::Reset { stream, reason },
        MuxOutput::Gone { stream } => Output::Gone { stream },
        MuxOutput::GoAway(go_away) => Output::GoAway(go_away),
        // The relay's size says nothing to a device, and the others are a relay's.
        MuxOutput::Settings | MuxOutput::Opened { .. } | MuxOutput::Connected { .. } => return None,
    })
}

#[cfg(test)]
mod tests;
