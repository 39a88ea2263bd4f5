/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Since when the data of a packet could be read, and whether that was reported.
 *
 * TCP hands data on in order: what came behind a lost segment waits in its out-of-order queue until that
 * is there (head-of-line blocking), and is no reader's fault. A segment that arrives while this queue is
 * not empty, and is the next that TCP waits for, ends the wait of what is behind it.
 */
#pragma once

#include "packet.h"

/* include/net/tcp_states.h */
#define TCP_FIN_WAIT1 4
#define TCP_FIN_WAIT2 5

/* A power of two. */
#define HOLES 8

struct hole {
	/* when the lost segment came, and its sequence number */
	u64 filled_ns;
	u32 seq;
	u32 reported;
};

struct holes {
	/* the newest at count - 1 */
	struct hole of[HOLES];
	u64 count;
};

/* The packet that a process was last reported to have read late, by its flow. */
struct read_late {
	u64 entered_ns;
	u32 seq;
	u32 reserved;
};

/* What is known of one packet's wait. */
struct delay {
	u64 now;
	u64 entered;
	/* when somebody could have read it */
	u64 since;
	u64 blocked;
	struct hole *hole;
	u32 lost_seq;
	u32 stage;
};

/* Has this process's late read of it been reported? Data is read in pieces, and looked at before (MSG_PEEK). */
static __always_inline bool was_reported(void *reads_late, const struct sk_buff *skb, const struct flow *flow,
					 u64 entered)
{
	struct read_late this = { .entered_ns = entered }, *last;
	u64 key = flow_hash(flow->source, flow->destination, flow->source_port, flow->destination_port);

	key ^= bpf_get_current_pid_tgid() >> 32;
	if (flow->protocol == IPPROTO_TCP)
		this.seq = BPF_CORE_READ(tcp_cb(skb), seq);
	last = bpf_map_lookup_elem(reads_late, &key);
	if (last && (s32)(this.seq - last->seq) <= 0 && entered <= last->entered_ns)
		return true;
	bpf_map_update_elem(reads_late, &key, &this, BPF_ANY);
	return false;
}

/*
 * A segment has come to TCP: does data wait for it? Holes that are filled soon after each other are one,
 * so that those that are kept reach back for `within_ns`.
 */
static __always_inline void note_fill(void *holes, struct sock *sk, const struct sk_buff *skb, u64 within_ns)
{
	const struct tcp_sock *tp = (const void *)sk;
	static const struct holes none;
	struct holes *of;
	u64 key = (u64)sk, now;
	struct hole *newest;
	u32 next;

	if (!BPF_CORE_READ(tp, out_of_order_queue.rb_node))
		return;
	next = BPF_CORE_READ(tp, rcv_nxt);
	if ((s32)(BPF_CORE_READ(tcp_cb(skb), seq) - next) > 0 || (s32)(BPF_CORE_READ(tcp_cb(skb), end_seq) - next) <= 0)
		return;
	of = bpf_map_lookup_elem(holes, &key);
	if (!of) {
		bpf_map_update_elem(holes, &key, &none, BPF_ANY);
		of = bpf_map_lookup_elem(holes, &key);
	}
	if (!of)
		return;
	now = bpf_ktime_get_boot_ns();
	newest = &of->of[(of->count - 1) & (HOLES - 1)];
	if (of->count && now - newest->filled_ns < within_ns / HOLES) {
		newest->filled_ns = now;
		return;
	}
	newest = &of->of[of->count & (HOLES - 1)];
	newest->filled_ns = now;
	newest->seq = next;
	newest->reported = 0;
	of->count++;
}

/* The lost segment that the data at `seq` was behind; NULL: none. Where it is not kept any more, the oldest that is. */
static __always_inline struct hole *hole_before(struct holes *of, u32 seq)
{
	struct hole *oldest = NULL;

	for (u32 i = 1; i <= HOLES; i++) {
		struct hole *h = &of->of[(of->count - i) & (HOLES - 1)];

		if (i > of->count)
			return NULL;
		if ((s32)(seq - h->seq) >= 0)
			return h;
		oldest = h;
	}
	return oldest;
}

/* False: it cannot be known. */
static __always_inline bool readable_since(void *holes, struct delay *d, struct sock *sk, const struct sk_buff *skb)
{
	u8 state = sk->__sk_common.skc_state;
	u64 key = (u64)sk;
	struct holes *of;
	struct hole *h;

	of = bpf_map_lookup_elem(holes, &key);
	/* Segments that come in these states are seen by no hook (tcp_rcv_state_process); of others nothing may be kept. */
	if (!of || state == TCP_FIN_WAIT1 || state == TCP_FIN_WAIT2)
		return !BPF_CORE_READ((const struct tcp_sock *)sk, rcv_ooopack);
	h = hole_before(of, BPF_CORE_READ(tcp_cb(skb), end_seq) - 1);
	if (!h || (s64)(h->filled_ns - d->entered) <= 0)
		return true;
	d->since = h->filled_ns;
	d->blocked = d->since - d->entered;
	d->lost_seq = h->seq;
	d->hole = h;
	return true;
}

/* All that waited for one segment is one event. */
static __always_inline bool is_news(struct hole *h)
{
	if (!h || h->reported)
		return false;
	h->reported = 1;
	return true;
}
