//! Why something ended.

use std::fmt;

/// The reason of a CLOSE or a GOAWAY.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// The peer's own peer ended it.
    Normal,
    /// No socket listens at the service's address.
    Refused,
    /// There is no way to the service.
    Unreachable,
    /// The service did not answer in time.
    Timeout,
    /// The service's name has no address.
    Unresolved,
    /// The device does not permit the service.
    Denied,
    /// The device has no service of that name.
    UnknownService,
    /// More was sent than credit was given for.
    FlowControl,
    /// A peer stood still for too long.
    Stalled,
    /// Half of it was over and the other half did not move.
    Idle,
    /// Too much was asked for.
    Overload,
    /// The sender is about to end.
    Shutdown,
    /// The protocol was broken.
    Protocol,
    /// The sender failed.
    Internal,
    /// A newer link took the place of this one.
    Replaced,
    /// The relay knows no device with this key, or of this name.
    UnknownDevice,
    /// The key was revoked.
    Revoked,
    /// The join token is unknown, used or expired.
    Token,
    /// The device has no link that could carry the client.
    Offline,
    /// The relay's operator has yet to approve the key.
    Pending,
    /// A number that this version does not know.
    Other(u16),
}

/// In the order of their numbers, from 0; the names are those of errors in the device's events.
const CODES: [(Code, &str); 20] = [
    (Code::Normal, "normal"),
    (Code::Refused, "refused"),
    (Code::Unreachable, "unreachable"),
    (Code::Timeout, "timeout"),
    (Code::Unresolved, "unresolved"),
    (Code::Denied, "denied"),
    (Code::UnknownService, "unknown_service"),
    (Code::FlowControl, "flow_control"),
    (Code::Stalled, "stalled"),
    (Code::Idle, "idle"),
    (Code::Overload, "overload"),
    (Code::Shutdown, "shutdown"),
    (Code::Protocol, "protocol"),
    (Code::Internal, "internal"),
    (Code::Replaced, "replaced"),
    (Code::UnknownDevice, "unknown"),
    (Code::Revoked, "revoked"),
    (Code::Token, "token"),
    (Code::Offline, "offline"),
    (Code::Pending, "pending"),
];

impl Code {
    /// The number on the wire.
    pub fn number(self) -> u16 {
        if let Self::Other(number) = self {
            return number;
        }
        // Found, since every other variant is in the table.
        CODES.iter().position(|&(code, _)| code == self).unwrap_or_default() as u16
    }

    /// Whether a relay says with it, in GOAWAY, that it does not admit the device's key as it is.
    pub(crate) fn bars_key(self) -> bool {
        matches!(self, Self::UnknownDevice | Self::Revoked | Self::Token | Self::Pending)
    }

    /// A stable lowercase word, `other` for a number that is not known.
    pub fn name(self) -> &'static str {
        CODES.get(usize::from(self.number())).map_or("other", |&(_, name)| name)
    }
}

impl From<u16> for Code {
    fn from(number: u16) -> Self {
        CODES.get(usize::from(number)).map_or(Self::Other(number), |&(code, _)| code)
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Self::Other(number) = self { write!(f, "code {number}") } else { f.write_str(self.name()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_numbered_from_0_and_unknown_numbers_stay_what_they_are() {
        assert_eq!((Code::Normal.number(), Code::Replaced.number(), Code::Pending.number()), (0, 14, 19));
        for number in 0..25 {
            assert_eq!(Code::from(number).number(), number);
        }
        assert_eq!(Code::from(9999).to_string(), "code 9999");
        assert_eq!(Code::UnknownService.to_string(), "unknown_service");
    }
}
