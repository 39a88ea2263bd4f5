/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What every probe is written with. A probe file, in this order:
 *
 *	// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
 *	#include "limit.h"
 *
 *	LICENSE;
 *
 *	struct late_wakeup {			// a record: fixed-size types, no holes, no pointers,
 *		struct limited limited;		// no bool, no long, no bit-fields, no unions
 *		u64 time_ns;
 *		u64 wait_ns;
 *		struct cgroup_ref cgroup;	// → bianque::probe::CgroupRef
 *		struct thread_ref thread;	// → bianque::probe::ThreadRef
 *	};
 *	RECORDS(late_wakeup, 64 * 1024);	// its ring buffer; each record wakes the reader
 *						// (POLLED_RECORDS: read every 100 ms instead)
 *	SETTING(u64, limit_ns, 1000000);	// may be changed while the programs run
 *	SWITCH(u32, with_kernel_threads);	// fixed at load: what is off costs nothing
 *
 *	struct { … } waits SEC(".maps");	// maps as libbpf has them; key and value structs → Rust
 *
 *	SEC("tp_btf/sched_switch")		// slot `switched`, variant `btf`: the first variant in
 *	int PROBE(switched__btf, bool preempt, struct task_struct *prev, struct task_struct *next)
 *	{					// file order that loads and attaches is taken
 *		struct limit_key key = {};	// of whom: each workload has a limit of its own
 *		struct late_wakeup *r;
 *		…
 *		cgroup_of(&key.cgroup, next, memory_cgrp_id);
 *		r = RESERVE(late_wakeup, &key, bpf_ktime_get_ns());
 *		if (!r)				// over the limit, or the ring is full: counted
 *			return 0;
 *		r->time_ns = bpf_ktime_get_boot_ns();
 *		r->cgroup = key.cgroup;
 *		thread_of(&r->thread, next);
 *		SUBMIT(late_wakeup, r);
 *		return 0;
 *	}
 *
 *	SEC("tp/sched/sched_switch")		// the next variant of the slot, for kernels without the first
 *	int PROBE_CTX(switched__tp, void *ctx)
 *	{ … }
 *
 * What an iterator (`SEC("iter/…")`) writes is declared by ITERATES instead of RECORDS. A file that is too
 * long has parts, NAME/PART.bpf.c, which it includes; headers have types and functions, no maps and programs.
 *
 * Section names: tp_btf/NAME, raw_tp/NAME, tp/GROUP/NAME, fentry/FN, fexit/FN, kprobe/FN,
 * kretprobe/FN, perf_event, iter/NAME. Every program is PROBE (typed arguments) or PROBE_CTX (one
 * context pointer): both count each run and time one in 1,024 (see `bianque::probe::Cost`).
 */
#pragma once

#include "kernel.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>
#include "compat.h"

/* The kernel lends some helpers to GPL-compatible programs only. */
#define LICENSE char LICENSE_text[] SEC("license") = "Dual BSD/GPL"

/* One entry a program or ring, numbered by __COUNTER__, which nothing else may use. */
#define PROBE_STATS_MAX 32

struct probe_stat {
	/* Runs of a program; records that a ring had no room for. */
	u64 count;
	/* Runs that were timed, and their time. */
	u64 timed;
	u64 timed_ns;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, PROBE_STATS_MAX);
	__type(key, u32);
	__type(value, struct probe_stat);
} probe_stats SEC(".maps");

static __always_inline struct probe_stat *probe_stat(u32 index)
{
	return bpf_map_lookup_elem(&probe_stats, &index);
}

static __always_inline u64 probe_begin(struct probe_stat *stat)
{
	if (stat && (stat->count++ & 1023) == 0)
		return bpf_ktime_get_ns();
	return 0;
}

static __always_inline void probe_end(struct probe_stat *stat, u64 start)
{
	if (stat && start) {
		stat->timed++;
		stat->timed_ns += bpf_ktime_get_ns() - start;
	}
}

/* Sections of this name are for the skeleton generator: loaders pass over them. */
#define PROBE_NOTE(kind) SEC(".bianque." kind)

