//! Stores what a relay has said, and looks whether another program has joined anew, beside the loop: a disk may hang.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::{io, thread};

use mio::Waker;

use super::membership::Membership;
use super::resolver::THREAD_NAME;
use super::state_dir::{StateDir, StateDirError};
use crate::identity::Pin;
use crate::tls::Key;

/// Writes to the directory of one device and reads it, one thing after the other.
#[derive(Debug)]
pub(super) struct Keeper {
    directory: Arc<StateDir>,
    /// The key that was in force when the tunnel began, or was stored or found since.
    opened: Option<Pin>,
    running: Option<Running>,
    /// What is written after that; the newest word counts.
    waiting: Option<(Arc<Key>, Membership)>,
    /// The key that is no candidate any more, which is removed after that.
    refused: Option<Pin>,
    /// To look after that.
    is_to_look: bool,
    waker: Arc<Waker>,
}

/// What a thread does.
#[derive(Debug)]
enum Running {
    /// It stores what is known of the device with this key.
    Storing(Pin, Receiver<Result<(), StateDirError>>),
    Forgetting(Receiver<()>),
    Looking(Receiver<Option<Box<(Key, Membership)>>>),
}

/// What has come of it.
#[derive(Debug)]
pub(super) enum Answer {
    /// What was to be stored is, or could not be.
    Stored(Result<(), StateDirError>),
    /// The identity that the directory has, where it has one that can be read.
    Found(Option<Box<(Key, Membership)>>),
}

impl Keeper {
    /// `waker` is used when [`poll`](Self::poll) has an answer.
    pub(super) fn new(directory: Arc<StateDir>, opened: Option<Pin>, waker: Arc<Waker>) -> Self {
        Self { directory, opened, running: None, waiting: None, refused: None, is_to_look: false, waker }
    }

    /// Has this stored. What waits for its turn still is not needed any more then.
    pub(super) fn store(&mut self, key: Arc<Key>, membership: Membership) {
        self.waiting = Some((key, membership));
        self.start();
    }

    /// Has this key forgotten, if it is the one that waits for approval: the relay has refused it for good.
    pub(super) fn forget(&mut self, key: Pin) {
        self.refused = Some(key);
        self.start();
    }

    /// Has the directory looked at.
    pub(super) fn look(&mut self) {
        self.is_to_look = true;
        self.start();
    }

    /// Whether something is yet to be stored.
    pub(super) fn is_storing(&self) -> bool {
        self.waiting.is_some() || matches!(self.running, Some(Running::Storing(..)))
    }

    /// The key that was in force in the directory, as far as is known.
    pub(super) fn opened(&self) -> Option<Pin> {
        self.opened
    }

    /// The device goes on by the key that was found.
    pub(super) fn adopt(&mut self, key: Pin) {
        self.opened = Some(key);
    }

    /// What has come since of what was asked for.
    pub(super) fn poll(&mut self) -> Option<Answer> {
        let answer = match self.running.as_ref()? {
            Running::Storing(key, receiver) => {
                let result = received(receiver)?.unwrap_or_else(|| Err(unable(io::Error::other("its thread failed"))));
                if result.is_ok() {
                    self.opened = Some(*key);
                }
                Some(Answer::Stored(result))
            }
            Running::Forgetting(receiver) => {
                received(receiver)?;
                None
            }
            Running::Looking(receiver) => {
                let found = received(receiver)?.flatten();
                // It is older than what waits to be stored.
                self.waiting.is_none().then_some(Answer::Found(found))
            }
        };
        self.running = None;
        self.start();
        answer
    }

    fn start(&mut self) {
        if self.running.is_some() {
            return;
        }
        let directory = Arc::clone(&self.directory);
        if let Some((key, membership)) = self.waiting.take() {
            let (pin, opened) = (membership.device_key, self.opened);
            let store = move || directory.store(&key, &membership, opened);
            self.running = Some(Running::Storing(pin, self.spawn(store, |error| Err(unable(error)))));
        } else if let Some(key) = self.refused.take() {
            // Where it cannot be removed the relay refuses it once more at the next start.
            let forget = move || drop(directory.forget_pending(key));
            self.running = Some(Running::Forgetting(self.spawn(forget, drop)));
        } else if std::mem::take(&mut self.is_to_look) {
            // Why it cannot be read is said where something is to be stored there.
            let look = move || directory.load().ok().and_then(|stored| stored.member).map(Box::new);
            self.running = Some(Running::Looking(self.spawn(look, |_| None)));
        }
    }

    /// Does this in a thread; or this instead, where there is none to be had.
    fn spawn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
        instead: impl FnOnce(io::Error) -> T,
    ) -> Receiver<T> {
        let (sender, receiver) = channel();
        let (waker, own_sender) = (Arc::clone(&self.waker), sender.clone());
        let work = move || {
            // Where nobody listens any more the files are as they are.
            let _ = sender.send(work());
            let _ = waker.wake();
        };
        // It inherits the signal mask of the loop.
        if let Err(error) = thread::Builder::new().name(THREAD_NAME.into()).spawn(work) {
            let _ = own_sender.send(instead(error));
            let _ = self.waker.wake();
        }
        receiver
    }
}

/// What a thread has sent: `None` if it may yet, and `Some(None)` if it has ended without.
fn received<T>(receiver: &Receiver<T>) -> Option<Option<T>> {
    match receiver.try_recv() {
        Ok(value) => Some(Some(value)),
        Err(TryRecvError::Empty) => None,
        Err(TryRecvError::Disconnected) => Some(None),
    }
}

fn unable(reason: io::Error) -> StateDirError {
    let remedy = if reason.kind() == io::ErrorKind::WouldBlock { "; raise ulimit -u" } else { "" }.into();
    StateDirError::System { what: "start a thread that writes", path: "relay.toml".into(), reason, remedy }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use mio::Poll;

    use super::*;
    use crate::device::state_dir::tests::{first_key, membership};
    use crate::identity::TokenId;

    #[test]
    fn the_identity_is_found_that_the_directory_has_now() {
        let place = tempfile::tempdir().expect("a directory");
        let directory = Arc::new(StateDir::open(&place.path().join("state")).expect("opened"));
        let first = first_key(&directory);
        directory.store(&first, &membership(&first, 1), None).expect("stored");
        let poll = Poll::new().expect("poll");
        let waker = Arc::new(Waker::new(poll.registry(), mio::Token(0)).expect("a waker"));
        let mut keeper = Keeper::new(Arc::clone(&directory), Some(first.public().pin()), waker);
        let mut look = || {
            keeper.look();
            let deadline = Instant::now() + Duration::from_secs(30);
            loop {
                match keeper.poll() {
                    Some(Answer::Found(found)) => return found.map(|found| found.1.device_key),
                    Some(answer) => panic!("{answer:?}"),
                    None if Instant::now() < deadline => thread::yield_now(),
                    None => panic!("no answer"),
                }
            }
        };
        assert_eq!(look(), Some(first.public().pin()));
        let second = directory.key_for(TokenId([2; 8])).expect("a key");
        directory.store(&second, &membership(&second, 2), Some(first.public().pin())).expect("stored");
        assert_eq!(look(), Some(second.public().pin()));
    }
}
