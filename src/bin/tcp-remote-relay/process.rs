//! The process: its signals, its limit of descriptors, and its exit status.

use std::io;
use std::process::ExitCode;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::{self, Handle};
use signal_hook::low_level;
use tcpremote::Error;
use tcpremote::relay::{Outcome, Stopper};

/// What cannot be done, or not now.
pub(crate) const EXIT_SYSTEM: u8 = 1;
/// What was asked for makes no sense, or is wrong in the configuration.
pub(crate) const EXIT_USAGE: u8 = 2;
/// Nobody reads the output: as a shell has it of a program that SIGPIPE ends.
pub(crate) const EXIT_UNREAD: u8 = 141;
/// Open clients had to be cut.
const EXIT_CUT: u8 = 3;

/// The status of a relay that has ended, which is logged where it is not 0.
pub(crate) fn status_of(result: Result<Outcome, Error>) -> ExitCode {
    match result {
        Ok(Outcome { clients_cut: 0 }) => ExitCode::SUCCESS,
        Ok(Outcome { clients_cut }) => {
            tracing::warn!(clients_cut, "ended while clients were open; they were cut");
            ExitCode::from(EXIT_CUT)
        }
        Err(error) => {
            tracing::error!(%error, "the relay cannot run");
            ExitCode::from(if matches!(error, Error::Usage(_)) { EXIT_USAGE } else { EXIT_SYSTEM })
        }
    }
}

/// The signals of the process, from when this is made.
pub(crate) struct Signals(iterator::Signals);

/// The thread that does what signals ask.
pub(crate) struct Watch {
    signals: Handle,
    thread: JoinHandle<()>,
}

/// What a hangup has done in place of the relay's end. It has a thread of its own: a signal to end must not wait for it.
pub(crate) type OnHangup = Box<dyn FnMut() + Send>;

impl Signals {
    /// Those that end the relay, and the hangup if it is wanted.
    pub(crate) fn new(with_hangup: bool) -> Result<Self, Error> {
        let mut wanted = vec![SIGINT, SIGTERM];
        if with_hangup {
            wanted.push(SIGHUP);
        }
        let signals = iterator::Signals::new(wanted);
        signals.map(Self).map_err(|reason| Error::System { what: "cannot watch for signals".into(), reason })
    }

    /// Has signals end the server. A hangup does something else, if that is given.
    ///
    /// # Errors
    /// [`Error::System`] if there is no thread for it.
    pub(crate) fn watch(mut self, stopper: Stopper, on_hangup: Option<OnHangup>) -> Result<Watch, Error> {
        let signals = self.0.handle();
        let failed = |reason| Error::System { what: "cannot watch for signals".into(), reason };
        let hangup = on_hangup.map(start_hangups).transpose().map_err(failed)?;
        let watch = move || {
            let mut is_ending = false;
            for signal in self.0.forever() {
                if signal == SIGHUP
                    && let Some(hangup) = &hangup
                {
                    // One that waits already reads what this one would.
                    let _ = hangup.try_send(());
                    continue;
                }
                // A terminal that is closed may send several, and none is a person who is impatient.
                if signal == SIGHUP && is_ending {
                    continue;
                }
                stopper.stop();
                is_ending = true;
                let name = low_level::signal_name(signal).unwrap_or_default();
                tracing::info!(signal = %name, "ending, as a signal asks");
                if hangup.is_some() {
                    tcpremote::relay::notify::stopping();
                }
            }
        };
        let thread = thread::Builder::new().name("signals".into()).spawn(watch).map_err(failed)?;
        Ok(Watch { signals, thread })
    }
}

impl Watch {
    pub(crate) fn end(self) {
        self.signals.close();
        // It has only a line to log.
        let _ = self.thread.join();
    }
}

fn start_hangups(mut on_hangup: OnHangup) -> io::Result<SyncSender<()>> {
    let (sender, hangups) = sync_channel(1);
    let wait = move || {
        while hangups.recv().is_ok() {
            on_hangup();
        }
    };
    thread::Builder::new().name("hangup".into()).spawn(wait)?;
    Ok(sender)
}

/// As many descriptors as may be had without asking: the soft limit is often 1,024 for the sake of select(2) alone.
pub(crate) fn raise_descriptor_limit() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
    {
        // Then it stays as it is, and the server says what does not fit.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

/// Whether the relay was started by nohup(1) or the like: then it is to outlive its terminal.
pub(crate) fn is_hangup_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|set| u64::from_str_radix(set.trim(), 16).ok());
    ignored.is_some_and(|set| set & 1 << (SIGHUP - 1) != 0)
}
