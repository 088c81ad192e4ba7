//! Runs the relay of a configuration file.

use std::io;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use tcpremote::Error;
use tcpremote::relay::control::{Control, Operations};
use tcpremote::relay::file::{self, File};
use tcpremote::relay::file_system;
use tcpremote::relay::keys::Keys;
use tcpremote::relay::notify;
use tcpremote::relay::registry::{Registry, SqliteRegistry};
use tcpremote::relay::reloader::{Reloader, read_keys, reserve_name};
use tcpremote::relay::{Inherited, Outcome, Server, warnings};

use super::files::next_key_beside;
use super::log::{Format, Level, Log};
use super::output::{self, Failure};
use super::process;

/// Runs until a signal ends it.
pub(crate) fn run(config: &Path) -> ExitCode {
    // Before there is a log: a person reads this, or systemd's journal does.
    let read = File::read(config).map_err(|error| Failure::Usage(error.to_string()));
    let read = read.and_then(|file| read_keys(&file).map(|keys| (file, keys)).map_err(Failure::Usage));
    let (file, keys) = match read {
        Ok(read) => read,
        Err(failure) => return output::finish(Err(failure)),
    };
    let log = match Log::start(level(file.level), format(file.format)) {
        Ok(log) => log,
        Err(failure) => return output::finish(Err(failure)),
    };
    let status = process::status_of(serve(config, file, keys));
    log.finish();
    status
}

fn serve(config: &Path, file: File, keys: Option<Keys>) -> Result<Outcome, Error> {
    // Before there are other descriptors, which one of these could be taken for.
    let inherited = Inherited::of_process()?;
    process::raise_descriptor_limit();
    let signals = process::Signals::new(true)?;
    let registry = SqliteRegistry::open(&file.state).map_err(|error| Error::System {
        what: "the registry cannot be opened".into(),
        reason: io::Error::other(error),
    })?;
    // Once the directory is there.
    for text in next_key_beside(&file).into_iter().chain(file_system::warning(&file.state)) {
        tracing::warn!("{text}");
    }
    let registry: Arc<dyn Registry> = Arc::new(registry);
    // It serves all others, and no client of the one reaches the other.
    if let Err(text) = reserve_name(&file, &*registry) {
        tracing::error!("{text}; until then the device of the registry is refused");
    }
    if let Some(warning) = warnings::unknown_devices(&file, &registry.snapshot()) {
        tracing::warn!("{warning}");
    }
    let mut server = Server::hold(file.config(keys.as_ref(), &registry)?, inherited)?;
    let state = file.state.clone();
    let reloader = Arc::new(Reloader::new(config.to_owned(), file, keys, server.controller()));
    let operations = Arc::new(Operations::new(Arc::clone(&registry), Arc::clone(&reloader)));
    let control = Control::open(&state, operations)?;
    notify::watch(server.controller());
    let known = Arc::clone(&registry);
    let hangup = move || {
        tracing::info!("reading the configuration again, as SIGHUP asks");
        // What is wrong is logged.
        let _ = reloader.reload(&known);
    };
    let watch = signals.watch(server.stopper(), Some(Box::new(hangup)))?;
    // Nobody is let in, or told that the relay runs, before all has been done that can fail.
    server.open()?;
    notify::started();
    let outcome = server.run();
    drop(control);
    watch.end();
    // Whatever a command or a reload still waits for, all is in the registry's file.
    registry.close();
    outcome
}

fn level(level: file::Level) -> Level {
    match level {
        file::Level::Error => Level::Error,
        file::Level::Warn => Level::Warn,
        file::Level::Info => Level::Info,
        file::Level::Debug => Level::Debug,
    }
}

fn format(format: file::Format) -> Format {
    match format {
        file::Format::Text => Format::Text,
        file::Format::Json => Format::Json,
    }
}
