//! A file that is replaced at once and for good: after a crash at any moment either the old content is there or the new.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// What replacing a file consists of, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Create,
    Write,
    Sync,
    Rename,
    SyncDirectory,
}

/// Called before each step; the tests let it fail there, as the system may.
pub(super) type Fault<'a> = &'a mut dyn FnMut(Step) -> io::Result<()>;

/// No fault but the system's own.
pub(super) fn no_fault(_: Step) -> io::Result<()> {
    Ok(())
}

/// Gives the file `name` this content. Where that fails before the file has its name the old one stays as it was; where it
/// fails behind that, the file is whole, and may be the old one again after a crash.
pub(super) fn replace(directory: &Path, name: &str, content: &[u8], fault: Fault<'_>) -> io::Result<()> {
    let temporary = directory.join(format!(".{name}.new"));
    let written = write(&temporary, content, fault).and_then(|()| {
        fault(Step::Rename)?;
        fs::rename(&temporary, directory.join(name))
    });
    if let Err(error) = written {
        // It may be what fills the disk; the next try would overwrite it.
        let _ = fs::remove_file(&temporary);
        return Err(error);
    }
    fault(Step::SyncDirectory)?;
    File::open(directory)?.sync_all()
}

fn write(path: &Path, content: &[u8], fault: Fault<'_>) -> io::Result<()> {
    fault(Step::Create)?;
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    // One that a crash has left may have another mode.
    file.set_permissions(fs::Permissions::from_mode(0o600))?;
    fault(Step::Write)?;
    file.write_all(content)?;
    fault(Step::Sync)?;
    file.sync_all()
}
