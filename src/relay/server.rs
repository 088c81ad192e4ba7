//! The mio driver of the relay's cores: devices, their ports and those of their clients, and the links between.

mod admission;
mod client_log;
mod clients;
mod device;
mod handshakes;
mod links;
mod log_limits;
mod ports;
mod proxied;
mod reload;
mod secured;
mod shares;
mod stray;
mod totals;

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::SocketAddr;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use client_log::{Client, Ending};
use device::{ClientPort, Device};
use links::DevicePort;
use log_limits::{Kind, LogLimits};
use ports::Wanted;
use proxied::Proxied;
use reload::Task;
pub use reload::{Controller, DeviceStatus, LinkStatus};
use secured::{Proof, Secured};
use totals::{Share, Totals};
use tracing::{debug, info};

use super::Config;
use super::descriptors::{Descriptors, Shortage};
use super::listener::{Listener, hold, resolve};
use super::{TlsPort, limits};
use crate::Error;
use crate::address::Address;
use crate::connection::relay::Relay;
use crate::connection::{Output, Reset, StreamKey, WindowPool};
use crate::identity::Name;
use crate::io::Io;
use crate::io::event_loop::{EventLoop, Source};
use crate::io::mailbox::{Mailbox, Request};
use crate::io::session::{LINK_BUFFER, Session};
use crate::io::table::Table;
use crate::protocol::v2::Code;

/// How long the last bytes may take once the relay is to end.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);
/// Seconds after which a device may come back when the relay ends: the time that a restart takes.
const RETRY_AFTER: u16 = 1;

/// A relay that is bound and ready to [`run`](Self::run).
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

#[derive(Debug)]
struct Peer {
    session: Session<Relay>,
    address: SocketAddr,
    /// The device that the port is for by which it came; none, if it is for all that are in TLS.
    port_device: Option<usize>,
    /// The device that it is from, once that is decided.
    device: Option<usize>,
    clients: BTreeMap<StreamKey, Client>,
    /// When clients that move nothing are looked for, where there is a limit for them.
    look_for_idle_at: Option<Instant>,
    stage: Stage,
    /// What is known of one in TLS.
    proof: Option<Proof>,
    /// What it has added to the totals.
    share: Share,
}

/// How far a link is, and since when where that matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// It was accepted, and has not said yet what it is.
    Pending(Instant),
    /// The same in TLS.
    Handshake(Instant),
    /// Its device is served on it, or was until now.
    InUse,
    /// It takes no new clients.
    Draining(Instant),
    /// It is gone, and only what is left is delivered.
    Lost(Instant),
}

impl Peer {
    /// The device whose lines in the log it takes.
    fn log_device(&self) -> usize {
        self.device.or(self.port_device).unwrap_or(Server::NO_DEVICE)
    }

    /// Whether a byte has come, or in TLS a whole message.
    fn has_input(&self) -> bool {
        if self.proof.is_some() { self.session.has_hello() } else { self.session.connection().has_input() }
    }

    /// When it is to be visited though nothing has happened.
    fn poll_timeout(&self) -> Option<Instant> {
        let proof = self.proof.as_ref().and_then(Proof::poll_timeout);
        let all = [self.session.poll_timeout(), self.look_for_idle_at, proof];
        all.into_iter().flatten().min()
    }
}

impl Stage {
    /// Whether it is for no new clients any more.
    fn is_retired(self) -> bool {
        matches!(self, Self::Draining(_) | Self::Lost(_))
    }
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

