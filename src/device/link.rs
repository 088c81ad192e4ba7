//! One link of a device with its sockets: what its connection asks for is carried out here, and becomes the owner's events.

mod resolving;
mod telling;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

#[cfg(feature = "tls")]
use super::Announcement;
use super::access::{Access, Refusal};
use super::attempt::Reached;
use super::client_events::ClientEvents;
use super::dial::{Client, Progress};
use super::dials::{Dials, Pending, Wanted};
use super::event::{Event, EventKind, Severity};
use super::names::Found;
use super::resolver::Names;
use super::services::Services;
use super::shared::Shared;
use crate::address::Address;
use crate::connection::device::Device;
use crate::connection::{Connection, Counters, Destination, Output, StreamKey};
use crate::io::Io;
use crate::io::event_loop::Readiness;
use crate::io::net;
use crate::io::session::{LinkLost, Session};
#[cfg(feature = "tls")]
use crate::protocol::v2::Settings;
use crate::protocol::v2::{Code, GoAway};
#[cfg(feature = "tls")]
use crate::tls::Tls;
use resolving::{Answer, Resolving};
use telling::{Failure, failed_service};

/// What all links of a tunnel share.
pub(super) struct Context<'a> {
    pub(super) io: Io,
    pub(super) names: Names,
    pub(super) shared: &'a Shared,
    pub(super) events: ClientEvents<'a>,
    pub(super) access: &'a Access,
    pub(super) services: &'a Services,
}

/// One link.
pub(super) struct Link {
    pub(super) session: Session<Device>,
    pub(super) peer: SocketAddr,
    /// The relay, as it is named in messages.
    pub(super) server: Address,
    pub(super) stage: Stage,
    /// When the relay answered the greeting.
    pub(super) answered_at: Option<Instant>,
    /// The version that the relay has chosen.
    pub(super) version: Option<u8>,
    /// The relay wants no more of this link.
    pub(super) go_away: Option<GoAway>,
    /// LISTEN is not sent before.
    pub(super) silent_until: Option<Instant>,
    /// How long the relay's answer may take, with all that was before it, and until when that is; `None` if the protocol's
    /// own time is all that counts.
    pub(super) answer_within: Option<(Duration, Instant)>,
    number: usize,
    /// Its place among all links of the tunnel, in the order in which they were made.
    pub(super) sequence: u64,
    /// Services whose names are looked up.
    resolving: BTreeMap<StreamKey, Resolving>,
    /// Connections to services that are being made, or are to be.
    dials: Dials,
    /// What was asked for, of each stream whose client is there.
    services: BTreeMap<StreamKey, Asked>,
}

/// What a stream is for.
struct Asked {
    /// The client's number.
    client: u32,
    /// The service, as events name it.
    shown: Arc<str>,
    /// The client's address, where that is known.
    from: Client,
}

/// How far a link is, as its owner knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// It is made, and nothing may be sent yet.
    Silent,
    /// LISTEN may be sent.
    Announced,
    /// LISTEN has left; the relay has not answered.
    Greeting,
    /// The relay has answered.
    Listening,
}

impl Link {
    pub(super) fn new(device: Device, number: usize, reached: Reached) -> Self {
        let Reached { io, token, peer, server } = reached;
        // The options only hasten what the protocol does without them.
        let _ = net::tune_link(&io);
        Self::of(Session::new(device, number, io, token), number, peer, server)
    }

    /// A link in TLS, whose first message stands in the loop's scratch.
    #[cfg(feature = "tls")]
    pub(super) fn in_tls(device: Device, number: usize, reached: Reached, tls: Tls, loop_io: &mut Io) -> Self {
        let Reached { io, token, peer, server } = reached;
        // As above.
        let _ = net::tune_link(&io);
        Self::of(Session::in_tls(device, number, io, token, tls, loop_io), number, peer, server)
    }

