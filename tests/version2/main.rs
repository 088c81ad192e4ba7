//! Version 2 on real sockets: what it has that version 1 has not, and what hostile peers make of it.
#![cfg(feature = "relay")]
#![allow(clippy::unwrap_used, reason = "a test ends where its own means fail")]

#[path = "../common/mod.rs"]
mod common;

mod acknowledgements;
mod changing_line;
mod drain;
mod floods;
mod half_close;
mod hostile_device;
mod hostile_relay;
mod many_clients;
mod min_protocol;
mod old_end;
mod programs;
mod proxy;
mod reasons;
mod reconnect;
#[cfg(target_os = "linux")]
mod secured;
mod silent_device;
mod slow_readers;
mod takeover;
