// SPDX-License-Identifier: Apache-2.0
//! A flame graph in text: an icicle, callers above callees, each as wide as its share of the samples.

use std::collections::BTreeMap;

use super::table::{cut, len};

/// Deeper levels are left out; what they held stays in the width of the level above.
const MAX_DEPTH: usize = 40;
/// Narrower than this a box says nothing.
const LEAST: usize = 3;

/// Functions by caller, each with the samples in it and below.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Flame {
    count: u64,
    children: BTreeMap<String, Flame>,
}

impl Flame {
    /// Adds one stack, outermost frame first.
    pub fn add<'a>(&mut self, frames: impl IntoIterator<Item = &'a str>, count: u64) {
        self.count = self.count.saturating_add(count);
        let mut node = self;
        for frame in frames {
            node = node.children.entry(frame.to_owned()).or_default();
            node.count = node.count.saturating_add(count);
        }
    }

    /// Samples in all.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.count
    }

    /// The graph in lines of at most `width` characters, widest paths to the left.
    #[must_use]
    pub fn draw(&self, width: usize) -> Vec<String> {
        let mut canvas = Canvas { width, total: self.count, rows: Vec::new() };
        canvas.children(self, 0, width, 0);
        canvas.rows.iter().map(|r| r.iter().collect::<String>().trim_end().to_owned()).collect()
    }

    fn widest_first(&self) -> Vec<(&str, &Flame)> {
        let mut all: Vec<_> = self.children.iter().map(|(name, f)| (name.as_str(), f)).collect();
        all.sort_by(|a, b| b.1.count.cmp(&a.1.count).then(a.0.cmp(b.0)));
        all
    }

    /// Follows the calls from here for as long as there is only one with all the samples: one box
    /// says them all. Their names, and where it ends.
    fn chain<'a>(&'a self, name: &'a str) -> (Vec<&'a str>, &'a Flame) {
        let (mut names, mut end) = (vec![name], self);
        while let Some((next, child)) = end.children.iter().next() {
            if end.children.len() > 1 || child.count < end.count {
                break;
            }
            names.push(next);
            end = child;
        }
        (names, end)
    }
}

struct Canvas {
    width: usize,
    total: u64,
    rows: Vec<Vec<char>>,
}

impl Canvas {
    /// Draws the callees of `parent` side by side into its columns.
    fn children(&mut self, parent: &Flame, left: usize, width: usize, depth: usize) {
        if depth >= MAX_DEPTH || parent.count == 0 {
            return;
        }
        let mut before: u64 = 0;
        for (name, child) in parent.widest_first() {
            let from = left + scale(before, parent.count, width);
            before = before.saturating_add(child.count);
            let to = left + scale(before, parent.count, width);
            if to - from < LEAST {
                continue;
            }
            let (names, end) = child.chain(name);
            self.put(depth, from, &label(&names, &self.share(child.count), to - from));
            self.children(end, from, to - from, depth + 1);
        }
    }

    fn share(&self, count: u64) -> String {
        let tenths = (u128::from(count) * 1000 + u128::from(self.total) / 2) / u128::from(self.total.max(1));
        if tenths < 100 { format!("{}.{}%", tenths / 10, tenths % 10) } else { format!("{}%", (tenths + 5) / 10) }
    }

    fn put(&mut self, row: usize, at: usize, text: &str) {
        while self.rows.len() <= row {
            self.rows.push(vec![' '; self.width]);
        }
        if let Some(row) = self.rows.get_mut(row) {
            for (cell, c) in row.iter_mut().skip(at).zip(text.chars()) {
                *cell = c;
            }
        }
    }
}

/// Columns from the left edge for a part of `whole`.
fn scale(part: u64, whole: u64, width: usize) -> usize {
    usize::try_from(u128::from(part) * width as u128 / u128::from(whole.max(1))).unwrap_or(width)
}

/// A box of `width` characters: a bar, the names as far as they fit, and the share. Of a chain the
/// last names matter most; where there is room for a name or the share, it is the name.
fn label(names: &[&str], share: &str, width: usize) -> String {
    let room = width.saturating_sub(1);
    let beside = room.saturating_sub(len(share) + 2);
    let last = names.last().copied().unwrap_or_default();
    let tails = (1..names.len()).map(|from| format!("… › {}", names[from..].join(" › ")));
    let mut forms = std::iter::once(names.join(" › ")).chain(tails).chain([last.to_owned()]);
    let fits = forms.find(|text| len(text) <= beside);
    match fits.or_else(|| (len(last) > room && beside >= 8).then(|| cut(last, beside))) {
        Some(text) => format!("│{text:<beside$} {share} "),
        None => format!("│{}", cut(last, room)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn flame() -> Flame {
        let mut f = Flame::default();
        f.add(["_start", "main", "serve", "parse", "memcpy"], 20);
        f.add(["_start", "main", "serve", "spin"], 60);
        f.add(["_start", "main", "idle"], 10);
        f.add(["_start", "main", "serve", "spin"], 10);
        f
    }

    /// Stacks are merged by frame, the widest path is on the left, chains share a box, shares are of all samples.
    #[test]
    fn golden() {
        let want = "
│_start › main                                         100%
│serve                                            90% │idle
│spin                                 70% │memcpy 20%";
        assert_eq!(flame().draw(60).join("\n"), want.trim_start());
    }

    /// On a narrow terminal the busy function is still named.
    #[test]
    fn narrow() {
        assert_eq!(
            flame().draw(24).join("\n"),
            "│_start › main     100%\n│serve           90% │i…\n│spin       70% │mem…"
        );
    }

    proptest! {
        /// Whatever the stacks, nothing is drawn outside the width, and nothing panics.
        #[test]
        fn stays_inside(
            stacks in prop::collection::vec((prop::collection::vec("[a-d]{1,9}", 0..60), 0..u64::MAX / 64), 0..20),
            width in 0usize..200,
        ) {
            let mut f = Flame::default();
            for (frames, count) in &stacks {
                f.add(frames.iter().map(String::as_str), *count);
            }
            for line in f.draw(width) {
                prop_assert!(line.chars().count() <= width, "{line:?}");
            }
        }
    }
}
