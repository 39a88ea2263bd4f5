// SPDX-License-Identifier: Apache-2.0
//! Compiles the probes below `bpf` and writes their skeletons.

fn main() {
    bianque_build::compile("bpf");
}
