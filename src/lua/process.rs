//! What the command `tcpremote` asks of its process, which is its own. A module may do none of this to a host, so nothing
//! here happens unless it is called, and the command alone calls it.

use std::ffi::OsStr;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, IntoRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use mlua::{AnyUserData, Lua, LuaString, Table, UserData, UserDataMethods};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::{Gid, Uid, User, setgid, setuid};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::low_level::pipe;

use super::{Tunnel, answer, timeout};
use crate::{Error, journal, service_manager};

/// The last of the standard files: output of errors.
const LAST_STANDARD: i32 = 2;

/// The signals that ask the process to end.
struct Termination {
    /// Holds a byte once one has come, for good.
    has_come: UnixStream,
}

/// The functions, as Lua sees them.
pub(super) fn functions(lua: &Lua) -> mlua::Result<Table> {
    let functions = lua.create_table()?;
    let failed = |what: &str, reason| Error::System { what: what.into(), reason };
    functions.set(
        "open_standard_files",
        lua.create_function(|_, ()| {
            // Where there is no /dev/null, nothing else would help.
            let _ = open_standard_files();
            Ok(())
        })?,
    )?;
    functions.set(
        "become_owner",
        lua.create_function(move |lua, directory: LuaString| {
            let owned = become_owner(Path::new(OsStr::from_bytes(&directory.as_bytes()))).map(|()| true);
            let what = format!("cannot become the owner of '{}'", directory.to_string_lossy().escape_debug());
            answer(lua, owned.map_err(|reason| failed(&what, reason)))
        })?,
    )?;
    functions.set(
        "termination",
        lua.create_function(move |lua, ()| {
            answer(lua, Termination::new().map_err(|reason| failed("cannot wait for signals", reason)))
        })?,
    )?;
    functions.set("logs_to_journal", lua.create_function(|_, ()| Ok(journal::is_standard_error()))?)?;
    functions.set(
        "notify",
        lua.create_function(|_, state: LuaString| {
            // The service goes on without its manager.
            let _ = service_manager::notify(&state.to_string_lossy(), Some(service_manager::TIMEOUT));
            Ok(())
        })?,
    )?;
    Ok(functions)
}

/// Opens what is closed of the standard files. Else a socket would get the number of one, and the next line of the log
/// would go to the relay.
fn open_standard_files() -> io::Result<()> {
    loop {
        let file = OpenOptions::new().read(true).write(true).open("/dev/null")?;
        if file.as_raw_fd() > LAST_STANDARD {
            return Ok(());
        }
        // It stays open.
        let _ = file.into_raw_fd();
    }
}

/// Root goes on as the user to whom a directory belongs, so that what it writes there can be read by that user's service.
/// The group is that user's own, and never root's, which a `chown USER` leaves the directory.
fn become_owner(directory: &Path) -> io::Result<()> {
    let owner = match fs::metadata(directory) {
        Ok(metadata) if metadata.is_dir() && metadata.uid() != 0 && Uid::effective().is_root() => metadata,
        // It is looked at again when it is used, and then what is wrong is reported.
        Ok(_) | Err(_) => return Ok(()),
    };
    // There is no setgroups in the nix of macOS, and no service there that has a user of its own.
    #[cfg(not(target_vendor = "apple"))]
    nix::unistd::setgroups(&[])?;
    let uid = Uid::from_raw(owner.uid());
    let own = User::from_uid(uid).ok().flatten().map_or_else(|| owner.gid(), |user| user.gid.as_raw());
    setgid(Gid::from_raw(if own == 0 { owner.uid() } else { own }))?;
    setuid(uid)?;
    Ok(())
}

impl Termination {
    /// From here on a signal is reported, and does not end the process.
    fn new() -> io::Result<Self> {
        let (has_come, writer) = UnixStream::pair()?;
        for signal in [SIGTERM, SIGINT] {
            pipe::register(signal, writer.try_clone()?)?;
        }
        Ok(Self { has_come })
    }

    /// Waits until a signal has come, or the tunnel has an event, or the time is up: true for the first.
    fn wait(&self, tunnel: Option<&Tunnel>, time: Option<Duration>) -> Result<bool, Error> {
        let mut files = vec![PollFd::new(self.has_come.as_fd(), PollFlags::POLLIN)];
        files.extend(tunnel.and_then(Tunnel::notifier).map(|events| PollFd::new(events, PollFlags::POLLIN)));
        let time = time.map_or(PollTimeout::NONE, |time| PollTimeout::try_from(time).unwrap_or(PollTimeout::MAX));
        match poll(&mut files, time) {
            Ok(_) | Err(Errno::EINTR) => Ok(files[0].any().unwrap_or(false)),
            Err(errno) => Err(Error::System { what: "wait".into(), reason: errno.into() }),
        }
    }
}

impl UserData for Termination {
    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        methods.add_method("wait", |lua, this, (tunnel, seconds): (Option<AnyUserData>, Option<f64>)| {
            let tunnel = tunnel.as_ref().map(AnyUserData::borrow::<Tunnel>).transpose()?;
            answer(lua, this.wait(tunnel.as_deref(), timeout(seconds)))
        });
    }
}
