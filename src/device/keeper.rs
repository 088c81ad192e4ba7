//! Stores what a relay has said, beside the loop: a disk may hang.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::{io, thread};

use mio::Waker;

use super::membership::Membership;
use super::resolver::THREAD_NAME;
use super::state_dir::{StateDir, StateDirError};
use crate::identity::Pin;

/// Writes to the directory of one device, one thing after the other.
#[derive(Debug)]
pub(super) struct Keeper {
    directory: Arc<StateDir>,
    /// The key that was in force when the tunnel began, or was stored since.
    opened: Option<Pin>,
    running: Option<(Pin, Receiver<Result<(), StateDirError>>)>,
    /// What is written after that; the newest word counts.
    waiting: Option<Membership>,
    waker: Arc<Waker>,
}

impl Keeper {
    /// `waker` is used when [`poll`](Self::poll) has an answer.
    pub(super) fn new(directory: Arc<StateDir>, opened: Option<Pin>, waker: Arc<Waker>) -> Self {
        Self { directory, opened, running: None, waiting: None, waker }
    }

    /// Has this stored. What waits for its turn still is not needed any more then.
    pub(super) fn store(&mut self, membership: Membership) {
        self.waiting = Some(membership);
        self.start();
    }

    /// Whether something has been stored since, or could not be.
    pub(super) fn poll(&mut self) -> Option<Result<(), StateDirError>> {
        let (key, receiver) = self.running.as_ref()?;
        let result = match receiver.try_recv() {
            Ok(result) => result,
            Err(TryRecvError::Empty) => return None,
            Err(TryRecvError::Disconnected) => Err(no_thread(io::Error::other("its thread failed"))),
        };
        if result.is_ok() {
            self.opened = Some(*key);
        }
        self.running = None;
        self.start();
        Some(result)
    }

    fn start(&mut self) {
        if self.running.is_some() {
            return;
        }
        let Some(membership) = self.waiting.take() else { return };
        let (sender, receiver) = channel();
        self.running = Some((membership.device_key, receiver));
        let (directory, opened, waker) = (Arc::clone(&self.directory), self.opened, Arc::clone(&self.waker));
        let failed = sender.clone();
        let write = move || {
            let result = directory.store(&membership, opened);
            // Where nobody listens any more the files are as they are.
            let _ = sender.send(result);
            let _ = waker.wake();
        };
        // It inherits the signal mask of the loop.
        if let Err(error) = thread::Builder::new().name(THREAD_NAME.into()).spawn(write) {
            let _ = failed.send(Err(no_thread(error)));
            let _ = self.waker.wake();
        }
    }
}

fn no_thread(reason: io::Error) -> StateDirError {
    StateDirError::System { what: "start a thread that writes", path: "relay.toml".into(), reason }
}
