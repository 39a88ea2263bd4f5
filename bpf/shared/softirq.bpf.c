// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Two faults under one roof.
 *
 * A softirq that waited too long: first raise to entry, per vector and CPU. Time that the hypervisor
 * took away (steal) is subtracted.
 *
 * A CPU that could not take its timer interrupt: held_off.h.
 */
#include "held_off.h"
#include "softirq_cpu.h"

LICENSE;

struct softirq_delay {
	u64 time_ns;
	u64 delay_ns;
	u64 steal_ns;
	/* the task that was running when the softirq was raised: tgid << 32 | tid */
	u64 raised_in;
	struct found_at at;
	u32 vector;
	/* records of this CPU that were over the limit since the last one */
	u32 suppressed;
};

RECORDS(softirq_delay, 128 * 1024);

SETTING(u64, softirq_limit_ns, NEVER_NS);

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
	if (delay < softirq_limit_ns + steal || !allowed(&s->softirq, now))
		return 0;
	r = RESERVE(softirq_delay);
	if (!r)
		return 0;
	r->time_ns = bpf_ktime_get_boot_ns();
	r->delay_ns = delay;
	r->steal_ns = steal;
	r->raised_in = raised->in;
	r->vector = vector;
	r->suppressed = s->softirq.suppressed;
	s->softirq.suppressed = 0;
	find_current(ctx, &r->at);
	SUBMIT(softirq_delay, r);
	return 0;
}
