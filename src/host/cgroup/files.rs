// SPDX-License-Identifier: Apache-2.0
//! A cgroup's own files, v1 and v2 alike: Documentation/admin-guide/cgroup-v1/ and cgroup-v2.rst.

use std::path::{Path, PathBuf};

use super::{Cgroups, Hierarchy};
use crate::host::cpus::ranges;
use crate::host::proc::{Pressure, Resource, parse_pressure};
use crate::host::{ReadError, Reading, keyed, read};

/// How much CPU time a cgroup may use: `cpu.max`, or `cpu.cfs_quota_us` and `cpu.cfs_period_us`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CpuLimit {
    /// Per period; `None`: no limit.
    pub quota_us: Option<u64>,
    pub period_us: u64,
}

impl CpuLimit {
    /// The limit as a number of CPUs.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "microseconds of a period are far below 2^52")]
    pub fn cpus(&self) -> Option<f64> {
        let quota = self.quota_us?;
        (self.period_us > 0).then(|| quota as f64 / self.period_us as f64)
    }
}

/// `cpu.stat`: what the limit cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Throttling {
    pub periods: u64,
    pub throttled: u64,
    pub throttled_ns: u64,
    /// CPU time used; v2 only.
    pub usage_ns: Option<u64>,
}

/// Memory of a cgroup, in bytes; `None`: no limit, or not offered.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Memory {
    pub current: u64,
    pub max: Option<u64>,
    pub high: Option<u64>,
    pub peak: Option<u64>,
    pub swap_current: Option<u64>,
    /// Of swap alone; v1's limit of both together is turned into it.
    pub swap_max: Option<u64>,
    /// `memory.stat` in the kernel's order and units.
    pub stat: Vec<(String, u64)>,
    /// On v1, whether the cgroup is out of memory this moment.
    pub under_oom: Option<bool>,
}

impl Memory {
    /// One line of `memory.stat`.
    #[must_use]
    pub fn stat(&self, name: &str) -> Option<u64> {
        self.stat.iter().find(|(n, _)| n == name).map(|(_, v)| *v)
    }
}

/// How often a cgroup met its limits: `memory.events`, or v1's `failcnt` and `oom_control`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MemoryEvents {
    pub low: Option<u64>,
    pub high: Option<u64>,
    /// Times that the limit was reached.
    pub max: Option<u64>,
    pub oom: Option<u64>,
    /// Processes killed; on v1 since kernel 4.13.
    pub oom_kill: Option<u64>,
    pub oom_group_kill: Option<u64>,
}

/// What a cgroup and those below it read from and wrote to one device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DeviceIo {
    /// Major and minor number.
    pub device: (u32, u32),
    pub read_bytes: u64,
    pub written_bytes: u64,
    pub reads: u64,
    pub writes: u64,
}

/// v1 writes "no limit" as the largest multiple of a page that fits a signed long.
const V1_NO_LIMIT: u64 = 0x7fff_ffff_ffff_0000;

impl Cgroups {
    fn controller(&self, name: &'static str) -> Reading<&Hierarchy> {
        self.of_controller(name).ok_or(ReadError::NoController { controller: name })
    }

    fn files(&self, controller: &'static str, path: &str) -> Reading<(bool, PathBuf)> {
        let h = self.controller(controller)?;
        let dir = h.dir(path).ok_or_else(|| ReadError::Missing { path: path.into() })?;
        Ok((h.number == 0, dir))
    }

    /// The cgroup's own limit of CPU time, not its ancestors'.
    ///
    /// # Errors
    /// [`ReadError`]
    pub fn cpu_limit(&self, path: &str) -> Reading<CpuLimit> {
        let (v2, dir) = self.files("cpu", path)?;
        if v2 {
            let file = dir.join("cpu.max");
            let text = read(&file)?;
            return parse_cpu_max(&text).ok_or_else(|| ReadError::malformed(&file, text.trim()));
        }
        let quota_us = u64::try_from(number::<i64>(&dir.join("cpu.cfs_quota_us"))?).ok();
        Ok(CpuLimit { quota_us, period_us: number(&dir.join("cpu.cfs_period_us"))? })
    }

    /// The tightest limit of the cgroup and its ancestors, as a number of CPUs; `None`: no limit.
    /// A pod's or slice's limit holds for all that is in it.
    #[must_use]
    pub fn cpus_allowed(&self, path: &str) -> Option<f64> {
        self.cpu_limits(path).map(|(_, cpus)| cpus).min_by(f64::total_cmp)
    }

