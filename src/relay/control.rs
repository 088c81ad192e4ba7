//! The control socket, by which commands reach the running relay.
//!
//! A Unix socket in the state directory, for its owner alone. A connection carries one request and one answer, a line of
//! JSON each. Its threads share nothing with the loop but what they ask of it by messages.

mod client;
mod message;
mod operations;
mod server;
mod socket;

pub use client::{AskError, ask};
pub use message::{
    Added, Answer, DeviceName, DeviceRow, Devices, Failure, FailureKind, LinkRow, Made, ProvenKeys, Request, Text,
    TokenRequest, TokenRow, TokenText, UnknownRow,
};
pub use operations::Operations;
pub use server::Control;

/// The longest request: a table of as many devices as a registry takes at once.
const MAX_REQUEST: usize = 24 << 20;
/// The longest answer: a list of as many devices.
const MAX_ANSWER: usize = 64 << 20;
