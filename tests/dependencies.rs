// SPDX-License-Identifier: Apache-2.0
//! What is linked into the agent: licences that let anybody ship it, each crate once, one TLS library.
//!
//! By `cargo tree`, as `cargo metadata` also lists optional crates that no feature turns on.

#![expect(clippy::unwrap_used, reason = "a test may end so")]

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

/// Licences of which any one is enough for a crate; a crate under several at once needs all.
const LICENCES: &[&str] = &[
    "MIT",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "Zlib",
    "Unicode-3.0",
    "0BSD",
    "BSL-1.0",
    "CDLA-Permissive-2.0",
    "Unlicense",
    "CC0-1.0",
    "MIT-0",
];

/// Crates used only by tests, with another licence.
const LICENCE_EXCEPTIONS: &[(&str, &str)] =
    &[("webdriver", "MPL-2.0, of fantoccini; drives the browser in tests/page")];

/// Crates that must not be there.
const BANNED: &[(&str, &str)] = &[
    ("openssl-sys", "rustls with ring everywhere: no C library to match on 10,000 nodes"),
    ("aws-lc-sys", "a second TLS library; ring is enough"),
];

/// Crates that are there in several versions, and who keeps the older one.
const SEVERAL_VERSIONS: &[(&str, &str)] = &[
    ("base64", "tonic, opentelemetry-proto, elasticsearch and its reqwest; ours and hyper-util's is newer"),
    ("getrandom", "ring, and rand of opentelemetry_sdk"),
    ("hashbrown", "dashmap, of fjall, and quick_cache, of its lsm-tree"),
    ("syn", "when building only: half of the derive macros have not moved yet"),
];

/// `name version|licence` of each crate that these kinds of dependencies lead to, but ours.
fn tree(edges: &str) -> BTreeSet<(String, String, String)> {
    #[expect(clippy::disallowed_methods, reason = "a test asks cargo")]
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args([
        "tree",
        "--locked",
        "--offline",
        "-p",
        "bianque",
        "--prefix",
        "none",
        "--format",
        "{p}|{l}",
        "-e",
        edges,
    ]);
    let out = cargo.current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let text = String::from_utf8(out.stdout).unwrap();
    let crates = text.lines().filter_map(|line| {
        let (package, licence) = line.split_once('|')?;
        let licence = licence.trim_end_matches(" (*)");
        let mut words = package.split(' ');
        let (name, version) = (words.next()?, words.next()?);
        let ours = package.contains("(/");
        (!ours).then(|| (name.to_owned(), version.to_owned(), licence.to_owned()))
    });
    let crates: BTreeSet<_> = crates.collect();
    assert!(crates.len() > 100, "cargo tree lists {} crates", crates.len());
    crates
}

/// Whether an SPDX expression can be met; `/` is the older form of OR.
fn allowed(expression: &str) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut rest = words.as_slice();
    let met = either(&mut rest);
    met && rest.is_empty()
}

fn either(words: &mut &[&str]) -> bool {
    let mut met = both(words);
    while take(words, "OR") {
        met |= both(words);
    }
    met
}

fn both(words: &mut &[&str]) -> bool {
    let mut met = one(words);
    while take(words, "AND") {
        met &= one(words);
    }
    met
}

fn one(words: &mut &[&str]) -> bool {
    if take(words, "(") {
        let met = either(words);
        return take(words, ")") && met;
    }
    let Some((first, rest)) = words.split_first() else { return false };
    *words = rest;
    if take(words, "WITH") {
        let Some((exception, rest)) = words.split_first() else { return false };
        *words = rest;
        return LICENCES.contains(&format!("{first} WITH {exception}").as_str());
    }
    LICENCES.contains(first)
}

fn take(words: &mut &[&str], word: &str) -> bool {
    let Some((first, rest)) = words.split_first() else { return false };
    let is = *first == word;
    if is {
        *words = rest;
    }
    is
}

/// Of what is linked, and of what builds and tests it.
#[test]
fn licences_let_anybody_ship_it() {
    let mut problems = Vec::new();
    let shipped = tree("normal,build");
    for (name, version, licence) in tree("normal,build,dev") {
        let excepted = LICENCE_EXCEPTIONS.iter().any(|(n, _)| *n == name);
        let linked = shipped.iter().any(|(n, ..)| *n == name);
        if !allowed(&licence) && (linked || !excepted) {
            problems.push(format!("{name} {version}: {licence:?}"));
        }
    }
    assert!(problems.is_empty(), "not among the licences of tests/dependencies.rs: {problems:#?}");
}

#[test]
fn no_crate_is_there_twice_without_a_reason() {
    let mut versions: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (name, version, _) in tree("normal,build") {
        versions.entry(name).or_default().insert(version);
    }
    let several: BTreeSet<&str> = versions.iter().filter(|(_, v)| v.len() > 1).map(|(n, _)| n.as_str()).collect();
    let known: BTreeSet<&str> = SEVERAL_VERSIONS.iter().map(|(n, _)| *n).collect();
    let new: Vec<_> = several.difference(&known).map(|n| (n, &versions[*n])).collect();
    assert!(new.is_empty(), "in several versions (`cargo tree -d`): {new:#?}");
    let gone: Vec<_> = known.difference(&several).collect();
    assert!(gone.is_empty(), "in one version by now, take them off the list: {gone:?}");
}

#[test]
fn there_is_one_tls_library() {
    let all = tree("normal,build");
    for (name, why) in BANNED {
        if let Some((_, version, _)) = all.iter().find(|(n, ..)| n == name) {
            panic!("{name} {version} is linked (`cargo tree -i {name}`): {why}");
        }
    }
}

#[test]
fn expressions_of_licences_are_read() {
    for fine in ["MIT", "Apache-2.0 / MIT", "Apache-2.0 OR GPL-2.0-only", "(MIT OR GPL-2.0-only) AND Unicode-3.0"] {
        assert!(allowed(fine), "{fine}");
    }
    for not in ["", "MPL-2.0", "MIT AND GPL-2.0-only", "Apache-2.0 WITH Other-exception", "(MIT"] {
        assert!(!allowed(not), "{not}");
    }
}
