// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Packets that were received and wait: for the network stack, in TCP, or for the process that reads.
 *
 * The kernel stamps a packet with the wall clock when it enters the stack, while anybody asks for
 * stamps; the collector does. The stamp stays with the packet until it is read, so each hook is one
 * subtraction; something is kept only of TCP connections with a lost segment. What a step of the clock
 * would feign reaches back to before the step, and is not believed (since_ns).
 */
#include "packet.h"
#include "filter.h"
#include "limit.h"
#include "receive_delay.h"

LICENSE;

POLLED_RECORDS(receive_delay, 128 * 1024);

SETTING(u64, stack_limit_ns, 50000000);
SETTING(u64, transport_limit_ns, 50000000);
SETTING(u64, user_limit_ns, 200000000);
/* CLOCK_REALTIME - CLOCK_BOOTTIME */
SETTING(s64, wall_offset_ns, 0);
/* CLOCK_BOOTTIME from which stamps are believed. */
SETTING(u64, since_ns, ~0ULL);

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct sk_buff___received {
	int skb_iif;
	unsigned int data_len;
};

struct rb_root {
	void *rb_node;
};

struct tcp_sock {
	u32 rcv_nxt;
	/* packets that came out of order, since the connection began */
	u32 rcv_ooopack;
	struct rb_root out_of_order_queue;
};

#pragma clang attribute pop

#include "received.h"

/* By the address of the socket. What is left of an earlier one there is older than any data of the next. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 2048);
	__type(key, u64);
	__type(value, struct holes);
} holes SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 2048);
	__type(key, u64);
	__type(value, struct read_late);
} reads_late SEC(".maps");

static __always_inline void find_reader(struct receive_delay *r)
{
	struct task_struct *task = (void *)bpf_get_current_task();

	thread_of(&r->thread, task);
	cgroup_of_any(&r->cgroup, task, memory_cgrp_id);
	r->owner.netns = BPF_CORE_READ(task, nsproxy, net_ns, ns.inum);
}

static __always_inline void find_owner(struct net_owner *owner, const struct sk_buff *skb, struct sock *sk)
{
	struct net_device *dev = skb->dev;

	if (sk)
		owner_of(owner, sk);
	else if (dev)
		owner->netns = dev->nd_net.net->ns.inum;
}

/* Of a reader: takes off what the data waited for a lost segment. False: it is not to be reported. */
static __always_inline bool judge_reader(struct delay *d, const struct sk_buff *skb, const struct flow *flow)
{
	struct sock *sk = skb->sk;

	if (flow->protocol == IPPROTO_TCP && sk) {
		if (!readable_since(&holes, d, sk, skb))
			return false;
		if (d->now - d->since < user_limit_ns) {
			d->stage = STAGE_LOSS;
			return d->blocked >= user_limit_ns && is_news(d->hole);
		}
	}
	return !was_reported(&reads_late, skb, flow, d->entered);
}

static __always_inline int late(void *ctx, const struct sk_buff *skb, struct sock *sk, enum receive_stage stage,
				u64 limit_ns)
{
	struct delay d = { .stage = stage };
	const struct sk_buff___received *more = (const void *)skb;
	s64 stamp = skb->tstamp;
	struct limit_key key = {};
	struct segment segment = {};
	struct net_owner owner = {};
	struct receive_delay *r;
	struct flow flow = {};
	u64 now, entered;

	if (!stamp)
		return 0;
	now = bpf_ktime_get_boot_ns();
	entered = stamp - wall_offset_ns;
	if ((s64)(now - entered) < (s64)limit_ns)
		return 0;
	/* Also what is sent and has a stamp of the monotonic clock. */
	if ((s64)entered < (s64)since_ns)
		return 0;
	read_packet(&flow, &segment, skb);
	if (!flow.version)
		return 0;
	d.now = now;
	d.entered = d.since = entered;
	if (stage == STAGE_USER) {
		struct task_struct *task = (void *)bpf_get_current_task();

		if (!judge_reader(&d, skb, &flow))
			return 0;
		cgroup_of_any(&key.cgroup, task, memory_cgrp_id);
	} else {
		find_owner(&owner, skb, sk);
		key.cgroup = owner.cgroup;
		key.netns = owner.netns;
	}
	key.reason = d.stage;
	if (FILTERED(receive_delay, stage == STAGE_USER ? &key.cgroup : &owner.cgroup))
		return 0;
	r = RESERVE(receive_delay, &key, now);
	if (!r)
		return 0;
	r->time_ns = now;
	r->delay_ns = d.stage == STAGE_LOSS ? d.blocked : now - d.since;
	r->entered_ns = entered;
	r->blocked_ns = d.blocked;
	r->lost_seq = d.lost_seq;
	r->owner = owner;
	r->flow = flow;
	r->stage = d.stage;
	r->length_bytes = skb->len;
	r->ifindex = BPF_CORE_READ(more, skb_iif);
	if (stage == STAGE_STACK)
		BPF_CORE_READ_STR_INTO(&r->device, skb, dev, name);
	else if (stage == STAGE_TRANSPORT)
		r->owner.socket = socket_inode(sk);
	else
		find_reader(r);
	r->stack_bytes = bpf_get_stack(ctx, r->stack, sizeof(r->stack), OWN_FRAMES);
	SUBMIT(receive_delay, r);
	return 0;
}

SEC("tp_btf/netif_receive_skb")
int PROBE(received__btf, struct sk_buff *skb)
{
	return late(ctx, skb, NULL, STAGE_STACK, stack_limit_ns);
}

/* In tcp_rcv_established(): also what waited in the backlog of a socket that its owner was busy with. */
SEC("tp_btf/tcp_probe")
int PROBE(transported__btf, struct sock *sk, struct sk_buff *skb)
{
	note_fill(&holes, sk, skb, user_limit_ns);
	return late(ctx, skb, sk, STAGE_TRANSPORT, transport_limit_ns);
}

SEC("tp_btf/skb_copy_datagram_iovec")
int PROBE(copied__btf, struct sk_buff *skb, int length)
{
	return late(ctx, skb, NULL, STAGE_USER, user_limit_ns);
}

/*
 * A datagram in one piece is copied without a tracepoint; this is called by its reader when it has it.
 * Its end, skb:consume_skb, would not do: since 6.18 that may come any time later, on another CPU.
 */
SEC("fentry/skb_consume_udp")
int PROBE(datagram__fentry, struct sock *sk, struct sk_buff *skb, int length)
{
	const struct sk_buff___received *more = (const void *)skb;

	/* Only looked at (MSG_PEEK); or in pieces, seen as it was copied. */
	if (length < 0 || BPF_CORE_READ(more, data_len))
		return 0;
	return late(ctx, skb, NULL, STAGE_USER, user_limit_ns);
}
