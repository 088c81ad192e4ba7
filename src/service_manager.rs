//! What a service tells the program that started it, systemd or another, as sd_notify(3) has it.

use std::env;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// The variable that names the manager's socket.
pub(crate) const SOCKET: &str = "NOTIFY_SOCKET";
/// How long a message may wait for a manager that does not read.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(1);

/// Sends lines of `KEY=value`. Without `NOTIFY_SOCKET` in the environment there is nobody to tell, and nothing is sent.
///
/// # Errors
/// The manager has not taken the message; within this time, if there is one.
pub(crate) fn notify(message: &str, within: Option<Duration>) -> io::Result<()> {
    env::var_os(SOCKET).map_or(Ok(()), |name| send(&name, message, within))
}

fn send(name: &OsStr, message: &str, within: Option<Duration>) -> io::Result<()> {
    let socket = UnixDatagram::unbound()?;
    socket.set_write_timeout(within)?;
    socket.connect_addr(&address(name)?)?;
    socket.send(format!("{message}\n").as_bytes()).map(drop)
}

/// A file, or with an `@` in front a name in the abstract namespace.
fn address(name: &OsStr) -> io::Result<SocketAddr> {
    #[cfg(any(target_os = "android", target_os = "linux"))]
    if let Some(name) = name.as_bytes().strip_prefix(b"@") {
        #[cfg(target_os = "android")]
        use std::os::android::net::SocketAddrExt;
        #[cfg(target_os = "linux")]
        use std::os::linux::net::SocketAddrExt;
        return SocketAddr::from_abstract_name(name);
    }
    SocketAddr::from_pathname(OsStr::from_bytes(name.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Option<Duration> = Some(Duration::from_millis(1));

    #[test]
    fn a_manager_that_does_not_read_holds_nobody_up() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("notify");
        let gone = send(path.as_os_str(), "READY=1", SOON).expect_err("nobody is there");
        assert_eq!(gone.kind(), io::ErrorKind::NotFound);
        let manager = UnixDatagram::bind(&path).expect("a socket");
        let full = std::iter::repeat_with(|| send(path.as_os_str(), "READY=1", SOON)).find_map(Result::err);
        assert_eq!(full.map(|reason| reason.kind()), Some(io::ErrorKind::WouldBlock));
        let mut buffer = [0; 64];
        assert_eq!(manager.recv(&mut buffer).map(|length| &buffer[..length]).expect("a message"), b"READY=1\n");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_name_with_an_at_sign_is_one_of_the_abstract_namespace() {
        use std::os::linux::net::SocketAddrExt;
        let name = format!("tcpremote-test-{}", std::process::id());
        let manager = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).expect("an address"));
        let manager = manager.expect("a socket");
        send(OsStr::new(&format!("@{name}")), "READY=1", SOON).expect("sent");
        let mut buffer = [0; 64];
        assert_eq!(manager.recv(&mut buffer).map(|length| &buffer[..length]).expect("a message"), b"READY=1\n");
    }
}
