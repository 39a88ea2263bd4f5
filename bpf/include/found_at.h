/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Who was running on a CPU, and where. */
#pragma once

#include "call_stack.h"

struct found_at {
	/* in the cpu controller's hierarchy */
	struct cgroup_ref cgroup;
	struct thread_ref thread;
	struct call_stack stack;
	u32 cpu;
	u32 reserved;
};

static __always_inline void find_current(void *ctx, struct found_at *at)
{
	struct task_struct *task = (void *)bpf_get_current_task();

	cgroup_of_any(&at->cgroup, task, cpu_cgrp_id);
	thread_of(&at->thread, task);
	take_stack(ctx, &at->stack);
	at->cpu = bpf_get_smp_processor_id();
}
