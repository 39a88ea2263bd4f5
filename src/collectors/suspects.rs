// SPDX-License-Identifier: Apache-2.0
//! CPU samples of those who may soon be over a limit: taken in memory from the first doubt on, handed
//! to the capture if it comes to one, gone if not.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Weak};

use crate::probe::shared::cpu_sample::{Sampler, Scope, Subscription};

/// One subscription of the shared sampler for each suspect. None outlives its use: who is neither
/// watched, nor offered since the last check, nor held by a capture is not sampled.
pub struct Suspects<K> {
    sampler: Sampler,
    watched: HashMap<K, Subscription>,
    /// Until the next check, for the capture of an onset.
    offered: HashMap<K, Subscription>,
    captured: HashMap<K, Weak<Subscription>>,
}

impl<K: Eq + Hash + Clone> Suspects<K> {
    #[must_use]
    pub fn new(sampler: Sampler) -> Self {
        Suspects { sampler, watched: HashMap::new(), offered: HashMap::new(), captured: HashMap::new() }
    }

    /// To be called at the start of each check: what was offered and no capture took is given up.
    pub fn begin_check(&mut self) {
        self.offered.clear();
        self.captured.retain(|_, s| s.strong_count() > 0);
    }

    /// Starts sampling.
    ///
    /// # Errors
    /// The sampler takes no more subscriptions, or does not start.
    pub fn watch(&mut self, key: K, scope: &Scope) -> anyhow::Result<()> {
        if !self.watched.contains_key(&key) {
            self.watched.insert(key, self.sampler.subscribe(scope)?);
        }
        Ok(())
    }

    /// Adds what the suspect got meanwhile, such as new cgroups, wherever its samples are.
    ///
    /// # Errors
    /// The kernel's map is full.
    pub fn extend(&mut self, key: &K, more: &Scope) -> anyhow::Result<()> {
        if let Some(s) = self.watched.get(key) {
            return s.extend(more);
        }
        self.captured.get(key).and_then(Weak::upgrade).map_or(Ok(()), |s| s.extend(more))
    }

    /// Gives up the samples; returns how many there were.
    pub fn discard(&mut self, key: &K) -> u64 {
        self.watched.remove(key).map_or(0, |s| s.samples())
    }

    /// The suspect is over its limit: its capture may take the samples until the next check.
    pub fn offer(&mut self, key: &K) {
        if let Some((key, s)) = self.watched.remove_entry(key) {
            self.offered.insert(key, s);
        }
    }

    /// Hands the samples to a capture, which ends them by letting go. `None`: there are none.
    pub fn hand_over(&mut self, key: &K) -> Option<Arc<Subscription>> {
        let (key, s) = self.offered.remove_entry(key)?;
        let s = Arc::new(s);
        self.captured.insert(key, Arc::downgrade(&s));
        Some(s)
    }

    /// It is over: a capture under way ends with what it has.
    pub fn stop(&mut self, key: &K) {
        self.watched.remove(key);
        if let Some(s) = self.captured.remove(key).and_then(|s| s.upgrade()) {
            s.stop();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::shared::cpu_sample::testing::Fake;

    fn suspect() -> (Fake, Sampler, Suspects<u64>) {
        let (kernel, sampler) = Fake::new();
        let mut suspects = Suspects::new(sampler.clone());
        suspects.watch(1, &Scope::Processes(vec![10])).unwrap();
        suspects.watch(1, &Scope::Processes(vec![10])).unwrap();
        kernel.sample(&sampler, 7, 10, 0xa);
        (kernel, sampler, suspects)
    }

    /// A capture gets what was sampled since the first doubt, and what comes while it lasts.
    #[test]
    fn a_capture_takes_over() {
        let (kernel, sampler, mut suspects) = suspect();
        suspects.offer(&1);
        let samples = suspects.hand_over(&1).unwrap();
        suspects.begin_check();
        suspects.extend(&1, &Scope::Processes(vec![11])).unwrap();
        kernel.sample(&sampler, 7, 11, 0xb);
        assert_eq!(samples.take().samples, 2);
        assert!(suspects.hand_over(&1).is_none(), "handed over once");
    }

    /// An onset whose capture found no room is not sampled beyond the next check.
    #[test]
    fn a_refused_capture_ends_its_samples() {
        let (_, sampler, mut suspects) = suspect();
        suspects.offer(&1);
        assert!(sampler.is_running());
        suspects.begin_check();
        assert!(!sampler.is_running());
        assert!(suspects.hand_over(&1).is_none());
    }

    /// What did not last is counted and gone.
    #[test]
    fn what_did_not_last_is_gone() {
        let (_, sampler, mut suspects) = suspect();
        assert_eq!((suspects.discard(&1), suspects.discard(&1)), (1, 0));
        assert!(!sampler.is_running());
    }

    /// With the recovery its capture ends; what was sampled is the capture's.
    #[tokio::test]
    async fn a_recovery_ends_the_capture() {
        let (_, sampler, mut suspects) = suspect();
        suspects.offer(&1);
        let samples = suspects.hand_over(&1).unwrap();
        suspects.stop(&1);
        samples.stopped().await;
        assert!(!sampler.is_running());
        assert_eq!(samples.take().samples, 1);
    }
}
