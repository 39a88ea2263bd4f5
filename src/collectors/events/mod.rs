// SPDX-License-Identifier: Apache-2.0
//! Collectors of kind events, one file each.

pub mod dropwatch;
pub mod netrecvlat;
pub mod oom;
pub mod softirq;
pub mod tcp_retransmit;
