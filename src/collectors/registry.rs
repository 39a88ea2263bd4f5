// SPDX-License-Identifier: Apache-2.0
//! The one list of built-in collectors, and how a type becomes an entry of it.

/// A collector as the agent holds it: its declaration and how to build it.
pub struct Registration {}

/// Every collector of this crate, in the order in which they are listed.
pub static BUILT_IN: &[Registration] = &[];
