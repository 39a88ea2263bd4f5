// SPDX-License-Identifier: Apache-2.0
//! Compiles the probes, and one that only tests load, and writes their skeletons.

fn main() {
    if bianque_build::compile("bpf") && std::path::Path::new("tests/fixtures/bpf").is_dir() {
        bianque_build::compile_into("tests/fixtures/bpf", "fixtures");
    }
}
