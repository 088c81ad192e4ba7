//! The device side: one link out to a relay, and connections to the services it asks for.
//!
//! [`Handle::start`] spawns the loop thread and returns at once; [`Handle::status`], [`Handle::next_event`]
//! and [`Handle::wait`] tell what becomes of it; [`Handle::close`] ends it.

mod access;
mod attempt;
mod backoff;
mod config;
mod dial;
mod dials;
mod driver;
mod event;
mod handle;
#[cfg(feature = "tls")]
mod identity;
mod link;
mod names;
mod resolver;
mod shared;

pub use access::{Access, Rule, RuleError, RuleProblem};
pub use config::Config;
pub use event::{Event, EventKind, Severity, State, Status};
pub use handle::{Handle, Wait};
#[cfg(feature = "tls")]
pub use identity::{Announcement, Identity};
