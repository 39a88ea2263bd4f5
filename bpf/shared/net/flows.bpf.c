// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* The last drop of each TCP connection and direction. */

/* Connections that are remembered; a power of two. A later one in the same place replaces it. */
#define FLOWS 4096

struct last_drop {
	u64 flow;
	u64 time_ns;
	u64 location;
	u32 reason;
	u32 seq;
};

/* An array, not a hash: one store, and no kernel lock, on the way of a storm. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, FLOWS);
	__type(key, u32);
	__type(value, struct last_drop);
} last_drops SEC(".maps");

static __always_inline struct last_drop *last_drop_at(u64 hash)
{
	u32 at = hash & (FLOWS - 1);

	return bpf_map_lookup_elem(&last_drops, &at);
}

static __always_inline void remember_drop(const struct flow *flow, u32 seq, u32 reason, u64 location, u64 now)
{
	u64 hash = flow_hash(flow->source, flow->destination, flow->source_port, flow->destination_port);
	struct last_drop *last = last_drop_at(hash);

	if (!last)
		return;
	/* A reader on another CPU that sees the flow sees its figures; torn ones at worst of this flow. */
	last->flow = 0;
	barrier();
	last->time_ns = now;
	last->location = location;
	last->reason = reason;
	last->seq = seq;
	barrier();
	last->flow = hash;
}
