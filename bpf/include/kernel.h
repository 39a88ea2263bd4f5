/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The kernel types and fields that the probes read, and nothing else. CO-RE matches structs and
 * fields by name and finds the offsets of the running kernel, so order and neighbours do not
 * matter here. Add a field where a probe reads it; what differs between kernels goes to compat.h.
 */
#pragma once

#include "uapi.h"

/* Tracepoint, kprobe and iterator contexts of which only the address is used. */
struct bpf_perf_event_data;
struct pt_regs;

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

typedef struct {
	int counter;
} atomic_t;

typedef struct {
	s64 counter;
} atomic_long_t;

struct list_head {
	struct list_head *next, *prev;
};

struct kernfs_node {
	u64 id;
	const char *name;
};

struct cgroup_root {
	unsigned int subsys_mask;
	int hierarchy_id;
};

struct cgroup_subsys_state {
	struct cgroup *cgroup;
	struct cgroup_subsys_state *parent;
	u64 serial_nr;
};

struct cgroup {
	struct cgroup_subsys_state self;
	struct kernfs_node *kn;
	struct cgroup_root *root;
	int level;
};

struct page_counter {
	atomic_long_t usage;
	unsigned long max;
};

struct mem_cgroup {
	struct cgroup_subsys_state css;
	struct page_counter memory;
};

/* Of a task that reclaims; it stands within its scan_control. */
struct reclaim_state;

/* mm/vmscan.c */
struct scan_control {
	struct mem_cgroup *target_mem_cgroup;
	unsigned int proactive : 1;
	s8 order;
	s8 priority;
	u32 gfp_mask;
	unsigned long nr_scanned;
	unsigned long nr_reclaimed;
	/* a struct there: only its place is of interest */
	struct {
	} reclaim_state;
};

/* mm/internal.h */
struct compact_control {
	unsigned long total_migrate_scanned;
	unsigned long total_free_scanned;
};

enum oom_constraint {
	CONSTRAINT_NONE,
};

struct oom_control {
	u32 gfp_mask;
	int order;
	unsigned long totalpages;
	struct task_struct *chosen;
	enum oom_constraint constraint;
};

/* Its values differ between kernels: only by bpf_core_enum_value(). */
enum cgroup_subsys_id {
	cpuset_cgrp_id = 900,
	cpu_cgrp_id,
	cpuacct_cgrp_id,
	io_cgrp_id,
	memory_cgrp_id,
	pids_cgrp_id,
};

/* The cpu controller's part of a cgroup. */
struct task_group {
	struct cgroup_subsys_state css;
};

struct css_set {
	struct cgroup_subsys_state *subsys[16];
	struct cgroup *dfl_cgrp;
};

struct sched_info {
	unsigned long pcount;
	unsigned long long run_delay;
	unsigned long long last_arrival;
	unsigned long long last_queued;
};

struct task_struct;

struct rq {
	unsigned int nr_running;
	u64 nr_switches;
	u64 clock;
	u64 prev_steal_time;
	u64 clock_task;
	int cpu;
	struct task_struct *curr;
	struct task_struct *idle;
	struct sched_info rq_sched_info;
};

struct cfs_rq {
	struct rq *rq;
};

struct sched_entity {
	u64 sum_exec_runtime;
	u64 exec_start;
	struct cfs_rq *cfs_rq;
};

struct mm_struct {
	unsigned long total_vm;
	unsigned long locked_vm;
	struct task_struct *owner;
};

struct signal_struct {
	short oom_score_adj;
	unsigned int flags;
	int group_exit_code;
	int nr_threads;
};

struct ns_common {
	unsigned int inum;
};

struct net {
	struct ns_common ns;
};

struct nsproxy {
	struct net *net_ns;
};

struct thread_info {
	unsigned long flags;
};

struct mutex {
	atomic_long_t owner;
};

struct rw_semaphore {
	atomic_long_t owner;
};

struct task_struct {
	struct thread_info thread_info;
	unsigned int flags;
	int on_cpu;
	int on_rq;
	unsigned int in_iowait : 1;
	int prio;
	int static_prio;
	unsigned int policy;
	int exit_state;
	int exit_code;
	int pid;
	int tgid;
	char comm[16];
	u64 utime;
	u64 stime;
	unsigned long nvcsw;
	unsigned long nivcsw;
	u64 start_time;
	u64 start_boottime;
	struct task_struct *real_parent;
	struct task_struct *group_leader;
	struct mm_struct *mm;
	struct signal_struct *signal;
	struct reclaim_state *reclaim_state;
	struct nsproxy *nsproxy;
	struct css_set *cgroups;
	struct sched_info sched_info;
	struct sched_entity se;
	struct task_group *sched_task_group;
};

struct hrtimer_clock_base {
	int clockid;
};

/* timerqueue_linked_node since 7.1; CO-RE compares the field's name, not its type's. */
struct timerqueue_node {
	s64 expires;
};

struct hrtimer {
	struct timerqueue_node node;
	struct hrtimer_clock_base *base;
	void *function;
	u8 is_soft;
};

#pragma clang attribute pop

/* An iterator's context is ABI: its fields stand where they stand here, 8 bytes each. */
struct seq_file;

struct bpf_iter_meta {
	struct seq_file *seq;
	u64 session_id;
	u64 seq_num;
};

struct bpf_iter__task {
	struct bpf_iter_meta *meta;
	struct task_struct *task;
};
