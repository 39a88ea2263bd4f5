// SPDX-License-Identifier: Apache-2.0
//! Texts that many workloads have, each kept once: images, services, names of containers in their pods.

use std::collections::HashSet;
use std::sync::Arc;

use crate::signal::Workload;

/// Below this many, none is looked for that nobody has any more.
const FEW: usize = 256;

#[derive(Default)]
pub(in crate::workload) struct Texts {
    all: HashSet<Arc<str>>,
    /// Those that were left after the last look.
    left: usize,
}

impl Texts {
    /// Lets the workload have the texts that others have already.
    pub fn share(&mut self, w: &mut Workload) {
        let of_pod = w.pod.as_mut().map(|p| &mut p.container);
        let own = [
            &mut w.image_name,
            &mut w.image_tag,
            &mut w.service_name,
            &mut w.service_namespace,
            &mut w.service_version,
        ];
        for text in own.into_iter().chain(of_pod).flatten() {
            self.share_one(text);
        }
    }

    /// Makes of a text the one that others have already.
    pub fn share_one(&mut self, text: &mut Arc<str>) {
        match self.all.get(text) {
            Some(known) => *text = Arc::clone(known),
            None => drop(self.all.insert(Arc::clone(text))),
        }
        if self.all.len() > FEW.max(2 * self.left) {
            self.all.retain(|t| Arc::strong_count(t) > 1);
            self.left = self.all.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signal::{WorkloadKey, WorkloadKind};

    fn of(image: &str) -> Workload {
        let mut w = Workload::new(WorkloadKey(1), WorkloadKind::Container, "/a");
        w.image_name = Some(image.into());
        w
    }

    /// Equal texts are one; those of workloads that are gone are not kept for ever.
    #[test]
    fn equal_texts_are_one() {
        let mut texts = Texts::default();
        let (mut a, mut b) = (of("nginx"), of("nginx"));
        texts.share(&mut a);
        texts.share(&mut b);
        assert!(Arc::ptr_eq(a.image_name.as_ref().unwrap(), b.image_name.as_ref().unwrap()));
        for i in 0..10_000 {
            texts.share(&mut of(&format!("image-{i}")));
        }
        assert!(texts.all.len() <= 2 * FEW, "{}", texts.all.len());
        assert!(texts.all.contains("nginx"));
    }
}
