// SPDX-License-Identifier: Apache-2.0
//! The service that a workload is part of.
