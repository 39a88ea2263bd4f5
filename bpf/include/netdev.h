/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Which network device, its namespace, and its driver. */
#pragma once

#include "probe.h"

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct device_driver {
	const char *name;
};

struct device {
	struct device *parent;
	struct device_driver *driver;
};

struct rtnl_link_ops {
	const char *kind;
};

typedef struct {
	struct net *net;
} possible_net_t;

struct netdev_queue {
	struct net_device *dev;
	unsigned long trans_start;
};

/* Since 5.17: 8160fb43d55d ("net: use an atomic_long_t for queue->trans_timeout"). */
struct netdev_queue___atomic {
	atomic_long_t trans_timeout;
};

struct netdev_queue___plain {
	unsigned long trans_timeout;
};

struct Qdisc {
	struct netdev_queue *dev_queue;
};

struct net_device {
	char name[16];
	int ifindex;
	unsigned int flags;
	unsigned long state;
	unsigned int num_tx_queues;
	int watchdog_timeo;
	struct netdev_queue *_tx;
	possible_net_t nd_net;
	struct rtnl_link_ops *rtnl_link_ops;
	struct device dev;
};

#pragma clang attribute pop

/* Timeouts of a transmit queue since its device is there. */
static __always_inline u64 queue_timeouts(const struct netdev_queue *queue)
{
	const struct netdev_queue___atomic *now = (const void *)queue;

	if (bpf_core_field_exists(now->trans_timeout))
		return BPF_CORE_READ(now, trans_timeout.counter);
	return BPF_CORE_READ((const struct netdev_queue___plain *)queue, trans_timeout);
}

struct netdev_ref {
	u32 ifindex;
	/* inode number of the network namespace, as in /proc/PID/ns/net */
	u32 netns;
	char name[16];
	/* what kind of virtual device it is (veth, bond, …); empty for hardware */
	char kind[16];
	char driver[32];
};

static __always_inline void netdev_of(struct netdev_ref *out, const struct net_device *dev)
{
	const char *kind = BPF_CORE_READ(dev, rtnl_link_ops, kind);
	const char *driver = BPF_CORE_READ(dev, dev.parent, driver, name);

	out->ifindex = BPF_CORE_READ(dev, ifindex);
	out->netns = BPF_CORE_READ(dev, nd_net.net, ns.inum);
	BPF_CORE_READ_STR_INTO(&out->name, dev, name);
	if (kind)
		bpf_probe_read_kernel_str(out->kind, sizeof(out->kind), kind);
	if (driver)
		bpf_probe_read_kernel_str(out->driver, sizeof(out->driver), driver);
}
