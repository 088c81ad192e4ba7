//! What the owner hears of a link's clients.

use std::io;
use std::time::Instant;

use super::super::event::{Event, EventKind, Severity};
use super::{Asked, Context, Link};
use crate::connection::{Reset, StreamKey};
use crate::io::net;
use crate::protocol::v2::Code;

/// A service that cannot be had: for the owner, and for the relay.
pub(super) struct Failure {
    pub(super) kind: EventKind,
    pub(super) code: Code,
    pub(super) reason: String,
}

impl Failure {
    pub(super) fn new(code: Code, reason: impl Into<String>) -> Self {
        Self { kind: EventKind::Failed, code, reason: reason.into() }
    }

    /// The service cannot be connected to.
    pub(super) fn unreachable(error: &io::Error) -> Self {
        if let Some(remedy) = net::remedy_of_shortage(error) {
            Self::new(Code::Internal, format!("{error}; {remedy}"))
        } else if error.kind() == io::ErrorKind::TimedOut {
            Self::new(Code::Timeout, "it did not answer")
        } else if error.kind() == io::ErrorKind::ConnectionRefused {
            Self::new(Code::Refused, error.to_string())
        } else {
            Self::new(Code::Unreachable, error.to_string())
        }
    }

    /// The code as the owner knows it: INTERNAL on the wire is a shortage of the device's system.
    fn name(&self) -> &'static str {
        if self.code == Code::Internal { "system" } else { self.code.name() }
    }
}

impl Link {
    pub(super) fn tell_failed(&mut self, now: Instant, context: &mut Context<'_>, key: StreamKey, failure: &Failure) {
        let Failure { kind, reason, .. } = failure;
        if let Some(Asked { client, shown, .. }) = self.services.remove(&key) {
            let message = if *kind == EventKind::Denied {
                format!("client {client}: {reason}")
            } else {
                format!("client {client} cannot reach {shown}: {reason}")
            };
            let event = Event::new(*kind, Severity::Warning, message).with_code(failure.name());
            context.events.tell(now, event.about(client, Some(shown)));
        }
    }

    pub(super) fn tell_reset(
        &mut self,
        now: Instant,
        context: &mut Context<'_>,
        key: StreamKey,
        reason: &Reset,
        unanswered: &str,
    ) {
        let (kind, severity, text) = match reason {
            Reset::TooSlow => {
                let text = "was reset: its service read too little for too long, and held up the others";
                (EventKind::Stalled, Severity::Warning, text.to_owned())
            }
            Reset::Stalled => {
                let text = "was reset: its service read nothing of its last bytes for too long";
                (EventKind::Stalled, Severity::Warning, text.to_owned())
            }
            Reset::ConnectTimeout => {
                return self.tell_failed(now, context, key, &Failure::new(Code::Timeout, unanswered));
            }
            Reset::Replaced => {
                (EventKind::Disconnect, Severity::Detail, "was cut: the relay gave its number to another".to_owned())
            }
            Reset::LinkLost => (EventKind::Disconnect, Severity::Detail, "was cut with the link".to_owned()),
            Reset::Shutdown => (EventKind::Disconnect, Severity::Detail, "was cut with the tunnel".to_owned()),
            Reset::Closed(close) => {
                let why = if close.reason.is_empty() { close.code.to_string() } else { close.reason.clone() };
                (EventKind::Disconnect, Severity::Detail, format!("is gone: {why}"))
            }
            Reset::NoPlace | Reset::PeerLeaves | Reset::Unanswered | Reset::Crowded => {
                (EventKind::Disconnect, Severity::Detail, "was refused".to_owned())
            }
        };
        self.tell_gone(now, context, key, (kind, severity), &text);
    }

    pub(super) fn tell_gone(
        &mut self,
        now: Instant,
        context: &mut Context<'_>,
        key: StreamKey,
        (kind, severity): (EventKind, Severity),
        text: &str,
    ) {
        if let Some(Asked { client, shown, .. }) = self.services.remove(&key) {
            let event = Event::new(kind, severity, format!("client {client} {text}"));
            context.events.tell(now, event.about(client, Some(shown)));
        }
    }
}

/// Why a client is done whose service's connection failed.
pub(super) fn failed_service(code: Code, reason: &str) -> String {
    let what = if code == Code::Idle { "has vanished" } else { "reset it" };
    format!("is done: its service {what}: {reason}")
}
