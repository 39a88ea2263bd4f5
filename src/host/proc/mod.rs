// SPDX-License-Identifier: Apache-2.0
//! `/proc` as typed readings: proc(5), Documentation/filesystems/proc.rst.

mod disk;
mod interrupts;
mod listen;
mod net;
mod process;
mod schedstat;
mod stat;

pub(crate) use disk::head_of;
pub use disk::{Disk, DiskOps};
pub use interrupts::Counted;
pub(super) use interrupts::MAX_CPUS;
pub use net::{Counters, Device, Queues, SocketFigure, Softnet, Traffic};
pub use process::{Process, Processes, State};
pub use schedstat::RunQueue;
pub use stat::{CpuTimes, Stat};

use super::{Host, ReadError, Reading, keyed, unescape};

/// Figures under the kernel's names, in its order: of `/proc/meminfo` or `/proc/vmstat`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Figures(Vec<(String, u64)>);

impl Figures {
    pub(super) fn of(lines: Vec<(String, u64)>) -> Self {
        Figures(lines)
    }

    /// One line, e.g. `MemAvailable`.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<u64> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, v)| *v)
    }

    /// All lines.
    pub fn iter(&self) -> impl Iterator<Item = (&str, u64)> {
        self.0.iter().map(|(n, v)| (n.as_str(), *v))
    }

    /// Of all lines whose names begin so; `None`: there is none.
    #[must_use]
    pub fn sum(&self, prefix: &str) -> Option<u64> {
        self.iter().filter(|(name, _)| name.starts_with(prefix)).map(|(_, v)| v).reduce(u64::saturating_add)
    }
}

/// Lines of meminfo: what has a unit in bytes, the others (`HugePages_…`) in pages.
pub(super) fn parse_meminfo(text: &str) -> Figures {
    let line = |line: &str| {
        let (name, rest) = line.split_once(':')?;
        let mut words = rest.split_whitespace();
        let n: u64 = words.next()?.parse().ok()?;
        let unit = if words.next() == Some("kB") { 1024 } else { 1 };
        Some((name.to_owned(), n.saturating_mul(unit)))
    };
    Figures(text.lines().filter_map(line).collect())
}

/// A line of `/proc/swaps`, in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Swap {
    pub device: String,
    pub size: u64,
    pub used: u64,
}

impl Swap {
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split_whitespace();
        let device = unescape(words.next()?);
        let mut kib = words.skip(1).map(|w| w.parse::<u64>().ok());
        let mut bytes = || Some(kib.next()??.saturating_mul(1024));
        Some(Swap { device, size: bytes()?, used: bytes()? })
    }
}

/// `/proc/loadavg`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LoadAvg {
    /// Over 1, 5 and 15 minutes.
    pub load: [f64; 3],
    /// Runnable this moment.
    pub running: u32,
    pub threads: u32,
}

/// One line of a pressure file: Documentation/accounting/psi.rst.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct PressureLine {
    /// Percent over 10, 60 and 300 s.
    pub avg: [f64; 3],
    pub total_us: u64,
}

/// A pressure file: how much time was lost waiting for a resource.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Pressure {
    /// At least one task waited; the irq file has no such line.
    pub some: Option<PressureLine>,
    /// All tasks that were not idle waited.
    pub full: Option<PressureLine>,
}

/// What pressure is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resource {
    Cpu,
    Memory,
    Io,
    Irq,
}

impl Resource {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Resource::Cpu => "cpu",
            Resource::Memory => "memory",
            Resource::Io => "io",
            Resource::Irq => "irq",
        }
    }
}

impl Host {
    /// The node's memory: sizes in bytes, `HugePages_…` in pages.
    ///
    /// # Errors
    /// [`ReadError`]
    pub fn meminfo(&self) -> Reading<Figures> {
        Ok(parse_meminfo(&self.read_proc("meminfo")?))
    }

    /// What the node's memory management did since boot.
    ///
    /// # Errors
    /// [`ReadError`]
    pub fn vmstat(&self) -> Reading<Figures> {
        Ok(Figures::of(keyed(&self.read_proc("vmstat")?)))
    }

    /// A setting of the kernel that is a number: `kernel/threads-max`.
    #[must_use]
    pub fn setting(&self, name: &str) -> Option<u64> {
        self.read_proc(&format!("sys/{name}")).ok()?.trim().parse().ok()
    }

    /// Open files of the node, and as many as it may have: Documentation/admin-guide/sysctl/fs.rst.
    ///
    /// # Errors
    /// [`ReadError`]
    pub fn open_files(&self) -> Reading<(u64, u64)> {
        let text = self.read_proc("sys/fs/file-nr")?;
        let n: Vec<u64> = text.split_whitespace().map_while(|w| w.parse().ok()).collect();
        match n[..] {
            // The second is what is allocated and free, 0 since 2.6.
            [used, free, most] => Ok((used.saturating_sub(free), most)),
            _ => Err(ReadError::malformed(&self.proc.join("sys/fs/file-nr"), text.trim())),
        }
    }

