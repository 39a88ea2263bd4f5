// SPDX-License-Identifier: Apache-2.0
//! Compiles CO-RE BPF programs and writes a Rust skeleton for each, from the object's own BTF.
//!
//! In a `build.rs`:
//! ```no_run
//! bianque_build::compile("bpf");
//! ```
//! and in the crate, which must depend on `bianque`: `bianque::include_skeletons!();`, which gives
//! one module for each `bpf/NAME.bpf.c`. How to write a probe is described at the head of
//! `bpf/include/probe.h`. A large object has parts, `bpf/NAME/PART.bpf.c`, which `bpf/NAME.bpf.c` includes.

mod btf;
mod clang;
mod elf;
mod skeleton;
mod types;

#[cfg(test)]
mod tests;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

pub use clang::Toolchain;

/// The headers that probes include, by name: they come with this crate.
const HEADERS: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/headers.rs"));

/// Compiles every `*.bpf.c` in `dir` and its folder `shared`, for a `build.rs`: objects and
/// `skeletons.rs` go to `OUT_DIR`. When that cannot be done the build fails with a message, and this
/// returns false.
pub fn compile(dir: impl AsRef<Path>) -> bool {
    compile_into(dir, "")
}

/// The same into the folder `sub` of `OUT_DIR`, for `include_skeletons!("sub")`.
pub fn compile_into(dir: impl AsRef<Path>, sub: &str) -> bool {
    let dir = dir.as_ref();
    let result = out_dir().and_then(|out| compile_to(dir, &out, sub, &Toolchain::default()));
    println!("cargo::rerun-if-changed={}", dir.display());
    println!("cargo::rerun-if-env-changed=CLANG");
    println!("cargo::rerun-if-env-changed=LIBBPF_INCLUDE");
    // Cargo shows these as they are, and fails the build.
    if let Err(e) = &result {
        for line in format!("{e:#}").lines() {
            println!("cargo::error={line}");
        }
    }
    result.is_ok()
}

fn out_dir() -> Result<PathBuf> {
    std::env::var_os("OUT_DIR").map(PathBuf::from).context("OUT_DIR is not set: call this from a build.rs")
}

/// The same with everything handed in: objects, headers and `skeletons.rs` go to `sub` of `out`.
///
/// # Errors
/// What to install, what clang said, or which type has no form in Rust.
pub fn compile_to(dir: &Path, out: &Path, sub: &str, tools: &Toolchain) -> Result<()> {
    let out = out.join(sub);
    let mut sources = sources(dir)?;
    sources.extend(sources_if_any(&dir.join("shared"))?);
    sources.sort_by_key(|s| stem(s));
    for pair in sources.windows(2) {
        ensure!(
            stem(&pair[0]) != stem(&pair[1]),
            "{} and {} would be one module",
            pair[0].display(),
            pair[1].display()
        );
    }
    if !sources.is_empty() {
        tools.check()?;
    }
    let headers = out.join("include");
    fs::create_dir_all(&headers).with_context(|| format!("create {}", headers.display()))?;
    for (name, text) in HEADERS {
        write(&headers.join(name), text.as_bytes())?;
    }
    let mut modules = String::from("// Written by bianque-build: do not edit.\n\n");
    for source in &sources {
        let name = stem(source);
        let file = format!("{name}.bpf.o");
        let object = out.join(&file);
        tools.compile(source, &headers, &object)?;
        let bytes = fs::read(&object).with_context(|| format!("read {}", object.display()))?;
        modules += &skeleton::write(&name, &bytes, &Path::new(sub).join(&file).to_string_lossy())
            .with_context(|| source.display().to_string())?;
    }
    let all: String = sources.iter().map(|s| format!("&{}::SKELETON, ", types::ident(&stem(s)))).collect();
    modules += &format!("/// Every object of the folder.\npub static ALL: &[&bianque::probe::Skeleton] = &[{all}];\n");
    write(&out.join("skeletons.rs"), modules.as_bytes())
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    fs::write(path, bytes).with_context(|| format!("write {}", path.display()))
}

fn sources_if_any(dir: &Path) -> Result<Vec<PathBuf>> {
    if dir.is_dir() { sources(dir) } else { Ok(Vec::new()) }
}

fn sources(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let dir = dir.canonicalize().with_context(|| format!("no folder {} with BPF programs", dir.display()))?;
    for entry in fs::read_dir(&dir)? {
        let path = entry?.path();
        if path.to_string_lossy().ends_with(".bpf.c") {
            found.push(path);
        }
    }
    Ok(found)
}

/// `bpf/oom.bpf.c` → `oom`.
fn stem(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.strip_suffix(".bpf.c").unwrap_or(&name).to_owned()
}
