// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Figures of cgroups without a hash operation in the common case: each CPU has a two-way cache of
 * cgroups in one per-CPU array value, and only what has to make room goes to a hash map. A cgroup's
 * figures are the sum over all of these, and the node's are the sum over all cgroups;
 * src/probe/shared/sched.rs adds up.
 *
 * Memory: 17 KiB a CPU, and 0.65 MB for the hash however many CPUs there are.
 */

/* Cgroups that a CPU keeps at hand; a power of two. */
#define CACHED 64

/* One cgroup's figures, on one CPU or in the hash. */
struct sched_group {
	/* css.serial_nr: unlike an address, never used twice. */
	u64 serial;
	/* The cgroup's kernfs id; 0 is the root. */
	u64 id;
	u64 run_ns;
	struct latencies wait;
	u64 reserved;
};

struct sched_cpu {
	/* Switches begun and completed: the same while the value is at rest. */
	u64 begun;
	u64 done;
	/* Entry of `groups` that runs now, plus one. */
	u64 current;
	/* The current run's start: on rq.clock_task, which leaves out interrupts and stolen time … */
	u64 start_task;
	/* … and on rq.clock. */
	u64 start;
	/* CLOCK_MONOTONIC - rq.clock, and the rq.clock of that comparison. */
	u64 offset;
	u64 compared;
	/* How often a cgroup had to make room and there was none in the hash. */
	u64 lost;
	/* How often a part of a wait found no room in sched_moved … */
	u64 unplaced;
	/* … and how often a run queue had booked waits that no program saw. */
	u64 unseen;
	/* Figures that are no cgroup's by one of these; they still are the node's. */
	struct sched_group overflow;
	struct sched_group groups[CACHED];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct sched_cpu);
} sched_cpus SEC(".maps");

/* Figures of cgroups that made room in a cache, by kernfs id; user space removes idle ones. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 2048);
	__type(key, u64);
	__type(value, struct sched_group);
} sched_evicted SEC(".maps");

/* The cpu controller is on the unified tree, or nowhere. */
SWITCH(u32, unified);

static __always_inline void add_and_clear(u64 *to, u64 *from)
{
	if (*from)
		__sync_fetch_and_add(to, *from);
	*from = 0;
}

/* Moves figures to where other CPUs may add theirs at the same time. */
static __noinline int move(struct sched_group *to, struct sched_group *from)
{
	if (!to || !from)
		return 0;
	add_and_clear(&to->run_ns, &from->run_ns);
	add_and_clear(&to->wait.total_ns, &from->wait.total_ns);
	add_and_clear(&to->wait.zero, &from->wait.zero);
	for (u32 i = 0; i < LATENCY_SLOTS; i++)
		add_and_clear(&to->wait.slots[i], &from->wait.slots[i]);
	return 0;
}

static __always_inline void make_room(struct sched_cpu *cpu, struct sched_group *group)
{
	static const struct sched_group none;
	struct sched_group *to;
	u64 id = group->id;

	if (!group->run_ns && !group->wait.zero && !group->wait.total_ns)
		return;
	/* Fails where there is an entry already, which another CPU may just have made. */
	bpf_map_update_elem(&sched_evicted, &id, &none, BPF_NOEXIST);
	to = bpf_map_lookup_elem(&sched_evicted, &id);
	if (!to) {
		cpu->lost++;
		to = &cpu->overflow;
	}
	move(to, group);
}

/* The root's id where the group is no cgroup at all: an autogroup, which lives below the root. */
static __always_inline u64 cgroup_id(struct task_struct *task)
{
	if (unified)
		return BPF_CORE_READ(task, cgroups, dfl_cgrp, kn, id);
	return BPF_CORE_READ(task, sched_task_group, css.cgroup, kn, id);
}

/* The cgroup's entry on this CPU, and its place. */
static __always_inline struct sched_group *group_of(struct sched_cpu *cpu, struct task_struct *task, u64 serial,
						    u32 *at)
{
	/* Fibonacci hashing: serials of cgroups come in steps of the number of controllers. */
	u32 i = ((u32)serial * 0x9e3779b1U) / (0x100000000ULL / CACHED);
	struct sched_group *group = &cpu->groups[i & (CACHED - 1)];

	if (__builtin_expect(group->serial != serial, 0)) {
		i ^= 1;
		group = &cpu->groups[i & (CACHED - 1)];
		if (group->serial != serial) {
			/* Not the one that ran last: it will run again. */
			if (i + 1 == cpu->current) {
				i ^= 1;
				group = &cpu->groups[i & (CACHED - 1)];
			}
			make_room(cpu, group);
			group->serial = serial;
			group->id = cgroup_id(task);
		}
	}
	*at = i;
	return group;
}
