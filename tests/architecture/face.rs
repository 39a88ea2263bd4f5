// SPDX-License-Identifier: Apache-2.0
//! The library's face: what a crate that brings collectors can name.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::ROOT;

/// Modules and re-exports of `src/lib.rs` that everybody sees.
const FACE: &[&str] = &[
    "builder::{Agent, agent}",
    "collectors",
    "collectors::testing",
    "host",
    "opentelemetry",
    "prelude",
    "probe",
    "signal",
    "workload",
    // For what bianque-build writes; not in the documentation.
    "zerocopy",
];

/// What stands before those that this tree's tests and benches see as well.
const FOR_TESTS: &str = "#[cfg(feature = \"internals\")]";

/// What a crate's root offers to others, and what it offers to tests alone.
fn offered(text: &str) -> (BTreeSet<&str>, BTreeSet<&str>) {
    let (mut face, mut for_tests) = (BTreeSet::new(), BTreeSet::new());
    let mut attributes = Vec::new();
    for line in text.lines() {
        let item = line.strip_prefix("pub mod ").or_else(|| line.strip_prefix("pub use "));
        if let Some(name) = item.map(|i| i.trim_end_matches([';', '{', ' '])) {
            if attributes.contains(&FOR_TESTS) {
                for_tests.insert(name)
            } else {
                face.insert(name)
            };
        }
        if line.starts_with("#[") {
            attributes.push(line);
        } else {
            attributes.clear();
        }
    }
    (face, for_tests)
}

/// Whatever is public is a promise; the agent's own modules are none. What only tests use of those is dead
/// code to `make lint`, which compiles the library without its tests.
#[test]
fn the_face_is_what_collectors_need() {
    let text = fs::read_to_string(Path::new(ROOT).join("src/lib.rs")).unwrap();
    let (face, for_tests) = offered(&text);
    assert_eq!(face, FACE.iter().copied().collect(), "the library's face; is it needed in a user's crate?");
    let private = |name: &&str| text.contains(&format!("#[cfg(not(feature = \"internals\"))]\nmod {name};\n"));
    assert!(for_tests.len() > 5 && for_tests.iter().all(private), "{for_tests:?}");
    let cargo = fs::read_to_string(Path::new(ROOT).join("Cargo.toml")).unwrap();
    assert!(!cargo.contains("default = ["), "the feature is for tests and benches: not one that users get unasked");
}

/// Both kinds are told apart, and what is not offered is neither.
#[test]
fn offers_are_found() {
    let text = format!(
        "pub mod a;\n{FOR_TESTS}\npub mod b;\n#[doc(hidden)]\npub use c::d;\nmod e;\npub mod f {{\n    pub use x;\n}}\n"
    );
    assert_eq!(offered(&text), (["a", "c::d", "f"].into(), ["b"].into()));
}