    /// The limits of the cgroup and its ancestors that there are, each with the path of whose it is and as a number of
    /// CPUs.
    pub fn cpu_limits<'p>(&self, path: &'p str) -> impl Iterator<Item = (&'p str, f64)> {
        ancestors(path).filter_map(|p| Some((p, self.cpu_limit(p).ok()?.cpus()?)))
    }

    /// How many CPUs the cgroup's cpuset holds.
    ///
    /// # Errors
    /// [`ReadError`]
    pub fn cpuset_cpus(&self, path: &str) -> Reading<u32> {
        let (v2, dir) = self.files("cpuset", path)?;
        let file = dir.join(if v2 { "cpuset.cpus.effective" } else { "cpuset.effective_cpus" });
        let text = read(&file)?;
        cpu_list_len(text.trim()).ok_or_else(|| ReadError::malformed(&file, text.trim()))
    }

    /// What the CPU limit cost so far.
    ///
    /// # Errors
    /// [`ReadError`]
    pub fn throttling(&self, path: &str) -> Reading<Throttling> {
        let (_, dir) = self.files("cpu", path)?;
        let stat = keyed(&read(&dir.join("cpu.stat"))?);
        let get = |name: &str| stat.iter().find(|(n, _)| n == name).map(|(_, v)| *v);
        Ok(Throttling {
            periods: get("nr_periods").unwrap_or(0),
            throttled: get("nr_throttled").unwrap_or(0),
            // v1 has nanoseconds as throttled_time, v2 microseconds as throttled_usec.
            throttled_ns: get("throttled_time")
                .or_else(|| get("throttled_usec").map(|us| us.saturating_mul(1000)))
                .unwrap_or(0),
            usage_ns: get("usage_usec").map(|us| us.saturating_mul(1000)),
        })
    }

    /// The cgroup's memory: use, limits and `memory.stat`. What a file of it does not give is `None`;
    /// only the use itself must be there.
    ///
    /// # Errors
    /// [`ReadError`]
    pub fn memory(&self, path: &str) -> Reading<Memory> {
        let (v2, dir) = self.files("memory", path)?;
        let stat = read(&dir.join("memory.stat")).map(|t| keyed(&t)).unwrap_or_default();
        let limit = |file: &str| limit(&dir.join(file));
        if v2 {
            return Ok(Memory {
                current: number(&dir.join("memory.current"))?,
                max: limit("memory.max"),
                high: limit("memory.high"),
                peak: number(&dir.join("memory.peak")).ok(),
                swap_current: number(&dir.join("memory.swap.current")).ok(),
                swap_max: limit("memory.swap.max"),
                stat,
                under_oom: None,
            });
        }
        let current = number(&dir.join("memory.usage_in_bytes"))?;
        let max = limit("memory.limit_in_bytes");
        let both: Option<u64> = number(&dir.join("memory.memsw.usage_in_bytes")).ok();
        let oom = read(&dir.join("memory.oom_control")).map(|t| keyed(&t)).unwrap_or_default();
        Ok(Memory {
            current,
            max,
            high: limit("memory.soft_limit_in_bytes"),
            peak: number(&dir.join("memory.max_usage_in_bytes")).ok(),
            swap_current: both.map(|b| b.saturating_sub(current)),
            swap_max: limit("memory.memsw.limit_in_bytes").map(|b| b.saturating_sub(max.unwrap_or(0))),
            stat,
            under_oom: oom.iter().find(|(n, _)| n == "under_oom").map(|(_, v)| *v != 0),
        })
    }

    /// The cgroup's pressure; [`ReadError::Missing`] on v1, which has none.
    ///
    /// # Errors
    /// [`ReadError`]
    pub fn pressure(&self, of: Resource, path: &str) -> Reading<Pressure> {
        let dir = self.dir(0, path).ok_or_else(|| ReadError::Missing { path: path.into() })?;
        let file = dir.join(format!("{}.pressure", of.as_str()));
        let text = read(&file)?;
        parse_pressure(&text).ok_or_else(|| ReadError::malformed(&file, text.trim()))
    }

    /// What the cgroup read and wrote: `io.stat`, or v1's `blkio.throttle.*_recursive`.
    ///
    /// # Errors
    /// [`ReadError`]
    pub fn io(&self, path: &str) -> Reading<Vec<DeviceIo>> {
        if let Ok((true, dir)) = self.files("io", path) {
            return Ok(parse_io_stat(&read(&dir.join("io.stat"))?));
        }
        let (_, dir) = self.files("blkio", path)?;
        let file = |what: &str| read(&dir.join(format!("blkio.throttle.io_{what}_recursive")));
        Ok(parse_blkio(&file("service_bytes")?, &file("serviced")?))
    }

    /// The tightest memory limit of the cgroup and its ancestors, in bytes.
    #[must_use]
    pub fn memory_allowed(&self, path: &str) -> Option<u64> {
        let (v2, _) = self.files("memory", path).ok()?;
        let file = if v2 { "memory.max" } else { "memory.limit_in_bytes" };
        ancestors(path).filter_map(|p| limit(&self.files("memory", p).ok()?.1.join(file))).min()
    }

    /// The tightest limit of processes and threads together, of the cgroup and its ancestors.
    #[must_use]
    pub fn tasks_allowed(&self, path: &str) -> Option<u64> {
        ancestors(path).filter_map(|p| limit(&self.files("pids", p).ok()?.1.join("pids.max"))).min()
    }

    /// How often the cgroup met its limits; on v2 those of its descendants are counted too.
    ///
    /// # Errors
    /// [`ReadError`]
    pub fn memory_events(&self, path: &str) -> Reading<MemoryEvents> {
        let (v2, dir) = self.files("memory", path)?;
        let file = if v2 { "memory.events" } else { "memory.oom_control" };
        let found = keyed(&read(&dir.join(file))?);
        let get = |name: &str| found.iter().find(|(n, _)| n == name).map(|(_, v)| *v);
        Ok(MemoryEvents {
            low: get("low"),
            high: get("high"),
            max: if v2 { get("max") } else { number(&dir.join("memory.failcnt")).ok() },
            oom: get("oom"),
            oom_kill: get("oom_kill"),
            oom_group_kill: get("oom_group_kill"),
        })
    }
}

