// SPDX-License-Identifier: Apache-2.0
//! Figures that only grow, as the kernel side counts them: totals by key, and the growth between two of them.

/// A figure, or several, that only grow while they are counted.
pub trait Growing: Clone + Default + PartialEq {
    /// Whether no figure is below `earlier`'s. If one is, counting began anew.
    #[must_use]
    fn continues(&self, earlier: &Self) -> bool;
    /// What was added since `earlier`, of figures that did not fall.
    #[must_use]
    fn since(&self, earlier: &Self) -> Self;
    /// Adds what another one grew by.
    fn add(&mut self, growth: &Self);

    /// What was added since `earlier`; all there is where counting began anew.
    #[must_use]
    fn grown_since(&self, earlier: &Self) -> Self {
        if self.continues(earlier) { self.since(earlier) } else { self.clone() }
    }
}

impl Growing for u64 {
    fn continues(&self, earlier: &Self) -> bool {
        self >= earlier
    }
    fn since(&self, earlier: &Self) -> Self {
        self.saturating_sub(*earlier)
    }
    fn add(&mut self, growth: &Self) {
        *self = self.saturating_add(*growth);
    }
}

/// What a probe counted so far under one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Total<K, T> {
    pub key: K,
    /// Another number for the same key: it was forgotten, and counted from zero again. A source that does not
    /// know leaves 0; then a key that was missing in one reading counts as a new one.
    pub generation: u64,
    pub total: T,
}

impl<K, T> Total<K, T> {
    #[must_use]
    pub fn new(key: K, generation: u64, total: T) -> Self {
        Total { key, generation, total }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Growth is the difference, or the whole where the figure fell in between.
    #[test]
    fn growth_of_a_number() {
        assert_eq!((7u64.grown_since(&5), 5u64.grown_since(&5), 3u64.grown_since(&5)), (2, 0, 3));
        let mut sum = u64::MAX - 1;
        sum.add(&5);
        assert_eq!(sum, u64::MAX);
    }
}
