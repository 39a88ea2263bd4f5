// SPDX-License-Identifier: Apache-2.0
//! System calls: the bpf(2) commands that aya has not, or has dearly (batch reads and single
//! elements).
#![expect(unsafe_code, reason = "system calls take addresses; each is of a buffer whose size is checked here")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use zerocopy::{FromZeros, Immutable, IntoBytes};

const BPF_MAP_LOOKUP_ELEM: libc::c_int = 1;
const BPF_MAP_UPDATE_ELEM: libc::c_int = 2;
const BPF_MAP_DELETE_ELEM: libc::c_int = 3;
const BPF_MAP_GET_NEXT_KEY: libc::c_int = 4;
const BPF_MAP_LOOKUP_BATCH: libc::c_int = 24;
const BPF_MAP_LOOKUP_AND_DELETE_BATCH: libc::c_int = 25;

/// `BPF_MAP_*_ELEM` of `union bpf_attr`.
#[derive(FromZeros, IntoBytes, Immutable)]
#[repr(C)]
struct ElemAttr {
    map_fd: u32,
    pad: u32,
    key: u64,
    /// Or `next_key`.
    value: u64,
    flags: u64,
}

/// `BPF_MAP_*_BATCH` of `union bpf_attr`.
#[derive(FromZeros, IntoBytes, Immutable)]
#[repr(C)]
struct BatchAttr {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// A map's descriptor and the sizes that the kernel reads and writes at.
#[derive(Clone, Copy)]
pub struct RawMap<'a> {
    pub fd: BorrowedFd<'a>,
    pub key_size: usize,
    /// Of what one look-up returns: for per-CPU maps, all CPUs' values.
    pub value_size: usize,
}

fn bpf<A: IntoBytes + Immutable>(cmd: libc::c_int, attr: &mut A) -> io::Result<()> {
    // SAFETY: attr is a prefix of union bpf_attr, valid for its size; the addresses within were
    // checked by the callers below.
    let r = unsafe { libc::syscall(libc::SYS_bpf, cmd, std::ptr::from_mut(attr), size_of::<A>()) };
    if r < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn fd_number(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().unsigned_abs()
}

fn address(bytes: &[u8]) -> u64 {
    bytes.as_ptr() as u64
}

impl RawMap<'_> {
    fn elem(&self, cmd: libc::c_int, key: Option<&[u8]>, value: u64, flags: u64) -> io::Result<()> {
        if key.is_some_and(|k| k.len() != self.key_size) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the key's size is not the map's"));
        }
        let key = key.map_or(0, address);
        bpf(cmd, &mut ElemAttr { map_fd: fd_number(self.fd), pad: 0, key, value, flags })
    }

    /// Fills `value`; false when there is no such key.
    pub fn lookup(&self, key: &[u8], value: &mut [u8]) -> io::Result<bool> {
        self.check(value.len(), self.value_size)?;
        absent_is_false(self.elem(BPF_MAP_LOOKUP_ELEM, Some(key), value.as_mut_ptr() as u64, 0))
    }

    pub fn update(&self, key: &[u8], value: &[u8]) -> io::Result<()> {
        self.check(value.len(), self.value_size)?;
        self.elem(BPF_MAP_UPDATE_ELEM, Some(key), address(value), 0)
    }

    /// False when there was no such key.
    pub fn delete(&self, key: &[u8]) -> io::Result<bool> {
        absent_is_false(self.elem(BPF_MAP_DELETE_ELEM, Some(key), 0, 0))
    }

    /// Writes the key after `key` (the first, for none) to `next`; false at the end.
    pub fn next_key(&self, key: Option<&[u8]>, next: &mut [u8]) -> io::Result<bool> {
        self.check(next.len(), self.key_size)?;
        absent_is_false(self.elem(BPF_MAP_GET_NEXT_KEY, key, next.as_mut_ptr() as u64, 0))
    }

    /// Reads up to as many entries as there is room for, from `token` on. Returns how many, and
    /// whether these were the last.
    pub fn batch(
        &self,
        token: &mut BatchToken,
        keys: &mut [u8],
        values: &mut [u8],
        delete: bool,
    ) -> io::Result<(usize, bool)> {
        let room = (keys.len() / self.key_size).min(values.len() / self.value_size);
        let mut attr = BatchAttr {
            in_batch: if token.started { address(&token.bytes) } else { 0 },
            out_batch: token.bytes.as_mut_ptr() as u64,
            keys: keys.as_mut_ptr() as u64,
            values: values.as_mut_ptr() as u64,
            count: u32::try_from(room).unwrap_or(u32::MAX),
            map_fd: fd_number(self.fd),
            elem_flags: 0,
            flags: 0,
        };
        let cmd = if delete { BPF_MAP_LOOKUP_AND_DELETE_BATCH } else { BPF_MAP_LOOKUP_BATCH };
        let last = match bpf(cmd, &mut attr) {
            Ok(()) => false,
            // The last batch says so, and its count is valid.
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => true,
            Err(e) => return Err(e),
        };
        token.started = true;
        Ok(((attr.count as usize).min(room), last))
    }

    fn check(&self, got: usize, want: usize) -> io::Result<()> {
        if got == want {
            Ok(())
        } else {
            Err(io::Error::new(io::ErrorKind::InvalidInput, "a buffer of another size than the map's"))
        }
    }
}

/// Where a batch read goes on: a bucket's number or a key of up to 64 bytes.
pub struct BatchToken {
    bytes: [u8; 64],
    started: bool,
}

impl BatchToken {
    pub fn new() -> Self {
        BatchToken { bytes: [0; 64], started: false }
    }
}

/// `CLOCK_MONOTONIC`, which is what `bpf_ktime_get_ns` reads.
pub fn monotonic_ns() -> u64 {
    clock_ns(libc::CLOCK_MONOTONIC)
}

/// `CLOCK_BOOTTIME`, which is what `bpf_ktime_get_boot_ns` reads.
pub fn boot_ns() -> u64 {
    clock_ns(libc::CLOCK_BOOTTIME)
}

fn clock_ns(clock: libc::clockid_t) -> u64 {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: t is valid for writing; both clocks always exist.
    unsafe { libc::clock_gettime(clock, &raw mut t) };
    t.tv_sec.unsigned_abs() * 1_000_000_000 + t.tv_nsec.unsigned_abs()
}

fn absent_is_false(r: io::Result<()>) -> io::Result<bool> {
    match r {
        Ok(()) => Ok(true),
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(e) => Err(e),
    }
}
