// SPDX-License-Identifier: Apache-2.0
//! What the kernel's time was for, and for whom.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;

use crate::probe::shared::cpu_sample::{CpuSample, RawStack, Taken};
use crate::signal::{Column, Evidence, Frame, Table, Value, Workload};
use crate::workload::Workloads;

/// Rows of a table; what is below is one row.
const ROWS: usize = 20;
const OTHERS: &str = "(others)";

/// Functions of interrupts: what they interrupted is not what the time is for. Softirqs also run at the end of a
/// system call's work on the network.
const INTERRUPTS: [&str; 6] =
    ["asm_sysvec_", "asm_common_interrupt", "common_interrupt", "gic_handle_irq", "el1_interrupt", "el0_interrupt"];
const SOFTIRQS: [&str; 2] = ["handle_softirqs", "__do_softirq"];
/// Of system calls by their name (arch/*/include/asm/syscall_wrapper.h).
const SYSTEM_CALLS: [&str; 8] = [
    "__x64_sys_",
    "__ia32_sys_",
    "__ia32_compat_sys_",
    "__x64_compat_sys_",
    "__arm64_sys_",
    "__arm64_compat_sys_",
    "__se_sys_",
    "__do_sys_",
];
/// What all system calls go through: below it is the call's own first function.
const DISPATCH: [&str; 4] = ["do_syscall_64", "x64_sys_call", "do_fast_syscall_32", "invoke_syscall"];
const PAGE_FAULTS: [&str; 4] = ["asm_exc_page_fault", "exc_page_fault", "do_page_fault", "do_mem_abort"];
const KERNEL_THREADS: [&str; 3] = ["ret_from_fork_asm", "ret_from_fork", "kthread"];

/// Leaves what was in the kernel, without the part of the programs.
pub(super) fn keep_kernel(taken: &mut Taken) {
    let mut folded: HashMap<(u32, u64, Vec<u64>), RawStack> = HashMap::new();
    for mut s in std::mem::take(&mut taken.stacks) {
        if s.kernel.is_empty() {
            continue;
        }
        s.user.clear();
        let key = (s.thread.tid, s.cgroup, s.kernel.clone());
        folded.entry(key).and_modify(|f| f.count += s.count).or_insert(s);
    }
    taken.stacks = folded.into_values().collect();
}

/// How the kernel was entered, and how much time that took.
pub(super) fn ways_in(profile: &Evidence) -> Evidence {
    let mut table = Rows::default();
    if let Evidence::Profile(p) = profile {
        for s in &p.stacks {
            table.add(vec![way_in(&s.kernel)], s.value * p.period);
        }
    }
    table.into_evidence("kernel_entries", &[Column::text("entry")])
}

/// The workload and the program that it was for.
pub(super) fn callers(taken: &Taken, owner: impl Fn(&RawStack) -> Option<Arc<Workload>>) -> Evidence {
    let mut table = Rows::default();
    for s in &taken.stacks {
        let of = owner(s);
        let (name, cgroup) = of.as_ref().map_or(("", ""), |w| (w.display_name(), &w.cgroup));
        table.add(vec![name.to_owned(), cgroup.to_owned(), s.thread.comm.clone()], s.count * taken.period_ns);
    }
    table.into_evidence("callers", &[Column::text("workload"), Column::text("cgroup"), Column::text("process")])
}

/// Whose a sample is. `None`: the node's own, such as the kernel's threads.
pub(super) fn owner(s: &RawStack, workloads: &Workloads, sampler: &CpuSample) -> Option<Arc<Workload>> {
    workloads.of_process(s.thread.pid, sampler.cgroup(s.cgroup))
}

/// A system call by its name, or another way into the kernel; frames are innermost first.
fn way_in(frames: &[Frame]) -> String {
    let symbols = || frames.iter().rev().filter_map(|f| f.symbol.as_deref());
    let any = |of: &[&str]| symbols().any(|s| of.iter().any(|name| s.starts_with(name)));
    if any(&INTERRUPTS) {
        return "interrupt".to_owned();
    }
    if any(&SOFTIRQS) {
        return "softirq".to_owned();
    }
    let call = symbols().find_map(|s| SYSTEM_CALLS.iter().find_map(|prefix| s.strip_prefix(prefix)));
    if let Some(call) = call {
        return call.to_owned();
    }
    // Its wrapper left the stack by jumping to what it calls.
    let dispatched = symbols().skip_while(|s| !DISPATCH.contains(s)).find(|s| !DISPATCH.contains(s));
    if let Some(function) = dispatched {
        return function.strip_prefix("ksys_").unwrap_or(function).to_owned();
    }
    let other = [(&PAGE_FAULTS[..], "page fault"), (&KERNEL_THREADS[..], "kernel thread")];
    other.iter().find(|(of, _)| any(of)).map_or("other", |(_, name)| name).to_owned()
}

