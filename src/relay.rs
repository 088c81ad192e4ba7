//! The relay side: takes a device's link on one port, and its clients on others.

mod config;
mod descriptors;
mod listener;
pub mod registry;
mod server;

pub use config::{Config, Mapping};
pub use server::{Outcome, Server, Stopper};

pub use crate::connection::Protocol;
