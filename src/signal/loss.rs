// SPDX-License-Identifier: Apache-2.0
//! Where data was lost or left out. Three counters keep apart what an operator must know:
//!
//! - *lost*: the kernel could not hand a record over;
//! - *dropped*: the agent had the data, could not deliver it, and it is gone;
//! - *suppressed*: left out on purpose: by a limit, a filter, or because a back end does not take
//!   that kind of signal. Nothing is wrong then.

/// The part of the agent that a drop or suppression is counted under, as a label of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage<'a> {
    /// Label `collector`: the signal had not reached the log yet.
    Collector(&'a str),
    /// Label `exporter`: it was on its way to this back end, or to the store.
    Exporter(&'a str),
}
