// SPDX-License-Identifier: Apache-2.0
//! What `bianque-build` writes for each BPF object.

use std::marker::PhantomData;

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
    PerfEvent,
    Iterator,
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
}

/// An object as compiled: deterministic, before any kernel saw it.
#[derive(Debug)]
pub struct Skeleton {
    pub name: &'static str,
    pub object: &'static [u8],
    pub programs: &'static [Program],
    /// Ring buffers, one a record type; the index is the record type's.
    pub rings: &'static [&'static str],
    /// Rodata variables.
    pub switches: &'static [&'static str],
    /// `.data` variables.
    pub settings: &'static [SettingDef],
}

/// A `.data` variable: a threshold or limit that may change while the programs run.
#[derive(Debug, PartialEq, Eq)]
pub struct SettingDef {
    pub name: &'static str,
    pub offset: u32,
    pub size: u32,
}

/// Typed name of a setting.
#[derive(Debug)]
pub struct Setting<T> {
    pub name: &'static str,
    pub offset: u32,
    pub ty: PhantomData<T>,
}

/// Typed name of a rodata switch.
#[derive(Debug)]
pub struct Switch<T> {
    pub name: &'static str,
    pub ty: PhantomData<T>,
}

/// All record types of an object.
pub trait RecordSet: Send + 'static {
    /// The generated enum, borrowing from the ring buffer.
    type Ref<'a>;

    /// # Errors
    /// The bytes are not a record of that ring.
    fn decode(ring: usize, bytes: &[u8]) -> Result<Self::Ref<'_>, DecodeError>;
}

/// Bytes that are no record.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("record of ring {ring} has {got} bytes, not {want}")]
pub struct DecodeError {
    pub ring: usize,
    pub got: usize,
    pub want: usize,
}

impl std::fmt::Display for Program {
    /// The hook as `SEC()` names it: `tp_btf/sched_switch`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let prefix = match self.kind {
            HookKind::TpBtf => "tp_btf",
            HookKind::RawTracepoint => "raw_tp",
            HookKind::Tracepoint => "tp",
            HookKind::Fentry => "fentry",
            HookKind::Fexit => "fexit",
            HookKind::Kprobe => "kprobe",
            HookKind::Kretprobe => "kretprobe",
            HookKind::PerfEvent => "perf_event",
            HookKind::Iterator => "iter",
        };
        write!(f, "{prefix}/{}", self.target)
    }
}
