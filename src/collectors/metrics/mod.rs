// SPDX-License-Identifier: Apache-2.0
//! Collectors of kind metrics, one file each.

pub mod conntrack;
pub mod cpu;
pub mod cpufreq;
pub mod disk;
pub mod filesystem;
pub mod interrupts;
pub mod iolat;
pub mod load;
pub mod memory;
pub mod neigh;
pub mod netdev;
pub mod netstat;
pub mod pressure;
pub mod processes;
pub mod runqlat;
pub mod schedstat;
pub mod softirqstat;
