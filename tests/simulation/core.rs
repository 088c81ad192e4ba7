//! What the cores under test have in common.

use std::sync::Arc;
use std::time::Instant;

use tcpremote::address::Address;
use tcpremote::connection::device::Device;
use tcpremote::connection::relay::Relay;
use tcpremote::connection::{Connection, Output, Reset, StreamKey};
use tcpremote::protocol::v2::Code;

use crate::world::{CLIENT, SERVICE};

/// What both cores ask for.
#[derive(Debug)]
pub(crate) enum Task {
    Version(u8),
    Opened(StreamKey),
    Connect(StreamKey, usize),
    ShutdownWrite(StreamKey),
    Finish(StreamKey),
    Reset(StreamKey, &'static str),
    Gone(StreamKey),
    Note(String),
}

/// A core under test.
pub(crate) trait Core: Connection + std::fmt::Debug {
    const SIDE: usize;
    /// The most streams that may exist here.
    const MOST_STREAMS: usize;
    /// Bytes that may wait for a socket beyond the queue and one read.
    const EXTRA: usize;

    fn task(output: Output) -> Task;
    fn shut(&mut self, now: Instant);
    /// A client came for `service`.
    fn open(&mut self, now: Instant, service: Arc<Address>) -> StreamKey;
    /// What became of the connection that [`Task::Connect`] asked for.
    fn answer(&mut self, now: Instant, key: StreamKey, connects: bool);
}

impl Core for Relay {
    const SIDE: usize = CLIENT;
    const MOST_STREAMS: usize = 256 + 256 + 512;
    const EXTRA: usize = 0;

    fn task(output: Output) -> Task {
        match output {
            Output::Version(version) => Task::Version(version),
            Output::Opened { stream, .. } => Task::Opened(stream),
            Output::ShutdownWrite { stream } => Task::ShutdownWrite(stream),
            Output::Finish { stream } => Task::Finish(stream),
            Output::Reset { stream, reason } => Task::Reset(stream, name(&reason)),
            Output::Gone { stream } => Task::Gone(stream),
            Output::Listening
            | Output::Introduced(_)
            | Output::Connected { .. }
            | Output::GoAway(_)
            | Output::Connect { .. }
            | Output::Malformed { .. }
            | Output::EarlyDropped { .. } => Task::Note(format!("{output:?}")),
        }
    }

    fn shut(&mut self, now: Instant) {
        self.close(now);
    }

    fn open(&mut self, now: Instant, service: Arc<Address>) -> StreamKey {
        self.open(now, &service, None).expect("the version is fixed")
    }

    fn answer(&mut self, _: Instant, _: StreamKey, _: bool) {
        unreachable!("a relay connects to nobody");
    }
}

impl Core for Device {
    const SIDE: usize = SERVICE;
    const MOST_STREAMS: usize = 512;
    const EXTRA: usize = 1024 * 1024;

    fn task(output: Output) -> Task {
        match output {
            Output::Connect { stream, service, .. } => {
                let number = service.host().strip_prefix('c').and_then(|number| number.parse().ok());
                Task::Connect(stream, number.expect("a simulated service"))
            }
            Output::Version(version) => Task::Version(version),
            Output::ShutdownWrite { stream } => Task::ShutdownWrite(stream),
            Output::Finish { stream } => Task::Finish(stream),
            Output::Reset { stream, reason } => Task::Reset(stream, name(&reason)),
            Output::Gone { stream } => Task::Gone(stream),
            Output::Introduced(_)
            | Output::GoAway(_)
            | Output::Listening
            | Output::Opened { .. }
            | Output::Connected { .. } => Task::Note(format!("{output:?}")),
            Output::Malformed { .. } => panic!("no relay here sends a malformed CONNECT"),
            Output::EarlyDropped { client } => Task::Note(format!("early bytes of number {client} dropped")),
        }
    }

    fn shut(&mut self, now: Instant) {
        self.close(now);
    }

    fn open(&mut self, _: Instant, _: Arc<Address>) -> StreamKey {
        unreachable!("clients come to a relay");
    }

    fn answer(&mut self, now: Instant, key: StreamKey, connects: bool) {
        if connects {
            self.handle_connected(now, key);
        } else {
            self.handle_failure(now, key, Code::Refused, "refused");
        }
    }
}

/// The reasons, as the trace has them.
fn name(reason: &Reset) -> &'static str {
    match reason {
        Reset::NoPlace => "no place",
        Reset::PeerLeaves => "peer leaves",
        Reset::ConnectTimeout => "connect timeout",
        Reset::TooSlow => "too slow",
        Reset::Stalled => "stalled",
        Reset::Replaced => "replaced",
        Reset::LinkLost => "link lost",
        Reset::Shutdown => "shutdown",
        Reset::Closed(_) => CLOSED_BY_PEER,
    }
}

/// The other end had a reason for it.
pub(crate) const CLOSED_BY_PEER: &str = "closed by the peer";
