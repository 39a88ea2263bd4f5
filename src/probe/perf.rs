// SPDX-License-Identifier: Apache-2.0
//! Perf events that run a BPF program as often as is wanted: opened while the agent has the
//! privileges, switched on and off when it no longer has them.
#![expect(unsafe_code, reason = "perf_event_open(2) takes an address; it is of a struct that is checked here")]

use std::fs;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

use anyhow::{Context as _, Result};

/// `struct perf_event_attr` as far as its first version went (`PERF_ATTR_SIZE_VER0`,
/// include/uapi/linux/perf_event.h).
#[repr(C)]
struct Attr {
    kind: u32,
    size: u32,
    config: u64,
    sample_freq: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup_events: u32,
    bp_type: u32,
    bp_addr: u64,
}

const _: () = assert!(size_of::<Attr>() == 64);

// Of the same header.
const TYPE_SOFTWARE: u32 = 1;
const SW_CPU_CLOCK: u64 = 0;
const SAMPLE_RAW: u64 = 1 << 10;
const FLAG_DISABLED: u64 = 1;
const FLAG_FREQ: u64 = 1 << 10;
const FD_CLOEXEC: libc::c_ulong = 8;
const IOC_ENABLE: libc::c_ulong = 0x2400;
const IOC_DISABLE: libc::c_ulong = 0x2401;
const IOC_SET_BPF: libc::c_ulong = 0x4004_2408;

/// One event a CPU; all of them rest at first.
pub struct Sampling {
    events: Vec<OwnedFd>,
    /// `None`: where nothing runs.
    cpus: Option<Vec<u32>>,
}

impl Sampling {
    /// Opens an event on every CPU that is online: the software CPU clock, which works without hardware
    /// counters.
    ///
    /// # Errors
    /// The CPU, and the kernel's reason.
    pub(super) fn open(program: BorrowedFd<'_>, hz: u64) -> Result<Self> {
        let cpus = online()?;
        let events = cpus.iter().map(|cpu| open(*cpu, hz, program).with_context(|| format!("sample CPU {cpu}")));
        Ok(Sampling { events: events.collect::<Result<_>>()?, cpus: Some(cpus) })
    }

    /// Of a kernel made of memory: nothing runs.
    pub(super) fn of_nothing() -> Self {
        Sampling { events: Vec::new(), cpus: None }
    }

    /// Whether CPUs came or went since these were opened.
    #[must_use]
    pub fn is_outdated(&self) -> bool {
        self.cpus.as_ref().is_some_and(|cpus| online().is_ok_and(|now| now != *cpus))
    }

    /// # Errors
    /// The kernel's reason.
    pub fn start(&self) -> Result<()> {
        self.all(IOC_ENABLE).context("start sampling")
    }

    /// # Errors
    /// The kernel's reason.
    pub fn stop(&self) -> Result<()> {
        self.all(IOC_DISABLE).context("stop sampling")
    }

    fn all(&self, request: libc::c_ulong) -> io::Result<()> {
        self.events.iter().try_for_each(|e| ioctl(e, request, 0))
    }
}

fn online() -> Result<Vec<u32>> {
    aya::util::online_cpus().map_err(|(path, e)| anyhow::Error::new(e).context(format!("read {path}")))
}

fn open(cpu: u32, hz: u64, program: BorrowedFd<'_>) -> Result<OwnedFd> {
    let attr = Attr {
        kind: TYPE_SOFTWARE,
        size: size_of::<Attr>() as u32,
        config: SW_CPU_CLOCK,
        sample_freq: hz,
        sample_type: SAMPLE_RAW,
        read_format: 0,
        flags: FLAG_DISABLED | FLAG_FREQ,
        wakeup_events: 0,
        bp_type: 0,
        bp_addr: 0,
    };
    let (all_processes, no_group) = (-1, -1);
    // SAFETY: attr is live and as large as it says; the result is checked.
    let fd =
        unsafe { libc::syscall(libc::SYS_perf_event_open, &raw const attr, all_processes, cpu, no_group, FD_CLOEXEC) };
    let fd = i32::try_from(fd).ok().filter(|fd| *fd >= 0).ok_or_else(io::Error::last_os_error).map_err(refusal)?;
    // SAFETY: a descriptor that the kernel just gave us, and that nobody else has.
    let event = unsafe { OwnedFd::from_raw_fd(fd) };
    ioctl(&event, IOC_SET_BPF, libc::c_ulong::from(program.as_raw_fd().unsigned_abs()))
        .context("attach the program")?;
    Ok(event)
}

fn ioctl(event: &OwnedFd, request: libc::c_ulong, argument: libc::c_ulong) -> io::Result<()> {
    // SAFETY: the descriptor is open; these requests take a number.
    let answer = unsafe { libc::ioctl(event.as_raw_fd(), request as _, argument) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Debian's and Ubuntu's kernels know a level 3 of kernel.perf_event_paranoid, above those of
/// Documentation/admin-guide/sysctl/kernel.rst, at which CAP_PERFMON is not enough.
fn refusal(e: io::Error) -> anyhow::Error {
    let level = fs::read_to_string("/proc/sys/kernel/perf_event_paranoid").unwrap_or_default();
    let level = level.trim();
    let strict = level.parse::<i32>().is_ok_and(|l| l > 2);
    let why = match e.raw_os_error() {
        Some(libc::EACCES | libc::EPERM) if strict => {
            format!(
                "; kernel.perf_event_paranoid is {level}, which asks for CAP_SYS_ADMIN at start: start as root, or set it to 2"
            )
        }
        Some(libc::EACCES | libc::EPERM) => "; needs CAP_PERFMON, or CAP_SYS_ADMIN before Linux 5.8".to_owned(),
        _ => String::new(),
    };
    anyhow::anyhow!("perf_event_open: {e}{why}")
}
