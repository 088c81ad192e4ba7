//! The relay side: takes a device's link on one port, and its clients on others.

mod config;
mod descriptors;
mod listener;
mod server;

pub use config::{Config, Mapping};
pub use server::{Outcome, Server, Stopper};

pub use crate::connection::{Limits, Protocol};
