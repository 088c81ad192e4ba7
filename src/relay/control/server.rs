//! The relay's side of the control socket: a thread that accepts, and one for each connection.

use std::io;
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tracing::{debug, warn};

use super::message::{Answer, FailureKind, Request};
use super::operations::Operations;
use super::{MAX_REQUEST, socket};
use crate::Error;

/// Connections at once. Others are told to come again.
const MAX_CONNECTIONS: usize = 8;
/// How long a connection may take to send its request, and to read the answer.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How long to rest when none can be accepted.
const PAUSE: Duration = Duration::from_millis(100);

/// The control socket, open until this is dropped.
#[derive(Debug)]
pub struct Control {
    path: PathBuf,
    is_ending: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Control {
    /// Opens the socket in a state directory, which this process has.
    ///
    /// # Errors
    /// [`Error::System`] if the socket cannot be made.
    pub fn open(state: &Path, operations: Arc<Operations>) -> Result<Self, Error> {
        let path = socket::path(state);
        let failed =
            |reason| Error::System { what: format!("cannot make the control socket {}", path.display()), reason };
        let listener = socket::bind(&path).map_err(failed)?;
        let is_ending = Arc::new(AtomicBool::new(false));
        let ending = Arc::clone(&is_ending);
        let thread =
            thread::Builder::new().name("control".into()).spawn(move || accept(&listener, &operations, &ending));
        let thread = thread.map_err(failed)?;
        Ok(Self { path, is_ending, thread: Some(thread) })
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
    }
}

fn accept(listener: &UnixListener, operations: &Arc<Operations>, is_ending: &AtomicBool) {
    let count = Arc::new(AtomicUsize::new(0));
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
        let place = Place::take(&count);
        if place.number > MAX_CONNECTIONS {
            refuse(stream);
            continue;
        }
        let operations = Arc::clone(operations);
        let serve = move || serve(stream, &operations, place);
        if let Err(reason) = thread::Builder::new().name("command".into()).spawn(serve) {
            warn!(%reason, "cannot serve a command");
        }
    }
}

/// One of the connections that there may be.
struct Place {
    count: Arc<AtomicUsize>,
    number: usize,
}

impl Place {
    fn take(count: &Arc<AtomicUsize>) -> Self {
        Self { number: count.fetch_add(1, Ordering::Relaxed) + 1, count: Arc::clone(count) }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What is written fits the socket's buffer, which is empty, so that nothing waits here.
fn refuse(mut stream: UnixStream) {
    let text = format!("{MAX_CONNECTIONS} other commands are under way; try again");
    // It may have gone.
    let _ = stream
        .set_nonblocking(true)
        .and_then(|()| io::Write::write_all(&mut stream, &line(&Answer::failed(FailureKind::System, text))));
}

fn serve(mut stream: UnixStream, operations: &Operations, place: Place) {
    let uid = socket::peer_uid(&stream);
    let request = socket::read_line(&mut stream, MAX_REQUEST, Instant::now() + TIMEOUT);
    let answer = match request {
        Ok(request) => match serde_json::from_slice::<Request>(&request) {
            Ok(request) => operations.carry_out(request, uid),
            Err(error) => Answer::failed(FailureKind::Usage, format!("the relay cannot read this request: {error}")),
        },
        // Somebody looked whether the relay runs.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return,
        Err(error) => Answer::failed(FailureKind::Usage, format!("the relay did not get a request: {error}")),
    };
    if let Err(reason) = socket::write_all(&mut stream, &line(&answer), Instant::now() + TIMEOUT) {
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
