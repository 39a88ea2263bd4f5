// SPDX-License-Identifier: Apache-2.0
//! Probes that more than one collector needs: loaded once, with the union of the features asked for.
//!
//! A shared probe is a type that implements [`SharedProbe`], in a file of its own with its features as
//! constants. What is loaded follows from the features that `Info.needs` of enabled collectors name, as
//! each feature knows its probe: a probe of another crate is used like those here.

pub mod block;
pub mod cgroups;
mod counted;
pub mod cpu_sample;
pub mod net;
pub mod sched;
pub mod softirq;
pub mod tasks;

use std::any::{Any, TypeId};
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use super::enums::kernel_enumerators;
use super::{LoadError, LoadOptions, Loader, Object, Optional, Skeleton};

pub use block::Block;
pub use cgroups::Cgroups;
pub use cpu_sample::CpuSample;
pub use net::Net;
pub use sched::Sched;
pub use softirq::Softirqs;
pub use tasks::Tasks;

/// A probe that collectors share. The handle is cheap to clone; collectors get it by
/// [`Context::shared`](crate::collectors::Context::shared).
pub trait SharedProbe: Clone + Send + Sync + 'static {
    /// Its object, which `doctor` tries.
    const SKELETON: &'static Skeleton;

    /// Loads the object, with the features of it that [`Loading::wants`].
    ///
    /// # Errors
    /// The program, the hook and the kernel's reason.
    fn load(loading: &mut Loading<'_>) -> Result<Self, LoadError>;

    /// The loaded object, for its hooks, its rings and its cost.
    fn object(&self) -> &Object;

    /// What takes the records of its rings, on the reader's thread. `None`: it has no rings, or
    /// collectors take them ([`Context::take_records`](crate::collectors::Context::take_records)).
    fn reader(&self) -> Option<OnRecord> {
        None
    }

    /// Figures that found no room in its maps, since it was loaded. Records that found none in a ring are
    /// counted for every object.
    fn lost(&self) -> u64 {
        0
    }

    /// What happened since it was loaded without its programs having run, where the kernel's own figures
    /// show it.
    fn unseen(&self) -> u64 {
        0
    }

    /// Ends captures under way, as the agent stops; what was gathered by then can still be taken.
    fn stop(&self) {}
}

/// A part of a shared probe that collectors ask for in `Info.needs`; an unused one costs nothing.
#[derive(Clone, Copy)]
pub struct Feature {
    name: &'static str,
    optional: &'static [Optional],
    probe: &'static Probe,
}

/// How the probe of a feature is told from others, and loaded.
struct Probe {
    id: fn() -> TypeId,
    skeleton: fn() -> &'static Skeleton,
    load: fn(&mut Loading<'_>) -> Result<Arc<dyn Loaded>, LoadError>,
}

impl Feature {
    /// A feature of the probe `P`, by a name that is unique within it.
    #[must_use]
    pub const fn of<P: SharedProbe>(name: &'static str) -> Self {
        let probe = const {
            &Probe {
                id: TypeId::of::<P>,
                skeleton: || P::SKELETON,
                load: |loading| Ok(Arc::new(P::load(loading)?) as Arc<dyn Loaded>),
            }
        };
        Feature { name, optional: &[], probe }
    }

    /// The same with hooks that kernels may lack; all other hooks of the object must attach.
    #[must_use]
    pub const fn without(self, optional: &'static [Optional]) -> Self {
        Feature { optional, ..self }
    }

    /// The shared object that it is a part of.
    #[must_use]
    pub fn skeleton(&self) -> &'static Skeleton {
        (self.probe.skeleton)()
    }

    /// Hooks that kernels may lack.
    #[must_use]
    pub fn optional(&self) -> &'static [Optional] {
        self.optional
    }
}

impl PartialEq for Feature {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name && (self.probe.id)() == (other.probe.id)()
    }
}

/// `sched.cpu_time`
impl fmt::Debug for Feature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.skeleton().name, self.name)
    }
}