/// CPU time by name.
#[derive(Default)]
struct Rows(HashMap<Vec<String>, u64>);

impl Rows {
    fn add(&mut self, names: Vec<String>, ns: u64) {
        *self.0.entry(names).or_default() += ns;
    }

    /// The most time first; share is that of all rows.
    #[expect(clippy::cast_precision_loss, reason = "a capture's CPU time in nanoseconds is far below 2^53")]
    fn into_evidence(self, name: &'static str, names: &[Column]) -> Evidence {
        let total: u64 = self.0.values().sum();
        let mut rows: Vec<(Vec<String>, u64)> = self.0.into_iter().collect();
        rows.sort_unstable_by(|a, b| (Reverse(a.1), &a.0).cmp(&(Reverse(b.1), &b.0)));
        let rest: u64 = rows.drain(ROWS.min(rows.len())..).map(|(_, ns)| ns).sum();
        if rest > 0 {
            rows.push((vec![OTHERS.to_owned(); names.len()], rest));
        }
        let mut columns = names.to_vec();
        columns.extend([Column::int("cpu_time", "ns"), Column::double("share", "1")]);
        let mut table = Table::new(name, &columns);
        for (names, ns) in rows {
            let mut cells: Vec<Option<Value>> = names.into_iter().map(|n| (!n.is_empty()).then(|| n.into())).collect();
            cells.extend([Some(ns.into()), Some((ns as f64 / total as f64).into())]);
            table.row(cells);
        }
        Evidence::Table(table)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(outermost_first: &[&str]) -> Vec<Frame> {
        let frame = |s: &&str| Frame { symbol: Some((*s).into()), ..Frame::default() };
        outermost_first.iter().rev().map(frame).collect()
    }

    /// As the stacks of several kernels have them.
    #[test]
    fn ways_into_the_kernel() {
        let cases: [(&[&str], &str); 9] = [
            (&["entry_SYSCALL_64_after_hwframe", "do_syscall_64", "__x64_sys_read", "vfs_read"], "read"),
            (&["entry_SYSCALL_64_after_hwframe", "do_syscall_64", "x64_sys_call", "ksys_write", "vfs_write"], "write"),
            (&["el0t_64_sync", "el0_svc", "do_el0_svc", "invoke_syscall", "__arm64_sys_futex", "do_futex"], "futex"),
            (&["do_syscall_64", "__do_sys_clone", "asm_exc_page_fault", "do_user_addr_fault"], "clone"),
            (&["asm_exc_page_fault", "exc_page_fault", "do_user_addr_fault"], "page fault"),
            (&["do_syscall_64", "__x64_sys_sendto", "do_softirq", "__do_softirq", "net_rx_action"], "softirq"),
            (&["do_syscall_64", "__x64_sys_read", "asm_sysvec_apic_timer_interrupt", "handle_softirqs"], "interrupt"),
            (&["ret_from_fork_asm", "ret_from_fork", "kthread", "kswapd"], "kernel thread"),
            (&["somewhere"], "other"),
        ];
        for (stack, expected) in cases {
            assert_eq!(way_in(&frames(stack)), expected, "{stack:?}");
        }
    }

    /// Programs' parts go, and what differed by them alone is one stack; samples outside of the kernel are none of it.
    #[test]
    fn only_the_kernels_part() {
        let stack = |tid, kernel: &[u64], user: &[u64], count| RawStack {
            thread: crate::signal::Thread { pid: 1, tid, comm: "a".to_owned() },
            cgroup: 1,
            kernel: kernel.to_vec(),
            user: user.to_vec(),
            count,
        };
        let stacks =
            vec![stack(1, &[9], &[1], 2), stack(1, &[9], &[2], 3), stack(1, &[], &[2], 7), stack(2, &[9], &[], 1)];
        let mut taken = Taken { stacks, ..Taken::default() };
        keep_kernel(&mut taken);
        taken.stacks.sort_by_key(|s| s.count);
        assert_eq!(taken.stacks, [stack(2, &[9], &[], 1), stack(1, &[9], &[], 5)]);
    }

    /// What is beyond the rows of a table is in its last one: shares add up to one.
    #[test]
    fn tables_are_bounded() {
        let mut rows = Rows::default();
        (0..100_u64).for_each(|n| rows.add(vec![format!("call{n}")], n));
        let Evidence::Table(table) = rows.into_evidence("t", &[Column::text("entry")]) else { panic!("no table") };
        let cells = table.cells();
        assert_eq!(cells.len(), ROWS + 1);
        assert_eq!(cells[0][0], Some("call99".into()));
        assert_eq!(cells[ROWS][..2], [Some(OTHERS.into()), Some((0..80_u64).sum::<u64>().into())]);
        let shares =
            cells.iter().filter_map(|c| if let Some(Value::Double(share)) = c[2] { Some(share) } else { None });
        assert!((shares.sum::<f64>() - 1.0).abs() < 1e-9);
    }
}
