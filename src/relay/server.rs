//! The mio driver of the relay's cores: devices, their ports and those of their clients, and the links between.

mod admission;
mod bind;
mod client_log;
mod clients;
mod consistency;
mod device;
mod end;
mod handshakes;
mod links;
mod log_limits;
mod peer;
mod ports;
mod proxied;
mod reload;
mod secured;
mod seen;
mod shares;
mod stray;
mod totals;

use std::collections::HashMap;
#[cfg(test)]
use std::net::SocketAddr;
use std::sync::mpsc::Receiver;
use std::time::Instant;

use bind::cannot_listen;
use client_log::Ending;
use device::Device;
use links::DevicePort;
use log_limits::{Kind, LogLimits};
use peer::{Peer, Stage};
use proxied::Proxied;
use reload::Task;
pub use reload::{Controller, DeviceStatus, LinkStatus};
use secured::{Proof, Secured};
use totals::{Share, Totals};
use tracing::{debug, info};

use super::Config;
use super::descriptors::{Descriptors, Shortage};
use super::listener::Listener;
use crate::Error;
use crate::connection::{Output, WindowPool};
use crate::identity::Name;
use crate::io::Io;
use crate::io::event_loop::Source;
use crate::io::mailbox::{Mailbox, Request};
use crate::io::session::LINK_BUFFER;
use crate::io::table::Table;
use crate::protocol::v2::Code;

/// A relay that has its ports, and is ready to [`run`](Self::run).
#[derive(Debug)]
pub struct Server {
    config: Config,
    io: Io,
    /// What other threads ask for.
    requests: Mailbox,
    /// What they ask for in more than a word.
    tasks: Receiver<Task>,
    controller: Controller,
    device_ports: Table<DevicePort>,
    /// What a listener's events are about, by its place.
    places: Vec<Place>,
    devices: Table<Device>,
    /// Those that have a name.
    names: HashMap<Name, usize>,
    /// What links in TLS have in common, if there are any.
    secured: Option<Secured>,
    /// Every link, also those of connections that may become one.
    sessions: Table<Peer>,
    /// Connections of load balancers that have yet to say whose they are.
    proxied: Table<Proxied>,
    totals: Totals,
    /// What the windows of all links may take.
    windows: WindowPool,
    /// Bytes that may wait for clients of all links.
    most_undelivered: u64,
    phase: Phase,
    /// Devices that have a link on which they are served.
    served: usize,
    /// Clients of all devices that wait for a place.
    waiting: usize,
    /// Clients that were ever accepted.
    connections: u64,
    descriptors: Descriptors,
    shortage: Shortage,
    log_limits: LogLimits,
}

/// How far the relay is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Serving,
    /// It takes no new device or client, and waits for those that are there to end.
    Draining,
    /// It has no more to do than to deliver last bytes: a link that has them is closed.
    Flushing,
}

/// Which listener it is.
#[derive(Clone, Copy, Debug)]
enum Place {
    /// Of devices, by its number.
    Devices(usize),
    /// Of clients, by the numbers of its device, and its own.
    Clients(usize, usize),
    /// None any more.
    Free,
}

/// Ends a running [`Server`] from another thread.
#[derive(Clone, Debug)]
pub struct Stopper {
    requests: Mailbox,
}

/// How a [`Server`] ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Clients that were open at the end.
    pub clients_cut: u64,
}

impl Stopper {
    /// Makes [`Server::run`] end: no client is accepted any more, and open ones have the time of [`Config::drain`]. A
    /// second call ends that time. What was read is delivered, within a second.
    pub fn stop(&self) {
        if self.requests.post(Request::Stop) {
            self.requests.post(Request::StopNow);
        }
    }
}

impl Server {
    /// In the log's bounds, what has not said yet from which device it is.
    const NO_DEVICE: usize = usize::MAX;

    /// Where the first device connects; the first address, if the name has several.
    #[cfg(test)]
    fn device_addr(&self) -> SocketAddr {
        self.device_addr_of(0)
    }

    /// Where this device connects.
    #[cfg(test)]
    fn device_addr_of(&self, device: usize) -> SocketAddr {
        let mut ports = self.device_ports.iter().map(|(_, port)| port);
        ports.find(|port| port.device == Some(device)).expect("a port").listener.address()
    }

    /// A way to end [`run`](Self::run).
    pub fn stopper(&self) -> Stopper {
        Stopper { requests: self.requests.clone() }
    }

