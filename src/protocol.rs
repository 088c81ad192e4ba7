//! The wire: what both ends of a link write and read. The only code that knows byte order.
//!
//! A link begins in [version 1](v1). The device that also speaks [version 2](v2) says so with [`v2::HELLO`] behind its
//! LISTEN; a relay that does answers with the same, and from there on every frame is of version 2. Neither frame harms
//! a peer of 2012.

pub mod proxy;
pub mod v1;
pub mod v2;

pub use v1::Malformed;

/// The most payload bytes one frame can carry.
pub const MAX_PAYLOAD: usize = u16::MAX as usize;

/// A frame of DATA that is sent has at most so many bytes, its header among them: buffers hold a whole number of these.
pub(crate) const MAX_FRAME: usize = 64 * 1024;

/// What a peer sent, or did not send, that ends the link.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// A device opens a link with LISTEN; this connection began with something else.
    #[error("the first frame is not LISTEN but {0}; is this a device?")]
    NotListen(v1::Header),
    /// LISTEN did not come in time.
    #[error("it sent no LISTEN within 5 s")]
    NoListen,
    /// LISTEN came twice on one link.
    #[error("LISTEN came twice ({0})")]
    ListenAgain(v1::Header),
    /// LISTEN came with a payload or for a client.
    #[error("LISTEN carries no payload and is for client 0 (got {0})")]
    BadListen(v1::Header),
    /// A device's LISTEN and HELLO were never answered.
    #[error(
        "the greeting was not answered within 20 s; check that a relay listens at this port, and has no other device"
    )]
    NoAnswer,
    /// The answer to a device's LISTEN and HELLO is a frame that no relay sends.
    #[error("what listens there does not answer as a relay (its first bytes are {0}); check the address and the port")]
    NotRelay(v1::Header),
    /// The relay speaks only versions that are older than the device may speak.
    #[error("the relay speaks version 1 of the protocol, and version 2 is wanted")]
    OldRelay,
    /// The device speaks only versions that are older than the relay may speak.
    #[error("it speaks version 1 of the protocol, and --min-protocol wants 2; update the device, or leave that off")]
    OldDevice,
    /// CONNECT is the relay's to send.
    #[error("the device sent CONNECT ({0})")]
    ConnectFromDevice(v1::Header),
    /// The peer makes us answer and does not read the answers.
    #[error("the peer does not read the answers that its frames ask for ({0} bytes wait)")]
    Backlog(usize),
    /// A frame of a stream without a stream, or one of the link with a stream.
    #[error("a frame that must name a stream has none, or the other way round ({0})")]
    WrongStream(v2::Header),
    /// DATA that carries neither bytes nor FIN.
    #[error("DATA without a byte and without FIN ({0})")]
    EmptyData(v2::Header),
    /// A control frame that is longer than any can be.
    #[error("a control frame is too long ({0})")]
    TooLong(v2::Header),
    /// A payload, or a field in it, is cut short.
    #[error("a payload is cut short, or a field in it")]
    TruncatedField,
    /// A field that may come once came again.
    #[error("field {0} of SETTINGS came twice")]
    RepeatedField(u16),
    /// A field has another length than its own, is over its limit, or holds what it cannot.
    #[error("field {0} of SETTINGS is too short or too long, or holds what it cannot")]
    BadField(u16),
    /// A token was sent where others can read it.
    #[error("a join token came over a link without TLS; it is not secret any more, make another")]
    JoinInTheClear,
    /// A frame that we do not know and that must not be passed over.
    #[error("a critical frame of a type that is not known here ({0})")]
    Critical(v2::Header),
    /// SETTINGS did not come first, or not in time.
    #[error("SETTINGS is not the first frame, or did not come within 10 s")]
    NoSettings,
    /// In TLS: the first message of the handshake did not come in time.
    #[error("it sent no ClientHello within 10 s")]
    NoClientHello,
    /// In TLS: the handshake, SETTINGS and the relay's answer took too long.
    #[error("the TLS handshake and SETTINGS took more than 20 s")]
    NotGreeted,
    /// In TLS: the relay has refused the device, and sends it a client.
    #[error("the relay refuses this device, and sends it a client; update the relay")]
    AfterRefusal,
    /// In TLS: the device went on before the relay had admitted it.
    #[error("a frame came before this relay's SETTINGS")]
    TooEarly,
    /// A frame that only the other side of a link sends.
    #[error("{0} is not for this side to send")]
    WrongDirection(&'static str),
    /// CONNECT does not have the next number.
    #[error("CONNECT for stream {got}, where {expected} is the next")]
    BadNumber {
        /// The number it has.
        got: u32,
        /// The number it must have.
        expected: u32,
    },
    /// A frame for a stream that was never opened.
    #[error("a frame for stream {0}, which was never opened")]
    NeverOpened(u32),
    /// DATA on a stream before CONNECTED, or CONNECTED twice.
    #[error("DATA before CONNECTED, or CONNECTED twice, on stream {0}")]
    NotConnected(u32),
    /// DATA behind FIN.
    #[error("DATA behind FIN on stream {0}")]
    AfterFin(u32),
    /// More bytes than there was credit for.
    #[error("more was sent on stream {0} than it had credit for")]
    FlowControl(u32),
    /// CREDIT below one that was given before.
    #[error("the credit of stream {0} went backwards")]
    CreditBackwards(u32),
    /// Too many frames that are of no use.
    #[error("too many frames that are of no use (PING, SETTINGS, CREDIT, unknown ones)")]
    Flood,
    /// The peer has announced that it acknowledges, and does not.
    #[error("nothing that was asked for was acknowledged for 60 s")]
    Unacknowledged,
    /// Nothing came for too long, not even the answer to a PING.
    #[error("nothing came in time after a PING, not even its answer")]
    Silent,
}

impl ProtocolError {
    /// The code of the GOAWAY that the peer is sent for it.
    pub(crate) fn code(&self) -> v2::Code {
        if matches!(self, Self::FlowControl(_) | Self::CreditBackwards(_)) {
            v2::Code::FlowControl
        } else if matches!(self, Self::Flood | Self::Backlog(_)) {
            v2::Code::Overload
        } else if matches!(self, Self::Silent | Self::Unacknowledged) {
            v2::Code::Timeout
        } else {
            v2::Code::Protocol
        }
    }
}
