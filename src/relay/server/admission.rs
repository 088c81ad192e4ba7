//! Which device a link is from, and whether that is served: decided once, when the link has said what it is.

use std::time::Instant;

use tracing::field::display;
use tracing::{info, warn};

use super::log_limits::Kind;
use super::{Peer, Server, Stage};
use crate::protocol::v2::Code;

/// Seconds after which a device may come back for which there was no place.
const RETRY_AFTER: u16 = 60;

/// Why a link is not served, as its device reads it where its version has words for that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    code: Code,
    /// Seconds after which the device may come back.
    retry_after: u16,
    reason: &'static str,
}

impl Server {
    /// The device that the link is from. A plain link is from the device of the port that it came by.
    fn admit(&self, peer: &Peer) -> Result<usize, Refusal> {
        let device = peer.port_device;
        let is_there = self.devices.get(device).is_some_and(|device| device.active.is_some());
        if !is_there && self.served >= self.descriptors.devices {
            let reason = "the relay has no place for more devices";
            return Err(Refusal { code: Code::Overload, retry_after: RETRY_AFTER, reason });
        }
        Ok(device)
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
            Err(refusal) => return self.refuse_link(now, number, refusal),
        };
        if self.log_limits.admit(now, device, Kind::Arrival) {
            let name = self.devices.get(device).and_then(|device| device.name.as_ref()).map(display);
            info!(link = %peer.address, device = name, "a device is here");
        }
        if let Some(peer) = self.sessions.get_mut(number) {
            (peer.device, peer.stage) = (Some(device), Stage::InUse);
        }
        self.recount(number);
        let replaced = self.serve(device, Some(number));
        if let Some(old) = replaced.and_then(|old| self.sessions.get_mut(old)) {
            let clients = old.session.connection().clients();
            if self.log_limits.admit(now, device, Kind::Departure) {
                info!(link = %old.address, clients, "a newer device takes the place of this one");
            }
            old.session.go_away(now, Code::Replaced, 0, "a newer link took the place of this one");
            old.session.abort_link(now, &mut self.io);
        }
        self.open_client_ports(now, device);
    }

    fn refuse_link(&mut self, now: Instant, number: usize, refusal: Refusal) {
        let Some(peer) = self.sessions.get_mut(number) else { return };
        let Refusal { code, retry_after, reason } = refusal;
        if self.log_limits.admit(now, peer.port_device, Kind::Stray) {
            warn!(link = %peer.address, %code, reason, "refused a device");
        }
        peer.session.go_away(now, code, retry_after, reason);
        peer.session.close_link(now, &mut self.io);
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
