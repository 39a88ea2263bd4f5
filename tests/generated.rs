// SPDX-License-Identifier: Apache-2.0
//! What is made from the sources and kept beside them is fresh; `make regen` makes it anew.

#![expect(clippy::unwrap_used, reason = "a test may end so")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use bianque::cli::{monitoring, reference};
use bianque::collectors::BUILT_IN;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn is_regen() -> bool {
    std::env::var_os("BIANQUE_REGEN").is_some()
}

/// Writes the text, or says that it is stale.
fn keep(path: &Path, text: &str, stale: &mut Vec<String>) {
    if is_regen() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    } else if fs::read_to_string(path).unwrap_or_default() != text {
        stale.push(path.display().to_string());
    }
}

/// The reference says what the code says, and has no page of a collector that is gone.
#[test]
fn reference_is_fresh() {
    let mut stale = Vec::new();
    let mut pages = BTreeSet::new();
    for (path, text) in reference::files(BUILT_IN) {
        keep(&root().join(&path), &text, &mut stale);
        pages.insert(root().join(path));
    }
    for entry in fs::read_dir(root().join("docs/reference/collectors")).into_iter().flatten().flatten() {
        if !pages.contains(&entry.path()) {
            if is_regen() {
                fs::remove_file(entry.path()).unwrap();
            } else {
                stale.push(format!("{} (its collector is gone)", entry.path().display()));
            }
        }
    }
    assert!(stale.is_empty(), "stale, run `make regen`: {stale:#?}");
}

/// Dashboards and alerting rules are those of the collectors that there are.
#[test]
fn monitoring_is_fresh() {
    let mut stale = Vec::new();
    for (path, text) in monitoring::files(BUILT_IN) {
        keep(&root().join(path), &text, &mut stale);
    }
    assert!(stale.is_empty(), "stale, run `make regen`: {stale:#?}");
}

/// The README's table lists the collectors that there are.
#[test]
fn readme_lists_the_collectors() {
    let path = root().join("README.md");
    let text = fs::read_to_string(&path).unwrap();
    let fresh = reference::with_table(&text, BUILT_IN)
        .unwrap_or_else(|| panic!("README.md needs the lines\n{}\n{}", reference::TABLE_BEGIN, reference::TABLE_END));
    let mut stale = Vec::new();
    keep(&path, &fresh, &mut stale);
    assert!(stale.is_empty(), "stale, run `make regen`: {stale:#?}");
}

const MODULES_BEGIN: &str = "// Each file of this folder; `make regen` writes the list.\n";

/// Each file of live tests is compiled: one that nobody names would never run.
#[test]
fn live_tests_are_all_there() {
    let folder = root().join("tests/live");
    let names: BTreeSet<String> = fs::read_dir(&folder)
        .unwrap()
        .filter_map(|e| Some(e.unwrap().file_name().to_str()?.strip_suffix(".rs")?.to_owned()))
        .filter(|n| n != "main")
        .collect();
    let path = folder.join("main.rs");
    let text = fs::read_to_string(&path).unwrap();
    let (head, _) = text.split_once(MODULES_BEGIN).expect("tests/live/main.rs ends with the list of its files");
    let list: String = names.iter().map(|n| format!("mod {n};\n")).collect();
    let mut stale = Vec::new();
    keep(&path, &format!("{head}{MODULES_BEGIN}{list}"), &mut stale);
    assert!(stale.is_empty(), "stale, run `make regen`: {stale:#?}");
}
