//! How a server ends: no new clients, time for those that are open, and last bytes.

use std::time::{Duration, Instant};

use tracing::info;

use super::links::DevicePort;
use super::{Outcome, Phase, Server};
use crate::Error;
use crate::connection::Reset;
use crate::io::mailbox::Request;
use crate::io::table::Table;
use crate::protocol::v2::Code;

/// How long the last bytes may take once the relay is to end.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);
/// Seconds after which a device may come back when the relay ends: the time that a restart takes.
const RETRY_AFTER: u16 = 1;

impl Server {
    pub(super) fn finish(mut self, buffer: &mut [u8]) -> Result<Outcome, Error> {
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
    /// [`Stopper::stop`](super::Stopper::stop) is called again.
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
}
