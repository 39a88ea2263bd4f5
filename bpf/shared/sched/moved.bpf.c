// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Waits of tasks that are moved to another CPU while they wait.
 *
 * As a waiting task is moved, the kernel books what it waited so far, in the task's run_delay and in
 * that of the run queue that it leaves, and sets last_queued anew on the other CPU. How much was booked
 * follows from the run queue alone: its sum grows by waits that end at a switch of its CPU, which are
 * known, and by these. So no figure is kept of each task, only one of each run queue, and of the tasks
 * that were moved and have not run since.
 *
 * What a run queue booked without any program having seen it (some hosted kernels run none at a few
 * switches) shows at its next switch: it is the node's, and counted as unseen.
 *
 * Kernels without CONFIG_SCHEDSTATS have no such sum; there a figure of each task is kept after all.
 */

/* A run queue's run_delay after all that was seen of it; touched under its lock only. */
struct sched_queue {
	u64 booked;
	/* It has switched since the program was attached. */
	u64 known;
	/* No two CPUs write to one cache line. */
	u64 reserved[14];
};

/* By CPU; the loader gives it as many entries as there are. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct sched_queue);
} sched_queues SEC(".maps");

/* What tasks waited on CPUs that they left, by thread id, until they run. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 2048);
	__type(key, u32);
	__type(value, u64);
} sched_moved SEC(".maps");

/* How many entries of sched_moved have these low bits, so that most switches need not look there. */
#define MOVED_HINTS 1024

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MOVED_HINTS);
	__type(key, u32);
	__type(value, u32);
} sched_moved_hints SEC(".maps");

static __always_inline u32 *moved_hint(u32 tid)
{
	u32 at = tid & (MOVED_HINTS - 1);

	return bpf_map_lookup_elem(&sched_moved_hints, &at);
}

/* A wait that is no cgroup's: the node's. */
static __always_inline void count_nobodys(struct sched_cpu *cpu, u64 ns)
{
	count_latency(&cpu->overflow.wait, ns);
}

/* The incoming task's wait on its CPU ends, which the run queue is about to book. */
static __always_inline void book(struct sched_cpu *cpu, u32 id, u64 run_delay, u64 ns)
{
	struct sched_queue *queue = bpf_map_lookup_elem(&sched_queues, &id);

	if (!queue)
		return;
	if (__builtin_expect(queue->known && queue->booked != run_delay, 0)) {
		cpu->unseen++;
		if ((s64)(run_delay - queue->booked) > 0)
			count_nobodys(cpu, run_delay - queue->booked);
	}
	queue->booked = run_delay + ns;
	queue->known = 1;
}

/* What the incoming task waited on other CPUs. */
static __always_inline u64 waited_elsewhere(u32 tid)
{
	u32 *hint = moved_hint(tid);
	u64 *held, ns;

	if (!hint || !*hint)
		return 0;
	held = bpf_map_lookup_elem(&sched_moved, &tid);
	if (!held)
		return 0;
	ns = *held;
	*held = 0;
	if (!bpf_map_delete_elem(&sched_moved, &tid))
		__sync_fetch_and_add(hint, -1);
	return ns;
}

/* Keeps what a task waited on the CPU that it leaves; no other CPU does so for this task meanwhile. */
static __always_inline void hold(u32 tid, u64 ns)
{
	u64 *held = bpf_map_lookup_elem(&sched_moved, &tid);
	u32 zero = 0, *hint = moved_hint(tid);
	struct sched_cpu *cpu;

	if (held) {
		*held += ns;
		return;
	}
	if (hint && !bpf_map_update_elem(&sched_moved, &tid, &ns, BPF_NOEXIST)) {
		__sync_fetch_and_add(hint, 1);
		return;
	}
	cpu = bpf_map_lookup_elem(&sched_cpus, &zero);
	if (!cpu)
		return;
	cpu->unplaced++;
	count_nobodys(cpu, ns);
}

/* A waiting task leaves this run queue, whose lock is held. */
static __always_inline void left(u32 tid, u32 id, u64 run_delay)
{
	struct sched_queue *queue = bpf_map_lookup_elem(&sched_queues, &id);
	s64 ns;

	if (!queue || !queue->known)
		return;
	ns = run_delay - queue->booked;
	queue->booked = run_delay;
	if (ns > 0)
		hold(tid, ns);
}

/* Without sums of run queues: what of its run_delay was seen of a task, by the low bits of its thread id. */
#define SEEN_TASKS (1 << 17)
/* The thread id, which has at most 22 bits, stands above the figure, so that both change at once. */
#define SEEN_BITS 42
#define SEEN_MASK ((1ULL << SEEN_BITS) - 1)

/* The loader gives it its entries where they are needed. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, u64);
} sched_seen SEC(".maps");

static __always_inline u64 *seen_of(u32 tid)
{
	u32 at = tid & (SEEN_TASKS - 1);

	return bpf_map_lookup_elem(&sched_seen, &at);
}

/* What the incoming task waited since it ran, of which `here` on this CPU; `run_delay` includes it. */
static __always_inline u64 waited_since(u32 tid, u64 run_delay, u64 here, bool ran)
{
	u64 *seen = seen_of(tid), ns = here;

	if (!seen)
		return ns;
	if (!ran)
		ns = run_delay;
	else if (*seen >> SEEN_BITS == tid)
		ns = (run_delay - *seen) & SEEN_MASK;
	*seen = (u64)tid << SEEN_BITS | (run_delay & SEEN_MASK);
	/* A thread that calls exec() takes its process's id over, of which more may have been seen. */
	return ns > here && ns <= SEEN_MASK / 2 ? ns : here;
}

/* A waiting task goes whose figure had to make room for another's. One that was never seen waited before that, too. */
static __always_inline void left_unseen(u32 tid, bool ran)
{
	u64 *seen = seen_of(tid);
	u32 zero = 0;
	struct sched_cpu *cpu;

	if (!seen || !*seen || !ran || *seen >> SEEN_BITS == tid)
		return;
	cpu = bpf_map_lookup_elem(&sched_cpus, &zero);
	if (cpu)
		cpu->unplaced++;
}

/* Most tasks that go to another CPU do so as they are woken, and wait on none then. */
#define LEFT(READ, task, on_rq)                                                             \
	({                                                                                  \
		if ((on_rq) == ON_RQ_MIGRATING) {                                           \
			if (queue_books_waits())                                            \
				left(READ(task, pid), READ(task, se.cfs_rq, rq, cpu),       \
				     READ(task, se.cfs_rq, rq, rq_sched_info.run_delay));   \
			else                                                                \
				left_unseen(READ(task, pid), READ(task, sched_info.pcount)); \
		}                                                                           \
	})
