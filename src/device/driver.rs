//! The loop thread's life: from the relay's name to the last byte, over as many links as it takes.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use super::Config;
use super::attempt::Attempt;
use super::backoff::Backoff;
use super::core::Device;
use super::link::{Context, Link, Stage};
use super::report::Report;
use super::resolver::{Names, RelayName};
use crate::Error;
use crate::event_loop::{EventLoop, Source};
use crate::linger::Lingering;
use crate::link::{Counters, Endpoint};
use crate::protocol::v2::{Code, GoAway};
use crate::session::{LINK_BUFFER, LinkLost};

/// How long the last bytes may take once the tunnel is to end.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);
/// Links that may finish beside the one in use.
const MAX_DRAINING: usize = 8;

/// Lives as long as the tunnel. `Ok` when its owner closed it.
pub(super) fn run(config: &Config, event_loop: EventLoop, report: &Report) -> Result<(), Error> {
    let mut driver = Driver::new(config, event_loop, report);
    let mut buffer = vec![0; LINK_BUFFER];
    let result = driver.serve(&mut buffer);
    driver.finish(result.is_ok(), &mut buffer);
    result
}

/// The loop's state.
struct Driver<'a> {
    config: &'a Config,
    context: Context<'a>,
    /// The one that is in use, and those that only finish what they have.
    links: BTreeMap<usize, Link>,
    /// The link on which clients come.
    current: Option<usize>,
    relay_name: RelayName,
    /// The next one, being made.
    attempt: Option<Attempt>,
    /// When the next attempt begins.
    retry_at: Option<Instant>,
    backoff: Backoff,
    next_number: usize,
    /// There was a link, if only as far as LISTEN: from then on the owner has a tunnel.
    was_connected: bool,
    /// What was moved over links that are gone.
    past: Counters,
}

impl<'a> Driver<'a> {
    fn new(config: &'a Config, event_loop: EventLoop, report: &'a Report) -> Self {
        let relay_name = RelayName::new(config.server.host(), event_loop.waker());
        let context = Context {
            names: Names::new(event_loop.waker()),
            event_loop,
            report,
            access: &config.access,
            lingering: Lingering::default(),
        };
        Self {
            config,
            context,
            links: BTreeMap::new(),
            current: None,
            relay_name,
            attempt: None,
            retry_at: None,
            backoff: Backoff::new(),
            next_number: 0,
            was_connected: false,
            past: Counters::default(),
        }
    }

    /// Until the owner closes the tunnel (`Ok`), or it is over.
    fn serve(&mut self, buffer: &mut [u8]) -> Result<(), Error> {
        self.begin_attempt(Instant::now());
        while !self.context.report.stop_requested() {
            let busy = self.step(buffer)?;
            self.wait(busy, None)?;
        }
        Ok(())
    }

    /// Gives the last bytes a little time. After a loss only streams that were already complete have any.
    fn finish(&mut self, closed_by_owner: bool, buffer: &mut [u8]) {
        let now = Instant::now();
        let deadline = now + FLUSH_TIMEOUT;
        if let Some(attempt) = self.attempt.take() {
            attempt.cancel(&mut self.context.event_loop);
        }
        for link in self.links.values_mut() {
            if closed_by_owner {
                link.session.close_idle_link(now, &mut self.context.event_loop);
                link.session.endpoint.close(now);
            } else {
                link.session.abort_link(now, &mut self.context.event_loop);
            }
        }
        while Instant::now() < deadline {
            let now = Instant::now();
            let mut busy = false;
            self.context.lingering.handle_timeout(now, &mut self.context.event_loop);
            for link in self.links.values_mut() {
                match link.step(now, &mut self.context, buffer) {
                    Ok(more) => busy |= more,
                    Err(_) => link.session.abort_link(now, &mut self.context.event_loop),
                }
                let Context { event_loop, lingering, .. } = &mut self.context;
                if link.session.has_link() && !link.session.endpoint.has_unsent() {
                    link.session.close_link(now, event_loop, lingering);
                }
                link.carry_out_all(now, &mut self.context);
            }
            self.links.retain(|_, link| !link.is_over());
            if self.links.is_empty() && self.context.lingering.len() == 0 {
                return;
            }
            if self.wait(busy, Some(deadline)).is_err() {
                break;
            }
        }
        for link in self.links.values_mut() {
            link.session.abort(Instant::now(), &mut self.context.event_loop);
        }
    }

