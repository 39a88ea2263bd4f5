// SPDX-License-Identifier: Apache-2.0
//! Processes: the table, and what procfs shows of one of them.

use std::path::PathBuf;

use crate::host::{Host, ReadError, Reading, read, read_bytes, sys};
use crate::signal::text::escaped;

/// A process's or thread's state, proc_pid_stat(5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct State(pub char);

/// One line of the process table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    pub pid: u32,
    pub parent: u32,
    /// The first 15 bytes of its name, as the kernel keeps it.
    pub comm: String,
    pub state: State,
    pub threads: u32,
    /// Resident memory; the kernel's own sum may lag by some pages a thread.
    pub rss_bytes: u64,
    /// Clock ticks of 1/100 s after boot: with the pid, the identity of a process.
    pub start_ticks: u64,
    /// User and system CPU time.
    pub cpu_ns: u64,
}

/// The processes of the node at about one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Processes(pub Vec<Process>);

impl Process {
    /// `pid (comm) state ppid …`; comm may hold spaces and parentheses.
    fn parse(text: &str, page_size: u64) -> Option<Self> {
        let (pid, rest) = text.split_once(" (")?;
        let (comm, rest) = rest.rsplit_once(") ")?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        // proc_pid_stat(5) counts from 1; state is the third.
        let number = |n: usize| fields.get(n - 3)?.parse::<u64>().ok();
        Some(Process {
            pid: pid.parse().ok()?,
            parent: u32::try_from(number(4)?).ok()?,
            comm: comm.to_owned(),
            state: State(fields.first()?.chars().next()?),
            threads: u32::try_from(number(20)?).ok()?,
            rss_bytes: number(24)?.saturating_mul(page_size),
            start_ticks: number(22)?,
            cpu_ns: number(14)?.saturating_add(number(15)?).saturating_mul(10_000_000),
        })
    }
}

impl Host {
    fn pid_file(&self, pid: u32, file: &str) -> PathBuf {
        self.proc.join(pid.to_string()).join(file)
    }

    /// One process.
    ///
    /// # Errors
    /// [`ReadError`]; [`ReadError::Missing`] when it has exited.
    pub fn process(&self, pid: u32) -> Reading<Process> {
        let path = self.pid_file(pid, "stat");
        let text = read(&path)?;
        Process::parse(&text, sys::page_size()).ok_or_else(|| ReadError::malformed(&path, text.trim()))
    }

    /// The process table; one short file a process is read. Who exits meanwhile is left out.
    ///
    /// # Errors
    /// The table itself gave no reading.
    pub fn processes(&self) -> Reading<Processes> {
        let page = sys::page_size();
        let entries = std::fs::read_dir(&self.proc).map_err(|e| ReadError::io(&self.proc, e))?;
        let pids = entries.flatten().filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok());
        let one = |pid| Process::parse(&read(&self.pid_file(pid, "stat")).ok()?, page);
        Ok(Processes(pids.filter_map(one).collect()))
    }

    /// A process's lines `hierarchy:controllers:path`; see [`crate::host::cgroup::memberships`].
    ///
    /// # Errors
    /// [`ReadError`]
    pub fn cgroup_lines(&self, pid: u32) -> Reading<String> {
        Ok(escaped(&read_bytes(&self.pid_file(pid, "cgroup"))?).into_owned())
    }

    /// Name of a thread.
    ///
    /// # Errors
    /// [`ReadError`]
    pub fn comm(&self, pid: u32) -> Reading<String> {
        Ok(read(&self.pid_file(pid, "comm"))?.trim_end_matches('\n').to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const STAT: &str =
        "42 (a) b (c) D 1 42 42 0 -1 4194560 1 2 3 4 150 50 0 0 20 0 7 0 12345 9000 300 18446744073709551615 1";

    /// A name with spaces and parentheses does not shift the fields.
    #[test]
    fn odd_names() {
        let p = Process::parse(STAT, 4096).unwrap();
        assert_eq!((p.pid, p.parent, p.comm.as_str(), p.threads), (42, 1, "a) b (c", 7));
        assert_eq!(p.state, State('D'));
        assert_eq!((p.rss_bytes, p.start_ticks, p.cpu_ns), (300 * 4096, 12345, 2_000_000_000));
        assert_eq!(Process::parse("42 (a) D 1 2", 4096), None);
    }

    /// This very process is in the real table; a pid that cannot be is missing.
    #[test]
    fn the_real_table() {
        let (host, me) = (Host::default(), std::process::id());
        let table = host.processes().unwrap();
        let mine = table.0.iter().find(|p| p.pid == me).unwrap();
        assert!(mine.rss_bytes > 0);
        assert_eq!(host.process(me).unwrap().start_ticks, mine.start_ticks);
        assert!(!host.comm(me).unwrap().is_empty());
        assert!(host.process(u32::MAX).unwrap_err().is_missing());
    }

    proptest! {
        /// No bytes make the parser panic.
        #[test]
        fn never_panics(text in "(?s)([0-9]{0,12} \\()?.{0,40}(\\) [A-Z])?[0-9 -]{0,200}") {
            let _ = Process::parse(&text, 65536);
        }
    }
}
