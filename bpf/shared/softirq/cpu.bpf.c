// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* What the softirq probe keeps of a CPU. */

/* for ten; a power of two, so that old verifiers see the bound in the mask */
#define VECTOR_SLOTS 16

/* Nothing is too long until somebody says what is. */
#define NEVER_NS 0x7fffffffffffffffULL

struct irq_held_off {
	struct limited limited;
	u64 time_ns;
	u64 delay_ns;
	u64 steal_ns;
	u64 function;
	struct found_at at;
};

struct cpu_state {
	struct raised {
		u64 time_ns;
		u64 in;
		u64 steal_ns;
		u64 steal_known;
	} raised[VECTOR_SLOTS];
	/* the CPU is on its way off line, or not all the way back */
	u64 off;
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
