// SPDX-License-Identifier: Apache-2.0
//! The one loop per kind: timing, records, panics, restarts, self-metrics.
