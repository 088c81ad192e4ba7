//! placeholder
pub mod address;
pub mod device;
pub(crate) mod event_loop;
mod error;
pub mod link;
pub mod protocol;
#[cfg(feature = "relay")]
pub mod relay;
pub use error::Error;
