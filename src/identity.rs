//! Who is who: the names of devices, services, groups and users, and the string with which a device joins a relay.

#[cfg(feature = "tls")]
mod join;
mod label;
mod name;
mod pattern;
mod pin;
#[cfg(feature = "tls")]
mod secret;
mod user;

#[cfg(feature = "tls")]
pub use join::{JoinError, JoinString, Kind, MAX_ADDRESSES, TokenId, TokenIdError};
pub use label::Label;
pub use name::{MAX_NAME, MAX_SERVICE_NAME, Name, NameError, Problem, Subject};
pub use pattern::Pattern;
pub use pin::{Pin, PinError, Pins};
#[cfg(feature = "tls")]
pub use secret::{NoRandomness, Secret};
pub use user::UserName;
