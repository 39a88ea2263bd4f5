// SPDX-License-Identifier: Apache-2.0
//! `/proc/stat`: what the CPUs did since boot.

use crate::host::{Host, ReadError, Reading};

/// `USER_HZ` is 100 on every architecture that we build for (include/asm-generic/param.h).
const NS_PER_TICK: u64 = 10_000_000;

/// CPU time by mode, in nanoseconds. `user` and `nice` hold `guest` and `guest_nice` too, as the kernel counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CpuTimes {
    pub user_ns: u64,
    pub nice_ns: u64,
    pub system_ns: u64,
    pub idle_ns: u64,
    pub iowait_ns: u64,
    pub irq_ns: u64,
    pub softirq_ns: u64,
    /// What the hypervisor gave to others while this CPU had work.
    pub steal_ns: u64,
    pub guest_ns: u64,
    pub guest_nice_ns: u64,
}

impl CpuTimes {
    fn parse(words: &str) -> Self {
        let mut ticks = words
            .split_whitespace()
            .map(|w| w.parse::<u64>().unwrap_or(0).saturating_mul(NS_PER_TICK))
            .chain(std::iter::repeat(0));
        let mut next = || ticks.next().unwrap_or(0);
        CpuTimes {
            user_ns: next(),
            nice_ns: next(),
            system_ns: next(),
            idle_ns: next(),
            iowait_ns: next(),
            irq_ns: next(),
            softirq_ns: next(),
            steal_ns: next(),
            guest_ns: next(),
            guest_nice_ns: next(),
        }
    }

    /// All time that went by, each part once.
    #[must_use]
    pub fn total_ns(&self) -> u64 {
        [
            self.user_ns,
            self.nice_ns,
            self.system_ns,
            self.idle_ns,
            self.iowait_ns,
            self.irq_ns,
            self.softirq_ns,
            self.steal_ns,
        ]
        .into_iter()
        .fold(0, u64::saturating_add)
    }
}

/// `/proc/stat`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Stat {
    /// All CPUs together.
    pub all: CpuTimes,
    /// Each online CPU with its number.
    pub cpus: Vec<(u32, CpuTimes)>,
    pub context_switches: u64,
    /// Of all kinds, on all CPUs.
    pub interrupts: u64,
    pub forks: u64,
    /// Boot time, in seconds since the epoch.
    pub boot_time_s: u64,
    pub running: u32,
    pub blocked: u32,
}

impl Stat {
    fn parse(text: &str) -> Option<Self> {
        let mut s = Stat::default();
        let mut found = false;
        for line in text.lines() {
            let Some((name, rest)) = line.split_once(' ') else { continue };
            let number = || rest.split_whitespace().next().and_then(|w| w.parse::<u64>().ok()).unwrap_or(0);
            match name {
                "cpu" => (s.all, found) = (CpuTimes::parse(rest), true),
                "intr" => s.interrupts = number(),
                "ctxt" => s.context_switches = number(),
                "btime" => s.boot_time_s = number(),
                "processes" => s.forks = number(),
                "procs_running" => s.running = u32::try_from(number()).unwrap_or(u32::MAX),
                "procs_blocked" => s.blocked = u32::try_from(number()).unwrap_or(u32::MAX),
                _ => {
                    if let Some(cpu) = name.strip_prefix("cpu").and_then(|n| n.parse().ok()) {
                        s.cpus.push((cpu, CpuTimes::parse(rest)));
                    }
                }
            }
        }
        found.then_some(s)
    }
}

impl Host {
    /// What the CPUs did since boot.
    ///
    /// # Errors
    /// [`ReadError`]
    pub fn stat(&self) -> Reading<Stat> {
        Stat::parse(&self.read_proc("stat")?)
            .ok_or_else(|| ReadError::malformed(&self.proc.join("stat"), "no line of all CPUs"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Columns land where they belong; an old kernel's shorter line and a CPU that is offline are no trouble.
    #[test]
    fn parses() {
        let text = "cpu  10 1 2 300 4 5 6 7 8 9\ncpu0 1 2 3\ncpu3 5 0 0 0 0 0 0 2 0 0\nintr 1 2 3\nctxt 99\nbtime 17\nprocesses 5\nprocs_running 2\nprocs_blocked 1\n";
        let s = Stat::parse(text).unwrap();
        assert_eq!((s.all.steal_ns, s.all.total_ns()), (70_000_000, 3_350_000_000));
        assert_eq!(s.cpus.iter().map(|c| c.0).collect::<Vec<_>>(), [0, 3]);
        assert_eq!((s.cpus[0].1.system_ns, s.cpus[0].1.idle_ns), (30_000_000, 0));
        assert_eq!((s.context_switches, s.boot_time_s, s.forks, s.running, s.blocked), (99, 17, 5, 2, 1));
        assert_eq!(s.interrupts, 1);
        assert_eq!(Stat::parse("intr 1\n"), None);
    }

    /// The real file has as many CPUs as are online, and time goes by.
    #[test]
    fn the_real_file() {
        let s = Host::default().stat().unwrap();
        assert!(!s.cpus.is_empty() && s.all.total_ns() > 0);
    }

    proptest! {
        /// No bytes make the parser panic.
        #[test]
        fn never_panics(text in "(?s)(cpu[0-9]{0,12} )?[0-9 ]{0,60}.{0,100}") {
            let _ = Stat::parse(&text);
        }
    }
}
