//! Version 1, as the programs of 2012 speak it.
//!
//! It is frozen: those programs do not change any more, so it changes only to mend a fault. New features belong to
//! version 2. [`link`] has what both ends do the same, [`device`] and [`relay`] what each does alone.

pub(super) mod device;
mod link;
#[cfg(feature = "relay")]
pub(super) mod relay;
mod stall;
mod streams;