    /// Serves until stopped.
    ///
    /// # Errors
    /// [`Error::System`] if the system's poll fails; nothing that a client or a device does ends it.
    pub fn run(mut self) -> Result<Outcome, Error> {
        let mut buffer = vec![0; LINK_BUFFER];
        while !self.requests.has(Request::Stop) {
            self.step(&mut buffer);
            self.wait(None)?;
        }
        self.finish(&mut buffer)
    }

    /// Clients on every link.
    fn clients(&self) -> u64 {
        self.totals.clients as u64
    }

    /// Moves bytes, carries out outputs, and keeps time, of those for which there is something to do.
    fn step(&mut self, buffer: &mut [u8]) {
        let now = Instant::now();
        self.do_tasks(now);
        self.recheck_admissions(now);
        self.take_decisions(now);
        self.begin_handshakes(now);
        self.accept_devices(now);
        self.visit_devices(now);
        self.visit_proxied(now);
        self.io.closing.handle_timeout(now, &mut self.io.event_loop);
        self.shortage.handle_timeout(now);
        self.log_limits.handle_timeout(now);
        self.end_long_drains(now);
        for _ in 0..self.sessions.begin_round(now) {
            if let Some(number) = self.sessions.next_visit() {
                self.visit(now, number, buffer);
            }
        }
    }

    fn visit(&mut self, now: Instant, number: usize, buffer: &mut [u8]) {
        let Some(peer) = self.sessions.get_mut(number) else { return };
        let mut busy = match peer.session.turn(now, &mut self.io, buffer) {
            Ok(busy) => busy,
            Err(reason) => {
                self.lose_link(now, number, &reason);
                false
            }
        };
        self.handle_proof_timeout(now, number);
        self.note_told(number);
        // Behind what was read, so that what came while the process was stopped counts.
        self.end_idle_clients(now, number);
        busy |= self.carry_out_all(now, number);
        if self.phase == Phase::Flushing && self.sessions.get(number).is_some_and(|peer| !peer.session.has_unsent()) {
            self.close_link(number);
            busy |= self.carry_out_all(now, number);
        }
        self.leave_if_going_away(now, number);
        self.forget_if_over(now, number);
        self.recount(number);
        self.bound_undelivered(now);
        if let Some(Peer { stage, device: Some(device), .. }) = self.sessions.get(number)
            && stage.is_retired()
        {
            self.bound_retired(now, *device);
        }
        self.wake_device(number);
        let timeout = self.sessions.get(number).and_then(Peer::poll_timeout);
        self.sessions.end_visit(number, busy, timeout);
    }

    /// Keeps the totals when something was done to a session: at once where a client may have gone, and at the latest at
    /// the end of the visit that follows.
    fn recount(&mut self, number: usize) {
        let Some(peer) = self.sessions.get_mut(number) else { return };
        let share = Share::of(peer);
        if share != peer.share {
            let old = std::mem::replace(&mut peer.share, share);
            self.count(number, &old, &share);
        }
    }

    /// A session adds this to the totals from here on, in place of what it did before.
    fn count(&mut self, number: usize, old: &Share, new: &Share) {
        self.totals.subtract(number, old);
        self.totals.add(number, new);
        if let Some(device) = old.device.and_then(|device| self.devices.get_mut(device)) {
            device.totals.subtract(number, old);
        }
        if let Some(device) = new.device.and_then(|device| self.devices.get_mut(device)) {
            device.totals.add(number, new);
        }
    }

    /// Takes the session out.
    fn remove(&mut self, number: usize) -> Option<Peer> {
        let mut peer = self.sessions.remove(number)?;
        self.count(number, &peer.share, &Share::default());
        self.release(peer.proof.as_mut().and_then(Proof::take_source));
        if let Some(device) = peer.device {
            self.forget_device_if_gone(device);
        }
        Some(peer)
    }

    /// Whether there is something to do without an event.
    fn is_busy(&self) -> bool {
        let has_handshakes = self.secured.as_ref().is_some_and(|secured| secured.handshakes.has_next());
        has_handshakes
            || self.sessions.has_ready()
            || self.devices.has_ready()
            || self.device_ports.has_ready()
            || self.proxied.has_ready()
    }

