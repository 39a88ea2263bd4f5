// SPDX-License-Identifier: Apache-2.0
//! The only place that knows aya: loads objects, attaches them with fallbacks, reads ring buffers
//! and maps, resolves stacks, and tells what it all costs.

pub mod shared;
pub mod skeleton;
pub mod stacks;

pub use skeleton::{DecodeError, HookKind, Program, RecordSet, Setting, Skeleton, Switch};

use std::sync::Arc;

/// A cgroup as the kernel names it: `hierarchy` 0 is the unified tree, else the number of the v1
/// hierarchy as in `/proc/PID/cgroup`; `id` is the kernfs id, the directory's inode number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CgroupId {
    pub hierarchy: u32,
    pub id: u64,
}

/// Why an object did not load.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A required slot has no hook here: each variant that was tried, and the kernel's word.
    #[error("{object}: no hook for {slot}: {}", tried.join("; "))]
    NoHook { object: &'static str, slot: &'static str, tried: Vec<String> },
    #[error("{object}: {reason}")]
    Object { object: &'static str, reason: String },
}

/// What to load, and how. Built by [`Skeleton::options`].
pub struct LoadOptions {
    pub skeleton: &'static Skeleton,
    /// Slots that may stay unattached.
    pub optional: Vec<&'static str>,
    /// Rodata switches to turn on, with their bytes.
    pub switches: Vec<(&'static str, Vec<u8>)>,
    /// Settings to write before the programs are attached.
    pub settings: Vec<(&'static str, Vec<u8>)>,
    /// Maps to resize.
    pub map_sizes: Vec<(&'static str, u32)>,
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

/// Loads objects; keeps the kernel's BTF while it lives, so drop it after start.
pub struct Loader {}

impl Loader {
    /// # Errors
    /// The object, program and kernel's reason.
    pub fn load(&mut self, _options: LoadOptions) -> Result<Object, LoadError> {
        unimplemented!()
    }
}

/// A loaded and attached object. Cheap to clone; detaches when the last clone is dropped.
#[derive(Clone)]
pub struct Object {
    _inner: Arc<()>,
}

impl Object {
    /// Writes a setting while the programs run.
    ///
    /// # Errors
    /// The kernel's reason.
    pub fn set<T: zerocopy::IntoBytes + zerocopy::Immutable>(&self, _s: Setting<T>, _value: T) -> anyhow::Result<()> {
        unimplemented!()
    }

    /// What became of each slot.
    #[must_use]
    pub fn hooks(&self) -> &[Hook] {
        unimplemented!()
    }
}
