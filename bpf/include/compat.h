/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the kernel changed between 5.10 and 7.3: one function per field, with the commit that
 * changed it. `___` and what follows is ignored by CO-RE, so a struct can be declared as older
 * kernels had it.
 */
#pragma once

#include "kernel.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

/* Since 5.14: 2f064a59a11f ("sched: Change task_struct::state"). */
struct task_struct___state {
	unsigned int __state;
};

/* Before 5.14. */
struct task_struct___old_state {
	long state;
};

#pragma clang attribute pop

/* TASK_* bits of include/linux/sched.h; 0 is running or runnable. */
static __always_inline unsigned int task_state(const struct task_struct *task)
{
	const struct task_struct___state *now = (const void *)task;

	if (bpf_core_field_exists(now->__state))
		return BPF_CORE_READ(now, __state);
	return (unsigned int)BPF_CORE_READ((const struct task_struct___old_state *)task, state);
}

/* enum in include/linux/mm_types_task.h, unchanged since 4.5. */
enum { MM_FILEPAGES, MM_ANONPAGES, MM_SWAPENTS, MM_SHMEMPAGES };

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct percpu_counter {
	s64 count;
};

/* Since 6.2: f1a7941243c1 ("mm: convert mm's rss stats into percpu_counter"). */
struct mm_struct___percpu_rss {
	struct percpu_counter rss_stat[4];
};

struct mm_rss_stat {
	atomic_long_t count[4];
};

struct mm_struct___atomic_rss {
	struct mm_rss_stat rss_stat;
};

#pragma clang attribute pop

/* Pages of one kind; up to a batch per CPU behind where the counter is per CPU. */
static __always_inline s64 mm_counter(const struct mm_struct *mm, int member)
{
	s64 pages = 0;

	if (bpf_core_type_exists(struct mm_rss_stat)) {
		u64 at = bpf_core_field_offset(struct mm_struct___atomic_rss, rss_stat) + member * sizeof(atomic_long_t);

		bpf_probe_read_kernel(&pages, sizeof(pages), (void *)mm + at);
	} else {
		u64 at = bpf_core_field_offset(struct mm_struct___percpu_rss, rss_stat) +
			 member * bpf_core_type_size(struct percpu_counter) +
			 bpf_core_field_offset(struct percpu_counter, count);

		bpf_probe_read_kernel(&pages, sizeof(pages), (void *)mm + at);
	}
	return pages < 0 ? 0 : pages;
}

/* Start in CLOCK_BOOTTIME; since 5.5: cf25e24db61c ("time: Rename tsk->real_start_time to ->start_boottime"). */
static __always_inline u64 task_start_boottime(const struct task_struct *task)
{
	return BPF_CORE_READ(task, start_boottime);
}

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct pt_regs___x86 {
	unsigned long di;
};

struct user_pt_regs {
	u64 regs[31];
};

#pragma clang attribute pop

/* The first argument of a function at its kprobe. */
static __always_inline u64 first_argument(const struct pt_regs *ctx)
{
#if defined(__TARGET_ARCH_arm64)
	return BPF_CORE_READ((const struct user_pt_regs *)ctx, regs[0]);
#else
	return BPF_CORE_READ((const struct pt_regs___x86 *)ctx, di);
#endif
}

/* Time that the hypervisor took from the task's CPU, as booked at its last tick (CONFIG_PARAVIRT). */
static __always_inline u64 booked_steal(struct task_struct *task)
{
	struct rq *rq = BPF_CORE_READ(task, se.cfs_rq, rq);

	if (!bpf_core_field_exists(rq->prev_steal_time))
		return 0;
	return BPF_CORE_READ(rq, prev_steal_time);
}
