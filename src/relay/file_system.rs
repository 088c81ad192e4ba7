//! Whether the state directory is on a disk of this machine. The registry's lock and its log are made for one.

use std::path::Path;

/// File systems of other machines, by what statfs(2) says.
#[cfg(target_os = "linux")]
const REMOTE: [(i64, &str); 6] = [
    (0x6969, "NFS"),
    (0xff53_4d42, "CIFS"),
    (0xfe53_4d42, "SMB"),
    (0x517b, "SMB"),
    (0x00c3_6400, "Ceph"),
    (0x5346_414f, "AFS"),
];

/// What to think of, where the state directory is on another machine's disk.
pub fn warning(state: &Path) -> Option<String> {
    remote(state).map(|name| text(state, name))
}

fn text(state: &Path, name: &str) -> String {
    format!(
        "state directory {} is on {name}, another machine's disk: a second relay may not see the lock on it, and each device \
         that joins waits for that machine; give the relay a directory of its own disk",
        state.display()
    )
}

#[cfg(target_os = "linux")]
fn remote(path: &Path) -> Option<&'static str> {
    let kind = rustix::fs::statfs(path).ok()?.f_type;
    // Its type differs from machine to machine, and no number of these has a sign.
    name_of(kind as u32 as i64)
}

#[cfg(not(target_os = "linux"))]
fn remote(_: &Path) -> Option<&'static str> {
    None
}

#[cfg(target_os = "linux")]
fn name_of(kind: i64) -> Option<&'static str> {
    REMOTE.into_iter().find(|&(other, _)| other == kind).map(|(_, name)| name)
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use super::*;

    #[test]
    fn a_disk_of_another_machine_is_told_by_its_name_and_one_of_this_is_not() {
        const EXT4: i64 = 0xef53;
        assert_eq!((name_of(0x6969), name_of(EXT4)), (Some("NFS"), None));
        assert_eq!(warning(&std::env::temp_dir()), None);
        assert!(
            text(Path::new("/state"), "NFS").starts_with("state directory /state is on NFS, another machine's disk:")
        );
    }
}
