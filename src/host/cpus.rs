// SPDX-License-Identifier: Apache-2.0
//! `/sys/devices/system/cpu`: which CPUs there are, which share a core, how fast they run
//! (Documentation/ABI/testing/sysfs-devices-system-cpu, Documentation/admin-guide/pm/cpufreq.rst).

use std::collections::BTreeSet;

use super::proc::MAX_CPUS;
use super::{Host, ReadError, Reading};

/// How fast a CPU runs, and may run, in Hz. What the driver does not know is `None`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Frequency {
    pub now: Option<u64>,
    /// Bounds within which the kernel chooses.
    pub least: Option<u64>,
    pub most: Option<u64>,
}

impl Host {
    /// CPUs that run.
    ///
    /// # Errors
    /// [`ReadError`]
    pub fn online_cpus(&self) -> Reading<Vec<u32>> {
        self.cpus("online")
    }

    /// CPUs that the machine has.
    ///
    /// # Errors
    /// [`ReadError`]
    pub fn present_cpus(&self) -> Reading<Vec<u32>> {
        self.cpus("present")
    }

    fn cpus(&self, which: &str) -> Reading<Vec<u32>> {
        let file = format!("devices/system/cpu/{which}");
        let text = self.read_sys(&file)?;
        parse(&text).ok_or_else(|| ReadError::malformed(&self.sys.join(&file), text.trim()))
    }

    /// How many cores these CPUs, which run, are on; `None`: of some it is not known.
    #[must_use]
    pub fn cores(&self, cpus: &[u32]) -> Option<u64> {
        // The second is the older name.
        let siblings = |cpu: &u32| {
            let file = |name| self.read_sys(&format!("devices/system/cpu/cpu{cpu}/topology/{name}")).ok();
            file("core_cpus_list").or_else(|| file("thread_siblings_list"))
        };
        let cores = cpus.iter().map(siblings).collect::<Option<BTreeSet<String>>>()?;
        u64::try_from(cores.len()).ok()
    }

    /// How fast a CPU runs.
    ///
    /// # Errors
    /// [`ReadError`]: it has no driver of frequencies, as in most virtual machines.
    pub fn frequency(&self, cpu: u32) -> Reading<Frequency> {
        let file = |name| format!("devices/system/cpu/cpu{cpu}/cpufreq/scaling_{name}_freq");
        let hz = |text: String| text.trim().parse::<u64>().ok().filter(|khz| *khz > 0)?.checked_mul(1000);
        let bound = |name| self.read_sys(&file(name)).ok().and_then(hz);
        // A driver that does not know writes `<unknown>`, or 0.
        let now = hz(self.read_sys(&file("cur"))?);
        Ok(Frequency { now, least: bound("min"), most: bound("max") })
    }
}

/// The first and last of each part of a list such as `0-3,8`; `None`: it is no number.
pub(super) fn ranges(list: &str) -> impl Iterator<Item = Option<(u32, u32)>> {
    list.trim().split(',').filter(|part| !part.is_empty()).map(|part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some((first.parse().ok()?, last.parse().ok()?))
    })
}

fn parse(list: &str) -> Option<Vec<u32>> {
    let mut out = Vec::new();
    for range in ranges(list) {
        let (first, last) = range.filter(|(_, last)| *last < MAX_CPUS)?;
        out.extend(first..=last);
    }
    (out.len() <= MAX_CPUS as usize).then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Ranges and single CPUs; none at all is a list, too.
    #[test]
    fn lists() {
        assert_eq!(parse("0-3,8\n"), Some(vec![0, 1, 2, 3, 8]));
        assert_eq!(parse("\n"), Some(vec![]));
        assert_eq!((parse("0-8192"), parse("0-4294967295"), parse("a"), parse("0-")), (None, None, None, None));
    }

    fn host(files: &[(&str, &str)]) -> (tempfile::TempDir, Host) {
        let d = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = d.path().join("sys/devices/system/cpu").join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let host = Host::under(d.path());
        (d, host)
    }

    /// Kilohertz become Hertz; what a driver does not know is absent, and no driver is an error.
    #[test]
    fn frequencies() {
        let (_d, host) = host(&[
            ("cpu0/cpufreq/scaling_cur_freq", "2400000\n"),
            ("cpu0/cpufreq/scaling_min_freq", "800000\n"),
            ("cpu1/cpufreq/scaling_cur_freq", "<unknown>\n"),
            ("cpu1/cpufreq/scaling_max_freq", "0\n"),
        ]);
        let expected = Frequency { now: Some(2_400_000_000), least: Some(800_000_000), most: None };
        assert_eq!(host.frequency(0).unwrap(), expected);
        assert_eq!(host.frequency(1).unwrap(), Frequency::default());
        assert!(host.frequency(2).unwrap_err().is_missing());
    }

    /// CPUs that share a core are one; under either name.
    #[test]
    fn cores() {
        let (_d, host) = host(&[
            ("cpu0/topology/core_cpus_list", "0,2\n"),
            ("cpu1/topology/thread_siblings_list", "1\n"),
            ("cpu2/topology/core_cpus_list", "0,2\n"),
        ]);
        assert_eq!((host.cores(&[0, 1, 2]), host.cores(&[0, 3])), (Some(2), None));
    }

    /// The real machine has a CPU.
    #[test]
    fn the_real_machine() {
        let host = Host::default();
        let (online, present) = (host.online_cpus().unwrap(), host.present_cpus().unwrap());
        assert!(!online.is_empty() && online.iter().all(|cpu| present.contains(cpu)));
    }

    proptest! {
        /// No text makes the parser panic.
        #[test]
        fn never_panics(text in "[0-9,-]{0,30}") {
            let _ = parse(&text);
        }
    }
}
