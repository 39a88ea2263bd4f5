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
