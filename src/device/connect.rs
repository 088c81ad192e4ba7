//! The way to the relay: its name resolved, its addresses tried, within one deadline.

use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use mio::Token;
use mio::net::TcpStream;

use super::Config;
use super::access::{Access, Refusal};
use super::dial::{Dial, Progress};
use super::report::Report;
use super::resolver::{self, Resolver};
use crate::Error;
use crate::event_loop::{EventLoop, Source};
use crate::link::StreamKey;

/// The device has one link.
pub(super) const LINK: usize = 0;
/// The answer to a lookup.
pub(super) type Answer = Result<Vec<SocketAddr>, Refusal>;
/// Lookups are tagged with their stream; the server's has none.
pub(super) type Names = Resolver<Option<StreamKey>, Answer>;

/// Resolves the server's name and connects to it; `None` if the owner closed the tunnel meanwhile.
pub(super) fn connect(
    config: &Config,
    event_loop: &mut EventLoop,
    report: &Report,
    resolver: &Names,
) -> Result<Option<(TcpStream, Token, SocketAddr)>, Error> {
    let deadline = Instant::now() + config.connect_timeout;
    let (host, port) = (config.server.host().to_owned(), config.server.port());
    // Access says nothing about the server; Any only resolves.
    let work = move || Access::Any.permit(&host, port, &mut resolver::lookup);
    let mut dial = if config.server.ip().is_some() {
        Some(Dial::new(Source::Link(LINK), resolved(config, work())?, deadline))
    } else {
        resolver.submit(None, work).map_err(|reason| Error::System { what: "cannot resolve".into(), reason })?;
        None
    };
    loop {
        let now = Instant::now();
        if report.stop_requested() {
            return Ok(None);
        }
        if let Some((_, answer)) = resolver.poll() {
            dial = Some(Dial::new(Source::Link(LINK), resolved(config, answer)?, deadline));
        }
        match dial.as_mut().map(|dial| dial.poll(now, event_loop)) {
            Some(Progress::Connected { io, token, address }) => return Ok(Some((io, token, address))),
            Some(Progress::Failed(error)) => return Err(unreachable(config, error)),
            Some(Progress::Pending) => {}
            None if now >= deadline => {
                let host = config.server.host().to_owned();
                return Err(Error::Unresolved { host, reason: "no answer in time".into() });
            }
            None => {}
        }
        let timeout = dial.as_ref().and_then(Dial::poll_timeout).unwrap_or(deadline);
        event_loop.wait(Some(timeout)).map_err(poll_failed)?;
        while event_loop.next_ready().is_some() {}
    }
}

fn resolved(config: &Config, answer: Answer) -> Result<Vec<SocketAddr>, Error> {
    answer.map_err(|refusal| match refusal {
        Refusal::Unresolved { host, reason } => Error::Unresolved { host, reason },
        Refusal::Denied { .. } => Error::Usage(format!("{}: {refusal}", config.server)),
    })
}

fn unreachable(config: &Config, reason: io::Error) -> Error {
    let address = config.server.clone();
    if reason.kind() == io::ErrorKind::ConnectionRefused {
        Error::Refused(address)
    } else if reason.kind() == io::ErrorKind::TimedOut {
        Error::Timeout { address, seconds: config.connect_timeout.as_secs_f64() }
    } else {
        Error::Unreachable { address, reason }
    }
}

fn poll_failed(reason: io::Error) -> Error {
    Error::System { what: "cannot wait for events".into(), reason }
}
