//! placeholder
pub mod address;
pub mod device;
pub(crate) mod event_loop;
mod error;
mod linger;
mod net;
mod session;
pub mod link;
#[cfg(any(
    feature = "lua51",
    feature = "lua52",
    feature = "lua53",
    feature = "lua54",
    feature = "lua55",
    feature = "luajit"
))]
mod lua;
pub mod protocol;
pub mod relay;
pub use error::Error;
