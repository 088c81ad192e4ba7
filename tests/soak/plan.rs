//! What one client does, and its service with it: drawn from the seed, and sent to the service in the client's first bytes.

use std::time::Duration;

use crate::bytes::mix;

/// The kinds of clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Sends much, ends its side, and reads how much has arrived.
    Upload,
    /// Reads much, to the service's end.
    Download,
    /// Ends its side at once, and reads much then.
    HalfClose,
    /// Sends and reads the same, both at once.
    Echo,
    /// One small message at a time, each answered.
    PingPong,
    /// Reads much, a little at a time.
    SlowReader,
    /// Sends much to a service that reads a little at a time.
    SlowService,
    /// Sends only after its service has ended.
    ServiceFirst,
    /// Silent for seconds, then a message.
    Idle,
    /// Connects and is gone.
    Leave,
    /// Resets in the middle.
    ClientReset,
    /// Is reset by its service in the middle.
    ServiceReset,
    /// Wants a service that does not exist.
    Refused,
    /// Wants a service whose name has no address; some do not wait to learn it.
    Unresolved,
}

/// What a client is to do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) kind: Kind,
    pub(crate) client: u64,
    /// Bytes from the client.
    pub(crate) up: u64,
    /// Bytes from the service.
    pub(crate) down: u64,
    /// Bytes until a reset.
    pub(crate) cut: u64,
    /// Between the reads of a slow reader, or as long as an idle client is silent.
    pub(crate) pause: Duration,
    /// How many processes had been killed when the client began.
    pub(crate) kills: u64,
}

/// The client's first bytes: what its service is to do.
pub(crate) type Request = [u8; 64];

const MAGIC: [u8; 4] = *b"SOAK";
/// At most 2 to this power bytes are sent one way; much less is slow enough for a slow reader.
const MOST: u32 = 23;
const SLOW_MOST: u64 = 1 << 20;

impl Kind {
    pub(crate) const ALL: [Self; 14] = [
        Self::Upload,
        Self::Download,
        Self::HalfClose,
        Self::Echo,
        Self::PingPong,
        Self::SlowReader,
        Self::SlowService,
        Self::ServiceFirst,
        Self::Idle,
        Self::Leave,
        Self::ClientReset,
        Self::ServiceReset,
        Self::Refused,
        Self::Unresolved,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Upload => "upload",
            Self::Download => "download",
            Self::HalfClose => "half-close",
            Self::Echo => "echo",
            Self::PingPong => "ping-pong",
            Self::SlowReader => "slow reader",
            Self::SlowService => "slow service",
            Self::ServiceFirst => "service ends first",
            Self::Idle => "idle",
            Self::Leave => "leave",
            Self::ClientReset => "client resets",
            Self::ServiceReset => "service resets",
            Self::Refused => "refused",
            Self::Unresolved => "dead name",
        }
    }
}

impl Plan {
    /// Any kind, in the order of the seed.
    pub(crate) fn draw(random: &mut fastrand::Rng, client: u64) -> Self {
        Self::of_kind(Kind::ALL[random.usize(..Kind::ALL.len())], random, client)
    }

    pub(crate) fn of_kind(kind: Kind, random: &mut fastrand::Rng, client: u64) -> Self {
        // Each order of magnitude is as likely as another.
        let mut size = || {
            let magnitude = random.u32(..MOST);
            random.u64(1..2 << magnitude)
        };
        let (mut up, mut down) = (size(), size());
        let messages = 64 * (1 + up % 100);
        if matches!(kind, Kind::SlowReader | Kind::SlowService) {
            (up, down) = (up.min(SLOW_MOST), down.min(SLOW_MOST));
        }
        let (up, pause) = match kind {
            Kind::PingPong => (messages, Duration::ZERO),
            Kind::Idle => (64, Duration::from_millis(random.u64(500..8000))),
            Kind::SlowReader | Kind::SlowService => (up, Duration::from_millis(random.u64(1..20))),
            Kind::Upload
            | Kind::Download
            | Kind::HalfClose
            | Kind::Echo
            | Kind::ServiceFirst
            | Kind::Leave
            | Kind::ClientReset
            | Kind::ServiceReset
            | Kind::Refused
            | Kind::Unresolved => (up, Duration::ZERO),
        };
        let cut = random.u64(..up.min(down));
        Self { kind, client, up, down, cut, pause, kills: 0 }
    }

    pub(crate) fn request(&self) -> Request {
        let mut request = [0; size_of::<Request>()];
        request[..4].copy_from_slice(&MAGIC);
        request[4] = self.kind as u8;
        let words = [self.client, self.up, self.down, self.cut, self.pause.as_millis() as u64, self.kills];
        for (index, word) in words.iter().enumerate() {
            request[8 + 8 * index..][..8].copy_from_slice(&word.to_be_bytes());
        }
        let check = checksum(&request[..56]);
        request[56..].copy_from_slice(&check.to_be_bytes());
        request
    }

    /// `None` if it is not what a client has sent.
    pub(crate) fn parse(request: &Request) -> Option<Self> {
        let word = |index: usize| {
            let bytes = request[8 + 8 * index..][..8].try_into().expect("eight bytes");
            u64::from_be_bytes(bytes)
        };
        if request[..4] != MAGIC || word(6) != checksum(&request[..56]) {
            return None;
        }
        let kind = *Kind::ALL.get(usize::from(request[4]))?;
        let (client, up, down, cut, kills) = (word(0), word(1), word(2), word(3), word(5));
        Some(Self { kind, client, up, down, cut, pause: Duration::from_millis(word(4)), kills })
    }
}

fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |sum, &byte| mix(sum ^ u64::from(byte)))
}
