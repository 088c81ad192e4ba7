//! The relay's side of the control socket: a thread that accepts, and one for each connection.

use std::io;
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use portable_atomic::AtomicU64;
use tracing::{debug, warn};

use super::message::{Answer, FailureKind, Request};
use super::operations::Operations;
use super::{MAX_REQUEST, socket};
use crate::Error;

/// Connections at once. Others are told to come again.
const MAX_CONNECTIONS: usize = 8;
/// How long a connection may take to send its request, and to read the answer.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How long commands may take for their answers once the relay ends.
const END: Duration = Duration::from_secs(2);
/// How long to rest when none can be accepted.
const PAUSE: Duration = Duration::from_millis(100);

/// The control socket, open until this is dropped. Commands that are under way have a moment for their answers then.
#[derive(Debug)]
pub struct Control {
    path: PathBuf,
    is_ending: Arc<AtomicBool>,
    places: Arc<Places>,
    thread: Option<JoinHandle<()>>,
}

impl Control {
    /// Opens the socket in a state directory, which this process has.
    ///
    /// # Errors
    /// [`Error::Usage`] if the directory's path is too long for a socket in it, [`Error::System`] if the socket cannot be
    /// made for another reason.
    pub fn open(state: &Path, operations: Arc<Operations>) -> Result<Self, Error> {
        let path = socket::path(state);
        let failed = |reason: io::Error| {
            let path = path.display();
            if reason.kind() == io::ErrorKind::InvalidInput {
                return Error::Usage(format!(
                    "{path} is too long for the path of a socket, which has at most 107 bytes; give 'state' a shorter path"
                ));
            }
            Error::System { what: format!("cannot make the control socket {path}"), reason }
        };
        let listener = socket::bind(&path).map_err(failed)?;
        let is_ending = Arc::new(AtomicBool::new(false));
        let places = Arc::new(Places::default());
        let (ending, of_thread) = (Arc::clone(&is_ending), Arc::clone(&places));
        let accept = move || accept(&listener, &operations, &of_thread, &ending);
        let thread = thread::Builder::new().name("control".into()).spawn(accept);
        let thread = thread.map_err(failed)?;
        Ok(Self { path, is_ending, places, thread: Some(thread) })
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.is_ending.store(true, Ordering::Relaxed);
        // It wakes the thread, which waits for connections.
        let woken = UnixStream::connect(&self.path).is_ok();
        // A command that is started now is to read that no relay runs.
        let _ = std::fs::remove_file(&self.path);
        if let Some(thread) = self.thread.take().filter(|_| woken) {
            let _ = thread.join();
        }
        self.places.end();
    }
}

fn accept(listener: &UnixListener, operations: &Arc<Operations>, places: &Arc<Places>, is_ending: &AtomicBool) {
    while let accepted = listener.accept()
        && !is_ending.load(Ordering::Relaxed)
    {
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(reason) => {
                debug!(%reason, "cannot accept a connection of the control socket");
                thread::sleep(PAUSE);
                continue;
            }
        };
        let stream = Arc::new(stream);
        let Some(place) = Place::take(places, &stream) else {
            refuse(&stream);
            continue;
        };
        let operations = Arc::clone(operations);
        let serve = move || serve(&stream, &operations, place);
        if let Err(reason) = thread::Builder::new().name("command".into()).spawn(serve) {
            warn!(%reason, "cannot serve a command");
        }
    }
}

/// The connections that there are.
#[derive(Debug, Default)]
struct Places {
    /// Each with its number.
    open: Mutex<Vec<(u64, Arc<UnixStream>)>>,
    next: AtomicU64,
    left: Condvar,
}

impl Places {
    fn lock(&self) -> MutexGuard<'_, Vec<(u64, Arc<UnixStream>)>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until all are answered. Those that have not said what they want get no answer, and one that is under way only
    /// if that does not take long.
    fn end(&self) {
        let open = self.lock();
        for (_, stream) in &*open {
            // It has ended by itself then.
            let _ = stream.shutdown(Shutdown::Read);
        }
        let waited = self.left.wait_timeout_while(open, END, |open| !open.is_empty());
        let (open, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if !open.is_empty() {
            warn!(commands = open.len(), "the relay ends before these are answered");
        }
    }
}

/// One of the connections that there may be.
struct Place {
    places: Arc<Places>,
    number: u64,
}

impl Place {
    /// `None` if there are too many.
    fn take(places: &Arc<Places>, stream: &Arc<UnixStream>) -> Option<Self> {
        let mut open = places.lock();
        if open.len() >= MAX_CONNECTIONS {
            return None;
        }
        let number = places.next.fetch_add(1, Ordering::Relaxed);
        open.push((number, Arc::clone(stream)));
        Some(Self { places: Arc::clone(places), number })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.lock().retain(|(number, _)| *number != self.number);
        self.places.left.notify_all();
    }
}

/// What is written fits the socket's buffer, which is empty, so that nothing waits here.
fn refuse(mut stream: &UnixStream) {
    let text = format!("{MAX_CONNECTIONS} other commands are under way; try again");
    // It may have gone.
    let _ = stream
        .set_nonblocking(true)
        .and_then(|()| io::Write::write_all(&mut stream, &line(&Answer::failed(FailureKind::System, text))));
}

fn serve(stream: &UnixStream, operations: &Operations, place: Place) {
    let uid = socket::peer_uid(stream);
    let request = socket::read_line(stream, MAX_REQUEST, Instant::now() + TIMEOUT);
    let answer = match request {
        Ok(request) => match serde_json::from_slice::<Request>(&request) {
            Ok(request) => operations.carry_out(request, uid),
            Err(error) => Answer::failed(FailureKind::Usage, format!("the relay cannot read this request: {error}")),
        },
        // Somebody looked whether the relay runs.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return,
        Err(error) => Answer::failed(FailureKind::Usage, format!("the relay did not get a request: {error}")),
    };
    if let Err(reason) = socket::write_all(stream, &line(&answer), Instant::now() + TIMEOUT) {
        debug!(uid, %reason, "a command has gone before its answer");
    }
    // The end of the answer says that there is a place for the next command.
    drop(place);
    // What was not read would be a reset, which may overtake the answer.
    let _ = stream.shutdown(Shutdown::Write);
}

fn line(answer: &Answer) -> Vec<u8> {
    let mut line = serde_json::to_vec(answer).unwrap_or_default();
    line.push(b'\n');
    line
}
