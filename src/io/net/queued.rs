//! What the kernel holds of what was written to a socket.

use std::os::fd::AsFd;

use nix::sys::socket::{getsockopt, sockopt::GetStruct};
use nix::{getsockopt_impl, libc};

const QUEUED: usize = libc::SK_MEMINFO_WMEM_QUEUED as usize;

/// The `SK_MEMINFO_*` of sock_diag(7).
type Held = [u32; libc::SK_MEMINFO_DROPS as usize + 1];

#[derive(Clone, Copy)]
struct MemInfo;
getsockopt_impl!(MemInfo, libc::SOL_SOCKET, libc::SO_MEMINFO, Held, GetStruct<Held>);

/// Whether all was sent and acknowledged; `false` where the kernel is older than the question (Linux 4.12).
pub(super) fn is_empty(stream: &impl AsFd) -> bool {
    getsockopt(stream, MemInfo).is_ok_and(|held| held[QUEUED] == 0)
}
