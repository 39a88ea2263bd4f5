// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Two faults under one roof.
 *
 * A softirq that was raised but not run for longer than its threshold: first
 * raise to entry, per vector and CPU.
 *
 * A CPU that could not take its timer interrupt: every hard timer of the
 * monotonic clock is a probe, its lateness is how long interrupts were off.
 * Neither the tick's length nor a stopped tick matters.
 *
 * Time that the hypervisor took away (steal) is subtracted. The kernel books
 * it at the next tick only, so a late timer waits for that before it is judged.
 */
#include "probe.h"

LICENSE;

#define NR_VECTORS 10
#define STACK_DEPTH 48
#define CLOCK_MONOTONIC 1

struct softirq_delay {
	u64 time_ns;
	u64 delay_ns;
	u64 steal_ns;
	/* the task that was running when the softirq was raised: tgid << 32 | tid */
	u64 raised_in;
	/* in the cpu controller's hierarchy: of the task found running at last */
	struct cgroup_ref cgroup;
	struct thread_ref current_thread;
	u64 stack[STACK_DEPTH];
	s32 stack_bytes;
	u32 vector;
	u32 cpu;
	/* records of this CPU that were over the limit since the last one */
	u32 suppressed;
};

struct irq_held_off {
	u64 time_ns;
	u64 delay_ns;
	u64 steal_ns;
	/* of the interrupted task, where interrupts came back on */
	struct cgroup_ref cgroup;
	struct thread_ref current_thread;
	u64 stack[STACK_DEPTH];
	s32 stack_bytes;
	u32 cpu;
	u32 suppressed;
	u32 reserved;
};

RECORDS(softirq_delay, 128 * 1024);
RECORDS(irq_held_off, 128 * 1024);

SETTING(u64, softirq_limit_ns, 100000000);
SETTING(u64, held_off_limit_ns, 100000000);

/* At most BURST records of a kind and CPU at once, one more each REFILL_NS. */
#define BURST 20
#define REFILL_NS 1000000000ULL

struct limiter {
	u64 refilled_ns;
	u32 tokens;
	u32 suppressed;
};

struct cpu_state {
	u64 raised_ns[NR_VECTORS];
	u64 raised_in[NR_VECTORS];
	u64 steal_at_raise_ns[NR_VECTORS];
	/* steal that the kernel had booked at the last timer, once there was one */
	u64 steal_ns;
	u64 steal_known;
	/* a late timer that waits for its steal to be booked */
	u64 late_ns;
	u64 late_seen_ns;
	u64 late_steal_ns;
	struct limiter softirq;
	struct limiter held_off;
	struct irq_held_off late;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct cpu_state);
} cpu_states SEC(".maps");

static __always_inline struct cpu_state *this_cpu(void)
{
	u32 zero = 0;

	return bpf_map_lookup_elem(&cpu_states, &zero);
}

static __always_inline bool allowed(struct limiter *l, u64 now)
{
	u64 since = now - l->refilled_ns;

	if (since >= REFILL_NS) {
		u64 tokens = l->tokens + since / REFILL_NS;

		l->tokens = tokens > BURST ? BURST : tokens;
		l->refilled_ns = now;
	}
	if (!l->tokens) {
		l->suppressed++;
		return false;
	}
	l->tokens--;
	return true;
}

static __always_inline u64 booked_steal(struct task_struct *task)
{
	struct rq *rq = BPF_CORE_READ(task, se.cfs_rq, rq);

	if (!bpf_core_field_exists(rq->prev_steal_time))
		return 0;
	return BPF_CORE_READ(rq, prev_steal_time);
}

SEC("tp_btf/softirq_raise")
int PROBE(raise__btf, unsigned int vector)
{
	struct cpu_state *s = this_cpu();

	if (!s || !s->steal_known || vector >= NR_VECTORS || s->raised_ns[vector])
		return 0;
	s->raised_ns[vector] = bpf_ktime_get_ns();
	s->raised_in[vector] = bpf_get_current_pid_tgid();
	s->steal_at_raise_ns[vector] = s->steal_ns;
	return 0;
}