    fn wait(&mut self, deadline: Option<Instant>) -> Result<(), Error> {
        debug_assert!(self.is_consistent(), "something was done to a session without a visit");
        let now = Instant::now();
        let deadline = if self.is_busy() { Some(now) } else { self.next_deadline(deadline) };
        let poll_failed = |reason| Error::System { what: "cannot wait for events".into(), reason };
        self.io.event_loop.wait(deadline).map_err(poll_failed)?;
        let now = Instant::now();
        while let Some(event) = self.io.event_loop.next_ready() {
            match event.source {
                Source::Listener(place) => {
                    if let Some(listener) = self.listener_at(place) {
                        listener.handle_event();
                    }
                }
                Source::Link(number) => {
                    if let Some(peer) = self.sessions.get_mut(number) {
                        peer.session.handle_link_event(event);
                    }
                }
                Source::Stream(number, key) => {
                    let number = number as usize;
                    if let Some(peer) = self.sessions.get_mut(number) {
                        peer.session.handle_stream_event(now, &mut self.io, key, event);
                        // A client that is gone has given up its descriptor, for one that is accepted before the visit.
                        self.recount(number);
                    }
                }
                Source::Closing(place) => self.io.closing.handle_event(&mut self.io.event_loop, place),
                // To be borrowed puts it on the ready list.
                Source::Header(number) => drop(self.proxied.get_mut(number)),
                Source::Waker => {}
            }
        }
        Ok(())
    }

    fn listener_at(&mut self, place: usize) -> Option<&mut Listener> {
        match *self.places.get(place)? {
            Place::Devices(number) => self.device_ports.get_mut(number).map(|port| &mut port.listener),
            Place::Clients(device, number) => {
                self.devices.get_mut(device)?.listeners.get_mut(number).map(|(listener, _)| listener)
            }
            Place::Free => None,
        }
    }

    fn next_deadline(&mut self, own: Option<Instant>) -> Option<Instant> {
        let (sessions, closing) = (self.sessions.poll_timeout(), self.io.closing.poll_timeout());
        let (devices, ports) = (self.devices.poll_timeout(), self.device_ports.poll_timeout());
        let logs = [self.shortage.poll_timeout(), self.log_limits.poll_timeout()].into_iter().flatten().min();
        let all = [own, sessions, closing, devices, ports, self.proxied.poll_timeout(), logs, self.drains_until()];
        all.into_iter().flatten().min()
    }

    fn carry_out_all(&mut self, now: Instant, number: usize) -> bool {
        let mut some = false;
        while let Some(peer) = self.sessions.get_mut(number) {
            let output = peer.session.poll_output(now, &mut self.io);
            let Some(output) = output else { break };
            self.carry_out(now, number, output);
            some = true;
        }
        some
    }

    fn carry_out(&mut self, now: Instant, number: usize, output: Output) {
        let Some(peer) = self.sessions.get_mut(number) else { return };
        let (link, device) = (peer.address, peer.log_device());
        let connection = |peer: &Peer, stream| peer.clients.get(&stream).map(|client| client.connection);
        match output {
            Output::Listening => self.activate(now, number),
            Output::Presented => self.ask_registry(number),
            Output::Version(version) => {
                peer.session.share_windows(&self.windows);
                if self.log_limits.admit(now, device, Kind::Arrival) {
                    info!(%link, version, "the version of the protocol is agreed");
                }
                if matches!(peer.stage, Stage::Pending(_)) {
                    self.activate(now, number);
                }
            }
            Output::Introduced(software) => debug!(%link, %software, "the device has introduced itself"),
            Output::Opened { stream, client } => {
                debug!(connection = connection(peer, stream), stream = client, %link, "CONNECT is on its way");
            }
            Output::Connected { stream } => {
                debug!(connection = connection(peer, stream), %link, "a client's service is connected");
            }
            Output::Finish { stream } => self.log_client_end(now, number, stream, &Ending::FINISHED),
            Output::Reset { stream, reason } => self.log_client_end(now, number, stream, &Ending::from(reason)),
            Output::GoAway(go_away) => {
                if self.log_limits.admit(now, device, Kind::Departure) {
                    let reason = go_away.reason;
                    info!(%link, code = %go_away.code, %reason, "the device takes no new clients on this link");
                }
            }
            Output::Gone { stream } => {
                let failure = peer.session.traffic(stream).and_then(|traffic| traffic.failure.clone());
                let ending = Ending::from(failure.map_or((Code::Normal, String::new()), |failure| *failure));
                self.log_client_end(now, number, stream, &ending);
            }
            // The session has done it; and what only a device is asked for.
            Output::ShutdownWrite { .. }
            | Output::Connect { .. }
            | Output::Malformed { .. }
            | Output::EarlyDropped { .. } => {}
        }
    }
}

#[cfg(test)]
mod tests;
