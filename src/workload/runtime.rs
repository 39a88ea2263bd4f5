// SPDX-License-Identifier: Apache-2.0
//! Names, images and labels of containers, from what their runtimes keep on the node.
pub struct NameResolver {}
