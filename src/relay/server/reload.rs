//! What other threads ask of a running server beside its end: another configuration, and what is there.
//!
//! Names are resolved and ports are bound by the thread that asks; the loop only puts them in their place.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::{error, info};

use super::client_log::Ending;
use super::device::{ClientPort, Device};
use super::links::DevicePort;
use super::ports::{PortService, Wanted, wanted};
use super::{Place, Server, cannot_listen};
use crate::Error;
use crate::address::Address;
use crate::connection::Connection;
use crate::identity::Name;
use crate::io::mailbox::{Mailbox, Request};
use crate::io::table::Table;
use crate::protocol::v2::Code;
use crate::relay::config::overlap;
use crate::relay::descriptors::Descriptors;
use crate::relay::listener::{Listener, hold, resolve};
use crate::relay::{Config, PlainDevice};

/// Tasks that may wait.
const QUEUE: usize = 16;
/// How long the loop may take for one.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Asks a running [`Server`] from another thread.
#[derive(Clone, Debug)]
pub struct Controller {
    requests: Mailbox,
    tasks: SyncSender<Task>,
}

/// What the loop is asked for. It answers without waiting, since each answer has a place.
#[derive(Debug)]
pub(super) enum Task {
    /// To go on with another configuration.
    Reconfigure(Arc<Change>, SyncSender<Result<(), Error>>),
    /// To say which devices there are.
    Devices(SyncSender<Vec<DeviceStatus>>),
    /// To show that the loop turns.
    Turn(SyncSender<()>),
}

/// Another configuration, and listeners for what is new in it: for the loop, or for the thread that asked and takes it back.
/// Who takes it first has it, so that what was reported as not done is never done later.
#[derive(Debug)]
pub(super) struct Change(Mutex<Option<(Config, Spare)>>);

impl Change {
    /// The lock is held for no longer than this.
    fn take(&self) -> Option<(Config, Spare)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// A device of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceStatus {
    /// Where it connects, if that is a port of its own.
    pub listen: Option<Address>,
    /// Its name in the registry, if it has a key.
    pub name: Option<Name>,
    /// The link on which it is served, if it is there.
    pub link: Option<LinkStatus>,
}

/// A link on which a device is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkStatus {
    /// Where it comes from.
    pub address: SocketAddr,
    /// Its round trip, once it is known.
    pub round_trip: Option<Duration>,
    /// Clients on it.
    pub clients: usize,
}

/// Listeners that are held and do not listen, by the address that they are for.
type Spare = HashMap<Address, Vec<Vec<Listener>>>;

impl Controller {
    pub(super) fn new(requests: Mailbox) -> (Self, Receiver<Task>) {
        let (tasks, receiver) = sync_channel(QUEUE);
        (Self { requests, tasks }, receiver)
    }

    /// Has the server go on with the configuration `new`, where it has `old` now. Devices and ports that are in both are
    /// not touched. Its port for TLS stays as it is.
    ///
    /// # Errors
    /// A port that is new cannot be opened, there are too few descriptors, or the loop does not turn. All is as it was
    /// then, and stays so.
    pub fn reconfigure(&self, old: &Config, new: Config) -> Result<(), Error> {
        self.reconfigure_within(TIMEOUT, old, new)
    }

    pub(super) fn reconfigure_within(&self, within: Duration, old: &Config, new: Config) -> Result<(), Error> {
        new.check()?;
        let fresh = hold_fresh(old, &new)?;
        let change = Arc::new(Change(Mutex::new(Some((new, fresh)))));
        let (answer, result) = sync_channel(1);
        match self.submit(Task::Reconfigure(Arc::clone(&change), answer)).and_then(|()| result.recv_timeout(within)) {
            Ok(done) => done,
            Err(RecvTimeoutError::Timeout) if change.take().is_some() => {
                let what = format!(
                    "the relay's loop did not take the configuration within {} s, so it was taken back; try again",
                    within.as_secs_f64()
                );
                Err(Error::System { what, reason: std::io::ErrorKind::TimedOut.into() })
            }
            // The loop has it in hand, where nothing waits, or it has ended.
            Err(_) => result.recv().unwrap_or_else(|_| Err(is_ending())),
        }
    }

    /// The devices of the server; none if it does not answer.
    pub fn devices(&self) -> Vec<DeviceStatus> {
        self.ask(TIMEOUT, Task::Devices).unwrap_or_default()
    }

    /// Whether the loop turns within this time; `None` if the server has ended.
    pub fn is_alive(&self, within: Duration) -> Option<bool> {
        match self.ask(within, Task::Turn) {
            Ok(()) => Some(true),
            Err(RecvTimeoutError::Timeout) => Some(false),
            Err(RecvTimeoutError::Disconnected) => None,
        }
    }