/// What [`SharedProbe::load`] loads with.
pub struct Loading<'a> {
    loader: &'a mut Loader,
    features: &'a [Feature],
}

impl Loading<'_> {
    /// Whether a collector asked for the feature.
    #[must_use]
    pub fn wants(&self, feature: Feature) -> bool {
        self.features.contains(&feature)
    }

    /// The `/proc` of the kernel that is loaded into.
    #[must_use]
    pub fn proc(&self) -> &Path {
        self.loader.proc()
    }

    /// Values of that kernel's own enumerators, of whatever enums; `None`: it has no such name.
    fn enumerators<const N: usize>(&self, names: [&str; N]) -> [Option<u64>; N] {
        let found = kernel_enumerators(&self.loader.btf(), &names).unwrap_or_default();
        names.map(|name| found.iter().find(|e| e.name == name).map(|e| e.value))
    }

    /// Loads and attaches the object. Only hooks that the features declare optional may be missing.
    ///
    /// # Errors
    /// Which program failed, on which hook, and the kernel's reason.
    pub fn load(&mut self, options: LoadOptions) -> Result<Object, LoadError> {
        let of_this = self.features.iter().filter(|f| f.skeleton().name == options.skeleton.name);
        let optional: Vec<_> = of_this.flat_map(|f| f.optional).map(|o| o.slot).collect();
        self.loader.load(options.optional(&optional))
    }
}

/// Takes a record: the ring's index and its bytes.
pub type OnRecord = Arc<dyn Fn(usize, &[u8]) + Send + Sync>;

/// A ring of a shared probe and who takes its records.
#[derive(Clone)]
pub struct SharedRing {
    pub object: Object,
    pub on_record: OnRecord,
}

/// Object-safe form of [`SharedProbe`].
trait Loaded: Any + Send + Sync {
    fn object(&self) -> &Object;
    fn reader(&self) -> Option<OnRecord>;
    fn lost(&self) -> u64;
    fn unseen(&self) -> u64;
    fn stop(&self);
}

impl<P: SharedProbe> Loaded for P {
    fn object(&self) -> &Object {
        SharedProbe::object(self)
    }
    fn reader(&self) -> Option<OnRecord> {
        SharedProbe::reader(self)
    }
    fn lost(&self) -> u64 {
        SharedProbe::lost(self)
    }
    fn unseen(&self) -> u64 {
        SharedProbe::unseen(self)
    }
    fn stop(&self) {
        SharedProbe::stop(self);
    }
}

/// What became of one shared probe.
struct Part {
    id: TypeId,
    probe: Result<Arc<dyn Loaded>, LoadError>,
}

/// Handles of the shared probes that are loaded.
#[derive(Clone, Default)]
pub struct Shared(Arc<[Part]>);

impl Shared {
    /// Loads each shared probe that a feature belongs to, once. Who asks for one that does not load is
    /// given the reason; the others work.
    #[must_use]
    pub fn load(loader: &mut Loader, features: &[Feature]) -> Self {
        let mut parts: Vec<Part> = Vec::new();
        for feature in features {
            let id = (feature.probe.id)();
            if parts.iter().all(|p| p.id != id) {
                let probe = (feature.probe.load)(&mut Loading { loader, features });
                parts.push(Part { id, probe });
            }
        }
        Shared(parts.into())
    }

    /// The handle of the probe `P`.
    ///
    /// # Errors
    /// Why it is not loaded.
    pub fn get<P: SharedProbe>(&self) -> Result<P, LoadError> {
        let object = P::SKELETON.name;
        let unwanted = || LoadError::Object { object, reason: "no collector's INFO.needs names it".into() };
        let part = self.0.iter().find(|p| p.id == TypeId::of::<P>()).ok_or_else(unwanted)?;
        let probe: &dyn Any = &**part.probe.as_ref().map_err(Clone::clone)?;
        probe.downcast_ref::<P>().cloned().ok_or_else(unwanted)
    }

