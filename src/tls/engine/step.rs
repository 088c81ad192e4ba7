//! One step of rustls' unbuffered API, the same for either end.

use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus, WriteTraffic};

use super::SMALL_RECORD;
use crate::tls::error::TlsError;
use crate::tls::scratch::Scratch;
use crate::tls::{RECORD_OVERHEAD, RECORD_PLAINTEXT};

/// What is wanted of a connection.
pub(super) enum Task<'a> {
    /// To look at what came, and count the records that hold data.
    Open { plaintext: &'a mut Vec<u8>, opened: &'a mut usize },
    /// To seal as much as has room.
    Seal { plaintext: &'a [u8], sealed: &'a mut usize },
    /// To say that nothing more will come.
    Close,
}

/// What comes next.
pub(super) enum Next {
    /// Another step.
    Again,
    /// Nothing, before more bytes come.
    Blocked,
    /// Nothing, since the peer has said that nothing more comes.
    PeerClosed,
}

/// Carries out what rustls asks for: how many bytes of the input it is done with, and what comes next.
pub(super) fn step<D>(
    status: UnbufferedStatus<'_, '_, D>,
    task: &mut Task<'_>,
    scratch: &mut Scratch,
) -> (usize, Result<Next, TlsError>) {
    let mut done = status.discard;
    let next = status.state.map_err(TlsError::from).and_then(|state| match state {
        ConnectionState::ReadTraffic(mut records) => {
            while let Some(record) = records.next_record() {
                let record = record?;
                done += record.discard;
                if let Task::Open { plaintext, opened } = task {
                    plaintext.extend_from_slice(record.payload);
                    **opened += 1;
                }
            }
            Ok(Next::Again)
        }
        ConnectionState::EncodeTlsData(mut message) => {
            let count = match message.encode(scratch.room()) {
                Err(EncodeError::InsufficientSize(size)) => message.encode(scratch.room_for(size.required_size)),
                other => other,
            };
            scratch.fill(count.map_err(|_| TlsError::Exhausted)?);
            Ok(Next::Again)
        }
        ConnectionState::TransmitTlsData(message) => {
            // What was encoded stands in the scratch, whose bytes leave in their order.
            message.done();
            Ok(Next::Again)
        }
        ConnectionState::WriteTraffic(traffic) => write(traffic, task, scratch).map(|()| Next::Blocked),
        ConnectionState::PeerClosed => Ok(match task {
            Task::Open { .. } => Next::PeerClosed,
            // It comes once, before what was asked for.
            Task::Seal { .. } | Task::Close => Next::Again,
        }),
        ConnectionState::BlockedHandshake | ConnectionState::Closed => Ok(Next::Blocked),
        // Early data is never offered, and nothing else exists today.
        ConnectionState::ReadEarlyData(_) | _ => {
            Err(TlsError::Tls(rustls::Error::General("an unexpected state".into())))
        }
    });
    (done, next)
}

fn write<D>(mut traffic: WriteTraffic<'_, D>, task: &mut Task<'_>, scratch: &mut Scratch) -> Result<(), TlsError> {
    match task {
        Task::Open { .. } => Ok(()),
        Task::Seal { plaintext, sealed } => {
            while **sealed < plaintext.len() {
                let rest = &plaintext[**sealed..];
                let piece = &rest[..rest.len().min(RECORD_PLAINTEXT)];
                // A change of the key may go in front.
                if scratch.room().len() < piece.len() + RECORD_OVERHEAD + SMALL_RECORD {
                    break;
                }
                match traffic.encrypt(piece, scratch.room()) {
                    Ok(count) => scratch.fill(count),
                    Err(EncryptError::InsufficientSize(_)) => break,
                    Err(EncryptError::EncryptExhausted) => return Err(TlsError::Exhausted),
                }
                **sealed += piece.len();
            }
            Ok(())
        }
        Task::Close => {
            let count = traffic.queue_close_notify(scratch.room_for(2 * SMALL_RECORD));
            scratch.fill(count.map_err(|_| TlsError::Exhausted)?);
            Ok(())
        }
    }
}
