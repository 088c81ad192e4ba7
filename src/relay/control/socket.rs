//! The socket file, who is at its other end, and lines that are bounded in size and time.

use std::io::{self, Read, Write};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::Mode;
use rustix::process::umask;

/// The socket's name in the state directory.
const NAME: &str = "control";
/// Nobody but the owner may connect.
const MASK: u32 = 0o177;

/// Where the relay of a state directory listens for commands.
pub(super) fn path(state: &Path) -> PathBuf {
    state.join(NAME)
}

/// Listens at the path. One that a relay left behind is replaced: whoever has the state directory is the only relay.
pub(super) fn bind(path: &Path) -> io::Result<UnixListener> {
    match std::fs::symlink_metadata(path) {
        Ok(metadata) if metadata.file_type().is_socket() => std::fs::remove_file(path)?,
        Ok(_) => return Err(io::Error::new(io::ErrorKind::AlreadyExists, "another file is there; remove it")),
        Err(_) => {}
    }
    // The socket has its permissions from the moment on which it is there.
    let before = umask(Mode::from_raw_mode(MASK));
    let bound = UnixListener::bind(path);
    umask(before);
    bound
}

/// The user that is at the other end.
#[cfg(any(target_os = "android", target_os = "linux"))]
pub(super) fn peer_uid(stream: &UnixStream) -> Option<u32> {
    rustix::net::sockopt::socket_peercred(stream).ok().map(|credentials| credentials.uid.as_raw())
}

/// Elsewhere the socket's permissions alone tell.
#[cfg(not(any(target_os = "android", target_os = "linux")))]
pub(super) fn peer_uid(_: &UnixStream) -> Option<u32> {
    None
}

/// A line, without its end.
pub(super) fn read_line(mut stream: &UnixStream, most: usize, deadline: Instant) -> io::Result<Vec<u8>> {
    let (mut line, mut buffer) = (Vec::new(), [0; 16 * 1024]);
    loop {
        stream.set_read_timeout(Some(left(deadline)?))?;
        let read = match stream.read(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(io::ErrorKind::TimedOut.into()),
            read => read?,
        };
        let bytes = &buffer[..read];
        if let Some(end) = bytes.iter().position(|&byte| byte == b'\n') {
            line.extend(&bytes[..end]);
            return Ok(line);
        }
        if bytes.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        line.extend(bytes);
        if line.len() > most {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a line of more than {most} bytes")));
        }
    }
}

/// Writes all in time.
pub(super) fn write_all(mut stream: &UnixStream, mut bytes: &[u8], deadline: Instant) -> io::Result<()> {
    while !bytes.is_empty() {
        stream.set_write_timeout(Some(left(deadline)?))?;
        match stream.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(io::ErrorKind::TimedOut.into()),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}
