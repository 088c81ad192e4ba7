//! The loop thread's life: from the relay's name to the last byte, over as many links as it takes.

#[cfg(feature = "tls")]
mod enrolling;
mod succession;

use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use super::Config;
use super::attempt::{Attempt, Reached};
use super::backoff::Backoff;
use super::client_events::ClientEvents;
use super::link::{Context, Link, Stage};
use super::resolver::{Names, RelayNames};
use super::shared::Shared;
use crate::Error;
use crate::address::Address;
use crate::connection::Counters;
use crate::connection::device::Device;
use crate::io::Io;
use crate::io::event_loop::{EventLoop, Source};
use crate::io::session::LINK_BUFFER;
use crate::io::table::Table;
use crate::protocol::v2::Settings;
#[cfg(feature = "tls")]
use crate::tls::{Opener, TlsError};
#[cfg(feature = "tls")]
use enrolling::Enrolling;

/// How long the last bytes may take once the tunnel is to end.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);
/// What a relay behind a slow network needs for its answer.
const SLOW_ANSWER: Duration = Duration::from_secs(5);

/// Lives as long as the tunnel. `Ok` when its owner closed it.
pub(super) fn run(config: &Config, event_loop: EventLoop, shared: &Shared) -> Result<(), Error> {
    let mut driver = Driver::new(config, event_loop, shared);
    let mut buffer = vec![0; LINK_BUFFER];
    let result = driver.serve(&mut buffer);
    driver.finish(result.is_ok(), &mut buffer);
    driver.context.events.finish();
    result
}

/// The loop's state.
struct Driver<'a> {
    config: &'a Config,
    context: Context<'a>,
    /// The one that is in use, and those that only finish what they have.
    links: Table<Link>,
    /// The link on which clients come.
    current: Option<usize>,
    /// The link that is to take its place, once the relay has answered on it.
    successor: Option<usize>,
    /// The relay, as the attempt that is being made or was made last has it.
    server: Address,
    relay_names: RelayNames,
    #[cfg(feature = "tls")]
    enrolling: Option<Enrolling>,
    /// The next one, being made.
    attempt: Option<Attempt>,
    /// When the next attempt begins.
    retry_at: Option<Instant>,
    backoff: Backoff,
    /// Until when the first link is to be there, or to have failed: the owner waits for that.
    first_until: Option<Instant>,
    /// How many links were made.
    made: u64,
    /// There was a link, if only as far as LISTEN: from then on the owner has a tunnel.
    was_connected: bool,
    /// What was moved over links that are gone.
    past: Counters,
}

impl<'a> Driver<'a> {
    fn new(config: &'a Config, event_loop: EventLoop, shared: &'a Shared) -> Self {
        let relay_names = RelayNames::new(event_loop.waker());
        #[cfg(feature = "tls")]
        let enrolling = config.enrolment.as_ref().map(|enrolment| Enrolling::new(enrolment, event_loop.waker()));
        let context = Context {
            names: Names::new(event_loop.waker()),
            io: Io::new(event_loop),
            shared,
            events: ClientEvents::new(Instant::now(), shared),
            access: &config.access,
            services: &config.services,
        };
        Self {
            config,
            context,
            links: Table::default(),
            current: None,
            successor: None,
            server: config.server.clone(),
            relay_names,
            #[cfg(feature = "tls")]
            enrolling,
            attempt: None,
            retry_at: None,
            backoff: Backoff::new(),
            first_until: Some(Instant::now() + config.connect_timeout),
            made: 0,
            was_connected: false,
            past: Counters::default(),
        }
    }

    /// Until the owner closes the tunnel (`Ok`), or it is over.
    fn serve(&mut self, buffer: &mut [u8]) -> Result<(), Error> {
        #[cfg(feature = "tls")]
        {
            self.complain();
            self.prepare_names(Instant::now());
        }
        self.begin_attempt(Instant::now());
        while !self.context.shared.stop_requested() {
            self.step(buffer)?;
            self.wait(None)?;
        }
        Ok(())
    }

