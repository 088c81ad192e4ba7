//! The mio shell around the device's core.
use std::sync::Arc;
use super::{Config, report::Report};
use crate::{Error, event_loop::EventLoop};
pub(super) fn run(_config: &Config, mut event_loop: EventLoop, report: &Arc<Report>) -> Result<(), Error> {
    while !report.stop_requested() { let _ = event_loop.wait(None); }
    Ok(())
}
