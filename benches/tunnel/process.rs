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
const RUN_LIMIT: Duration = Duration::from_secs(1800);
/// A process that was asked to end is killed after this long.
const END_LIMIT: Duration = Duration::from_secs(2);
const PAGE: u64 = 4096;

/// Every child, and the directory that its contestant uses.
static RUNNING: Mutex<Vec<(Pid, PathBuf)>> = Mutex::new(Vec::new());

/// A running program, ended when dropped, and so is what it has started itself, a process for each connection for
/// example. Its standard input is an open pipe; what it says on standard error goes to a file.
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

    /// It and what it has started, and so on.
    pub(crate) fn family(&self) -> io::Result<Vec<Pid>> {
        family(self.pid)
    }

    /// User and system time used so far by all threads of its family.
    pub(crate) fn cpu(&self) -> io::Result<Duration> {
        // In ns, first in a thread's schedstat; the process's stat counts in 1/100 s, too coarse for a short window.
        self.sum(|pid| {
            let threads = fs::read_dir(format!("/proc/{pid}/task"))?.filter_map(Result::ok);
            let times = threads.filter_map(|thread| {
                let schedstat = fs::read_to_string(thread.path().join("schedstat")).ok()?;
                schedstat.split_whitespace().next()?.parse().ok()
            });
            Ok(times.map(Duration::from_nanos).sum())
        })
    }

    /// Bytes of its family's memory that are resident.
    pub(crate) fn resident(&self) -> io::Result<u64> {
        self.sum(|pid| {
            let statm = proc(pid, "statm")?;
            let pages = statm.split_whitespace().nth(1).and_then(|field| field.parse::<u64>().ok());
            pages.map(|pages| pages * PAGE).ok_or_else(|| io::Error::other(format!("statm is '{statm}'")))
        })
    }

    fn sum<T: iter::Sum>(&self, of: impl Fn(Pid) -> io::Result<T>) -> io::Result<T> {
        let itself = of(self.pid).map_err(|error| io::Error::other(format!("{} is gone: {error}", self.name)))?;
        // A descendant may end at any time, and counts no more then.
        let descendants = self.family()?.into_iter().skip(1).filter_map(|pid| of(pid).ok());
        Ok(iter::once(itself).chain(descendants).sum())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        if !matches!(self.child.try_wait(), Ok(Some(_))) {
            let deadline = Instant::now() + END_LIMIT;
            // The youngest first, so that each is waited for by its own parent.
            for pid in self.family().unwrap_or_default().into_iter().rev() {
                let _ = signal::kill(pid, Signal::SIGTERM);
                while pid != self.pid && proc(pid, "stat").is_ok() && Instant::now() < deadline {
                    thread::sleep(Duration::from_millis(2));
                }
            }
            while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
                thread::sleep(Duration::from_millis(2));
            }
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        running().retain(|&(pid, _)| pid != self.pid);
    }
}

/// A process and all below it, the process itself first. The kernel lists parents, not children.
fn family(first: Pid) -> io::Result<Vec<Pid>> {
    let numbers = fs::read_dir("/proc")?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let parents: Vec<(Pid, Pid)> = numbers.map(Pid::from_raw).filter_map(|pid| Some((pid, parent(pid)?))).collect();
    let mut family = vec![first];
    let mut place = 0;
    while let Some(&parent) = family.get(place) {
        family.extend(parents.iter().filter(|&&(_, of)| of == parent).map(|&(pid, _)| pid));
        place += 1;
    }
    Ok(family)
}

fn parent(pid: Pid) -> Option<Pid> {
    let stat = proc(pid, "stat").ok()?;
    // State and parent come after the program's name, which stands in parentheses and may hold anything.
    let parent = stat.rsplit(')').next()?.split_whitespace().nth(1)?.parse().ok()?;
    Some(Pid::from_raw(parent))
}

fn proc(pid: Pid, file: &str) -> io::Result<String> {
    fs::read_to_string(format!("/proc/{pid}/{file}"))
}

/// Where cargo builds, and where `make bench-peers` installs.
pub(crate) fn target_directory() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_tcp-remote-relay")).ancestors().nth(2).unwrap_or_else(|| Path::new("target"))
}

/// Where a program is installed: by `make bench-peers`, or for all. A user's PATH lacks the directories of Debian's
/// daemons.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let peers = iter::once(target_directory().join("bench-peers/bin"));
    let directories = peers.chain(env::split_paths(&path)).chain(iter::once("/usr/sbin".into()));
    directories.map(|directory| directory.join(name)).find(|program| program.is_file())
}

/// A line of what a program says of itself, on standard output or, as ssh does, standard error.
pub(crate) fn version(program: &str, argument: &str, line: usize) -> String {
    let output = find_program(program).and_then(|path| Command::new(path).arg(argument).output().ok());
    let said = output.map(|output| [output.stdout, output.stderr].concat()).unwrap_or_default();
    let text = String::from_utf8_lossy(&said);
    text.lines().nth(line).map_or_else(|| format!("{program}, version unknown"), str::to_owned)
}

/// Ends the child processes and removes their directories when a signal ends this process, or it takes too long: neither
/// runs destructors.
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
        for member in family(*pid).unwrap_or_else(|_| vec![*pid]) {
            let _ = signal::kill(member, Signal::SIGKILL);
        }
        let _ = fs::remove_dir_all(directory);
    }
    process::exit(status);
}

fn running() -> MutexGuard<'static, Vec<(Pid, PathBuf)>> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}
