// SPDX-License-Identifier: Apache-2.0
//! Collectors of kind metrics, one file each.

pub mod cpu;
pub mod load;
pub mod runqlat;
pub mod softirqstat;
