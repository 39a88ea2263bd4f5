/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* How the running task came here: in the kernel, and before that in its program. */
#pragma once

#include "probe.h"

#define KERNEL_STACK_DEPTH 48
#define USER_STACK_DEPTH 32

/* → bianque::probe::CallStack. Bytes below zero: the helper's error, and no frames. */
struct call_stack {
	u64 kernel[KERNEL_STACK_DEPTH];
	u64 user[USER_STACK_DEPTH];
	s32 kernel_bytes;
	s32 user_bytes;
};

/*
 * In an interrupt it is the interrupted task's, a kernel thread has none of a program. Program pages
 * that are not in memory end the user's part: nothing is waited for.
 */
static __always_inline void take_stack(void *ctx, struct call_stack *stack)
{
	stack->kernel_bytes = bpf_get_stack(ctx, stack->kernel, sizeof(stack->kernel), 0);
	stack->user_bytes = bpf_get_stack(ctx, stack->user, sizeof(stack->user), BPF_F_USER_STACK);
}
