// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * The kernel's own detector (kernel/hung_task.c) takes a task for hung. It says so for each such
 * task at each of its rounds; what is to be known of the task is read when this arrives.
 */
#include "limit.h"

LICENSE;

struct kernel_hung {
	struct limited limited;
	u64 time_ns;
	u64 start_ns;
	u64 switches;
	/* in the cpu controller's hierarchy */
	struct cgroup_ref cgroup;
	struct thread_ref thread;
};

RECORDS(kernel_hung, 32 * 1024);

SEC("tp_btf/sched_process_hang")
int PROBE(hang__btf, struct task_struct *task)
{
	struct limit_key key = {};
	struct kernel_hung *r;

	cgroup_of(&key.cgroup, task, cpu_cgrp_id);
	/* The walk finds the others too: this is only to be woken. */
	r = RESERVE(kernel_hung, &key, bpf_ktime_get_ns());
	if (!r)
		return 0;
	r->time_ns = bpf_ktime_get_boot_ns();
	r->start_ns = task_start_boottime(task);
	r->switches = task->nvcsw + task->nivcsw;
	r->cgroup = key.cgroup;
	thread_of(&r->thread, task);
	SUBMIT(kernel_hung, r);
	return 0;
}