static __always_inline void report_softirq(void *ctx, struct cpu_state *s, u32 vector, u64 now, u64 delay, u64 steal)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct softirq_delay *r;

	if (!allowed(&s->softirq, now))
		return;
	r = RESERVE(softirq_delay);
	if (!r)
		return;
	r->time_ns = bpf_ktime_get_boot_ns();
	r->delay_ns = delay;
	r->steal_ns = steal;
	r->raised_in = s->raised_in[vector];
	r->vector = vector;
	r->cpu = bpf_get_smp_processor_id();
	r->suppressed = s->softirq.suppressed;
	s->softirq.suppressed = 0;
	cgroup_of_any(&r->cgroup, task, cpu_cgrp_id);
	thread_of(&r->current_thread, task);
	r->stack_bytes = bpf_get_stack(ctx, r->stack, sizeof(r->stack), 0);
	SUBMIT(softirq_delay, r);
}

SEC("tp_btf/softirq_entry")
int PROBE(entry__btf, unsigned int vector)
{
	struct cpu_state *s = this_cpu();
	u64 now, delay, steal;

	if (!s || vector >= NR_VECTORS || !s->raised_ns[vector])
		return 0;
	now = bpf_ktime_get_ns();
	delay = now - s->raised_ns[vector];
	s->raised_ns[vector] = 0;
	if ((s64)delay < (s64)softirq_limit_ns)
		return 0;
	steal = booked_steal((void *)bpf_get_current_task()) - s->steal_at_raise_ns[vector];
	if ((s64)steal < 0)
		steal = 0;
	if (delay < softirq_limit_ns + steal)
		return 0;
	report_softirq(ctx, s, vector, now, delay, steal);
	return 0;
}

/* The evidence is gone once the interrupt returns: keep it until the steal is known. */
static __always_inline void keep_late(void *ctx, struct cpu_state *s, u64 now, u64 late)
{
	struct task_struct *task = (void *)bpf_get_current_task();

	s->late_ns = late;
	s->late_seen_ns = now;
	s->late_steal_ns = s->steal_ns;
	s->late.time_ns = bpf_ktime_get_boot_ns();
	cgroup_of_any(&s->late.cgroup, task, cpu_cgrp_id);
	thread_of(&s->late.current_thread, task);
	s->late.stack_bytes = bpf_get_stack(ctx, s->late.stack, sizeof(s->late.stack), 0);
}

static __always_inline void judge_late(struct cpu_state *s, u64 now)
{
	u64 steal = s->steal_ns - s->late_steal_ns;
	u64 late = s->late_ns;
	struct irq_held_off *r;

	s->late_ns = 0;
	if (late < held_off_limit_ns + steal || !allowed(&s->held_off, now))
		return;
	r = RESERVE(irq_held_off);
	if (!r)
		return;
	__builtin_memcpy(r, &s->late, sizeof(*r));
	r->delay_ns = late;
	r->steal_ns = steal;
	r->cpu = bpf_get_smp_processor_id();
	r->suppressed = s->held_off.suppressed;
	s->held_off.suppressed = 0;
	SUBMIT(irq_held_off, r);
}

SEC("tp_btf/hrtimer_expire_entry")
int PROBE(expire__btf, struct hrtimer *timer)
{
	struct cpu_state *s = this_cpu();
	u64 now, late;

	/* Soft timers wait for their softirq; other clocks jump when they are set. */
	if (!s || !s->steal_known || timer->is_soft || timer->base->clockid != CLOCK_MONOTONIC)
		return 0;
	now = bpf_ktime_get_ns();
	late = now - timer->node.expires;
	/* One interruption makes several timers late: the first tells of it. */
	if ((s64)late < (s64)held_off_limit_ns || (u64)timer->node.expires < s->late_seen_ns)
		return 0;
	/* The next interruption came before any steal was booked: there was none. */
	if (s->late_ns)
		judge_late(s, now);
	keep_late(ctx, s, now, late);
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
