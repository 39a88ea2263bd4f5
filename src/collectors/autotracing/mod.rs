// SPDX-License-Identifier: Apache-2.0
//! Collectors of kind autotracing, one file each.

pub mod cpuidle;
pub mod cpusys;
pub mod dload;
