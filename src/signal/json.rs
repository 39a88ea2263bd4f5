// SPDX-License-Identifier: Apache-2.0
//! The one JSON form of events and incidents (CLI, HTTP, server-sent events).
