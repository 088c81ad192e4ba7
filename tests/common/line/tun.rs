//! A network interface whose packets a program reads and writes.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;

use nix::fcntl::OFlag;
use rustix::ioctl::{Opcode, Setter, ioctl, opcode};

/// `TUNSETIFF`, which is declared to take an `int`, and takes a `struct ifreq`.
const SET_INTERFACE: Opcode = opcode::write::<i32>(b'T', 202);
/// `IFF_TUN | IFF_NO_PI`: packets of IP, and nothing in front of them.
const FLAGS: u16 = 0x0001 | 0x1000;

/// The interface is there until this is dropped.
#[derive(Debug)]
pub(crate) struct Tun(File);

/// `struct ifreq`, with the member of its union that is used here.
#[repr(C)]
struct Request {
    name: [u8; 16],
    flags: u16,
    rest: [u8; 22],
}

impl Tun {
    /// A new interface in the network namespace of this thread.
    pub(crate) fn open(interface: &str) -> io::Result<Self> {
        let nonblocking = OFlag::O_NONBLOCK.bits();
        let file = OpenOptions::new().read(true).write(true).custom_flags(nonblocking).open("/dev/net/tun")?;
        let mut request = Request { name: [0; 16], flags: FLAGS, rest: [0; 22] };
        request.name[..interface.len()].copy_from_slice(interface.as_bytes());
        #[allow(unsafe_code, reason = "no crate that is used here has this call")]
        // SAFETY: the kernel reads a `struct ifreq`, which `Request` has the size and layout of, and writes nothing back
        // that is used: `Setter` passes a pointer to a value of its own.
        unsafe {
            ioctl(&file, Setter::<SET_INTERFACE, Request>::new(request))?;
        }
        Ok(Self(file))
    }

    /// One packet, if there is one.
    pub(crate) fn read(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        match (&self.0).read(buffer) {
            Ok(size) => Ok(Some(size)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(crate) fn write(&self, packet: &[u8]) -> io::Result<()> {
        (&self.0).write(packet).map(drop)
    }
}

impl AsFd for Tun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
