//! What the kernel holds of what was written to a socket.

use std::ffi::c_void;
use std::mem::size_of;
use std::os::fd::AsFd;

use nix::sys::socket::{getsockopt, sockopt::Get};
use nix::{getsockopt_impl, libc};

const QUEUED: usize = libc::SK_MEMINFO_WMEM_QUEUED as usize;

/// The `SK_MEMINFO_*` of sock_diag(7).
type Held = [u32; libc::SK_MEMINFO_DROPS as usize + 1];

/// The kernel's answer, of which a kernel may know less: an emulator that does not know the question answers 4 bytes.
struct Answer {
    held: Held,
    length: libc::socklen_t,
}

#[allow(unsafe_code, reason = "the trait has it so; all that the kernel may write to is initialised")]
impl Get<Option<Held>> for Answer {
    fn uninit() -> Self {
        Self { held: Held::default(), length: size_of::<Held>() as libc::socklen_t }
    }

    fn ffi_ptr(&mut self) -> *mut c_void {
        self.held.as_mut_ptr().cast()
    }

    fn ffi_len(&mut self) -> *mut libc::socklen_t {
        &mut self.length
    }

    unsafe fn assume_init(self) -> Option<Held> {
        (self.length as usize >= (QUEUED + 1) * size_of::<u32>()).then_some(self.held)
    }
}

#[derive(Clone, Copy)]
struct MemInfo;
getsockopt_impl!(MemInfo, libc::SOL_SOCKET, libc::SO_MEMINFO, Option<Held>, Answer);

/// Whether all was sent and acknowledged; `false` where the kernel is older than the question (Linux 4.12).
pub(super) fn is_empty(stream: &impl AsFd) -> bool {
    getsockopt(stream, MemInfo).is_ok_and(|held| held.is_some_and(|held| held[QUEUED] == 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_that_answers_less_than_it_was_asked_is_not_believed() {
        let bytes = |count: usize| Answer { length: count as libc::socklen_t, ..Answer::uninit() };
        #[allow(unsafe_code, reason = "nothing is uninitialised")]
        let known = |count| unsafe { bytes(count).assume_init() }.is_some();
        assert_eq!(
            [0, 4, QUEUED * 4 + 3, QUEUED * 4 + 4, size_of::<Held>()].map(known),
            [false, false, false, true, true]
        );
    }
}
