//! Which device a link is from, and whether that is served: decided once, when the link has said what it is.

use std::borrow::Cow;
use std::time::Instant;

use tracing::field::display;
use tracing::{info, warn};

use super::device::Device;
use super::log_limits::Kind;
use super::totals::Totals;
use super::{Peer, Server, Stage};
use crate::identity::Name;
use crate::io::table::Table;
use crate::protocol::v2::Code;

/// Seconds after which a device may come back for which there was no place.
const RETRY_AFTER: u16 = 60;

/// Why a link is not served, as its device reads it where its version has words for that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    code: Code,
    /// Seconds after which the device may come back.
    retry_after: u16,
    reason: Cow<'static, str>,
}

impl Refusal {
    pub(super) fn new(code: Code, retry_after: u16, reason: impl Into<Cow<'static, str>>) -> Self {
        Self { code, retry_after, reason: reason.into() }
    }
}

impl Server {
    /// The device that the link is from. A plain link is from the device of the port that it came by.
    fn admit(&self, peer: &Peer) -> Result<usize, Refusal> {
        let Some(device) = peer.port_device else {
            return Err(Refusal::new(Code::Internal, RETRY_AFTER, "the port is for no device"));
        };
        self.has_place_for(device).map(|()| device)
    }

    /// Whether one more device may be served, if this one is not yet.
    pub(super) fn has_place_for(&self, device: usize) -> Result<(), Refusal> {
        let is_there = self.devices.get(device).is_some_and(|device| device.active.is_some());
        if !is_there && self.served >= self.descriptors.devices {
            return Err(Refusal::new(Code::Overload, RETRY_AFTER, "the relay has no place for more devices"));
        }
        Ok(())
    }

    /// The number of the device of that name. One that has no ports is there while it has a link.
    pub(super) fn named(&mut self, name: &Name) -> usize {
        if let Some(&number) = self.names.get(name) {
            return number;
        }
        let number = self.devices.reserve();
        self.devices.insert(number, Device::new(Some(name.clone()), None, Table::default(), Vec::new()));
        self.names.insert(name.clone(), number);
        number
    }

    /// A device that has no ports, nor any link any more, is not kept.
    pub(super) fn forget_device_if_gone(&mut self, number: usize) {
        let Some(device) = self.devices.get(number) else { return };
        let has_port = device.listen.is_some() || !device.listeners.is_empty();
        let is_gone = device.active.is_none() && !has_port && device.totals == Totals::default();
        if is_gone && let Some(name) = device.name.clone() {
            self.devices.remove(number);
            self.names.remove(&name);
        }
    }

    /// The newest link of a device that sent LISTEN is the one that is served, at once; but not one that is lost, be it by
    /// what came behind LISTEN, or since it left while the relay was stopped or had much to do. It would take the place of
    /// one that is there, and leave the place empty.
    pub(super) fn activate(&mut self, now: Instant, number: usize) {
        let Some(peer) = self.sessions.get(number) else { return };
        if !peer.session.has_link() {
            return;
        }
        if let Some(reason) = peer.session.link_end() {
            return self.lose_link(now, number, &reason);
        }
        let device = match self.admit(peer) {
            Ok(device) => device,
            // Which words there are for it is known at `Output::Version`, and then it is asked for again.
            Err(_) if !peer.session.connection().is_ready() => return,
            Err(refusal) => return self.refuse_link(now, number, refusal),
        };
        self.take_place(now, number, device);
    }

    /// The link of a device that is admitted takes the place of the one before.
    pub(super) fn take_place(&mut self, now: Instant, number: usize, device: usize) {
        let (Some(peer), Some(of)) = (self.sessions.get(number), self.devices.get(device)) else { return };
        if self.log_limits.admit(now, device, Kind::Arrival) {
            let name = of.name.as_ref().map(display);
            info!(link = %peer.address, device = name, "a device is here");
        }
        if let Some(peer) = self.sessions.get_mut(number) {
            (peer.device, peer.stage) = (Some(device), Stage::InUse);
            peer.session.set_owner(device);
        }
        self.recount(number);
        if let Some(old) = self.serve(device, Some(number)) {
            self.replace_link(now, device, old, number);
        }
        self.open_client_ports(now, device);
    }

    /// A newer link serves the device. The old one is cut, unless both are of one process, and it is alive: that
    /// lets its clients finish.
    fn replace_link(&mut self, now: Instant, device: usize, old: usize, newer: usize) {
        let is_of_one_process = self.instance(old).is_some_and(|instance| self.instance(newer) == Some(instance));
        let Some(peer) = self.sessions.get_mut(old) else { return };
        let clients = peer.session.connection().clients();
        let is_logged = self.log_limits.admit(now, device, Kind::Departure);
        if is_of_one_process {
            if is_logged {
                info!(link = %peer.address, clients, "the device has made another link; this one drains");
            }
            // A device that lost its network has the same instance, and its old link may be dead.
            peer.session.require_sign(now);
            peer.stage = Stage::Draining(now);
            self.recount(old);
            return self.bound_draining(now, device);
        }
        if is_logged {
            info!(link = %peer.address, clients, "a newer device takes the place of this one");
        }
        peer.session.go_away(now, Code::Replaced, 0, "a newer link took the place of this one");
        peer.session.abort_link(now, &mut self.io);
    }

    /// Which start of the device's process a link in TLS is from.
    fn instance(&self, number: usize) -> Option<[u8; 16]> {
        self.sessions.get(number)?.proof.as_ref()?.instance
    }

    pub(super) fn refuse_link(&mut self, now: Instant, number: usize, refusal: Refusal) {
        let Some(peer) = self.sessions.get(number) else { return };
        let Refusal { code, reason, .. } = &refusal;
        if self.log_limits.admit(now, peer.log_device(), Kind::Stray) {
            warn!(link = %peer.address, %code, %reason, "refused a device");
        }
        self.turn_away(now, number, refusal);
    }

    /// The same, and it is logged elsewhere.
    pub(super) fn turn_away(&mut self, now: Instant, number: usize, refusal: Refusal) {
        let Some(peer) = self.sessions.get_mut(number) else { return };
        let Refusal { code, retry_after, reason } = refusal;
        peer.session.go_away(now, code, retry_after, &reason);
        peer.session.close_link(now, &mut self.io);
        self.end_handshake(number);
    }

    /// The device is served on this link from here on, or on none; on which it was before.
    pub(super) fn serve(&mut self, device: usize, link: Option<usize>) -> Option<usize> {
        let device = self.devices.get_mut(device)?;
        let before = std::mem::replace(&mut device.active, link);
        self.served = self.served + usize::from(link.is_some()) - usize::from(before.is_some());
        before
    }

    /// Whether this is the link on which its device is served.
    pub(super) fn is_active(&self, number: usize) -> bool {
        let device = self.sessions.get(number).and_then(|peer| self.devices.get(peer.device?));
        device.is_some_and(|device| device.active == Some(number))
    }
}
