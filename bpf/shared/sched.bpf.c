// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * CPU time and run-queue wait of every cgroup, from one hook on the context switch.
 *
 * No hook on wake-ups: the kernel keeps the moment at which a task became runnable in
 * sched_info.last_queued, on the clock that the run queue shows at the switch, and sets it again
 * when a task is preempted. What a task waited is one subtraction, and what it waited on other CPUs
 * before it was moved to this one: sched/moved.bpf.c.
 *
 * The hook is the hottest of a node: see sched/cache.bpf.c for why it does no hash operation in the
 * common case.
 *
 * The cgroup is the one of the cpu controller: on a v1 hierarchy what the scheduler itself uses
 * (sched_task_group), on the unified tree the task's own cgroup, controller enabled or not.
 */
#include "histogram.h"
#include "probe.h"

LICENSE;

#include "sched/cache.bpf.c"
#include "sched/moved.bpf.c"

/* The CPU runs its idle task, or has not switched yet. */
#define IDLE 0
/* How often the run queue's clock is compared with CLOCK_MONOTONIC. */
#define COMPARE_NS 1000000000ULL

SWITCH(u32, cpu_time);
SWITCH(u32, run_queue);

/* What the hook needs of the incoming task, however it was read. */
struct incoming {
	struct task_struct *task;
	u64 clock;
	u64 clock_task;
	u64 last_queued;
	/* Of its run queue, or where that has none its own. */
	u64 run_delay;
	u64 serial;
	u32 cpu;
	u32 tid;
	bool ran;
};

static __always_inline void waited(struct sched_cpu *cpu, struct sched_group *group, struct incoming *in)
{
	u64 ns = in->last_queued && in->clock > in->last_queued ? in->clock - in->last_queued : 0;

	if (queue_books_waits()) {
		book(cpu, in->cpu, in->run_delay, ns);
		ns += waited_elsewhere(in->tid);
	} else {
		ns = waited_since(in->tid, in->run_delay + ns, ns, in->ran);
	}
	count_latency(&group->wait, ns);
}

static __always_inline void switched(struct incoming *in)
{
	u32 zero = 0, at;
	struct sched_cpu *cpu = bpf_map_lookup_elem(&sched_cpus, &zero);
	struct sched_group *group;
	u64 current;

	if (!cpu)
		return;
	cpu->begun++;
	barrier();
	current = cpu->current;
	if (cpu_time) {
		if (current != IDLE) {
			group = &cpu->groups[(current - 1) & (CACHED - 1)];
			group->run_ns += in->clock_task - cpu->start_task;
		}
		cpu->start_task = in->clock_task;
		cpu->start = in->clock;
		if (in->clock - cpu->compared > COMPARE_NS) {
			cpu->compared = in->clock;
			cpu->offset = bpf_ktime_get_ns() - in->clock;
		}
	}
	if (!in->tid) {
		cpu->current = IDLE;
	} else {
		group = group_of(cpu, in->task, in->serial, &at);
		cpu->current = at + 1;
		if (run_queue)
			waited(cpu, group, in);
	}
	barrier();
	cpu->done++;
}

/* The idle task has no number. */
#define INCOMING(READ, next)                                                                  \
	({                                                                                    \
		struct incoming in = {                                                        \
			.task = next,                                                         \
			.tid = READ(next, pid),                                               \
			.clock = READ(next, se.cfs_rq, rq, clock),                            \
			.clock_task = READ(next, se.cfs_rq, rq, clock_task),                  \
		};                                                                            \
		if (in.tid) {                                                                 \
			in.last_queued = READ(next, sched_info.last_queued);                  \
			in.serial = unified ? READ(next, cgroups, dfl_cgrp, self.serial_nr)   \
					    : READ(next, sched_task_group, css.serial_nr);    \
		}                                                                             \
		if (in.tid && run_queue && queue_books_waits()) {                             \
			in.cpu = READ(next, se.cfs_rq, rq, cpu);                              \
			in.run_delay = READ(next, se.cfs_rq, rq, rq_sched_info.run_delay);    \
		} else if (in.tid && run_queue) {                                             \
			in.run_delay = READ(next, sched_info.run_delay);                      \
			in.ran = READ(next, sched_info.pcount);                               \
		}                                                                             \
		in;                                                                           \
	})

/* Before the switch, so that no run queue is known before both are attached. */
SEC("tp_btf/sched_migrate_task")
int PROBE(moved__btf, struct task_struct *task)
{
	LEFT(___arrow, task, task_on_rq(task));
	return 0;
}

SEC("raw_tp/sched_migrate_task")
int PROBE(moved__raw, struct task_struct *task)
{
	LEFT(BPF_CORE_READ, task, task_on_rq_any(task));
	return 0;
}

SEC("tp_btf/sched_switch")
int PROBE(switched__btf, bool preempt, struct task_struct *prev, struct task_struct *next)
{
	struct incoming in = INCOMING(___arrow, next);

	switched(&in);
	return 0;
}

SEC("raw_tp/sched_switch")
int PROBE(switched__raw, bool preempt, struct task_struct *prev, struct task_struct *next)
{
	struct incoming in = INCOMING(BPF_CORE_READ, next);

	switched(&in);
	return 0;
}