    /// Where the node swaps to; [`ReadError::Missing`] without CONFIG_SWAP.
    ///
    /// # Errors
    /// [`ReadError`]
    pub fn swaps(&self) -> Reading<Vec<Swap>> {
        Ok(self.read_proc("swaps")?.lines().skip(1).filter_map(Swap::parse).collect())
    }

    /// The node's load.
    ///
    /// # Errors
    /// [`ReadError`]
    pub fn loadavg(&self) -> Reading<LoadAvg> {
        let text = self.read_proc("loadavg")?;
        parse_loadavg(&text).ok_or_else(|| ReadError::malformed(&self.proc.join("loadavg"), text.trim()))
    }

    /// The node's pressure; [`ReadError::Missing`] where PSI is compiled out or turned off (`psi=0`).
    ///
    /// # Errors
    /// [`ReadError`]
    pub fn pressure(&self, of: Resource) -> Reading<Pressure> {
        let path = self.proc.join("pressure").join(of.as_str());
        // With psi=0 the files are there and reading them gives EOPNOTSUPP.
        let text = match super::read(&path) {
            Err(ReadError::Io { path, source }) if source.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                return Err(ReadError::Missing { path });
            }
            other => other?,
        };
        parse_pressure(&text).ok_or_else(|| ReadError::malformed(&path, text.trim()))
    }
}

fn parse_loadavg(text: &str) -> Option<LoadAvg> {
    let mut words = text.split_whitespace();
    let mut load = [0.0; 3];
    for slot in &mut load {
        *slot = words.next()?.parse().ok()?;
    }
    let (running, threads) = words.next()?.split_once('/')?;
    Some(LoadAvg { load, running: running.parse().ok()?, threads: threads.parse().ok()? })
}

/// Reads a pressure file's text, the node's or a cgroup's.
#[must_use]
pub fn parse_pressure(text: &str) -> Option<Pressure> {
    let line = |kind: &str| {
        let rest = text.lines().find_map(|l| l.strip_prefix(kind)?.strip_prefix(' '))?;
        let get = |name: &str| rest.split(' ').find_map(|w| w.strip_prefix(name)?.strip_prefix('='));
        let avg = [get("avg10")?.parse().ok()?, get("avg60")?.parse().ok()?, get("avg300")?.parse().ok()?];
        Some(PressureLine { avg, total_us: get("total")?.parse().ok()? })
    };
    let (some, full) = (line("some"), line("full"));
    (some.is_some() || full.is_some()).then_some(Pressure { some, full })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Lines with and without a unit, and lines that are neither.
    #[test]
    fn meminfo() {
        let m = parse_meminfo("MemTotal:   16 kB\nHugePages_Total:     3\nodd\n");
        assert_eq!((m.get("MemTotal"), m.get("HugePages_Total"), m.get("odd")), (Some(16384), Some(3), None));
    }

    /// The form of proc(5).
    #[test]
    fn loadavg() {
        let l = parse_loadavg("0.20 0.18 0.12 1/80 11206\n").unwrap();
        assert_eq!((l.load[0], l.running, l.threads), (0.20, 1, 80));
        assert_eq!(parse_loadavg("0.20 0.18"), None);
    }

    /// Both lines, and the irq file, which has only one.
    #[test]
    fn pressure() {
        let text = "some avg10=1.50 avg60=0.10 avg300=0.00 total=123\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=7\n";
        let p = parse_pressure(text).unwrap();
        assert_eq!((p.some.unwrap().avg[0], p.some.unwrap().total_us, p.full.unwrap().total_us), (1.5, 123, 7));
        let irq = parse_pressure("full avg10=0.00 avg60=0.00 avg300=0.00 total=7\n").unwrap();
        assert_eq!((irq.some, irq.full.unwrap().total_us), (None, 7));
    }

    /// The real files, as far as this kernel has them.
    #[test]
    fn the_real_node() {
        let host = Host::default();
        assert!(host.meminfo().unwrap().get("MemTotal").unwrap() > 1 << 20);
        assert!(host.loadavg().unwrap().threads > 0);
        match host.pressure(Resource::Cpu) {
            Ok(p) => assert!(p.some.unwrap().avg[0] <= 100.0),
            Err(e) => assert!(e.is_missing(), "{e}"),
        }
    }

    proptest! {
        /// No bytes make a parser panic.
        #[test]
        fn never_panics(text in "(?s)(some |full |cpu)?.{0,200}") {
            let _ = parse_meminfo(&text);
            let _ = parse_loadavg(&text);
            let _ = parse_pressure(&text);
        }
    }
}
