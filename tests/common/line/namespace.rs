//! Network namespaces without a name.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::process::{self, Command};
use std::thread;

use nix::sched::{CloneFlags, setns, unshare};

/// A network namespace, which is there as long as anything is in it, or holds this.
#[derive(Debug)]
pub(crate) struct Namespace(File);

impl Namespace {
    pub(crate) fn new() -> io::Result<Self> {
        let inside = || {
            unshare(CloneFlags::CLONE_NEWNET)?;
            File::open("/proc/thread-self/ns/net").map(Self)
        };
        on_a_thread(inside)
    }

    /// Does `work` in the namespace, on a thread of its own, which the threads and processes that it starts are in too.
    pub(crate) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        on_a_thread(|| {
            setns(&self.0, CloneFlags::CLONE_NEWNET).expect("a way into a namespace of our own");
            work()
        })
    }

    /// What other programs find it by, while this process has it.
    pub(crate) fn path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", process::id(), self.0.as_raw_fd()).into()
    }
}

fn on_a_thread<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    // A panic goes on where the work was asked for.
    thread::scope(|scope| scope.spawn(work).join()).unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Runs a program of iproute2 in the namespace of this thread.
pub(crate) fn run(program: &str, arguments: &str) -> io::Result<()> {
    let told = |what: &str| io::Error::other(format!("{program} {arguments}: {}", what.trim()));
    let output = Command::new(program).args(arguments.split(' ')).output().map_err(|error| told(&error.to_string()))?;
    if output.status.success() { Ok(()) } else { Err(told(&String::from_utf8_lossy(&output.stderr))) }
}
