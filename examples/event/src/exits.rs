// SPDX-License-Identifier: Apache-2.0
//! A shared probe of your own: several collectors may name [`Exits::ENDED`] in `INFO.needs`, and it is
//! loaded once.

use std::sync::Arc;

use bianque::probe::shared::{Feature, Loading, SharedProbe};
use bianque::probe::{LoadError, Object, Skeleton, Table};

use crate::probes::exits::SKELETON;

/// Counts processes that ended.
#[derive(Clone)]
pub struct Exits {
    object: Object,
    ended: Arc<Table<u32, u64>>,
}

impl Exits {
    /// How many processes ended.
    pub const ENDED: Feature = Feature::of::<Exits>("ended");

    /// Processes that ended since the probe was loaded.
    ///
    /// # Errors
    /// The kernel's reason.
    pub fn ended(&self) -> anyhow::Result<u64> {
        Ok(self.ended.get_per_cpu(&0)?.unwrap_or_default().iter().sum())
    }
}

impl SharedProbe for Exits {
    const SKELETON: &'static Skeleton = &SKELETON;

    fn load(loading: &mut Loading<'_>) -> Result<Self, LoadError> {
        let object = loading.load(SKELETON.options())?;
        let failed = |e: anyhow::Error| LoadError::Object { object: SKELETON.name, reason: format!("{e:#}") };
        let ended = Arc::new(object.table("ended").map_err(failed)?);
        Ok(Exits { object, ended })
    }

    fn object(&self) -> &Object {
        &self.object
    }
}
