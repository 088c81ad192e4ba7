//! What bounds the relay, in one place: what each device may have, so that its peers' floods are its own, and what all
//! devices have together.
//!
//! | what | of each device | of the process |
//! | --- | --- | --- |
//! | a link's queues and windows | [`Limits::budget`] for each of its links | of windows beyond those that streams have from their start, and of DATA that waits for links beyond 32 KiB for each, [`WINDOWS_OF_ALL`], fairly |
//! | what waits for clients | [`Limits::budget`] for each of its links | [`UNDELIVERED_OF_ALL`], the link that has the most gives up half |
//! | clients | [`Config::clients`](super::Config::clients) | [`Descriptors::clients`], [fairly](may_have_descriptor) |
//! | clients that wait for a place | [`MAX_WAITING`] | as clients |
//! | clients accepted in a turn | [`ACCEPTS`] for each port | [`ACCEPTS_A_TURN`] |
//! | connections without LISTEN | its part of those of the process, the port that has the most loses one | [`Descriptors::pending`] |
//! | connections in a TLS handshake, or waiting for theirs | 64 of each source are in progress, others of it wait | as many as there are [`Descriptors::devices`] to spare; the source that has the most loses one |
//! | connections of load balancers without their header | | [`max_proxied`] |
//! | links that drain | [`retired::MAX_DRAINING`] | [`MAX_DRAINING`] |
//! | links that are lost and deliver last bytes | [`retired::MAX_LOST`] | [`MAX_LOST`] |
//! | bytes that both of these hold | [`retired_bytes`] | [`retired_bytes_of_all`] |
//! | sockets that were ended and wait for their peers | its part of those of the process, the device that has the most loses one | `io/closing.rs` |
//! | lines of the log | `server/log_limits.rs` | the same |
//!
//! [`Descriptors::clients`]: super::descriptors::Descriptors::clients
//! [`Descriptors::devices`]: super::descriptors::Descriptors::devices
//! [`Descriptors::pending`]: super::descriptors::Descriptors::pending

use crate::connection::Limits;
use crate::io::retired;

/// What may wait for the clients of all links together, whatever their windows: as much as 32,768 clients that read nothing
/// have from their start. Past it clients that read too little are reset.
pub(super) const UNDELIVERED_OF_ALL: u64 = 1024 * 1024 * 1024;
/// Clients that may wait at once; each port has an equal part of that.
pub(super) const MAX_WAITING: usize = 256;
/// Clients taken from one port in a turn, before bytes are moved again.
pub(super) const ACCEPTS: usize = 16;
/// Clients taken in a turn, past which no port has its turn before bytes were moved again.
pub(super) const ACCEPTS_A_TURN: u64 = 64;
/// Connections of load balancers whose header is to come.
const MAX_PROXIED: usize = 256;
/// Device ports from which a connection is taken in a turn.
pub(super) const DEVICE_PORTS_A_TURN: usize = 16;
/// Links of all devices that may drain.
pub(super) const MAX_DRAINING: usize = 8 * retired::MAX_DRAINING;
/// Links of all devices that are gone, and may deliver what is left.
pub(super) const MAX_LOST: usize = 8 * retired::MAX_LOST;
/// What the windows of all links may take beyond those that streams have from their start, and what waits for all links
/// beyond what each may have waiting. Up to 20 links have all that a link may have.
pub(super) const WINDOWS_OF_ALL: u64 = 512 * 1024 * 1024;
/// One device may have so many times the descriptors that it leaves, and connections without their header one of so many.
const PART: usize = 4;

/// Connections of load balancers whose header is to come, past which the oldest is dropped: they have no more than a part
/// of the descriptors of clients.
pub(super) fn max_proxied(descriptors: usize) -> usize {
    MAX_PROXIED.min(descriptors / PART).max(1)
}

/// What the links of one device that are not in use any more may hold: as much as one that is.
pub(super) fn retired_bytes(limits: &Limits) -> u64 {
    limits.budget
}

/// The same of all devices.
pub(super) fn retired_bytes_of_all(limits: &Limits) -> u64 {
    limits.budget.saturating_mul(4)
}

/// Whether one of several devices may have one more of the clients' descriptors, where it has so many and so many are
/// left. A device alone may have all; with others each leaves a part for those that come after it.
pub(super) fn may_have_descriptor(devices: usize, has: usize, spare: usize) -> bool {
    if devices > 1 { has < PART.saturating_mul(spare) } else { spare > 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_that_want_every_descriptor_leave_some_for_the_next_and_have_equal_parts() {
        let (mut spare, mut has) = (900, [0; 4]);
        let mut goes_on = true;
        while goes_on {
            goes_on = false;
            for has in &mut has {
                if may_have_descriptor(5, *has, spare) {
                    (*has, spare, goes_on) = (*has + 1, spare - 1, true);
                }
            }
        }
        assert_eq!((has, spare), ([212; 4], 52));
        assert!(may_have_descriptor(5, 100, spare), "the next one has some");
        assert!(may_have_descriptor(1, 899, 1) && !may_have_descriptor(1, 900, 0), "a device alone has all");
    }
}
