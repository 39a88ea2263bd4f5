// SPDX-License-Identifier: Apache-2.0
//! Lists the headers of `bpf/include`, which come with this crate.

use std::fmt::Write as _;
use std::path::Path;
use std::{env, fs};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = Path::new(&env::var("CARGO_MANIFEST_DIR")?).join("../bpf/include");
    println!("cargo::rerun-if-changed={}", dir.display());
    let mut names = Vec::new();
    for entry in fs::read_dir(&dir)? {
        names.extend(entry?.file_name().into_string().ok().filter(|n| n.ends_with(".h")));
    }
    names.sort();
    let mut list = String::from("&[\n");
    for name in names {
        writeln!(list, "    ({name:?}, include_str!({:?})),", dir.join(&name).display().to_string())?;
    }
    list += "]\n";
    fs::write(Path::new(&env::var("OUT_DIR")?).join("headers.rs"), list)?;
    Ok(())
}
