//! The mio half that device and relay share.

pub(crate) mod closing;
pub(crate) mod event_loop;
pub(crate) mod mailbox;
pub(crate) mod net;
pub(crate) mod retired;
pub(crate) mod session;
pub(crate) mod table;
