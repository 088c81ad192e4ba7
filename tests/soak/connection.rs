//! One end of a client's connection: it moves bytes that can be checked, and never waits for ever.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use socket2::SockRef;

use crate::bytes::Bytes;

/// After this time without a byte a connection hangs: longer than a half-open link may live.
const PATIENCE: Duration = Duration::from_secs(100);
/// How often a waiting connection looks whether it is doomed.
const LOOK: Duration = Duration::from_millis(200);
/// The most that is sent or read at once.
const CHUNK: usize = 32 * 1024;
/// What a slow reader takes at once.
const SIP: usize = 8 * 1024;

/// Why a transfer did not come to its end.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// The connection was reset.
    Cut,
    /// A fault wants this connection reset.
    Doomed,
    /// FIN, so many bytes after the start of what was to come.
    Early { after: u64, of: u64 },
    /// FIN where only a reset is right.
    Ended,
    /// Nothing moves any more.
    Hung { after: u64 },
    /// Bytes that were never sent.
    Wrong(String),
}

pub(crate) struct Connection {
    stream: TcpStream,
    doomed: Arc<AtomicBool>,
    finished: Arc<AtomicBool>,
}

impl Connection {
    pub(crate) fn new(stream: TcpStream, doomed: Arc<AtomicBool>) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(LOOK))?;
        stream.set_write_timeout(Some(LOOK))?;
        Ok(Self { stream, doomed, finished: Arc::default() })
    }

    /// The same connection, for another thread.
    pub(crate) fn try_clone(&self) -> Result<Self, Stop> {
        let stream = self.stream.try_clone().map_err(|_| Stop::Cut)?;
        Ok(Self { stream, doomed: Arc::clone(&self.doomed), finished: Arc::clone(&self.finished) })
    }

    pub(crate) fn write(&mut self, mut bytes: &[u8]) -> Result<(), Stop> {
        while !bytes.is_empty() {
            let count = self.wait(0, |stream| stream.write(bytes))?;
            bytes = &bytes[count..];
        }
        Ok(())
    }

    /// What comes next; nothing at the end. `after` so many bytes, for the message.
    pub(crate) fn read(&mut self, after: u64, room: &mut [u8]) -> Result<usize, Stop> {
        self.wait(after, |stream| stream.read(room))
    }

    /// Fills the room; how much of it, if the end comes first.
    pub(crate) fn read_full(&mut self, room: &mut [u8]) -> Result<usize, Stop> {
        let mut filled = 0;
        while filled < room.len() {
            match self.read(filled as u64, &mut room[filled..])? {
                0 => break,
                count => filled += count,
            }
        }
        Ok(filled)
    }

    /// Sends the first `total` bytes.
    pub(crate) fn send(&mut self, bytes: Bytes, total: u64) -> Result<(), Stop> {
        let mut chunk = vec![0; CHUNK];
        let mut offset = 0;
        while offset < total {
            let count = (total - offset).min(CHUNK as u64) as usize;
            bytes.fill(offset, &mut chunk[..count]);
            self.write(&chunk[..count])?;
            offset += count as u64;
        }
        Ok(())
    }

    /// Reads exactly `total` bytes from `offset` on.
    pub(crate) fn receive(&mut self, bytes: Bytes, offset: u64, total: u64, pause: Duration) -> Result<(), Stop> {
        let mut chunk = vec![0; if pause.is_zero() { CHUNK } else { SIP }];
        let mut received = 0;
        while received < total {
            let most = (total - received).min(chunk.len() as u64) as usize;
            let count = self.read(received, &mut chunk[..most])?;
            if count == 0 {
                // After a reset that another thread has met the socket is only at its end.
                if !self.finished.load(Relaxed) && self.stream.peer_addr().is_err() {
                    return Err(Stop::Cut);
                }
                return Err(Stop::Early { after: received, of: total });
            }
            if let Some(wrong) = bytes.check(offset + received, &chunk[..count]) {
                return Err(Stop::Wrong(wrong));
            }
            received += count as u64;
            if !pause.is_zero() {
                thread::sleep(pause);
            }
        }
        Ok(())
    }

    /// Nothing comes any more but FIN.
    pub(crate) fn expect_end(&mut self) -> Result<(), Stop> {
        match self.read(0, &mut [0; 1])? {
            0 => Ok(()),
            _ => Err(Stop::Wrong("a byte behind the last".into())),
        }
    }

    /// Nothing but bytes of these come, and then a reset.
    pub(crate) fn expect_reset(&mut self, bytes: Bytes) -> Result<(), Stop> {
        let mut chunk = vec![0; CHUNK];
        let mut offset = 0;
        loop {
            match self.read(offset, &mut chunk) {
                Ok(0) => return Err(Stop::Ended),
                Ok(count) => {
                    if let Some(wrong) = bytes.check(offset, &chunk[..count]) {
                        return Err(Stop::Wrong(wrong));
                    }
                    offset += count as u64;
                }
                Err(Stop::Cut) => return Ok(()),
                Err(stop) => return Err(stop),
            }
        }
    }

    /// Sends FIN.
    pub(crate) fn finish(&self) -> Result<(), Stop> {
        self.finished.store(true, Relaxed);
        self.stream.shutdown(Shutdown::Write).map_err(|_| Stop::Cut)
    }

    /// Ends with RST, once every clone is gone.
    pub(crate) fn reset(&self) {
        // A socket that is reset already may refuse.
        let _ = SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
    }

    fn wait(
        &mut self,
        after: u64,
        mut operation: impl FnMut(&mut TcpStream) -> io::Result<usize>,
    ) -> Result<usize, Stop> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if self.doomed.load(Relaxed) {
                return Err(Stop::Doomed);
            }
            match operation(&mut self.stream) {
                Ok(count) => return Ok(count),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if Instant::now() > deadline {
                        return Err(Stop::Hung { after });
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Err(Stop::Cut),
            }
        }
    }
}
