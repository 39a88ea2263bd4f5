// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Stacks from the CPU clock, for up to 64 subscribers at once: each sample is
 * written once, with the bits of all that want it. The perf events run only
 * while somebody subscribes, so an idle sampler costs nothing.
 */
#include "probe.h"

LICENSE;

#define STACK_DEPTH 64
#define SUBSCRIBERS 64
/* Index of the history in `lost_by_subscriber`, behind the subscribers. */
#define HISTORY SUBSCRIBERS

struct cpu_sample {
	/* CLOCK_BOOTTIME */
	u64 time_ns;
	/* A bit for each subscriber that wants it. */
	u64 subscribers;
	/* In the hierarchy of the cpu controller. */
	u64 cgroup;
	/* Whether the history wants it. */
	u32 history;
	u32 reserved;
	struct thread_ref thread;
	u64 kernel[STACK_DEPTH];
	u64 user[STACK_DEPTH];
	s32 kernel_bytes;
	s32 user_bytes;
};

/* Wakes the reader: while nobody samples, that costs less than a timer. */
UNLIMITED_RECORDS(cpu_sample, 1024 * 1024);

/* Subscribers to the whole node. */
SETTING(u64, node_subscribers, 0);
/* The history keeps one sample of so many; 0: there is none. */
SETTING(u32, history_every, 0);

/* Subscribers by cgroup, in the hierarchy of the cpu controller. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, u64);
	__type(value, u64);
} cgroup_subscribers SEC(".maps");

/* Subscribers by process (tgid). */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, u32);
	__type(value, u64);
} process_subscribers SEC(".maps");

/* Samples that found no room in the ring. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, SUBSCRIBERS + 1);
	__type(key, u32);
	__type(value, u64);
} lost_by_subscriber SEC(".maps");

static __always_inline u64 subscribers_of(u64 cgroup, u32 tgid)
{
	u64 bits = node_subscribers;
	u64 *more;

	more = bpf_map_lookup_elem(&cgroup_subscribers, &cgroup);
	if (more)
		bits |= *more;
	more = bpf_map_lookup_elem(&process_subscribers, &tgid);
	if (more)
		bits |= *more;
	return bits;
}

static __always_inline bool for_history(void)
{
	u32 every = history_every;

	/* By chance, as a count of each CPU's samples could run in step with what it samples. */
	return every && (every == 1 || bpf_get_prandom_u32() % every == 0);
}

static __always_inline void lost_one(u32 subscriber)
{
	u64 *lost = bpf_map_lookup_elem(&lost_by_subscriber, &subscriber);

	if (lost)
		++*lost;
}

static __always_inline void count_lost(u64 subscribers, bool history)
{
	for (u32 i = 0; i < SUBSCRIBERS; i++) {
		barrier_var(i);
		if (subscribers & 1)
			lost_one(i);
		subscribers >>= 1;
	}
	if (history)
		lost_one(HISTORY);
}

SEC("perf_event")
int PROBE_CTX(sample__perf, struct bpf_perf_event_data *ctx)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	u64 id = bpf_get_current_pid_tgid();
	struct cgroup_ref cgroup;
	struct cpu_sample *r;
	u64 subscribers;
	bool history;

	/* The idle task: no CPU time is spent. */
	if (!(u32)id)
		return 0;
	cgroup_of_any(&cgroup, task, cpu_cgrp_id);
	subscribers = subscribers_of(cgroup.id, id >> 32);
	history = for_history();
	if (!subscribers && !history)
		return 0;
	r = RESERVE_UNLIMITED(cpu_sample);
	if (!r) {
		count_lost(subscribers, history);
		return 0;
	}
	r->time_ns = bpf_ktime_get_boot_ns();
	r->subscribers = subscribers;
	r->cgroup = cgroup.id;
	r->history = history;
	thread_of(&r->thread, task);
	r->kernel_bytes = bpf_get_stack(ctx, r->kernel, sizeof(r->kernel), 0);
	r->user_bytes = bpf_get_stack(ctx, r->user, sizeof(r->user), BPF_F_USER_STACK);
	SUBMIT(cpu_sample, r);
	return 0;
}
