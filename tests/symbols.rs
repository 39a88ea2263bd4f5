// SPDX-License-Identifier: Apache-2.0
//! What is installed has no symbols, and finds those beside it. Shown with this test's own program.

#![expect(clippy::unwrap_used, reason = "a test may end so")]

use std::path::Path;
use std::process::Command;

/// Set in the copy of this program that ends in a panic.
const CHILD: &str = "BIANQUE_TEST_SYMBOLS";

#[inline(never)]
fn a_function_to_look_for() {
    assert!(std::hint::black_box(false), "on purpose");
}

/// The backtrace of that panic in a copy of this program.
fn backtrace(program: &Path) -> String {
    #[expect(clippy::disallowed_methods, reason = "a test runs a copy of itself")]
    let out = Command::new(program)
        .args(["--exact", "--nocapture", "a_stripped_program_has_names_where_its_symbols_are"])
        .env("RUST_BACKTRACE", "1")
        .env(CHILD, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(said.contains("on purpose"), "{said}");
    said
}

#[test]
fn a_stripped_program_has_names_where_its_symbols_are() {
    if std::env::var_os(CHILD).is_some() {
        a_function_to_look_for();
    }
    let dir = tempfile::tempdir().unwrap();
    let this = std::env::current_exe().unwrap();
    #[expect(clippy::disallowed_methods, reason = "a test runs a script of the project")]
    let split = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/symbols"))
        .args([&*this, dir.path()])
        .output()
        .unwrap();
    assert!(split.status.success(), "{}", String::from_utf8_lossy(&split.stderr));
    let (program, symbols) = (dir.path().join("bianque"), dir.path().join("bianque.debug"));
    assert_eq!(String::from_utf8_lossy(&split.stdout).trim(), program.to_str().unwrap());

    let size = |p: &Path| p.metadata().unwrap().len();
    assert!(size(&program) * 2 < size(&this), "{} of {} bytes", size(&program), size(&this));
    let named = backtrace(&program);
    assert!(named.contains("a_function_to_look_for") && named.contains("tests/symbols.rs"), "{named}");
    std::fs::remove_file(symbols).unwrap();
    let nameless = backtrace(&program);
    assert!(!nameless.contains("a_function_to_look_for"), "its names are not in its symbols alone: {nameless}");
}
