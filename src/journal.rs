//! The journal of systemd, to which standard error may lead. It has the time of each line itself, and takes its severity
//! from what stands before it (sd-daemon(3)).

use std::env;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

/// Before a line about what cannot be done.
pub const ERROR: &str = "<3>";
/// Before a line about what should be looked at.
pub const WARNING: &str = "<4>";
/// Before a line about what has happened.
pub const INFO: &str = "<6>";
/// Before a line for those who look for a mistake.
pub const DEBUG: &str = "<7>";

/// Whether standard error is the journal: systemd has set a variable that names it (systemd.exec(5)). Programs that write
/// elsewhere may have inherited that.
pub fn is_standard_error() -> bool {
    let is_this = |journal: String| {
        let metadata = File::from(io::stderr().as_fd().try_clone_to_owned()?).metadata()?;
        Ok::<_, io::Error>(journal == format!("{}:{}", metadata.dev(), metadata.ino()))
    };
    env::var("JOURNAL_STREAM").is_ok_and(|journal| is_this(journal).unwrap_or(false))
}
