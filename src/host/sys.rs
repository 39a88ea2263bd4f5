// SPDX-License-Identifier: Apache-2.0
//! The few system calls that have no safe wrapper.
#![expect(unsafe_code, reason = "libc calls without a safe wrapper; each states what makes it sound")]

fn clock_ns(clock: libc::clockid_t) -> u64 {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `t` is a live, writable timespec.
    if unsafe { libc::clock_gettime(clock, &raw mut t) } != 0 {
        return 0;
    }
    u64::try_from(t.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(t.tv_nsec).unwrap_or(0)
}

/// `CLOCK_BOOTTIME` in nanoseconds.
#[must_use]
pub fn boot_ns() -> u64 {
    clock_ns(libc::CLOCK_BOOTTIME)
}

/// `CLOCK_REALTIME` in nanoseconds since the epoch.
#[must_use]
pub fn wall_ns() -> u64 {
    clock_ns(libc::CLOCK_REALTIME)
}

/// CPU time that this process has used, user and system, in nanoseconds.
#[must_use]
pub fn process_cpu_ns() -> u64 {
    clock_ns(libc::CLOCK_PROCESS_CPUTIME_ID)
}

/// Bytes of a page of memory.
#[must_use]
pub fn page_size() -> u64 {
    // SAFETY: takes and returns plain numbers.
    u64::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096)
}

/// Keeps malloc to `arenas` arenas: by default each thread may get one, and what one frees no other uses.
/// Call before threads are started. `false`: this libc has no such setting.
pub fn limit_malloc_arenas(arenas: u16) -> bool {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes and returns plain numbers.
    return unsafe { libc::mallopt(libc::M_ARENA_MAX, libc::c_int::from(arenas)) } == 1;
    #[cfg(not(target_env = "gnu"))]
    return arenas == 0;
}

/// Gives memory that malloc holds free back to the kernel.
pub fn trim_malloc() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes and returns plain numbers; malloc takes its own locks.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Columns of the terminal behind a file; `None` when it is none, or does not say: ioctl_tty(2).
#[must_use]
pub fn terminal_width(file: &impl std::os::fd::AsFd) -> Option<usize> {
    use std::os::fd::AsRawFd as _;
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the descriptor is open while `file` is borrowed, and `size` is a live, writable winsize.
    let answer = unsafe { libc::ioctl(file.as_fd().as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) };
    (answer == 0 && size.ws_col > 0).then_some(usize::from(size.ws_col))
}

/// A socket that asks for the time of arrival of packets: while one is open, the kernel stamps all that
/// it receives, whoever they are for (`net_enable_timestamp` in net/core/dev.c). It is bound to nothing.
///
/// # Errors
/// No socket can be had.
pub fn stamping_socket() -> std::io::Result<std::net::UdpSocket> {
    use std::os::fd::{FromRawFd as _, OwnedFd};
    // SAFETY: takes and returns plain numbers; the result is checked.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: a descriptor that the kernel just gave us, and that nobody else has.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let on: libc::c_int = 1;
    let size = libc::socklen_t::try_from(size_of_val(&on)).unwrap_or(0);
    // SAFETY: `on` is live and of the size that is said.
    let set = unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, (&raw const on).cast(), size) };
    if set == 0 { Ok(socket.into()) } else { Err(std::io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    /// The calls give plausible values on the real system.
    #[test]
    fn the_calls_work() {
        assert!(super::boot_ns() > 0 && super::wall_ns() > 1_500_000_000_000_000_000);
        assert!(super::page_size().is_power_of_two());
        assert!(super::process_cpu_ns() > 0);
        super::trim_malloc();
    }
}
