// SPDX-License-Identifier: Apache-2.0
//! Where signals leave the node.

pub mod otlp;
pub mod prometheus;
pub mod store;
