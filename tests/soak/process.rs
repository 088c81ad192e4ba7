//! Child processes that do not outlive the run, however it ends.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use std::{process, thread};

use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// Every child that may still run.
static RUNNING: Mutex<Vec<Pid>> = Mutex::new(Vec::new());

/// What a pipe for standard error holds: so little that it is soon full when it is not read.
const PIPE: i32 = 4096;
/// How often a reader that stands still looks whether to go on.
const LOOK: Duration = Duration::from_millis(10);

/// A program that runs; killed when dropped.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
    /// Whether its standard error is not read.
    is_unread: Arc<AtomicBool>,
}

impl Process {
    /// What it says goes to the file `log`. Its standard input is a pipe that ends with this process.
    pub(crate) fn spawn(command: &mut Command, log: &Path) -> io::Result<Self> {
        let output = File::options().create(true).append(true).open(log)?;
        let mut child = command.stdin(Stdio::piped()).stdout(output.try_clone()?).stderr(Stdio::piped()).spawn()?;
        RUNNING.lock().expect("no panic").push(pid(&child));
        let is_unread = Arc::new(AtomicBool::new(false));
        if let Some(stderr) = child.stderr.take() {
            fcntl(&stderr, FcntlArg::F_SETPIPE_SZ(PIPE))?;
            let is_unread = Arc::clone(&is_unread);
            crate::small_thread().spawn(move || copy(stderr, output, &is_unread))?;
        }
        Ok(Self { child, log: log.into(), is_unread })
    }

    /// From now on its standard error is not read, or read again.
    pub(crate) fn leave_unread(&self, is_unread: bool) {
        self.is_unread.store(is_unread, Relaxed);
    }

    /// Writes a line to its standard input.
    pub(crate) fn write_line(&self, line: &str) {
        if let Some(mut stdin) = self.child.stdin.as_ref() {
            // It may have ended by itself, which is found out elsewhere.
            let _ = writeln!(stdin, "{line}");
        }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        // It may have ended by itself, which is found out elsewhere.
        let _ = kill(pid(&self.child), signal);
    }

    /// Its exit status (minus the signal, if one has ended it), once it has ended.
    pub(crate) fn status(&mut self) -> Option<i32> {
        use std::os::unix::process::ExitStatusExt;
        let status = self.child.try_wait().ok().flatten()?;
        Some(status.code().unwrap_or_else(|| -status.signal().unwrap_or(0)))
    }

    /// Waits until it has ended.
    pub(crate) fn wait(&mut self, limit: Duration) -> Option<i32> {
        let deadline = Instant::now() + limit;
        while Instant::now() < deadline {
            if let Some(status) = self.status() {
                return Some(status);
            }
            thread::sleep(Duration::from_millis(5));
        }
        None
    }

    /// Whether it has said this already.
    pub(crate) fn has_said(&self, text: &str) -> bool {
        let mut said = String::new();
        let read = File::open(&self.log).and_then(|file| file.take(64 * 1024).read_to_string(&mut said));
        read.is_ok() && said.contains(text)
    }

    /// Its last words.
    pub(crate) fn last_words(&self) -> String {
        let said = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = said.lines().rev().take(5).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.leave_unread(false);
        let ended = pid(&self.child);
        RUNNING.lock().expect("no panic").retain(|&pid| pid != ended);
    }
}

/// Copies what a process says into its log, until it and its children have ended.
fn copy(mut stderr: ChildStderr, mut log: File, is_unread: &AtomicBool) {
    let mut chunk = [0; PIPE as usize];
    loop {
        while is_unread.load(Relaxed) {
            thread::sleep(LOOK);
        }
        match stderr.read(&mut chunk) {
            Ok(count) if count > 0 && log.write_all(&chunk[..count]).is_ok() => {}
            Ok(_) | Err(_) => return,
        }
    }
}

/// Ends everything when a signal ends this process, or it has not ended by itself within `limit`.
pub(crate) fn guard(limit: Duration) -> io::Result<()> {
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM])?;
    thread::spawn(move || {
        if let Some(signal) = signals.forever().next() {
            end_all(&format!("ended by signal {signal}"), 128 + signal);
        }
    });
    thread::spawn(move || {
        thread::sleep(limit);
        end_all(&format!("not done within {} s: something hangs", limit.as_secs()), 1);
    });
    Ok(())
}

fn end_all(reason: &str, status: i32) -> ! {
    crate::say(reason);
    for &pid in RUNNING.lock().expect("no panic").iter() {
        let _ = kill(pid, Signal::SIGKILL);
    }
    process::exit(status);
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(child.id().cast_signed())
}
