// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Dropped packets and retransmitted segments.
 *
 * Drops are counted by (reason, place in the kernel, network namespace, cgroup) on each CPU, and
 * reported as tally.h decides. The last drop of each TCP connection is kept, so that a
 * retransmit can say whether it was this node that lost the packet.
 *
 * Two iterators answer who a socket or a network namespace belongs to, when a record is worked off:
 * a hook in the network stack runs for whomever it interrupts.
 */
#include "filter.h"
#include "limit.h"
#include "packet.h"
#include "tally.h"

LICENSE;

#include "net/flows.bpf.c"
#include "net/drops.bpf.c"
#include "net/owners.bpf.c"

/* The socket that a received packet was for, since 6.11: c53795d48ee8 ("net: add rx_sk to trace_kfree_skb"). */
SEC("tp_btf/kfree_skb")
int PROBE(dropped__socket, struct sk_buff *skb, void *location, u32 reason, struct sock *rx_sk)
{
	struct drop d = { .skb = skb, .location = (u64)location, .reason = reason };

	d.sk = skb->sk;
	/* The second test is for later verifiers. */
	if (!is_null(rx_sk) && rx_sk)
		d.sk = rx_sk;
	return dropped(ctx, &d);
}

SEC("tp_btf/kfree_skb")
int PROBE(dropped__reason, struct sk_buff *skb, void *location, u32 reason)
{
	struct drop d = { .skb = skb, .location = (u64)location, .reason = reason };

	d.sk = skb->sk;
	return dropped(ctx, &d);
}

SEC("tp_btf/kfree_skb")
int PROBE(dropped__plain, struct sk_buff *skb, void *location)
{
	struct drop d = { .skb = skb, .location = (u64)location, .reason = REASON_NONE };

	d.sk = skb->sk;
	return dropped(ctx, &d);
}

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct devlink_trap_metadata {
	const char *trap_name;
	const char *trap_group_name;
	struct net_device *input_dev;
	int trap_type;
};

#pragma clang attribute pop

/* enum devlink_trap_type, include/net/devlink.h */
#define DEVLINK_TRAP_TYPE_DROP 0

SEC("tp_btf/devlink_trap_report")
int PROBE(trapped__btf, void *devlink, struct sk_buff *skb, struct devlink_trap_metadata *metadata)
{
	struct drop d = { .skb = skb, .hardware = 1, .reason = REASON_NONE };

	if (BPF_CORE_READ(metadata, trap_type) != DEVLINK_TRAP_TYPE_DROP)
		return 0;
	d.trap = BPF_CORE_READ(metadata, trap_name);
	d.trap_group = BPF_CORE_READ(metadata, trap_group_name);
	/* Names live as long as the driver: they identify its traps. */
	d.location = (u64)d.trap;
	return dropped(ctx, &d);
}

#include "net/retransmits.bpf.c"
