// SPDX-License-Identifier: Apache-2.0
//! What memory a process has.

/// A line of the process's `smaps_rollup`, in KiB: `Pss` (with its share of what it has in common with others),
/// `Anonymous`. `None`: the process is gone.
pub fn kib(pid: u32, name: &str) -> Option<u64> {
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let line = rollup.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':'))?;
    line.trim().trim_end_matches(" kB").parse().ok()
}