    fn loaded(&self) -> impl Iterator<Item = &Arc<dyn Loaded>> {
        self.0.iter().filter_map(|p| p.probe.as_ref().ok())
    }

    /// Rings that are to be read for the probes themselves.
    #[must_use]
    pub fn rings(&self) -> Vec<SharedRing> {
        let ring = |p: &Arc<dyn Loaded>| Some(SharedRing { object: p.object().clone(), on_record: p.reader()? });
        self.loaded().filter_map(ring).collect()
    }

    /// Objects that are loaded.
    #[must_use]
    pub fn objects(&self) -> Vec<Object> {
        self.loaded().map(|p| p.object().clone()).collect()
    }

    /// Figures that the probes lost besides records, so far: the object, why, and how many.
    #[must_use]
    pub fn lost(&self) -> Vec<(&'static str, &'static str, u64)> {
        let of = |p: &Arc<dyn Loaded>| {
            let name = p.object().name();
            [(name, "map_full", p.lost()), (name, "unseen", p.unseen())]
        };
        self.loaded().flat_map(of).collect()
    }

    /// Ends what is being captured; what was sampled by then can still be taken.
    pub fn stop_captures(&self) {
        self.loaded().for_each(|p| p.stop());
    }
}

/// `/proc/cgroups`: `name hierarchy cgroups enabled`; 0 where v1 does not have the controller.
fn hierarchy_of(controller: &str, file: &Path) -> u32 {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let number = |line: &str| {
        let mut words = line.split_whitespace();
        (words.next()? == controller).then(|| words.next()?.parse().ok())?
    };
    text.lines().find_map(number).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::skeletons::{cpu_sample, sched};

    /// Does not load, and says which features it was asked for.
    macro_rules! probe {
        ($name:ident, $skeleton:ident, $optional:expr) => {
            #[derive(Clone)]
            struct $name;
            impl $name {
                const A: Feature = Feature::of::<$name>("a").without($optional);
                const B: Feature = Feature::of::<$name>("b");
            }
            impl SharedProbe for $name {
                const SKELETON: &'static Skeleton = &$skeleton::SKELETON;
                fn load(loading: &mut Loading<'_>) -> Result<Self, LoadError> {
                    let reason = format!("a: {}, b: {}", loading.wants($name::A), loading.wants($name::B));
                    Err(LoadError::Object { object: Self::SKELETON.name, reason })
                }
                fn object(&self) -> &Object {
                    unreachable!("it is never loaded")
                }
            }
        };
    }
    probe!(One, sched, &[Optional { slot: "rare", lost: "what is rare" }]);
    probe!(Two, cpu_sample, &[]);

    /// A probe is loaded with the union of its own features, whatever those of others are called; one
    /// that nobody needs is not loaded; and who asks hears why.
    #[test]
    fn probes_are_loaded_by_the_features_that_name_them() {
        let shared = Shared::load(&mut Loader::new(), &[One::A, Two::B, One::A]);
        let reason = |e: Option<LoadError>| e.map(|e| e.to_string()).unwrap_or_default();
        assert_eq!(reason(shared.get::<One>().err()), "sched: a: true, b: false");
        assert_eq!(reason(shared.get::<Two>().err()), "cpu_sample: a: false, b: true");
        assert_eq!(reason(shared.get::<Net>().err()), "net: no collector's INFO.needs names it");
        assert_eq!(shared.0.len(), 2);
    }

    /// Features of two probes differ though their names do not; optional hooks are the feature's.
    #[test]
    fn a_feature_knows_its_probe() {
        assert!(One::A == One::A && One::A != One::B && One::A != Two::A);
        assert_eq!((One::A.skeleton().name, Two::A.skeleton().name), ("sched", "cpu_sample"));
        assert_eq!((One::A.optional().len(), One::B.optional().len()), (1, 0));
        assert_eq!(format!("{:?}", One::A), "sched.a");
    }
}
