// SPDX-License-Identifier: Apache-2.0
//! What `bianque-build` writes for each BPF object.

use std::marker::PhantomData;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::LoadOptions;

/// The modules that `bianque_build::compile` wrote in this crate's `build.rs`, one a BPF file; with
/// a name, those of `compile_into` that folder.
#[macro_export]
macro_rules! include_skeletons {
    () => {
        include!(concat!(env!("OUT_DIR"), "/skeletons.rs"));
    };
    ($sub:literal) => {
        include!(concat!(env!("OUT_DIR"), "/", $sub, "/skeletons.rs"));
    };
}

/// How a program attaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HookKind {
    /// `SEC("tp_btf/NAME")`
    TpBtf,
    /// `SEC("raw_tp/NAME")`
    RawTracepoint,
    /// `SEC("tp/GROUP/NAME")`
    Tracepoint,
    Fentry,
    Fexit,
    Kprobe,
    Kretprobe,
    /// Loaded with the object, attached by [`Object::sample`](super::Object::sample).
    PerfEvent,
    /// Loaded with the object, run by [`Object::iterate`](super::Object::iterate).
    Iterator,
}

impl HookKind {
    /// As in `SEC()`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            HookKind::TpBtf => "tp_btf",
            HookKind::RawTracepoint => "raw_tp",
            HookKind::Tracepoint => "tp",
            HookKind::Fentry => "fentry",
            HookKind::Fexit => "fexit",
            HookKind::Kprobe => "kprobe",
            HookKind::Kretprobe => "kretprobe",
            HookKind::PerfEvent => "perf_event",
            HookKind::Iterator => "iter",
        }
    }
}

/// One program of an object. Programs of one slot are variants of the same hook: the first that
/// loads and attaches, in file order, is the one.
#[derive(Debug, PartialEq, Eq)]
pub struct Program {
    pub name: &'static str,
    /// The name up to `__`.
    pub slot: &'static str,
    pub kind: HookKind,
    /// Function, tracepoint (`group/name` for [`HookKind::Tracepoint`]) or iterator.
    pub target: &'static str,
    /// Its entry in `probe_stats`; programs written without `PROBE` have none.
    pub stat: Option<u32>,
}

/// `tp_btf/sched_switch`, as `SEC()` has it.
impl std::fmt::Display for Program {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.kind.name())?;
        if self.target.is_empty() { Ok(()) } else { write!(f, "/{}", self.target) }
    }
}

/// An object as compiled: deterministic, before any kernel saw it.
#[derive(Debug)]
pub struct Skeleton {
    pub name: &'static str,
    pub object: &'static Aligned<[u8]>,
    /// In file order.
    pub programs: &'static [Program],
    /// One a record type; the index is the record type's.
    pub rings: &'static [RingDef],
    /// Rodata variables.
    pub switches: &'static [VariableDef],
    /// `.data` variables.
    pub settings: &'static [VariableDef],
    pub maps: &'static [MapDef],
}

impl Skeleton {
    /// How to load it: as compiled, until told otherwise.
    #[must_use]
    pub fn options(&'static self) -> LoadOptions {
        LoadOptions::new(self)
    }

    /// Slots in the order in which they first appear.
    #[must_use]
    pub fn slots(&self) -> Vec<&'static str> {
        let mut slots = Vec::new();
        for p in self.programs {
            if !slots.contains(&p.slot) {
                slots.push(p.slot);
            }
        }
        slots
    }
}

/// Bytes at an address that ELF readers can use.
#[derive(Debug)]
#[repr(C, align(8))]
pub struct Aligned<T: ?Sized>(pub T);

/// A ring buffer for one record type.
#[derive(Debug, PartialEq, Eq)]
pub struct RingDef {
    pub name: &'static str,
    /// Bytes of a record.
    pub size: u32,
    /// Its records do not wake the reader, which looks every 100 ms.
    pub polled: bool,
    /// A ring of events, of which each workload may make so many: `RECORDS` of `limit.h`.
    pub limited: bool,
    /// Its entry in `probe_stats`.
    pub stat: u32,
}

/// A variable of the object that user space sets: a switch or a setting.
#[derive(Debug, PartialEq, Eq)]
pub struct VariableDef {
    pub name: &'static str,
    /// Within its section's map.
    pub offset: u32,
    pub size: u32,
    /// Of its initial value within the object file.
    pub file_offset: u32,
}

