// SPDX-License-Identifier: Apache-2.0
//! What was sampled, as a piece of evidence.

use std::cmp::Reverse;

use super::Limits;
use crate::probe::shared::cpu_sample::Taken;
use crate::probe::stacks::Symbols;
use crate::signal::{Evidence, Profile, ProfileKind, StackSample};

/// The stacks that were seen most, with names. Waits for the names of programs: not for an async thread.
pub fn cpu_profile(taken: Taken, symbols: &Symbols, limits: Limits) -> Evidence {
    let Taken { mut stacks, lost, period_ns, .. } = taken;
    stacks.sort_by_key(|s| Reverse(s.count));
    let left_out: u64 = stacks.drain(limits.stacks.min(stacks.len())..).map(|s| s.count).sum();
    let symbols = symbols.for_capture();
    let stacks = stacks
        .into_iter()
        .map(|s| StackSample {
            kernel: symbols.kernel(&s.kernel),
            user: symbols.user(s.thread.pid, &s.user),
            thread: s.thread,
            value: s.count,
        })
        .collect();
    Evidence::Profile(Profile { kind: ProfileKind::CPU, stacks, period: period_ns, lost: lost + left_out })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::probe::shared::cpu_sample::RawStack;
    use crate::signal::Thread;

    /// Those seen most stay; samples of the others are counted as lost.
    #[test]
    fn samples_that_are_left_out_are_counted() {
        let stack = |pid, count| RawStack {
            thread: Thread { pid, tid: pid, comm: "a".to_owned() },
            cgroup: 1,
            kernel: vec![],
            user: vec![],
            count,
        };
        let taken = Taken { stacks: vec![stack(1, 2), stack(2, 9), stack(3, 3)], lost: 4, ..Taken::default() };
        let limits = Limits { duration: Duration::ZERO, stacks: 1 };
        let Evidence::Profile(p) = cpu_profile(taken, &Symbols::new(), limits) else { panic!("no profile") };
        assert_eq!((p.stacks.len(), p.stacks[0].thread.pid, p.lost), (1, 2, 4 + 5));
    }
}
