//! Reach a TCP service on a device that has no public address.
//!
//! A **client** connects to the **relay**; the **device** holds one TCP connection out to the relay, the **link**,
//! over which every client is carried to a **service** on or behind the device.
//!
//! | module | what lives there | who may use it |
//! | --- | --- | --- |
//! | [`address`] | `host:port` | everybody |
//! | [`protocol`] | the wire: the only code that knows byte order | `link`, the cores |
//! | [`link`] | what both ends of a link are built on: version 2 whole, version 1's parts; sans-IO | the cores, `session` |
//! | [`device`] | `Config`, `Handle`, and behind them the core and its mio shell | `lua`, tests |
//! | [`relay`] | `Config`, `Server`, and behind them the core and its mio shell | the relay binary, tests |
//! | `session`, `retired`, `linger`, `event_loop`, `net` | the mio half that device and relay share | the two shells |
//! | `lua` | arguments and results of the Lua module | Lua |
//!
//! `device` and `relay` never import each other. A core (`device::Device`, `relay::Relay`) names no socket, no
//! thread and no clock: it takes bytes and `now`, and gives back bytes and outputs to carry out.

pub mod address;
pub mod connection;
pub mod device;
mod error;
mod io;
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
#[cfg(feature = "relay")]
pub mod relay;

pub use error::Error;
