//! What a process holds, as the system counts it.

/// What a process holds.
#[derive(Debug)]
pub struct Usage {
    pub descriptors: usize,
    /// Resident memory.
    pub kib: usize,
}

impl Usage {
    pub fn of(process: u32) -> Self {
        let descriptors = std::fs::read_dir(format!("/proc/{process}/fd")).expect("a process").count();
        let status = std::fs::read_to_string(format!("/proc/{process}/status")).expect("a process");
        let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory");
        let kib = rss.trim().trim_end_matches(" kB").trim().parse().expect("a number of KiB");
        Self { descriptors, kib }
    }
}
