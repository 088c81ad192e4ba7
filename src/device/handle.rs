//! The owner's end of a tunnel: starts the loop thread, asks it, stops it.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::panic::{self, AssertUnwindSafe};
use std::process;
use std::sync::{Arc, Once};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow, Signal};

#[cfg(feature = "tls")]
use super::Announcement;
use super::event::{Event, Status};
use super::shared::Shared;
use super::{Config, driver, resolver};
use crate::Error;
use crate::io::event_loop::EventLoop;

/// The name of every loop thread; also how the panic hook knows them.
const THREAD_NAME: &str = "tcpremote";

/// How long [`Handle::close`] waits for the thread before it leaves it behind: longer than the driver's own flush.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(3);

/// How long dropping a [`Handle`] waits for what is being stored, once the last bytes are sent: a disk that works needs no
/// more at the end of a program. The host's collector drops it, and is not to wait for a lock or for a disk that hangs.
const STORE_GRACE: Duration = Duration::from_millis(100);

/// One tunnel. Dropping it closes the tunnel, and leaves to the thread what takes long to be stored; except in a forked child,
/// where it touches nothing.
#[derive(Debug)]
pub struct Handle {
    shared: Arc<Shared>,
    /// The process that started the thread; in any other there is no thread.
    process: u32,
}

/// Why [`Handle::wait`] came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// An event can be taken.
    Ready,
    /// The time is up.
    Timeout,
    /// A signal arrived; its handler has run.
    Interrupted,
}

impl Handle {
    /// Spawns the loop thread, which resolves, connects and sends LISTEN; does not wait for it.
    ///
    /// # Errors
    /// [`Error::System`] if the poll, its waker or the thread cannot be made.
    pub fn start(config: Config) -> Result<Self, Error> {
        let system = |what: &str| {
            let what = format!("cannot start the tunnel: {what}");
            move |reason| Error::System { what, reason }
        };
        let event_loop = EventLoop::new().map_err(system("event loop"))?;
        let shared = Shared::new(config.server.clone(), event_loop.waker()).map_err(system("event notification"))?;
        let shared = Arc::new(shared);
        let thread_shared = Arc::clone(&shared);
        silence_our_panics();
        // The thread inherits the mask at its birth: the host's handlers must never run on it.
        let mask = block_signals().map_err(system("signal mask"))?;
        let spawned =
            thread::Builder::new().name(THREAD_NAME.into()).spawn(move || run(&config, event_loop, &thread_shared));
        restore_signals(&mask);
        spawned.map_err(system("thread"))?;
        Ok(Self { shared, process: process::id() })
    }

    /// What the tunnel is doing now.
    pub fn status(&self) -> Result<Status, Error> {
        self.check_process()?;
        Ok(self.shared.status())
    }

    /// What the relay said when it last admitted the device, once it has, to be stored for the next start. A link in TLS
    /// alone has that.
    #[cfg(feature = "tls")]
    pub fn announcement(&self) -> Result<Option<Announcement>, Error> {
        self.check_process()?;
        Ok(self.shared.announcement())
    }

    /// The oldest event that was not taken yet.
    pub fn next_event(&self) -> Result<Option<Event>, Error> {
        self.check_process()?;
        Ok(self.shared.next_event())
    }

    /// Waits until [`Self::next_event`] has something, at most for `timeout` (for ever if `None`).
    ///
    /// # Errors
    /// [`Error::Closed`] when the tunnel is over and every event was taken: nothing will ever come.
    pub fn wait(&self, timeout: Option<Duration>) -> Result<Wait, Error> {
        self.check_process()?;
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        loop {
            if self.shared.has_event()? {
                return Ok(Wait::Ready);
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Ok(Wait::Timeout);
            }
            // Rounded up, so that the last fraction of a millisecond does not spin.
            let timeout = left.map_or(PollTimeout::NONE, |left| {
                PollTimeout::try_from(left + Duration::from_micros(999)).unwrap_or(PollTimeout::MAX)
            });
            match poll(&mut [PollFd::new(self.shared.as_fd(), PollFlags::POLLIN)], timeout) {
                Ok(_) => {}
                Err(Errno::EINTR) => return Ok(Wait::Interrupted),
                Err(errno) => return Err(Error::System { what: "wait".into(), reason: errno.into() }),
            }
        }
    }

