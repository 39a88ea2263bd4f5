// SPDX-License-Identifier: Apache-2.0
//! Collectors of kind events, one file each.

pub mod hungtask;
pub mod oom;
pub mod softirq;
