//! How a server comes to its ports.

use std::collections::HashMap;
use std::io;
use std::time::Instant;

use tracing::info;

use super::device::{ClientPort, Device};
use super::links::DevicePort;
use super::log_limits::LogLimits;
use super::ports::{self, Wanted};
use super::reload::Controller;
use super::secured::Secured;
use super::totals::Totals;
use super::{Phase, Place, Server};
use crate::Error;
use crate::address::Address;
use crate::connection::WindowPool;
use crate::io::Io;
use crate::io::event_loop::EventLoop;
use crate::io::mailbox::Mailbox;
use crate::io::table::Table;
use crate::relay::descriptors::{Descriptors, Shortage};
use crate::relay::listener::{hold, resolve, take_or_hold};
use crate::relay::{Config, Inherited, TlsPort, limits};

impl Server {
    /// Opens the port of each device, and holds every client port, which opens when its device is there.
    ///
    /// # Errors
    /// Those of [`hold`](Self::hold) and [`open`](Self::open).
    pub fn bind(config: Config) -> Result<Self, Error> {
        let mut server = Self::hold(config, Inherited::default())?;
        server.open()?;
        Ok(server)
    }

    /// Has every port, so that no other program can take it, and refuses whoever connects. Sockets that systemd holds may be
    /// among the ports of devices.
    ///
    /// # Errors
    /// [`Error::Usage`] of [`Config::check`], or if one of the sockets is at no address of a port of devices;
    /// [`Error::System`] with the address that cannot be bound, and the reason, or if the process may not have enough
    /// descriptors to serve a client.
    pub fn hold(config: Config, mut inherited: Inherited) -> Result<Self, Error> {
        config.check()?;
        let now = Instant::now();
        let loop_failed = |reason| Error::System { what: "cannot make the event loop".into(), reason };
        let event_loop = EventLoop::new().map_err(loop_failed)?;
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
        inherited.check(addresses.iter().flat_map(|(of_device, _)| of_device).chain(&of_tls))?;
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
                let held = take_or_hold(of_device, places.len(), &mut inherited);
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
            let held = take_or_hold(&of_tls, places.len(), &mut inherited);
            for listener in held.map_err(|reason| cannot_listen("devices in TLS", listen, reason))? {
                let number = device_ports.reserve();
                device_ports.insert(number, DevicePort { listener, device: None });
                places.push(Place::Devices(number));
            }
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
            most_undelivered: limits::UNDELIVERED_OF_ALL,
            phase: Phase::Serving,
            served: 0,
            waiting: 0,
            connections: 0,
            descriptors,
            shortage: Shortage::default(),
            log_limits: LogLimits::new(now),
        })
    }

    /// Lets devices connect, and logs where: the last step of a start, when nothing else can fail any more.
    ///
    /// # Errors
    /// [`Error::System`] with the address, if the system refuses it.
    pub fn open(&mut self) -> Result<(), Error> {
        for number in self.device_ports.numbers() {
            let Some(DevicePort { listener, .. }) = self.device_ports.get_mut(number) else { continue };
            let at = listener.address();
            let what = || format!("cannot listen for the device at {at}");
            listener.listen(&mut self.io.event_loop).map_err(|reason| Error::System { what: what(), reason })?;
        }
        self.announce(|_| true);
        Ok(())
    }

    /// Logs that devices may connect to these of their ports.
    pub(super) fn announce(&self, is_meant: impl Fn(&DevicePort) -> bool) {
        for (_, DevicePort { listener, .. }) in self.device_ports.iter().filter(|(_, port)| is_meant(port)) {
            info!(at = %listener.address(), "waiting for a device");
        }
    }
}

pub(super) fn cannot_listen(whom: &str, address: &Address, reason: io::Error) -> Error {
    Error::System { what: format!("cannot listen for {whom} at {address}"), reason }
}
