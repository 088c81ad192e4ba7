//! The relay side: takes a device's link on one port and its clients on others.

mod core;
mod ids;

pub use core::{Output, Relay, ResetReason};