    fn ask<T>(&self, within: Duration, task: impl FnOnce(SyncSender<T>) -> Task) -> Result<T, RecvTimeoutError> {
        let (answer, result) = sync_channel(1);
        self.submit(task(answer))?;
        result.recv_timeout(within)
    }

    fn submit(&self, task: Task) -> Result<(), RecvTimeoutError> {
        self.tasks.try_send(task).map_err(|error| match error {
            std::sync::mpsc::TrySendError::Full(_) => RecvTimeoutError::Timeout,
            std::sync::mpsc::TrySendError::Disconnected(_) => RecvTimeoutError::Disconnected,
        })?;
        self.requests.post(Request::Task);
        Ok(())
    }
}

/// Every address to listen at.
fn addresses(config: &Config) -> impl Iterator<Item = &Address> {
    let of_devices = config.devices.iter().flat_map(|PlainDevice { listen, mappings, .. }| {
        [listen].into_iter().chain(mappings.iter().map(|mapping| &mapping.client))
    });
    of_devices.chain(config.ports.iter().map(|port| &port.listen))
}

/// Holds the addresses at which only the new configuration listens.
fn hold_fresh(old: &Config, new: &Config) -> Result<Spare, Error> {
    let mut held: HashMap<&Address, usize> = HashMap::new();
    for address in addresses(old) {
        *held.entry(address).or_default() += 1;
    }
    let mut fresh = Spare::new();
    for address in addresses(new) {
        match held.get_mut(address) {
            Some(count) if *count > 0 => *count -= 1,
            _ => {
                let listeners = resolve(address).and_then(|resolved| hold(&resolved, 0));
                let listeners = listeners.map_err(|reason| cannot_open(address, old, reason))?;
                fresh.entry(address.clone()).or_default().push(listeners);
            }
        }
    }
    Ok(fresh)
}

/// Why a port cannot be opened that only the new configuration has, where that of the old is still open.
fn cannot_open(address: &Address, old: &Config, reason: std::io::Error) -> Error {
    let of_tls = old.tls.iter().map(|port| &port.listen);
    let overlapping = addresses(old).chain(of_tls).find(|other| overlap(other, address));
    match overlapping.filter(|_| reason.kind() == std::io::ErrorKind::AddrInUse) {
        Some(other) => {
            let what = format!(
                "cannot listen at {address} while {other} is open, which is the same port; restart the relay, or take {other} \
                 out, reload, put {address} in, and reload again"
            );
            Error::System { what, reason }
        }
        None => cannot_listen("a new port", address, reason),
    }
}

impl Server {
    /// A way to change and to ask the server while it runs.
    pub fn controller(&self) -> Controller {
        self.controller.clone()
    }

    /// Does what other threads ask for.
    pub(super) fn do_tasks(&mut self, now: Instant) {
        if !self.requests.take(Request::Task) {
            return;
        }
        while let Ok(task) = self.tasks.try_recv() {
            match task {
                Task::Reconfigure(change, answer) => {
                    if let Some((config, fresh)) = change.take() {
                        let _ = answer.try_send(self.reconfigure(now, config, fresh));
                    }
                }
                Task::Devices(answer) => {
                    let _ = answer.try_send(self.devices.iter().map(|(_, device)| self.status(device)).collect());
                }
                Task::Turn(answer) => {
                    let _ = answer.try_send(());
                }
            }
        }
    }

    fn status(&self, device: &Device) -> DeviceStatus {
        let peer = device.active.and_then(|link| self.sessions.get(link));
        let link = peer.map(|peer| {
            let connection = peer.session.connection();
            let round_trip = connection.counters().round_trip;
            LinkStatus { address: peer.address, round_trip, clients: connection.clients() }
        });
        DeviceStatus { listen: device.listen.clone(), name: device.name.clone(), link }
    }

