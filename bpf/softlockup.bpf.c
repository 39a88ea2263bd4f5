// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * A task keeps its CPU in the kernel though others are to run there.
 *
 * The CPU clock looks at each CPU a few times a second. A CPU is stuck while look after look finds
 * the same task, which was not switched out in between, in kernel mode and asked to give way: what
 * the kernel's own watchdog sees from a task of its own that does not get to run, seen without one.
 * Each look counts for no more than the time between two looks, so that a guest that was paused is
 * not stuck.
 */
#include "probe.h"
#include "found_at.h"
#include "limit.h"

LICENSE;

enum lockup_phase {
	LOCKUP_BEGUN = 1,
	LOCKUP_LASTING,
	LOCKUP_ENDED,
};

/* A lockup is reported again when it has lasted this many times as long as at its last report. */
#define AGAIN 10

struct lockup {
	struct limited limited;
	u64 time_ns;
	u64 stuck_ns;
	u64 steal_ns;
	struct found_at at;
	enum lockup_phase phase;
	u32 reserved;
};

/* What a CPU did when all were asked. */
struct cpu_seen {
	struct limited limited;
	u64 time_ns;
	u64 question;
	struct found_at at;
	u32 user_mode;
	u32 idle;
};

RECORDS(lockup, 32 * 1024);
RECORDS(cpu_seen, 256 * 1024);

SETTING(u64, limit_ns, 4000000000);
/* Between two looks. */
SWITCH(u64, period_ns);

/* The time of the last question to all CPUs; user space asks too. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, u64);
} questions SEC(".maps");

struct cpu_state {
	/* who runs, since which of its switches */
	u64 start_ns;
	u64 switches;
	struct cgroup_ref cgroup;
	struct thread_ref thread;
	/* for how long it was found stuck; steal apart */
	u64 stuck_ns;
	u64 stolen_ns;
	/* at the last look */
	u64 seen_ns;
	u64 booked_ns;
	/* how long it had lasted when last reported; 0: not reported */
	u64 reported_ns;
	u64 answered;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct cpu_state);
} cpu_states SEC(".maps");

static __always_inline struct lockup *report(struct cpu_state *s, enum lockup_phase phase)
{
	u32 cpu = bpf_get_smp_processor_id();
	/* Phases apart, so that none takes the token of an end. */
	struct limit_key key = { .cgroup = s->cgroup, .reason = (u64)cpu << 32 | phase };
	struct lockup *r = RESERVE(lockup, &key, bpf_ktime_get_ns());

	if (!r)
		return NULL;
	r->time_ns = bpf_ktime_get_boot_ns();
	r->stuck_ns = s->stuck_ns;
	r->steal_ns = s->stolen_ns;
	r->phase = phase;
	r->at.cgroup = s->cgroup;
	r->at.thread = s->thread;
	r->at.cpu = cpu;
	return r;
}

static __always_inline void ask_all(u64 now)
{
	u64 *question = bpf_map_lookup_elem(&questions, &(u32){ 0 });

	if (question)
		*question = now;
}

/* Another task, or this one was found to be in order: what was reported is over. */
static __always_inline void begin_anew(struct cpu_state *s, struct task_struct *task, u64 switches)
{
	struct lockup *r;

	if (s->reported_ns) {
		r = report(s, LOCKUP_ENDED);
		if (r)
			SUBMIT(lockup, r);
	}
	s->start_ns = task_start_boottime(task);
	s->switches = switches;
	s->stuck_ns = 0;
	s->stolen_ns = 0;
	s->reported_ns = 0;
}

static __always_inline void stuck(struct bpf_perf_event_data *ctx, struct cpu_state *s, struct task_struct *task,
				  u64 now)
{
	u64 gap = now - s->seen_ns, steal = booked_steal(task) - s->booked_ns;
	struct lockup *r;

	if ((s64)steal < 0)
		steal = 0;
	s->stolen_ns += steal;
	gap = gap > steal ? gap - steal : 0;
	s->stuck_ns += gap > period_ns + period_ns / 2 ? period_ns : gap;
	if (s->stuck_ns < limit_ns || s->stuck_ns < s->reported_ns * AGAIN)
		return;
	cgroup_of_any(&s->cgroup, task, cpu_cgrp_id);
	thread_of(&s->thread, task);
	r = report(s, s->reported_ns ? LOCKUP_LASTING : LOCKUP_BEGUN);
	/* Without room it is tried again at the next look. */
	if (!r)
		return;
	s->reported_ns = s->stuck_ns;
	take_stack(ctx, &r->at.stack);
	SUBMIT(lockup, r);
	ask_all(now);
}

static __always_inline void answer(struct bpf_perf_event_data *ctx, struct cpu_state *s, struct task_struct *task)
{
	u64 *question = bpf_map_lookup_elem(&questions, &(u32){ 0 });
	struct limit_key key = { .reason = bpf_get_smp_processor_id() };
	struct cpu_seen *r;

	if (!question || *question == s->answered)
		return;
	s->answered = *question;
	r = RESERVE(cpu_seen, &key, bpf_ktime_get_ns());
	if (!r)
		return;
	r->time_ns = bpf_ktime_get_boot_ns();
	r->question = s->answered;
	r->user_mode = in_user_mode(ctx);
	r->idle = !BPF_CORE_READ(task, pid);
	find_current(ctx, &r->at);
	SUBMIT(cpu_seen, r);
}

SEC("perf_event")
int PROBE_CTX(look__clock, struct bpf_perf_event_data *ctx)
{
	struct cpu_state *s = bpf_map_lookup_elem(&cpu_states, &(u32){ 0 });
	struct task_struct *task = (void *)bpf_get_current_task();
	u64 now = bpf_ktime_get_ns(), switches;

	if (!s)
		return 0;
	switches = BPF_CORE_READ(task, nvcsw) + BPF_CORE_READ(task, nivcsw);
	if (s->switches != switches || s->start_ns != task_start_boottime(task) || in_user_mode(ctx) ||
	    !need_resched(task) || !BPF_CORE_READ(task, pid))
		begin_anew(s, task, switches);
	else
		stuck(ctx, s, task, now);
	s->seen_ns = now;
	s->booked_ns = booked_steal(task);
	answer(ctx, s, task);
	return 0;
}
