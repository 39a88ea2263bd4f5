// SPDX-License-Identifier: Apache-2.0
//! What a helper process may do, and take: limits on memory and time, no capability it does not need, and
//! for the parser a filter of system calls (seccomp(2)) that opens, starts and connects nothing.
#![expect(unsafe_code, reason = "alarm, sigaction and seccomp have no safe wrapper; each states what makes it sound")]

use std::io;

use rustix::process::{Resource, Rlimit, setrlimit};

/// Seconds after which a helper ends itself in the middle of a question: the agent, which does so
/// sooner, may be gone.
const LONGEST: libc::c_uint = 10;

/// Memory that the parser may have of its own.
const DATA: u64 = 256 << 20;
/// Addresses: files are mapped as a whole, and cost no memory of their own.
const ADDRESSES: u64 = 16 << 30;

/// Of both helpers.
pub fn limit(capabilities: &[&str]) -> anyhow::Result<()> {
    // Ended before any other: it can be started anew. Where /proc may not be written it stays as it is.
    drop(std::fs::write("/proc/self/oom_score_adj", "1000"));
    let at_most = |n| Rlimit { current: Some(n), maximum: Some(n) };
    setrlimit(Resource::Core, at_most(0))?;
    setrlimit(Resource::Data, at_most(DATA))?;
    setrlimit(Resource::As, at_most(ADDRESSES))?;
    crate::host::capabilities::keep_only(capabilities)?;
    rustix::thread::set_no_new_privs(true)?;
    Ok(())
}

/// Starts the clock that ends this process, or stops it.
pub fn alarm(on: bool) {
    // SAFETY: takes and returns plain numbers.
    unsafe { libc::alarm(if on { LONGEST } else { 0 }) };
}

/// Calls that the parser makes: memory, reading what is open, its sockets, its end.
const ALLOWED: &[libc::c_long] = &[
    libc::SYS_read,
    libc::SYS_pread64,
    libc::SYS_write,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_close,
    libc::SYS_fstat,
    // What libc's fstat is.
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_fstatfs,
    libc::SYS_lseek,
    libc::SYS_getdents64,
    libc::SYS_fcntl,
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_mprotect,
    libc::SYS_madvise,
    libc::SYS_brk,
    libc::SYS_futex,
    libc::SYS_getrandom,
    libc::SYS_clock_gettime,
    libc::SYS_setitimer,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_alarm,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_tgkill,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xc000_00b7;

/// Confines this process for good: from here on, `open` of `/proc/self/fd/N` gives a copy of the descriptor
/// N, any other is refused, and so is every call that is not in [`ALLOWED`].
pub fn confine() -> io::Result<()> {
    // SAFETY: all zeros is a valid sigaction: no flags, nothing blocked.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = answer_open as extern "C" fn(_, _, _) as usize;
    action.sa_flags = libc::SA_SIGINFO;
    // SAFETY: the action is live and its handler touches only what is safe in one, see there.
    if unsafe { libc::sigaction(libc::SIGSYS, &raw const action, std::ptr::null_mut()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let program = filter();
    let length = u16::try_from(program.len()).map_err(io::Error::other)?;
    let program = libc::sock_fprog { len: length, filter: program.as_ptr().cast_mut() };
    // SAFETY: the program is live and as long as it says; the kernel copies and checks it.
    let done = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A classic BPF program over `struct seccomp_data`: number, architecture, …
fn filter() -> Vec<libc::sock_filter> {
    let op = |code: u32, k: u32, jt: u8, jf: u8| libc::sock_filter { code: code as u16, jt, jf, k };
    let load = |offset| op(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset, 0, 0);
    let answer = |with| op(libc::BPF_RET | libc::BPF_K, with, 0, 0);
    let unless = |k: u32| op(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, k, 0, 1);
    let pass_over_one = op(libc::BPF_JMP | libc::BPF_JA, 1, 0, 0);
    let kill = answer(libc::SECCOMP_RET_KILL_PROCESS);
    let mut program = vec![load(4), unless(ARCHITECTURE), pass_over_one, kill, load(0)];
    for call in ALLOWED {
        program.extend([unless(*call as u32), answer(libc::SECCOMP_RET_ALLOW)]);
    }
    program.extend([unless(libc::SYS_openat as u32), answer(libc::SECCOMP_RET_TRAP)]);
    program.push(answer(libc::SECCOMP_RET_ERRNO | libc::EPERM.unsigned_abs()));
    program
}

/// Stands in for openat(2), whose number alone the filter sees, and not the path: a library that opens by
/// path gets what is open already.
extern "C" fn answer_open(_: libc::c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let context: *mut libc::ucontext_t = context.cast();
    // SAFETY: the kernel hands over the registers of the call that was trapped, which happened in this very
    // thread: its second argument is the path, a text that ends with NUL, as the only caller is libc's
    // `open`. Only calls that are safe in a signal handler are made; the result is put where the call's would be.
    unsafe {
        #[cfg(target_arch = "x86_64")]
        let registers = &mut (*context).uc_mcontext.gregs;
        #[cfg(target_arch = "x86_64")]
        let (path, result) = (registers[libc::REG_RSI as usize], &mut registers[libc::REG_RAX as usize]);
        #[cfg(target_arch = "aarch64")]
        let registers = &mut (*context).uc_mcontext.regs;
        #[cfg(target_arch = "aarch64")]
        let path = registers[1];
        #[cfg(target_arch = "aarch64")]
        let result = &mut registers[0];
        let copied = match descriptor(path as *const u8) {
            Some(fd) => libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 0),
            None => -1,
        };
        *result = (if copied < 0 { -libc::EACCES } else { copied }).into_register();
    }
}

trait IntoRegister<T> {
    fn into_register(self) -> T;
}

impl IntoRegister<i64> for i32 {
    fn into_register(self) -> i64 {
        self.into()
    }
}

impl IntoRegister<u64> for i32 {
    fn into_register(self) -> u64 {
        i64::from(self).cast_unsigned()
    }
}

/// N of `/proc/self/fd/N`.
///
/// # Safety
/// `path` is a text that ends with NUL.
unsafe fn descriptor(path: *const u8) -> Option<libc::c_int> {
    let mut at = path;
    // SAFETY: reads no further than the first byte that differs, which NUL does at the latest.
    let mut next = || unsafe {
        let byte = *at;
        at = at.add(1);
        byte
    };
    if !b"/proc/self/fd/".iter().all(|b| *b == next()) {
        return None;
    }
    let mut fd: libc::c_int = 0;
    loop {
        match next() {
            0 => return Some(fd),
            digit @ b'0'..=b'9' => fd = fd.checked_mul(10)?.checked_add((digit - b'0').into())?,
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Only descriptors are had by path.
    #[test]
    fn paths_of_descriptors() {
        // SAFETY: each ends with NUL.
        let fd = |path: &std::ffi::CStr| unsafe { descriptor(path.as_ptr().cast()) };
        assert_eq!((fd(c"/proc/self/fd/17"), fd(c"/proc/self/fd/17/x")), (Some(17), None));
        assert_eq!((fd(c"/proc/self/"), fd(c"/etc/passwd"), fd(c"")), (None, None, None));
        assert_eq!(fd(c"/proc/self/fd/99999999999"), None);
    }
}
