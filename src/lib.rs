//! Reach a TCP service on a device that has no public address.
//!
//! A **client** connects to the **relay**; the **device** holds one TCP connection out to the relay, the **link**,
//! over which every client is carried to a **service** on or behind the device.
//!
//! | module | what lives there | who may use it |
//! | --- | --- | --- |
//! | [`address`] | `host:port` | all modules |
//! | [`identity`] | names of devices, services, groups and users; join strings and their secrets | all modules |
//! | [`protocol`] | the wire's format, and no state but a frame that is half read; `v1`, `v2` | `connection`, `io` and the two sides |
//! | [`connection`] | one end of a link, sans-IO: which version is spoken (`device`, `relay`), and each version (`v1`, `v2`) | `io` and the two sides |
//! | [`tls`] | TLS 1.3 on a link, sans-IO over rustls: keys, pins, one end of a connection | `io` and the two sides |
//! | [`io`] | the mio half that device and relay share: event loop, session, socket options | the two sides |
//! | [`device`] | `Config` and `Handle`; behind them the thread that dials, resolves, permits and reconnects | `lua`, tests |
//! | `journal` | whether the log of a program goes to systemd's journal | `lua`, the relay binary |
//! | [`relay`] | `Config` and `Server`; behind them ports, clients, devices and the log; `registry`, who may come; `file`, the configuration; `control`, commands | the relay binary, tests |
//! | `service_manager` | what a service tells systemd | the relay, `lua` |
//! | `lua` | arguments and results of the Lua module | Lua |
//!
//! `device` and `relay` never import each other. `connection` and `tls` name no socket, no thread and no clock: they take
//! bytes and `now`, and give back bytes and outputs to carry out.

pub mod address;
pub mod connection;
pub mod device;
mod error;
pub mod identity;
pub mod io;
#[cfg(any(feature = "lua", feature = "relay"))]
pub mod journal;
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
#[cfg(any(feature = "lua", feature = "relay"))]
mod service_manager;
#[cfg(feature = "tls")]
pub mod tls;

pub use error::Error;
