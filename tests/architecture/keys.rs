// SPDX-License-Identifier: Apache-2.0
//! Attribute keys stand beside what they mean: in their collector's file, or in `signal::semconv` where
//! several files need them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::{ROOT, Source, has_word, none, rust};

/// The collector that a file belongs to: `events/softlockup` for `softlockup.rs` and all in `softlockup/`.
fn collector_of(path: &str) -> Option<String> {
    let mut parts = path.strip_prefix("src/collectors/")?.split('/');
    let (kind, name) = (parts.next()?, parts.next()?);
    ["metrics", "events", "autotracing"].contains(&kind).then(|| format!("{kind}/{}", name.trim_end_matches(".rs")))
}

/// What is read in one collector alone is read beside its meaning there.
#[test]
fn keys_of_one_collector_stand_in_its_file() {
    let semconv = Source::read(&Path::new(ROOT).join("src/signal/semconv.rs"));
    let keys: Vec<&str> = semconv.code.lines().filter_map(declared_key).collect();
    assert!(keys.len() > 50, "keys are found: {}", keys.len());
    let mut users: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for source in ["src", "benches", "tests", "examples"].into_iter().flat_map(rust) {
        for key in keys.iter().filter(|k| source.path != semconv.path && has_word(&source.code, k)) {
            users.entry(key).or_default().insert(collector_of(&source.path).unwrap_or_else(|| source.path.clone()));
        }
    }
    let alone = |k: &&str| match users.get(k) {
        Some(who) if who.len() == 1 => {
            who.first().filter(|w| !w.contains('.')).map(|w| format!("{k}: only {w} has it"))
        }
        Some(_) => None,
        None => Some(format!("{k}: nobody has it")),
    };
    let problems: Vec<_> = keys.iter().filter_map(alone).collect();
    none(&problems, "a key of one collector stands in its file, beside INFO; semconv has what several read");
}

/// `pub const NAME: Key`.
fn declared_key(line: &str) -> Option<&str> {
    line.trim_start().strip_prefix("pub const ")?.split_once(": Key").map(|(name, _)| name)
}
