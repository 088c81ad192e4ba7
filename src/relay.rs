//! The relay side: takes each device's link on one port, and its clients on others.

mod config;
pub mod control;
mod descriptors;
pub mod file;
pub mod file_system;
mod inherited;
pub mod keys;
mod limits;
mod listener;
mod network;
pub mod notify;
pub mod permissions;
pub mod registry;
pub mod reloader;
mod server;
mod service_port;
pub mod warnings;

pub use config::{Config, Mapping, PlainDevice, TlsPort};
pub use inherited::Inherited;
pub use network::{Network, NetworkError};
pub use server::{Controller, DeviceStatus, LinkStatus, Outcome, Server, Stopper};

pub use service_port::{ServicePort, ServicePortError};

pub use crate::connection::{Limits, Protocol};
pub use crate::protocol::v2::Part;
