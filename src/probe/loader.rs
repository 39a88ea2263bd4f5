// SPDX-License-Identifier: Apache-2.0
//! Loads objects and chooses their hooks: of each slot the first variant that the kernel takes.

use std::path::{Path, PathBuf};

use aya::{Btf, Ebpf, EbpfLoader};
use zerocopy::IntoBytes;

use super::attach::{Link, attach, chain};
use super::limit;
use super::map::possible_cpus;
use super::memory::Memory;
use super::{Hook, LoadError, LoadOptions, Object, Skeleton, VariableDef};

/// Loads objects; keeps the kernel's BTF (tens of MiB) while it lives, so drop it after start.
pub struct Loader {
    target: Target,
}

enum Target {
    Kernel(Box<Kernel>),
    Memory(Memory),
}

/// The kernel that we run on.
struct Kernel {
    btf: Result<Btf, String>,
    loader: EbpfLoader<'static>,
}

/// What loading an object here would come to.
#[derive(Debug)]
pub struct Report {
    /// One a slot, in file order; empty when the object as a whole was refused.
    pub hooks: Vec<Hook>,
    /// Why it does not load, if it does not.
    pub error: Option<LoadError>,
}

impl Default for Loader {
    fn default() -> Self {
        Self::new()
    }
}

impl Loader {
    /// Reads the kernel's BTF. Without one, every [`load`](Self::load) says so.
    #[must_use]
    pub fn new() -> Self {
        let btf = Btf::from_sys_fs().map_err(|e| {
            format!("the kernel's types cannot be read from /sys/kernel/btf/vmlinux: {e}: it must be built with CONFIG_DEBUG_INFO_BTF")
        });
        let mut loader = EbpfLoader::new();
        // Task storage and the like: only the programs use them.
        loader.allow_unsupported_maps();
        Loader { target: Target::Kernel(Box::new(Kernel { btf, loader })) }
    }

    /// Loads into a kernel made of memory, for tests.
    #[must_use]
    pub fn in_memory(kernel: &Memory) -> Self {
        Loader { target: Target::Memory(kernel.clone()) }
    }

    /// The `/proc` of the kernel that is loaded into.
    pub(super) fn proc(&self) -> &Path {
        match &self.target {
            Target::Kernel(_) => Path::new("/proc"),
            Target::Memory(m) => m.proc(),
        }
    }

    /// The types of the kernel that is loaded into.
    pub(super) fn btf(&self) -> PathBuf {
        match &self.target {
            Target::Kernel(_) => PathBuf::from("/sys/kernel/btf/vmlinux"),
            Target::Memory(m) => m.proc().with_file_name("sys").join("kernel/btf/vmlinux"),
        }
    }

    /// # Errors
    /// The object, program and kernel's reason.
    pub fn load(&mut self, options: LoadOptions) -> Result<Object, LoadError> {
        let skeleton = options.skeleton;
        let fail = |reason: String| LoadError::Object { object: skeleton.name, reason };
        match &mut self.target {
            Target::Kernel(kernel) => {
                let (ebpf, hooks, links) = kernel.choose(&options)?;
                required(&options, &hooks)?;
                Object::new(skeleton, ebpf, hooks, links).map_err(|e| fail(format!("{e:#}")))
            }
            Target::Memory(memory) => {
                let file = patched(&options).map_err(fail)?;
                let hooks = memory.choose(&options);
                required(&options, &hooks)?;
                let object = Object::in_memory(skeleton, hooks, file.as_bytes(), memory.parts(skeleton));
                memory.loaded(&object);
                Ok(object)
            }
        }
    }

    /// Loads and attaches the object, tells how it went, and takes it away again.
    pub fn try_load(&mut self, skeleton: &'static Skeleton, optional: &[&'static str]) -> Report {
        let chosen = match &mut self.target {
            Target::Kernel(k) => k.choose(&skeleton.options()).map(|(_, hooks, _)| hooks),
            Target::Memory(m) => Ok(m.choose(&skeleton.options())),
        };
        match chosen {
            Ok(hooks) => {
                let error = missing(&hooks, optional).map(|h| LoadError::NoHook {
                    object: skeleton.name,
                    slot: h.slot,
                    tried: h.refused.clone(),
                });
                Report { hooks, error }
            }
            Err(e) => Report { hooks: Vec::new(), error: Some(e) },
        }
    }
}