    /// Opens the port of each device, and holds every client port, which opens when its device is there.
    ///
    /// # Errors
    /// [`Error::Usage`] of [`Config::check`]; [`Error::System`] with the address that cannot be bound, and the reason, or if
    /// the process may not have enough descriptors to serve a client.
    pub fn bind(config: Config) -> Result<Self, Error> {
        config.check()?;
        let now = Instant::now();
        let loop_failed = |reason| Error::System { what: "cannot make the event loop".into(), reason };
        let mut event_loop = EventLoop::new().map_err(loop_failed)?;
        // Names are resolved before any port is held, since that may take its time.
        let (wanted, mut addresses) = (ports::wanted(&config), Vec::new());
        for Wanted { listen, ports, .. } in &wanted {
            let of_device = listen.map_or(Ok(Vec::new()), |listen| {
                resolve(listen).map_err(|reason| cannot_listen("the device", listen, reason))
            })?;
            let of_clients = ports
                .iter()
                .map(|(client, _)| resolve(client).map_err(|reason| cannot_listen("clients", client, reason)));
            addresses.push((of_device, of_clients.collect::<Result<Vec<_>, _>>()?));
        }
        let ports = addresses
            .iter()
            .map(|(of_device, of_clients)| of_device.len() + of_clients.iter().map(Vec::len).sum::<usize>());
        let of_tls = match &config.tls {
            Some(TlsPort { listen, .. }) => {
                resolve(listen).map_err(|reason| cannot_listen("devices in TLS", listen, reason))?
            }
            None => Vec::new(),
        };
        let clients = (config.clients as usize).saturating_mul(wanted.len());
        let ports = ports.sum::<usize>() + of_tls.len();
        let descriptors = Descriptors::of_process(ports, wanted.len(), config.tls.is_some(), clients)?;

        let (mut device_ports, mut devices, mut places) = (Table::default(), Table::default(), Vec::new());
        let mut names = HashMap::new();
        for (Wanted { name, listen, ports: client_ports }, (of_device, of_clients)) in
            wanted.into_iter().zip(&addresses)
        {
            let device = devices.reserve();
            if let Some(listen) = listen {
                let held = hold(of_device, places.len());
                for listener in held.map_err(|reason| cannot_listen("the device", listen, reason))? {
                    let number = device_ports.reserve();
                    device_ports.insert(number, DevicePort { listener, device: Some(device) });
                    places.push(Place::Devices(number));
                }
            }
            let (mut listeners, mut ports) = (Table::default(), Vec::new());
            for (port, ((client, service), of_port)) in client_ports.into_iter().zip(of_clients).enumerate() {
                let held = hold(of_port, places.len());
                for listener in held.map_err(|reason| cannot_listen("clients", client, reason))? {
                    // They only hasten what is done without them.
                    let _ = listener.tune();
                    let number = listeners.reserve();
                    listeners.insert(number, (listener, port));
                    places.push(Place::Clients(device, number));
                }
                ports.push(ClientPort::new(client.clone(), service));
            }
            if let (Some(name), None) = (name, listen) {
                names.insert(name.clone(), device);
            }
            let mut known = Device::new(name.cloned(), listen.cloned(), listeners, ports);
            // Through a load balancer beside the relay they come from anywhere.
            known.is_local &= config.proxy_protocol_from.is_empty();
            devices.insert(device, known);
        }
        if let Some(TlsPort { listen, .. }) = &config.tls {
            let held = hold(&of_tls, places.len());
            for listener in held.map_err(|reason| cannot_listen("devices in TLS", listen, reason))? {
                let number = device_ports.reserve();
                device_ports.insert(number, DevicePort { listener, device: None });
                places.push(Place::Devices(number));
            }
        }
        for number in device_ports.numbers() {
            let Some(DevicePort { listener, device }) = device_ports.get_mut(number) else { continue };
            let plain = device.map(|device| &config.devices[device].listen);
            let Some(listen) = plain.or_else(|| config.tls.as_ref().map(|port| &port.listen)) else { continue };
            listener.listen(&mut event_loop).map_err(|reason| cannot_listen("the device", listen, reason))?;
            info!(at = %listener.address(), "waiting for a device");
        }
        let requests = Mailbox::new(event_loop.waker());
        let (controller, tasks) = Controller::new(requests.clone());
        let secured = config.tls.clone().map(|port| Secured::new(port, requests.clone())).transpose();
        let secured = secured.map_err(|error| Error::System {
            what: "cannot make the end of TLS".into(),
            reason: io::Error::other(error.to_string()),
        })?;
        Ok(Self {
            config,
            requests,
            tasks,
            controller,
            names,
            secured,
            io: Io::new(event_loop),
            device_ports,
            places,
            devices,
            sessions: Table::default(),
            proxied: Table::default(),
            totals: Totals::default(),
            windows: WindowPool::new(limits::WINDOWS_OF_ALL),
            phase: Phase::Serving,
            served: 0,
            waiting: 0,
            connections: 0,
            descriptors,
            shortage: Shortage::default(),
            log_limits: LogLimits::new(now),
        })
    }

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

