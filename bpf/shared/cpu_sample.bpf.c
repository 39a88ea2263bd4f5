// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Stacks of chosen cgroups, from the CPU clock. The perf events exist only
 * while somebody watches, so an idle sampler costs nothing.
 */
#include "probe.h"

LICENSE;

#define STACK_DEPTH 64

struct cpu_sample {
	/* as user space numbered it in `targets` */
	u64 target;
	struct thread_ref thread;
	u64 kernel[STACK_DEPTH];
	u64 user[STACK_DEPTH];
	s32 kernel_bytes;
	s32 user_bytes;
};

/* Wakes the reader: while nobody samples, that costs less than a timer. */
RECORDS(cpu_sample, 1024 * 1024);

/* Cgroups of the cpu controller's hierarchy that are watched. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, u64);
	__type(value, u64);
} targets SEC(".maps");

SEC("perf_event")
int PROBE_CTX(sample__perf, struct bpf_perf_event_data *ctx)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct cgroup_ref cgroup;
	struct cpu_sample *r;
	u64 *target;

	cgroup_of_any(&cgroup, task, cpu_cgrp_id);
	target = bpf_map_lookup_elem(&targets, &cgroup.id);
	if (!target)
		return 0;
	r = RESERVE(cpu_sample);
	if (!r)
		return 0;
	r->target = *target;
	thread_of(&r->thread, task);
	r->kernel_bytes = bpf_get_stack(ctx, r->kernel, sizeof(r->kernel), 0);
	r->user_bytes = bpf_get_stack(ctx, r->user, sizeof(r->user), BPF_F_USER_STACK);
	SUBMIT(cpu_sample, r);
	return 0;
}
