//! The client ports, which are open while there is a device.

use std::time::{Duration, Instant};

use tracing::{debug, info, warn};

use super::super::core::Relay;
use super::super::listener::bind;
use super::Server;
use crate::event_loop::Source;
use crate::link::{Endpoint, Reset, StreamKey};
use crate::net;
use crate::protocol::v2::Code;
use crate::session::Session;

/// Clients taken from one port in a turn, before bytes are moved again.
const ACCEPTS: usize = 16;
/// How long until a client port that could not be opened is tried again.
const REOPEN: Duration = Duration::from_secs(1);

impl Server {
    pub(super) fn accept_clients(&mut self, now: Instant) -> bool {
        let mut busy = false;
        for place in 0..self.client_listeners.len() {
            for _ in 0..ACCEPTS {
                if !self.accept_client(now, place) {
                    break;
                }
                busy = true;
            }
        }
        busy
    }

    /// One client of the port at `place`; false if there is none to take now.
    fn accept_client(&mut self, now: Instant, place: usize) -> bool {
        let Some(number) = self.active else { return false };
        // A stream that is over must have left its slot before a new one takes it, one that the last events ended, too.
        self.carry_out_all(now, number);
        let Some(Some(peer)) = self.sessions.get_mut(number) else { return false };
        // Until then they wait in the port's backlog.
        if !peer.session.endpoint.is_ready() {
            return false;
        }
        let Some((listener, port)) = self.client_listeners.get_mut(place) else { return false };
        let Some((mut io, address)) = listener.accept(now) else { return false };
        let service = &self.client_ports[*port].service;
        // As with the link's: only hastens.
        let _ = net::tune_stream(&io);
        debug!(%address, %service, "a client");
        let Some(key) = peer.session.endpoint.open(now, service, Some(address)) else { return false };
        match self.event_loop.register(&mut io, Source::Stream(number as u32, key)) {
            Ok(token) => peer.session.attach(&mut self.event_loop, key, io, token),
            Err(error) => {
                warn!(%address, "cannot watch a client: {error}");
                peer.session.endpoint.handle_failure(now, key, Code::Internal, "the relay cannot watch its socket");
            }
        }
        true
    }

    pub(super) fn open_client_ports(&mut self, now: Instant) {
        self.reopen_at = None;
        for (place, port) in self.client_ports.iter().enumerate() {
            if self.client_listeners.iter().any(|&(_, port)| port == place) {
                continue;
            }
            // Places of client listeners follow those of the device's.
            match bind(&mut self.event_loop, &port.addresses, (place + 1) << 8) {
                Ok(listeners) => {
                    for listener in listeners {
                        info!("clients of {} may connect at {}", port.service, listener.address());
                        self.client_listeners.push((listener, place));
                    }
                }
                Err(reason) => {
                    warn!(
                        "cannot listen for clients at {}: {reason}; trying again in 1 s",
                        self.config.mappings[place].client
                    );
                    self.reopen_at = Some(now + REOPEN);
                }
            }
        }
    }

    pub(super) fn close_client_ports(&mut self) {
        self.reopen_at = None;
        for (listener, _) in std::mem::take(&mut self.client_listeners) {
            listener.close(&mut self.event_loop);
        }
    }
}

pub(super) fn tell_reset(session: &Session<Relay>, stream: StreamKey, reason: &Reset) {
    let client = session.peer_addr(stream).map_or_else(String::new, |address| address.to_string());
    match reason {
        Reset::NoPlace => {
            warn!(client, "refused a client: the link has no place for more; try again when one has ended");
        }
        Reset::TooSlow => warn!(client, "reset a client: it read too little for too long, and held up the others"),
        Reset::Stalled => warn!(client, "reset a client: it read nothing of its last bytes for too long"),
        Reset::LinkLost => debug!(client, "cut a client with its link"),
        Reset::Shutdown => debug!(client, "cut a client, since the relay ends"),
        Reset::Closed(close) if close.code == Code::Normal => debug!(client, "ended a client: {}", close.reason),
        Reset::Closed(close) => {
            info!(client, code = %close.code, "ended a client, as the device asks: {}", close.reason);
        }
        // A device's reasons.
        Reset::ConnectTimeout | Reset::Replaced => {}
    }
}
