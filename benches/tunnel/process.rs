//! A child process that never outlives this one, and what /proc says of it.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{self, Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use std::{env, iter, thread};

use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// The whole run ends after this long, whatever happens.
const RUN_LIMIT: Duration = Duration::from_secs(600);
/// A process that was asked to end is killed after this long.
const END_LIMIT: Duration = Duration::from_secs(2);
/// The kernel counts a process's time in 1/100 s for /proc (USER_HZ).
const TICK: Duration = Duration::from_millis(10);
const PAGE: u64 = 4096;

/// Every child, and the directory that its contestant uses.
static RUNNING: Mutex<Vec<(Pid, PathBuf)>> = Mutex::new(Vec::new());

/// A running program, ended when dropped. Its standard input is an open pipe; what it says on standard error goes to a file.
pub(crate) struct Process {
    name: &'static str,
    child: Child,
    pid: Pid,
    log: PathBuf,
}

impl Process {
    /// Starts `command`, with its log in `directory`.
    pub(crate) fn spawn(name: &'static str, command: &mut Command, directory: &Path) -> io::Result<Self> {
        let log = directory.join(format!("{name}.log"));
        let child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(File::create(&log)?)
            .spawn()
            .map_err(|error| io::Error::other(format!("{name} cannot be run: {error}")))?;
        let pid = Pid::from_raw(child.id().cast_signed());
        running().push((pid, directory.to_owned()));
        Ok(Self { name, child, pid, log })
    }

    /// An error that quotes its last words if it has ended.
    pub(crate) fn check_running(&mut self) -> io::Result<()> {
        let Some(status) = self.child.try_wait()? else { return Ok(()) };
        let log = fs::read_to_string(&self.log)?;
        let last: Vec<&str> = log.lines().rev().take(3).collect();
        let how = status.signal().map_or_else(|| status.to_string(), |signal| format!("signal {signal}"));
        Err(io::Error::other(format!("{} ended ({how}): {}", self.name, last.join(" | "))))
    }

    /// User and system time used so far by all its threads.
    pub(crate) fn cpu(&self) -> io::Result<Duration> {
        let stat = self.proc("stat")?;
        // The second field is the program's name in parentheses, which may hold anything.
        let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
        let ticks: u32 = fields.skip(11).take(2).filter_map(|field| field.parse::<u32>().ok()).sum();
        Ok(TICK * ticks)
    }

    /// Bytes of its memory that are resident.
    pub(crate) fn resident(&self) -> io::Result<u64> {
        let statm = self.proc("statm")?;
        let pages = statm.split_whitespace().nth(1).and_then(|field| field.parse::<u64>().ok());
        pages.map(|pages| pages * PAGE).ok_or_else(|| io::Error::other(format!("{}: statm is '{statm}'", self.name)))
    }

    fn proc(&self, file: &str) -> io::Result<String> {
        fs::read_to_string(format!("/proc/{}/{file}", self.pid))
            .map_err(|error| io::Error::other(format!("{} is gone: {error}", self.name)))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        if !matches!(self.child.try_wait(), Ok(Some(_))) {
            let _ = signal::kill(self.pid, Signal::SIGTERM);
            let deadline = Instant::now() + END_LIMIT;
            while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
                thread::sleep(Duration::from_millis(2));
            }
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        running().retain(|&(pid, _)| pid != self.pid);
    }
}

/// Where a program is installed. A user's PATH lacks the directories of Debian's daemons.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let directories = env::split_paths(&path).chain(iter::once("/usr/sbin".into()));
    directories.map(|directory| directory.join(name)).find(|program| program.is_file())
}

/// The first line that a program says of itself.
pub(crate) fn version(program: &str, argument: &str, line: usize) -> String {
    let output = find_program(program).and_then(|path| Command::new(path).arg(argument).output().ok());
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    text.lines().nth(line).map_or_else(|| format!("{program}, version unknown"), str::to_owned)
}

/// Ends the child processes and removes their directories when this process is told to end, or takes too long: neither runs destructors.
pub(crate) fn end_all_on_signal_or_overrun() -> io::Result<()> {
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM])?;
    thread::spawn(move || {
        if let Some(signal) = signals.forever().next() {
            end_all(&format!("ended by signal {signal}"), 128 + signal);
        }
    });
    thread::spawn(|| {
        thread::sleep(RUN_LIMIT);
        end_all(&format!("error: not done within {RUN_LIMIT:?}"), 1);
    });
    Ok(())
}

fn end_all(reason: &str, status: i32) -> ! {
    let _ = writeln!(io::stderr(), "{reason}");
    for (pid, directory) in running().iter() {
        let _ = signal::kill(*pid, Signal::SIGKILL);
        let _ = fs::remove_dir_all(directory);
    }
    process::exit(status);
}

fn running() -> MutexGuard<'static, Vec<(Pid, PathBuf)>> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}
