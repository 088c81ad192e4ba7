//! The relay side: takes each device's link on one port, and its clients on others.

mod config;
pub mod control;
mod descriptors;
pub mod file;
pub mod keys;
mod limits;
mod listener;
pub mod notify;
pub mod registry;
pub mod reloader;
mod server;

pub use config::{Config, Mapping, PlainDevice, TlsPort};
pub use server::{Controller, DeviceStatus, LinkStatus, Outcome, Server, Stopper};

pub use crate::connection::{Limits, Protocol};
