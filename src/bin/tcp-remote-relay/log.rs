//! The relay's log: lines wait in a bounded queue for a thread of their own, so that a reader of standard error that
//! stands still does not hold up the relay.

use std::fmt;
use std::io::{self, BufWriter, IsTerminal, Stderr, Write};
use std::sync::{Arc, OnceLock, mpsc};
use std::thread;
use std::time::Duration;

use clap::ValueEnum;
use tcpremote::journal;
use tracing::level_filters::LevelFilter;
use tracing::{Event, Subscriber};
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::fmt::FmtContext;
use tracing_subscriber::fmt::format::{self, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use super::output::Failure;

/// Lines that may wait for the reader; what comes then is dropped and counted. About a megabyte.
const QUEUE: usize = 4096;
/// How long the last lines may take at the end.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);
/// Bytes of lines that are written in one call: what a pipe takes as a whole, so that no line is cut by another writer's.
const BUFFER: usize = 4096;
/// How long lines gather after one was written. While the thread sleeps, a line costs the relay no wake-up, and many of
/// them one write.
const GATHERED: Duration = Duration::from_millis(10);

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Level {
    Error,
    Warn,
    Info,
    Debug,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Format {
    Text,
    Json,
}

/// The running log.
pub(crate) struct Log {
    guard: WorkerGuard,
}

impl Log {
    /// One line an event on standard error, coloured only for a person. In the journal of systemd a text begins with what is
    /// no field of the journal.
    pub(crate) fn start(level: Level, format: Format) -> Result<Self, Failure> {
        // The log's own thread panics where the system gives none.
        let tried = thread::Builder::new().spawn(|| ()).map(|thread| drop(thread.join()));
        tried.map_err(|reason| Failure::System(format!("cannot start the log's thread: {reason}")))?;
        let level = match level {
            Level::Error => LevelFilter::ERROR,
            Level::Warn => LevelFilter::WARN,
            Level::Info => LevelFilter::INFO,
            Level::Debug => LevelFilter::DEBUG,
        };
        let counter = Arc::new(OnceLock::new());
        let output = BufWriter::with_capacity(BUFFER, io::stderr());
        let writer = Writer { output, counter: Arc::clone(&counter), reported: 0 };
        let builder = NonBlockingBuilder::default().lossy(true).buffered_lines_limit(QUEUE).thread_name("log");
        let (queue, guard) = builder.finish(writer);
        // It is set here alone.
        let _ = counter.set(queue.error_counter());
        let log = tracing_subscriber::fmt()
            .with_max_level(level)
            .with_target(false)
            .with_ansi(io::stderr().is_terminal())
            // An error about a standard error without a reader would panic, and end every client.
            .log_internal_errors(false)
            .with_writer(queue);
        match (format, journal::is_standard_error()) {
            (Format::Text, false) => log.init(),
            (Format::Text, true) => log.without_time().with_level(false).map_event_format(WithPriority).init(),
            (Format::Json, false) => log.json().flatten_event(true).init(),
            (Format::Json, true) => log.json().flatten_event(true).map_event_format(WithPriority).init(),
        }
        Ok(Self { guard })
    }

    /// Writes what waits, as far as the reader takes it in time.
    pub(crate) fn finish(self) {
        let (done, is_done) = mpsc::channel();
        // The guard prints where the queue stays full, which may block, too.
        let finish = move || {
            drop(self.guard);
            // The receiver is gone where it took too long.
            let _ = done.send(());
        };
        // Where there is no thread for it, it is dropped here.
        let _ = thread::Builder::new().spawn(finish);
        let _ = is_done.recv_timeout(FLUSH_TIMEOUT);
    }
}

/// Puts before a line how severe it is, as sd-daemon(3) has it. The journal takes that away.
struct WithPriority<F>(F);

impl<S, N, F> FormatEvent<S, N> for WithPriority<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: format::Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let priority = match *event.metadata().level() {
            tracing::Level::ERROR => journal::ERROR,
            tracing::Level::WARN => journal::WARNING,
            tracing::Level::INFO => journal::INFO,
            _ => journal::DEBUG,
        };
        writer.write_str(priority)?;
        self.0.format_event(context, writer, event)
    }
}

/// Standard error, which says how many lines were dropped as soon as it has taken those that waited.
struct Writer {
    output: BufWriter<Stderr>,
    counter: Arc<OnceLock<ErrorCounter>>,
    reported: usize,
}

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.output.write(bytes)
    }

    /// Called when no line waits.
    fn flush(&mut self) -> io::Result<()> {
        let dropped = self.counter.get().map_or(0, ErrorCounter::dropped_lines);
        if dropped > self.reported {
            tracing::warn!(lines = dropped - self.reported, "the log was not read fast enough; lines were dropped");
            self.reported = dropped;
        }
        // An error would hide from the log's thread that the relay ends, which then waits for it for a second. Nobody could
        // be told of it anyway.
        let _ = self.output.flush();
        thread::sleep(GATHERED);
        Ok(())
    }
}