    /// Whatever can fail is done before anything is closed.
    pub(super) fn reconfigure(&mut self, now: Instant, config: Config, mut spare: Spare) -> Result<(), Error> {
        if self.is_ending() {
            return Err(is_ending());
        }
        let devices = wanted(&config);
        let clients = (config.clients as usize).saturating_mul(devices.len());
        let (ports, has_tls) = (addresses(&config).count(), self.secured.is_some());
        let ports = ports + self.device_ports.iter().filter(|(_, port)| port.device.is_none()).count();
        let descriptors = Descriptors::of_process(ports, devices.len(), has_tls, clients)?;
        let (mut kept, mut gone) = (Vec::new(), self.devices.numbers());
        for wanted in &devices {
            let is_it = |number: &usize| self.devices.get(*number).is_some_and(|device| wanted.is(device));
            kept.push(gone.iter().position(is_it).map(|at| gone.remove(at)));
        }
        self.check_inherited(&gone)?;
        self.add_devices(&devices, &mut kept, &mut spare)?;
        self.descriptors = descriptors;
        for number in gone {
            if self.devices.get(number).is_some_and(|device| device.listen.is_some()) {
                self.remove_device(now, number, &mut spare);
            } else {
                // Those that come by the port for TLS are as the registry has them.
                self.close_unwanted_ports(number, &[], &mut spare);
                self.forget_device_if_gone(number);
            }
        }
        self.config.proxy_protocol_from.clone_from(&config.proxy_protocol_from);
        // Before any port is opened: one may go from one device to another.
        for (number, Wanted { ports, .. }) in kept.iter().zip(&devices) {
            if let Some(number) = number {
                self.close_unwanted_ports(*number, ports, &mut spare);
            }
        }
        for (number, Wanted { name, listen, ports }) in kept.into_iter().zip(devices) {
            let number = match (number, listen, name) {
                (Some(number), ..) => number,
                // At an address that was for something else until now.
                (None, Some(listen), _) => match self.add_device(name, listen, &mut spare) {
                    Ok(number) => {
                        self.announce(|port| port.device == Some(number));
                        number
                    }
                    Err(error) => {
                        error!("{error}; restart the relay to open that port");
                        continue;
                    }
                },
                (None, None, Some(name)) => self.named(name),
                (None, None, None) => continue,
            };
            if let (Some(_), Some(device)) = (listen, self.devices.get_mut(number)) {
                device.name = name.cloned();
            }
            self.add_ports(now, number, ports, &mut spare);
        }
        self.config = Config { tls: self.config.tls.take(), ..config };
        Ok(())
    }

    /// A port that systemd holds cannot go: a device that connects there would wait for ever, and the relay could not have it back.
    fn check_inherited(&self, gone: &[usize]) -> Result<(), Error> {
        let is_gone = |port: &DevicePort| port.device.is_some_and(|number| gone.contains(&number));
        let held = self.device_ports.iter().find(|(_, port)| is_gone(port) && port.listener.is_inherited());
        let Some((_, DevicePort { listener, .. })) = held else { return Ok(()) };
        Err(Error::Usage(format!(
            "systemd holds {at}, which the new configuration has no more; change tcp-remote-relay.socket as well, run: systemctl \
             daemon-reload, and restart the socket and the relay",
            at = listener.address()
        )))
    }

    /// The device is not served any more, nor are its clients.
    fn remove_device(&mut self, now: Instant, number: usize, spare: &mut Spare) {
        let reason = "the relay's configuration has this device no more";
        self.close_client_ports(now, number, &Ending::new(Code::Shutdown, reason));
        self.serve(number, None);
        self.close_unwanted_ports(number, &[], spare);
        self.drop_proxied_of(number, None);
        for place in self.device_ports.numbers() {
            if self.device_ports.get(place).is_some_and(|port| port.device == Some(number))
                && let Some(DevicePort { listener, .. }) = self.device_ports.remove(place)
                && let Some(listen) = self.devices.get(number).and_then(|device| device.listen.clone())
            {
                self.put_aside(listen, listener, spare);
            }
        }
        for session in self.sessions.numbers() {
            if let Some(peer) = self.sessions.get_mut(session)
                && peer.log_device() == number
            {
                peer.session.go_away(now, Code::Shutdown, 0, reason);
                self.cut(now, session, Code::Shutdown, reason);
            }
        }
        if let Some(Device { listen: Some(listen), .. }) = self.devices.remove(number) {
            info!(at = %listen, "a device was taken out of the configuration");
        }
    }

    /// Closes client ports at addresses that the device has no more. Clients that came by them go on.
    fn close_unwanted_ports(&mut self, number: usize, wanted: &[(&Address, PortService)], spare: &mut Spare) {
        let Some(device) = self.devices.get_mut(number) else { return };
        let mut closed = Vec::new();
        // Several ports may be of one address, which has port 0 then.
        let mut left: Vec<&Address> = wanted.iter().map(|&(client, _)| client).collect();
        for port in 0..device.ports.len() {
            let ClientPort { client, is_open, .. } = &mut device.ports[port];
            if !*is_open {
                continue;
            }
            if let Some(at) = left.iter().position(|address| *address == client) {
                left.remove(at);
                continue;
            }
            *is_open = false;
            let client = client.clone();
            for place in device.listeners.numbers() {
                if device.listeners.get(place).is_some_and(|&(_, of)| of == port)
                    && let Some((listener, _)) = device.listeners.remove(place)
                {
                    closed.push((port, client.clone(), listener));
                }
            }
        }
        for (port, client, listener) in closed {
            self.drop_proxied_of(number, Some(port));
            info!(at = %listener.address(), "a client port was taken out of the configuration");
            self.put_aside(client, listener, spare);
        }
    }