    /// Gives the last bytes a little time, and what is being stored a little more. After a loss only streams that were already
    /// complete have any.
    fn finish(&mut self, closed_by_owner: bool, buffer: &mut [u8]) {
        let now = Instant::now();
        let deadline = now + FLUSH_TIMEOUT;
        self.drop_attempt();
        self.retry_at = None;
        #[cfg(feature = "tls")]
        if let Some(enrolling) = &mut self.enrolling {
            enrolling.end();
        }
        for number in self.links.numbers() {
            let Some(link) = self.links.get_mut(number) else { continue };
            if closed_by_owner && link.stage != Stage::Silent {
                link.session.close_idle_link(now, &mut self.context.io);
                link.session.close(now);
            } else {
                link.session.abort_link(now, &mut self.context.io);
            }
        }
        while Instant::now() < deadline {
            let now = Instant::now();
            self.context.io.closing.handle_timeout(now, &mut self.context.io.event_loop);
            for _ in 0..self.links.begin_round(now) {
                if let Some(number) = self.links.next_visit() {
                    self.flush_link(now, number, buffer);
                }
            }
            if self.links.is_empty() && self.context.io.closing.len() == 0 {
                break;
            }
            if self.wait(Some(deadline)).is_err() {
                break;
            }
        }
        for number in self.links.numbers() {
            if let Some(link) = self.links.get_mut(number) {
                link.abort(Instant::now(), &mut self.context.io);
            }
        }
        self.context.shared.flushed();
        #[cfg(feature = "tls")]
        self.finish_storing(now);
    }

    /// A link's visit while the tunnel ends: it is closed behind its last bytes.
    fn flush_link(&mut self, now: Instant, number: usize, buffer: &mut [u8]) {
        let Some(link) = self.links.get_mut(number) else { return };
        let mut busy = link.step(now, &mut self.context, buffer).unwrap_or_else(|_| {
            link.session.abort_link(now, &mut self.context.io);
            false
        });
        if link.session.has_link() && !link.session.has_unsent() {
            link.session.close_link(now, &mut self.context.io);
        }
        busy |= link.carry_out_all(now, &mut self.context);
        let (is_over, timeout) = (link.is_over(), link.poll_timeout());
        if is_over {
            self.links.remove(number);
        } else {
            self.links.end_visit(number, busy, timeout);
        }
    }

    /// Moves bytes, carries out what is asked for, and keeps time, of the links for which there is something to do.
    fn step(&mut self, buffer: &mut [u8]) -> Result<(), Error> {
        let now = Instant::now();
        self.context.io.closing.handle_timeout(now, &mut self.context.io.event_loop);
        if self.context.shared.take_reconnect() {
            self.reconnect(now);
        }
        if self.context.shared.take_hold() {
            // Any of them may wait for it to send LISTEN.
            for number in self.links.numbers() {
                self.links.get_mut(number);
            }
        }
        if self.retry_at.is_some_and(|at| at <= now) {
            self.retry_at = None;
            self.begin_attempt(now);
            self.context.shared.connecting(&self.server);
        }
        self.context.events.handle_timeout(now);
        #[cfg(feature = "tls")]
        self.poll_directory(now);
        self.take_answers(now)?;
        self.poll_attempt(now)?;
        let visits = self.links.begin_round(now);
        for _ in 0..visits {
            if let Some(number) = self.links.next_visit() {
                self.visit(now, number, buffer)?;
            }
        }
        if visits > 0 {
            self.bound_retired(now);
            self.count();
        }
        Ok(())
    }

    fn begin_attempt(&mut self, now: Instant) {
        #[cfg(feature = "tls")]
        if let Some(enrolling) = &self.enrolling {
            self.server = enrolling.address().clone();
        }
        let (number, server) = (self.links.reserve(), self.server.clone());
        let time = self.attempt_time(now);
        self.attempt = Some(Attempt::new(self.config, server, number, (now, time), &mut self.relay_names));
    }

