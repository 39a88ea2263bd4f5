// SPDX-License-Identifier: Apache-2.0
//! Addresses to names: kernel symbols, ELF symbols in the mount namespace of the process, perf maps.
