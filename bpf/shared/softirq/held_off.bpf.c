// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * A CPU that could not take its timer interrupt: every hard timer of the
 * monotonic clock is a probe, its lateness is how long interrupts were off.
 * Neither the tick's length nor a stopped tick matters.
 *
 * Time that the hypervisor took away (steal) is subtracted. The kernel books
 * it at the next tick only, so a late timer waits for that before it is judged.
 */

RECORDS(irq_held_off, 128 * 1024);

SETTING(u64, held_off_limit_ns, NEVER_NS);

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
