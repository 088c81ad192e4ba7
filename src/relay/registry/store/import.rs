//! Takes a table of devices.

use super::super::RegistryError;
pub(super) use super::super::import::mistakes;
use super::super::import::parse;
use super::Store;

impl Store {
    /// Adds all devices of a table, or none; how many.
    pub(in super::super) fn import(&mut self, table: &str, now: u64) -> Result<usize, RegistryError> {
        let newcomers = parse(table)?;
        self.change(|change| change.add_all(&newcomers, now))?;
        Ok(newcomers.len())
    }
}