/// The cgroup itself, and all above it: innermost first, the root last.
pub fn ancestors(path: &str) -> impl Iterator<Item = &str> {
    let mut next = Some(path.trim_end_matches('/'));
    std::iter::from_fn(move || {
        let here = next?;
        next = here.rfind('/').map(|i| &here[..i]);
        Some(if here.is_empty() { "/" } else { here })
    })
}

fn device_number(word: &str) -> Option<(u32, u32)> {
    let (major, minor) = word.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// `MAJ:MIN rbytes=… wbytes=… rios=… wios=…`, and whatever else a kernel has.
fn parse_io_stat(text: &str) -> Vec<DeviceIo> {
    let line = |line: &str| {
        let (device, rest) = line.split_once(' ')?;
        let mut io = DeviceIo { device: device_number(device)?, ..DeviceIo::default() };
        for (key, value) in rest.split_whitespace().filter_map(|w| w.split_once('=')) {
            let Ok(n) = value.parse() else { continue };
            match key {
                "rbytes" => io.read_bytes = n,
                "wbytes" => io.written_bytes = n,
                "rios" => io.reads = n,
                "wios" => io.writes = n,
                _ => {}
            }
        }
        Some(io)
    };
    text.lines().filter_map(line).collect()
}

/// v1's two files of lines `MAJ:MIN Read N`; other operations (Sync, Async, …) hold the same again.
fn parse_blkio(bytes: &str, operations: &str) -> Vec<DeviceIo> {
    let mut found = Vec::<DeviceIo>::new();
    for (text, is_bytes) in [(bytes, true), (operations, false)] {
        for line in text.lines() {
            let mut words = line.split_whitespace();
            let Some(device) = words.next().and_then(device_number) else { continue };
            let (Some(way), Some(Ok(n))) = (words.next(), words.next().map(str::parse::<u64>)) else { continue };
            let at = found.iter().position(|io| io.device == device).unwrap_or_else(|| {
                found.push(DeviceIo { device, ..DeviceIo::default() });
                found.len() - 1
            });
            let Some(io) = found.get_mut(at) else { continue };
            match (way, is_bytes) {
                ("Read", true) => io.read_bytes = n,
                ("Write", true) => io.written_bytes = n,
                ("Read", false) => io.reads = n,
                ("Write", false) => io.writes = n,
                _ => {}
            }
        }
    }
    found
}

fn number<T: std::str::FromStr>(file: &Path) -> Reading<T> {
    let text = read(file)?;
    text.trim().parse().map_err(|_| ReadError::malformed(file, text.trim()))
}

/// A limit; `max` and v1's huge number of bytes are none.
fn limit(file: &Path) -> Option<u64> {
    number::<u64>(file).ok().filter(|v| *v < V1_NO_LIMIT)
}

/// `QUOTA PERIOD`, quota may be `max`.
pub(super) fn parse_cpu_max(text: &str) -> Option<CpuLimit> {
    let mut words = text.split_whitespace();
    let quota_us = match words.next()? {
        "max" => None,
        n => Some(n.parse().ok()?),
    };
    Some(CpuLimit { quota_us, period_us: words.next()?.parse().ok()? })
}

/// How many CPUs a list like `0-3,8` names.
pub(super) fn cpu_list_len(list: &str) -> Option<u32> {
    let mut n = 0u32;
    for range in ranges(list) {
        let (first, last) = range?;
        n = n.checked_add(last.checked_sub(first)?.checked_add(1)?)?;
    }
    Some(n)
}
