/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Who was running on a CPU, and where in the kernel. */
#pragma once

#include "probe.h"

#define FOUND_STACK_DEPTH 48

struct found_at {
	/* in the cpu controller's hierarchy */
	struct cgroup_ref cgroup;
	struct thread_ref thread;
	u64 stack[FOUND_STACK_DEPTH];
	s32 stack_bytes;
	u32 cpu;
};

static __always_inline void find_current(void *ctx, struct found_at *at)
{
	struct task_struct *task = (void *)bpf_get_current_task();

	cgroup_of_any(&at->cgroup, task, cpu_cgrp_id);
	thread_of(&at->thread, task);
	at->stack_bytes = bpf_get_stack(ctx, at->stack, sizeof(at->stack), 0);
	at->cpu = bpf_get_smp_processor_id();
}
