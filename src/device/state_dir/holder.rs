//! Which process holds a lock, by what the system says of all locks.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;

/// The process that holds the lock on this file, such as `process 1234 (lua5.4)`; `None` where the system does not say.
pub(super) fn of(file: &File) -> Option<String> {
    let inode = file.metadata().ok()?.ino();
    let pid = pid_of(&fs::read_to_string("/proc/locks").ok()?, inode)?;
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    Some(format!("process {pid} ({})", name.trim_end().escape_debug()))
}

/// Who holds the lock on the file of this number. The device before it is passed over: not all file systems say the same
/// one in both places. Where files of several have this number nobody is named.
fn pid_of(locks: &str, inode: u64) -> Option<u32> {
    // 1: FLOCK  ADVISORY  WRITE 1234 08:01:5678 0 EOF
    let mut holders = locks.lines().filter_map(|line| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let (kind, pid) = (fields.next()?, fields.nth(2)?);
        let number: u64 = fields.next()?.rsplit(':').next()?.parse().ok()?;
        // One that waits has an arrow for its kind.
        (kind == "FLOCK" && number == inode).then_some(pid)
    });
    let holder = holders.next()?;
    if holders.next().is_some() { None } else { holder.parse().ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holder_is_found_among_all_locks() {
        let locks = "1: POSIX  ADVISORY  WRITE 11 08:01:5678 0 EOF\n\
                     2: FLOCK  ADVISORY  WRITE 12 08:01:567 0 EOF\n\
                     3: FLOCK  ADVISORY  WRITE 13 00:2a:5678 0 EOF\n\
                     3: -> FLOCK  ADVISORY  WRITE 14 00:2a:5678 0 EOF\n";
        assert_eq!(pid_of(locks, 5678), Some(13));
        let ambiguous = format!("{locks}4: FLOCK  ADVISORY  WRITE 15 00:2b:5678 0 EOF\n");
        assert_eq!(pid_of(&ambiguous, 5678), None);
        assert_eq!((pid_of(locks, 1), pid_of("nonsense\n", 5678)), (None, None));
    }
}
