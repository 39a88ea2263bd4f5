// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * A device's transmit queue has been stopped for longer than its driver allows.
 *
 * net:net_dev_xmit_timeout fires in the watchdog's timer (dev_watchdog in
 * net/sched/sch_generic.c), just before the driver is asked to reset. Times in
 * the queue are in jiffies; user space derives their length from both clocks.
 */
#include "limit.h"
#include "netdev.h"

LICENSE;

struct tx_timeout {
	struct limited limited;
	u64 time_ns;
	/* both clocks now */
	u64 monotonic_ns;
	u64 jiffies;
	/* jiffies when the queue took its last packet */
	u64 trans_start;
	/* timeouts of this queue since the device is there */
	u64 timeouts;
	struct netdev_ref dev;
	u32 queue;
	u32 queues;
	/* the driver's limit, in jiffies */
	u32 limit_jiffies;
	u32 reserved;
};

RECORDS(tx_timeout, 16 * 1024);

SEC("tp_btf/net_dev_xmit_timeout")
int PROBE(timeout__btf, struct net_device *dev, int queue)
{
	u64 size = bpf_core_type_size(struct netdev_queue);
	struct netdev_queue *txq;
	struct limit_key key = {};
	struct tx_timeout *r;

	key.netns = BPF_CORE_READ(dev, nd_net.net, ns.inum);
	key.reason = BPF_CORE_READ(dev, ifindex);
	r = RESERVE(tx_timeout, &key, bpf_ktime_get_ns());
	if (!r)
		return 0;
	txq = (void *)BPF_CORE_READ(dev, _tx) + (u32)queue * size;
	r->time_ns = bpf_ktime_get_boot_ns();
	r->monotonic_ns = bpf_ktime_get_ns();
	r->jiffies = bpf_jiffies64();
	r->trans_start = BPF_CORE_READ(txq, trans_start);
	r->timeouts = queue_timeouts(txq);
	netdev_of(&r->dev, dev);
	r->queue = queue;
	r->queues = BPF_CORE_READ(dev, num_tx_queues);
	r->limit_jiffies = BPF_CORE_READ(dev, watchdog_timeo);
	SUBMIT(tx_timeout, r);
	return 0;
}
