//! A command's side of the control socket.

use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::message::{Answer, Request};
use super::{MAX_ANSWER, socket};

/// How long the relay may take, be it for a large table or for a name server that does not answer.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// No relay listens.
    #[error(
        "no relay runs with the state directory {state}; start it with 'tcp-remote-relay run --config FILE', or name the \
         other file by --config",
        state = .0.display()
    )]
    NotRunning(PathBuf),
    /// The socket may not be used by this user.
    #[error("{path} may be used only by the user that runs the relay, and by root; run this command as one of them", path = .0.display())]
    NotPermitted(PathBuf),
    /// The relay has what was asked, and did not answer in time.
    #[error(
        "the relay at {path} has not answered within 60 s, and may still do what was asked; its log says when, so look there \
         before you ask again",
        path = .0.display()
    )]
    Late(PathBuf),
    /// The relay did not answer, or not what it should.
    #[error("the relay at {path} gave no answer: {reason}; its log may say why", path = .path.display())]
    NoAnswer {
        /// The socket.
        path: PathBuf,
        /// What failed.
        reason: io::Error,
    },
}

/// Asks the relay that runs with the state directory.
///
/// # Errors
/// None runs there, or it does not answer.
pub fn ask(state: &Path, request: &Request) -> Result<Answer, AskError> {
    ask_within(TIMEOUT, state, request)
}

fn ask_within(within: Duration, state: &Path, request: &Request) -> Result<Answer, AskError> {
    let path = socket::path(state);
    let no_answer = |reason: io::Error| AskError::NoAnswer { path: path.clone(), reason };
    let stream = UnixStream::connect(&path).map_err(|reason| {
        let is_any = |kinds: &[io::ErrorKind]| kinds.contains(&reason.kind());
        // With a path that is too long for a socket no relay can run, and says so.
        if is_any(&[io::ErrorKind::NotFound, io::ErrorKind::ConnectionRefused, io::ErrorKind::InvalidInput]) {
            AskError::NotRunning(state.to_owned())
        } else if is_any(&[io::ErrorKind::PermissionDenied]) {
            AskError::NotPermitted(path.clone())
        } else {
            no_answer(reason)
        }
    })?;
    let deadline = Instant::now() + within;
    let mut line = serde_json::to_vec(request).map_err(|error| no_answer(error.into()))?;
    line.push(b'\n');
    // A relay that refuses may have answered before it has read all.
    let written = socket::write_all(&stream, &line, deadline);
    let answer = socket::read_line(&stream, MAX_ANSWER, deadline);
    let answer = answer.map_err(|error| match (written, error.kind()) {
        (Ok(()), io::ErrorKind::TimedOut) => AskError::Late(path.clone()),
        (written, _) => no_answer(written.err().unwrap_or(error)),
    })?;
    // With its end there is a place for the next command, which a script asks at once.
    let _ = (&stream).read(&mut [0]);
    serde_json::from_slice(&answer).map_err(|error| no_answer(error.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relay_that_has_what_was_asked_and_does_not_answer_in_time_may_still_do_it() {
        let directory = tempfile::tempdir().expect("a directory");
        let _listener = socket::bind(&socket::path(directory.path())).expect("a socket");
        // Where the time is over before all is written, the relay does not have it.
        let times = (0..15).map(|doubled| Duration::from_millis(1 << doubled));
        let mut errors = times.map(|time| ask_within(time, directory.path(), &Request::Reload).expect_err("no answer"));
        let late = errors.find(|error| matches!(error, AskError::Late(_))).expect("time to write it");
        assert!(late.to_string().contains("has not answered within 60 s, and may still do what was asked;"), "{late}");
    }
}