    fn finish(mut self, buffer: &mut [u8]) -> Result<Outcome, Error> {
        self.phase = Phase::Draining;
        self.close_ports(Instant::now());
        self.drop_all_proxied();
        self.drop_pending(Instant::now());
        self.drain(buffer)?;
        let now = Instant::now();
        let clients_cut = self.clients();
        for number in self.sessions.numbers() {
            if let Some(peer) = self.sessions.get_mut(number) {
                peer.session.close_idle_link(now, &mut self.io);
                peer.session.close(now);
            }
        }
        self.phase = Phase::Flushing;
        let deadline = now + FLUSH_TIMEOUT;
        while Instant::now() < deadline {
            self.step(buffer);
            if self.sessions.is_empty() && self.io.closing.len() == 0 {
                break;
            }
            self.wait(Some(deadline))?;
        }
        for number in self.sessions.numbers() {
            self.cut(Instant::now(), number, Code::Shutdown, "the relay has ended");
        }
        self.log_limits.finish();
        Ok(Outcome { clients_cut })
    }

    /// Gives every port back.
    fn close_ports(&mut self, now: Instant) {
        for device in self.devices.numbers() {
            self.close_client_ports(now, device, &Reset::Shutdown.into());
            self.serve(device, None);
            if let Some(device) = self.devices.get_mut(device) {
                device.listeners = Table::default();
            }
        }
        for number in self.device_ports.numbers() {
            // It is closed right after.
            if let Some(DevicePort { mut listener, .. }) = self.device_ports.remove(number) {
                let _ = listener.stop(&mut self.io.event_loop);
            }
        }
    }

    /// Accepts no new clients, and sends devices GOAWAY; until the last client is gone, the time is up, or
    /// [`Stopper::stop`] is called again.
    fn drain(&mut self, buffer: &mut [u8]) -> Result<(), Error> {
        let now = Instant::now();
        let deadline = now + self.config.drain;
        for number in self.sessions.numbers() {
            if let Some(peer) = self.sessions.get_mut(number) {
                peer.session.go_away(now, Code::Shutdown, RETRY_AFTER, "the relay is about to end");
            }
            self.recount(number);
        }
        if self.clients() == 0 || self.config.drain.is_zero() {
            return Ok(());
        }
        info!(clients = self.clients(), seconds = self.config.drain.as_secs_f64(), "waiting for clients to end");
        loop {
            self.step(buffer);
            // Before it waits: a session that was over in its visit is not visited again.
            if Instant::now() >= deadline || self.clients() == 0 || self.requests.has(Request::StopNow) {
                return Ok(());
            }
            self.wait(Some(deadline))?;
        }
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

    /// Whether nothing was forgotten, which would show only when something else happens. For assertions: it looks at
    /// everything.
    fn is_consistent(&self) -> bool {
        let (mut totals, mut by_device) = (Totals::default(), BTreeMap::new());
        for (number, Peer { share, .. }) in self.sessions.iter() {
            totals.add(number, share);
            if let Some(device) = share.device {
                by_device.entry(device).or_insert_with(Totals::default).add(number, share);
            }
        }
        let mut devices = self.devices.iter();
        let none = Totals::default();
        self.sessions.is_armed(Peer::poll_timeout)
            && self.sessions.idle().all(|(_, peer)| peer.share == Share::of(peer))
            && self.device_ports.is_armed(|port| port.listener.paused_until())
            && self.proxied.is_armed(|proxied| Some(proxied.deadline))
            && self.totals == totals
            && devices.all(|(number, device)| &device.totals == by_device.get(&number).unwrap_or(&none))
            && self.devices.iter().map(|(_, device)| device.waiting.len()).sum::<usize>() == self.waiting
            && self.devices.iter().filter(|(_, device)| device.active.is_some()).count() == self.served
            && self.devices.iter().all(|(number, device)| self.is_served_by_own(number, device))
            && self.devices.idle().all(|(_, device)| self.rests(device))
            && self.devices.is_armed(|device| device.poll_timeout(self.takes_clients(device)))
    }

    /// Whether the link on which a device is served, if there is one, is that device's.
    fn is_served_by_own(&self, number: usize, device: &Device) -> bool {
        device.active.is_none_or(|link| self.sessions.get(link).and_then(|peer| peer.device) == Some(number))
    }

    /// Whether a device that is on no list has nothing to do.
    fn rests(&self, device: &Device) -> bool {
        let has_next = |number| device.next_waiting(&self.shares(number)).is_some();
        let can_serve = !device.waiting.is_empty() && device.active.is_some_and(has_next);
        let listeners = &device.listeners;
        !self.takes_clients(device)
            || !can_serve && !listeners.has_ready() && listeners.is_armed(|(listener, _)| listener.paused_until())
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
                let ending = Ending::from(failure.unwrap_or((Code::Normal, String::new())));
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

fn cannot_listen(whom: &str, address: &Address, reason: io::Error) -> Error {
    Error::System { what: format!("cannot listen for {whom} at {address}"), reason }
}

#[cfg(test)]
mod tests;