impl Kernel {
    fn choose(&mut self, options: &LoadOptions) -> Result<(Ebpf, Vec<Hook>, Vec<Link>), LoadError> {
        let skeleton = options.skeleton;
        let fail = |reason: String| LoadError::Object { object: skeleton.name, reason };
        let btf = self.btf.as_ref().map_err(|e| fail(e.clone()))?;
        let object = patched(options).map_err(fail)?;
        let cpus = possible_cpus().map_err(|e| fail(format!("{e:#}")))?;
        // The loader is one for all objects, so every map's size is said each time.
        for m in skeleton.maps {
            let asked = options.map_sizes.iter().rfind(|(name, _)| *name == m.name);
            let usual = if m.name == limit::LIMITS { limit::entries(m, cpus) } else { m.max_entries };
            self.loader.map_max_entries(m.name, asked.map_or(usual, |(_, n)| *n));
        }
        if let Some((name, _)) = options.map_sizes.iter().find(|(n, _)| !skeleton.maps.iter().any(|m| m.name == *n)) {
            return Err(fail(format!("there is no map {name} to resize")));
        }
        let mut ebpf = self.loader.load(&object.as_bytes()[..skeleton.object.0.len()]).map_err(|e| fail(chain(&e)))?;
        let (mut hooks, mut links) = (Vec::new(), Vec::new());
        for slot in skeleton.slots() {
            if options.without.contains(&slot) {
                continue;
            }
            let mut hook = Hook { slot, attached: None, refused: Vec::new() };
            for program in skeleton.programs.iter().filter(|p| p.slot == slot) {
                match attach(&mut ebpf, program, btf) {
                    Ok(link) => {
                        links.extend(link);
                        hook.attached = Some(program);
                        break;
                    }
                    Err(reason) => hook.refused.push(format!("{program}: {reason}")),
                }
            }
            hooks.push(hook);
        }
        Ok((ebpf, hooks, links))
    }
}

/// Each slot that must be there is.
fn required(options: &LoadOptions, hooks: &[Hook]) -> Result<(), LoadError> {
    if let Some(h) = missing(hooks, &options.optional) {
        return Err(LoadError::NoHook { object: options.skeleton.name, slot: h.slot, tried: h.refused.clone() });
    }
    for h in hooks {
        tracing::debug!(object = options.skeleton.name, slot = h.slot, hook = h.attached.map(tracing::field::display), refused = ?h.refused, "chose a hook");
    }
    Ok(())
}

fn missing<'a>(hooks: &'a [Hook], optional: &[&'static str]) -> Option<&'a Hook> {
    hooks.iter().find(|h| h.attached.is_none() && !optional.contains(&h.slot))
}

/// The object with its switches and settings as asked for: their initial values are written into
/// the file's sections, so that programs never run with others.
fn patched(options: &LoadOptions) -> Result<Vec<u64>, String> {
    let original = &options.skeleton.object.0;
    let mut object = vec![0_u64; original.len().div_ceil(8)];
    let bytes = object.as_mut_bytes();
    bytes[..original.len()].copy_from_slice(original);
    let mut write = |what: &str, defs: &[VariableDef], name: &str, value: &[u8]| {
        let def = defs.iter().find(|d| d.name == name).ok_or_else(|| format!("there is no {what} {name}"))?;
        let at = def.file_offset as usize;
        match bytes.get_mut(at..at + def.size as usize) {
            Some(place) if place.len() == value.len() => place.copy_from_slice(value),
            _ => return Err(format!("{what} {name} has {} bytes, not {}", def.size, value.len())),
        }
        Ok(())
    };
    for (name, value) in &options.switches {
        write("switch", options.skeleton.switches, name, value)?;
    }
    for (name, value) in &options.settings {
        write("setting", options.skeleton.settings, name, value)?;
    }
    Ok(object)
}