    /// How long the next attempt may take. While the owner waits each address has a part of what is left, which is enough
    /// for a slow relay where there are many, and in TLS that is for the relay's answer, too.
    fn attempt_time(&self, now: Instant) -> Duration {
        let Some(until) = self.first_until else { return self.config.connect_timeout };
        #[cfg(feature = "tls")]
        let targets = self.enrolling.as_ref().map_or(1, Enrolling::targets_left);
        #[cfg(not(feature = "tls"))]
        let targets = 1;
        let left = until.saturating_duration_since(now);
        if targets == 1 { left } else { (left / targets).max((left / 2).min(SLOW_ANSWER)) }
    }

    fn drop_attempt(&mut self) {
        if let Some(attempt) = self.attempt.take() {
            self.links.remove(attempt.number);
            attempt.cancel(&mut self.context.io.event_loop);
        }
    }

    fn take_answers(&mut self, now: Instant) -> Result<(), Error> {
        while let Some((name, found, waiting)) = self.context.names.poll(now) {
            for (number, key) in waiting {
                if let Some(link) = self.links.get_mut(number) {
                    link.handle_name(now, &mut self.context, key, &name, &found);
                }
            }
        }
        let awaited = self.attempt.as_ref().and_then(|attempt| attempt.awaited_name(self.config));
        if let Some(found) = self.relay_names.poll(awaited)
            && let Some(attempt) = &mut self.attempt
            && let Err(error) = attempt.handle_name(self.config, now, found)
        {
            self.fail_attempt(now, error)?;
        }
        Ok(())
    }

    fn poll_attempt(&mut self, now: Instant) -> Result<(), Error> {
        let Some(attempt) = &mut self.attempt else { return Ok(()) };
        match attempt.poll(self.config, now, &mut self.context.io.event_loop) {
            None => Ok(()),
            Some(Ok(reached)) => {
                let (number, time) = (attempt.number, attempt.time());
                self.attempt = None;
                match self.begin_link(now, number, reached) {
                    Ok(mut link) => {
                        // Without TLS the owner waits for LISTEN alone, which is about to leave.
                        link.answer_within = self.first_until.filter(|_| self.is_secure()).map(|_| time);
                        self.add_link(now, link, number);
                        Ok(())
                    }
                    Err(error) => {
                        self.links.remove(number);
                        self.fail_attempt(now, error)
                    }
                }
            }
            Some(Err(error)) => self.fail_attempt(now, error),
        }
    }

    /// A link on the connection that was made: in TLS if the device has an identity.
    fn begin_link(&mut self, now: Instant, number: usize, reached: Reached) -> Result<Link, Error> {
        let Config { protocol, min_protocol, limits, services, .. } = self.config;
        let services = services.announced();
        #[cfg(feature = "tls")]
        if let Some(identity) = self.identity().cloned() {
            let server = reached.server.clone();
            let scratch = self.context.io.scratch();
            let failed = |error: TlsError| Error::Tls { address: server.clone(), reason: error.to_string() };
            let opener = Opener::new(&identity.key, identity.pins).map_err(failed)?;
            let tls = opener.start(server.host(), scratch).map_err(failed)?;
            let said = Settings { services, ..identity.said() };
            let device = Device::in_tls(now, *limits, said);
            return Ok(Link::in_tls(device, number, reached, tls, &mut self.context.io));
        }
        #[cfg(not(feature = "tls"))]
        let _ = now;
        let said = Settings { services, ..Settings::default() };
        let device = Device::new(*protocol, *limits).at_least(*min_protocol).saying(said);
        Ok(Link::new(device, number, reached))
    }

    /// Whether links are in TLS.
    fn is_secure(&self) -> bool {
        #[cfg(feature = "tls")]
        return self.identity().is_some();
        #[cfg(not(feature = "tls"))]
        false
    }

    fn visit(&mut self, now: Instant, number: usize, buffer: &mut [u8]) -> Result<(), Error> {
        let result = if self.try_announce(now, number) { self.step_link(now, number, buffer) } else { Ok(false) };
        let timeout = match self.links.get(number) {
            Some(link) if link.is_over() => {
                self.forget(number);
                None
            }
            Some(Link { stage: Stage::Silent, silent_until: None, .. }) => self.context.shared.held_until(),
            link => link.and_then(Link::poll_timeout),
        };
        self.links.end_visit(number, matches!(result, Ok(true)), timeout);
        result.map(|_| ())
    }

