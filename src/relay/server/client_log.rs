//! One line of the log for each client, when it has left.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use tracing::field::display;
use tracing::{info, warn};

use super::Server;
use super::log_limits::{Kind, LogLimits};
use super::ports::PortService;
use crate::connection::{Reset, StreamKey};
use crate::io::session::Traffic;
use crate::protocol::v2::Code;

/// A client that was accepted.
#[derive(Debug)]
pub(super) struct Client {
    /// Its number since the relay's start, by which lines about it are found.
    pub(super) connection: u64,
    pub(super) address: SocketAddr,
    /// Whose client it is.
    pub(super) device: usize,
    /// The client port, by its place with the device.
    pub(super) port: usize,
    pub(super) service: Arc<PortService>,
    pub(super) since: Instant,
    /// How much had moved when it was last looked at, and since when it was no more than that.
    pub(super) moved: (u64, Instant),
}

/// How a client's connection ended.
#[derive(Debug)]
pub(super) struct Ending {
    /// In the words of the protocol, and `lost` where it is the link that has ended.
    code: Cow<'static, str>,
    reason: Cow<'static, str>,
    /// What an operator may have to do something about.
    warning: Option<Cow<'static, str>>,
}

impl Ending {
    /// All was delivered.
    pub(super) const FINISHED: Self = Self { code: Cow::Borrowed("normal"), reason: Cow::Borrowed(""), warning: None };

    pub(super) fn new(code: Code, reason: impl Into<Cow<'static, str>>) -> Self {
        let code = if let Code::Other(_) = code { code.to_string().into() } else { code.name().into() };
        Self { code, reason: reason.into(), warning: None }
    }

    /// There was no place for it.
    pub(super) fn refused(warning: &'static str) -> Self {
        Self { warning: Some(warning.into()), ..Self::new(Code::Overload, "no place on the link") }
    }

    /// The device does not offer what its port is for.
    pub(super) fn unknown_service(offer: String) -> Self {
        let warning = Some(format!("refused a client: {offer}").into());
        Self { warning, ..Self::new(Code::UnknownService, "the device offers no such service") }
    }

    /// The device has sent GOAWAY: the client may come back to its next link.
    pub(super) fn device_leaves() -> Self {
        Self::new(Code::Shutdown, "the device takes no new clients")
    }
}

impl From<(Code, String)> for Ending {
    fn from((code, reason): (Code, String)) -> Self {
        Self::new(code, reason)
    }
}

impl From<Reset> for Ending {
    fn from(reset: Reset) -> Self {
        match reset {
            Reset::NoPlace => Self::refused(NO_PLACE),
            Reset::PeerLeaves => Self::device_leaves(),
            Reset::TooSlow => {
                let warning = Some("reset a client: it read too little for too long, and held up the others".into());
                Self { warning, ..Self::new(Code::Stalled, "it read too little for too long") }
            }
            Reset::Stalled => {
                let warning = Some("reset a client: it read nothing of its last bytes for too long".into());
                Self { warning, ..Self::new(Code::Stalled, "it read nothing of its last bytes for too long") }
            }
            Reset::Crowded => {
                let warning = "reset a client: it read too little, and too much waits for all clients together";
                Self { warning: Some(warning.into()), ..Self::new(Code::Overload, "too much waits for all clients") }
            }
            Reset::LinkLost => Self { code: "lost".into(), ..Self::new(Code::Normal, "its link is lost") },
            Reset::Unanswered => {
                let warning = Some("refused a client: the device does not answer".into());
                Self { warning, ..Self::new(Code::Offline, "the device does not answer") }
            }
            Reset::Shutdown => Self::new(Code::Shutdown, "the relay has ended"),
            Reset::Closed(close) => Self::new(close.code, close.reason),
            // A device's reasons.
            Reset::ConnectTimeout | Reset::Replaced => Self::new(Code::Internal, ""),
        }
    }
}

/// What is logged of a client that has waited for a place in vain.
pub(super) const NO_PLACE: &str = "refused a client: the link has no place for more; try again when one has ended";

impl Client {
    /// The line of a client that has left; `link` carried it.
    pub(super) fn log_end(
        &self,
        now: Instant,
        limits: &mut LogLimits,
        link: Option<SocketAddr>,
        traffic: Option<&Traffic>,
        ending: &Ending,
    ) {
        let Self { connection, address, service, .. } = self;
        if let Some(warning) = &ending.warning
            && limits.admit(now, self.device, Kind::Refusal)
        {
            warn!(connection, client = %address, %service, "{warning}");
        }
        if limits.admit(now, self.device, Kind::ClientEnd) {
            let seconds = (now.saturating_duration_since(self.since).as_secs_f64() * 1000.0).round() / 1000.0;
            let (received, sent) = traffic.map_or((0, 0), |traffic| (traffic.read, traffic.written));
            let (link, code) = (link.map(display), display(&ending.code));
            let reason = Some(&*ending.reason).filter(|reason| !reason.is_empty()).map(display);
            info!(connection, client = %address, %service, link, seconds, received, sent, code, reason, "a client has left");
        }
    }
}

impl Server {
    /// The client of a stream is gone.
    pub(super) fn log_client_end(&mut self, now: Instant, number: usize, stream: StreamKey, ending: &Ending) {
        let Some(peer) = self.sessions.get_mut(number) else { return };
        if let Some(client) = peer.clients.remove(&stream) {
            let traffic = peer.session.traffic(stream);
            client.log_end(now, &mut self.log_limits, Some(peer.address), traffic, ending);
        }
    }

    /// Ends everything that is left of a session with RST.
    pub(super) fn cut(&mut self, now: Instant, number: usize, code: Code, reason: &'static str) {
        let Some(mut peer) = self.remove(number) else { return };
        for (stream, client) in std::mem::take(&mut peer.clients) {
            let traffic = peer.session.traffic(stream);
            client.log_end(now, &mut self.log_limits, Some(peer.address), traffic, &Ending::new(code, reason));
        }
        peer.session.abort(now, &mut self.io);
    }
}
