// SPDX-License-Identifier: Apache-2.0
//! What blocked tasks wait for, and what the devices do meanwhile.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::time::Duration;

use super::Finder;
use crate::collectors::Limits;
use crate::collectors::task_wait::Wait;
use crate::host::proc::Disk;
use crate::probe::shared::tasks::{Blocked, Lock};
use crate::signal::units::ns;
use crate::signal::{Column, Evidence, Profile, ProfileKind, Stack, StackSample, Table, Value};

/// Rows of a table.
const ROWS: usize = 50;

/// What most of the tasks wait for.
pub(super) fn usual_wait(tasks: &[Blocked], finder: &Finder) -> Wait {
    let mut waits: Vec<(Wait, usize)> = Vec::new();
    for wait in tasks.iter().map(|t| Wait::of(&finder.symbols.kernel(&t.stack))) {
        match waits.iter_mut().find(|(w, _)| *w == wait) {
            Some((_, n)) => *n += 1,
            None => waits.push((wait, 1)),
        }
    }
    waits.into_iter().max_by_key(|(_, n)| *n).map(|(wait, _)| wait).unwrap_or_default()
}

/// Stacks, waits and locks.
pub(super) fn of_pile(tasks: &[Blocked], finder: &Finder, limits: Limits) -> Vec<Evidence> {
    let stacks: Vec<Stack> = tasks.iter().map(|t| finder.symbols.kernel(&t.stack)).collect();
    let sample = |(task, kernel): (&Blocked, &Stack)| StackSample {
        kernel: kernel.clone(),
        user: Stack::default(),
        thread: task.thread.clone(),
        value: 1,
    };
    let samples: Vec<StackSample> = tasks.iter().zip(&stacks).map(sample).take(limits.stacks).collect();
    let lost = (tasks.len() - samples.len()) as u64;
    let profile = Profile { kind: ProfileKind::BLOCKED, stacks: samples, period: 0, lost };
    let mut all = vec![Evidence::Profile(profile), waits(tasks, &stacks, finder)];
    all.extend(locks(tasks, finder));
    all
}

/// How many wait for what, by workload.
fn waits(tasks: &[Blocked], stacks: &[Stack], finder: &Finder) -> Evidence {
    let mut rows: HashMap<[Option<String>; 4], (u64, Duration)> = HashMap::new();
    for (task, stack) in tasks.iter().zip(stacks) {
        let wait = Wait::of(stack);
        let owner = finder.workloads.of_process(task.thread.pid, task.cgroup);
        let names = [
            wait.on.map(str::to_owned),
            wait.function,
            wait.filesystem.map(str::to_owned),
            owner.map(|w| w.display_name().to_owned()),
        ];
        let (n, longest) = rows.entry(names).or_default();
        *n += 1;
        *longest = task.blocked_for.unwrap_or_default().max(*longest);
    }
    let columns = [
        Column::text("wait"),
        Column::text("function"),
        Column::text("filesystem"),
        Column::text("workload"),
        Column::int("tasks", "{task}"),
        Column::int("longest", "ns"),
    ];
    let mut table = Table::new("waits", &columns);
    let mut rows: Vec<_> = rows.into_iter().collect();
    rows.sort_unstable_by(|a, b| (Reverse(a.1), &a.0).cmp(&(Reverse(b.1), &b.0)));
    for (names, (n, longest)) in rows {
        let mut cells: Vec<Option<Value>> = names.into_iter().map(|name| name.map(Into::into)).collect();
        cells.extend([Some(n.into()), Some(ns(longest).into())]);
        table.row(cells);
    }
    Evidence::Table(table)
}

/// Who has the locks, and how many wait for each. `None`: the kernel does not say.
fn locks(tasks: &[Blocked], finder: &Finder) -> Option<Evidence> {
    let mut rows: HashMap<u64, (&Lock, u64)> = HashMap::new();
    for lock in tasks.iter().filter_map(|t| t.lock.as_ref()) {
        rows.entry(lock.address).or_insert((lock, 0)).1 += 1;
    }
    if rows.is_empty() {
        return None;
    }
    let columns = [
        Column::text("lock"),
        Column::text("address"),
        Column::text("owner"),
        Column::text("workload"),
        Column::int("waiters", "{task}"),
    ];
    let mut table = Table::new("locks", &columns);
    let mut rows: Vec<_> = rows.into_values().collect();
    rows.sort_unstable_by_key(|(lock, n)| (Reverse(*n), lock.address));
    for (lock, waiters) in rows.into_iter().take(ROWS) {
        let owner = lock.owner.as_ref();
        let workload = owner.and_then(|o| finder.workloads.of_process(o.thread.pid, o.cgroup));
        table.row(vec![
            Some(lock.kind.into()),
            Some(Value::address(lock.address)),
            owner.map(|o| format!("{} (pid {})", o.thread.comm, o.thread.pid).into()),
            workload.map(|w| w.display_name().to_owned().into()),
            Some(waiters.into()),
        ]);
    }
    Some(Evidence::Table(table))
}

/// What block devices had to do in a stretch of time. `None`: nothing.
#[expect(clippy::cast_precision_loss, reason = "a second, in milliseconds")]
pub(super) fn devices(before: &[Disk], after: &[Disk], elapsed: Duration) -> Option<Evidence> {
    let done = |d: &Disk| {
        let others = d.discard.as_ref().map_or(0, |o| o.operations) + d.flush.map_or(0, |(n, _)| n);
        d.read.operations + d.write.operations + others
    };
    let columns = [
        Column::text("device"),
        Column::int("in_flight", "{request}"),
        Column::int("completed", "{request}"),
        Column::double("busy", "1"),
    ];
    let mut table = Table::new("devices", &columns);
    let mut rows: Vec<(&Disk, u64, u32)> = Vec::new();
    for disk in after {
        let same = |d: &&Disk| (d.number, &d.name) == (disk.number, &disk.name);
        let Some(then) = before.iter().find(same) else { continue };
        let completed = done(disk).saturating_sub(done(then));
        if disk.in_flight > 0 || completed > 0 {
            rows.push((disk, completed, disk.busy_ms.wrapping_sub(then.busy_ms)));
        }
    }
    if rows.is_empty() {
        return None;
    }
    rows.sort_unstable_by_key(|(d, completed, _)| (Reverse(d.in_flight), Reverse(*completed), &d.name));
    for (disk, completed, busy_ms) in rows.into_iter().take(ROWS) {
        let busy = (f64::from(busy_ms) / elapsed.as_millis().max(1) as f64).min(1.0);
        let name = Some(disk.name.clone().into());
        table.row(vec![name, Some(disk.in_flight.into()), Some(completed.into()), Some(busy.into())]);
    }
    Some(Evidence::Table(table))
}
