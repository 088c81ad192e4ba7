//! The device side: one link out to a relay, and connections to the services it asks for.
//!
//! [`Handle::start`] spawns the loop thread and returns at once; [`Handle::status`], [`Handle::next_event`]
//! and [`Handle::wait`] tell what becomes of it; [`Handle::close`] ends it.

mod access;
mod attempt;
mod backoff;
mod client_events;
mod config;
mod dial;
mod dials;
mod driver;
#[cfg(feature = "tls")]
mod enrolment;
mod event;
mod handle;
#[cfg(feature = "tls")]
mod identity;
#[cfg(feature = "tls")]
mod joining;
#[cfg(feature = "tls")]
mod keeper;
mod link;
#[cfg(feature = "tls")]
mod membership;
mod names;
mod proxy;
mod resolver;
mod services;
mod shared;
#[cfg(feature = "tls")]
mod state_dir;

pub use access::{Access, Rule, RuleError, RuleProblem};
pub use config::Config;
#[cfg(feature = "tls")]
pub use enrolment::Enrolment;
pub use event::{Event, EventKind, Severity, State, Status};
pub use handle::{Handle, Wait};
#[cfg(feature = "tls")]
pub use identity::{Announcement, Identity};
pub use proxy::{Proxy, ProxyError, ProxyTextError};
pub use services::{Service, Services, ServicesError};
#[cfg(feature = "tls")]
pub use state_dir::StateDirError;
