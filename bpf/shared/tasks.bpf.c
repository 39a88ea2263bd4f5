// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * A walk over all tasks, when somebody asks: nothing runs in between.
 *
 * Blocked tasks: those in uninterruptible sleep for so long, with how long, where, and on which
 * lock. No state is kept for that: the scheduler notes in se.exec_start when a task was last on a
 * CPU, so one walk shows how long it has slept.
 *
 * Each task: what it does, and in which cgroup.
 */
#include "probe.h"

LICENSE;

#define STACK_DEPTH 48

SWITCH(u32, blocked);

/* Tasks that are blocked for less are passed over. */
SETTING(u64, blocked_limit_ns, 10000000000);

enum lock_kind {
	LOCK_MUTEX,
	LOCK_SEMAPHORE,
	LOCK_RWSEM_READER,
	LOCK_RWSEM_WRITER,
};

struct blocked_task {
	u64 time_ns;
	/* 0: not known */
	u64 blocked_ns;
	u64 start_ns;
	u64 switches;
	/* address of the lock that it waits for; 0: none, or not known */
	u64 lock;
	/* in the cpu controller's hierarchy */
	struct cgroup_ref cgroup;
	struct cgroup_ref owner_cgroup;
	struct thread_ref thread;
	/* who has the lock; tid 0: not known */
	struct thread_ref owner;
	u64 stack[STACK_DEPTH];
	s32 stack_bytes;
	u32 lock_kind;
	/* of a lock that many read at once: one of its readers, maybe a former one */
	u32 owner_is_hint;
	u32 in_iowait;
	u32 killable;
	u32 freezable;
};
ITERATES(blocked_task);

/* As the letters of proc_pid_stat(5). */
enum task_does {
	TASK_RUNS,
	TASK_SLEEPS,
	TASK_BLOCKED,
	TASK_IDLE,
	TASK_STOPPED,
	TASK_FROZEN,
	TASK_DEFUNCT,
};

struct task_seen {
	/* in the cpu controller's hierarchy */
	struct cgroup_ref cgroup;
	enum task_does does;
	/* the first thread of its process */
	u32 leads;
};
ITERATES(task_seen);

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct blocked_task);
} scratch SEC(".maps");

/*
 * How long ago the task was last on a CPU, by CLOCK_MONOTONIC; 0: not known.
 *
 * exec_start is on the run queue's clock_task, which leaves out interrupts and stolen time; the two
 * clocks of a run queue show how much that was. What the run queues' clock is against
 * CLOCK_MONOTONIC is seen on this CPU, whose clock is at most a tick old.
 */
static __always_inline u64 off_cpu_ns(struct task_struct *task, u64 now)
{
	struct task_struct *here = (void *)bpf_get_current_task();
	u64 last = BPF_CORE_READ(task, se.exec_start);
	struct rq *rq = BPF_CORE_READ(task, se.cfs_rq, rq);
	u64 offset = now - BPF_CORE_READ(here, se.cfs_rq, rq, clock);
	u64 since = last + BPF_CORE_READ(rq, clock) - BPF_CORE_READ(rq, clock_task) + offset;

	/* A task that was moved to another CPU has none. */
	if (!last || since > now)
		return 0;
	return now - since;
}

static __always_inline void find_lock(struct blocked_task *r, struct task_struct *task)
{
	u64 blocker = task_blocker(task), owner = 0, in_mutex, in_rwsem;

	r->lock = blocker & ~3ULL;
	r->lock_kind = blocker & 3;
	if (!r->lock)
		return;
	/* Both offsets are computed: clang would merge the two accesses into one that cannot be relocated. */
	in_mutex = bpf_core_field_offset(struct mutex, owner);
	in_rwsem = bpf_core_field_offset(struct rw_semaphore, owner);
	barrier_var(in_mutex);
	barrier_var(in_rwsem);
	if (r->lock_kind == LOCK_SEMAPHORE)
		owner = semaphore_holder(r->lock);
	else
		bpf_probe_read_kernel(&owner, sizeof(owner),
				      (void *)(r->lock + (r->lock_kind == LOCK_MUTEX ? in_mutex : in_rwsem)));
	/* RWSEM_READER_OWNED of kernel/locking/rwsem.c; the lowest three bits of all are flags. */
	r->owner_is_hint = r->lock_kind == LOCK_SEMAPHORE || (r->lock_kind != LOCK_MUTEX && (owner & 1));
	owner &= ~7ULL;
	if (!owner)
		return;
	thread_of(&r->owner, (struct task_struct *)owner);
	cgroup_of_any(&r->owner_cgroup, (struct task_struct *)owner, cpu_cgrp_id);
}

/* As the kernel's own detector (kernel/hung_task.c), and killable tasks too. */
static __always_inline bool is_blocked(struct task_struct *task, unsigned int state)
{
	return (state & STATE_UNINTERRUPTIBLE) && !(state & STATE_NOLOAD) && !task_frozen(task, state);
}

static __always_inline void report_blocked(struct seq_file *seq, struct task_struct *task)
{
	unsigned int state = task_state(task);
	struct blocked_task *r;
	u64 now, ns;

	if (!is_blocked(task, state))
		return;
	now = bpf_ktime_get_ns();
	ns = off_cpu_ns(task, now);
	if (ns && ns < blocked_limit_ns)
		return;
	r = bpf_map_lookup_elem(&scratch, &(u32){ 0 });
	if (!r)
		return;
	__builtin_memset(r, 0, __builtin_offsetof(struct blocked_task, stack));
	r->time_ns = bpf_ktime_get_boot_ns();
	r->blocked_ns = ns;
	r->start_ns = task_start_boottime(task);
	r->switches = BPF_CORE_READ(task, nvcsw) + BPF_CORE_READ(task, nivcsw);
	thread_of(&r->thread, task);
	cgroup_of_any(&r->cgroup, task, cpu_cgrp_id);
	r->stack_bytes = bpf_get_task_stack(task, r->stack, sizeof(r->stack), 0);
	r->owner_is_hint = 0;
	r->in_iowait = BPF_CORE_READ_BITFIELD_PROBED(task, in_iowait);
	r->killable = !!(state & STATE_WAKEKILL);
	r->freezable = task_freezable(task, state);
	find_lock(r, task);
	WRITE(blocked_task, seq, r);
}

SEC("iter/task")
int PROBE_CTX(walk__task, struct bpf_iter__task *ctx)
{
	struct task_struct *task = ctx->task;

	if (task && blocked)
		report_blocked(ctx->meta->seq, task);
	return 0;
}

static __always_inline enum task_does task_does(struct task_struct *task)
{
	unsigned int state = task_state(task);

	if (BPF_CORE_READ(task, exit_state))
		return TASK_DEFUNCT;
	if (task_frozen(task, state))
		return TASK_FROZEN;
	if (state & (STATE_STOPPED | STATE_TRACED))
		return TASK_STOPPED;
	if (state & STATE_UNINTERRUPTIBLE)
		return state & STATE_NOLOAD ? TASK_IDLE : TASK_BLOCKED;
	return state & STATE_INTERRUPTIBLE ? TASK_SLEEPS : TASK_RUNS;
}

SEC("iter/task")
int PROBE_CTX(each__task, struct bpf_iter__task *ctx)
{
	struct task_struct *task = ctx->task;
	struct task_seen r = {};

	if (!task)
		return 0;
	cgroup_of_any(&r.cgroup, task, cpu_cgrp_id);
	r.does = task_does(task);
	r.leads = BPF_CORE_READ(task, pid) == BPF_CORE_READ(task, tgid);
	WRITE(task_seen, ctx->meta->seq, &r);
	return 0;
}
