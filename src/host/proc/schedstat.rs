// SPDX-License-Identifier: Apache-2.0
//! `/proc/schedstat`: what each CPU's run queue did (Documentation/scheduler/sched-stats.rst).

use crate::host::{Host, ReadError, Reading};

/// Versions whose lines of CPUs are known; they differ in those of domains.
const FIRST: u32 = 15;
const LAST: u32 = 17;

/// What threads did on a CPU since boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RunQueue {
    pub cpu: u32,
    pub ran_ns: u64,
    /// They were runnable, and waited.
    pub waited_ns: u64,
    /// How often one was put on the CPU.
    pub slices: u64,
}

impl RunQueue {
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.strip_prefix("cpu")?.split(' ');
        let cpu = words.next()?.parse().ok()?;
        let mut fields = words.skip(6).map(|w| w.parse().ok());
        let mut next = || fields.next().flatten();
        Some(RunQueue { cpu, ran_ns: next()?, waited_ns: next()?, slices: next()? })
    }
}

fn parse(text: &str) -> Result<Vec<RunQueue>, String> {
    let version = text.lines().next().and_then(|l| l.strip_prefix("version ")).unwrap_or_default();
    if !version.parse().is_ok_and(|v: u32| (FIRST..=LAST).contains(&v)) {
        return Err(format!("version {version:?}, where {FIRST} to {LAST} are known"));
    }
    Ok(text.lines().filter_map(RunQueue::parse).collect())
}

impl Host {
    /// What threads did on each CPU that is on line; [`ReadError::Missing`] without CONFIG_SCHEDSTATS.
    ///
    /// # Errors
    /// [`ReadError`]
    pub fn schedstat(&self) -> Reading<Vec<RunQueue>> {
        parse(&self.read_proc("schedstat")?).map_err(|what| ReadError::malformed(&self.proc.join("schedstat"), what))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The seventh and eighth figure are nanoseconds, the ninth is a number; lines of domains, with a name since version
    /// 17, are passed over, and a version that is not known is none.
    #[test]
    fn parses() {
        let cpu = "cpu0 0 0 65279 8841 37792 37792 80015632879 18335798709 56073\n";
        let expected = RunQueue { cpu: 0, ran_ns: 80_015_632_879, waited_ns: 18_335_798_709, slices: 56073 };
        for (version, domain) in [(15, "domain0 3 0 0"), (16, "domain0 3 0 0"), (17, "domain0 MC 3 0 0")] {
            let text =
                format!("version {version}\ntimestamp 4294900448\n{cpu}{domain}\ncpu3 1 2\ncpu8 0 0 0 0 0 0 1 2 3\n");
            let all = parse(&text).unwrap();
            assert_eq!((all.len(), all[0], all[1].cpu), (2, expected, 8));
        }
        assert!(parse(&format!("version 18\n{cpu}")).unwrap_err().contains("18"));
        assert!(parse(cpu).is_err());
    }

    proptest! {
        /// No bytes make the parser panic.
        #[test]
        fn never_panics(text in "(?s)version 1[4-8]\n(cpu[0-9 ]{0,40}\n){0,3}.{0,40}") {
            let _ = parse(&text);
        }
    }
}