    /// Moves bytes, carries out what is asked for, and keeps time; true if there is more to do at once.
    fn step(&mut self, buffer: &mut [u8]) -> Result<bool, Error> {
        let now = Instant::now();
        self.context.lingering.handle_timeout(now, &mut self.context.event_loop);
        if self.retry_at.is_some_and(|at| at <= now) {
            self.retry_at = None;
            self.context.report.connecting();
            self.begin_attempt(now);
        }
        self.take_answers(now)?;
        self.poll_attempt(now)?;
        let mut busy = false;
        for number in self.links.keys().copied().collect::<Vec<_>>() {
            busy |= self.step_link(now, number, buffer)?;
        }
        self.count();
        Ok(busy)
    }

    fn begin_attempt(&mut self, now: Instant) {
        let number = self.next_number;
        self.next_number += 1;
        self.attempt = Some(Attempt::new(self.config, number, now, &mut self.relay_name));
    }

    fn take_answers(&mut self, now: Instant) -> Result<(), Error> {
        while let Some((name, found, waiting)) = self.context.names.poll(now) {
            for (number, key) in waiting {
                if let Some(link) = self.links.get_mut(&number) {
                    link.handle_name(now, &mut self.context, key, &name, &found);
                }
            }
        }
        while let Some(found) = self.relay_name.poll() {
            if let Some(attempt) = &mut self.attempt {
                let taken = attempt.handle_name(self.config, now, found);
                self.try_again_after(now, taken)?;
            }
        }
        Ok(())
    }

    fn poll_attempt(&mut self, now: Instant) -> Result<(), Error> {
        let Some(attempt) = &mut self.attempt else { return Ok(()) };
        match attempt.poll(self.config, now, &mut self.context.event_loop) {
            None => Ok(()),
            Some(Ok(reached)) => {
                let number = attempt.number;
                self.attempt = None;
                let device = Device::new(self.config.protocol, self.config.limits);
                self.links.insert(number, Link::new(device, number, reached, now));
                self.current = Some(number);
                Ok(())
            }
            Some(Err(error)) => self.try_again_after(now, Err(error)),
        }
    }

    /// After a failed attempt: the next one is planned, unless there never was a link or this is to be the only one.
    fn try_again_after(&mut self, now: Instant, result: Result<(), Error>) -> Result<(), Error> {
        let Err(error) = result else { return Ok(()) };
        if let Some(attempt) = self.attempt.take() {
            attempt.cancel(&mut self.context.event_loop);
        }
        if !self.keeps_trying() {
            return Err(error);
        }
        let drains =
            |link: &Link| link.session.has_link() && link.away.as_ref().is_some_and(|away| away.code == Code::Shutdown);
        if self.links.values().any(drains) {
            self.backoff.restart_goes_on(now);
        }
        let wait = self.backoff.next_wait(now, None);
        self.plan(now, wait, error);
        Ok(())
    }

    fn plan(&mut self, now: Instant, wait: Duration, reason: Error) {
        self.retry_at = Some(now + wait);
        // Who hears of it and asks for the status sees nothing of the link that is gone.
        self.count();
        self.context.report.waiting(reason, now + wait, wait);
    }

    fn step_link(&mut self, now: Instant, number: usize, buffer: &mut [u8]) -> Result<bool, Error> {
        let Some(link) = self.links.get_mut(&number) else { return Ok(false) };
        let was_away = link.away.is_some();
        let result = link.step(now, &mut self.context, buffer);
        let left = !was_away && link.away.is_some();
        self.note_stage(number);
        match result {
            Err(reason) => {
                self.lose(now, number, &reason)?;
                Ok(false)
            }
            Ok(busy) => {
                if left {
                    self.leave(now, number)?;
                }
                self.finish_link(now, number)?;
                Ok(busy)
            }
        }
    }

