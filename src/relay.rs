//! The relay side: takes each device's link on one port, and its clients on others.

mod config;
mod descriptors;
pub mod file;
mod limits;
mod listener;
pub mod registry;
mod server;

pub use config::{Config, Mapping, PlainDevice, TlsPort};
pub use server::{Outcome, Server, Stopper};

pub use crate::connection::{Limits, Protocol};