    fn of(session: Session<Device>, number: usize, peer: SocketAddr, server: Address) -> Self {
        Self {
            session,
            peer,
            server,
            stage: Stage::Silent,
            answered_at: None,
            version: None,
            go_away: None,
            silent_until: None,
            answer_within: None,
            number,
            sequence: 0,
            resolving: BTreeMap::new(),
            dials: Dials::new(),
            services: BTreeMap::new(),
        }
    }

    /// Moves bytes, carries out outputs, and keeps time; true if there is more to do at once.
    pub(super) fn step(
        &mut self,
        now: Instant,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Result<bool, LinkLost> {
        self.poll_dials(now, context);
        self.start_dials(now, context);
        let mut busy = self.session.turn(now, &mut context.io, buffer)?;
        busy |= self.carry_out_all(now, context);
        Ok(busy)
    }

    /// What the relay said when it admitted the device, on a link in TLS.
    #[cfg(feature = "tls")]
    pub(super) fn announcement(&self) -> Option<Announcement> {
        let proven = self.session.peer_key()?.pin();
        let Settings { name, pins, addresses, time, .. } = self.session.connection().peer()?;
        let (name, pins, addresses, time) = (name.clone(), *pins, addresses.clone(), *time);
        Some(Announcement { proven, name, pins, addresses, time })
    }

    /// Ends everything that is left with RST, and gives up connections that are being made.
    pub(super) fn abort(&mut self, now: Instant, io: &mut Io) {
        self.session.abort(now, io);
        self.dials.cancel(&mut io.event_loop);
    }

    /// Ends everything that is left with RST, and tells the owner: links that are not in use any more hold too much.
    pub(super) fn cut(&mut self, now: Instant, context: &mut Context<'_>) {
        self.session.abort_link(now, &mut context.io);
        self.carry_out_all(now, context);
        self.abort(now, &mut context.io);
        for key in self.services.keys().copied().collect::<Vec<_>>() {
            self.withdraw(context, key);
            let text = "was cut: links that are not in use any more hold too much";
            self.tell_gone(now, context, key, (EventKind::Disconnect, Severity::Detail), text);
        }
    }

    /// Whatever the connection asks for, be there a link or not any more; true if there was something.
    pub(super) fn carry_out_all(&mut self, now: Instant, context: &mut Context<'_>) -> bool {
        let mut some = false;
        while let Some(output) = self.session.poll_output(now, &mut context.io) {
            self.carry_out(now, context, output);
            some = true;
        }
        some
    }

    pub(super) fn handle_stream_event(
        &mut self,
        now: Instant,
        context: &mut Context<'_>,
        key: StreamKey,
        event: Readiness,
    ) {
        if !self.dials.is_dialling(key) {
            return self.session.handle_stream_event(now, &mut context.io, key, event);
        }
        self.poll_dial(now, context, key);
        self.start_dials(now, context);
        if !self.dials.is_dialling(key) {
            // The edge that tells of the connection may tell of bytes and of the end behind them, too.
            self.session.handle_stream_event(now, &mut context.io, key, event);
        }
    }

    /// A name that the stream waits for is looked up.
    pub(super) fn handle_name(
        &mut self,
        now: Instant,
        context: &mut Context<'_>,
        key: StreamKey,
        name: &Arc<str>,
        found: &Found,
    ) {
        if let Some(resolving) = self.resolving.get_mut(&key) {
            resolving.known.insert(Arc::clone(name), found.clone());
            self.resolve(now, context, key);
        }
    }

    /// Goes on until a name has to be waited for.
    fn resolve(&mut self, now: Instant, context: &mut Context<'_>, key: StreamKey) {
        let Some(resolving) = self.resolving.get_mut(&key) else { return };
        loop {
            let missing = match resolving.decide(context.access, context.services) {
                Err(missing) => missing,
                Ok(answer) => {
                    self.resolving.remove(&key);
                    return self.dial(now, context, key, answer);
                }
            };
            let mut waits = false;
            for name in missing {
                match context.names.request(now, &name, (self.number, key)) {
                    Some(error) => drop(resolving.known.insert(name, Err(error))),
                    None => waits = true,
                }
            }
            if waits {
                return;
            }
        }
    }

    /// The stream's service is given up: the names that it waits for are not needed any more. If there are any, why there
    /// was no answer in time.
    fn withdraw(&mut self, context: &mut Context<'_>, key: StreamKey) -> Option<String> {
        let resolving = self.resolving.remove(&key)?;
        let (name, has_begun) = context.names.withdraw((self.number, key))?;
        let whose = if *name == *resolving.service.host() {
            "its name".into()
        } else {
            format!("'{name}', a name in allow or services,")
        };
        let what =
            if has_begun { "was not answered in 10 s" } else { "waited for 10 s for those of other names, which hang" };
        Some(format!("the lookup of {whose} {what}; check the device's DNS"))
    }

    /// A service's name is resolved and permitted, or not.
    fn dial(&mut self, now: Instant, context: &mut Context<'_>, key: StreamKey, answer: Answer) {
        match answer {
            Ok((addresses, has_header)) => {
                let Some(Asked { shown, from, .. }) = self.services.get(&key) else { return };
                let proxied = has_header.then_some(*from);
                self.dials.add(key, Arc::clone(shown), Wanted { addresses, proxied });
                self.start_dials(now, context);
            }
            Err(refusal) => {
                let reason = refusal.to_string();
                let failure = match refusal {
                    Refusal::Denied { .. } => Failure { kind: EventKind::Denied, code: Code::Denied, reason },
                    // The service is named before it.
                    Refusal::Unresolved { reason, .. } => {
                        let text = format!("no address for its name: {reason}; check the name and the device's DNS");
                        Failure::new(Code::Unresolved, text)
                    }
                    Refusal::Unrecognized { .. } => Failure::new(Code::Unresolved, reason),
                    Refusal::System { .. } => Failure::new(Code::Internal, reason),
                };
                self.connect_failed(now, context, key, &failure);
            }
        }
    }

    /// When something is due here.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        if self.stage == Stage::Silent {
            return self.silent_until;
        }
        let answer = self.answer_within.map(|(_, until)| until);
        [self.dials.poll_timeout(), self.session.poll_timeout(), answer].into_iter().flatten().min()
    }

    pub(super) fn counters(&self) -> Counters {
        self.session.connection().counters()
    }

    /// Nothing is left to do, or to deliver.
    pub(super) fn is_over(&self) -> bool {
        !self.session.has_link() && self.session.connection().streams() == 0
    }

    fn carry_out(&mut self, now: Instant, context: &mut Context<'_>, output: Output) {
        match output {
            Output::Version(version) => self.version = Some(version),
            Output::Connect { stream, client, service, from } => {
                self.connect_service(now, context, stream, client, service, from);
            }
            Output::Finish { stream } => {
                self.withdraw(context, stream);
                self.tell_gone(now, context, stream, (EventKind::Disconnect, Severity::Detail), "is done");
            }
            Output::Reset { stream, reason } => {
                let resolving = self.withdraw(context, stream);
                let pending = self.dials.remove(stream);
                let unanswered = match (&resolving, &pending) {
                    (Some(text), _) => text,
                    (None, Some(Pending::Waiting(_))) => {
                        "none of the connections to it that are being made was answered in 10 s"
                    }
                    (None, Some(Pending::Ready(_) | Pending::Dialling(_)) | None) => "it did not answer in 10 s",
                };
                if let Some(Pending::Dialling(dial)) = pending {
                    dial.cancel(&mut context.io.event_loop);
                }
                self.tell_reset(now, context, stream, &reason, unanswered);
                self.start_dials(now, context);
            }
            Output::Gone { stream } => {
                let failure = self.session.traffic(stream).and_then(|traffic| traffic.failure.as_ref());
                let text = failure.map_or_else(|| "is done".into(), |failure| failed_service(failure.0, &failure.1));
                self.tell_gone(now, context, stream, (EventKind::Disconnect, Severity::Detail), &text);
            }
            Output::Malformed { client, reason } => {
                let message = format!("the relay sent what cannot be read for client {client}: {reason}");
                let event = Event::new(EventKind::Protocol, Severity::Warning, message);
                context.events.tell(now, event.about(client, None));
            }
            Output::EarlyDropped { client } => {
                let message = format!("dropped what came for client {client}, which the relay never announced");
                let event = Event::new(EventKind::Protocol, Severity::Warning, message);
                context.events.tell(now, event.about(client, None));
            }
            Output::GoAway(go_away) => self.go_away = Some(go_away),
            // The session has done it; what a relay says of itself changes nothing; and what only a relay is asked for.
            Output::ShutdownWrite { .. }
            | Output::Introduced(_)
            | Output::Listening
            | Output::Presented
            | Output::Opened { .. }
            | Output::Connected { .. } => {}
        }
    }

    fn connect_service(
        &mut self,
        now: Instant,
        context: &mut Context<'_>,
        key: StreamKey,
        client: u32,
        destination: Destination,
        from: Option<SocketAddr>,
    ) {
        let offered = match &destination {
            Destination::Address(address) => context.services.at(address),
            Destination::Service(name) => context.services.named(name),
        };
        let has_header = offered.map(|service| service.proxy_protocol);
        let (shown, what) = match (&destination, offered) {
            (Destination::Address(address), _) => (net::shown(address), net::shown(address)),
            (Destination::Service(name), Some(service)) => {
                let target = net::shown(&service.target);
                (target.clone(), format!("{name}, which is {target}"))
            }
            (Destination::Service(name), None) => (name.to_string(), name.to_string()),
        };
        let shown: Arc<str> = shown.into();
        let at = from.map_or_else(String::new, |from| format!(" at {from}"));
        let event = Event::new(EventKind::Connect, Severity::Detail, format!("client {client}{at} asks for {what}"));
        context.events.tell(now, event.about(client, Some(Arc::clone(&shown))));
        self.services.insert(key, Asked { client, shown, from });
        let service = match (destination, offered) {
            (Destination::Address(address), _) => Address::clone(&address),
            (Destination::Service(_), Some(service)) => service.target.clone(),
            (Destination::Service(_), None) => {
                let failure = Failure::new(Code::UnknownService, context.services.missing());
                return self.connect_failed(now, context, key, &failure);
            }
        };
        self.resolving.insert(key, Resolving { service, has_header, known: BTreeMap::new() });
        self.resolve(now, context, key);
    }

    /// Begins to connect for those whose turn has come.
    fn start_dials(&mut self, now: Instant, context: &mut Context<'_>) {
        while let Some(key) = self.dials.start_next(now, self.number) {
            self.poll_dial(now, context, key);
        }
    }

    fn poll_dials(&mut self, now: Instant, context: &mut Context<'_>) {
        while let Some(key) = self.dials.pop_due(now) {
            self.poll_dial(now, context, key);
        }
    }

    fn poll_dial(&mut self, now: Instant, context: &mut Context<'_>, key: StreamKey) {
        match self.dials.poll(now, &mut context.io.event_loop, key) {
            Progress::Pending => {}
            Progress::Connected { io, token, .. } => {
                // As with the link's: only hastens.
                let _ = net::tune_stream(&io);
                self.session.handle_connected(now, &mut context.io, key, io, token);
            }
            Progress::Failed(error) => {
                self.connect_failed(now, context, key, &Failure::unreachable(&error));
            }
        }
    }

    fn connect_failed(&mut self, now: Instant, context: &mut Context<'_>, key: StreamKey, failure: &Failure) {
        self.tell_failed(now, context, key, failure);
        self.session.give_up(now, &mut context.io, key, failure.code, &failure.reason);
    }
}

#[cfg(test)]
mod tests;
