//! The mio shell around the device's core: the loop thread's life from the server's name to the last byte.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use super::Config;
use super::access::{Access, Refusal};
use super::connect::{Answer, LINK, Names, connect};
use super::core::{Device, Output, ResetReason};
use super::dial::{Dial, Progress};
use super::notice::{Event, EventKind, Severity};
use super::report::Report;
use super::resolver::{self, Resolver};
use crate::Error;
use crate::address::Address;
use crate::event_loop::{EventLoop, Readiness, Source};
use crate::linger::Lingering;
use crate::link::{Endpoint, StreamKey};
use crate::net;
use crate::session::{LINK_BUFFER, LinkLost, Session};

/// How long the last bytes may take once the tunnel is to end.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// Lives as long as the tunnel. `Ok` when its owner closed it.
pub(super) fn run(config: &Config, mut event_loop: EventLoop, report: &Report) -> Result<(), Error> {
    let resolver = Resolver::new(event_loop.waker());
    let Some((io, token, peer)) = connect(config, &mut event_loop, report, &resolver)? else { return Ok(()) };
    // The options only hasten what the protocol does without them.
    let _ = net::tune_link(&io);
    let mut driver = Driver {
        access: Arc::new(config.access.clone()),
        session: Session::new(Device::new(config.rule), LINK, io, token),
        event_loop,
        resolver,
        report,
        dials: BTreeMap::new(),
        services: BTreeMap::new(),
        lingering: Lingering::default(),
    };
    let mut buffer = vec![0; LINK_BUFFER];
    let result = driver.serve(peer, &mut buffer);
    driver.finish(result.is_ok(), &mut buffer);
    result.map_err(|lost| Error::Lost { address: config.server.clone(), reason: lost.to_string() })
}

/// The loop's state while there is a link.
struct Driver<'a> {
    access: Arc<Access>,
    session: Session<Device>,
    event_loop: EventLoop,
    resolver: Names,
    report: &'a Report,
    /// Connections to services that are being made.
    dials: BTreeMap<StreamKey, Dial>,
    /// What the owner is told of a stream.
    services: BTreeMap<StreamKey, (u8, Address)>,
    lingering: Lingering,
}

