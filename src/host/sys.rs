// SPDX-License-Identifier: Apache-2.0
//! The few system calls that have no safe wrapper.
#![expect(unsafe_code, reason = "libc calls without a safe wrapper; each states what makes it sound")]

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

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

/// Keeps malloc from holding memory that was free long ago: one arena, as by default each thread may get
/// one, and what one frees no other uses; and what is large stays apart (mallopt(3): M_MMAP_THRESHOLD),
/// as by default the first that is freed makes its size ordinary, and small pieces settle around the
/// next. Call before threads are started. `false`: this libc has no such settings.
pub fn limit_malloc() -> bool {
    /// What the default is before the first is freed.
    #[cfg(target_env = "gnu")]
    const LARGE: libc::c_int = 128 << 10;
    #[cfg(target_env = "gnu")]
    // SAFETY: takes and returns plain numbers.
    return unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) == 1 && libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE) == 1 };
    #[cfg(not(target_env = "gnu"))]
    return false;
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
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the descriptor is open while `file` is borrowed, and `size` is a live, writable winsize.
    let answer = unsafe { libc::ioctl(file.as_fd().as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) };
    (answer == 0 && size.ws_col > 0).then_some(usize::from(size.ws_col))
}

/// Makes a socket's receive buffer as large as this whatever the node's limit: socket(7).
///
/// # Errors
/// EPERM without CAP_NET_ADMIN.
pub fn force_receive_buffer(socket: BorrowedFd<'_>, bytes: usize) -> io::Result<()> {
    let value = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
    let (level, name, size) = (libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, size_of::<libc::c_int>() as libc::socklen_t);
    // SAFETY: the descriptor is open, and the option takes a c_int, which lives to the end of the call.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), size) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Receives a netlink datagram without waiting: its length, and the number of the network namespace
/// that it is from, where NETLINK_LISTEN_ALL_NSID is on and it is another one: netlink(7).
///
/// # Errors
/// The socket's: WouldBlock where there is none, ENOBUFS where some were lost.
pub fn receive_with_nsid(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<(usize, Option<i32>)> {
    let mut control = [0_u64; 8];
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: a msghdr of zeros is one without name, parts and control data.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control) as _;
    // SAFETY: the descriptor is open; the message points to buffers that are live, writable and as long as it says.
    let n = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT) };
    let n = usize::try_from(n).map_err(|_| io::Error::last_os_error())?;
    let mut nsid = None;
    // SAFETY: the kernel filled the control data; the macros stay within its length.
    let mut header = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
    while !header.is_null() {
        // SAFETY: the macros gave a header within `control`, whose data follows it.
        let (level, kind, data) = unsafe { ((*header).cmsg_level, (*header).cmsg_type, libc::CMSG_DATA(header)) };
        if level == libc::SOL_NETLINK && kind == libc::NETLINK_LISTEN_ALL_NSID {
            // SAFETY: this kind carries an int; control data may lie at any address.
            nsid = Some(unsafe { data.cast::<libc::c_int>().read_unaligned() });
        }
        // SAFETY: as above.
        header = unsafe { libc::CMSG_NXTHDR(&raw const message, header) };
    }
    Ok((n.min(buffer.len()), nsid))
}

/// User and group that this process acts as.
#[must_use]
pub fn effective_ids() -> (u32, u32) {
    // SAFETY: take nothing, return plain numbers, and cannot fail.
    unsafe { (libc::geteuid(), libc::getegid()) }
}

/// Supplementary groups of who made a connection over a local socket, as they were then: `SO_PEERGROUPS`
/// (Linux 4.13), net/core/sock.c.
///
/// # Errors
/// What the kernel says; one with more groups than are asked for here is refused too.
pub fn peer_groups(socket: &impl std::os::fd::AsFd) -> std::io::Result<Vec<u32>> {
    use std::os::fd::AsRawFd as _;
    // NGROUPS_MAX is 65,536; a few are the rule.
    let mut groups = [0_u32; 1024];
    let mut bytes = libc::socklen_t::try_from(size_of_val(&groups)).unwrap_or(0);
    // SAFETY: the descriptor is open while `socket` is borrowed; the kernel writes at most `bytes` into
    // `groups`, which is that large, and into `bytes` how much it wrote.
    let answer = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERGROUPS,
            groups.as_mut_ptr().cast(),
            &raw mut bytes,
        )
    };
    if answer != 0 {
        return Err(std::io::Error::last_os_error());
    }
    Ok(groups.iter().take(bytes as usize / size_of::<u32>()).copied().collect())
}

/// Lets this process open as many files as it is allowed at most; by default that is not so, for programs
/// that use `select` (systemd.exec(5), `LimitNOFILE=`).
pub fn raise_file_limit() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a live, writable rlimit.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } == 0 {
        limit.rlim_cur = limit.rlim_max;
        // SAFETY: `limit` is a live rlimit. A refusal leaves the limit as it was.
        unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
    }
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
