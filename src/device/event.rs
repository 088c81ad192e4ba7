//! What a tunnel's owner sees: its status, and events as they happen.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::address::Address;
#[cfg(feature = "tls")]
use crate::identity::{Name, Pin};

/// Where a tunnel is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The name is being resolved or the connection made.
    Connecting,
    /// LISTEN is on the wire, or about to be; the relay has not answered yet.
    Greeting,
    /// The relay has answered, and may send clients.
    Listening,
    /// There is no link; the next attempt has its time ([`Status::next_attempt`]).
    Waiting,
    /// Over: closed by its owner, or lost (then [`Status::last_error`] says why).
    Closed,
}

impl State {
    /// `connecting`, `greeting`, `listening`, `waiting` or `closed`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::Greeting => "greeting",
            Self::Listening => "listening",
            Self::Waiting => "waiting",
            Self::Closed => "closed",
        }
    }
}

/// A snapshot of a tunnel.
#[derive(Clone, Debug)]
pub struct Status {
    /// Where it is in its life.
    pub state: State,
    /// The relay that is used or tried.
    pub server: Address,
    /// The name that the relay gave the device, once it did, and the fingerprint of the device's key.
    #[cfg(feature = "tls")]
    pub identity: Option<(Option<Name>, Pin)>,
    /// The address that the server's name resolved to, once connected.
    pub peer: Option<SocketAddr>,
    /// The version that is spoken on the link, once the relay has answered.
    pub protocol: Option<u8>,
    /// The time that a PING takes to the relay and back, smoothed; version 2, once measured.
    pub round_trip: Option<Duration>,
    /// How often a link was made anew.
    pub reconnects: u64,
    /// Until the next attempt to reach the relay, while waiting for it.
    pub next_attempt: Option<Duration>,
    /// Clients open now.
    pub clients: u64,
    /// Clients since the start.
    pub clients_total: u64,
    /// Payload bytes that went from services to clients.
    pub bytes_sent: u64,
    /// Payload bytes that came from clients for services.
    pub bytes_received: u64,
    /// Frames that a peer of ours would not have sent and that were skipped.
    pub ignored_frames: u64,
    /// Events that were dropped because they were not taken in time (1,024 are kept).
    pub events_dropped: u64,
    /// How long the state has lasted.
    pub since: Duration,
    /// Text and code of the last error, if there was one.
    pub last_error: Option<(String, &'static str)>,
}

/// How grave an event is; the names are the ReadyAgent log's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The tunnel is over, and not by its owner's wish.
    Error,
    /// Something did not work, the tunnel goes on.
    Warning,
    /// A change of state.
    Info,
    /// The life of one client.
    Detail,
}

impl Severity {
    /// `ERROR`, `WARNING`, `INFO` or `DETAIL`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "ERROR",
            Self::Warning => "WARNING",
            Self::Info => "INFO",
            Self::Detail => "DETAIL",
        }
    }
}

/// What an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// The link is made, and LISTEN is on the wire.
    Greeting,
    /// The relay has answered: the link is up.
    Listening,
    /// The link is lost, or could not be made; the message says why, and when it is tried again.
    Waiting,
    /// The relay has admitted the device, and that is stored.
    Joined,
    /// What is known of the relay has changed or could not be stored, or what it says of itself is not believed.
    Identity,
    /// A new link was asked for and could not be made; the one in use stays.
    Kept,
    /// The tunnel is over; the message says why.
    Closed,
    /// A client asked for a service.
    Connect,
    /// A client's connection to its service is over.
    Disconnect,
    /// A service could not be reached.
    Failed,
    /// A destination that the configuration does not permit.
    Denied,
    /// A client or service was reset because it stood still.
    Stalled,
    /// The peer sent a frame that it must not send.
    Protocol,
}

impl EventKind {
    /// `greeting`, `listening`, `waiting`, `joined`, `identity`, `kept`, `closed`, `connect`, `disconnect`, `failed`, `denied`, `stalled`
    /// or `protocol`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Greeting => "greeting",
            Self::Listening => "listening",
            Self::Waiting => "waiting",
            Self::Joined => "joined",
            Self::Identity => "identity",
            Self::Kept => "kept",
            Self::Closed => "closed",
            Self::Connect => "connect",
            Self::Disconnect => "disconnect",
            Self::Failed => "failed",
            Self::Denied => "denied",
            Self::Stalled => "stalled",
            Self::Protocol => "protocol",
        }
    }
}

/// One thing that happened.
#[derive(Clone, Debug)]
pub struct Event {
    /// What it is about.
    pub kind: EventKind,
    /// How grave it is.
    pub severity: Severity,
    /// When it happened.
    pub time: SystemTime,
    /// One line for a person; whatever came from a peer is escaped.
    pub message: String,
    /// The client's number on the link, where the event is about a client.
    pub client: Option<u32>,
    /// The service (`host:port`), where the event is about one.
    pub service: Option<Arc<str>>,
    /// The stable code of the error ([`crate::Error::code`]), where the event is a failure.
    pub code: Option<&'static str>,
}

impl Event {
    /// An event that happens now.
    pub(crate) fn new(kind: EventKind, severity: Severity, mut message: String) -> Self {
        // A thousand may wait for an owner that takes none.
        message.shrink_to_fit();
        let time = SystemTime::now();
        Self { kind, severity, time, message, client: None, service: None, code: None }
    }

    pub(crate) fn with_code(self, code: &'static str) -> Self {
        Self { code: Some(code), ..self }
    }

    pub(crate) fn about(self, client: u32, service: Option<Arc<str>>) -> Self {
        Self { client: Some(client), service, ..self }
    }
}