#define PROBE_COUNTED(name, call)                                                      \
	enum { name##__stat = __COUNTER__ };                                           \
	_Static_assert(name##__stat < PROBE_STATS_MAX, "too many programs and rings"); \
	static const u32 name##__note PROBE_NOTE("programs") = name##__stat;           \
	_Pragma("GCC diagnostic push")                                                 \
	_Pragma("GCC diagnostic ignored \"-Wint-conversion\"")                         \
	int name(unsigned long long *ctx)                                              \
	{                                                                              \
		struct probe_stat *stat = probe_stat(name##__stat);                    \
		u64 start = probe_begin(stat);                                         \
		int ret = call;                                                        \
		probe_end(stat, start);                                                \
		return ret;                                                            \
	}                                                                              \
	_Pragma("GCC diagnostic pop")

/* `int PROBE(name, args...) { body }`, after its SEC(): the arguments as the hook has them. */
#define PROBE(name, args...)                                                     \
	name(unsigned long long *ctx);                                           \
	static __always_inline int name##__body(unsigned long long *ctx, ##args); \
	PROBE_COUNTED(name, name##__body(___bpf_ctx_cast(args)))                 \
	static __always_inline int name##__body(unsigned long long *ctx __attribute__((unused)), ##args)

/* `int PROBE_CTX(name, type *ctx) { body }`: the hook's context as it is. */
#define PROBE_CTX(name, arg)                          \
	name(unsigned long long *ctx);                \
	static __always_inline int name##__body(arg); \
	PROBE_COUNTED(name, name##__body((void *)ctx)) \
	static __always_inline int name##__body(arg)

/* A ring's note for the skeleton generator, beside its flags. */
#define PROBE_LIMITED 0x100

#define PROBE_RING(type_, bytes, flags, note)                                            \
	struct {                                                                         \
		__uint(type, BPF_MAP_TYPE_RINGBUF);                                      \
		__uint(max_entries, bytes);                                              \
	} type_ SEC(".maps");                                                            \
	enum { type_##__stat = __COUNTER__, type_##__flags = flags };                    \
	_Static_assert(type_##__stat < PROBE_STATS_MAX, "too many programs and rings");  \
	_Static_assert(sizeof(struct type_) % 8 == 0, "a record's size is a multiple of 8"); \
	static const struct type_ *const type_##__note PROBE_NOTE("rings") =             \
		(const struct type_ *)(u64)(type_##__stat | ((flags) | (note)) << 16)

/*
 * A ring buffer of what is no event, as samples: whoever fills it bounds it by itself. Rings of events
 * are RECORDS of limit.h.
 */
#define UNLIMITED_RECORDS(type, bytes) PROBE_RING(type, bytes, 0, 0)

/* A zeroed record of such a ring, or NULL, then counted as lost. */
#define RESERVE_UNLIMITED(type) ((struct type *)probe_reserve(&type, sizeof(struct type), type##__stat))

/* Hands the record over; it must not be touched afterwards. */
#define SUBMIT(type, record) bpf_ringbuf_submit(record, type##__flags)

/* Gives the room back. */
#define DISCARD(type, record) bpf_ringbuf_discard(record, BPF_RB_NO_WAKEUP)

static __always_inline void probe_lost(u32 index)
{
	struct probe_stat *stat = probe_stat(index);

	if (stat)
		stat->count++;
}

static __always_inline void *probe_reserve(void *ring, u64 size, u32 index)
{
	u64 *words = bpf_ringbuf_reserve(ring, size, 0);

	if (!words) {
		probe_lost(index);
		return NULL;
	}
	/* A loop, as clang has no memset() for BPF beyond a few hundred bytes. */
	for (u64 i = 0; i < size / 8; i++) {
		barrier_var(i);
		words[i] = 0;
	}
	return words;
}

/* A record that an iterator writes: its struct, with a Rust type as any other record has. */
#define ITERATES(type_) static const struct type_ *const type_##__iterated PROBE_NOTE("iterated") = NULL

/* Writes one to `meta->seq` of the iterator's context, for `Object::iterate`. */
#define WRITE(type_, seq, record)                              \
	({                                                     \
		const struct type_ *_record = record;          \
		(void)type_##__iterated;                       \
		bpf_seq_write(seq, _record, sizeof(*_record)); \
	})

/* A threshold or limit in `.data.setting`, read as a plain variable. */
#define SETTING(type, name, value) volatile type name SEC(".data.setting") = value

/* Zero unless the collector turns it on; the verifier removes what is switched off. */
#define SWITCH(type, name) const volatile type name SEC(".rodata.switch") = 0

/* A cgroup: hierarchy 0 is the unified tree, else the number of the v1 hierarchy. */
struct cgroup_ref {
	u64 id;
	u32 hierarchy;
	u32 reserved;
};

struct thread_ref {
	u32 tgid;
	u32 tid;
	char comm[16];
};

static __always_inline void cgroup_ref_of(struct cgroup_ref *out, const struct cgroup *cgroup)
{
	out->id = BPF_CORE_READ(cgroup, kn, id);
	out->hierarchy = BPF_CORE_READ(cgroup, root, hierarchy_id);
}

/*
 * The task's cgroup in the hierarchy of a controller (`memory_cgrp_id`, `cpu_cgrp_id`, …). On the
 * unified tree that is the task's own cgroup, whether or not the controller is on for it. `task`
 * is an argument of a tp_btf, fentry or fexit program, or bpf_get_current_task_btf().
 */
#define cgroup_of(out, task, controller)                                              \
	({                                                                            \
		struct css_set *_set = (task)->cgroups;                               \
		struct cgroup *_cgroup = NULL;                                        \
		u32 _hierarchy = 0;                                                   \
		if (bpf_core_enum_value_exists(enum cgroup_subsys_id, controller)) {  \
			struct cgroup_subsys_state **_css = &_set->subsys[0];         \
			u64 _index = bpf_core_enum_value(enum cgroup_subsys_id, controller); \
			_cgroup = _css[_index]->cgroup;                               \
			_hierarchy = _cgroup->root->hierarchy_id;                     \
		}                                                                     \
		if (!_hierarchy)                                                      \
			_cgroup = _set->dfl_cgrp;                                     \
		(out)->id = _cgroup->kn->id;                                          \
		(out)->hierarchy = _hierarchy;                                        \
	})

/* The same for a task pointer of any other origin, by probe reads: dearer. */
#define cgroup_of_any(out, task, controller)                                          \
	({                                                                            \
		struct css_set *_set = BPF_CORE_READ(task, cgroups);                  \
		struct cgroup_subsys_state *_css = NULL;                              \
		struct cgroup *_cgroup = NULL;                                        \
		u32 _hierarchy = 0;                                                   \
		if (bpf_core_enum_value_exists(enum cgroup_subsys_id, controller)) {  \
			u64 _at = bpf_core_field_offset(struct css_set, subsys) +     \
				  8 * bpf_core_enum_value(enum cgroup_subsys_id, controller); \
			bpf_probe_read_kernel(&_css, 8, (void *)_set + _at);          \
			_cgroup = BPF_CORE_READ(_css, cgroup);                        \
			_hierarchy = BPF_CORE_READ(_cgroup, root, hierarchy_id);      \
		}                                                                     \
		if (!_hierarchy)                                                      \
			_cgroup = BPF_CORE_READ(_set, dfl_cgrp);                      \
		(out)->id = BPF_CORE_READ(_cgroup, kn, id);                           \
		(out)->hierarchy = _hierarchy;                                        \
	})

static __always_inline void thread_of(struct thread_ref *out, struct task_struct *task)
{
	out->tgid = BPF_CORE_READ(task, tgid);
	out->tid = BPF_CORE_READ(task, pid);
	BPF_CORE_READ_STR_INTO(&out->comm, task, comm);
}

/* The running task; not always the one to blame, e.g. in an interrupt. */
static __always_inline void current_thread(struct thread_ref *out)
{
	u64 id = bpf_get_current_pid_tgid();

	out->tgid = id >> 32;
	out->tid = (u32)id;
	bpf_get_current_comm(out->comm, sizeof(out->comm));
}
