//! The configuration that is in force, and how it is replaced while the relay runs.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use tracing::{error, info, warn};

use super::file::File;
use super::keys::Keys;
use super::notify;
use super::registry::{self, PrincipalName, Registry};
use super::server::Controller;
use super::warnings;

/// Reads the configuration again, and has the server do what it says.
#[derive(Debug)]
pub struct Reloader {
    path: PathBuf,
    controller: Controller,
    /// Held for as long as a reload takes, which may wait for a name server.
    reload: Mutex<()>,
    /// What the relay was started with. Some of it holds until it is started again.
    started: Current,
    /// Held for as long as it takes to look.
    current: Mutex<Arc<File>>,
}

#[derive(Debug)]
struct Current {
    file: Arc<File>,
    keys: Option<Keys>,
}

/// A configuration that is in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// That it is, and for what the relay has to be restarted.
    pub text: String,
    /// What may not be meant.
    pub warnings: Vec<String>,
}

impl Reloader {
    /// Of a server that does what this file says.
    pub fn new(path: PathBuf, file: File, keys: Option<Keys>, controller: Controller) -> Self {
        let started = Current { file: Arc::new(file), keys };
        let current = Mutex::new(Arc::clone(&started.file));
        Self { path, controller, reload: Mutex::new(()), started, current }
    }

    /// What is in force.
    pub fn file(&self) -> Arc<File> {
        Arc::clone(&self.lock())
    }

    /// The keys that the relay proves; none without a port for TLS.
    pub fn keys(&self) -> Option<Keys> {
        self.started.keys.clone()
    }

    /// The running server.
    pub fn controller(&self) -> &Controller {
        &self.controller
    }

    /// Reads the file, checks all of it, and only then has the server change. What was not changed is not touched.
    ///
    /// # Errors
    /// What is wrong. All is as it was then.
    pub fn reload(&self, registry: &Arc<dyn Registry>) -> Result<Reloaded, String> {
        // One after the other.
        let _one = self.reload.lock().unwrap_or_else(PoisonError::into_inner);
        notify::reloading();
        let reloaded = self.replace(registry);
        match &reloaded {
            Ok(Reloaded { text, warnings }) => {
                for warning in warnings {
                    warn!("{warning}");
                }
                info!(file = %self.path.display(), "{text}");
                notify::ready();
            }
            Err(text) => {
                for line in text.lines() {
                    error!("{line}");
                }
                error!(file = %self.path.display(), "the configuration was not reloaded; the one before stays in force");
                notify::not_reloaded();
            }
        }
        reloaded
    }

    /// What may not be meant in a configuration that this relay could go on with.
    pub fn warnings(&self, file: &File, registry: &dyn Registry) -> Vec<String> {
        let unknown = warnings::unknown_devices(file, &registry.snapshot());
        unknown.into_iter().chain(warnings::lost_addresses(&self.started.file, file)).collect()
    }

    fn replace(&self, registry: &Arc<dyn Registry>) -> Result<Reloaded, String> {
        let (Current { file: started, keys: proved }, current) = (&self.started, self.file());
        let file = File::read(&self.path).map_err(|error| error.to_string())?;
        let keys = read_keys(&file)?;
        let config = |file: &File, keys: &Option<Keys>| file.config(keys.as_ref(), registry);
        let old = config(&current, proved).map_err(|error| error.to_string())?;
        let new = config(&file, &keys).map_err(|error| error.to_string())?;
        let later = needs_restart(started, proved.as_ref(), &file, keys.as_ref());
        let registry = &**registry;
        // Both names, so that neither is given away while it is not certain which one it will be.
        let done = reserve(&[&current, &file], registry)
            .and_then(|taken| check_name(&file, &taken))
            .and_then(|()| self.controller.reconfigure(&old, new).map_err(|error| error.to_string()));
        if let Err(text) = done {
            // Without its answer the name is still reserved, and so are both.
            let _ = reserve(&[&current], registry);
            return Err(text);
        }
        let _ = reserve(&[&file], registry);
        let warnings = self.warnings(&file, registry);
        *self.lock() = Arc::new(file);
        let mut text = String::from("the configuration is reloaded and in force");
        if !later.is_empty() {
            text.push_str(&format!("; but restart the relay for {}", later.join(", ")));
        }
        Ok(Reloaded { text, warnings })
    }

    fn lock(&self) -> MutexGuard<'_, Arc<File>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The keys that a configuration needs.
///
/// # Errors
/// They cannot be read.
pub fn read_keys(file: &File) -> Result<Option<Keys>, String> {
    let keys = file.tls.as_ref().map(|_| Keys::read(&file.key, &file.next_key));
    keys.transpose().map_err(|error| error.to_string())
}

/// Has no device with a key be called as the device without one, from here on.
///
/// # Errors
/// One is called so already, and keeps its name; or the registry gives no answer.
pub fn reserve_name(file: &File, registry: &dyn Registry) -> Result<(), String> {
    reserve(&[file], registry).and_then(|taken| check_name(file, &taken))
}

/// The same for several configurations; which of these names devices with a key have.
fn reserve(files: &[&File], registry: &dyn Registry) -> Result<Vec<PrincipalName>, String> {
    let names = files.iter().filter_map(|file| file.plain.as_ref());
    let names = names.map(|plain| PrincipalName::Device(plain.device.clone())).collect();
    registry::wait(|answer| registry.reserve(names, answer)).map_err(|error| error.to_string())
}

fn check_name(file: &File, taken: &[PrincipalName]) -> Result<(), String> {
    let Some(plain) = &file.plain else { return Ok(()) };
    if !taken.contains(&PrincipalName::Device(plain.device.clone())) {
        return Ok(());
    }
    Err(format!(
        "the device of listen.plain is called {}, as one of the registry is; give it another name",
        plain.device
    ))
}

/// What is new and is looked at only when the relay starts.
fn needs_restart(old: &File, old_keys: Option<&Keys>, new: &File, new_keys: Option<&Keys>) -> Vec<&'static str> {
    let pins = |keys: Option<&Keys>| keys.map(Keys::pins);
    let changed = [
        ("state", old.state != new.state),
        ("listen.tls", old.tls != new.tls),
        ("addresses, as links are told", old.tls.is_some() && new.tls.is_some() && old.addresses != new.addresses),
        ("the keys", old.tls.is_some() && new.tls.is_some() && pins(old_keys) != pins(new_keys)),
        ("log", (old.level, old.format) != (new.level, new.format)),
    ];
    changed.into_iter().filter(|(_, is_changed)| *is_changed).map(|(what, _)| what).collect()
}
