// SPDX-License-Identifier: Apache-2.0
//! Collectors of kind events, one file each.

pub mod dropwatch;
pub mod hungtask;
pub mod lacp;
pub mod linkwatch;
pub mod memreclaim;
pub mod netrecvlat;
pub mod oom;
pub mod ras;
pub mod softirq;
pub mod softlockup;
pub mod tcp_retransmit;
pub mod txtimeout;