    /// A descriptor that is readable while an event can be taken. It belongs to the tunnel; do not read or close it.
    pub fn fd(&self) -> Result<RawFd, Error> {
        self.check_process()?;
        Ok(self.shared.as_fd().as_raw_fd())
    }

    /// Makes the link anew now: a wait is over, an attempt begins again, and a link in use is replaced once the relay has
    /// answered on the next. Does not wait for it; events say what becomes of it.
    ///
    /// # Errors
    /// [`Error::Closed`] if the tunnel is over.
    pub fn reconnect(&self) -> Result<(), Error> {
        self.check_process()?;
        if self.shared.is_over() {
            return Err(Error::Closed);
        }
        self.shared.request_reconnect();
        Ok(())
    }

    /// Sends no LISTEN for so long, so that another tunnel may take this one's place and not lose it again to a link that
    /// is being made. The link in use goes on; only one in the state [`State::Greeting`](super::State::Greeting) has sent
    /// LISTEN already. Zero ends it.
    pub fn hold(&self, time: Duration) -> Result<(), Error> {
        self.check_process()?;
        self.shared.hold(time);
        Ok(())
    }

    /// Sends what was read from services, ends every client, the link and the thread. Bounded in time; may be
    /// called again.
    pub fn close(&self) -> Result<(), Error> {
        self.close_within(CLOSE_TIMEOUT).map(|_| ())
    }

    /// Does what [`Self::close`] does, and waits for it at most for `timeout`: true if the tunnel is over by then.
    pub fn close_within(&self, timeout: Duration) -> Result<bool, Error> {
        self.check_process()?;
        self.shared.request_stop();
        Ok(self.shared.await_over(timeout.min(CLOSE_TIMEOUT)))
    }

    /// Makes the loop thread panic at its next turn.
    #[cfg(any(test, feature = "fault-injection"))]
    pub fn inject_panic(&self) {
        self.shared.inject_panic();
    }

    fn check_process(&self) -> Result<(), Error> {
        if self.process == process::id() { Ok(()) } else { Err(Error::Forked) }
    }
}

impl AsFd for Handle {
    /// What [`fd`](Self::fd) gives, in whichever process.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.shared.as_fd()
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if self.check_process().is_err() {
            // In a forked child the report may be locked for ever by a thread that does not exist here.
            return std::mem::forget(Arc::clone(&self.shared));
        }
        self.shared.request_stop();
        self.shared.await_flushed(CLOSE_TIMEOUT);
        self.shared.await_over(STORE_GRACE);
    }
}

/// The thread's whole life: a panic ends here and becomes the tunnel's last error.
fn run(config: &Config, event_loop: EventLoop, shared: &Arc<Shared>) {
    let result = panic::catch_unwind(AssertUnwindSafe(|| driver::run(config, event_loop, shared)));
    shared.over(result.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<&str>().map(ToString::to_string);
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
        Err(Error::Internal(text.unwrap_or_else(|| "panic".into())))
    }));
}

/// Keeps the loop thread's panics off the host's standard error; they are reported as events.
fn silence_our_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let previous = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let thread = thread::current();
            if !matches!(thread.name(), Some(THREAD_NAME | resolver::THREAD_NAME)) {
                previous(info);
            }
        }));
    });
}

/// Blocks every signal that is not the direct consequence of an instruction; gives back the mask that was.
fn block_signals() -> io::Result<SigSet> {
    let mut set = SigSet::all();
    for signal in [
        Signal::SIGSEGV,
        Signal::SIGBUS,
        Signal::SIGFPE,
        Signal::SIGILL,
        Signal::SIGTRAP,
        Signal::SIGABRT,
        Signal::SIGSYS,
    ] {
        set.remove(signal);
    }
    Ok(set.thread_swap_mask(SigmaskHow::SIG_SETMASK)?)
}

fn restore_signals(mask: &SigSet) {
    // Setting a mask that the kernel gave out cannot fail.
    let _ = mask.thread_set_mask();
}