    /// Tells the owner how far the link is, in the order that it learns to know.
    fn note_stage(&mut self, number: usize) {
        let Some(link) = self.links.get_mut(&number) else { return };
        if link.stage == Stage::Made && link.session.has_link() && !link.session.endpoint.has_unsent() {
            link.stage = Stage::Greeting;
            self.was_connected = true;
            self.context.report.greeting(link.peer);
        }
        if let (Stage::Greeting, Some(version)) = (link.stage, link.version) {
            link.stage = Stage::Listening;
            self.backoff.restart_is_over();
            self.context.report.listening(link.peer, version);
        }
    }

    /// Whether a link that is lost, or could not be made, is followed by another.
    fn keeps_trying(&self) -> bool {
        self.config.reconnect && self.was_connected
    }

    /// The relay wants no more of this link: the next one is made beside it.
    fn leave(&mut self, now: Instant, number: usize) -> Result<(), Error> {
        let Some(link) = self.links.get(&number) else { return Ok(()) };
        let Some(away) = link.away.clone() else { return Ok(()) };
        // A link that was replaced is about to be cut, and what follows is decided then.
        if away.code != Code::Replaced && self.current == Some(number) && self.config.reconnect {
            self.current = None;
            let wait = wait_after(&mut self.backoff, now, link.up_since, &away);
            self.plan(now, wait, self.gone_away(&away));
            self.cut_oldest_draining(now);
        }
        Ok(())
    }

    /// A relay that never ends the last clients of its links must not fill the device with them.
    fn cut_oldest_draining(&mut self, now: Instant) {
        let is_draining = |link: &&mut Link| link.away.is_some() && link.session.has_link();
        if self.links.values_mut().filter(is_draining).count() <= MAX_DRAINING {
            return;
        }
        // Their numbers tell their age.
        if let Some(oldest) = self.links.values_mut().find(is_draining) {
            oldest.session.abort_link(now, &mut self.context.event_loop);
            oldest.carry_out_all(now, &mut self.context);
        }
    }

    /// A link that the relay sent away is closed once its last client is gone; one that is over is forgotten.
    fn finish_link(&mut self, now: Instant, number: usize) -> Result<(), Error> {
        let Some(link) = self.links.get_mut(&number) else { return Ok(()) };
        if link.away.is_some() && link.session.endpoint.streams() == 0 && link.session.has_link() {
            let Context { event_loop, lingering, .. } = &mut self.context;
            link.session.close_link(now, event_loop, lingering);
            if self.current == Some(number) {
                self.lose_current(now, number, "its last client is gone")?;
            }
        }
        if self.links.get(&number).is_some_and(Link::is_over) {
            self.forget(number);
        }
        Ok(())
    }

    fn lose(&mut self, now: Instant, number: usize, reason: &LinkLost) -> Result<(), Error> {
        let Some(link) = self.links.get_mut(&number) else { return Ok(()) };
        link.session.abort_link(now, &mut self.context.event_loop);
        link.carry_out_all(now, &mut self.context);
        if self.current != Some(number) {
            return Ok(());
        }
        self.lose_current(now, number, &reason.to_string())
    }

    /// The link in use is no more: for `reason`, unless the relay told a better one before.
    fn lose_current(&mut self, now: Instant, number: usize, reason: &str) -> Result<(), Error> {
        self.current = None;
        let Some(link) = self.links.get(&number) else { return Ok(()) };
        let reason = match &link.away {
            Some(away) => self.gone_away(away),
            None => Error::Lost { address: self.config.server.clone(), reason: reason.into() },
        };
        if !self.keeps_trying() {
            return Err(reason);
        }
        let wait = match &link.away {
            Some(away) => wait_after(&mut self.backoff, now, link.up_since, away),
            None => self.backoff.next_wait(now, Some(link.up_since)),
        };
        self.plan(now, wait, reason);
        Ok(())
    }

    /// A GOAWAY, as the end of a link.
    fn gone_away(&self, away: &GoAway) -> Error {
        let address = self.config.server.clone();
        if away.code == Code::Replaced {
            return Error::Replaced(address);
        }
        let why = if away.reason.is_empty() { String::new() } else { format!(", {}", away.reason) };
        Error::Lost { address, reason: format!("the relay ended it ({}{why})", away.code) }
    }

    fn forget(&mut self, number: usize) {
        if let Some(link) = self.links.remove(&number) {
            add(&mut self.past, link.counters());
        }
    }