impl Driver<'_> {
    /// Until the owner closes the tunnel (`Ok`) or the link is lost.
    fn serve(&mut self, peer: SocketAddr, buffer: &mut [u8]) -> Result<(), LinkLost> {
        let mut told = false;
        while !self.report.stop_requested() {
            let busy = self.step(buffer)?;
            if !told && self.session.endpoint.unsent().is_empty() {
                self.report.listening(peer);
                told = true;
            }
            self.wait(busy, None)?;
        }
        Ok(())
    }

    /// Gives the last bytes a little time. After a loss only streams that were already complete have any.
    fn finish(&mut self, closed_by_owner: bool, buffer: &mut [u8]) {
        let now = Instant::now();
        let deadline = now + FLUSH_TIMEOUT;
        if closed_by_owner {
            self.session.close_idle_link(now, &mut self.event_loop);
            self.session.endpoint.close(now);
        } else {
            self.session.abort_link(now, &mut self.event_loop);
        }
        while Instant::now() < deadline {
            let Ok(busy) = self.step(buffer) else {
                self.session.abort_link(Instant::now(), &mut self.event_loop);
                continue;
            };
            if self.session.has_link() && self.session.endpoint.unsent().is_empty() {
                self.session.close_link(Instant::now(), &mut self.event_loop, &mut self.lingering);
            }
            if !self.session.has_link() && self.session.endpoint.streams() == 0 && self.lingering.len() == 0 {
                return;
            }
            if self.wait(busy, Some(deadline)).is_err() {
                break;
            }
        }
        self.session.abort(Instant::now(), &mut self.event_loop);
    }

    /// Moves bytes, carries out outputs, and keeps time; true if there is more to do at once.
    fn step(&mut self, buffer: &mut [u8]) -> Result<bool, LinkLost> {
        let now = Instant::now();
        if self.session.endpoint.poll_timeout().is_some_and(|at| at <= now) {
            self.session.endpoint.handle_timeout(now);
        }
        self.lingering.handle_timeout(now, &mut self.event_loop);
        self.poll_dials(now);
        while let Some((tag, answer)) = self.resolver.poll() {
            if let Some(key) = tag {
                self.dial(now, key, answer);
            }
        }
        let result = self.session.turn(now, &mut self.event_loop, buffer);
        let mut busy = result?;
        while let Some(output) = self.session.endpoint.poll_output() {
            self.carry_out(now, output);
            busy = true;
        }
        self.count();
        Ok(busy)
    }

    fn wait(&mut self, busy: bool, deadline: Option<Instant>) -> io::Result<()> {
        let deadline = if busy { Some(Instant::now()) } else { self.next_deadline(deadline) };
        self.event_loop.wait(deadline)?;
        let now = Instant::now();
        while let Some(event) = self.event_loop.next_ready() {
            match event.source {
                Source::Link(_) => self.session.handle_link_event(event),
                Source::Stream(_, key) => self.handle_stream_event(now, key, event),
                Source::Lingering(place) => self.lingering.handle_event(&mut self.event_loop, place),
                Source::Waker | Source::Listener(_) => {}
            }
        }
        Ok(())
    }

    fn next_deadline(&mut self, own: Option<Instant>) -> Option<Instant> {
        let dials = self.dials.values().filter_map(Dial::poll_timeout).min();
        let others = [own, dials, self.session.endpoint.poll_timeout(), self.lingering.poll_timeout()];
        others.into_iter().flatten().min()
    }

    fn handle_stream_event(&mut self, now: Instant, key: StreamKey, event: Readiness) {
        if self.dials.contains_key(&key) {
            self.poll_dial(now, key);
        } else {
            self.session.handle_stream_event(now, &mut self.event_loop, key, event);
        }
    }

    fn carry_out(&mut self, now: Instant, output: Output) {
        match output {
            Output::Connect { stream, client, service } => self.connect_service(now, stream, client, service),
            Output::Finish { stream } => {
                self.session.finish(now, &mut self.event_loop, &mut self.lingering, stream);
                self.tell_gone(stream, EventKind::Disconnect, Severity::Detail, "is done");
            }
            Output::Reset { stream, reason } => {
                if let Some(dial) = self.dials.remove(&stream) {
                    dial.cancel(&mut self.event_loop);
                }
                self.session.reset(&mut self.event_loop, stream);
                let (kind, severity, text) = match reason {
                    ResetReason::Stalled => (
                        EventKind::Stalled,
                        Severity::Warning,
                        "was reset: its service stood still and held up the others",
                    ),
                    ResetReason::ConnectTimeout => {
                        (EventKind::Failed, Severity::Warning, "got no connection: its service did not answer in 10 s")
                    }
                    ResetReason::Replaced => {
                        (EventKind::Disconnect, Severity::Detail, "was cut: the relay gave its number to another")
                    }
                    ResetReason::LinkLost => (EventKind::Disconnect, Severity::Detail, "was cut with the link"),
                };
                self.tell_gone(stream, kind, severity, text);
            }
            Output::Gone { stream } => {
                self.tell_gone(stream, EventKind::Disconnect, Severity::Detail, "is done: its service reset it");
            }
            Output::Malformed { header, reason } => {
                let message = format!("the relay sent what cannot be read: {header}, {reason}");
                let event = Event::new(EventKind::Protocol, Severity::Warning, message);
                self.report.event(event.about(header.client.into(), None));
            }
            Output::EarlyDropped { client } => {
                let message = format!("dropped what came for client {client}, which the relay never announced");
                let event = Event::new(EventKind::Protocol, Severity::Warning, message);
                self.report.event(event.about(client.into(), None));
            }
        }
    }

    fn connect_service(&mut self, now: Instant, key: StreamKey, client: u8, service: Address) {
        let shown = net::shown(&service);
        let event = Event::new(EventKind::Connect, Severity::Detail, format!("client {client} asks for {shown}"));
        self.report.event(event.about(client.into(), Some(shown)));
        self.services.insert(key, (client, service.clone()));
        let access = Arc::clone(&self.access);
        let needs_lookup = access.needs_lookup(service.host(), service.port());
        let work = move || access.permit(service.host(), service.port(), &mut resolver::lookup);
        if !needs_lookup {
            self.dial(now, key, work());
        } else if let Err(error) = self.resolver.submit(Some(key), work) {
            self.connect_failed(now, key, EventKind::Failed, &error.to_string(), "system");
        }
    }

    fn dial(&mut self, now: Instant, key: StreamKey, answer: Answer) {
        if !self.services.contains_key(&key) {
            return;
        }
        match answer {
            Ok(addresses) => {
                // The core keeps the deadline of the whole; this one only shares it among the addresses.
                let deadline = now + Duration::from_secs(10);
                self.dials.insert(key, Dial::new(Source::Stream(LINK, key), addresses, deadline));
                self.poll_dial(now, key);
            }
            Err(refusal) => {
                let (kind, code) = match refusal {
                    Refusal::Denied { .. } => (EventKind::Denied, "denied"),
                    Refusal::Unresolved { .. } => (EventKind::Failed, "unresolved"),
                };
                self.connect_failed(now, key, kind, &refusal.to_string(), code);
            }
        }
    }

    fn poll_dials(&mut self, now: Instant) {
        let due = self.dials.iter().filter(|(_, dial)| dial.poll_timeout().is_some_and(|at| at <= now));
        let due: Vec<StreamKey> = due.map(|(&key, _)| key).collect();
        for key in due {
            self.poll_dial(now, key);
        }
    }

    fn poll_dial(&mut self, now: Instant, key: StreamKey) {
        let Some(dial) = self.dials.get_mut(&key) else { return };
        match dial.poll(now, &mut self.event_loop) {
            Progress::Pending => {}
            Progress::Connected { io, token, .. } => {
                self.dials.remove(&key);
                // As with the link's: only hastens.
                let _ = net::tune_stream(&io);
                self.session.attach(&mut self.event_loop, key, io, token);
                self.session.endpoint.handle_connected(now, key);
                self.session.start(now, &mut self.event_loop, key);
            }
            Progress::Failed(error) => {
                self.dials.remove(&key);
                let (code, reason) = if error.kind() == io::ErrorKind::TimedOut {
                    ("timeout", "it did not answer".to_owned())
                } else if error.kind() == io::ErrorKind::ConnectionRefused {
                    ("refused", error.to_string())
                } else {
                    ("unreachable", error.to_string())
                };
                self.connect_failed(now, key, EventKind::Failed, &reason, code);
            }
        }
    }

    fn connect_failed(&mut self, now: Instant, key: StreamKey, kind: EventKind, reason: &str, code: &'static str) {
        if let Some((client, service)) = self.services.remove(&key) {
            let shown = net::shown(&service);
            let message = if kind == EventKind::Denied {
                format!("client {client}: {reason}")
            } else {
                format!("client {client} cannot reach {shown}: {reason}")
            };
            let event = Event::new(kind, Severity::Warning, message).with_code(code);
            self.report.event(event.about(client.into(), Some(shown)));
        }
        self.session.endpoint.handle_connect_failed(now, key);
    }

    fn tell_gone(&mut self, key: StreamKey, kind: EventKind, severity: Severity, text: &str) {
        if let Some((client, service)) = self.services.remove(&key) {
            let event = Event::new(kind, severity, format!("client {client} {text}"));
            self.report.event(event.about(client.into(), Some(net::shown(&service))));
        }
    }

    fn count(&self) {
        let counters = self.session.endpoint.counters();
        let traffic = &self.report.traffic;
        traffic.clients.store(counters.open, Relaxed);
        traffic.clients_total.store(counters.opened, Relaxed);
        traffic.bytes_sent.store(counters.sent, Relaxed);
        traffic.bytes_received.store(counters.received, Relaxed);
        traffic.ignored_frames.store(counters.ignored, Relaxed);
    }
}
