//! The relay side: takes a device's link on one port, and its clients on others.

mod config;
mod core;
mod ids;
#[cfg(feature = "relay")]
mod listener;
#[cfg(feature = "relay")]
mod server;

pub use config::{Config, Mapping};
pub use core::{Output, Relay, ResetReason};
#[cfg(feature = "relay")]
pub use server::{Outcome, Server, Stopper};
