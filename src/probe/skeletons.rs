// SPDX-License-Identifier: Apache-2.0
//! One module for each `bpf/*.bpf.c` and `bpf/shared/*.bpf.c`, written by `bianque-build`.

crate::include_skeletons!();
