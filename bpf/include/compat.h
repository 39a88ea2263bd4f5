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

/* Bits of a task's state: include/linux/sched.h, the same from 5.10 on. */
#define STATE_INTERRUPTIBLE 0x1
#define STATE_UNINTERRUPTIBLE 0x2
#define STATE_STOPPED 0x4
#define STATE_TRACED 0x8
#define STATE_WAKEKILL 0x100
/* Waits for work, not for something to happen: not a part of the load either. */
#define STATE_NOLOAD 0x400
#define STATE_FREEZABLE 0x2000
#define STATE_FROZEN 0x8000

/* Flags of tasks before 6.1. */
#define OLD_PF_FROZEN 0x00010000
#define OLD_PF_FREEZER_SKIP 0x40000000

/* Came with 6.1, as did the freezer's own task states: f5d39b020809 ("freezer,sched: Rewrite core freezer logic"). */
struct maple_tree;

static __always_inline bool task_frozen(const struct task_struct *task, unsigned int state)
{
	if (bpf_core_type_exists(struct maple_tree))
		return state & STATE_FROZEN;
	return BPF_CORE_READ(task, flags) & OLD_PF_FROZEN;
}

/* Sleeps where it may be frozen: it waits for another program, not for the kernel. */
static __always_inline bool task_freezable(const struct task_struct *task, unsigned int state)
{
	if (bpf_core_type_exists(struct maple_tree))
		return state & STATE_FREEZABLE;
	return BPF_CORE_READ(task, flags) & OLD_PF_FREEZER_SKIP;
}

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

/* Since 6.16: e711faaafbe5 ("hung_task: replace blocker_mutex with encoded blocker"). */
struct task_struct___blocker {
	unsigned long blocker;
};

/* Since 6.16: 194a9b9e843b ("hung_task: show the blocker task if the task is hung on semaphore"). */
struct semaphore___holder {
	unsigned long last_holder;
};

#pragma clang attribute pop

/* The lock that a task waits for, and in the lowest two bits what it is; 0: none, or not known. */
static __always_inline u64 task_blocker(const struct task_struct *task)
{
	const struct task_struct___blocker *now = (const void *)task;

	if (!bpf_core_field_exists(now->blocker))
		return 0;
	return BPF_CORE_READ(now, blocker);
}

/* The task that last got a semaphore. */
static __always_inline u64 semaphore_holder(u64 semaphore)
{
	const struct semaphore___holder *now = (const void *)semaphore;

	if (!bpf_core_field_exists(now->last_holder))
		return 0;
	return BPF_CORE_READ(now, last_holder);
}

/* A runnable task on its way to another CPU: task_struct.on_rq, kernel/sched/sched.h, the same from 5.10 on. */
#define ON_RQ_MIGRATING 2

/* The place of its lowest byte: up to 6.18 it is an int, in 7.3 a byte. */
static __always_inline u64 on_rq_offset(void)
{
	u64 at = bpf_core_field_offset(struct task_struct, on_rq);

	/* Or clang would merge it into the access, which cannot be relocated to another size. */
	barrier_var(at);
	return at;
}

/* `task` is an argument of a tp_btf program … */
#define task_on_rq(task) (*((u8 *)(task) + on_rq_offset()))

/* … or any other pointer. */
static __always_inline u8 task_on_rq_any(const struct task_struct *task)
{
	u8 on_rq = 0;

	bpf_probe_read_kernel(&on_rq, sizeof(on_rq), (void *)task + on_rq_offset());
	return on_rq;
}

/* Does a run queue add up the waits that ended on it (CONFIG_SCHEDSTATS)? */
static __always_inline bool queue_books_waits(void)
{
	return bpf_core_field_exists(((struct rq *)NULL)->rq_sched_info);
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

/*
 * Was the CPU in user mode when this sample interrupted it? Registers are laid out as in the
 * kernel's ABI: cs of struct pt_regs on x86, pstate of struct user_pt_regs on arm64.
 */
static __always_inline bool in_user_mode(struct bpf_perf_event_data *ctx)
{
#if defined(__TARGET_ARCH_arm64)
	return !(*(u64 *)((void *)ctx + 33 * 8) & 0xf);
#else
	return *(u64 *)((void *)ctx + 17 * 8) & 3;
#endif
}

/*
 * Is the task to give up its CPU? TIF_NEED_RESCHED is no type that BTF has. x86: bit 3, since 6.18
 * bit 4 (thread_info_tif.h in include/asm-generic); what the other one means on the other kernels
 * (single-stepped; being killed for want of memory; 6.13 to 6.17: the same, lazily) is rare or as
 * good. arm64: bit 1.
 */
static __always_inline bool need_resched(const struct task_struct *task)
{
	u64 flags = BPF_CORE_READ(task, thread_info.flags);

#if defined(__TARGET_ARCH_arm64)
	return flags & (1 << 1);
#else
	return flags & (1 << 3 | 1 << 4);
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

/*
 * Whether a hook's argument, or what it points to, is NULL, of which verifiers before 6.13 believe that it
 * never is: they take a test of it away. They keep one of its lower half, which to them is any number.
 */
static __always_inline bool is_null(const void *argument)
{
	u32 low;

	asm volatile("%0 = %1" : "=w"(low) : "w"((u32)(u64)argument));
	return !low;
}
