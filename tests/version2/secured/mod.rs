//! The relay's program with a port for TLS, its devices, and those that would harm them.

mod early_end;
mod floods;
mod full_disk;
mod half_way;
mod hostile_relay;
mod hostile_text;
mod peer;
mod proxied;
mod relay;
mod shared_directory;
mod wrong_end;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tcpremote::device::EventKind;

use self::relay::SecureRelay;
use crate::common::device::Device;
use crate::common::service::Service;
use crate::common::{DEADLINE, Peer};

/// A device whose client must notice nothing.
struct Neighbour {
    device: Device,
    _echo: Service,
    client: Peer,
}

impl Neighbour {
    /// It is called so, and its client port is the relay's first.
    const NAME: &'static str = "neighbour";

    fn of(relay: &SecureRelay) -> Self {
        let echo = Service::echo();
        let key = relay.add(Self::NAME);
        let mut device = relay.device(&key, None, echo.address());
        device.wait_for(EventKind::Listening);
        let client = Peer::connect(relay.relay.client_addrs()[0]);
        let mut neighbour = Self { device, _echo: echo, client };
        neighbour.echo();
        neighbour
    }

    /// How long an echo takes.
    fn echo(&mut self) -> Duration {
        let began = Instant::now();
        self.client.send(b"are you there?");
        self.client.expect(b"are you there?");
        began.elapsed()
    }

    /// Echoes until this holds: the longest time of one.
    fn echo_until(&mut self, what: &str, mut holds: impl FnMut() -> bool) -> Duration {
        let (began, mut longest) = (Instant::now(), Duration::ZERO);
        while !holds() {
            assert!(began.elapsed() < 4 * DEADLINE, "not in time: {what}");
            longest = longest.max(self.echo());
        }
        longest
    }

    /// Its link is the one that it had at the beginning.
    fn assert_untouched(&mut self) {
        self.echo();
        assert_eq!(self.device.status().reconnects, 0);
    }
}

/// Lines of the relay's log about this connection.
fn lines_about(relay: &SecureRelay, peer: SocketAddr) -> Vec<String> {
    let peer = peer.to_string();
    relay.relay.log().into_iter().filter(|line| line.contains(&peer)).collect()
}

/// A line for a person, whatever peers have said: nothing in it moves a cursor, turns letters around or is not seen, and
/// it ends.
#[track_caller]
fn assert_harmless(text: &str) {
    let is_bad = |c: &char| {
        c.is_control()
            || matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
    };
    let bad: Vec<char> = text.chars().filter(is_bad).collect();
    assert!(bad.is_empty() && text.len() <= 3000, "{bad:?} in {} bytes: {}", text.len(), text.escape_debug());
}
