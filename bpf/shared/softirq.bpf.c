// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * How long softirqs wait, from the first raise to the entry, and how long they run, per vector and
 * CPU: a softirq runs on the CPU on which it was raised. And two faults:
 *
 * A softirq that waited too long. Time that the hypervisor took away (steal) is subtracted.
 *
 * A CPU that could not take its timer interrupt: softirq/held_off.bpf.c.
 */
#include "found_at.h"
#include "histogram.h"
#include "limit.h"

LICENSE;

#include "softirq/cpu.bpf.c"
#include "softirq/late_timer.bpf.c"
#include "softirq/held_off.bpf.c"

#define VECTORS 10

/* The scheduler's step: the first that a CPU takes off line, and the last on line. */
enum cpuhp_state {
	CPUHP_AP_ACTIVE = 900,
};

SWITCH(u32, delays);
SWITCH(u32, latencies);

struct softirq_delay {
	struct limited limited;
	u64 time_ns;
	u64 delay_ns;
	u64 steal_ns;
	/* the task that was running when the softirq was raised: tgid << 32 | tid */
	u64 raised_in;
	struct found_at at;
	u32 vector;
	u32 reserved;
};

RECORDS(softirq_delay, 128 * 1024);

SETTING(u64, softirq_limit_ns, NEVER_NS);

/* How long the softirqs of a vector waited and ran on a CPU. */
struct softirq_latencies {
	struct latencies wait;
	struct latencies run;
	/* when the one that runs was entered */
	u64 entered_ns;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, VECTORS);
	__type(key, u32);
	__type(value, struct softirq_latencies);
} softirq_latencies SEC(".maps");

static __always_inline void entered(u32 vector, u64 now, u64 raised_ns)
{
	struct softirq_latencies *l = bpf_map_lookup_elem(&softirq_latencies, &vector);

	if (!l)
		return;
	l->entered_ns = now;
	/* Raised before this program was there, or while an earlier raise was being taken up. */
	if (raised_ns)
		count_latency(&l->wait, between(raised_ns, now));
}

static __always_inline void judge_delay(void *ctx, struct cpu_state *s, u32 vector, u64 now, u64 delay)
{
	struct raised *raised = &s->raised[vector & (VECTOR_SLOTS - 1)];
	struct limit_key key = { .reason = vector };
	struct softirq_delay *r;
	u64 steal;

	if (delay < softirq_limit_ns || !raised->steal_known)
		return;
	steal = booked_steal((void *)bpf_get_current_task()) - raised->steal_ns;
	if ((s64)steal < 0)
		steal = 0;
	if (delay < softirq_limit_ns + steal)
		return;
	cgroup_of_any(&key.cgroup, (struct task_struct *)bpf_get_current_task(), cpu_cgrp_id);
	r = RESERVE(softirq_delay, &key, now);
	if (!r)
		return;
	r->time_ns = bpf_ktime_get_boot_ns();
	r->delay_ns = delay;
	r->steal_ns = steal;
	r->raised_in = raised->in;
	r->vector = vector;
	find_current(ctx, &r->at);
	SUBMIT(softirq_delay, r);
}

/* Before raise in this file, so that it is attached first: each raise that is seen has its entry seen. */
SEC("tp_btf/softirq_entry")
int PROBE(entry__btf, unsigned int vector)
{
	struct cpu_state *s = this_cpu();
	struct raised *raised;
	u64 now, raised_ns;

	if (!s)
		return 0;
	raised = &s->raised[vector & (VECTOR_SLOTS - 1)];
	raised_ns = raised->time_ns;
	if (!latencies && !raised_ns)
		return 0;
	now = bpf_ktime_get_ns();
	raised->time_ns = 0;
	if (latencies)
		entered(vector, now, raised_ns);
	if (delays && raised_ns)
		judge_delay(ctx, s, vector, now, between(raised_ns, now));
	return 0;
}

SEC("tp_btf/softirq_exit")
int PROBE(exit__btf, unsigned int vector)
{
	u32 key = vector;
	struct softirq_latencies *l = bpf_map_lookup_elem(&softirq_latencies, &key);

	if (!l || !l->entered_ns)
		return 0;
	count_latency(&l->run, between(l->entered_ns, bpf_ktime_get_ns()));
	l->entered_ns = 0;
	return 0;
}

SEC("tp_btf/softirq_raise")
int PROBE(raise__btf, unsigned int vector)
{
	struct cpu_state *s = this_cpu();
	struct raised *raised;

	if (!s || s->off || (!latencies && !s->steal_known))
		return 0;
	raised = &s->raised[vector & (VECTOR_SLOTS - 1)];
	if (raised->time_ns)
		return 0;
	raised->time_ns = bpf_ktime_get_ns();
	if (delays) {
		raised->in = bpf_get_current_pid_tgid();
		raised->steal_ns = s->steal_ns;
		raised->steal_known = s->steal_known;
	}
	return 0;
}

/*
 * A CPU that is no longer on line runs its last softirqs without tracepoints, so that what was raised
 * before would seem to wait until the CPU is back. The first step down and the last one up runs on
 * the CPU itself: in between raises do not count.
 */
SEC("tp_btf/cpuhp_exit")
int PROBE(plugged__btf, unsigned int cpu, int state, int step, int error)
{
	struct cpu_state *s = this_cpu();

	if (!s || error || step != (int)bpf_core_enum_value(enum cpuhp_state, CPUHP_AP_ACTIVE) ||
	    cpu != bpf_get_smp_processor_id())
		return 0;
	/* Down, the state is already the one below. */
	s->off = state < step;
	for (u32 i = 0; i < VECTOR_SLOTS; i++)
		s->raised[i].time_ns = 0;
	return 0;
}
