//! placeholder
pub mod address;
pub mod device;
pub(crate) mod event_loop;
mod error;
mod linger;
mod net;
mod session;
pub mod link;
pub mod protocol;
pub mod relay;
pub use error::Error;
