//! Version 1: both sides, and what they share. Frozen: its peers are those of 2012.

pub(super) mod device;
#[cfg(feature = "relay")]
pub(super) mod relay;
mod stall;
mod streams;
