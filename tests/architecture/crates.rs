// SPDX-License-Identifier: Apache-2.0
//! Crates that one file or folder stands before, so that nobody else depends on them.

use std::path::Path;

use super::{ROOT, Source, has_word, none, rust};

/// Crates that can be exchanged in one place, and where that is.
const ONE_PLACE: &[(&str, &str)] = &[
    ("aya", "src/probe/"),
    ("elasticsearch", "src/exporters/elasticsearch/client.rs"),
    ("figment", "src/settings.rs"),
];

/// Whether a line names a crate, and not the module of ours that is called as the crate is.
fn names_crate(line: &str, name: &str) -> bool {
    let ours = Path::new(ROOT).join("src/exporters").join(name).is_dir();
    if ours {
        let path = format!("{name}::");
        let absolute = line.match_indices(&path).any(|(at, _)| {
            let before = line[..at].strip_suffix("::");
            before.is_some_and(|b| !b.ends_with(|c: char| c.is_alphanumeric() || c == '_'))
        });
        absolute || line.trim_start().starts_with(&format!("use {path}"))
    } else {
        has_word(line, name)
    }
}

/// A library can be exchanged where it is named.
#[test]
fn some_crates_are_named_in_one_place() {
    let mut problems = Vec::new();
    for (name, place) in ONE_PLACE {
        let (inside, outside): (Vec<_>, Vec<_>) = rust("src").into_iter().partition(|s| s.path.starts_with(place));
        let named = |s: &Source| s.find(|l| names_crate(l, name).then(|| format!("names {name}; only {place} does")));
        // What is taken off must be taken off here, too.
        assert!(inside.iter().any(|s| !named(s).is_empty()), "{place} does not name {name}");
        problems.extend(outside.iter().flat_map(named));
    }
    none(&problems, "give that place a function that says what you want");
}

/// A crate is seen in any form of its path, and a module of ours of the same name is not taken for it.
#[test]
fn a_crate_is_not_taken_for_a_module() {
    for yes in ["use ::elasticsearch::auth;", "use elasticsearch::auth;", "f(&::elasticsearch::Error)"] {
        assert!(names_crate(yes, "elasticsearch"), "{yes}");
    }
    for no in ["use crate::exporters::elasticsearch::Client;", "e: elasticsearch::Settings,", "Elasticsearch::new()"] {
        assert!(!names_crate(no, "elasticsearch"), "{no}");
    }
}
