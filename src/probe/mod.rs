// SPDX-License-Identifier: Apache-2.0
//! The only place that knows aya: loads objects, attaches them with fallbacks, reads ring buffers
//! and maps, resolves stacks, and tells what it all costs.
//!
//! ```no_run
//! # use bianque::probe::{Loader, Reader, RecordSet, Stop};
//! # mod my_probe { bianque::include_skeletons!("fixtures"); pub use selftest::*; }
//! use my_probe::{Record, Records, SKELETON, setting, switch};
//!
//! let mut loader = Loader::new();
//! let options = SKELETON.options().switch(switch::BY_THREAD, 1).setting(setting::MIN_NS, 1_000_000).optional(&["extra"]);
//! let object = loader.load(options)?; // in a collector: cx.load(options)?
//! drop(loader);
//! object.set(setting::MIN_NS, 2_000_000)?;
//! let stop = Stop::new()?;
//! Reader::new(&[object])?.run(&stop, |_object, ring, bytes| {
//!     if let Ok(Record::Switched(r)) = Records::decode(ring, bytes) {
//!         tracing::debug!(?r, "switched");
//!     }
//! })?;
//! # anyhow::Ok(())
//! ```

mod attach;
pub mod enums;
mod latencies;
mod limit;
mod loader;
mod map;
mod memory;
mod memory_map;
mod object;
mod perf;
mod reader;
pub mod shared;
pub mod skeleton;
pub mod skeletons;
pub mod stacks;
mod sys;

#[cfg(test)]
mod tests;

pub use latencies::Latencies;
pub use limit::{LimitCount, LimitKey, Limited, Limiter};
pub(crate) use limit::{Limits, Missing, Said, head};
pub use loader::{Loader, Report};
pub use map::Table;
pub use memory::Memory;
pub use object::{Cost, Object};
pub use perf::Sampling;
pub use reader::{Reader, Ready, Source, Stop};
pub use skeleton::{
    Aligned, CallStack, CgroupRef, DecodeError, HookKind, MapDef, ProbeStat, Program, RecordSet, RingDef, Setting,
    Skeleton, Switch, ThreadRef, VariableDef, frames, record, text,
};

use zerocopy::{Immutable, IntoBytes};

/// A cgroup as the kernel names it: `hierarchy` 0 is the unified tree, else the number of the v1
/// hierarchy as in `/proc/PID/cgroup`; `id` is the kernfs id, the directory's inode number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CgroupId {
    pub hierarchy: u32,
    pub id: u64,
}

/// A hook that is dispensable, and what is lost without it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Optional {
    /// Name of the hook's slot in the BPF object (a program's name up to `__`).
    pub slot: &'static str,
    pub lost: &'static str,
}

/// Why an object did not load.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LoadError {
    /// A required slot has no hook here: each variant that was tried, and the kernel's word.
    #[error("{object}: no hook for {slot}: {}", tried.join("; "))]
    NoHook { object: &'static str, slot: &'static str, tried: Vec<String> },
    #[error("{object}: {reason}")]
    Object { object: &'static str, reason: String },
}

/// What to load, and how. Built by [`Skeleton::options`].
#[derive(Debug)]
pub struct LoadOptions {
    pub skeleton: &'static Skeleton,
    /// Slots that may stay unattached.
    pub optional: Vec<&'static str>,
    /// Slots that are not loaded at all.
    pub without: Vec<&'static str>,
    /// Rodata switches to turn on, with their bytes.
    pub switches: Vec<(&'static str, Vec<u8>)>,
    /// Settings that differ from the object's own.
    pub settings: Vec<(&'static str, Vec<u8>)>,
    /// Maps to resize.
    pub map_sizes: Vec<(&'static str, u32)>,
}

impl LoadOptions {
    pub(crate) fn new(skeleton: &'static Skeleton) -> Self {
        LoadOptions {
            skeleton,
            optional: Vec::new(),
            without: Vec::new(),
            switches: Vec::new(),
            settings: Vec::new(),
            map_sizes: Vec::new(),
        }
    }

    /// Slots that may stay unattached; what is lost then is the collector's to say.
    #[must_use]
    pub fn optional(mut self, slots: &[&'static str]) -> Self {
        self.optional.extend(slots);
        self
    }

    /// Slots that are not wanted: neither loaded nor attached.
    #[must_use]
    pub fn without(mut self, slots: &[&'static str]) -> Self {
        self.without.extend(slots);
        self
    }

    /// Gives a switch its value, before the verifier sees the programs.
    #[must_use]
    pub fn switch<T: IntoBytes + Immutable>(mut self, switch: Switch<T>, value: T) -> Self {
        self.switches.push((switch.name, value.as_bytes().to_vec()));
        self
    }

    /// Gives a setting its first value; [`Object::set`] changes it later.
    #[must_use]
    pub fn setting<T: IntoBytes + Immutable>(mut self, setting: Setting<T>, value: T) -> Self {
        self.settings.push((setting.name, value.as_bytes().to_vec()));
        self
    }

    /// Gives a map another number of entries than it was declared with (bytes, for a ring).
    #[must_use]
    pub fn map_size(mut self, map: &'static str, entries: u32) -> Self {
        self.map_sizes.push((map, entries));
        self
    }
}

/// What became of one slot.
#[derive(Debug, Clone)]
pub struct Hook {
    pub slot: &'static str,
    /// The variant that attached.
    pub attached: Option<&'static Program>,
    /// Variants that did not, and why.
    pub refused: Vec<String>,
}
