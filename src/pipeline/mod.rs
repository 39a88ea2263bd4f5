// SPDX-License-Identifier: Apache-2.0
//! What happens to signals between collectors and exporters.

pub mod backing;
pub mod metrics;
