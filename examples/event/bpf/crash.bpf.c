// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* A process ends by a signal that means a bug. */
#include "limit.h"

LICENSE;

struct crash {
	struct limited limited;
	u64 time_ns;
	struct cgroup_ref cgroup;
	struct thread_ref thread;
	u32 signal;
	u32 reserved;
};

RECORDS(crash, 64 * 1024);

/* Bit n: signal n is reported. SIGILL, SIGABRT, SIGBUS, SIGFPE, SIGSEGV. */
SETTING(u64, signals, 1 << 4 | 1 << 6 | 1 << 7 | 1 << 8 | 1 << 11);

SEC("tp_btf/sched_process_exit")
int PROBE(exited__btf, struct task_struct *task)
{
	u32 signal = task->exit_code & 0x7f;
	struct limit_key key = {};
	struct crash *r;

	/* once a process, by its leader */
	if (!(signals >> signal & 1) || task->pid != task->tgid)
		return 0;
	cgroup_of(&key.cgroup, task, memory_cgrp_id);
	r = RESERVE(crash, &key, bpf_ktime_get_ns());
	if (!r)
		return 0;
	r->time_ns = bpf_ktime_get_boot_ns();
	r->cgroup = key.cgroup;
	thread_of(&r->thread, task);
	r->signal = signal;
	SUBMIT(crash, r);
	return 0;
}