    /// True if there is more to do at once.
    fn step_link(&mut self, now: Instant, number: usize, buffer: &mut [u8]) -> Result<bool, Error> {
        let Some(link) = self.links.get_mut(number) else { return Ok(false) };
        let was_away = link.go_away.is_some();
        let result = link.step(now, &mut self.context, buffer);
        let left = !was_away && link.go_away.is_some();
        self.note_stage(now, number);
        match result {
            Err(reason) => {
                self.lose(now, number, &reason)?;
                Ok(false)
            }
            Ok(busy) => {
                if left {
                    self.leave(now, number);
                }
                self.give_up_if_late(now, number)?;
                self.finish_link(now, number)?;
                Ok(busy)
            }
        }
    }

    fn forget(&mut self, number: usize) {
        if let Some(link) = self.links.remove(number) {
            add(&mut self.past, link.counters());
        }
    }

    fn wait(&mut self, deadline: Option<Instant>) -> Result<(), Error> {
        let poll_failed = |reason| Error::System { what: "cannot wait for events".into(), reason };
        self.context.shared.ring();
        debug_assert!(self.links.is_armed(Link::poll_timeout), "a link's deadline was moved without a visit");
        let deadline = if self.links.has_ready() { Some(Instant::now()) } else { self.next_deadline(deadline) };
        self.context.io.event_loop.wait(deadline).map_err(poll_failed)?;
        let now = Instant::now();
        while let Some(event) = self.context.io.event_loop.next_ready() {
            match event.source {
                Source::Link(number) => {
                    if let Some(link) = self.links.get_mut(number) {
                        link.session.handle_link_event(event);
                    }
                }
                Source::Stream(number, key) => {
                    if let Some(link) = self.links.get_mut(number as usize) {
                        link.handle_stream_event(now, &mut self.context, key, event);
                    }
                }
                Source::Closing(place) => {
                    self.context.io.closing.handle_event(&mut self.context.io.event_loop, place);
                }
                Source::Waker | Source::Listener(_) | Source::Header(_) => {}
            }
        }
        Ok(())
    }

    fn next_deadline(&mut self, own: Option<Instant>) -> Option<Instant> {
        let attempt = self.attempt.as_ref().and_then(Attempt::poll_timeout);
        let (closing, events) = (self.context.io.closing.poll_timeout(), self.context.events.poll_timeout());
        #[cfg(feature = "tls")]
        let look = self.enrolling.as_ref().and_then(Enrolling::poll_timeout);
        #[cfg(not(feature = "tls"))]
        let look = None;
        let all = [own, self.links.poll_timeout(), attempt, self.retry_at, closing, events, look];
        all.into_iter().flatten().min()
    }

    /// What the owner sees: of a link in use and the few that may finish beside it.
    fn count(&self) {
        let mut all = self.past;
        for (_, link) in self.links.iter() {
            add(&mut all, link.counters());
        }
        let current = self.current.and_then(|number| self.links.get(number));
        let round_trip = current.and_then(|link| link.counters().round_trip).unwrap_or_default();
        let traffic = &self.context.shared.traffic;
        traffic.clients.store(all.open, Relaxed);
        traffic.clients_total.store(all.opened, Relaxed);
        traffic.bytes_sent.store(all.sent, Relaxed);
        traffic.bytes_received.store(all.received, Relaxed);
        traffic.ignored_frames.store(all.ignored, Relaxed);
        traffic.round_trip_micros.store(round_trip.as_micros().try_into().unwrap_or(u64::MAX), Relaxed);
    }
}

fn add(sum: &mut Counters, more: Counters) {
    sum.open += more.open;
    sum.opened += more.opened;
    sum.sent += more.sent;
    sum.received += more.received;
    sum.ignored += more.ignored;
}
