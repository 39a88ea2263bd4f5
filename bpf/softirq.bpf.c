// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Two faults under one roof.
 *
 * A softirq that waited too long: first raise to entry, per vector and CPU.
 *
 * A CPU that could not take its timer interrupt: every hard timer of the
 * monotonic clock is a probe, its lateness is how long interrupts were off.
 * Neither the tick's length nor a stopped tick matters.
 *
 * Time that the hypervisor took away (steal) is subtracted. The kernel books
 * it at the next tick only, so a late timer waits for that before it is judged.
 */
#include "probe.h"
#include "found_at.h"
#include "late_timer.h"
#include "limit.h"

LICENSE;

/* for ten; a power of two, so that old verifiers see the bound in the mask */
#define VECTOR_SLOTS 16

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

struct irq_held_off {
	struct limited limited;
	u64 time_ns;
	u64 delay_ns;
	u64 steal_ns;
	u64 function;
	struct found_at at;
};

RECORDS(softirq_delay, 128 * 1024);
RECORDS(irq_held_off, 128 * 1024);

SETTING(u64, softirq_limit_ns, 100000000);
SETTING(u64, held_off_limit_ns, 100000000);

struct cpu_state {
	struct raised {
		u64 time_ns;
		u64 in;
		u64 steal_ns;
	} raised[VECTOR_SLOTS];
	/* steal that the kernel had booked at the last timer, once there was one */
	u64 steal_ns;
	u64 steal_known;
	/* a late timer that waits for its steal to be booked */
	u64 late_ns;
	u64 late_seen_ns;
	u64 late_steal_ns;
	struct irq_held_off late;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct cpu_state);
} cpu_states SEC(".maps");

#define this_cpu() bpf_map_lookup_elem(&cpu_states, &(u32){ 0 })

SEC("tp_btf/softirq_raise")
int PROBE(raise__btf, unsigned int vector)
{
	struct cpu_state *s = this_cpu();
	struct raised *raised;

	if (!s || !s->steal_known)
		return 0;
	raised = &s->raised[vector & (VECTOR_SLOTS - 1)];
	if (raised->time_ns)
		return 0;
	raised->time_ns = bpf_ktime_get_ns();
	raised->in = bpf_get_current_pid_tgid();
	raised->steal_ns = s->steal_ns;
	return 0;
}

SEC("tp_btf/softirq_entry")
int PROBE(entry__btf, unsigned int vector)
{
	struct limit_key key = { .reason = vector };
	struct cpu_state *s = this_cpu();
	struct softirq_delay *r;
	struct raised *raised;
	u64 now, delay, steal;

	if (!s)
		return 0;
	raised = &s->raised[vector & (VECTOR_SLOTS - 1)];
	if (!raised->time_ns)
		return 0;
	now = bpf_ktime_get_ns();
	delay = now - raised->time_ns;
	raised->time_ns = 0;
	if ((s64)delay < (s64)softirq_limit_ns)
		return 0;
	steal = booked_steal((void *)bpf_get_current_task()) - raised->steal_ns;
	if ((s64)steal < 0)
		steal = 0;
	if (delay < softirq_limit_ns + steal)
		return 0;
	cgroup_of_any(&key.cgroup, (struct task_struct *)bpf_get_current_task(), cpu_cgrp_id);
	r = RESERVE(softirq_delay, &key, now);
	if (!r)
		return 0;
	r->time_ns = bpf_ktime_get_boot_ns();
	r->delay_ns = delay;
	r->steal_ns = steal;
	r->raised_in = raised->in;
	r->vector = vector;
	find_current(ctx, &r->at);
	SUBMIT(softirq_delay, r);
	return 0;
}

static __always_inline void judge_late(struct cpu_state *s, u64 now)
{
	u64 steal = s->steal_ns - s->late_steal_ns;
	struct limit_key key = { .cgroup = s->late.at.cgroup };
	u64 late = s->late_ns;
	struct irq_held_off *r;

	s->late_ns = 0;
	if (late < held_off_limit_ns + steal)
		return;
	r = RESERVE(irq_held_off, &key, now);
	if (!r)
		return;
	__builtin_memcpy(&r->time_ns, &s->late.time_ns, sizeof(*r) - sizeof(r->limited));
	r->delay_ns = late;
	r->steal_ns = steal;
	SUBMIT(irq_held_off, r);
}

SEC("tp_btf/hrtimer_expire_entry")
int PROBE(expire__btf, struct hrtimer *timer)
{
	struct cpu_state *s = this_cpu();
	u64 now;
	s64 late;

	/* Soft timers wait for their softirq; other clocks jump when they are set. */
	if (!s || !s->steal_known || timer->is_soft || timer->base->clockid != CLOCK_MONOTONIC)
		return 0;
	now = bpf_ktime_get_ns();
	late = lateness(timer, now, held_off_limit_ns);
	/* One interruption makes several timers late: the first tells of it. */
	if (late < (s64)held_off_limit_ns || (u64)timer->node.expires < s->late_seen_ns)
		return 0;
	/* The next interruption came before any steal was booked: there was none. */
	if (s->late_ns)
		judge_late(s, now);
	/* The evidence is gone once the interrupt returns: keep it until the steal is known. */
	s->late_ns = late;
	s->late_seen_ns = now;
	s->late_steal_ns = s->steal_ns;
	s->late.time_ns = bpf_ktime_get_boot_ns();
	s->late.function = (u64)timer->function;
	find_current(ctx, &s->late.at);
	return 0;
}

SEC("tp_btf/hrtimer_expire_exit")
int PROBE(expired__btf)
{
	struct cpu_state *s = this_cpu();
	u64 now, steal;

	if (!s)
		return 0;
	steal = booked_steal((void *)bpf_get_current_task());
	now = s->late_ns ? bpf_ktime_get_ns() : 0;
	/* Booked by this timer, or a later interrupt's timer and there was none to book. */
	if (s->late_ns && (steal != s->steal_ns || now - s->late_seen_ns > 1000000)) {
		s->steal_ns = steal;
		judge_late(s, now);
	}
	s->steal_ns = steal;
	s->steal_known = 1;
	return 0;
}