    /// A listener is not wanted where it was; its port stays held, for another use perhaps.
    fn put_aside(&mut self, address: Address, mut listener: Listener, spare: &mut Spare) {
        self.places[listener.place()] = Place::Free;
        // One that cannot be stopped is closed.
        if listener.stop(&mut self.io.event_loop).is_ok() {
            let all = spare.entry(address).or_default();
            match all.first_mut() {
                Some(listeners) => listeners.push(listener),
                None => all.push(vec![listener]),
            }
        }
    }

    /// Has all devices that are new listen at addresses that are new; or none of them.
    fn add_devices(
        &mut self,
        wanted: &[Wanted<'_>],
        numbers: &mut [Option<usize>],
        spare: &mut Spare,
    ) -> Result<(), Error> {
        let mut added = Vec::new();
        for (number, Wanted { name, listen, .. }) in numbers.iter_mut().zip(wanted) {
            let (None, Some(listen)) = (*number, *listen) else { continue };
            if !spare.contains_key(listen) {
                continue;
            }
            match self.add_device(*name, listen, spare) {
                Ok(new) => {
                    *number = Some(new);
                    added.push(new);
                }
                Err(error) => {
                    added.into_iter().for_each(|new| self.take_back(new));
                    return Err(error);
                }
            }
        }
        self.announce(|port| port.device.is_some_and(|device| added.contains(&device)));
        Ok(())
    }

    /// A device that was added is not to be there after all.
    fn take_back(&mut self, number: usize) {
        for port in self.device_ports.numbers() {
            if let Some(DevicePort { listener, device }) = self.device_ports.get(port)
                && *device == Some(number)
            {
                self.places[listener.place()] = Place::Free;
                self.device_ports.remove(port);
            }
        }
        self.devices.remove(number);
    }

    fn add_device(&mut self, name: Option<&Name>, listen: &Address, spare: &mut Spare) -> Result<usize, Error> {
        let number = self.devices.reserve();
        for mut listener in take(spare, listen) {
            let port = self.device_ports.reserve();
            listener.set_place(self.free_place(Place::Devices(port)));
            if let Err(reason) = listener.listen(&mut self.io.event_loop) {
                self.places[listener.place()] = Place::Free;
                self.device_ports.remove(port);
                // Those that listen already are of this device, too, and its number will be another's.
                self.take_back(number);
                return Err(cannot_listen("the device", listen, reason));
            }
            self.device_ports.insert(port, DevicePort { listener, device: Some(number) });
        }
        self.devices.insert(number, Device::new(name.cloned(), Some(listen.clone()), Table::default(), Vec::new()));
        Ok(number)
    }

    /// Gives the device the client ports that it does not have yet, and each its service.
    fn add_ports(&mut self, now: Instant, number: usize, wanted: Vec<(&Address, PortService)>, spare: &mut Spare) {
        let Some(device) = self.devices.get(number) else { return };
        let mut has: Vec<usize> = (0..device.ports.len()).filter(|&port| device.ports[port].is_open).collect();
        for (client, service) in wanted {
            let Some(device) = self.devices.get_mut(number) else { return };
            if let Some(at) = has.iter().position(|&port| device.ports[port].client == *client) {
                // Clients that are open stay with the service that they have.
                device.ports[has.remove(at)].set_service(service);
                continue;
            }
            let port = device.free_port(ClientPort::new(client.clone(), service));
            for mut listener in take(spare, client) {
                // It only hastens what is done without it.
                let _ = listener.tune();
                let Some(device) = self.devices.get_mut(number) else { return };
                let place = device.listeners.reserve();
                listener.set_place(self.free_place(Place::Clients(number, place)));
                if let Some(device) = self.devices.get_mut(number) {
                    device.listeners.insert(place, (listener, port));
                }
            }
        }
        let is_direct = self.config.proxy_protocol_from.is_empty();
        let Some(device) = self.devices.get_mut(number) else { return };
        device.look_whether_local();
        // Through a load balancer beside the relay they come from anywhere.
        device.is_local &= is_direct;
        if device.active.is_some() {
            self.open_client_ports(now, number);
        }
    }

    /// A place for a listener's events.
    fn free_place(&mut self, what: Place) -> usize {
        let free = self.places.iter().position(|place| matches!(place, Place::Free));
        let place = free.unwrap_or(self.places.len());
        if place == self.places.len() {
            self.places.push(what);
        } else {
            self.places[place] = what;
        }
        place
    }
}

fn is_ending() -> Error {
    Error::System { what: "the relay is about to end".into(), reason: std::io::ErrorKind::Interrupted.into() }
}

fn take(spare: &mut Spare, address: &Address) -> Vec<Listener> {
    spare.get_mut(address).and_then(Vec::pop).unwrap_or_default()
}