/// A map as declared.
#[derive(Debug, PartialEq, Eq)]
pub struct MapDef {
    pub name: &'static str,
    /// `enum bpf_map_type`
    pub kind: u32,
    pub max_entries: u32,
    pub key_size: u32,
    pub value_size: u32,
}

/// Typed name of a `.data` variable: a threshold or limit that may change while the programs run.
#[derive(Debug)]
pub struct Setting<T> {
    pub name: &'static str,
    ty: PhantomData<T>,
}

/// Typed name of a rodata switch.
#[derive(Debug)]
pub struct Switch<T> {
    pub name: &'static str,
    ty: PhantomData<T>,
}

impl<T> Setting<T> {
    #[must_use]
    pub const fn new(name: &'static str) -> Self {
        Setting { name, ty: PhantomData }
    }
}

impl<T> Switch<T> {
    #[must_use]
    pub const fn new(name: &'static str) -> Self {
        Switch { name, ty: PhantomData }
    }
}

/// `struct probe_stat` of `probe.h`: runs of a program, or records that a ring had no room for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ProbeStat {
    pub count: u64,
    /// Runs that were timed, and their time.
    pub timed: u64,
    pub timed_ns: u64,
}

/// `struct cgroup_ref` of `probe.h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CgroupRef {
    pub id: u64,
    pub hierarchy: u32,
    pub reserved: u32,
}

impl From<CgroupRef> for super::CgroupId {
    fn from(c: CgroupRef) -> Self {
        super::CgroupId { hierarchy: c.hierarchy, id: c.id }
    }
}

/// `struct thread_ref` of `probe.h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ThreadRef {
    pub tgid: u32,
    pub tid: u32,
    pub comm: [u8; 16],
}

impl ThreadRef {
    /// The thread's name; what is not UTF-8 in it is replaced.
    #[must_use]
    pub fn comm(&self) -> String {
        text(&self.comm)
    }
}

impl From<ThreadRef> for crate::signal::Thread {
    fn from(t: ThreadRef) -> Self {
        crate::signal::Thread { pid: t.tgid, tid: t.tid, comm: t.comm() }
    }
}

/// `struct call_stack` of `call_stack.h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CallStack {
    pub kernel: [u64; 48],
    pub user: [u64; 32],
    pub kernel_bytes: i32,
    pub user_bytes: i32,
}

impl CallStack {
    /// Addresses in the kernel, innermost first.
    #[must_use]
    pub fn kernel(&self) -> &[u64] {
        frames(&self.kernel, self.kernel_bytes)
    }

    /// Addresses in the program, innermost first; none of a kernel thread.
    #[must_use]
    pub fn user(&self) -> &[u64] {
        frames(&self.user, self.user_bytes)
    }
}

/// Of a stack's room what `bpf_get_stack` filled; it gives bytes, or an error below zero.
#[must_use]
pub fn frames(room: &[u64], bytes: i32) -> &[u64] {
    let n = usize::try_from(bytes).unwrap_or(0) / size_of::<u64>();
    &room[..n.min(room.len())]
}

/// A C string in a fixed field: up to the first NUL; what is not UTF-8 is replaced.
#[must_use]
pub fn text(field: &[u8]) -> String {
    let end = field.iter().position(|b| *b == 0).unwrap_or(field.len());
    String::from_utf8_lossy(&field[..end]).into_owned()
}

/// All record types of an object.
pub trait RecordSet: Send + 'static {
    /// The generated enum, borrowing from the ring buffer.
    type Ref<'a>;

    /// # Errors
    /// The bytes are not a record of that ring.
    fn decode(ring: usize, bytes: &[u8]) -> Result<Self::Ref<'_>, DecodeError>;

    /// The rings that they are from; none of a source that is no probe.
    #[must_use]
    fn rings() -> &'static [RingDef] {
        &[]
    }
}

/// Bytes that are no record.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("record of ring {ring} has {got} bytes, not {want}")]
pub struct DecodeError {
    pub ring: usize,
    pub got: usize,
    pub want: usize,
}

/// The record in `bytes`, without a copy. The kernel hands records over in multiples of 8 bytes at
/// multiples of 8, so only a wrong size can fail.
///
/// # Errors
/// The size or alignment is not the record's.
pub fn record<T: FromBytes + Immutable + KnownLayout>(ring: usize, bytes: &[u8]) -> Result<&T, DecodeError> {
    T::ref_from_bytes(bytes).map_err(|_| DecodeError { ring, got: bytes.len(), want: size_of::<T>() })
}