    fn wait(&mut self, busy: bool, deadline: Option<Instant>) -> Result<(), Error> {
        let poll_failed = |reason| Error::System { what: "cannot wait for events".into(), reason };
        self.context.report.ring();
        let deadline = if busy { Some(Instant::now()) } else { self.next_deadline(deadline) };
        self.context.event_loop.wait(deadline).map_err(poll_failed)?;
        let now = Instant::now();
        while let Some(event) = self.context.event_loop.next_ready() {
            match event.source {
                Source::Link(number) => {
                    if let Some(link) = self.links.get_mut(&number) {
                        link.session.handle_link_event(event);
                    }
                }
                Source::Stream(number, key) => {
                    if let Some(link) = self.links.get_mut(&(number as usize)) {
                        link.handle_stream_event(now, &mut self.context, key, event);
                    }
                }
                Source::Lingering(place) => {
                    self.context.lingering.handle_event(&mut self.context.event_loop, place);
                }
                Source::Waker | Source::Listener(_) => {}
            }
        }
        Ok(())
    }

    fn next_deadline(&mut self, own: Option<Instant>) -> Option<Instant> {
        let links = self.links.values().filter_map(Link::poll_timeout).min();
        let attempt = self.attempt.as_ref().and_then(Attempt::poll_timeout);
        let others = [own, links, attempt, self.retry_at, self.context.lingering.poll_timeout()];
        others.into_iter().flatten().min()
    }

    fn count(&self) {
        let mut all = self.past;
        for link in self.links.values() {
            add(&mut all, link.counters());
        }
        let current = self.current.and_then(|number| self.links.get(&number));
        let round_trip = current.and_then(|link| link.counters().round_trip).unwrap_or_default();
        let traffic = &self.context.report.traffic;
        traffic.clients.store(all.open, Relaxed);
        traffic.clients_total.store(all.opened, Relaxed);
        traffic.bytes_sent.store(all.sent, Relaxed);
        traffic.bytes_received.store(all.received, Relaxed);
        traffic.ignored_frames.store(all.ignored, Relaxed);
        traffic.round_trip_micros.store(round_trip.as_micros().try_into().unwrap_or(u64::MAX), Relaxed);
    }
}

/// How long to wait after a GOAWAY.
fn wait_after(backoff: &mut Backoff, now: Instant, up_since: Instant, away: &GoAway) -> Duration {
    if away.code == Code::Replaced {
        backoff.wait_replaced()
    } else if away.code == Code::Shutdown {
        backoff.wait_for_restart(now, up_since, away.retry_after)
    } else {
        backoff.wait_as_told(now, up_since, away.retry_after)
    }
}

fn add(sum: &mut Counters, more: Counters) {
    sum.open += more.open;
    sum.opened += more.opened;
    sum.sent += more.sent;
    sum.received += more.received;
    sum.ignored += more.ignored;
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::super::attempt::Reached;
    use super::*;
    use crate::net;

    #[test]
    fn of_links_that_drain_for_ever_the_oldest_is_cut() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let peer = listener.local_addr().expect("address");
        let config = Config::new(peer.to_string().parse().expect("an address"));
        let event_loop = EventLoop::new().expect("poll");
        let report = Report::new(config.server.clone(), event_loop.waker()).expect("a report");
        let mut driver = Driver::new(&config, event_loop, &report);
        let now = Instant::now();
        for number in 0..MAX_DRAINING + 2 {
            let mut io = net::connect(peer).expect("connect");
            let token = driver.context.event_loop.register(&mut io, Source::Link(number)).expect("register");
            let device = Device::new(config.protocol, config.limits);
            let mut link = Link::new(device, number, Reached { io, token, peer }, now);
            link.away = Some(GoAway { code: Code::Normal, retry_after: 0, last_stream: 0, reason: String::new() });
            driver.links.insert(number, link);
            driver.current = Some(number);
            driver.leave(now, number).expect("the next is made");
        }
        let there: Vec<bool> = driver.links.values().map(|link| link.session.has_link()).collect();
        assert_eq!(there, [&[false; 2][..], &[true; MAX_DRAINING]].concat());
    }
}
